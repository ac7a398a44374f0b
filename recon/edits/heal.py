"""Mending the background where actors are taken out of a scene."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from splatmend.datasets.errors import UserError
from splatmend.recon.edits.heal_boxes import RemovedActor
from splatmend.recon.edits.heal_frame import Grid, level_axes
from splatmend.recon.edits.heal_ground import GroundField, ground_field
from splatmend.recon.edits.heal_road import NewGround, far_ground, near_ground
from splatmend.recon.edits.heal_upright import new_uprights
from splatmend.recon.edits.heal_views import Views, chosen_shots
from splatmend.recon.gaussians import Gaussians, concatenate
from splatmend.recon.scene import Scene
from splatmend.recon.transfer import upload

_STANDING_M = 0.2
"""Gaussians higher above the ground than this stand on it."""
_DEEP_M = 0.3
_LAYERS = 6
"""What lay behind what was taken out shows only then: so often it is looked again, at most."""
_BEFORE_M, _AFTER_M = 14.0, 45.0


@dataclass(frozen=True, kw_only=True)
class HealConfig:
    """How holes of removed actors are mended."""

    shots: int = 12
    """Recorded shots that are asked, for each removed actor, what was seen; each one is drawn twice."""
    copy_uprights: bool = True
    """Copy what stands beside the hole along the actor's way to where nothing was ever seen behind it."""

    def __post_init__(self) -> None:
        if self.shots < 1:
            raise ValueError("shots must be at least 1")


@torch.no_grad()
def heal(scene: Scene, removed: Collection[str], config: HealConfig | None = None) -> Scene:
    """A new scene without some actors, whose background is mended where they were. The given one stays as it is.

    * Background Gaussians that stand where a removed actor's box went through are taken out: nothing that stands still can be there.
    * So are those above the ground that only the boxes hid from the recorded shots: no picture says anything of them.
    * Ground that no recorded shot saw but through a removed actor's box, and a slow actor's contact shadow, is
      made anew of flat Gaussians: heights from the ground around, colours copied along its way.
    * Above the ground, cells that were never seen and would stand open are given the Gaussians of cells as far beside the way and as high.
      Beyond what that finds, ground goes on in coarse cells, so that no sky shows below the horizon; above it holes stay see-through,
      for a video model to fill (its opacity mode).

    Other Gaussians keep their values to the bit and their order, and come first. Lengths are taken as metres.

    Raises:
        UserError: for an actor that the scene does not have.
    """
    config = config or HealConfig()
    if unknown := sorted(set(removed) - set(scene.actors)):
        raise UserError(f"actor {unknown[0]}: the scene has no such actor to take out; name one of those it has.")
    left_actors = {name: actor for name, actor in scene.actors.items() if name not in removed}
    if not removed:
        return replace(scene, actors=left_actors)
    mending = _Mending(scene, sorted(set(removed)))
    mending.take_out_ghosts()
    emptied = replace(scene.with_gaussians(mending.background()), actors=left_actors)
    for actor in mending.actors:
        mending.mend(actor, scene, emptied, config)
    return emptied.with_gaussians(mending.background())


