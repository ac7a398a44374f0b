"""Times training steps and inference of the one-step enhancer at the published size: `python benchmarks/onestep.py`.

Wan 2.1 transformers (1.3B and 14B configuration) and autoencoder with random weights, made on the GPU; 81 frames of 480x832, bf16; loss:
squared error of pixels and latents, D = 1, target frames on the host. Training rows run what `splatmend train` runs, step by step; the
latents of both clips are kept (the first step makes them), as in a training that sees a clip more than once. Inference rows go from
bytes on the host to bytes on the host.

`--rows 'lora*' 'infer 14B'` picks rows and runs them in that order, `--list` names them, `--toy` runs them with tiny models on the CPU.
Each row is a line of JSON, on the console and in `--out`, as soon as it is measured; one that fails is a line too. The row `parallel`
shares one clip among all processes: `torchrun --nproc-per-node 2 benchmarks/onestep.py --rows parallel`.

Seconds are medians of `--repeats` runs after a warm-up; parts are timed with the device idle at their ends and add up to the whole.
`peak_gb`: the allocator's highest level in the timed runs, weights included, in 10^9 bytes (null on a CPU); `warm_up_peak_gb`: in the
runs before, when latents are made and cuDNN tries its algorithms.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from faults import is_out_of_memory
from measured_on import environment

from splatmend.enhance.attention import use_attention
from splatmend.enhance.decoder import split_into_groups
from splatmend.enhance.model import Enhancer, EnhancerSpec, LoraInfo
from splatmend.enhance.stream import StreamingEnhancer
from splatmend.enhance.train.config import OneStepTrainConfig
from splatmend.enhance.train.data import Batch, unit_range
from splatmend.enhance.train.latents import LatentCache
from splatmend.enhance.train.loop import TrainingLoop, make_accelerator
from splatmend.enhance.train.onestep import OneStepObjective, choose_parameters, prepare_transformer, trained_parameters
from splatmend.enhance.train.parallel import Processes
from splatmend.enhance.transformer import compile_blocks, hold_in

TRANSFORMERS: dict[str, dict[str, int]] = {
    "1.3B": {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30},
    "14B": {"num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824, "num_layers": 40},
    "toy": {"num_attention_heads": 2, "attention_head_dim": 32, "ffn_dim": 64, "num_layers": 2, "text_dim": 16, "freq_dim": 32},
}
CAPTION_TOKENS = 512
PACKAGES = ("splatmend", "torch", "diffusers", "peft", "accelerate", "triton")


@dataclass(frozen=True)
class Size:
    """Clip and models of a run."""

    frames: int = 81
    height: int = 480
    width: int = 832
    toy: bool = False

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.toy else "cuda")

    @property
    def latents(self) -> int:
        return 1 + (self.frames - 1) // 4

    def transformer(self, name: str, dtype: torch.dtype) -> WanTransformer3DModel:
        """A Wan transformer with random weights, made on the device."""
        with made_in(dtype, self.device):
            transformer = WanTransformer3DModel(**TRANSFORMERS["toy" if self.toy else name])
        hold_in(transformer, dtype)
        return transformer

    def enhancer(self, name: str, dtype: torch.dtype) -> Enhancer:
        """An enhancer as a Wan base model gives it; the transformer in `dtype`, the autoencoder in bf16."""
        torch.manual_seed(0)
        transformer = self.transformer(name, dtype)
        small: dict[str, Any] = {"base_dim": 8, "num_res_blocks": 1} if self.toy else {}
        with made_in(torch.bfloat16, self.device):
            vae = AutoencoderKLWan(**small)
            caption = torch.randn(1, CAPTION_TOKENS, transformer.config["text_dim"])
        return Enhancer(vae, transformer, caption, EnhancerSpec(base=f"random {name}", window=self.latents, overlap=0))

    def clip(self, seed: int) -> np.ndarray:
        """Random frames `[T, H, W, 3]` uint8."""
        return np.random.default_rng(seed).integers(0, 256, (self.frames, self.height, self.width, 3), dtype=np.uint8)

    def batch(self) -> Batch:
        """A pair of random clips as bytes on the host, as training prepares it."""
        clips = [torch.from_numpy(self.clip(seed)[None]) for seed in (1, 2)]
        if self.device.type == "cuda":
            clips = [clip.pin_memory() for clip in clips]
        degraded, target = (clip.permute(0, 4, 1, 2, 3) for clip in clips)
        return Batch(degraded, target, ("pair",), (("degraded", "target"),))


@contextmanager
def made_in(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """New tensors have this dtype and lie on this device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def now(device: torch.device) -> float:
    """Now, once all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Parts:
    """Seconds of named parts of a step, one list entry per step."""

    def __init__(self, device: torch.device, warm_up: int) -> None:
        self.device, self.warm_up = device, warm_up
        self.steps: list[dict[str, float]] = []

    def begin(self) -> None:
        self.steps.append({})

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its seconds added to a part of the current step."""

        def run(*arguments: Any, **more: Any) -> Any:
            start = now(self.device)
            result = function(*arguments, **more)
            self.add(name, now(self.device) - start)
            return result

        return run

    def add(self, name: str, seconds: float) -> None:
        self.steps[-1][name] = self.steps[-1].get(name, 0.0) + seconds

    def medians(self) -> dict[str, float]:
        """Of the steps after the warm-up."""
        kept = self.steps[self.warm_up :]
        return {name: round(statistics.median(step[name] for step in kept), 5) for name in kept[0]}


