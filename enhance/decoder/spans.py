"""Which groups of a clip each of several processes answers for.

A process walks up to the end of its span: it decodes the groups before the span without a graph (but for D of them, which its losses
reach), so a late span costs more than an early one of the same length, and gets fewer groups.
"""

from __future__ import annotations

from bisect import bisect_left

BACKWARD_COST = {"fast": 1.0, "balanced": 1.6, "small": 2.7}
"""Seconds that one backward pass through a group takes, in seconds of its forward pass: measured, `docs/benchmarks.md`."""


def passing_cost(truncation: int, memory: str, block: int = 1) -> float:
    """Cost of decoding a group in passing, as a share of what it costs to pull its loss back across `truncation` links, in blocks."""
    return 1 / (1 + BACKWARD_COST.get(memory, 1.0) * (block + truncation) / block)


def span_of_share(groups: int, share: tuple[int, int], *, block: int = 1, passing: float = 0.0) -> range:
    """The groups of `groups` whose losses process i of n pulls back, `share` = (i, n), so that the slowest is as fast as can be.

    Spans follow one another, begin at multiples of `block`, and are empty where there are more processes than blocks. `passing`: see
    `passing_cost`.
    """
    index, count = share
    if count == 1:
        return range(groups)
    blocks = -(-groups // block)

    def edges(limit: float) -> list[int]:
        """Where spans end if each process takes all that it can within `limit`."""
        found = [0]
        for _ in range(count):
            room = int(limit - passing * found[-1] + 1e-9)
            found.append(min(blocks, found[-1] + max(room, 0)))
        return found

    costs = sorted(own + passing * before for own in range(1, blocks + 1) for before in range(blocks))
    ends = edges(costs[bisect_left(costs, True, key=lambda limit: edges(limit)[-1] == blocks)])
    return range(min(groups, ends[index] * block), min(groups, ends[index + 1] * block))
