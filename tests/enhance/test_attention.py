"""The transformer's attention kernel: chosen where it agrees, and for this transformer only."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from splatmend.enhance.attention import _agrees, use_attention
from splatmend.enhance.small import small_transformer

CPU = torch.device("cpu")


def outputs(transformer: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    z, caption = torch.randn(1, 16, 2, 4, 4, generator=generator), torch.randn(1, 3, 64, generator=generator)
    with torch.no_grad():
        return transformer(hidden_states=z, timestep=torch.tensor([200]), encoder_hidden_states=caption, return_dict=False)[0]


def test_on_the_cpu_pytorch_chooses() -> None:
    transformer = small_transformer(1, 1, 32)
    assert use_attention(transformer, "auto", CPU, torch.float32) == "native"
    assert transformer.blocks[0].attn1.processor._attention_backend is None


def test_a_named_kernel_is_used_by_this_transformer_alone() -> None:
    transformer, other = small_transformer(1, 2, 32), small_transformer(1, 1, 32)
    default = _AttentionBackendRegistry.get_active_backend()
    for _ in range(2):
        assert use_attention(transformer, "flash", CPU, torch.float32) == "flash"
        assert {block.attn2.processor._attention_backend.value for block in transformer.blocks} == {"_native_flash"}
        assert _AttentionBackendRegistry.get_active_backend() == default
        assert other.blocks[0].attn1.processor._attention_backend is None
    assert use_attention(transformer, "native", CPU, torch.float32) == "native"
    torch.nn.init.normal_(transformer.proj_out.weight)
    native = outputs(transformer)
    use_attention(transformer, "flash", CPU, torch.float32)
    torch.testing.assert_close(outputs(transformer), native)
    with pytest.raises(ValueError, match="must be one of"):
        use_attention(transformer, "fast", CPU, torch.float32)  # type: ignore[arg-type]


def test_a_kernel_that_does_not_run_here_does_not_agree() -> None:
    assert _agrees("flash", 64, CPU, torch.float32)
    assert not _agrees("cudnn", 64, CPU, torch.bfloat16)


@pytest.mark.gpu
def test_auto_leaves_narrow_heads_and_kernels_agree_on_a_gpu() -> None:
    device = torch.device("cuda")
    transformer = small_transformer(2, 2, 32).to(device)
    assert use_attention(transformer, "auto", device, torch.bfloat16) == "native"
    assert _agrees("flash", 128, device, torch.bfloat16)
