"""`splatmend insert`: a scene with edits of a file along a trajectory, as clips with masks and boxes, lit by the scene and mended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from tyro.conf import Positional, arg

from splatmend.datasets.clip import Encoding
from splatmend.recon.light.finish import FinishConfig
from splatmend.recon.trajectory import TrajectoryConfig

ENHANCED, HARMONISED = "enhanced", "harmonised"

if TYPE_CHECKING:
    from splatmend.recon.light.scene_light import SceneLight
    from splatmend.recon.scene import Scene


@dataclass(frozen=True, kw_only=True)
class Options:
    """Remove, move, swap, copy and insert actors as a file says, and render the scene. The scene's folder stays as it is."""

    scene: Positional[Path]
    """Scene folder."""
    edits: Path
    """YAML file of edits (docs/edits.md)."""
    out: Path
    """Folder of the clips to write."""
    assets: Path | None = None
    """Library that the file's assets come from (`splatmend assets`)."""
    light: str = "auto"
    """"auto" estimates the scene's light, "none" leaves the finished clip out; else a folder of `splatmend light`, or a panorama (.hdr) at
    the level of the scene's light, its middle along the world's x axis."""
    sun: tuple[float, float] | None = None
    """Azimuth (counter-clockwise from the world's x axis) and elevation of the sun in degrees, instead of the light's own: what is inserted
    or harvested is lit by it, the rest of the scene stays as it was recorded."""
    heal: bool = False
    """Mend the background where recorded actors are taken out or moved away: takes ghosts away and makes ground anew that they always hid,
    but may also blur what was seen beside them (docs/results.md)."""
    enhance: str | None = None
    """Folder of an enhancer, or "bundled": writes `enhanced/`, made by it of the finished clip, or of the naive one without light. One that
    takes from recorded frames reads the scene's log (not with --references 0)."""
    harmonise: str | None = None
    """Folder of an enhancer that harmonises (docs/enhancer.md), or "bundled-harmoniser": writes `harmonised/`, made by it of the enhanced
    clip where there is one, else of the finished one, or of the naive one without light."""
    finish: Annotated[FinishConfig, arg(name="finish")] = field(default_factory=FinishConfig)
    """How light and shadows are drawn."""
    trajectory: Annotated[TrajectoryConfig, arg(name="trajectory")] = field(default_factory=TrajectoryConfig)
    """The camera's path."""
    encoding: Encoding = "png"
    """png is lossless; h264 and av1 are small."""
    depth: bool = False
    """Also write depth in metres."""
    references: int | None = None
    """Layers of recorded frames, warped into the view, to write beside each frame, behind what was put in: what an enhancer that uses them
    mends with. None: as many as the one of --enhance takes, and none without it."""
    log: Path | None = None
    """The log that the scene was fitted to, for --references and --enhance; by default where it lay then."""
    device: str = "auto"
    """auto, cpu or cuda."""
    overwrite: bool = False
    """Replace existing clips."""


def run(options: Options) -> int:
    from splatmend.datasets.artifact import plain
    from splatmend.datasets.errors import UserError
    from splatmend.datasets.progress import ConsoleBar
    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.pipelines.device import torch_device
    from splatmend.pipelines.scene_log import check_references, references_for
    from splatmend.recon.edits.apply import apply_edits
    from splatmend.recon.edits.asset_names import asset_loader
    from splatmend.recon.edits.reading import read_edits
    from splatmend.recon.insertion.clips import render_insertion
    from splatmend.recon.insertion.prepare import healed, with_materials
    from splatmend.recon.insertion.unseen import unseen_notes
    from splatmend.recon.light.finish import Finisher
    from splatmend.recon.scene_files import load_scene
    from splatmend.recon.trajectory import build_trajectory, length_unit

    networks = _networks(options)
    refuse_existing(options.out, options.overwrite)
    if options.trajectory.edits_actors:
        raise UserError(f"{options.edits}: the trajectory edits actors as well; write what is removed and shifted into this file.")
    _check_light(options)
    layers = networks.references if options.references is None else options.references
    check_references(layers, options.log)
    edits = read_edits(options.edits)
    scene = load_scene(options.scene, device=torch_device(options.device))
    unit = length_unit(scene, options.trajectory)
    edited = apply_edits(scene, edits, asset_loader(options.assets, options.edits.parent, scene.device), unit=unit)
    if options.harmonise is not None and not edited.inserted:
        raise UserError(f"{options.edits}: it puts nothing in, so that there is nothing to harmonise; leave --harmonise out.")
    trajectory = build_trajectory(scene, options.trajectory)
    try:
        references = references_for(options.scene, scene, layers, options.log)
    except UserError as fault:
        if options.references is not None:
            raise
        raise UserError(f"{str(fault).rstrip('.')}, or --references 0 to enhance without recorded frames.") from None
    light, recorded_light = _lights(options, scene, own_actors=any(one.asset is None for one in edited.inserted.values()))
    if options.heal:
        edited = healed(edited)
    if light is not None and recorded_light is not None:
        sun = f"sun at azimuth {light.sun_azimuth_deg:.1f}, elevation {light.sun_elevation_deg:.1f} degrees" if max(light.sun) else "no sun"
        print(f"light: {sun} ({light.made_by})")
        edited = with_materials(edited, edits, recorded_light)
    edited = replace(edited, notes=(*trajectory.notes, *edited.notes, *unseen_notes(edited, trajectory)))
    for note in edited.notes:
        print(f"note: {note}")
    with ConsoleBar("insert", len(trajectory)) as bar:
        render_insertion(
            edited,
            trajectory,
            options.out,
            finisher=None
            if light is None
            else Finisher(
                edited.scene, {name: one.asset for name, one in edited.inserted.items()}, light, options.finish, recorded=edited.recorded
            ),
            encoding=options.encoding,
            depth=options.depth,
            references=references,
            config={
                "edits": plain(edits.edits),
                "edits_file": options.edits,
                "assets": options.assets,
                "light": options.light,
                "sun": options.sun,
                "heal": options.heal,
                "finish": options.finish,
                "enhance": options.enhance,
                "harmonise": options.harmonise,
            },
            overwrite=options.overwrite,
            on_progress=bar.show,
            add=networks.add,
        )
    print(f"clips: {options.out} ({len(trajectory)} frames at {trajectory.rate_hz:.3g} Hz, {len(edited.inserted)} bodies put in or moved)")
    return 0


