"""What a file of edits says, in memory.

Times are seconds after the log's first picture. Lengths are metres; in scenes without a scale they count in the unit of
`TrajectoryConfig`. Places in the world (`at`, `world_from_actor`) are the scene's own coordinates, whatever its scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import yaml
from scipy.interpolate import PchipInterpolator

from splatmend.datasets.geometry import FARTHEST_M, rotation_fault
from splatmend.recon.edits.forms import Choice, Flag, Form, Listing, Number, Struct, Tagged, Text, entry, refuse

_LENGTH = Number(-FARTHEST_M / 10, FARTHEST_M / 10)
_PLACE = Number(-FARTHEST_M, FARTHEST_M)
_SECONDS = Number(-1e6, 1e6)
_ANGLE = Number(-3600, 3600)
FASTEST = 200.0
"""Lengths per second that no body exceeds."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A number that may change over time: values at times that rise; the ends are held."""

    times_s: tuple[float, ...] = (0.0,)
    values: tuple[float, ...] = (0.0,)

    @classmethod
    def constant(cls, value: float) -> Profile:
        """The same at all times."""
        return cls(values=(value,))

    def at(self, t_s: np.ndarray) -> np.ndarray:
        """Values at times, linear between those given."""
        return np.interp(t_s, self.times_s, self.values)

    def smoothly_at(self, t_s: np.ndarray) -> np.ndarray:
        """Values at times, without kinks and without overshooting."""
        if len(self.times_s) == 1:
            return np.full(np.shape(t_s), self.values[0])
        flat = [self.times_s[0] - 1.0, *self.times_s, self.times_s[-1] + 1.0]
        values = [self.values[0], *self.values, self.values[-1]]
        return PchipInterpolator(flat, values)(np.clip(t_s, flat[0], flat[-1]))


@dataclass(frozen=True)
class ProfileForm:
    """A number, or a list of [seconds, number] with times that rise."""

    number: Number

    def read(self, file: Path, node: yaml.Node) -> Profile:
        if not isinstance(node, yaml.SequenceNode):
            return Profile.constant(self.number.read(file, node))
        times, values = [], []
        for pair in Listing(_Anything()).read(file, node):
            time_s, value = Listing(_Anything(), 2, 2).read(file, pair)
            times.append(_SECONDS.read(file, time_s))
            values.append(self.number.read(file, value))
            if len(times) > 1 and times[-1] <= times[-2]:
                refuse(file, pair, f"{times[-1]:g} s does not come after {times[-2]:g} s; let the times of a list rise")
        return Profile(times_s=tuple(times), values=tuple(values))

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        number = self.number.schema(shared)
        pair = {"type": "array", "prefixItems": [_SECONDS.schema(shared), number], "minItems": 2, "maxItems": 2}
        return {"anyOf": [number, {"type": "array", "items": pair, "minItems": 1}]}


@dataclass(frozen=True)
class _Anything:
    """A node as it is."""

    def read(self, file: Path, node: yaml.Node) -> yaml.Node:
        return node

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        return {}


_ZERO = Profile()
_BELOW = "World coordinates below the middle of the body: x y, or x y z."
_AT = Listing(_PLACE, 2, 3)
_SPEED = ProfileForm(Number(0.0, FASTEST))


@dataclass(frozen=True, kw_only=True)
class EgoCourse:
    """Beside the recorded vehicle's path, which goes straight on beyond its ends."""

    left: Profile = field(metadata=entry(ProfileForm(_LENGTH), "Distance to the left of the path, looking along it."), default=_ZERO)
    ahead: float = field(
        metadata=entry(_LENGTH, "Distance along the path from where the recorded vehicle is at the start (behind: negative)."), default=0.0
    )
    speed: Profile | None = field(metadata=entry(_SPEED, "Own speed along the path; without it the recorded vehicle's."), default=None)
    direction: Literal["with", "against"] = field(metadata=entry(Choice(("with", "against")), "Direction of travel."), default="with")

    def __post_init__(self) -> None:
        if self.direction == "against" and self.speed is None:
            raise ValueError("what drives against the recorded vehicle's direction cannot keep its speed; add speed")


