"""Two processes on one clip, in double precision on the CPU, against one process."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanUpsample

from splatmend.datasets.errors import UserError
from splatmend.enhance.model import Enhancer, LoraInfo
from splatmend.enhance.small import small_enhancer, small_transformer, small_vae
from splatmend.enhance.train.config import OneStepTrainConfig
from splatmend.enhance.train.data import Batch
from splatmend.enhance.train.loop import TrainingLoop, make_accelerator
from splatmend.enhance.train.onestep import OneStepObjective, choose_parameters, prepare_transformer, trained_parameters
from splatmend.enhance.train.parallel import Processes, gathered_state, unsharded, whole


def settings(**others: object) -> OneStepTrainConfig:
    base: dict[str, object] = {
        "steps": 2, "lr": 1e-3, "precision": "fp32", "device": "cpu", "clip_frames": 9, "crop_px": (32, 64), "warmup_steps": 0,
        "losses": {"latent_mse": 0.1, "mse": 1.0}, "decoder": "full", "ema": 0.9, "log": False,
        "transformer_checkpoint": True, "grad_clip": 1e-2, "weight_decay": 0.0,
    }  # fmt: skip
    return OneStepTrainConfig(**(base | others))  # type: ignore[arg-type]


CASES = {
    "context": settings(context_parallel=2),
    "chunks": settings(context_parallel=2, spatial_chunks=(1, 2), halo=1),
    "a block for one of them": settings(context_parallel=2, decoder_block=3),
    "lora": settings(context_parallel=2, transformer="lora", transformer_lora=LoraInfo(rank=2, alpha=3), decoder="none"),
    "sharded": settings(context_parallel=2, shard=True),
    "sharded lora, two clips": settings(shard=True, transformer="lora", transformer_lora=LoraInfo(rank=2, alpha=3)),
}


def double_enhancer() -> Enhancer:
    torch.manual_seed(3)
    enhancer = small_enhancer(small_vae(8), small_transformer(2, 2, 32))
    for parameter in (enhancer.vae.decoder.conv_out.weight, enhancer.transformer.proj_out.weight):
        torch.nn.init.normal_(parameter, std=0.2)
    for join in enhancer.join_modules().values():
        torch.nn.init.normal_(join.gate)
    for module in enhancer.vae.modules():
        if isinstance(module, WanUpsample):
            module.__class__ = torch.nn.Upsample
    return enhancer.double()


def batch_of(clip: int) -> Batch:
    generator = torch.Generator().manual_seed(clip)
    a, b = (torch.rand(1, 3, 9, 32, 64, generator=generator, dtype=torch.float64) * 2 - 1 for _ in range(2))
    return Batch(a, b, ("pair",))


def two_steps(config: OneStepTrainConfig, folder: Path) -> tuple[Enhancer, TrainingLoop, list[dict[str, torch.Tensor]]]:
    """Two optimiser steps and what each micro-step says of its loss; a process without others takes the clips of all groups in turn."""
    accelerator = make_accelerator(config)
    processes = Processes(accelerator, config.context_parallel if accelerator.num_processes > 1 else 1, shard=config.shard)
    enhancer = double_enhancer()
    torch.manual_seed(0)
    choose_parameters(config, enhancer)
    with torch.no_grad():
        for name, parameter in enhancer.transformer.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    enhancer.double().train()
    prepare_transformer(config, enhancer, processes)
    loop = TrainingLoop(config, accelerator, trained_parameters(enhancer), folder, processes)
    objective = OneStepObjective(config, enhancer, processes=processes)
    said: list[dict[str, torch.Tensor]] = []

    def micro_step(number: int, scale: float) -> dict[str, torch.Tensor]:
        said.append(objective.add_gradients(batch_of(clip_of(number, config, processes)), scale))
        return said[-1]

    loop.run(micro_step, lambda step: None)
    return enhancer, loop, said


def clip_of(number: int, config: OneStepTrainConfig, processes: Processes) -> int:
    return number if processes.accelerator.num_processes == 1 else number * processes.clips + processes.index


def work(rank: int, port: int, folder: Path) -> None:
    """One of two processes."""
    # diffusers counts accelerators to name a device that nothing here uses, and divides by that count.
    torch.accelerator.device_count = lambda: 1
    # The model rounds to float32 in places, and a rounding may fall on either side: here it does not.
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign,assignment]
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, config in CASES.items():
        enhancer, loop, said = two_steps(config, folder)
        held = {f"parameter {n}": whole(p.detach()) for n, p in loop.parameters.items()}
        assert loop.average is not None
        held |= {f"average {n}": whole(v) for n, v in loop.average.values.items()}
        held |= {f"said {i} {n}": v for i, row in enumerate(said) for n, v in row.items()}
        loop.save()
        if config.shard:
            state = gathered_state(enhancer.transformer, only="lora_" if config.transformer == "lora" else "", keep=rank == 0)
            if rank == 0:
                plain = unsharded(enhancer.transformer, state)
                held |= {f"saved {n}": v for n, v in plain.state_dict().items() if n in state}
        with torch.no_grad():
            for parameter in loop.parameters.values():
                parameter.zero_()
        loop.resume()
        held |= {f"resumed {n}": whole(p.detach()) for n, p in loop.parameters.items()}
        if rank == 0:
            torch.save(held, folder / f"{name}.pt")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_two_processes_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters after two steps, averages, what a checkpoint brings back and what is saved."""
    running = torch.multiprocessing.start_processes(work, (free_port(), tmp_path), nprocs=2, join=False, start_method="spawn")
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    expected = {}
    for name, config in CASES.items():
        clips = 2 // config.context_parallel
        _, loop, said = two_steps(dataclasses.replace(config, accumulation=clips, context_parallel=1, shard=False), tmp_path)
        assert loop.average is not None
        # With a clip for each group of processes, the first one's.
        told = {f"said {i} {n}": v for i, row in enumerate(said[::clips]) for n, v in row.items()}
        expected[name] = ({n: p.detach() for n, p in loop.parameters.items()}, loop.average.values, told)
    while not running.join():
        pass
    start = dict(double_enhancer().named_parameters())
    for name, (parameters, averages, told) in expected.items():
        found = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert {"said 1 loss", "said 1 mse", "said 1 latent_mse"} <= set(told)
        for what, value in told.items():
            torch.testing.assert_close(found[what], value, atol=1e-10, rtol=1e-10, msg=f"{name}: {what}")
        assert any(not torch.equal(p, start[n]) for n, p in parameters.items() if n in start)
        for parameter, value in parameters.items():
            for kind in ("parameter", "resumed"):
                torch.testing.assert_close(found[f"{kind} {parameter}"], value, atol=1e-10, rtol=1e-10, msg=f"{name}: {kind} {parameter}")
            torch.testing.assert_close(found[f"average {parameter}"], averages[parameter], atol=1e-10, rtol=1e-10)
            saved = parameter.removeprefix("transformer.")
            if CASES[name].shard and saved != parameter:
                torch.testing.assert_close(found[f"saved {saved}"], value, atol=1e-10, rtol=1e-10)


def test_processes_that_do_not_divide_are_named() -> None:
    accelerator = make_accelerator(CASES["context"])
    with pytest.raises(UserError, match="do not divide"):
        Processes(accelerator, 2)
    with pytest.raises(UserError, match="only one"):
        Processes(accelerator, shard=True)
    with pytest.raises(UserError, match="shard as well"):
        settings(context_parallel=2, precision="bf16")
