"""The light of a fitted scene, estimated from the scene alone.

Direction: what explains shadows, lit and unlit sides and the sky's glow best (`estimate_sun`), or what time and place say where the log
has them. Strength: the sun's over the sky's from sunlit against shaded surfaces. Level: the sky as pictures show it, within what asphalt's
albedo allows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from splatmend.datasets.errors import UserError
from splatmend.recon.light.colour import LUMINANCE
from splatmend.recon.light.estimate_occlusion import Occluders
from splatmend.recon.light.estimate_samples import Samples, samples_of
from splatmend.recon.light.estimate_sun import CUES, SunSearch
from splatmend.recon.light.scene_light import GROUND_ALBEDO, SceneLight, passed_by_air
from splatmend.recon.raster.api import Backend
from splatmend.recon.scene import SUN_FACT, Scene

_ALBEDO_RANGE = (0.08, 0.30)
"""Least and greatest albedo of streets (see `GROUND_ALBEDO`)."""
_LEAST_RATIO = 0.2
"""A sun that gives less than this share of what the sky gives is one behind clouds."""
SURE = 0.5
"""Estimates of the sun with less confidence are guesses."""
_SPREAD_DEG = 10.0
"""How far apart directions are that support each other."""
_WITHIN_DEG = 15.0


@dataclass(frozen=True, kw_only=True)
class EstimateConfig:
    """How the light of a scene is looked for."""

    shots: int = 12
    """Recorded shots that are drawn and looked at, spread over cameras and time."""
    width_px: int = 240
    """Most pixels across that a shot is drawn with."""
    samples_per_shot: int = 1000
    """Points of surfaces taken from each."""
    block_m: float = 4.0
    """Within so many metres surfaces that face one way are likely to be of one material."""
    far_m: float = 45.0
    """Farther surfaces are not looked at."""
    cell_m: float = 0.2
    """Side of the cells that keep the sun off."""
    roofs_m: tuple[float, ...] = (0.0, 9.0, 13.0, 17.0)
    """Heights that houses may have, since pictures seldom show roofs (0: as they are seen); each counts by what it explains."""
    step_deg: float = 5.0
    """Distance between directions that are tried."""
    weights: Mapping[str, float] = field(
        default_factory=lambda: {"ground": 1.3, "walls": 0.33, "sides": 0.17, "warmth": 0.67, "glow": 0.03}
    )
    """How many independent values a block stands for, by cue (for the glow, 20 pixels of the sky)."""
    least_gain: float = 2.0
    """Logarithm of the likelihood below which no sun explains enough, so that the sky is taken to be covered."""
    rows: int = 64
    """Rows of the environment."""

    def __post_init__(self) -> None:
        if min(self.shots, self.samples_per_shot, self.rows) < 1 or self.width_px < 16:
            raise UserError("light: shots, samples and rows must be 1 or more and drawn pictures 16 pixels wide or more; give more.")
        if min(self.block_m, self.far_m, self.cell_m) <= 0 or not 1 <= self.step_deg <= 20:
            raise UserError("light: lengths must be above 0 and the step between directions 1 to 20 degrees; change them.")
        if not self.roofs_m or min(self.roofs_m) < 0:
            raise UserError(f"light: roofs at {self.roofs_m} m are below the ground or none; give heights of 0 or more.")
        if set(self.weights) != set(CUES):
            raise UserError(f"light: weights are wanted for {', '.join(CUES)}; give all of them.")


@dataclass(frozen=True, kw_only=True)
class LightEstimate:
    """A light and how far to trust it: `confidence` is the probability, as far as the model holds, that the sun is within 15 degrees of
    the direction; `used` what each cue explains of its values there (0 to 1), `gain` the logarithm of the likelihood over no sun at all."""

    light: SceneLight
    confidence: float
    gain: float
    used: Mapping[str, float]


def estimate_light(scene: Scene, config: EstimateConfig | None = None, *, backend: Backend | None = None) -> SceneLight:
    """The light alone; see `estimated_light`."""
    return estimated_light(scene, config, backend=backend).light


def estimated_light(
    scene: Scene,
    config: EstimateConfig | None = None,
    *,
    to_sun_world: tuple[float, float, float] | None = None,
    backend: Backend | None = None,
) -> LightEstimate:
    """Sun and environment of a fitted scene.

    Args:
        scene: what is looked at; its recorded shots are drawn without exposure.
        config: how.
        to_sun_world: where the sun is known to be (any length); by default the scene's fact `sun_direction_world`, and where it has none
            the direction is looked for.
        backend: rasteriser; by default the one of the device.
    """
    config = config or EstimateConfig()
    samples = samples_of(
        scene,
        shots=config.shots,
        width_px=config.width_px,
        most_per_shot=config.samples_per_shot,
        block_m=config.block_m,
        far_m=config.far_m,
        backend=backend,
    )
    turn = samples.level_from_world
    known, made_by = _known(scene, to_sun_world)
    environment = _environment(samples, config.rows)
    if not len(samples.points_m):
        return _without_surfaces(environment, turn, known, made_by, scene)
    occluders = Occluders.of(scene, samples, config.cell_m)
    found = _found(samples, occluders, config, None if known is None else turn @ known)
    ratio = found.strength if found.gain >= config.least_gain else np.zeros(3)
    if ratio.mean() < _LEAST_RATIO:
        ratio = np.zeros(3)
    if known is None:
        made_by = "shadows, lit sides and sky of the scene" if ratio.any() else "the scene, under a covered sky"
    radiance, ambient = _level(samples, found, ratio, environment)
    light = SceneLight(
        to_sun_world=_triple(turn.T @ found.direction),
        sun=_triple(_no_bluer_than_white(ratio * ambient, found.direction)),
        environment=torch.from_numpy(radiance).float().to(scene.device),
        environment_from_world=turn,
        made_by=made_by,
    )
    return LightEstimate(light=light, confidence=found.confidence, gain=found.gain, used=found.used)


@dataclass(frozen=True, kw_only=True)
class _Found:
    direction: np.ndarray
    strength: np.ndarray
    search: SunSearch
    gain: float
    confidence: float
    used: Mapping[str, float]


def _found(samples: Samples, occluders: Occluders, config: EstimateConfig, known: np.ndarray | None) -> _Found:
    """The direction around which most is likely, over all heights of roofs, and what it explains with the best of these."""
    roofs = [occluders.with_roofs(m * samples.unit_m, samples.unit_m) if m else occluders for m in config.roofs_m]
    searches = [SunSearch(samples, houses, config.weights, config.step_deg) for houses in roofs]
    direction, confidence = known, 1.0
    if direction is None:
        directions = searches[0].directions
        likelihood = np.stack([search.evidence().likelihood for search in searches])
        chances = np.exp(likelihood - likelihood.max()).sum(axis=0)
        angle = np.degrees(np.arccos((directions @ directions.T).clip(-1, 1)))
        # Where many directions are likely, not the single one that chance favours; of these the middle.
        middle = int(np.argmax(np.exp(-0.5 * (angle / _SPREAD_DEG) ** 2) @ chances))
        near = angle[middle] < 2 * _SPREAD_DEG
        direction = _unit(tuple((directions[near] * chances[near, None]).sum(axis=0).tolist()))
        confidence = float(chances[directions @ direction > math.cos(math.radians(_WITHIN_DEG))].sum() / chances.sum())
    evidence = [search.evidence(direction[None]) for search in searches]
    best = max(range(len(searches)), key=lambda number: float(evidence[number].likelihood[0]))
    return _Found(
        direction=direction,
        strength=_strength(searches, direction, exact=known is not None),
        search=searches[best],
        gain=float(evidence[best].likelihood[0]),
        confidence=confidence,
        used={name: float(share) for name, share in zip(CUES, evidence[best].shares[:, 0])},
    )


def _strength(searches: list[SunSearch], direction: np.ndarray, *, exact: bool) -> np.ndarray:
    """The sun over the ambient light, where the direction and a height of roofs explain most: shadows a few degrees off hide much of it."""
    best, where, by = -1.0, direction, searches[0]
    for search in searches:
        near = search.directions[search.directions @ direction > math.cos(math.radians(_WITHIN_DEG))]
        tried = direction[None] if exact else np.concatenate([direction[None], near])
        likelihood = search.evidence(tried).likelihood
        at = int(np.argmax(likelihood))
        if likelihood[at] > best:
            best, where, by = float(likelihood[at]), tried[at], search
    return by.strength(where)


def _no_bluer_than_white(sun: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """A sun whose colour was found bluer than white in that of clear air, as bright: where little tells it from the sky it takes the
    sky's colour."""
    if sun[2] <= sun[0]:
        return sun
    air, luminance = passed_by_air(math.degrees(math.asin(float(np.clip(direction[2], -1, 1))))), np.asarray(LUMINANCE)
    return air * float(sun @ luminance) / float(air @ luminance)


