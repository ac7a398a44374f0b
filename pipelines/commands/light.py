"""`splatmend light`: what lights a scene, estimated, from a panorama, or from time and place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from splatmend.datasets.errors import UserError
from splatmend.recon.light.estimate import EstimateConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write the light of a scene: its sun and the environment around it."""

    scene: Positional[Path]
    """Scene folder."""
    out: Path
    """Folder of the light to write; a preview.png with the sun marked lies in it."""
    hdr: Path | None = None
    """Take the light from this panorama (.hdr), at the level of the scene's own light."""
    heading_deg: float = 0.0
    """Where the panorama's middle looks: azimuth from the world's x axis, counter-clockwise seen from above."""
    hdr_scale: float | None = None
    """The scene's linear units in one unit of the panorama, instead of the level of the scene's own light."""
    sun: tuple[float, float] | None = None
    """Azimuth (as above) and elevation of the sun in degrees: moves it, and the sky with it."""
    recorded_sun: tuple[float, float] | None = None
    """Where the sun stood when the log was recorded, by the same angles, instead of looking for it."""
    time: str | None = None
    """When the log was recorded (ISO 8601 with its zone, as in 2011-09-26T13:02:25+02:00): with a place it says where the sun is."""
    latitude: float | None = None
    """Degrees north."""
    longitude: float | None = None
    """Degrees east."""
    east_deg: float = 0.0
    """Azimuth of east in the world: 0 where x points east, as in logs of KITTI raw."""
    estimate: Annotated[EstimateConfig, arg(name="estimate")] = field(default_factory=EstimateConfig)
    """How the scene's own light is looked for."""
    device: str = "auto"
    """auto, cpu or cuda."""
    overwrite: bool = False
    """Replace an existing light."""


def run(options: Options) -> int:
    import math

    from splatmend.datasets.artifact import plain
    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.pipelines.device import torch_device
    from splatmend.recon.light.estimate import estimated_light, guess_note
    from splatmend.recon.light.hdr import light_from_hdr
    from splatmend.recon.light.light_files import save_light
    from splatmend.recon.scene_files import load_scene

    refuse_existing(options.out, options.overwrite)
    up_and_place = _sun_of_time(options)
    sun, recorded_sun = (None if angles is None else _checked(angles) for angles in (options.sun, options.recorded_sun))
    if up_and_place is not None and recorded_sun is not None:
        raise UserError("light: --recorded-sun and --time both say where the sun stood; give one of them.")
    if options.hdr is not None and recorded_sun is not None:
        raise UserError("light: --recorded-sun and a panorama both say where the sun stood; give one of them.")
    if options.hdr_scale is not None and options.hdr is None:
        raise UserError("light: hdr_scale is the scale of a panorama; give --hdr as well, or leave it out.")
    if options.heading_deg and options.hdr is None:
        raise UserError("light: heading_deg belongs to a panorama; give --hdr as well, or leave it out.")
    if not math.isfinite(options.east_deg):
        raise UserError(f"light: east_deg is {options.east_deg}; give a number of degrees.")
    if options.east_deg and up_and_place is None:
        raise UserError("light: east_deg belongs to the sun of a time and place; give --time, --latitude and --longitude, or leave it out.")
    scene = load_scene(options.scene, device=torch_device(options.device))
    to_sun = None if up_and_place is None else _in_world(up_and_place, options.east_deg, scene.up_world)
    if recorded_sun is not None:
        to_sun = _in_world(_of_angles(*recorded_sun), 0.0, scene.up_world)
    facts: dict[str, Any] = {"scene": str(options.scene)}
    if options.hdr is not None:
        # Read before the estimate, so that nobody waits for a refusal.
        light_from_hdr(options.hdr, scene.up_world, heading_deg=options.heading_deg, scale=options.hdr_scale or 1.0)
    if options.hdr is not None and options.hdr_scale is not None:
        light = light_from_hdr(options.hdr, scene.up_world, heading_deg=options.heading_deg, scale=options.hdr_scale)
    else:
        found = estimated_light(scene, options.estimate, to_sun_world=to_sun)
        light = found.light
        facts |= {"confidence": found.confidence, "gain": found.gain, "used": dict(found.used)}
        if options.hdr is not None:
            light = light_from_hdr(options.hdr, scene.up_world, heading_deg=options.heading_deg, like=light)
    if sun is not None:
        if not max(light.sun):
            raise UserError(f"light: no sun shines in it ({light.made_by}), so --sun has nothing to move; leave it out.")
        light = light.with_sun(*sun)
    save_light(options.out, light, facts=facts, config=plain(options), overwrite=options.overwrite)
    print(f"sun: azimuth {light.sun_azimuth_deg:.1f} degrees from x, elevation {light.sun_elevation_deg:.1f} degrees ({light.made_by})")
    red, green, blue = light.sun
    print(
        f"     a white surface that faces it shows ({red:.3f}, {green:.3f}, {blue:.3f}), linear"
        if max(light.sun)
        else "     it does not shine"
    )
    if "confidence" in facts and options.hdr is None and options.sun is None:
        cues = ", ".join(f"{name} {share:.2f}" for name, share in facts["used"].items())
        sure = "" if to_sun is not None else f"confidence {facts['confidence']:.2f}; "
        print(f"     {sure}explained shares: {cues or 'none'}")
        if to_sun is not None and not max(light.sun):
            print("note: what the scene shows does not fit a sun there, or the sky was covered.")
        elif max(light.sun) and (note := guess_note(facts["confidence"])) is not None:
            print(f"note: {note}")
    print(f"{options.out}: preview.png shows the environment")
    return 0


def _sun_of_time(options: Options) -> tuple[float, float, float] | None:
    """East, north and up towards the sun, where time and place are given."""
    from datetime import datetime

    from splatmend.datasets.solar import direction_east_north_up

    given = (options.time, options.latitude, options.longitude)
    if all(value is None for value in given):
        return None
    if options.time is None or options.latitude is None or options.longitude is None:
        raise UserError("light: the sun follows from time, latitude and longitude together; give all three or none.")
    if options.hdr is not None or options.sun is not None:
        raise UserError("light: time and place say where the sun is, and so do a panorama and --sun; give one of them.")
    try:
        time = datetime.fromisoformat(options.time)
    except ValueError:
        raise UserError(f"light: {options.time} is no time like 2011-09-26T13:02:25+02:00; correct it.") from None
    direction = direction_east_north_up(time, options.latitude, options.longitude)
    if direction[2] <= 0:
        raise UserError(f"light: at {options.time} the sun is below the horizon of that place; correct time, zone or place.")
    return direction


def _in_world(
    east_north_up: tuple[float, float, float], east_deg: float, up_world: tuple[float, float, float]
) -> tuple[float, float, float]:
    import numpy as np
    from scipy.spatial.transform import Rotation

    from splatmend.recon.sky import rotation_to_z

    level = Rotation.from_euler("z", east_deg, degrees=True).apply(east_north_up)
    x, y, z = (rotation_to_z(np.asarray(up_world, dtype=np.float64)).T @ level).tolist()
    return x, y, z


def _of_angles(azimuth_deg: float, elevation_deg: float) -> tuple[float, float, float]:
    import math

    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    return math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)


def _checked(sun: tuple[float, float]) -> tuple[float, float]:
    import math

    azimuth, elevation = sun
    if not (math.isfinite(azimuth) and 0 < elevation <= 90):
        raise UserError(
            f"light: a sun at azimuth {azimuth} and elevation {elevation} does not shine; give an elevation above 0 and up to 90 degrees."
        )
    return azimuth, elevation
