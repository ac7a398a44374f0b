"""`splatmend train`: an enhancer, or its autoencoder, from pairs and videos.

The recipe comes first and gives every setting its default, so its name is read before the other arguments are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import arg

from splatmend.datasets.errors import UserError
from splatmend.enhance.train.config import AutoencoderTrainConfig, FusionTrainConfig, OneStepTrainConfig

TrainConfig = AutoencoderTrainConfig | OneStepTrainConfig | FusionTrainConfig
RECIPES: Mapping[str, str] = {
    "small-autoencoder": "the small autoencoder on clean videos (stage one of the bundled enhancer)",
    "small-onestep": "the small one-step enhancer on pairs (stage two)",
    "fusion": "what takes from references, alone, for any enhancer (--base); everything else stays as it is",
    "wan21-1.3b": "Wan 2.1 1.3B, full transformer, as published",
    "wan21-1.3b-lora": "Wan 2.1 1.3B, transformer LoRA",
    "wan21-14b": "Wan 2.1 14B, full transformer, as published",
    "wan21-14b-lora": "Wan 2.1 14B, transformer LoRA",
    "harmonise-reconstruct": "the small harmoniser on pairs of insert or reinsert (stage one)",
    "harmonise": "the small harmoniser (stage two)",
    "harmonise-14b-reconstruct": "harmonising with Wan 2.1 14B: skips and decoder LoRA (stage one)",
    "harmonise-14b": "harmonising with Wan 2.1 14B: transformer and decoder LoRA (stage two)",
}


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where training clips come from."""

    pairs: tuple[Path, ...] = ()
    """Folders that `splatmend pairs` wrote, or their pairs.jsonl."""
    videos: tuple[Path, ...] = ()
    """Clips, video files or folders of images without a degraded twin."""
    synthetic_share: float = 0.4
    """Share of samples made from videos by synthetic artefacts, where there are both pairs and videos."""
    clean_share: float = 0.08
    """Share of samples whose input is the target itself, so that good frames stay good."""
    mild_share: float = 0.4
    """Share of the degraded samples that are mixed with their target: milder damage."""
    patchy_share: float = 0.6
    """Of the samples whose damage is milder, the share in which it varies over the picture and the clip."""
    bare_share: float = 0.3
    """Share of samples whose references are left out, where there are any."""
    displaced_share: float = 0.0
    """Share of layers of references that are shifted and bent by a few pixels, as where the depth of a scene is wrong."""
    displaced_px: float = 2.5
    """How far a place of such a layer is moved, at most."""
    look_share: float = 0.0
    """Share of samples whose tones and colours are changed, the same for both clips: less to learn by heart from few scenes."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Samples are reduced or enlarged by a factor in this range, the same for both clips."""
    cache_gb: float = 8.0
    """Decoded frames that are kept in host memory, in gigabytes."""
    distinct_samples: int | None = None
    """Draw so many windows and crops once and show those again and again; none: new ones in every step."""
    latents_gb: float = 0.0
    """Latents of a frozen encoder that are kept in host memory, in gigabytes; useful with distinct-samples."""
    latents_dir: Path | None = None
    """Folder in which latents of a frozen encoder are kept as well."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every recipe takes."""

    out: Path
    """Folder of the enhancer (or autoencoder) to write."""
    base: str | None = None
    """What to start from: an autoencoder or enhancer folder, a Wan folder or hub id; a fresh small model by default."""
    data: Annotated[DataOptions, arg(name="")] = field(default_factory=DataOptions)
    """Training clips."""
    resume: bool = False
    """Go on from the checkpoint of an interrupted run."""
    overwrite: bool = False
    """Replace an existing folder."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions(Options):
    """Train the small autoencoder."""

    config: Annotated[AutoencoderTrainConfig, arg(name="")]
    """How to train."""


@dataclass(frozen=True, kw_only=True)
class OneStepOptions(Options):
    """Train the one-step enhancer through the truncated decoder."""

    config: Annotated[OneStepTrainConfig, arg(name="")]
    """How to train."""


@dataclass(frozen=True, kw_only=True)
class FusionOptions(Options):
    """Train the fusion of references for an enhancer."""

    config: Annotated[FusionTrainConfig, arg(name="")]
    """How to train."""


# Samples without references teach a fusion nothing.
_FUSION_DATA = DataOptions(synthetic_share=0.0, bare_share=0.0, displaced_share=0.5)


def parse(arguments: Sequence[str]) -> Options | None:
    """Options after `RECIPE`; None where only the list of recipes was asked for."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: splatmend train RECIPE --out DIR [options]      (splatmend train RECIPE --help says more)\n\nrecipes:")
        width = max(map(len, RECIPES))
        print("\n".join(f"  {name:<{width}}  {what}" for name, what in RECIPES.items()))
        if not arguments:
            raise SystemExit(2)
        return None
    name = arguments[0]
    if name not in RECIPES:
        raise UserError(f"{name}: there is no such training recipe; choose among {', '.join(RECIPES)}.")
    config = _recipe(name)()
    kinds: Mapping[type, Any] = {AutoencoderTrainConfig: AutoencoderOptions, FusionTrainConfig: FusionOptions}
    kind = kinds.get(type(config), OneStepOptions)
    default = kind(out=tyro.MISSING, config=config, data=_FUSION_DATA if kind is FusionOptions else DataOptions())
    return tyro.cli(
        kind,
        prog=f"splatmend train {name}",
        description=RECIPES[name],
        args=list(arguments[1:]),
        default=default,
        config=(tyro.conf.AvoidSubcommands,),
    )