@dataclass(frozen=True, kw_only=True)
class TimedPose:
    """A place at a time."""

    ONE_OF: ClassVar = ("at", "world_from_actor")
    time_s: float = field(metadata=entry(_SECONDS, "When it is there."))
    at: tuple[float, ...] | None = field(metadata=entry(_AT, _BELOW), default=None)
    yaw_deg: float | None = field(
        metadata=entry(_ANGLE, "Heading, counter-clockwise from the world's x axis; without it that of the motion."), default=None
    )
    world_from_actor: tuple[tuple[float, ...], ...] | None = field(
        metadata=entry(Listing(Listing(_PLACE, 4, 4), 4, 4), "Pose (4x4) of the middle of the body's box, x forward, y left, z up."),
        default=None,
    )

    def __post_init__(self) -> None:
        if self.world_from_actor is not None and (fault := rotation_fault(np.asarray(self.world_from_actor))):
            raise ValueError(f"the pose has {fault}; write a rigid one, row by row")
        if self.world_from_actor is not None and self.yaw_deg is not None:
            raise ValueError("yaw_deg and world_from_actor exclude each other; leave one of them out")


@dataclass(frozen=True, kw_only=True)
class FollowCourse:
    """Along another actor's track."""

    actor: str = field(metadata=entry(Text(), "Whose track: an actor of the scene, or the `as` of another edit."))
    delay_s: float = field(metadata=entry(_SECONDS, "How much later it is where the actor was."), default=0.0)
    ahead: float = field(metadata=entry(_LENGTH, "How much farther along the track (behind: negative)."), default=0.0)
    left: Profile = field(metadata=entry(ProfileForm(_LENGTH), "Distance to the left of the track."), default=_ZERO)


@dataclass(frozen=True, kw_only=True)
class KeyPose:
    """A place to drive through."""

    at: tuple[float, ...] = field(metadata=entry(_AT, _BELOW))
    yaw_deg: float | None = field(metadata=entry(_ANGLE, "Heading there, counter-clockwise from the world's x axis."), default=None)


@dataclass(frozen=True, kw_only=True)
class KeyCourse:
    """A smooth curve through poses, driven at a speed; before and after it the body stands at its ends."""

    poses: tuple[KeyPose, ...] = field(metadata=entry(Listing(Struct(KeyPose), 2), "The poses in order."))
    speed: Profile = field(metadata=entry(_SPEED, "Speed along the curve."))
    start_s: float = field(metadata=entry(_SECONDS, "When it leaves the first pose."), default=0.0)

    def __post_init__(self) -> None:
        for one, other in zip(self.poses, self.poses[1:]):
            if np.hypot(other.at[0] - one.at[0], other.at[1] - one.at[1]) == 0:
                raise ValueError(f"two poses that follow each other are the same place {list(one.at)}; leave one of them out")


@dataclass(frozen=True, kw_only=True)
class ParkedCourse:
    """A body that stands still."""

    ONE_OF: ClassVar = ("at", "ahead")
    at: tuple[float, ...] | None = field(metadata=entry(_AT, _BELOW), default=None)
    ahead: float | None = field(metadata=entry(_LENGTH, "Distance along the recorded vehicle's path from its start."), default=None)
    left: float = field(metadata=entry(_LENGTH, "Distance to the left of that path (goes with `ahead`)."), default=0.0)
    yaw_deg: float = field(
        metadata=entry(_ANGLE, "Heading, counter-clockwise: with `at` from the world's x axis, with `ahead` from the path's direction."),
        default=0.0,
    )

    def __post_init__(self) -> None:
        if self.at is not None and self.left:
            raise ValueError("left counts from the recorded path, at is a place in the world; leave one of them out")


Course = EgoCourse | FollowCourse | KeyCourse | ParkedCourse | tuple[TimedPose, ...]


