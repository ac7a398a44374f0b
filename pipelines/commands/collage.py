"""`splatmend collage`: cut-out photos standing in space, as a log folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from splatmend.datasets.collage.config import CollageConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make a scene of cut-out photos standing in space and a camera's way through it, laid out as nerfstudio does: for training pairs with
    the texture of real footage, where nobody has posed footage with a licence that allows training."""

    photos: Positional[tuple[Path, ...]]
    """Images, folders of images and videos to cut from."""
    out: Path
    """Folder to write."""
    config: Annotated[CollageConfig, arg(name="")] = field(default_factory=CollageConfig)
    """What the collage is like."""
    overwrite: bool = False
    """Replace an existing folder."""


def run(options: Options) -> int:
    import shutil

    from splatmend.datasets.artifact import naming_full_disk, partial_folder
    from splatmend.datasets.collage import write_collage
    from splatmend.pipelines.commands.output import refuse_existing

    refuse_existing(options.out, options.overwrite)
    partial = partial_folder(options.out)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with naming_full_disk(options.out):
            write_collage(options.config, options.photos, partial)
            if options.out.exists():
                shutil.rmtree(options.out)
            partial.rename(options.out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    print(f"collage: {options.out} ({options.config.frames} frames)")
    return 0
