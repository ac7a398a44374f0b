from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from tiny_log import gaussians

from splatmend.recon.gaussians import Gaussians, concatenate, left_matrices


def _random(count: int = 7, degree: int = 1) -> Gaussians:
    torch.manual_seed(0)
    return Gaussians(
        means=torch.randn(count, 3),
        quats_wxyz=torch.randn(count, 4),
        log_scales=torch.randn(count, 3),
        opacity_logits=torch.randn(count),
        sh=torch.randn(count, (degree + 1) ** 2, 3),
    )


def test_left_matrices_make_one_rotation_after_the_other() -> None:
    a, b = Rotation.random(5, random_state=1), Rotation.random(5, random_state=2)
    left, right = (torch.from_numpy(r.as_quat(scalar_first=True)) for r in (a, b))
    product = Rotation.from_quat((left_matrices(left) @ right[:, :, None])[:, :, 0].numpy(), scalar_first=True)
    np.testing.assert_allclose(product.as_matrix(), (a * b).as_matrix(), atol=1e-12)


def test_concatenation_keeps_order_and_fills_missing_harmonics_with_zeros() -> None:
    low, high = gaussians(np.zeros((2, 3)), np.full((2, 3), 0.5), 0.1), _random(3, degree=2)
    both = concatenate([low, high])
    assert len(both) == 5
    assert both.sh_degree == 2
    assert (both.sh[:2, 1:] == 0).all()
    torch.testing.assert_close(both.select(torch.tensor([2, 3, 4])).sh, high.sh)
