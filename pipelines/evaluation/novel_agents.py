"""NTA-IoU and NTL-IoU: whether a detector finds vehicles, and a lane model the lane lines, where they must be in a picture nobody took.

After DriveDreamer4D (2024, novel trajectory agent and lane IoU). A recorded vehicle's box is projected into the new view; its score is the
IoU with the detection whose centre is nearest, or 0 where that lies farther away than half the box's diagonal. Lane lines score the IoU of
their pixels with those that the model says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import box_iou

from splatmend.datasets.log import SceneLog
from splatmend.datasets.shot import Shot
from splatmend.pipelines.boxes import actor_outline_px

LEAST_SIDE_PX = 8
"""Boxes with a shorter side are not asked for: a detector cannot be expected to find them."""
LEAST_INSIDE = 0.6
"""Share of a box's rectangle that must lie in the picture."""
MOST_HIDDEN = 0.5
"""Share of a box's rectangle that nearer boxes may cover."""


@dataclass(frozen=True, kw_only=True)
class AgentView:
    """`expected_px [N, 4]`: rectangles (left, top, right, bottom) of the vehicles that should be seen; `found_px [M, 4]`: detections."""

    expected_px: np.ndarray
    found_px: np.ndarray


@dataclass(frozen=True, kw_only=True)
class LaneView:
    """Lane lines `[H, W]` bool: where they are, and where a model finds them."""

    expected: np.ndarray
    found: np.ndarray


def expected_boxes_px(log: SceneLog, shot: Shot) -> np.ndarray:
    """Rectangles `[N, 4]` around the boxes of the vehicles that a shot should show: large enough, mostly inside the picture, and not hidden
    by nearer ones. What stands still, as buildings, hides nothing here: that is known of renders alone, which are what is judged."""
    near_first = sorted(
        (actor for actor in log.actors if actor.actor_class == "vehicle" and actor.is_labelled(shot.mid_us)),
        key=lambda actor: float(np.linalg.norm(actor.world_from_actor(shot.mid_us)[:3, 3] - shot.world_from_camera[:3, 3])),
    )
    width, height = shot.camera.width, shot.camera.height
    covered = np.zeros((height, width), dtype=bool)
    expected = []
    for actor in near_first:
        outline = actor_outline_px(shot, actor)
        if len(outline) < 3:
            continue
        first, last = outline.min(axis=0), outline.max(axis=0)
        inside = np.concatenate([np.maximum(first, 0.0), np.minimum(last, (width, height))])
        sides = inside[2:] - inside[:2]
        if min(sides) <= 0:
            continue
        rows, columns = slice(int(inside[1]), int(np.ceil(inside[3]))), slice(int(inside[0]), int(np.ceil(inside[2])))
        shown = sides[0] * sides[1] >= LEAST_INSIDE * np.prod(last - first)
        if shown and min(sides) >= LEAST_SIDE_PX and covered[rows, columns].mean() <= MOST_HIDDEN:
            expected.append(inside)
        covered[rows, columns] = True
    return np.array(expected).reshape(-1, 4)


def nta_iou(view: AgentView) -> float | None:
    """The mean over the expected rectangles; None where there is none."""
    if not len(view.expected_px):
        return None
    if not len(view.found_px):
        return 0.0
    overlap = box_iou(torch.from_numpy(view.expected_px), torch.from_numpy(view.found_px)).numpy()
    expected, found = ((boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in (view.expected_px, view.found_px))
    apart = np.linalg.norm(expected[:, None] - found[None], axis=-1)
    nearest = apart.argmin(axis=1)
    rows = np.arange(len(expected))
    reach = np.linalg.norm(view.expected_px[:, 2:] - view.expected_px[:, :2], axis=1) / 2
    return float(np.where(apart[rows, nearest] <= reach, overlap[rows, nearest], 0.0).mean())


def ntl_iou(view: LaneView) -> float | None:
    """IoU of the lines' pixels; None where none should be seen."""
    if not view.expected.any():
        return None
    return float((view.expected & view.found).sum() / (view.expected | view.found).sum())
