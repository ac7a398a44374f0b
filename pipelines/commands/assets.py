"""`splatmend assets`: a library of bodies to insert, harvested from scenes or imported from other programs' files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional, arg

from splatmend.datasets.errors import UserError
from splatmend.recon.assets.importing import ImportConfig

if TYPE_CHECKING:
    from splatmend.recon.scene import Scene

ACTIONS: Mapping[str, str] = {
    "harvest": "actors of a scene as assets",
    "import": "a textured mesh (.glb, .gltf, .obj) or a .ply file of Gaussians as an asset",
    "list": "what a library holds",
    "export": "an asset's Gaussians as a .ply file",
}


@dataclass(frozen=True, kw_only=True)
class HarvestOptions:
    """Put actors of a scene into a library: cleaned, completed by symmetry where one side was not seen, with a quality and a thumbnail."""

    scene: Positional[Path]
    """Scene folder."""
    out: Path
    """Folder of the library; made where it is missing."""
    actors: tuple[str, ...] = ()
    """Ids of the actors to take; none: all vehicles."""
    light: Path | None = None
    """Light of the scene, a folder that `splatmend light` wrote; without it assets have no material and cannot be lit anew."""
    min_quality: float = 0.0
    """Leave out what has a lower quality, from 0 to 1."""
    overwrite: bool = False
    """Replace assets of the same names."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_quality <= 1:
            raise UserError(f"min-quality is {self.min_quality}, but must be from 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Put a file of another program into a library, turned and scaled so that it stands in its box with x forward and z up."""

    file: Positional[Path]
    """A mesh (.glb, .gltf, .obj) or Gaussians (.ply)."""
    out: Path
    """Folder of the library; made where it is missing."""
    name: str | None = None
    """Name of the asset; by default that of the file."""
    config: Annotated[ImportConfig, arg(name="")] = field(default_factory=ImportConfig)
    """Axes, length and number of Gaussians."""
    overwrite: bool = False
    """Replace an asset of the same name."""


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Show the assets of a library and draw its contact sheet."""

    library: Positional[Path]
    """Folder of the library."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write an asset's Gaussians to a .ply file in the usual layout, in the asset's frame (x forward, y left, z up, metres)."""

    asset: Positional[Path]
    """LIBRARY/NAME, an asset's folder."""
    out: Path
    """File to write, .ply."""
    overwrite: bool = False
    """Replace an existing file."""


_OPTIONS: Mapping[str, Any] = {"harvest": HarvestOptions, "import": ImportOptions, "list": ListOptions, "export": ExportOptions}


def parse(arguments: Sequence[str]) -> Any:
    """Options after the action; None where only the list of actions was asked for."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: splatmend assets ACTION [options]      (splatmend assets ACTION --help says more)\n\nactions:")
        width = max(map(len, ACTIONS))
        print("\n".join(f"  {name:<{width}}  {what}" for name, what in ACTIONS.items()))
        if not arguments:
            raise SystemExit(2)
        return None
    name = arguments[0]
    if name not in ACTIONS:
        raise UserError(f"{name}: there is no such action on assets; choose among {', '.join(ACTIONS)}.")
    return tyro.cli(_OPTIONS[name], prog=f"splatmend assets {name}", args=list(arguments[1:]))


def run(options: Any) -> int:
    if options is None:
        return 0
    doing: Mapping[type, Callable[[Any], None]] = {
        HarvestOptions: _harvest,
        ImportOptions: _import,
        ListOptions: _list,
        ExportOptions: _export,
    }
    doing[type(options)](options)
    return 0


def _harvest(options: HarvestOptions) -> None:
    from splatmend.recon.assets.harvest import asset_name, harvest_actor
    from splatmend.recon.assets.library import AssetLibrary
    from splatmend.recon.scene_files import load_scene

    scene, library = load_scene(options.scene), AssetLibrary(options.out)
    names = options.actors or tuple(name for name, actor in scene.actors.items() if actor.track.actor_class == "vehicle")
    if not names:
        raise UserError(
            f"{options.scene}: the scene has no vehicles to harvest; name other actors with --actors, or fit a log that has some."
        )
    _refuse_unknown(options.scene, scene, names)
    library.refuse_existing(tuple(asset_name(scene, name) for name in names), overwrite=options.overwrite)
    light = None
    if options.light is not None:
        from splatmend.recon.light.light_files import load_light

        light = load_light(options.light).to(scene.device)
    config = {"scene": options.scene, "light": options.light}
    kept = 0
    for name in names:
        try:
            asset = harvest_actor(scene, name, light)
        except UserError as fault:
            if options.actors:
                raise
            print(f"left out: {fault}")
            continue
        if asset.quality < options.min_quality:
            print(f"left out: actor {name} has a quality of {asset.quality:.2f}")
            continue
        path = library.add(asset, config={**config, "actor": name}, overwrite=options.overwrite)
        kept += 1
        print(f"{path}: {len(asset.gaussians):,} Gaussians, quality {asset.quality:.2f}")
    if not kept:
        raise UserError(f"{options.scene}: none of its actors was good enough for an asset; lower --min-quality, or fit the scene longer.")
    library.write_sheet()


def _refuse_unknown(path: Path, scene: Scene, names: Sequence[str]) -> None:
    if unknown := [name for name in names if name not in scene.actors]:
        raise UserError(f"{path}: there is no actor {unknown[0]}; its actors are {', '.join(scene.actors) or 'none'}.")


def _import(options: ImportOptions) -> None:
    from splatmend.recon.assets.importing import import_gaussians, import_mesh
    from splatmend.recon.assets.library import AssetLibrary

    take = import_gaussians if options.file.suffix.lower() == ".ply" else import_mesh
    library = AssetLibrary(options.out)
    asset = take(options.file, options.config, asset_id=options.name)
    path = library.add(asset, config={"file": options.file, **vars(options.config)}, overwrite=options.overwrite)
    library.write_sheet()
    length, width, height = asset.size_m
    print(f"{path}: {len(asset.gaussians):,} Gaussians, {length:.2f} x {width:.2f} x {height:.2f} m")
    for note in asset.facts["notes"]:
        print(f"note: {note}")


def _list(options: ListOptions) -> None:
    from rich.console import Console
    from rich.table import Table

    from splatmend.recon.assets.library import AssetLibrary

    library = AssetLibrary(options.library)
    if not library.ids():
        raise UserError(f"{options.library}: it holds no asset; give a folder that `splatmend assets harvest` or `import` wrote to.")
    table = Table(title=str(options.library))
    for column in ("name", "class", "size (m)", "Gaussians", "material", "quality", "from"):
        table.add_column(column, no_wrap=column == "name")
    for entry in library.entries():
        facts = entry.facts
        table.add_row(
            entry.asset_id,
            str(facts["actor_class"]),
            " x ".join(f"{side:.2f}" for side in facts["size_m"]),
            f"{facts['gaussians']:,}",
            "yes" if facts["material"] else "no",
            f"{facts['quality']:.2f}",
            str(facts.get("file") or f"{facts.get('log_id')}, {facts.get('actor_id')}"),
        )
    Console().print(table)
    print(f"contact sheet: {library.write_sheet()}")


def _export(options: ExportOptions) -> None:
    from splatmend.datasets.artifact import naming_full_disk
    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.recon.assets.library import AssetLibrary
    from splatmend.recon.ply import export_ply

    if options.out.suffix.lower() != ".ply":
        raise UserError(f"{options.out}: the file's name must end in .ply; rename it.")
    refuse_existing(options.out, options.overwrite)
    asset = AssetLibrary(options.asset.parent).load(options.asset.name)
    beside = options.out.with_name(options.out.name + ".new")
    try:
        with naming_full_disk(options.out):
            export_ply(asset.gaussians, beside)
            beside.replace(options.out)
    finally:
        beside.unlink(missing_ok=True)
    print(f"{options.out}: {len(asset.gaussians):,} Gaussians")
