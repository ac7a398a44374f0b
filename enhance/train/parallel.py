"""Several processes on one training: groups of them share a clip, and all of them may share the transformer's weights.

The transformer's tokens are split by diffusers (Ulysses attention), its weights by PyTorch's `fully_shard`, and the decoder's losses by
spans of groups. Every process of a context group then holds a part of each gradient, so gradients are *summed* over the group, and
averaged over the groups, each of which has its own clip.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.distributed as dist
from accelerate import Accelerator
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from splatmend.datasets.errors import UserError

_BUCKET_BYTES = 1 << 28


class Processes:
    """Who works on which clip. `index` of `clips` clips in a step; `part` of the `context` processes that share it."""

    def __init__(self, accelerator: Accelerator, context: int = 1, *, shard: bool = False) -> None:
        """Raises `UserError` where the processes do not divide into groups of `context`."""
        count = accelerator.num_processes
        if count % context:
            raise UserError(
                f"training: {count} processes do not divide into groups of {context}; start a multiple of context_parallel with torchrun."
            )
        if shard and count == 1:
            raise UserError("training: shard spreads weights over processes, but there is only one; start several with torchrun.")
        self.accelerator, self.context = accelerator, context
        self.clips = count // context
        self.index, self.part = divmod(accelerator.process_index, context)
        self.mesh: DeviceMesh | None = None
        if context > 1 or shard:
            # diffusers wants its two axes by name; the ring one is not used.
            self.mesh = init_device_mesh(accelerator.device.type, (self.clips, 1, context), mesh_dim_names=("clips", "ring", "ulysses"))

    @property
    def share(self) -> tuple[int, int]:
        """The share of a clip's groups whose losses this process pulls back."""
        return self.part, self.context

    def sum_over_context(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over the processes that share this clip."""
        if self.context == 1 or self.mesh is None:
            return tensor
        total = tensor.contiguous()
        dist.all_reduce(total, group=self.mesh["ulysses"].get_group())
        return total

    def combine_gradients(self, gradients: list[torch.Tensor]) -> None:
        """In place: summed over each context group, averaged over the groups. Sharded gradients are combined already."""
        if self.accelerator.num_processes == 1:
            return
        bucket: list[torch.Tensor] = []
        for gradient in [g for g in gradients if not isinstance(g, DTensor)]:
            bucket.append(gradient)
            if sum(g.nbytes for g in bucket) >= _BUCKET_BYTES:
                self._combine(bucket)
                bucket = []
        self._combine(bucket)

    def _combine(self, bucket: list[torch.Tensor]) -> None:
        for dtype in dict.fromkeys(g.dtype for g in bucket):
            alike = [g for g in bucket if g.dtype == dtype]
            flat = self.accelerator.reduce(torch.cat([g.flatten() for g in alike]), reduction="sum") / self.clips
            for gradient, piece in zip(alike, flat.split([g.numel() for g in alike]), strict=True):
                gradient.copy_(piece.view_as(gradient))


def share_context(transformer: WanTransformer3DModel, processes: Processes, latents: tuple[int, int, int]) -> None:
    """Split the transformer's tokens over each context group. `latents`: how many (frames, rows, columns) it sees at once.

    Raises `UserError` where tokens or heads do not divide, or there is no accelerator.
    """
    if processes.context == 1:
        return
    patch = transformer.config["patch_size"]
    tokens = 1
    for size, side in zip(latents, patch, strict=True):
        tokens *= size // side
    heads = transformer.config["num_attention_heads"]
    if tokens % processes.context or heads % processes.context:
        raise UserError(
            f"training: {tokens} tokens and {heads} heads do not both divide by context_parallel {processes.context}; choose another "
            "number of processes per clip, crop or clip length."
        )
    if torch.accelerator.device_count() == 0:
        # diffusers names a device by dividing by that number.
        raise UserError("training: context_parallel needs accelerators, and PyTorch sees none here; leave it at 1.")
    # Here, since the oldest diffusers that this package takes has no such thing.
    from diffusers.models._modeling_parallel import ContextParallelConfig

    transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=processes.context, mesh=processes.mesh))


def shard_weights(transformer: WanTransformer3DModel, processes: Processes, dtype: torch.dtype | None) -> None:
    """Shard parameters over all processes, block by block; they are gathered in `dtype` (None: their own) when a block runs."""
    assert processes.mesh is not None
    mesh = processes.mesh["clips", "ring", "ulysses"]._flatten("all")
    # The inputs' dtypes are the caller's: casting them would round the rotary embedding.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=None if dtype is None else torch.float32, cast_forward_inputs=False)
    modules: list[nn.Module] = [*transformer.blocks, transformer]
    for module in modules:
        fully_shard(module, mesh=mesh, mp_policy=policy)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(processes.clips)
        module.set_force_sum_reduction_for_comms(True)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor in one piece (all processes must ask for it); any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a sharded tensor, sharing its memory; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharded_like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor sharded as the parameter is (all processes must ask for it); as it is where that is not sharded."""
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def gradient_norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The norm of all gradients together, sharded ones and others."""
    kinds = ([g for g in gradients if isinstance(g, DTensor)], [g for g in gradients if not isinstance(g, DTensor)])
    return torch.stack([whole(torch.nn.utils.get_total_norm(kind, foreach=True)) for kind in kinds if kind]).norm()


def gathered_state(module: nn.Module, *, only: str = "", keep: bool = True) -> dict[str, torch.Tensor]:
    """State of a module whose names contain `only`, sharded tensors in one piece, on the host.

    All processes must call; with `keep` False nothing is kept.
    """
    state: dict[str, torch.Tensor] = {}
    for name, value in module.state_dict().items():
        if only not in name:
            continue
        full = whole(value)
        if keep:
            state[name] = full.detach().cpu()
    return state


def unsharded(transformer: WanTransformer3DModel, state: Mapping[str, torch.Tensor]) -> WanTransformer3DModel:
    """A transformer on the host with this state and the LoRA adapters of `transformer`. Weights that the state lacks are not there."""
    with torch.device("meta"):
        plain = WanTransformer3DModel.from_config(transformer.config)
        for name, adapter in getattr(transformer, "peft_config", {}).items():
            plain.add_adapter(copy.deepcopy(adapter), adapter_name=name)
    plain.load_state_dict(state, strict=False, assign=True)
    return plain
