"""Where the Parquet files of a Waymo v2 drive lie.

Layouts: `FOLDER/COMPONENT/SEGMENT.parquet` (as published), or flat `COMPONENT.parquet`, `COMPONENT_SEGMENT.parquet` and
`SEGMENT_COMPONENT.parquet`. A path is the folder, `FOLDER#SEGMENT` where it holds several drives, or one `COMPONENT/SEGMENT.parquet`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from splatmend.datasets.errors import UserError
from splatmend.datasets.waymo_layout import COMPONENTS


@dataclass(frozen=True, kw_only=True)
class SegmentFiles:
    """One drive's files by component."""

    folder: Path
    segment: str
    files: dict[str, Path]

    def find(self, component: str) -> Path | None:
        return self.files.get(component)

    def need(self, component: str) -> Path:
        """The component's file, or `UserError` naming it and the place it should be in."""
        if component not in self.files:
            expected = self.folder / component / f"{self.segment}.parquet"
            raise UserError(f"{self.folder}: the component {component} of drive {self.segment} is missing; put it at {expected}.")
        return self.files[component]

    def need_all(self, *components: str) -> None:
        """`UserError` that names every one of these components that is missing."""
        missing = [component for component in components if component not in self.files]
        if len(missing) > 1:
            raise UserError(
                f"{self.folder}: the components {', '.join(missing)} of drive {self.segment} are missing; put each at "
                f"{self.folder / 'COMPONENT' / self.segment}.parquet."
            )
        for component in missing:
            self.need(component)


def is_segment_folder(path: Path) -> bool:
    """Whether any Waymo v2 component is found at the path."""
    return bool(_by_segment(_split(path)[0]))


def find_segment(path: Path) -> SegmentFiles:
    """The files of the drive a path names; `UserError` if there is none, or if several are there and none is chosen."""
    folder, chosen = _split(path)
    segments = _by_segment(folder)
    if not segments:
        raise UserError(f"{path}: no Waymo v2 component here; give the folder that holds camera_image/, vehicle_pose/ and so on.")
    names = sorted(segments)
    if chosen is None:
        if len(names) > 1:
            raise UserError(f"{path}: holds {len(names)} drives; choose one, such as {folder}#{names[0]}.")
        chosen = names[0]
    if chosen not in segments:
        raise UserError(f"{folder}: holds no drive {chosen}; choose one of those there, such as {folder}#{names[0]}.")
    return SegmentFiles(folder=folder, segment=chosen, files=segments[chosen])


def _split(path: Path) -> tuple[Path, str | None]:
    """The folder and the chosen drive of a path."""
    if path.is_file() and path.suffix == ".parquet":
        return (path.parent.parent, path.stem) if path.parent.name in COMPONENTS else (path.parent, _flat_name(path)[1])
    if not path.exists() and "#" in path.name:
        folder, _, segment = path.name.rpartition("#")
        return path.parent / folder, segment
    return path, None


def _flat_name(file: Path) -> tuple[str | None, str]:
    """Component and drive that the name of a file in a flat folder says."""
    stem = file.stem
    for component in sorted(COMPONENTS, key=len, reverse=True):
        if stem == component:
            return component, file.parent.absolute().name
        if stem.startswith(f"{component}_"):
            return component, stem.removeprefix(f"{component}_")
        if stem.endswith(f"_{component}"):
            return component, stem.removesuffix(f"_{component}")
    return None, stem


def _by_segment(folder: Path) -> dict[str, dict[str, Path]]:
    found: dict[str, dict[str, Path]] = {}
    if not folder.is_dir():
        return found
    for component in COMPONENTS:
        for file in sorted((folder / component).glob("*.parquet")):
            found.setdefault(file.stem, {})[component] = file
    for file in sorted(folder.glob("*.parquet")):
        flat, segment = _flat_name(file)
        if flat is not None:
            found.setdefault(segment, {}).setdefault(flat, file)
    return found
