"""The one-step enhancer: encode the degraded clip, predict the change of its latents in one step, decode.

Wan's autoencoder and transformer are diffusers' own classes. The transformer predicts `v = z_in - z_target` at one fixed timestep with
one fixed caption (ChopGrad, arXiv 2603.17812, section on render enhancement); the enhanced latents are `z_in - v`.

Shape letters: B batch, C channels, T frames, L latents (T = 1 + 4 (L - 1)), H W pixels, h w latent pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn

from splatmend.enhance.decoder import Memory, Side, SideFeatures, TruncatedDecoder, WanAdapter, split_into_groups
from splatmend.enhance.decoder.truncated import DEFAULT_HALO
from splatmend.enhance.fusion import ReferenceFusion, fresh_fusion
from splatmend.enhance.insertion import TOLD, MaskInput, confined, less_on_bodies, with_told
from splatmend.enhance.opacity import fixed_noise, group_opacity, latent_opacity, with_noise
from splatmend.enhance.skips import Skip, SkipJoin, build_joins
from splatmend.enhance.strength import check_strength
from splatmend.enhance.windows import in_windows

OutputMode = Literal["direct", "residual", "difference"]
DEFAULT_TIMESTEP = 200
MAX_REFERENCES = 8


@dataclass(frozen=True, kw_only=True)
class LoraInfo:
    """A transformer LoRA: rank, alpha and the module names it is attached to."""

    rank: int
    alpha: float
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


@dataclass(frozen=True, kw_only=True)
class EnhancerSpec:
    """What `enhancer.json` says beside the weights."""

    base: str
    """Where the weights started from: a hub id, a path, or a name of ours."""
    task: str = "restore"
    timestep: int = DEFAULT_TIMESTEP
    output: OutputMode = "direct"
    """direct: the decoded frames; residual: input + decoded frames; difference: input + decode(z_out) - decode(z_in)."""
    skips: tuple[Skip, ...] = ()
    window: int = 21
    """Latents the transformer sees at once, the length it was trained at."""
    overlap: int = 4
    """Latents that neighbouring windows share."""
    strength: float = 1.0
    """How much of its change is taken where nobody says otherwise, 0 to 1."""
    lora: LoraInfo | None = None
    opacity_noise: float = 0.0
    """Share of noise, 0 to 1, in latents of what has no opacity (see `splatmend.enhance.opacity`). 0: opacity is not looked at."""
    references: int = 0
    """Layers of warped recorded frames that it can take from (see `splatmend.enhance.fusion`). 0: none are looked at."""
    harmonises: bool = False
    """Whether it is told what was put into a clip, and changes only what lies around that (see `splatmend.enhance.insertion`)."""
    on_bodies: float = 1.0
    """Of one that harmonises: how much of its change is taken on what was put in itself, 0 to 1, in shares of what is taken beside it.
    Training takes all of it."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What it was trained on and how."""

    def __post_init__(self) -> None:
        if self.output not in get_args(OutputMode):
            raise ValueError(f"output must be one of {', '.join(get_args(OutputMode))}; got {self.output}")
        for name in ("window", "overlap"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"{name} must be a whole number of latents; got {getattr(self, name)}")
        if not 0 <= self.overlap < self.window:
            raise ValueError(f"overlap must be at least 0 and smaller than the window of {self.window} latents; got {self.overlap}")
        if type(self.timestep) is not int or not 0 <= self.timestep <= 1000:
            raise ValueError(f"timestep must be a whole number from 0 to 1000; got {self.timestep}")
        for name in ("strength", "on_bodies", "opacity_noise"):
            share = getattr(self, name)
            if type(share) not in (int, float) or not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} must be a number from 0 to 1; got {share!r}")
        if type(self.references) is not int or not 0 <= self.references <= MAX_REFERENCES:
            raise ValueError(f"references must be a whole number from 0 to {MAX_REFERENCES}; got {self.references}")


class Encoded(NamedTuple):
    """A clip's normalised latents `[B, C, L, h, w]` float32 and, per latent, the side features for the decoder (join -> tensor)."""

    latents: torch.Tensor
    side: tuple[dict[str, torch.Tensor], ...]