@dataclass(frozen=True, kw_only=True)
class BodyPath:
    """Where a body goes: exactly one of `ego`, `world`, `follow`, `keys`, `parked`, and when it is there."""

    ONE_OF: ClassVar = ("ego", "world", "follow", "keys", "parked")
    ego: EgoCourse | None = field(metadata=entry(Struct(EgoCourse), "Relative to the recorded vehicle's path."), default=None)
    world: tuple[TimedPose, ...] | None = field(metadata=entry(Listing(Struct(TimedPose)), "Places in the world and times."), default=None)
    follow: FollowCourse | None = field(metadata=entry(Struct(FollowCourse), "Along another actor's track."), default=None)
    keys: KeyCourse | None = field(metadata=entry(Struct(KeyCourse), "Through poses, at a speed."), default=None)
    parked: ParkedCourse | None = field(metadata=entry(Struct(ParkedCourse), "Standing at a place."), default=None)
    from_s: float | None = field(metadata=entry(_SECONDS, "When it appears; by default as early as the path says."), default=None)
    until_s: float | None = field(metadata=entry(_SECONDS, "When it disappears; by default as late as the path says."), default=None)
    on_ground: bool = field(
        metadata=entry(Flag(), "Whether height, pitch and roll are those of the scene's ground; false keeps those that the path gives."),
        default=True,
    )
    line: int = 0

    @property
    def course(self) -> Course:
        """The one that is given."""
        return next(one for one in (self.ego, self.world, self.follow, self.keys, self.parked) if one is not None)

    def __post_init__(self) -> None:
        if self.from_s is not None and self.until_s is not None and self.from_s >= self.until_s:
            raise ValueError(f"it disappears at {self.until_s:g} s, before it appears at {self.from_s:g} s; correct from_s or until_s")
        for one, other in zip(self.world or (), (self.world or ())[1:]):
            if other.time_s <= one.time_s:
                raise ValueError(f"{other.time_s:g} s does not come after {one.time_s:g} s; let the times of world rise")
        for what, given in (
            ("world_from_actor", [one.world_from_actor is not None for one in self.world or ()]),
            ("yaw_deg", [one.yaw_deg is not None for one in self.world or ()]),
        ):
            if any(given) and not all(given):
                raise ValueError(f"only some of the places of world have {what}; give it to all or to none")
        if not self.on_ground and not self._has_heights:
            raise ValueError("without the ground the path must give heights itself; write every `at` with x, y and z, or on_ground: true")

    @property
    def _has_heights(self) -> bool:
        if self.follow is not None:
            return True
        if self.world is not None:
            return all(one.at is None or len(one.at) == 3 for one in self.world)
        if self.keys is not None:
            return all(len(one.at) == 3 for one in self.keys.poses)
        return self.parked is not None and self.parked.at is not None and len(self.parked.at) == 3


_SCALE = Number(0.02, 50)


@dataclass(frozen=True, kw_only=True)
class Remove:
    """Take an actor out."""

    actor: str = field(metadata=entry(Text(), "The actor's id.", name="remove"))
    line: int = 0


@dataclass(frozen=True, kw_only=True)
class Move:
    """Give an actor another path."""

    actor: str = field(metadata=entry(Text(), "The actor's id.", name="move"))
    path: BodyPath = field(metadata=entry(Struct(BodyPath), "Where it goes."))
    line: int = 0


@dataclass(frozen=True, kw_only=True)
class Replace:
    """Put an asset in an actor's place, on its track."""

    actor: str = field(metadata=entry(Text(), "The actor's id.", name="replace"))
    asset: str = field(metadata=entry(Text(), "Name of an asset in the library, or its folder.", name="asset"))
    new_id: str | None = field(
        metadata=entry(Text(), "Id of what stands there; by default the actor's with -replaced.", name="as"), default=None
    )
    scale: float = field(metadata=entry(_SCALE, "Factor of the asset's size."), default=1.0)
    line: int = 0


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """Put a copy of an actor somewhere else; the actor stays where it is."""

    actor: str = field(metadata=entry(Text(), "The actor's id.", name="duplicate"))
    new_id: str = field(metadata=entry(Text(), "Id of the copy.", name="as"))
    path: BodyPath = field(metadata=entry(Struct(BodyPath), "Where it goes."))
    line: int = 0


@dataclass(frozen=True, kw_only=True)
class Insert:
    """Put an asset into the scene."""

    asset: str = field(metadata=entry(Text(), "Name of an asset in the library, or its folder.", name="insert"))
    new_id: str = field(metadata=entry(Text(), "Id of what is put in.", name="as"))
    path: BodyPath = field(metadata=entry(Struct(BodyPath), "Where it goes."))
    scale: float = field(metadata=entry(_SCALE, "Factor of the asset's size."), default=1.0)
    line: int = 0


Edit = Remove | Move | Replace | Duplicate | Insert
EDIT_FORM: Form = Tagged({"remove": Remove, "move": Move, "replace": Replace, "duplicate": Duplicate, "insert": Insert})


@dataclass(frozen=True, kw_only=True)
class EditsBody:
    """Edits of a scene: actors to take out, move, swap, copy or put in."""

    edits: tuple[Edit, ...] = field(metadata=entry(Listing(EDIT_FORM), "The edits; their order does not matter."))


@dataclass(frozen=True, kw_only=True)
class Edits:
    """The edits of a file; messages name it and the line of each edit."""

    file: Path
    edits: tuple[Edit, ...]


def shown_id(edit: Edit) -> str | None:
    """The id of what stands in the edited scene by an edit; None where nothing does."""
    if isinstance(edit, Remove):
        return None
    if isinstance(edit, Move):
        return edit.actor
    if isinstance(edit, Replace):
        return edit.new_id if edit.new_id is not None else f"{edit.actor}-replaced"
    return edit.new_id
