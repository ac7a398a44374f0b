"""Recipes: functions that return the stages of a run. Each `cpu` preset fits two cores and 8 GiB, each `gpu` preset is full size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from splatmend.datasets.errors import UserError
from splatmend.datasets.street.config import StreetConfig
from splatmend.enhance.bundled import BUNDLED, bundled_folder
from splatmend.enhance.strength import check_strength
from splatmend.pipelines import stages
from splatmend.pipelines.evaluation.scores import EvaluateConfig
from splatmend.pipelines.stage import Stage
from splatmend.pipelines.stages import EnhanceConfig, RenderConfig, ReportConfig, Section
from splatmend.recon.fit.config import DataConfig, DensifyConfig, FitConfig, InitConfig
from splatmend.recon.trajectory import TrajectoryConfig

if TYPE_CHECKING:
    from splatmend.datasets.log import SceneLog

Preset = Literal["cpu", "gpu"]
POSES_AROUND_HELD_OUT = 17


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """What a recipe makes of a log."""

    preset: Preset = "cpu"
    """cpu: reduced size, for two cores and 8 GiB; gpu: full size."""
    shift: float = 2.0
    """Sideways shift of the new trajectory: metres to the left (negative: right); without a metric scale, median camera steps."""
    camera: str | None = None
    """Camera to render; by default the one that looks ahead the most."""
    model: str = "bundled"
    """Folder of the enhancer, "bundled", or "none" to leave enhancement out."""
    strength: float | None = None
    """How much of the enhancer's change is taken, 0 to 1; none: as the enhancer advises."""
    iterations: int | None = None
    """Iterations of the fit, instead of the preset's."""
    max_width: int | None = None
    """Width of the fitted pictures, instead of the preset's."""
    seed: int = 3
    """Seed of the demo's street."""

    def __post_init__(self) -> None:
        check_strength(self.strength)
        if self.strength is not None and self.model == "none":
            raise UserError("strength: it belongs to an enhancer, and --model none leaves enhancement out; leave one of them out.")
        if not math.isfinite(self.shift):
            raise UserError(f"shift: {self.shift} is no distance; give a number of metres.")
        if self.iterations is not None and self.iterations < 1:
            raise UserError(f"iterations: {self.iterations} is less than 1; give more, or leave the preset's.")
        if self.max_width is not None and self.max_width < 32:
            raise UserError(f"max-width: {self.max_width} pixels are less than 32; give more, or leave the preset's.")
        if self.seed < 0:
            raise UserError(f"seed: {self.seed} is negative; give 0 or more.")


Recipe = Callable[[Path | None, RecipeOptions], list[Stage]]

# Per preset: iterations, greatest width, initial points, initial rays, most Gaussians of the background.
_SIZES: Mapping[str, Mapping[Preset, tuple[int, int | None, int, int, int]]] = {
    "demo": {"cpu": (1_500, 320, 20_000, 10_000, 40_000), "gpu": (7_000, None, 150_000, 40_000, 400_000)},
    "kitti": {"cpu": (1_500, 480, 40_000, 10_000, 60_000), "gpu": (15_000, None, 400_000, 100_000, 1_000_000)},
    "photos": {"cpu": (1_500, 270, 20_000, 20_000, 50_000), "gpu": (15_000, None, 200_000, 100_000, 1_000_000)},
    "waymo": {"cpu": (1_500, 384, 40_000, 10_000, 60_000), "gpu": (30_000, None, 800_000, 200_000, 2_000_000)},
}
_MANY_SMALL_ACTORS = ("demo", "waymo")
"""Recipes with many actors, so that on a CPU each gets fewer Gaussians; the movers of a KITTI drive are few, close and large."""


def fit_config(recipe: str, options: RecipeOptions) -> FitConfig:
    """The fit of a recipe at its preset's size."""
    iterations, max_width, points, rays, cap = _SIZES[recipe][options.preset]
    small = options.preset == "cpu"
    sparing = small and recipe in _MANY_SMALL_ACTORS
    # The poses of a procedural street are exact.
    exact_poses = recipe == "demo"
    return FitConfig(
        camera_poses=replace(FitConfig().camera_poses, on=not exact_poses),
        actor_poses=replace(FitConfig().actor_poses, on=not exact_poses),
        iterations=iterations if options.iterations is None else options.iterations,
        sh_degree=1 if small else 3,
        sh_every=400 if small else 1_000,
        sky_rows=64 if small else 256,
        data=DataConfig(
            max_width=max_width if options.max_width is None else options.max_width,
            # All pictures of 20 s of three cameras at 1920x1280: who reads them again and again takes the interpreter from the fit.
            cache_mib=2_048 if small else 8_192,
        ),
        init=InitConfig(point_count=points, ray_count=rays, actor_count=2_000 if sparing else 8_000),
        densify=DensifyConfig(
            # Photo sets have no points to begin with, and small fits neither time to come back from fading nor Gaussians to spare.
            strategy="mcmc" if small or recipe == "photos" else "classic",
            cap=cap,
            actor_cap=4_000 if sparing else 20_000,
        ),
        # A gigabyte each at full size, where an iteration takes hundredths of a second.
        checkpoint_every=200 if small else 5_000,
        log_every=20 if small else 50,
    )