class Enhancer(nn.Module):
    """Autoencoder, transformer, caption and skips. Clips are `[B, 3, T, H, W]` in [-1, 1]; H and W are multiples of `size_multiple`."""

    caption: torch.Tensor

    def __init__(
        self,
        vae: AutoencoderKLWan,
        transformer: WanTransformer3DModel,
        caption: torch.Tensor,
        spec: EnhancerSpec,
    ) -> None:
        """`caption [1, S, D]` is the text embedding that conditions every clip."""
        super().__init__()
        self.vae = vae
        self.transformer = transformer
        self.spec = spec
        self.register_buffer("caption", caption)
        joins = build_joins(vae, spec.skips, extra=TOLD if spec.harmonises else 0)
        # Module names may not hold dots.
        self.joins = nn.ModuleDict({_key(name): join for name, join in joins.items()})
        self._tap_of = {skip.join: skip.tap for skip in spec.skips}
        self.fusion = ReferenceFusion(spec.references) if spec.references else None
        self.mask_input = MaskInput(self.adapter().latent_channels) if spec.harmonises else None

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this many pixels."""
        patch = self.transformer.config["patch_size"]
        return self.adapter().spatial_factor * max(patch[1], patch[2])

    def join_modules(self) -> dict[str, SkipJoin]:
        """Decoder block -> join."""
        return {skip.join: self.joins[_key(skip.join)] for skip in self.spec.skips}  # type: ignore[misc]

    def adapter(self, *, memory: Memory = "fast") -> WanAdapter:
        """The autoencoder with its joins, driven group by group."""
        return WanAdapter(self.vae, join=self.join_modules(), memory=memory)

    def decoder(
        self,
        truncation: int = 1,
        *,
        memory: Memory = "fast",
        block: int = 1,
        spatial_chunks: tuple[int, int] = (1, 1),
        halo: int = DEFAULT_HALO,
        share: tuple[int, int] = (0, 1),
    ) -> TruncatedDecoder:
        """A truncated decoder over this model's autoencoder and joins."""
        adapter = self.adapter(memory=memory)
        return TruncatedDecoder(adapter, truncation, block=block, spatial_chunks=spatial_chunks, halo=halo, share=share)

    @property
    def taps(self) -> tuple[str, ...]:
        """Encoder blocks whose features the decoder needs."""
        return tuple(dict.fromkeys(self._tap_of.values()))

    def side_features(self, tapped: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tapped encoder features of one group as the decoder's side features."""
        return {join: tapped[tap] for join, tap in self._tap_of.items()}

    def encode(self, clip: torch.Tensor) -> Encoded:
        """Encode `[B, 3, T, H, W]`, T = 1 + 4k. Follows the ambient gradient mode.

        The first frame goes alone and all others as one chunk, which gives the same values to rounding as group by group.
        `ValueError` for a wrong rank, channel or frame count, or sides that do not divide into latents.
        """
        adapter = self.adapter()
        adapter.check_frames(clip)
        adapter.group_count(clip.shape[2])
        clip = clip.to(self.vae.dtype)
        head, cache, taps = adapter.encoder.group(clip[:, :, :1], adapter.initial_encoder_cache(), self.taps)
        means, sides = [head], [self.side_features(taps)]
        if clip.shape[2] > 1:
            rest, _, taps = adapter.encoder.group(clip[:, :, 1:], cache, self.taps)
            means.append(rest)
            sides += split_side(self.side_features(taps), rest.shape[2])
        mean = torch.cat(means, dim=2)[:, : adapter.latent_channels]
        return Encoded(adapter.normalise(mean), tuple(sides))

    def encode_groups(self, groups: Iterable[torch.Tensor]) -> Encoded:
        """Encode the groups of a clip (1 frame, then 4 at a time) one after the other, which holds one group's activations only."""
        decoder = TruncatedDecoder(self.adapter())
        encoded = list(decoder.encode_stream((group.to(self.vae.dtype) for group in groups), taps=self.taps))
        latents = torch.cat([group.latent for group in encoded], dim=2)
        return Encoded(self.adapter().normalise(latents), tuple(self.side_features(group.taps) for group in encoded))

    def predict(self, z_in: torch.Tensor) -> torch.Tensor:
        """Enhanced latents of normalised latents `[B, C, L, h, w]`: `z_in - v`, float32, all L in one window."""
        dtype = self.transformer.dtype
        batch = z_in.shape[0]
        timestep = torch.full((batch,), self.spec.timestep, device=z_in.device, dtype=torch.long)
        caption = self.caption.to(device=z_in.device, dtype=dtype).expand(batch, -1, -1)
        v = self.transformer(hidden_states=z_in.to(dtype), timestep=timestep, encoder_hidden_states=caption, return_dict=False)[0]
        return z_in.float() - v.float()

    def predict_windows(self, z_in: torch.Tensor, window: int | None = None, overlap: int | None = None) -> torch.Tensor:
        """`predict` in the overlapping windows that streaming uses."""
        window = self.spec.window if window is None else window
        return in_windows(z_in, window, self.spec.overlap if overlap is None else overlap, self.predict)

    def compose(self, x: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        """Enhanced frames `[B, 3, t, H, W]` from the input's frames and what the decoder gave.

        In mode "difference" `decoded` is `[2B, ...]`: of z_out first, then of z_in.
        """
        if self.spec.output == "direct":
            return decoded
        if self.spec.output == "residual":
            return x + decoded
        out, same = decoded.chunk(2, dim=0)
        return x + (out - same)

    def decoder_latents(self, z_in: torch.Tensor, z_out: torch.Tensor) -> torch.Tensor:
        """What the decoder takes (denormalised), `[B or 2B, C, L, h, w]`; see `compose`."""
        z = torch.cat([z_out, z_in], dim=0) if self.spec.output == "difference" else z_out
        return self.adapter().denormalise(z).to(self.vae.dtype)

    def decoder_side(self, side: SideFeatures) -> dict[str, torch.Tensor]:
        """Side features for the batch that `decoder_latents` makes."""
        if self.spec.output == "difference":
            return {name: torch.cat([value, value], dim=0) for name, value in side.items()}
        return dict(side)

    def side_of(self, encoded: Encoded) -> Side | None:
        """The side features of a clip as `TruncatedDecoder` asks for them."""
        if not self.spec.skips:
            return None
        return lambda index: self.decoder_side(encoded.side[index])

    def take_references(self, layers: int, seed: int = 0) -> None:
        """Look at so many layers of references from now on, with a fresh fusion where their number changes; 0: at none."""
        if layers == self.spec.references:
            return
        self.spec = replace(self.spec, references=layers)
        self.fusion = fresh_fusion(layers, seed).to(self.device) if layers else None

    @property
    def looks_at_opacity(self) -> bool:
        """Whether it makes a difference what is opaque."""
        return self.spec.opacity_noise > 0

    def emptied(self, encoded: Encoded, opacity: torch.Tensor | None, noise: torch.Tensor | None = None) -> Encoded:
        """A clip with noise in its latents where it has no opacity, as this enhancer was trained.

        Args:
            opacity: of the clip's pixels, `[B, 1, T, H, W]` in [0, 1]; None: all is opaque.
            noise: unit noise in the latents' shape; None: what clips are enhanced with.
        """
        if opacity is None or not self.looks_at_opacity:
            return encoded
        adapter, z = self.adapter(), encoded.latents
        small = latent_opacity(opacity.to(z.device), adapter.temporal_factor, adapter.spatial_factor)
        noise = fixed_noise(z, range(z.shape[2])) if noise is None else noise
        return encoded._replace(latents=with_noise(z, small, self.spec.opacity_noise, noise))

    def told(self, encoded: Encoded, inserted: torch.Tensor | None) -> Encoded:
        """A clip whose latents and side features know what was put in, `[B, 4, T, H, W]` in [0, 1]; itself for a model that is not told.
        Group by group, so that a group alone (`inserted` of its frames) gives what the whole does."""
        if inserted is None or self.mask_input is None:
            return encoded
        adapter, known = self.adapter(), inserted[:, :TOLD]
        groups = [known] if encoded.latents.shape[2] == 1 else split_into_groups(known, adapter.temporal_factor)
        parts = [part.to(encoded.latents.device).float() for part in groups]
        small = torch.cat([group_opacity(part, adapter.spatial_factor) for part in parts], dim=2)
        sides = tuple(with_told(side, part) for side, part in zip(encoded.side, parts, strict=True))
        return Encoded(self.mask_input(encoded.latents, small), sides)

    def fused(self, clip: torch.Tensor, references: torch.Tensor | None) -> torch.Tensor:
        """A clip mended with its references `[B, K * 4, T, H, W]` (see `ReferenceFusion`); itself where there are none, or they are not
        looked at. Every frame by itself, so that any part of a clip gives what the whole does."""
        return clip if references is None or self.fusion is None else self.fusion(clip, references)

    def forward(
        self,
        clip: torch.Tensor,
        *,
        strength: float = 1.0,
        opacity: torch.Tensor | None = None,
        references: torch.Tensor | None = None,
        inserted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Enhance a clip `[B, 3, T, H, W]` at once, unclamped. `strength` mixes the input, with what `references` gave it (see `fused`),
        and the result: 0 to 1. `opacity`: see `emptied`. `inserted`: what was put in, `[B, 4, T, H, W]` in [0, 1] (see `insertion`), for a
        model that harmonises. `ValueError` where it is missing, for a clip of a wrong rank, channel or frame count, or sides that are
        no multiple of `size_multiple`, `UserError` for a strength that is not between 0 and 1."""
        check_strength(strength)
        self.adapter().check_frames(clip)
        if clip.shape[3] % self.size_multiple or clip.shape[4] % self.size_multiple:
            raise ValueError(f"the clip's {clip.shape[3]}x{clip.shape[4]} pixels are no multiple of {self.size_multiple} along both sides")
        if self.spec.harmonises and inserted is None:
            raise ValueError("this enhancer harmonises: it must be told what was put in")
        x = self.fused(clip, references)
        # Group by group holds the least, but only without a graph.
        encoded = self.encode(x) if torch.is_grad_enabled() else self.encode_groups(split_into_groups(x, self.adapter().temporal_factor))
        encoded = self.told(self.emptied(encoded, opacity), inserted)
        z_out = self.predict_windows(encoded.latents)
        decoded = self.decoder().decode(self.decoder_latents(encoded.latents, z_out), side=self.side_of(encoded))
        return self.taken(x, self.compose(x, decoded), inserted, strength)

    def kept_inside(self, x: torch.Tensor, enhanced: torch.Tensor, inserted: torch.Tensor | None) -> torch.Tensor:
        """Enhanced frames with their change confined to the region around what was put in, for a model that harmonises."""
        return enhanced if inserted is None or not self.spec.harmonises else confined(x, enhanced, inserted[:, TOLD:])

    def taken(self, x: torch.Tensor, enhanced: torch.Tensor, inserted: torch.Tensor | None, strength: float) -> torch.Tensor:
        """What a user gets: of the change, confined as in `kept_inside`, as much as `strength` and the spec's `on_bodies` say."""
        if inserted is not None and self.spec.harmonises and self.spec.on_bodies < 1.0:
            region = less_on_bodies(inserted[:, TOLD:], inserted[:, :1], self.spec.on_bodies)
            return blend(x, confined(x, enhanced, region), strength)
        return blend(x, self.kept_inside(x, enhanced, inserted), strength)


def blend(x: torch.Tensor, enhanced: torch.Tensor, strength: float) -> torch.Tensor:
    """Input at strength 0, enhanced at 1, both exactly."""
    if strength == 0.0:
        return x
    return enhanced if strength == 1.0 else x + strength * (enhanced - x)


def split_side(side: Mapping[str, torch.Tensor], groups: int) -> list[dict[str, torch.Tensor]]:
    """Side features of several groups in one tensor, cut into one dict per group."""
    cut = {name: value.chunk(groups, dim=2) for name, value in side.items()}
    return [{name: pieces[i] for name, pieces in cut.items()} for i in range(groups)]


def join_side(sides: Sequence[SideFeatures]) -> dict[str, torch.Tensor]:
    """The inverse of `split_side`."""
    return {name: torch.cat([side[name] for side in sides], dim=2) for name in sides[0]} if sides else {}


def decode_at_once(adapter: WanAdapter, z: torch.Tensor, sides: Sequence[SideFeatures] | None) -> torch.Tensor:
    """Frames of denormalised latents with the full temporal gradient, in two calls: the first latent, then all others.

    Equal to group by group to rounding; for small models, where the activations of a whole clip fit.
    """
    first, cache = adapter.decode_group(z[:, :, :1], adapter.initial_decoder_cache(), 0, sides[0] if sides else None)
    if z.shape[2] == 1:
        return first
    rest, _ = adapter.decode_group(z[:, :, 1:], cache, 1, join_side(sides[1:]) if sides else None)
    return torch.cat([first, rest], dim=2)


def _key(block: str) -> str:
    return block.replace(".", "_")
