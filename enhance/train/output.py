"""The folder that several processes train into: one of them builds the artefact, the others see the same folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

from splatmend.datasets.artifact import Manifest, building, partial_folder


@contextmanager
def building_together(accelerator: Accelerator, out: Path, manifest: Manifest, *, overwrite: bool, resume: bool) -> Iterator[Path]:
    """`artifact.building` on the main process; the others wait until the folder is there and until it has its final name."""
    out = Path(out)
    if accelerator.is_main_process:
        with building(out, manifest, overwrite=overwrite, resume=resume) as folder:
            accelerator.wait_for_everyone()
            yield folder
    else:
        accelerator.wait_for_everyone()
        yield partial_folder(out)
    accelerator.wait_for_everyone()