def demo(log: Path | None, options: RecipeOptions) -> list[Stage]:
    """A street of our own, so that even the shifted lane has a truth."""
    if log is not None:
        raise UserError(f"{log}: the demo makes its own log; leave the path out, or choose another recipe.")
    if options.preset == "cpu":
        street = StreetConfig(seed=options.seed, duration_s=2.4, width=320, height=192)
    else:
        street = StreetConfig(seed=options.seed, duration_s=8.0, width=960, height=544)
    if options.camera is not None and options.camera not in street.cameras:
        raise UserError(f"camera: the demo's street has no camera {options.camera}; choose among {', '.join(street.cameras)}.")
    make = Stage(name="street", config=street, run=stages.make_street)
    rest = _driving("demo", "street", options, title="Demo: a procedural street", shift_truth="street")
    return [make, *rest]


def kitti_raw(log: Path | None, options: RecipeOptions) -> list[Stage]:
    """A KITTI raw drive: held-out frames of the recorded path, and a lane shift that nobody has seen."""
    return _driving("kitti", _given(log, "kitti-raw"), options, title="KITTI raw")


def kitti_odometry(log: Path | None, options: RecipeOptions) -> list[Stage]:
    """A KITTI odometry sequence, which may have no LiDAR."""
    return _driving("kitti", _given(log, "kitti-odometry"), options, title="KITTI odometry")


def waymo(log: Path | None, options: RecipeOptions) -> list[Stage]:
    """A Waymo Open Dataset segment: five cameras, LiDAR, labelled actors, rolling shutter."""
    return _driving("waymo", _given(log, "waymo"), options, title="Waymo Open Dataset")


def photos(log: Path | None, options: RecipeOptions) -> list[Stage]:
    """A photo set (nerfstudio, DL3DV): each held-out view stands in the middle of a short clip that is rendered and enhanced."""
    source = _given(log, "photos")
    enhancing = options.model != "none"
    centred = RenderConfig(trajectory=TrajectoryConfig(camera=options.camera), around_held_out=POSES_AROUND_HELD_OUT)
    shifted = RenderConfig(trajectory=TrajectoryConfig(camera=options.camera, left=options.shift, ease_s=0.0, frames=49))
    chain = [
        _fit("photos", source, options),
        _render("held-out", centred, source),
        *([_enhanced("held-out", options)] if enhancing else []),
        _scored("held-out", source, enhancing, "held_out"),
        _render("shift", shifted, source),
        *([_enhanced("shift", options)] if enhancing else []),
    ]
    sections = (
        Section(
            title="Held-out views",
            clips={},
            scores={"Held-out views": "held-out-scores"},
            note=f"Each view stands in the middle of {POSES_AROUND_HELD_OUT} poses, rendered and enhanced as one clip; only it is scored.",
        ),
        _section("shift", f"Shifted by {options.shift:g} median camera steps", enhancing, {}, "No picture was taken here."),
    )
    return [*chain, _report("Photo set", source, sections)]


def _driving(recipe: str, source: str | Path, options: RecipeOptions, *, title: str, shift_truth: str | None = None) -> list[Stage]:
    """Fit; render and enhance the recorded path and a lane shift; score what has a truth; report."""
    enhancing = options.model != "none"
    recorded = RenderConfig(trajectory=TrajectoryConfig(camera=options.camera))
    shifted = RenderConfig(trajectory=TrajectoryConfig(camera=options.camera, left=options.shift))
    chain = [
        _fit(recipe, source, options),
        _render("recorded", recorded, source),
        *([_enhanced("recorded", options)] if enhancing else []),
        _scored("recorded", source, enhancing, "held_out"),
        _render("shift", shifted, source),
        *([_enhanced("shift", options)] if enhancing else []),
    ]
    recorded_scores = {"Held-out frames": "recorded-scores"}
    shift_scores = {}
    if shift_truth is not None:
        chain.append(_scored("shift", shift_truth, enhancing, "all"))
        shift_scores = {"Lane shift": "shift-scores"}
    side = "left" if options.shift > 0 else "right"
    what = f"Lane shift, {abs(options.shift):g} m to the {side}"
    note = "The camera leaves the recorded lane within the first second." + ("" if shift_scores else " No true picture exists here.")
    sections = (
        _section(
            "recorded", "Recorded path", enhancing, recorded_scores, "The whole path is rendered and enhanced; held-out frames are scored."
        ),
        _section("shift", what, enhancing, shift_scores, note),
    )
    return [*chain, _report(title, source, sections)]


def _fit(recipe: str, source: str | Path, options: RecipeOptions) -> Stage:
    config = fit_config(recipe, options)
    return Stage(name="fit", config=config, run=stages.fit_scene, inputs={"log": source}, resumes=True)


def _render(name: str, config: RenderConfig, source: str | Path) -> Stage:
    return Stage(name=name, config=config, run=stages.render_scene, inputs={"scene": "fit", "log": source})


