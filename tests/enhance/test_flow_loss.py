"""The loss on flicker: what costs nothing, what costs something, its gradient, and its way through a training step."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter
from splatmend.datasets.errors import UserError
from splatmend.enhance.flow_loss import Motion, flow_warping, target_flow, warped
from splatmend.enhance.losses import FLOW_WARPING, PixelLoss
from splatmend.enhance.small import small_enhancer, small_transformer, small_vae
from splatmend.enhance.train.config import OneStepTrainConfig
from splatmend.enhance.train.data import Batch, DataConfig
from splatmend.enhance.train.identity import differences
from splatmend.enhance.train.onestep import OneStepObjective, choose_parameters, train_onestep

FRAMES, SIDE = 5, 64


def moving_target(step_px: int = 3) -> np.ndarray:
    """A smooth texture that moves to the right, `[T, H, W, 3]` uint8."""
    y, x = np.mgrid[0:SIDE, 0 : SIDE + 40].astype(np.float64)
    waves = [np.sin(x / a + y / b) for a, b in ((3.0, 5.0), (4.1, -3.3), (7.0, 2.9))]
    texture = np.stack([127 + 100 * wave for wave in waves], axis=-1)
    return np.stack([texture[:, 40 - step_px * i :][:, :SIDE] for i in range(FRAMES)]).astype(np.uint8)


def tensors(frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The clip `[1, 3, T, H, W]` in [-1, 1] and its flow."""
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    return clip, torch.from_numpy(target_flow(frames))[None]


def loss_of(clip: torch.Tensor, target: torch.Tensor, flow: torch.Tensor) -> float:
    return float(PixelLoss({FLOW_WARPING: 1.0})(clip, target, Motion(flow)))


def test_flow_follows_the_target() -> None:
    target, flow = tensors(moving_target())
    assert flow[:, 2, 0].sum() == 0  # the first frame has none before it
    seen = flow[0, 2, 1:] > 0
    assert seen.float().mean() > 0.7
    assert flow[0, 0, 1:][seen].float().median() == pytest.approx(-3.0, abs=0.2)
    moved = warped(target[:, :, :-1], flow[:, :2, 1:].float())
    still, followed = ((target[:, :, 1:] - before).abs().mean(1)[0][seen].mean() for before in (target[:, :, :-1], moved))
    assert followed < 0.25 * still


def test_a_warp_by_whole_pixels_is_exact() -> None:
    clip = torch.rand(2, 3, 1, 8, 12, dtype=torch.float64)
    flow = torch.zeros(2, 2, 1, 8, 12, dtype=torch.float64)
    flow[:, 0], flow[:, 1] = 2.0, -1.0
    torch.testing.assert_close(warped(clip, flow)[..., 1:, :-2], clip[..., :-1, 2:])


def test_what_flickers_costs_and_what_stays_does_not() -> None:
    target, flow = tensors(moving_target())
    assert loss_of(target, target, flow) == 0.0
    cast = torch.tensor([0.2, -0.1, 0.3])[None, :, None, None, None]
    assert loss_of(target + cast, target, flow) < 1e-5  # wrong, and everywhere alike
    # Dirt that moves with the world.
    dirt = torch.from_numpy(moving_target()[..., ::-1].copy()).permute(3, 0, 1, 2)[None].float() / 255 - 0.5
    flicker = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])[None, None, :, None, None]
    consistent, flickering = loss_of(target + 0.3 * dirt, target, flow), loss_of(target + 0.3 * dirt * flicker, target, flow)
    assert flickering > 5 * consistent
    assert loss_of(target + 0.1 * flicker, target, flow) == pytest.approx(4 * 0.2 * float(flow[0, 2, 1:].float().mean()), rel=0.01)


def test_what_is_hidden_does_not_count() -> None:
    target, flow = tensors(moving_target())
    hidden = flow[:, 2:, 1:] == 0
    assert hidden.any()
    output = target.clone()
    output[:, :, 1:] += 5.0 * hidden
    flow[:, 2:, 2:] *= (flow[:, 2:, 2:] > 0) & ~_reaches(hidden[:, :, :-1], flow[:, :2, 2:])
    assert loss_of(output, target, flow) < 1e-5


def _reaches(hidden: torch.Tensor, flow_px: torch.Tensor) -> torch.Tensor:
    """Where a warp takes anything of what was hidden in the frame before."""
    return warped(hidden.float(), flow_px.float()) > 0


