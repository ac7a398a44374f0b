"""What stands in a body's way is no part of what lights it."""

from __future__ import annotations

import numpy as np
import torch
from asset_shapes import blobs

from splatmend.datasets.geometry import yaw_pose
from splatmend.recon.light.clearing import clear_of_body

SIZE_M = (4.0, 2.0, 1.6)


def test_what_is_inside_along_the_way_is_gone_and_all_else_stays() -> None:
    xyz = np.array(
        [
            [0.0, 0.0, 0.8],  # inside at the start
            [9.0, 0.5, 0.5],  # inside on the way
            [20.0, 0.0, 1.2],  # inside at the end
            [9.0, 0.5, 0.05],  # the ground below
            [9.0, 1.6, 0.8],  # beside the way
            [9.0, 0.0, 2.2],  # above it
            [-4.0, 0.0, 0.8],  # behind the start
        ]
    )
    background = blobs(xyz, np.full_like(xyz, 0.5), 0.1)
    # Both way and height are those of the centre of the box.
    track = np.stack([yaw_pose(0.0, np.array([x, 0.0, SIZE_M[2] / 2])) for x in np.linspace(0, 20, 41)])
    left = clear_of_body(background, track, SIZE_M)
    torch.testing.assert_close(left.means, background.means[3:], rtol=0, atol=0)
    torch.testing.assert_close(left.sh, background.sh[3:], rtol=0, atol=0)
    across = np.stack([yaw_pose(np.pi / 2, np.array([9.0, 0.0, SIZE_M[2] / 2]))])
    assert len(clear_of_body(background, across, SIZE_M)) == 5, "turned across, it reaches what is beside the way, and not the rest"