def _enhanced(name: str, options: RecipeOptions) -> Stage:
    return Stage(
        name=f"{name}-enhanced",
        config=EnhanceConfig(strength=options.strength),
        run=stages.enhance,
        inputs={"clip": name, "enhancer": enhancer_folder(options.model)},
    )


def _scored(name: str, truth: str | Path, enhancing: bool, frames: Literal["all", "held_out"]) -> Stage:
    inputs: dict[str, str | Path] = {"raw": name}
    if enhancing:
        inputs["enhanced"] = f"{name}-enhanced"
    # What was recorded is the truth of held-out frames, even of a street whose oracle could be asked again.
    return Stage(
        name=f"{name}-scores",
        config=EvaluateConfig(frames=frames),
        run=stages.score,
        inputs=inputs | {"log" if frames == "held_out" else "truth": truth},
    )


def _section(name: str, title: str, enhancing: bool, scores: Mapping[str, str], note: str) -> Section:
    clips = {"raw": name} | ({"enhanced": f"{name}-enhanced"} if enhancing else {})
    return Section(title=title, clips=clips, scores=scores, note=note)


def _report(title: str, source: str | Path, sections: tuple[Section, ...]) -> Stage:
    named = {stage for section in sections for stage in (*section.clips.values(), *section.scores.values())}
    inputs: dict[str, str | Path] = {"log": source, "scene": "fit"} | {name: name for name in sorted(named)}
    return Stage(name="report", config=ReportConfig(title=title, sections=sections), run=stages.report, inputs=inputs)


def enhancer_folder(name: str) -> Path:
    """The folder of an enhancer by its path or "bundled"; `UserError` where there is none, before anything else is computed."""
    folder = bundled_folder() if name == BUNDLED else Path(name)
    if not (folder / "enhancer.json").is_file():
        raise UserError(f'{folder}: this is no enhancer, for it has no enhancer.json; give the folder of one, or "{BUNDLED}".')
    return folder


_SOURCES: Mapping[str, tuple[str, ...]] = {
    "kitti-raw": ("KITTI raw",),
    "kitti-odometry": ("KITTI odometry",),
    "photos": ("nerfstudio, DL3DV",),
    "waymo": ("Waymo Open Dataset v1", "Waymo Open Dataset v2"),
}


def refuse_unfit(recipe: str, log: Path | None, options: RecipeOptions, wanted: Sequence[Stage]) -> None:
    """Refuse a log that a recipe cannot use, before anything is computed: one of another kind or with a fault, or without the camera that
    the options name, or whose pictures would become too small or too few for the `wanted` stages. The demo makes its own log."""
    from splatmend.datasets.readers.registry import open_log, source_of
    from splatmend.recon.fit.data import prepared_log

    if log is None or recipe not in _SOURCES:
        return
    source = source_of(log)
    if source is not None and source.name not in _SOURCES[recipe]:
        fitting = next((name for name, sources in _SOURCES.items() if source.name in sources), None)
        raise UserError(f"{log}: this is a log of {source.name}, which the recipe {recipe} is not for; run {fitting} instead.")
    opened = open_log(log)
    if options.camera is not None and options.camera not in opened.cameras:
        raise UserError(f"{log}: there is no camera {options.camera}; the log has {', '.join(opened.cameras)}.")
    config = fit_config("kitti" if recipe.startswith("kitti") else recipe, options)
    prepared = prepared_log(opened, config.data, config.camera_model)
    if any(_needs_held_out(stage) for stage in wanted):
        _refuse_without_held_out(log, prepared, config.data, options)


def _needs_held_out(stage: Stage) -> bool:
    """Whether a stage shows or scores frames that were held out of the fit, and fails where there are none."""
    if isinstance(stage.config, EvaluateConfig):
        return stage.config.frames == "held_out"
    return isinstance(stage.config, RenderConfig) and stage.config.around_held_out > 0


def _refuse_without_held_out(log: Path, prepared: SceneLog, config: DataConfig, options: RecipeOptions) -> None:
    from splatmend.recon.fit.data import frame_roles

    shown = {options.camera} if options.camera is not None else set(prepared.cameras)
    roles = frame_roles(prepared.frames, config)
    if any(role == "held_out" and frame.camera in shown for role, frame in zip(roles, prepared.frames)):
        return
    most = max(len(prepared.frames_of(name)) for name in shown)
    last = "shift" if options.model == "none" else "shift-enhanced"
    raise UserError(
        f"{log}: {most} frame(s) of {options.camera or 'a camera'} are too few to hold one out of the fit for the scores, which takes "
        f"{config.holdout_every // 2 + 1}; give a longer log, or --until {last}, which leaves the scores out."
    )


def _given(log: Path | None, recipe: str) -> Path:
    if log is None:
        raise UserError(f"{recipe}: the recipe needs a log; give its path after the recipe's name.")
    return log


RECIPES: Mapping[str, Recipe] = {
    "demo": demo,
    "kitti-raw": kitti_raw,
    "kitti-odometry": kitti_odometry,
    "photos": photos,
    "waymo": waymo,
}
