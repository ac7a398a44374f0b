"""The settings of a fit as a scene's manifest holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, get_type_hints

from splatmend.datasets.artifact import content_key, plain
from splatmend.recon.fit.config import CoarseConfig, ExposureConfig, FitConfig, LossConfig

T = TypeVar("T")
_GONE: Mapping[type, frozenset[str]] = {
    FitConfig: frozenset({"floaters", "sky"}),
    LossConfig: frozenset({"line_of_sight", "sky_opacity"}),
}
"""Settings of older scenes that there are not any more."""


def fit_config_from_json(raw: Mapping[str, Any]) -> FitConfig:
    """The inverse of `artifact.plain` of a `FitConfig`. Settings that are not there, as in older scenes, take their defaults.

    Raises:
        ValueError: for a setting that there is not.
        TypeError: for a value of the wrong kind.
        UserError: for a value out of range.
    """
    return _read(FitConfig, raw)


def settings_key(config: FitConfig) -> str:
    """Short hash of the settings that a fit's result depends on, which a checkpoint carries. Where and how noisily it runs is left out, and
    so are settings that older checkpoints do not know, as long as they have their defaults."""
    settings = result_settings(config)
    later = {
        "exposure": config.exposure == ExposureConfig(),
        "coarse": config.coarse == CoarseConfig(),
    }
    if config.rates.means_by_distance:
        settings["rates"].pop("means_by_distance")
    return content_key({name: value for name, value in settings.items() if not later.get(name)})


def result_settings(config: FitConfig) -> dict[str, Any]:
    """The settings that a fit's result depends on, as plain values."""
    return plain(replace(resolved(config), device="auto", backend=None, cuda_graphs=True, checkpoint_every=1, log_every=1))


def resolved(config: FitConfig) -> FitConfig:
    """The same with the classes named that bend by default, so that what is kept of a fit does not hang on today's default."""
    return replace(config, actors=replace(config.actors, deformable=config.actors.bending))


def first_difference(held: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """The first setting that two sets of `result_settings` differ in, with both values, in a few words; None where those that
    both know are the same."""
    for name, value in given.items():
        if name not in held:
            continue
        other = held[name]
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            inner = first_difference(other, value)
            if inner is not None:
                return f"{name}.{inner}"
        elif value != other:
            return f"{name} {other} in place of {value}"
    return None


def _read(kind: type[T], raw: Mapping[str, Any]) -> T:
    if not isinstance(raw, Mapping):
        raise TypeError(f"{kind.__name__} is no table of settings")
    kinds = get_type_hints(kind)
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := set(raw) - known - _GONE.get(kind, frozenset()):
        raise ValueError(f"there is no setting {sorted(unknown)[0]}")
    return kind(**{name: _value(kinds[name], value) for name, value in raw.items() if name in known})


def _value(kind: Any, value: Any) -> Any:
    if is_dataclass(kind):
        return _read(kind, value)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) else value
