"""Points seen in several pictures: SIFT features matched along the epipolar lines of known poses and joined to tracks.

SIFT: Lowe, IJCV 2004; its Hellinger form ("RootSIFT"): Arandjelovic and Zisserman, CVPR 2012. Cameras may be distorted: everything
after detection works in undistorted normalised coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from splatmend.datasets.geometry import inverse
from splatmend.datasets.log import Camera
from splatmend.datasets.undistort import ideal_from_pixels

SIFT_CONTRAST = 0.01  # a quarter of OpenCV's default: road and walls are flat
# Measured on street and indoor photos by matching along lines shifted by 60 px, where every match is false: with these three, false
# matches are about 1 in 150; with competitors from the line alone and no least similarity they were 1 in 9.
RATIO = 0.85
MIN_SIMILARITY = 0.9
COMPETITOR_PX = 10.0


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of one picture: `ideal [K, 2]` normalised coordinates, `descriptors [K, 128]` float16 of unit length, `rgb [K, 3]`
    uint8; and the camera's `focal_px` (mean of both) and `camera_from_world [4, 4]`."""

    ideal: np.ndarray
    descriptors: np.ndarray
    rgb: np.ndarray
    focal_px: float
    camera_from_world: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Who saw which track where: `track [M]`, `picture [M]` and `feature [M]` int64, sorted by track, then picture."""

    track: np.ndarray
    picture: np.ndarray
    feature: np.ndarray


def detect(image: np.ndarray, camera: Camera, world_from_camera: np.ndarray, limit: int) -> Features:
    """The `limit` strongest features of a picture `[H, W, 3]` uint8."""
    sift = cv2.SIFT.create(nfeatures=limit, contrastThreshold=SIFT_CONTRAST, enable_precise_upscale=True)
    keypoints, descriptors = sift.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
    if descriptors is None:
        keypoints, descriptors = (), np.zeros((0, 128), dtype=np.float32)
    pixels = np.array([keypoint.pt for keypoint in keypoints], dtype=np.float64).reshape(-1, 2)
    pixels, kept = np.unique(pixels, axis=0, return_index=True)  # a corner with two orientations is one point
    total = descriptors[kept].sum(axis=1, keepdims=True)
    nearest = np.clip(np.round(pixels).astype(np.int64), 0, (camera.width - 1, camera.height - 1))
    return Features(
        ideal=ideal_from_pixels(camera, pixels + 0.5),  # OpenCV counts pixel centres from 0
        descriptors=np.sqrt(descriptors[kept] / np.maximum(total, 1e-9)).astype(np.float16),
        rgb=image[nearest[:, 1], nearest[:, 0]],
        focal_px=float(np.mean(camera.focal_px)),
        camera_from_world=inverse(world_from_camera),
    )


def match(a: Features, b: Features, epipolar_px: float) -> np.ndarray:
    """Pairs `[M, 2]` of features of a and b that are each other's best within `epipolar_px` of the epipolar line, and clearly better
    (Lowe's ratio test) than any other feature within `COMPETITOR_PX` of it."""
    if len(a.ideal) < 2 or len(b.ideal) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    distance_px = _epipolar_distance_px(a, b)
    competing = a.descriptors.astype(np.float32) @ b.descriptors.astype(np.float32).T
    competing[distance_px > max(COMPETITOR_PX, epipolar_px)] = -1.0
    candidates = np.where(distance_px <= epipolar_px, competing, np.float32(-1.0))
    rows = np.arange(len(candidates))
    best = candidates.argmax(axis=1)
    first = candidates[rows, best]
    mutual = candidates.argmax(axis=0)[best] == rows
    competing[rows, best] = -1.0
    # The squared distance of unit vectors is 2 - 2 s.
    distinct = (1 - first) < RATIO**2 * (1 - competing.max(axis=1))
    chosen = mutual & distinct & (first > MIN_SIMILARITY)
    return np.stack([rows[chosen], best[chosen]], axis=-1)


def join(features: Sequence[Features], pairs: Sequence[tuple[int, int, np.ndarray]], min_views: int) -> Observations:
    """Connected matches as tracks. Tracks with two features in one picture contradict themselves and are dropped."""
    offsets = np.concatenate([[0], np.cumsum([len(f.ideal) for f in features])]).astype(np.int64)
    edges = [offsets[[a, b]] + matches for a, b, matches in pairs if len(matches)]
    empty = np.zeros(0, dtype=np.int64)
    if not edges:
        return Observations(track=empty, picture=empty, feature=empty)
    ends = np.concatenate(edges)
    count = int(offsets[-1])
    graph = coo_matrix((np.ones(len(ends), dtype=np.int8), (ends[:, 0], ends[:, 1])), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    picture = np.repeat(np.arange(len(features)), np.diff(offsets))
    views = np.bincount(component)
    distinct = np.unique(component * len(features) + picture, return_index=True)[1]
    consistent = np.bincount(component[distinct], minlength=len(views)) == views
    node = np.flatnonzero((consistent & (views >= min_views))[component])
    node = node[np.lexsort((picture[node], component[node]))]
    track = np.unique(component[node], return_inverse=True)[1]
    return Observations(track=track, picture=picture[node], feature=node - offsets[picture[node]])


def _epipolar_distance_px(a: Features, b: Features) -> np.ndarray:
    """Distance `[Ka, Kb]` in pixels of b's features from the lines on which a's must lie (essential matrix E = [t]x R)."""
    b_from_a = b.camera_from_world @ inverse(a.camera_from_world)
    t = b_from_a[:3, 3]
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    ones = np.ones((len(a.ideal), 1))
    lines = np.concatenate([a.ideal, ones], axis=1) @ (cross @ b_from_a[:3, :3]).T
    lines = lines / np.maximum(np.linalg.norm(lines[:, :2], axis=1, keepdims=True), 1e-12)
    points = np.concatenate([b.ideal, np.ones((len(b.ideal), 1))], axis=1)
    return np.abs(lines.astype(np.float32) @ points.T.astype(np.float32)) * np.float32(b.focal_px)