def test_gradient_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    error = torch.randn(1, 2, 3, 6, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    flow = torch.cat(
        [torch.randn(1, 2, 3, 6, 7, generator=generator) * 1.5, (torch.rand(1, 1, 3, 6, 7, generator=generator) < 0.7).float()], dim=1
    ).double()
    before = torch.randn(1, 2, 1, 6, 7, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda e: flow_warping(e, Motion(flow)), (error,))
    assert torch.autograd.gradcheck(lambda e: flow_warping(e, Motion(flow, before)), (error,))


def test_the_sum_over_frames_is_the_same_however_they_are_grouped() -> None:
    target, flow = tensors(moving_target())
    output = target + 0.2 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    loss = PixelLoss({FLOW_WARPING: 2.0, "l1": 1.0})
    whole = loss(output, target, Motion(flow))
    first = loss(output[:, :, :1], target[:, :, :1], Motion(flow[:, :, :1]))
    before = (output - target)[:, :, :1]
    rest = loss(output[:, :, 1:], target[:, :, 1:], Motion(flow[:, :, 1:], before))
    torch.testing.assert_close(first + rest, whole)
    with pytest.raises(ValueError, match="needs the motion of the target"):
        loss(output, target)


def step(truncation: int | None, output: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    enhancer = small_enhancer(small_vae(8), small_transformer(1, 1, 32), output=output)  # type: ignore[arg-type]
    torch.nn.init.normal_(enhancer.vae.decoder.conv_out.weight, std=0.2)
    torch.nn.init.normal_(enhancer.transformer.proj_out.weight, std=0.2)
    settings = OneStepTrainConfig(
        steps=1, lr=1e-3, precision="fp32", device="cpu", clip_frames=5, crop_px=(SIDE, SIDE), losses={"l1": 0.01}, flow_warping=1.0,
        truncation=truncation, decoder="full", ema=None,
    )  # fmt: skip
    target, flow = tensors(moving_target())
    degraded = (target + 0.3 * torch.randn(target.shape, generator=torch.Generator().manual_seed(2))).clamp(-1, 1)
    parameters = choose_parameters(settings, enhancer)
    metrics = OneStepObjective(settings, enhancer).add_gradients(Batch(degraded, target, ("pair",), flow=flow))
    return metrics, {name: p.grad for name, p in parameters.items() if p.grad is not None}


@pytest.mark.parametrize("output", ["residual", "difference"])
def test_a_training_step_measures_it_across_groups(output: str) -> None:
    """Groups see the last frame of the one before as a constant: the same loss as of the whole clip, and another gradient of that frame."""
    whole, exact = step(None, output)
    grouped, truncated = step(1, output)
    assert whole[FLOW_WARPING] > 0.01
    torch.testing.assert_close(grouped[FLOW_WARPING], whole[FLOW_WARPING], atol=1e-4, rtol=1e-3)
    assert truncated.keys() == exact.keys()
    alike = [torch.nn.functional.cosine_similarity(truncated[name].flatten(), exact[name].flatten(), dim=0) for name in exact]
    assert 0.5 < float(torch.stack(alike).median()) < 0.99999


def test_training_asks_for_flows_only_where_they_count(tmp_path: Path) -> None:
    manifest = Manifest(kind="clip", config={})
    for name in ("good", "bad"):
        with building(tmp_path / name, manifest) as folder, ClipWriter(folder) as writer:
            for i, frame in enumerate(moving_target()):
                writer.write(frame if name == "good" else frame // (2 + i % 2))
            manifest.facts = writer.facts
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"degraded": "bad", "target": "good"}) + "\n")
    data = DataConfig(pairs=(tmp_path / "pairs.jsonl",), clean_share=0.0, mild_share=0.0)
    settings = OneStepTrainConfig(
        steps=1, lr=1e-3, precision="fp32", device="cpu", clip_frames=5, crop_px=(32, 32), losses={"l1": 1.0}, truncation=None,
        decoder="full", ema=None, log=False, log_every=1,
    )  # fmt: skip
    rows = {}
    for weight in (0.0, 0.5):
        model = small_enhancer(small_vae(8), small_transformer(1, 1, 32))
        out = tmp_path / f"out{weight}"
        train_onestep(dataclasses.replace(settings, flow_warping=weight), data, model, out)
        rows[weight] = json.loads((out / "curve.jsonl").read_text().splitlines()[0])
    assert FLOW_WARPING not in rows[0.0]
    # A residual enhancer begins as the identity, so this is the flicker of the degraded clip.
    assert rows[0.5][FLOW_WARPING] > 0.05
    assert rows[0.5]["loss"] == pytest.approx(rows[0.0]["loss"] + 0.5 * rows[0.5][FLOW_WARPING], rel=1e-4)
    with pytest.raises(UserError, match="flow_warping is -1"):
        dataclasses.replace(settings, flow_warping=-1.0)
    with pytest.raises(UserError, match="there is no loss named flow_warping"):
        dataclasses.replace(settings, losses={FLOW_WARPING: 1.0})


def test_checkpoints_from_before_go_on() -> None:
    now = {"sources": {}, "lr": 1e-3, "flow_warping": 0.0, "model.opacity_noise": 0.0, "opacity_noise": None}
    before = {"sources": {}, "lr": 1e-3}
    assert differences(before, now) == []
    assert differences(before, now | {"flow_warping": 0.5}) == ["flow_warping was 0.0 and is 0.5"]