def _recipe(name: str) -> Callable[[], TrainConfig]:
    from splatmend.enhance.train import recipes

    table: dict[str, Callable[[], TrainConfig]] = {
        "small-autoencoder": recipes.small_autoencoder,
        "small-onestep": recipes.small_onestep,
        "fusion": recipes.fusion,
        "wan21-1.3b": recipes.wan21_1_3b,
        "wan21-1.3b-lora": lambda: recipes.lora(recipes.wan21_1_3b()),
        "wan21-14b": recipes.wan21_14b,
        "wan21-14b-lora": lambda: recipes.lora(recipes.wan21_14b()),
        "harmonise-reconstruct": recipes.harmonise_reconstruct,
        "harmonise": recipes.harmonise,
        "harmonise-14b-reconstruct": recipes.harmonise_14b_reconstruct,
        "harmonise-14b": recipes.harmonise_14b,
    }
    return table[name]


def run(options: Options | None) -> int:
    if options is None:
        return 0
    from splatmend.enhance.train.autoencoder import train_autoencoder
    from splatmend.enhance.train.data import DataConfig
    from splatmend.enhance.train.looks import LookConfig
    from splatmend.enhance.train.onestep import train_onestep
    from splatmend.enhance.train.recipes import starting_dtype, starting_enhancer
    from splatmend.pipelines.commands.output import refuse_existing

    refuse_existing(options.out, options.overwrite)
    data = DataConfig(
        pairs=tuple(path / "pairs.jsonl" if path.is_dir() else path for path in options.data.pairs),
        videos=options.data.videos,
        synthetic_share=options.data.synthetic_share,
        clean_share=options.data.clean_share,
        mild_share=options.data.mild_share,
        patchy_share=options.data.patchy_share,
        bare_share=options.data.bare_share,
        displaced_share=options.data.displaced_share,
        displaced_px=options.data.displaced_px,
        look=LookConfig(share=options.data.look_share, scale=options.data.scale),
        cache_gb=options.data.cache_gb,
        distinct_samples=options.data.distinct_samples,
        latents_gb=options.data.latents_gb,
        latents_dir=options.data.latents_dir,
    )
    if isinstance(options, AutoencoderOptions):
        vae = None
        if options.base is not None:
            from splatmend.enhance.artifact import load_autoencoder

            vae = load_autoencoder(Path(options.base))
        done = train_autoencoder(options.config, data, options.out, vae=vae, resume=options.resume, overwrite=options.overwrite)
    elif isinstance(options, FusionOptions):
        from splatmend.enhance.train.fusion import train_fusion

        if options.base is None:
            raise UserError("--base: the fusion is trained for an enhancer; give its folder, a Wan folder or hub id, or bundled.")
        done = train_fusion(options.config, data, options.base, options.out, resume=options.resume, overwrite=options.overwrite)
    elif isinstance(options, OneStepOptions):
        if options.base is None and options.config.output is None:
            raise UserError("--base: this recipe trains a Wan model on; give its folder or hub id.")
        enhancer = starting_enhancer(
            options.base,
            output=options.config.output,
            harmonises=options.config.harmonises,
            dtype=starting_dtype(options.config),
            seed=options.config.seed,
        )
        done = train_onestep(options.config, data, enhancer, options.out, resume=options.resume, overwrite=options.overwrite)
    else:
        raise TypeError(f"options of no known recipe: {type(options).__name__}")
    print(f"paused: {options.out}; the same command with --resume goes on" if done is None else f"trained: {done}")
    return 0