def training_config(chosen: argparse.Namespace, size: Size, transformer: str, memory: str) -> OneStepTrainConfig:
    return OneStepTrainConfig(
        steps=chosen.warm_up + chosen.repeats,
        lr=1e-5,
        weight_decay=0.1,
        warmup_steps=0,
        grad_clip=None,
        ema=None,
        clip_frames=size.frames,
        crop_px=(size.height, size.width),
        losses={"latent_mse": 1.0, "mse": 1.0},
        truncation=1,
        transformer=transformer,  # type: ignore[arg-type]
        transformer_lora=LoraInfo(rank=128, alpha=64) if transformer == "lora" else None,
        decoder_memory=memory,  # type: ignore[arg-type]
        transformer_checkpoint=True,
        attention=chosen.attention,
        compile=chosen.compile,
        host_clips=True,
        checkpoint_every=10**9,
        sample_every=10**9,
        log_every=10**9,
        log=False,
        device="cpu" if size.toy else "auto",
    )


def train(chosen: argparse.Namespace, size: Size, name: str, config: OneStepTrainConfig) -> dict[str, Any]:
    """Steps of the training loop on one batch."""
    device = size.device
    reset_peak(device)
    accelerator = make_accelerator(config)
    processes = Processes(accelerator, config.context_parallel, shard=config.shard)
    enhancer = size.enhancer(name, torch.float32 if config.transformer == "full" else torch.bfloat16)
    with device:  # hundreds of millions of random numbers for the LoRA
        choose_parameters(config, enhancer)
    enhancer.to(accelerator.device).train()
    prepare_transformer(config, enhancer, processes)
    parameters = trained_parameters(enhancer)
    objective = OneStepObjective(config, enhancer, processes=processes, latents=LatentCache("random", 10**9))
    parts, batch = Parts(device, chosen.warm_up), size.batch()
    objective.encode_input = parts.timed("encode", objective.encode_input)  # type: ignore[method-assign]
    objective.encode_target = parts.timed("encode", objective.encode_target)  # type: ignore[method-assign]
    objective.predict = parts.timed("transformer_forward", objective.predict)  # type: ignore[method-assign]
    objective.decoder.loss_and_grad = parts.timed("decode", objective.decoder.loss_and_grad)  # type: ignore[method-assign]
    warm_up_peak = memory_facts(device)
    marks: list[float] = []
    losses: list[torch.Tensor] = []

    def micro_step(number: int, loss_scale: float) -> dict[str, torch.Tensor]:
        if processes.mesh is not None:
            accelerator.wait_for_everyone()
        marks.append(now(device))
        if number == chosen.warm_up:
            warm_up_peak.update(memory_facts(device))
            reset_peak(device)
        parts.begin()
        with accelerator.autocast():
            metrics = objective.add_gradients(batch, loss_scale)
        end = now(device)
        before = sum(parts.steps[-1].values())
        parts.add("transformer_backward", end - marks[-1] - before)
        losses.append(metrics["loss"])
        return metrics

    with tempfile.TemporaryDirectory() as folder:
        loop = TrainingLoop(config, accelerator, parameters, Path(folder), processes)
        loop.run(micro_step, lambda step: None)
    marks.append(now(device))
    peak = memory_facts(device)
    with torch.no_grad(), accelerator.autocast():
        objective.encode(batch.degraded)
    encode_s = now(device) - marks[-1]
    wholes = [b - a for a, b in itertools.pairwise(marks)]
    for whole, step in zip(wholes, parts.steps, strict=True):
        step["optimiser"] = whole - sum(step.values())
    return {
        "seconds": round(statistics.median(wholes[chosen.warm_up :]), 5),
        "parts": parts.medians(),
        "encode_one_clip_s": round(encode_s, 4),
        "steps_s": [round(whole, 4) for whole in wholes],
        **peak,
        "warm_up_peak_gb": warm_up_peak["peak_gb"],
        "trained_parameters": sum(p.numel() for p in parameters.values()),
        "attention": attention_of(enhancer),
        "decoder_memory": config.decoder_memory,
        "loss": float(losses[-1]),
    }


