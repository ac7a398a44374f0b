from __future__ import annotations

import pytest
import torch

from splatmend.recon.bilateral import slice_grid, variation
from splatmend.recon.exposure import ExposureTable, apply_exposure, from_identity


def _grids(pictures: int = 2, levels: int = 3, rows: int = 4, columns: int = 5) -> torch.Tensor:
    return 0.2 * torch.randn(pictures, levels, rows, columns, 3, 4, generator=torch.Generator().manual_seed(0))


def test_slicing_is_trilinear_interpolation() -> None:
    grid = _grids()[0] + torch.eye(3, 4)
    rgb = torch.rand(6, 9, 3, generator=torch.Generator().manual_seed(1))
    brightness = rgb @ torch.tensor([0.299, 0.587, 0.114])
    x, y = 2 * (torch.arange(9) + 0.5) / 9 - 1, 2 * (torch.arange(6) + 0.5) / 6 - 1
    places = torch.stack([x.expand(6, 9), y[:, None].expand(6, 9), 2 * brightness - 1], dim=-1)
    volume = grid.flatten(3).permute(3, 0, 1, 2)[None]
    maps = torch.nn.functional.grid_sample(volume, places[None, None], align_corners=True, padding_mode="border")
    maps = maps[0, :, 0].permute(1, 2, 0).view(6, 9, 3, 4)
    expected = (maps[..., :3] @ rgb[..., None])[..., 0] + maps[..., 3]
    torch.testing.assert_close(slice_grid(grid, rgb), expected, rtol=1e-5, atol=1e-6)


def test_a_grid_of_equal_maps_is_that_map() -> None:
    affine = torch.eye(3, 4) + 0.1 * torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    rgb = 1.4 * torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(3)) - 0.2
    torch.testing.assert_close(apply_exposure(rgb, affine.expand(4, 8, 8, 3, 4)), apply_exposure(rgb, affine))
    torch.testing.assert_close(apply_exposure(rgb, affine.expand(1, 1, 1, 3, 4)), apply_exposure(rgb, affine))


def test_gradients_are_those_of_finite_differences() -> None:
    grid = _grids(levels=3)[0].double().requires_grad_()
    # Away from the levels, where brightness has a corner.
    rgb = (0.1 + 0.3 * torch.rand(3, 4, 3, generator=torch.Generator().manual_seed(4))).double().requires_grad_()
    assert torch.autograd.gradcheck(slice_grid, (grid, rgb), fast_mode=True)


def test_variation_is_nothing_for_equal_maps_and_counts_every_axis() -> None:
    assert float(variation(torch.eye(3, 4).expand(3, 4, 5, 3, 4))) == 0
    assert float(variation(torch.eye(3, 4).expand(1, 1, 1, 3, 4))) == 0
    for axis in range(3):
        ramp = torch.arange(4.0).view([4 if a == axis else 1 for a in range(5)]).expand([*(4 if a == axis else 2 for a in range(3)), 3, 4])
        assert float(variation(ramp)) == pytest.approx(1.0)


def test_what_pictures_have_in_common_at_a_brightness_is_the_scenes_but_not_at_a_place() -> None:
    table = ExposureTable(cameras=("a", "a"), times_us=(0, 100), deltas=_grids())
    mean = from_identity(table.centred).mean(dim=(0, 2, 3))
    torch.testing.assert_close(mean, torch.eye(3, 4).expand(3, 3, 4))
    vignette = torch.zeros(2, 3, 4, 5, 3, 4)
    vignette[:, :, 0, 0, :, :3] = -0.4 * torch.eye(3)
    kept = from_identity(ExposureTable(cameras=("a", "a"), times_us=(0, 100), deltas=vignette).centred[0])
    torch.testing.assert_close(kept[:, 0, 0, 0, 0] - kept[:, 2, 2, 0, 0], torch.full((3,), -0.4))
    torch.testing.assert_close(table.with_deltas(table.centred).centred, table.centred)


def test_pictures_that_were_not_trained_take_a_mixture_of_their_neighbours_grids() -> None:
    table = ExposureTable(cameras=("a", "a"), times_us=(0, 100), deltas=_grids())
    assert table.grid == (3, 4, 5)
    maps = from_identity(table.centred)
    torch.testing.assert_close(table.at("a", 25), 0.75 * maps[0] + 0.25 * maps[1])
    torch.testing.assert_close(table.at("a", 900), maps[1])
    rgb = torch.rand(6, 9, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(apply_exposure(rgb, table.at("unknown", 0)), rgb)
    assert ExposureTable.identity(["a"], [0], (2, 3, 4)).deltas.shape == (1, 2, 3, 4, 3, 4)


@pytest.mark.parametrize("broken", [torch.zeros(1, 3, 4, 5, 3, 4), torch.zeros(2, 3, 4), torch.full((2, 3, 4, 5, 3, 4), float("nan"))])
def test_grids_that_are_not_the_tables_are_refused(broken: torch.Tensor) -> None:
    table = ExposureTable(cameras=("a", "a"), times_us=(0, 100), deltas=_grids())
    back = ExposureTable.from_json(table.to_json(), table.centred)
    torch.testing.assert_close(back.at("a", 60), table.at("a", 60))
    with pytest.raises(ValueError, match="are not those of the table"):
        ExposureTable.from_json(table.to_json(), broken)