class _Mending:
    """The background of a scene while it is being mended."""

    def __init__(self, scene: Scene, removed: list[str]) -> None:
        axes = level_axes(scene.up_world)
        self._level_from_world = np.eye(4)
        self._level_from_world[:3, :3] = axes
        self._level_from_world[:3, 3] = -axes @ scene.origin_world_m
        self._axes = upload(axes, scene.device)
        self._quat = upload(Rotation.from_matrix(axes.T).as_quat(scalar_first=True), scene.device)
        self.actors = [RemovedActor.of(scene, name, self._level_from_world) for name in removed]
        self._old = scene.background.gaussians
        self._level = self._old.means @ self._axes.T
        self._kept = torch.ones(len(self._old), dtype=torch.bool, device=scene.device)
        self._new: list[Gaussians] = []
        self._grounds: dict[int, GroundField] = {}
        self._taken: Tensor | None = None

    def background(self) -> Gaussians:
        """Old Gaussians that are left, then new ones."""
        return concatenate([self._old.select(self._kept), *self._new])

    def take_out_ghosts(self) -> None:
        """Takes out what stands in the volumes that the actors went through."""
        for number, actor in enumerate(self.actors):
            ground = ground_field(self._old, self._level, actor.way, actor.feet_m)
            self._grounds[number] = ground
            inside = actor.swept(self._level).nonzero()[:, 0]
            height = self._level[inside, 2] - ground.at(*actor.way.locate(self._level[inside, :2]))
            self._kept[inside[height > _STANDING_M]] = False

    def mend(self, actor: RemovedActor, scene: Scene, emptied: Scene, config: HealConfig) -> None:
        """Makes ground and what stands behind anew where the actor hid it."""
        ground = self._grounds[self.actors.index(actor)]
        shots = chosen_shots(scene, self.actors, _places(actor, ground), self._level_from_world, config.shots)
        if not shots:
            return
        views = Views(scene, emptied, self.actors, shots, self._level_from_world)
        for _ in range(_LAYERS):
            count = self._take_out_unseen(actor, ground, views)
            views.emptied_again(emptied.with_gaussians(self.background()))
            if not count:
                break
        if config.copy_uprights:
            kept = self._kept.nonzero()[:, 0]
            uprights = new_uprights(actor, ground, views, self._old.select(kept), self._level[kept], self._axes[2])
            self._kept[kept[uprights.out]] = False
            self._new.append(replace(uprights.gaussians, means=uprights.level @ self._axes))
        for layer in range(_LAYERS):
            made = near_ground(actor, ground, views, self._taken, only_open=layer > 0)
            if not bool(made.hole.any()):
                break
            self._take(made, ground)
            views.emptied_again(emptied.with_gaussians(self.background()))
        self._take(far_ground(actor, ground, views, self._taken), ground)

    def _take_out_unseen(self, actor: RemovedActor, ground: GroundField, views: Views) -> int:
        """Takes out what only the actor hid: no shot said anything of it. Returns how many Gaussians that are."""
        along, left = actor.way.locate(self._level[:, :2])
        end = float(actor.way.along_m[-1])
        near = self._kept & (along > -_BEFORE_M) & (along < end + _AFTER_M) & (left.abs() < float(actor.half_m[1]) + 6)
        near &= self._level[:, 2] - ground.at(along, left) > _STANDING_M
        numbers = near.nonzero()[:, 0]
        for part in numbers.split(1 << 18):
            self._kept[part[views.look_at(self._level[part]).exposed]] = False
        return int((~self._kept[numbers]).sum())

    def _take(self, made: NewGround, ground: GroundField) -> None:
        along, left = made.grid.way.locate(self._level[:, :2])
        cell = made.grid.cell_of(along, left)
        height = self._level[:, 2] - ground.at(along, left)
        inside = (cell >= 0) & made.hole.view(-1)[cell.clamp_min(0)]
        self._kept &= ~(inside & (height > -_DEEP_M) & (height < _STANDING_M))
        flat = made.gaussians(self._quat, self._old.sh.shape[1])
        self._new.append(replace(flat, means=flat.means @ self._axes))
        self._taken = made.points if self._taken is None else torch.cat([self._taken, made.points])


def _places(actor: RemovedActor, ground: GroundField) -> Tensor:
    """Places on the ground around the actor's way, and a few above, to choose shots by."""
    grid = Grid.over(actor.way, _BEFORE_M, _AFTER_M, float(actor.half_m[1]) + 6.0, 2.0)
    along, left = grid.middles()
    floor = torch.cat([grid.way.place(along, left), ground.at(along, left)[:, None]], dim=1)
    # What lay under the actor counts most: copies of it are dearest.
    under = floor[actor.under(floor[:, :2], 1.0)]
    return torch.cat([floor, under, under])
