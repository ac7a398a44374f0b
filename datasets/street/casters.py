"""What a ray caster is, and Embree's (through Open3D). Others are in `numba_caster` (CPUs) and `torch_caster` (CUDA devices)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch

NO_HIT = -1


@dataclass(frozen=True)
class RayHits:
    """`distance [N]` along unit directions (infinite where nothing is hit), `triangle [N]` int64 (-1 where nothing is hit) and
    `barycentric [N, 2]`: weights of the triangle's second and third corner."""

    distance: torch.Tensor
    triangle: torch.Tensor
    barycentric: torch.Tensor


class RayCaster(Protocol):
    """Finds what rays hit; triangles are hit from both sides. Tensors come and go on `device`, float32."""

    device: torch.device

    def cast(self, origins: torch.Tensor, directions: torch.Tensor) -> RayHits:
        """Nearest hits of rays `[N, 3]`, `[N, 3]` (unit directions)."""
        ...

    def occluded(self, origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        """Whether anything lies on each ray, `[N]` bool."""
        ...


class EmbreeCaster:
    """Open3D's `RaycastingScene`, on the CPU."""

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray) -> None:
        import open3d

        self.device = torch.device("cpu")
        # Open3D's type stubs do not know its constructor from an array alone.
        self._tensor = cast(Any, open3d.core.Tensor)
        self._scene: Any = open3d.t.geometry.RaycastingScene()
        self._scene.add_triangles(
            self._tensor(np.ascontiguousarray(vertices, dtype=np.float32)),
            self._tensor(np.ascontiguousarray(triangles, dtype=np.uint32)),
        )

    def cast(self, origins: torch.Tensor, directions: torch.Tensor) -> RayHits:
        found = self._scene.cast_rays(self._rays(origins, directions))
        triangle = found["primitive_ids"].numpy().astype(np.int64)
        triangle[triangle == 0xFFFFFFFF] = NO_HIT
        return RayHits(
            torch.from_numpy(found["t_hit"].numpy()), torch.from_numpy(triangle), torch.from_numpy(found["primitive_uvs"].numpy())
        )

    def occluded(self, origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self._scene.test_occlusions(self._rays(origins, directions)).numpy())

    def _rays(self, origins: torch.Tensor, directions: torch.Tensor) -> Any:
        return self._tensor(torch.cat([origins, directions], dim=1).contiguous().numpy())


Backend = Literal["embree", "numba", "torch"]


def best_backend(device: torch.device) -> Backend:
    """Embree on the CPU where Open3D is installed, else Numba's; torch elsewhere."""
    if device.type != "cpu":
        return "torch"
    import importlib.util

    return "embree" if importlib.util.find_spec("open3d") else "numba"


def build_caster(vertices: np.ndarray, triangles: np.ndarray, backend: Backend, device: torch.device) -> RayCaster:
    """A caster for a mesh `[V, 3]`, `[F, 3]`."""
    if backend == "embree":
        return EmbreeCaster(vertices, triangles)
    if backend == "numba":
        from splatmend.datasets.street.numba_caster import NumbaCaster

        return NumbaCaster(vertices, triangles)
    from splatmend.datasets.street.torch_caster import TorchCaster

    return TorchCaster(vertices, triangles, device)
