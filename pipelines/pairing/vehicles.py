"""Which vehicles are put back, and what chance decides about them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import ActorTrack
from splatmend.datasets.shot import Shot
from splatmend.pipelines.boxes import actor_outline_px, filled
from splatmend.pipelines.pairing.config import PairsConfig, Strategy
from splatmend.pipelines.pairing.workshop import PairPlan, recorded_target
from splatmend.recon.trajectory import Trajectory

LEAST_SHARE, MOST_SHARE = 0.003, 0.4
"""A vehicle is put back if its box fills so much of a picture on average, and of none more than that."""
_MOST_VEHICLES = 4
"""Of those the so many largest."""


def vehicles_seen(actors: Iterable[ActorTrack], shots: Sequence[Shot], *, whole: float = 0.0) -> list[str]:
    """Vehicles of a fit size in the pictures of shots, the largest first. `whole`: share of the pictures with some of it that must show all
    of it, since the rest was seen nowhere."""
    found: list[tuple[float, str]] = []
    for actor in actors:
        if actor.actor_class != "vehicle":
            continue
        boxes = [filled(actor_outline_px(shot, actor), (shot.camera.height, shot.camera.width)) for shot in shots]
        shares = [float(box.mean()) for box in boxes]
        cut = [bool(box[[0, -1]].any() or box[:, [0, -1]].any()) for box, share in zip(boxes, shares) if share > 0]
        if np.mean(shares) >= LEAST_SHARE and max(shares) <= MOST_SHARE and 1 - np.mean(cut) >= whole:
            found.append((sum(shares), actor.actor_id))
    return [name for _, name in sorted(found, reverse=True)[:_MOST_VEHICLES]]


def drawn_vehicles(seen: Sequence[str], rng: np.random.Generator) -> list[str]:
    """One of the vehicles, and each of the others with a probability of a half: several cost no more than one."""
    first = int(rng.integers(len(seen)))
    return [name for number, name in enumerate(seen) if number == first or rng.random() < 0.5]


def generator(*of: str) -> np.random.Generator:
    """Random numbers that follow from names."""
    return np.random.default_rng(list(hashlib.sha256(" ".join(of).encode()).digest()[:8]))


def no_vehicle(source: str, camera: str, strategy: Strategy = "reinsert") -> UserError:
    """The error of a camera that sees none."""
    return UserError(
        f"{source}: {camera} sees no vehicle well whose box fills between {100 * LEAST_SHARE:g} and {100 * MOST_SHARE:g} % of its "
        f"pictures; leave {strategy} out, or take another source."
    )


def plans_of(config: PairsConfig, camera: str, degrade: Callable[..., Trajectory]) -> list[PairPlan]:
    """A pair for each way of putting back and each ground; `degrade` is given camera, way and ground."""
    return [
        PairPlan(
            name=f"{camera}-reinsert-{way}" + ("-fit" if ground == "fit" else ""),
            kind="reinsert",
            target=recorded_target(camera),
            degrade=partial(degrade, camera=camera, way=way, ground=ground),
        )
        for ground in config.grounds
        for way in config.reinsertions
    ]
