"""Fitting a scene to a log."""

from splatmend.recon.fit.config import (
    ActorsConfig,
    CoarseConfig,
    CorrectionConfig,
    DataConfig,
    DensifyConfig,
    ExposureConfig,
    FitConfig,
    InitConfig,
    LossConfig,
    RatesConfig,
)
from splatmend.recon.fit.fit import fit

__all__ = [
    "ActorsConfig",
    "CoarseConfig",
    "CorrectionConfig",
    "DataConfig",
    "DensifyConfig",
    "ExposureConfig",
    "FitConfig",
    "InitConfig",
    "LossConfig",
    "RatesConfig",
    "fit",
]