def guess_note(confidence: float) -> str | None:
    """What a person should know of a sun that was found with little confidence."""
    if confidence >= SURE:
        return None
    return (
        f"where the sun stood is a guess (confidence {confidence:.2f} that it is within 15 degrees); where it is known, make a light with "
        "`splatmend light --time` and place, or with --recorded-sun."
    )


def _known(scene: Scene, to_sun_world: tuple[float, float, float] | None) -> tuple[np.ndarray | None, str]:
    if to_sun_world is not None:
        return _unit(to_sun_world), "given sun"
    # A procedural street's sun is the truth that estimates are measured against.
    if scene.facts.get(SUN_FACT) is not None and scene.source != "street":
        return _unit(scene.facts[SUN_FACT]), "time and place"
    return None, ""


def _unit(direction: tuple[float, float, float]) -> np.ndarray:
    vector = np.asarray(direction, dtype=np.float64)
    if vector.shape != (3,) or not np.isfinite(vector).all() or not np.linalg.norm(vector) > 0:
        raise UserError(f"light: {direction} is no direction to a sun; give three finite numbers that are not all 0.")
    return vector / np.linalg.norm(vector)


def _environment(samples: Samples, rows: int) -> np.ndarray | None:
    """The upper half's linear radiance `[rows, 2 rows, 3]` in the level frame: observed directions as they were seen, those near them
    from them, others their height's mean; None without any sky."""
    directions, linear = samples.sky_directions, samples.sky_linear
    above = directions[:, 2] > 0
    if not above.any():
        return None
    directions, linear = directions[above], linear[above]
    row = np.floor((0.5 - np.arcsin(directions[:, 2].clip(-1, 1)) / math.pi) * rows).astype(np.int64).clip(0, rows - 1)
    column = np.floor((np.arctan2(directions[:, 1], directions[:, 0]) / (2 * math.pi) + 0.5) * 2 * rows).astype(np.int64) % (2 * rows)
    sums, counts = np.zeros((rows, 2 * rows, 3)), np.zeros((rows, 2 * rows))
    np.add.at(sums, (row, column), linear)
    np.add.at(counts, (row, column), 1)
    seen = sums / np.maximum(counts, 1)[..., None]
    bands = np.flatnonzero(counts.any(axis=1))
    means = np.stack([(seen[band] * (counts[band] > 0)[:, None]).sum(axis=0) / (counts[band] > 0).sum() for band in bands])
    heights = np.arange(rows)
    by_height = np.stack([np.interp(heights, bands, means[:, channel]) for channel in range(3)], axis=1)
    # What is around a hole counts by its nearness (10 degrees), the mean of the height by a little.
    sigma = rows * 10 / 180
    weight = gaussian_filter((counts > 0).astype(float), sigma, mode=("nearest", "wrap"))
    nearby = np.stack([gaussian_filter(seen[..., c] * (counts > 0), sigma, mode=("nearest", "wrap")) for c in range(3)], axis=2)
    filled = (nearby + 0.02 * by_height[:, None]) / (weight + 0.02)[..., None]
    return np.where((counts > 0)[..., None], seen, filled)