def infer(chosen: argparse.Namespace, size: Size, name: str, compiled: bool) -> dict[str, Any]:
    """A clip from bytes to bytes, and its parts."""
    device = size.device
    enhancer = size.enhancer(name, torch.bfloat16).eval().requires_grad_(False)
    # Training rows before this one switched it on.
    torch.backends.cudnn.benchmark = chosen.cudnn_benchmark
    use_attention(enhancer.transformer, chosen.attention, device, torch.bfloat16)
    if compiled:
        compile_blocks(enhancer.transformer)
    clip = size.clip(1)
    parts, wholes = Parts(device, chosen.warm_up), []
    frames = torch.from_numpy(clip[None]).permute(0, 4, 1, 2, 3)
    decoder = enhancer.decoder()
    for number in range(chosen.warm_up + chosen.repeats):
        if number == chosen.warm_up:
            reset_peak(device)
        parts.begin()
        with torch.no_grad():
            pieces = split_into_groups(frames, decoder.adapter.temporal_factor)
            groups = [unit_range(group, device).to(enhancer.vae.dtype) for group in pieces]
            encoded = parts.timed("encode", enhancer.encode_groups)(groups)
            del groups
            z_out = parts.timed("transformer", enhancer.predict)(encoded.latents)
            z = enhancer.decoder_latents(encoded.latents, z_out)
            parts.timed("decode", decode_all)(decoder, z)
        stream = StreamingEnhancer(enhancer, attention=chosen.attention)
        start = now(device)
        done = sum(1 for _ in stream.frames(iter(clip), len(clip)))
        wholes.append(now(device) - start)
        assert done == size.frames
    return {
        "seconds": round(statistics.median(wholes[chosen.warm_up :]), 5),
        "ms_per_frame": round(1e3 * statistics.median(wholes[chosen.warm_up :]) / size.frames, 3),
        "parts": parts.medians(),
        "runs_s": [round(whole, 4) for whole in wholes],
        **memory_facts(device),
        "attention": attention_of(enhancer),
        "compiled": compiled,
    }


def decode_all(decoder: Any, z: torch.Tensor) -> None:
    """Decode a clip group by group and let its frames go."""
    for _ in decoder.decode_stream(z.split(1, dim=2)):
        pass


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def memory_facts(device: torch.device) -> dict[str, float | None]:
    if device.type != "cuda":
        return {"peak_gb": None, "reserved_gb": None}
    return {
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "reserved_gb": round(torch.cuda.max_memory_reserved() / 1e9, 2),
    }


def attention_of(enhancer: Enhancer) -> str:
    backend = enhancer.transformer.blocks[0].attn1.processor._attention_backend
    return "native" if backend is None else str(backend.value)


def parallel(chosen: argparse.Namespace, size: Size) -> dict[str, Any]:
    """One clip on all processes; the slowest process and the highest peak count."""
    count = int(os.environ["WORLD_SIZE"])
    config = replace(training_config(chosen, size, "lora", chosen.memory), context_parallel=count, shard=chosen.shard)
    found = train(chosen, size, "14B", config)
    everyone: list[Any] = [None] * count
    torch.distributed.all_gather_object(everyone, found)
    slowest = max(everyone, key=lambda other: other["seconds"])
    return slowest | {"processes": count, "peak_gb": max((other["peak_gb"] or 0) for other in everyone) or None, "sharded": chosen.shard}


