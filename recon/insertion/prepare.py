"""What an edited scene needs before it is lit: materials of recorded actors that were moved or copied, and no hole where one was."""

from __future__ import annotations

from dataclasses import replace

from splatmend.datasets.errors import UserError
from splatmend.recon.assets.harvest import harvest_actor
from splatmend.recon.edits.apply import EditedScene
from splatmend.recon.edits.heal import heal
from splatmend.recon.edits.types import Edits
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.nodes import DeformableActor
from splatmend.recon.raster.api import Backend


def healed(edited: EditedScene) -> EditedScene:
    """The edited scene with its background mended where recorded actors were taken out or moved away."""
    gone = {*edited.removed, *edited.moved}
    if not gone:
        return edited
    mended = heal(edited.recorded, gone)
    return replace(edited, scene=replace(edited.scene, background=mended.background))


def with_materials(edited: EditedScene, edits: Edits, light: SceneLight, *, backend: Backend | None = None) -> EditedScene:
    """The edited scene with assets, harvested in the scene's light, for recorded actors that were moved or copied; what cannot be
    harvested, and what has no material, keeps its colours, and a note says so."""
    actors, inserted, notes = dict(edited.scene.actors), dict(edited.inserted), list(edited.notes)
    for name, one in edited.inserted.items():
        if one.asset is not None:
            if one.asset.material is None:
                notes.append(f"{name}: the asset {one.asset.asset_id} has no material, so it keeps its own colours in this light.")
            continue
        if isinstance(actors[name], DeformableActor):
            notes.append(f"{name}: it bends, so it is not lit anew and keeps its colours.")
            continue
        edit = edits.edits[one.edit]
        try:
            asset = harvest_actor(edited.recorded, edit.actor, light, backend=backend)  # type: ignore[union-attr]
        except UserError as fault:
            notes.append(f"{name}: it keeps its colours, for it cannot be harvested ({str(fault).rstrip('.')}).")
            continue
        inserted[name] = replace(one, asset=asset)
        actors[name] = replace(actors[name], gaussians=asset.gaussians)
    return replace(edited, scene=replace(edited.scene, actors=actors), inserted=inserted, notes=tuple(notes))