def _check_light(options: Options) -> None:
    """`UserError` for a light that cannot be, before anything is loaded."""
    import math

    from splatmend.datasets.errors import UserError

    if options.light not in ("auto", "none") and not Path(options.light).exists():
        raise UserError(f"{options.light}: there is no such light; give a folder of `splatmend light`, a panorama (.hdr), auto or none.")
    if options.sun is None:
        return
    azimuth, elevation = options.sun
    if options.light == "none":
        raise UserError("light: --sun belongs to a light, and --light none leaves it out; leave one of them out.")
    if not (math.isfinite(azimuth) and 0 < elevation <= 90):
        raise UserError(
            f"light: a sun at azimuth {azimuth} and elevation {elevation} does not shine; give an elevation above 0 and up to 90 degrees."
        )


class _Networks(NamedTuple):
    """What writes further clips beside an insertion's and says how many (None: nothing does), and the layers of references it takes."""

    add: Callable[[Path], int] | None
    references: int


def _networks(options: Options) -> _Networks:
    """What `--enhance` and `--harmonise` ask for; `UserError` where a model cannot be used for it."""
    from splatmend.datasets.clip import open_clip
    from splatmend.datasets.errors import UserError
    from splatmend.datasets.progress import ConsoleBar
    from splatmend.enhance.artifact import load_enhancer
    from splatmend.enhance.stream import enhance_clip
    from splatmend.enhance.transformer import inference_dtype
    from splatmend.pipelines.device import torch_device
    from splatmend.recon.insertion.clips import FINISHED, NAIVE

    where = torch_device(options.device)
    named = {name: model for name, model in ((ENHANCED, options.enhance), (HARMONISED, options.harmonise)) if model is not None}
    enhancers = {name: load_enhancer(model, device=where, dtype=inference_dtype(where)) for name, model in named.items()}
    for name, enhancer in enhancers.items():
        if name == HARMONISED and not enhancer.spec.harmonises:
            remedy = "give `bundled-harmoniser`, or one that `splatmend train harmonise` wrote"
            raise UserError(f"{named[name]}: this enhancer does not harmonise; {remedy}.")
        if name == ENHANCED and enhancer.spec.harmonises:
            raise UserError(f"{named[name]}: this enhancer harmonises; give it as --harmonise, and one that mends renders as --enhance.")
    if not enhancers:
        return _Networks(None, 0)

    def add(folder: Path) -> int:
        clip = folder / (FINISHED if (folder / FINISHED).is_dir() else NAIVE)
        for name, enhancer in enhancers.items():
            source = open_clip(clip)
            with ConsoleBar(name, len(source)) as bar:
                clip = enhance_clip(enhancer, source, folder / name, encoding=options.encoding, on_progress=bar.show)
        return len(enhancers)

    return _Networks(add, enhancers[ENHANCED].spec.references if ENHANCED in enhancers else 0)


def _lights(options: Options, scene: Scene, *, own_actors: bool) -> tuple[SceneLight | None, SceneLight | None]:
    """The light to finish in, and the one that the scene was recorded in, which its own actors show (wanted where there are `own_actors`
    to be lit); None for either without light."""
    from splatmend.datasets.artifact import read_manifest
    from splatmend.datasets.errors import UserError
    from splatmend.recon.light.estimate import LightEstimate, estimated_light, guess_note
    from splatmend.recon.light.hdr import light_from_hdr
    from splatmend.recon.light.light_files import load_light

    if options.light == "none":
        return None, None
    found: LightEstimate | None = None
    if options.light == "auto":
        found = estimated_light(scene)
        light, confidence = found.light, found.confidence
    elif Path(options.light).is_dir():
        light = load_light(Path(options.light), scene.device)
        confidence = float(read_manifest(Path(options.light), "light").facts.get("confidence", 1.0)) if light.recorded else 1.0
    else:
        found = estimated_light(scene)
        light, confidence = light_from_hdr(Path(options.light), scene.up_world, like=found.light).to(scene.device), 1.0
    recorded = light.as_recorded()
    if recorded is None and own_actors:
        found = found or estimated_light(scene)
        recorded, confidence = found.light, found.confidence
    note = guess_note(confidence)
    if note is not None and max((recorded or light).sun):
        print(f"note: {note}")
    if options.sun is None:
        return light, recorded or light
    if not max(light.sun):
        raise UserError(f"light: no sun shines in it ({light.made_by}), so --sun has nothing to move; leave it out or give another light.")
    return light.with_sun(*options.sun), recorded or light
