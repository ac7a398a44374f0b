"""Holds a fast rasteriser against the oracle; shared by the tests of both backends."""

from __future__ import annotations

import torch
from raster_oracle import rasterize_oracle
from raster_scenes import PARAMETERS, RasterScene, loss_weights

from splatmend.recon.raster import rasterize


def check_against_oracle(scene: RasterScene, device: str, value_tolerance: float, gradient_tolerance: float) -> None:
    """Values by largest error, gradients by largest error over the tensor's largest entry.

    Pixels where float32 may fall on the other side of a threshold take part in neither; they must stay few.
    """
    channel_count = scene.channels.shape[1]
    background = torch.linspace(-0.5, 1.0, channel_count)
    exact_leaves = scene.parameters()
    exact = rasterize_oracle(*exact_leaves, *scene.camera(), background=background)
    assert exact.decided.float().mean() > 0.9

    leaves = scene.parameters(device)
    output = rasterize(*leaves, *scene.camera(device), background=background.to(device))
    assert torch.equal(output.visible.cpu(), exact.visible)
    assert torch.equal(output.visible, output.radii_px > 0)
    decided = exact.decided
    picture, opacity = output.channels.cpu(), output.opacity.cpu()
    assert (picture - exact.channels)[decided].abs().max() < value_tolerance
    assert (opacity - exact.opacity)[decided].abs().max() < value_tolerance

    for_picture, for_opacity = loss_weights(scene, decided, channel_count)
    ((picture * for_picture).sum() + (opacity * for_opacity).sum()).backward()
    ((exact.channels * for_picture).sum() + (exact.opacity * for_opacity).sum()).backward()
    pairs = {name: (leaf.grad, exact_leaf.grad) for name, leaf, exact_leaf in zip(PARAMETERS, leaves, exact_leaves, strict=True)}
    assert output.means2d is not None
    if len(scene.means):
        drawn = exact.visible
        assert drawn.sum() > 10
        pairs["means2d"] = (output.means2d.grad.cpu()[drawn], exact.means2d.grad[drawn])
    for name, (gradient, expected) in pairs.items():
        error = (gradient.cpu() - expected).abs().amax() / expected.abs().amax() if expected.numel() else torch.zeros(())
        assert error < gradient_tolerance, f"{name}: {error:.2e}"