def all_rows(chosen: argparse.Namespace, size: Size) -> dict[str, Callable[[], dict[str, Any]]]:
    """Name -> measurement."""

    def training(name: str, transformer: str, memory: str) -> Callable[[], dict[str, Any]]:
        return lambda: train(chosen, size, name, training_config(chosen, size, transformer, memory))

    return {
        "lora 14B": training("14B", "lora", chosen.memory),
        "lora 14B small": training("14B", "lora", "small"),
        "lora 1.3B small": training("1.3B", "lora", "small"),
        "lora 1.3B balanced": training("1.3B", "lora", "balanced"),
        "lora 1.3B fast": training("1.3B", "lora", "fast"),
        "full 1.3B": training("1.3B", "full", chosen.memory),
        "infer 1.3B": lambda: infer(chosen, size, "1.3B", False),
        "infer 1.3B compiled": lambda: infer(chosen, size, "1.3B", True),
        "infer 14B": lambda: infer(chosen, size, "14B", False),
        "infer 14B compiled": lambda: infer(chosen, size, "14B", True),
        "parallel": lambda: parallel(chosen, size),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", "--row", nargs="+", help="rows to measure, by name or pattern, in that order; default: all but parallel")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs that each median is taken over")
    parser.add_argument("--warm-up", type=int, default=2, help="runs before those, one or more: the first makes latents and tries kernels")
    parser.add_argument("--budget-s", type=float, default=math.inf, help="start no row after this many seconds")
    parser.add_argument("--frames", type=int, default=81, help="frames of the clip, 1 + 4k")
    parser.add_argument("--memory", default="balanced", choices=("fast", "balanced", "small"), help="decoder memory of other rows")
    parser.add_argument("--attention", default="auto", choices=("auto", "native", "cudnn", "flash"))
    parser.add_argument("--compile", action="store_true", help="compile the transformer's blocks in training rows")
    parser.add_argument("--shard", action="store_true", help="row parallel: shard weights with fully_shard as well")
    parser.add_argument("--cudnn-benchmark", action="store_true", help="inference: let cuDNN try its algorithms first, as training does")
    parser.add_argument("--out", type=Path, help="file that the lines are added to as well")
    parser.add_argument("--commit", help="name of the commit, where the repository is not at hand")
    parser.add_argument("--toy", action="store_true", help="the same rows with tiny models on the CPU")
    return parser.parse_args()


def main() -> int:
    """Exit code 1 where a row failed for another reason than memory."""
    started = time.perf_counter()
    chosen = parse()
    size = Size(9, 32, 32, toy=True) if chosen.toy else Size(frames=chosen.frames)
    rows = all_rows(chosen, size)
    if chosen.list:
        print("\n".join(rows))
        return 0
    patterns = chosen.rows or [name for name in rows if name != "parallel"]
    picked = list(dict.fromkeys(name for pattern in patterns for name in rows if fnmatchcase(name, pattern)))
    together = "WORLD_SIZE" in os.environ
    if not picked or ("parallel" in picked) != together or (together and len(picked) > 1):
        raise SystemExit(f"rows: {patterns} pick {picked or 'nothing'}; start parallel alone and with torchrun, others without.")
    if not chosen.toy:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    first = os.environ.get("RANK", "0") == "0"

    def tell(line: dict[str, Any]) -> None:
        if not first:
            return
        print(json.dumps(line), flush=True)
        if chosen.out is not None:
            with chosen.out.open("a") as file:
                file.write(json.dumps(line) + "\n")

    facts = environment(PACKAGES, cuda=not chosen.toy, commit=chosen.commit) | {
        "frames": size.frames,
        "height": size.height,
        "width": size.width,
    }
    tell({"kind": "environment", **facts})
    failed = False
    for index, name in enumerate(picked):
        if time.perf_counter() - started > chosen.budget_s:
            print(f"the time is over; {len(picked) - index} rows are left, {name} first", file=sys.stderr, flush=True)
            break
        start = time.perf_counter()
        line: dict[str, Any] = {"kind": "row", "row": name}
        try:
            line |= {**rows[name](), "status": "measured"}
        except Exception as fault:
            # The rows after it are still worth their time; with several processes there is only this one.
            if together:
                raise
            full = is_out_of_memory(fault)
            failed |= not full
            traceback.print_exc()
            line["status"] = "out of memory" if full else "failed"
            line["error"] = f"{type(fault).__name__}: {' '.join(str(fault).split())[:400]}"
        tell(line | {"row_s": round(time.perf_counter() - start, 2)})
        # Else the next size would be taken for a change of shape and compiled for any.
        torch.compiler.reset()
        gc.collect()
        if not chosen.toy:
            torch.cuda.empty_cache()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