def _level(samples: Samples, found: _Found, ratio: np.ndarray, environment: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The environment with its lower half, and what a level white surface under it alone gives back; both brought to a level at which the
    ground's albedo is one of streets."""
    search = found.search
    ground = samples.ground if samples.ground.any() else np.ones(len(samples.points_m), dtype=bool)
    direct = search.direct(found.direction[None])[ground, 0]
    seen = np.median(samples.linear[ground], axis=0)
    # What the ground would show in units of the ambient light, were it white.
    white = np.median(search.ambient[ground][:, None] + direct[:, None] * ratio, axis=0)
    luminance = np.array([0.2126, 0.7152, 0.0722])
    if environment is None:
        ambient = seen / white / GROUND_ALBEDO
        upper = np.broadcast_to(ambient, (64, 128, 3)).copy()
    else:
        upper = environment
        ambient = _upward(upper)
        albedo = float(seen @ luminance) / max(float((white * ambient) @ luminance), 1e-9)
        factor = albedo / float(np.clip(albedo, *_ALBEDO_RANGE))
        upper, ambient = upper * factor, ambient * factor
    whole = upper.copy()
    whole[len(whole) // 2 :] = samples.linear[ground].mean(axis=0)
    return whole, ambient


def _upward(environment: np.ndarray) -> np.ndarray:
    """What a level white surface gives back under the upper half."""
    rows = len(environment)
    edges = (0.5 - np.arange(rows // 2 + 1) / rows) * math.pi
    # The integral of sin over a band's solid angle, over pi.
    weights = (np.sin(edges[:-1]) ** 2 - np.sin(edges[1:]) ** 2) / (2 * rows)
    return (environment[: rows // 2] * weights[:, None, None]).sum(axis=(0, 1))


def _without_surfaces(
    environment: np.ndarray | None, turn: np.ndarray, known: np.ndarray | None, made_by: str, scene: Scene
) -> LightEstimate:
    """Where pictures show nothing that casts shadows: the sky alone."""
    whole = np.full((64, 128, 3), 0.5) if environment is None else environment.copy()
    whole[len(whole) // 2 :] = GROUND_ALBEDO * _upward(whole)
    light = SceneLight(
        to_sun_world=_triple(_unit(scene.up_world) if known is None else known),
        sun=(0.0, 0.0, 0.0),
        environment=torch.from_numpy(whole).float().to(scene.device),
        environment_from_world=turn,
        made_by=made_by or "the sky of the scene alone",
    )
    return LightEstimate(light=light, confidence=0.0, gain=0.0, used={})


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
