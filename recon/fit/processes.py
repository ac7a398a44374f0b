"""Several processes that fit one scene, each with pictures of its own, as `torchrun` or `accelerate launch` start them.

Gradients travel over the devices' own links (NCCL), what is agreed on between steps over the hosts' (gloo). A process that is alone has
none of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from splatmend.datasets.errors import UserError
from splatmend.datasets.launch import launched_count

_BUCKET_NUMBERS = 1 << 26
"""Numbers that travel at once: 256 MB of float32."""
_PATIENCE = timedelta(minutes=10)
"""A process that does not come to where the others wait by then has failed; the first one writes checkpoints meanwhile."""


@dataclass(frozen=True)
class Processes:
    """This process and those beside it. Everything but `rank` and `count` is to be called by all of them, in the same order."""

    rank: int = 0
    """Which one this is."""
    count: int = 1
    """How many there are."""
    group: Any = None
    """torch's process group; None for a process that is alone."""

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and shows."""
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over all processes into tensors of one type and device, in few collectives. Every process gets the same bits."""
        if self.count == 1:
            return
        with _named_failure():
            for bucket in _buckets(tensors):
                flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
                dist.all_reduce(flat, group=self.group)
                for tensor, total in zip(bucket, flat.split([tensor.numel() for tensor in bucket])):
                    tensor.copy_(total.view_as(tensor))

    def give(self, tensors: Sequence[Tensor]) -> None:
        """Put what the first process has into tensors of all."""
        if self.count > 1:
            with _named_failure():
                for tensor in tensors:
                    dist.broadcast(tensor, 0, group=self.group)

    def any(self, said: bool) -> bool:
        """Whether one of the processes says so."""
        if self.count == 1:
            return said
        flag = torch.tensor([float(said)])
        with _named_failure():
            dist.all_reduce(flag, group=self.group)
        return bool(flag.item() > 0)

    def gathered(self, value: Any) -> list[Any]:
        """What each process has, in the order of their ranks: small values of plain types."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with _named_failure():
            dist.all_gather_object(values, value, group=self.group)
        return values


ALONE = Processes()


@contextmanager
def joined_processes(device: torch.device) -> Iterator[Processes]:
    """The processes that were launched with this one, and this one's GPU chosen; `ALONE` where it was started by itself. All leave
    together, unless something fails.

    Raises:
        UserError: where the machine has fewer GPUs than processes.
    """
    count = launched_count()
    if count == 1:
        yield ALONE
        return
    if device.type == "cuda":
        place, cards = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= cards:
            raise UserError(f"fit: this machine has {cards} GPUs, too few for {place + 1} processes; start at most one for each GPU.")
        torch.cuda.set_device(place)
    with _named_failure():
        if not dist.is_initialized():
            # It stays to the end of the process: a second one would find what the first has left in the launcher's store.
            dist.init_process_group("gloo", timeout=_PATIENCE)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        group = dist.new_group(backend=backend, timeout=_PATIENCE)
    yield Processes(rank=dist.get_rank(group), count=count, group=group)
    # Not after a fault: others may never come to take leave, and the end of this process closes its connections.
    dist.destroy_process_group(group)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(held.numel() for held in bucket) >= _BUCKET_NUMBERS:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


@contextmanager
def _named_failure() -> Iterator[None]:
    """A collective that fails does so because another process is gone."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as fault:
        reason = (str(fault).splitlines() or ["no reason given"])[0][:160]
        raise UserError(
            f"fit: another process of this run has ended or does not answer ({reason}); mend what it says of itself, and go on with "
            "--resume where a checkpoint was written."
        ) from fault
