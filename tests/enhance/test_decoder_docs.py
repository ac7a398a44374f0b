"""The example of `docs/chopgrad.md` runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

PAGE = Path(__file__).resolve().parents[2] / "docs" / "chopgrad.md"


def test_the_example_trains_a_model(tiny_wan):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(1, 3, 9, 8, 8, generator=generator) * 2 - 1
    model = nn.Conv3d(4, 4, 1)
    names = {"vae": tiny_wan(dtype=torch.float32), "degraded": 0.5 * target, "target": target, "model": model}
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        optimiser.zero_grad()
        exec(compile(example, str(PAGE), "exec"), names)
        optimiser.step()
        losses.append(float(names["result"].loss))
    assert losses[-1] < losses[0]
    frames = names["decoder"].decode(names["z"])
    torch.testing.assert_close(names["result"].loss, (frames - target).abs().mean().detach())
