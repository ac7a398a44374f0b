from __future__ import annotations

import torch

from splatmend.recon.exposure import ExposureTable, apply_exposure, from_identity


def _table() -> ExposureTable:
    deltas = torch.zeros(4, 3, 4)
    deltas[:3, 0, 0] = torch.tensor([0.1, 0.3, 0.2])
    deltas[3, 2, 3] = 0.4
    return ExposureTable(cameras=("a", "a", "a", "b"), times_us=(0, 200, 1000, 100), deltas=deltas)


def test_the_mean_over_pictures_is_the_identity() -> None:
    table = _table()
    torch.testing.assert_close(from_identity(table.centred).mean(dim=0), torch.eye(3, 4))


def test_a_time_between_two_pictures_takes_a_mixture_and_ends_are_held() -> None:
    table = _table()
    maps = from_identity(table.centred)
    torch.testing.assert_close(table.at("a", 200), maps[1])
    torch.testing.assert_close(table.at("a", 50), 0.75 * maps[0] + 0.25 * maps[1])
    torch.testing.assert_close(table.at("a", -5), maps[0])
    torch.testing.assert_close(table.at("a", 9999), maps[2])


def test_cameras_do_not_mix_and_unknown_ones_are_left_alone() -> None:
    table = _table()
    torch.testing.assert_close(table.at("b", 900), from_identity(table.centred[3]))
    torch.testing.assert_close(table.at("c", 0), torch.eye(3, 4))
    torch.testing.assert_close(ExposureTable.identity([], []).at("a", 0), torch.eye(3, 4))


def test_json_keeps_what_is_applied() -> None:
    table = _table()
    back = ExposureTable.from_json(table.to_json())
    assert back.cameras == table.cameras
    assert back.times_us == table.times_us
    torch.testing.assert_close(back.at("a", 500), table.at("a", 500))


def test_gain_and_offset_act_on_colours() -> None:
    affine = torch.tensor([[2.0, 0, 0, 0.1], [0, 1, 0, 0], [0, 1, 0, 0]])
    torch.testing.assert_close(apply_exposure(torch.tensor([[0.2, 0.3, 0.4]]), affine), torch.tensor([[0.5, 0.3, 0.3]]))
