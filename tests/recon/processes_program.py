"""What each of the processes does that `test_fit_processes.py` launches: `python processes_program.py before|after FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from tiny_log import tiny_log, true_scene

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import SceneLog
from splatmend.recon.fit import CoarseConfig, CorrectionConfig, DensifyConfig, ExposureConfig, FitConfig, InitConfig, fit
from splatmend.recon.fit.data import recorded_shots
from splatmend.recon.fit.processes import ALONE, Processes, joined_processes
from splatmend.recon.fit.trainer import StepReport, Trainer

STEPS = 20
CPU = torch.device("cpu")
CONFIG = FitConfig(
    iterations=120,
    sh_degree=1,
    sh_every=20,
    sky_rows=16,
    device="cpu",
    camera_poses=CorrectionConfig(start_share=0.0),
    actor_poses=CorrectionConfig(start_share=0.0),
    init=InitConfig(point_count=800, ray_count=100, actor_count=200),
    densify=DensifyConfig(cap=1200, actor_cap=250, start=10, every=15, classic_gradient=1e-5),
    log_every=10,
    checkpoint_every=30,
    snapshots_at=(25,),
)
CONFIGS = {name: replace(CONFIG, densify=replace(CONFIG.densify, strategy=name)) for name in ("classic", "mcmc")}
CONFIGS["exposure grids"] = replace(CONFIG, exposure=ExposureConfig(model="bilateral", levels=2, rows=3, columns=4))
# Full size from the seventh step of two pictures on.
CONFIGS["coarse"] = replace(CONFIG, coarse=CoarseConfig(until=0.1, halvings=1))


def long_log() -> SceneLog:
    """A drive of 55 m, in whose fits a sixth of the Gaussians take shorter steps."""
    return tiny_log(scene=true_scene(stretch=20.0))


def trainer_of(config: FitConfig, processes: Processes = ALONE) -> Trainer:
    log = long_log()
    return Trainer(log, recorded_shots(log, config.data), config, CPU, processes=processes)


def tensors_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """All that the next step depends on, by name."""
    state, found = trainer.state_dict(), {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[name] = value
        for key, held in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
            walk(f"{name}/{key}", held)

    for part in ("nodes", "shared", "shared_optimizer", "exposures", "poses", "generator"):
        walk(part, state[part])
    return found


def before(folder: Path) -> None:
    """Some steps with each strategy, and what each process has after them; a fit; one of the long log; and the same whose second process is
    interrupted, twice, as by a terminal and its launcher."""
    rank = int(os.environ["RANK"])
    with joined_processes(CPU) as processes:
        for name, config in CONFIGS.items():
            trainer = trainer_of(config, processes)
            counts = []
            for _ in range(STEPS):
                trainer.step()
                counts.append(trainer.gaussian_count)
                if len(counts) == 1:
                    first = {key: value.clone() for key, value in tensors_of(trainer).items()}
            torch.save({"first": first, "last": tensors_of(trainer), "counts": counts}, folder / f"{name} {rank}.pt")
    rows: list[int] = []
    fit(tiny_log(), folder / "whole", CONFIGS["classic"], on_progress=lambda row: rows.append(row["iteration"]))
    (folder / f"rows {rank}").write_text(str(rows))
    fit(long_log(), folder / "long", CONFIGS["classic"], on_progress=lambda row: None)
    with _in_a_step(24 if rank == 1 else 0, lambda: [signal.raise_signal(signal.SIGINT) for _ in range(2)]):
        try:
            fit(long_log(), folder / "cut", CONFIGS["classic"], on_progress=lambda row: None)
        except KeyboardInterrupt:
            (folder / f"interrupted {rank}").touch()


def after(folder: Path) -> None:
    """The interrupted fit gone on with; then one whose second process dies without a word. The other says how that ends for it."""
    rank = int(os.environ["RANK"])
    fit(long_log(), folder / "cut", CONFIGS["classic"], resume=True, on_progress=lambda row: None)
    with _in_a_step(5 if rank == 1 else 0, lambda: os._exit(7)):
        try:
            fit(tiny_log(), folder / "dead", CONFIGS["classic"], on_progress=lambda row: None)
        except UserError as fault:
            (folder / "said").write_text(str(fault))
            raise


@contextmanager
def _in_a_step(number: int, what: Callable[[], object]) -> Iterator[None]:
    """Something happens as this process begins a step of that number."""
    plain, done = Trainer.step, []

    def step(self: Trainer) -> StepReport:
        done.append(1)
        if len(done) == number:
            what()
        return plain(self)

    Trainer.step = step  # type: ignore[method-assign]
    try:
        yield
    finally:
        Trainer.step = plain  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    {"before": before, "after": after}[sys.argv[1]](Path(sys.argv[2]))
