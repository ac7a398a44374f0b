"""Training losses: sums over frames, agreement with reference implementations, and errors a user can make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from splatmend.datasets.errors import UserError
from splatmend.datasets.image_metrics import lpips_available, lpips_network
from splatmend.enhance.losses import PixelLoss, check_losses, check_networks, latent_mse, random_views, structural_dissimilarity


def clips(frames: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, frames, 24, 24, generator=generator) * 2 - 1
    return a, (a + 0.2 * torch.randn(a.shape, generator=generator)).clamp(-1, 1)


def test_pixel_terms_sum_over_frames_whatever_the_grouping() -> None:
    a, b = clips()
    loss = PixelLoss({"l1": 2.0, "mse": 1.0, "ssim": 0.5})
    whole = loss(a, b)
    parts = loss.take_parts()
    grouped = loss(a[:, :, :1], b[:, :, :1]) + loss(a[:, :, 1:], b[:, :, 1:])
    torch.testing.assert_close(whole, grouped)
    torch.testing.assert_close(parts["l1"], 5 * (a - b).abs().mean())
    torch.testing.assert_close(parts["mse"], 5 * ((a - b) ** 2).mean())
    assert loss.take_parts().keys() == parts.keys()
    assert not loss.take_parts()


def test_ssim_agrees_with_piq_and_has_a_gradient() -> None:
    import piq

    a, b = clips(1)
    a, b = a[:, :, 0], b[:, :, 0].clone().requires_grad_()
    ours = structural_dissimilarity(a, b)
    # Both average over the windows that lie wholly in the picture.
    theirs = piq.ssim((a + 1) / 2, (b + 1) / 2, data_range=1.0, downsample=False, reduction="none")
    torch.testing.assert_close(1 - ours, theirs, atol=1e-5, rtol=1e-5)
    ours.sum().backward()
    assert b.grad is not None
    assert b.grad.abs().max() > 0
    torch.testing.assert_close(structural_dissimilarity(a, a), torch.zeros(2), atol=1e-6, rtol=0)


def test_latent_mse_is_a_mean() -> None:
    a, b = clips()
    torch.testing.assert_close(latent_mse(a, b), ((a - b) ** 2).mean())


def test_errors_name_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="sharpness"):
        check_losses({"sharpness": 1.0})
    for weight in (-1.0, float("nan")):
        with pytest.raises(UserError, match="l1 has the weight"):
            check_losses({"l1": weight})
    with pytest.raises(UserError, match="no loss"):
        check_losses({"l1": 0.0})
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"vgg16.*missing.*put"):
        check_networks({"lpips_vgg": 100.0})


def test_lpips_sums_over_frames() -> None:
    from splatmend.datasets.image_metrics import lpips_available

    if not lpips_available("squeeze"):
        pytest.skip("no SqueezeNet weights in the hub cache")
    a, b = (x[:1, :, :2] for x in clips())
    loss = PixelLoss({"lpips_squeeze": 1.0})
    torch.testing.assert_close(loss(a, b), loss(a[:, :, :1], b[:, :, :1]) + loss(a[:, :, 1:], b[:, :, 1:]), atol=1e-5, rtol=1e-4)
    assert loss(a, b) > 10 * loss(a, a).abs()


def test_views_are_windows_of_the_clip_at_any_offset() -> None:
    torch.manual_seed(0)
    height, width = 24, 40
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    # Pixels that say where they come from, twice as frames.
    clip = torch.stack([x / width, y / height, torch.zeros_like(x)])[:, None].expand(3, 2, height, width)
    views = random_views(clip.expand(200, -1, -1, -1, -1))
    torch.testing.assert_close(views[:, :, 0], views[:, :, 1])
    across, down = views[:, 0, 0], views[:, 1, 0]
    # Not to the very border, beyond whose last pixel there is nothing to interpolate.
    zoom = (height - 5) / height / (down[:, -3, 0] - down[:, 2, 0])
    assert 1.09 < zoom.min() < 1.2
    assert 2.0 < zoom.max() < 2.3
    torch.testing.assert_close((across[:, 0, -3] - across[:, 0, 2]).abs(), (width - 5) / width / zoom, atol=1e-4, rtol=1e-4)
    mirrored = (across[:, 0, -1] < across[:, 0, 0]).float().mean()
    assert 0.35 < mirrored < 0.65
    assert down.min() < 0.05
    assert down.max() > 0.95
    phase = (down[:, 0, 0] * height) % 2
    assert phase.histc(4, 0, 2).min() > 25


def test_lpips_of_views_is_lpips_of_what_they_show(monkeypatch: pytest.MonkeyPatch) -> None:
    from splatmend.datasets.image_metrics import lpips_available

    if not lpips_available("squeeze"):
        pytest.skip("no SqueezeNet weights in the hub cache")
    a, b = clips()
    torch.manual_seed(5)
    found = PixelLoss({"lpips_squeeze_views": 1.0})(a, b)
    torch.manual_seed(5)
    expected = PixelLoss({"lpips_squeeze": 1.0})(*random_views(torch.cat([a, b], dim=2)).chunk(2, dim=2))
    torch.testing.assert_close(found, expected)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "/nowhere")
    with pytest.raises(UserError, match=r"vgg16.*missing.*put"):
        check_networks({"lpips_vgg_views": 1.0})


def test_a_recipe_can_be_read_where_its_network_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`splatmend train RECIPE --help` must work everywhere; only training itself needs the network."""
    from splatmend.enhance.train.recipes import wan21_14b

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    recipe = wan21_14b()
    with pytest.raises(UserError, match="missing"):
        PixelLoss(recipe.losses)


@pytest.mark.skipif(not lpips_available("squeeze"), reason="SqueezeNet's weights are not in torch's hub cache")
def test_the_gram_loss_asks_which_features_go_together_and_not_where() -> None:
    a, b = clips(2)
    loss = PixelLoss({"gram_squeeze": 1.0})
    assert float(loss(a, a)) == 0.0
    moved = a.roll(12, dims=-1)
    net = lpips_network("squeeze").net
    wanted = torch.zeros(())
    for x, y in zip(*(net(lpips_network("squeeze").scaling_layer(c.transpose(1, 2).flatten(0, 1))) for c in (a, b)), strict=True):
        unit = [f / f.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-10) for f in (x, y)]
        grams = [torch.einsum("nchw,ndhw->ncd", f, f) / f[0, 0].numel() for f in unit]
        wanted = wanted + (grams[0] - grams[1]).square().sum() / a.shape[0]
    torch.testing.assert_close(loss(a, b), wanted, rtol=1e-4, atol=1e-6)
    both = PixelLoss({"lpips_squeeze": 1.0})
    assert float(loss(moved, a) / loss(b, a)) < 0.5 * float(both(moved, a) / both(b, a))
    frames = b.clone().requires_grad_()
    loss(frames, a).backward()
    assert frames.grad is not None
    assert frames.grad.abs().max() > 0


@pytest.mark.skipif(not lpips_available("squeeze"), reason="the LPIPS network is not on this machine")
def test_the_first_use_of_a_network_changes_nobodys_random_numbers() -> None:
    """A training that is resumed in a new process loads it behind the restored random state."""
    lpips_network.cache_clear()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    lpips_network("squeeze")
    assert torch.equal(torch.rand(3), expected)
