"""LoRA on the causal convolutions of a Wan decoder."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict

from splatmend.enhance.causal_lora import (
    LoraCausalConv3d,
    add_causal_lora,
    causal_convolutions,
    causal_lora_config,
    fold_causal_lora,
    merge_causal_lora,
    unmerge_causal_lora,
)
from splatmend.enhance.decoder import TruncatedDecoder


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_lora(vae, **options):
    """LoRA of rank 3 and scale 2 everywhere in the decoder, with branches that are not zero."""
    torch.manual_seed(0)
    params = add_causal_lora(vae.decoder, 3, 6, **options)
    with torch.no_grad():
        for p in params:
            p.normal_(std=0.2)
    return params


Z = randn(1, 4, 3, 2, 2)


@pytest.mark.parametrize("layout", ["2.1", "2.2"])
@torch.no_grad()
def test_merged_is_unmerged_over_three_groups(tiny_wan, layout):
    vae = tiny_wan(layout)
    decoder = TruncatedDecoder(vae)
    plain = decoder.decode(Z)
    wanted = causal_convolutions(vae.decoder)
    add_causal_lora(vae.decoder, 3, 6)
    assert {name for name, m in vae.decoder.named_modules() if isinstance(m, LoraCausalConv3d)} == set(wanted)
    assert causal_convolutions(vae.decoder) == []
    assert torch.equal(decoder.decode(Z), plain), "a fresh adapter must change nothing"
    for name, p in vae.decoder.named_parameters():
        if "lora_" in name:
            p.normal_(std=0.2, generator=torch.Generator().manual_seed(len(name)))
    active = decoder.decode(Z)
    for group in (slice(0, 1), slice(1, 5), slice(5, 9)):
        assert (active - plain)[:, :, group].abs().max() > 0.01
    merge_causal_lora(vae.decoder)
    torch.testing.assert_close(decoder.decode(Z), active, rtol=0, atol=1e-11)
    torch.testing.assert_close(vae.decode(Z).sample, active.clamp(-1, 1), rtol=0, atol=1e-11)
    unmerge_causal_lora(vae.decoder)
    torch.testing.assert_close(decoder.decode(Z), active, rtol=0, atol=1e-11)


@torch.no_grad()
def test_folding_leaves_a_plain_autoencoder(tiny_wan):
    vae, fresh = tiny_wan(), tiny_wan()
    with_lora(vae)
    active = TruncatedDecoder(vae).decode(Z)
    fold_causal_lora(vae.decoder)
    fresh.load_state_dict(vae.state_dict(), strict=True)
    torch.testing.assert_close(TruncatedDecoder(fresh).decode(Z), active, rtol=0, atol=1e-11)


@torch.no_grad()
def test_adapters_save_load_and_switch_off(tiny_wan):
    vae, other = tiny_wan(), tiny_wan()
    plain = TruncatedDecoder(vae).decode(Z)
    with_lora(vae)
    state = get_peft_model_state_dict(vae.decoder, adapter_name="default")
    add_causal_lora(other.decoder, 3, 6)
    set_peft_model_state_dict(other.decoder, state, adapter_name="default")
    torch.testing.assert_close(TruncatedDecoder(other).decode(Z), TruncatedDecoder(vae).decode(Z), rtol=0, atol=0)
    for layer in vae.decoder.modules():
        if isinstance(layer, LoraCausalConv3d):
            layer.enable_adapters(False)
    assert torch.equal(TruncatedDecoder(vae).decode(Z), plain)


@pytest.mark.parametrize("layout", ["2.1", "2.2"])
def test_gradients_of_the_branches_are_those_of_plain_autograd(tiny_wan, layout):
    vae = tiny_wan(layout)
    params = with_lora(vae)
    assert len(params) == sum("lora_" in name for name, _ in vae.decoder.named_parameters())

    def loss(frames, span, previous):
        return frames.square().mean(dim=(0, 1, 3, 4)).sum()

    exact = torch.autograd.grad(loss(TruncatedDecoder(vae).decode(Z), slice(0, 9), None) / 9, params)
    for memory in ("fast", "small"):
        mine = TruncatedDecoder(vae, 2, memory=memory).loss_and_grad(Z, loss, params=params).grad_params
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-14)
    cut = TruncatedDecoder(vae, 0).loss_and_grad(Z, loss, params=params).grad_params
    assert all(g.abs().sum() > 0 for g in cut)
    assert any((a - b).norm() > 1e-3 * b.norm() for a, b in zip(cut, exact, strict=True)), "truncation must cut something"


def test_dropout_acts_on_the_branch_only_while_training(tiny_wan):
    vae = tiny_wan()
    with_lora(vae, dropout=0.5)
    decoder = TruncatedDecoder(vae)
    with torch.no_grad():
        assert torch.equal(decoder.decode(Z), decoder.decode(Z))
        vae.train()
        assert not torch.equal(decoder.decode(Z), decoder.decode(Z))


def test_half_precision_merge(tiny_wan):
    vae = tiny_wan(dtype=torch.bfloat16)
    with_lora(vae)
    layer = vae.decoder.conv_in
    delta = layer.get_delta_weight("default")
    assert delta.dtype == torch.bfloat16
    wide = (
        torch.einsum("or,rithw->oithw", layer.lora_B["default"].weight.double()[..., 0, 0, 0], layer.lora_A["default"].weight.double()) * 2
    )
    torch.testing.assert_close(delta.double(), wide, rtol=2**-8, atol=0)


def test_options_that_cannot_be_kept_are_refused(tiny_wan):
    vae = tiny_wan()
    for options, message in [
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "gaussian"}, "init_lora_weights"),
    ]:
        config = causal_lora_config(2, 2, ["conv_in"])
        for name, value in options.items():
            setattr(config, name, value)
        with pytest.raises(ValueError, match=message):
            inject_adapter_in_model(config, vae.decoder)
    with pytest.raises(ValueError, match="not found"):
        add_causal_lora(vae.decoder, 2, 2, target_modules=["no_such_layer"])
    with pytest.raises(TypeError):
        # What happens without the custom class, and why it exists.
        inject_adapter_in_model(LoraConfig(r=2, target_modules=["conv_out"]), vae.decoder)
