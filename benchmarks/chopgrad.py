"""Times pixel gradients through the full-size Wan 2.1 decoder (random weights, bf16) and prints a table: `python benchmarks/chopgrad.py`.

A row is LOSS/WAY/FRAMES/HEIGHTxWIDTH. Ways: what `RIVALS` names, the truncated decoder by its settings (`D=1,small,fast` is truncation,
memory, engine; `,2x2` adds spatial chunks, `,B=3` blocks of groups), and under the loss `decode` decoding alone (`reference` or `fast`).
`mse` compares with target frames that lie on the host and come group by group; `lpips` is LPIPS with a VGG of random weights in bf16,
reductions in float32. All frames count. `--rows 'mse/D=1,*/81/480x832' 'decode/*'` picks rows and runs them in that order, `--list` names
them, `--toy` runs the same rows with a tiny model, few frames and small pictures on the CPU. Each row is written to `--out` (JSON lines) as
soon as it is measured; `--show` prints the table of such a file.

Seconds: median of `--repeats` runs after a warm-up on a short clip, of fewer where a row takes longer than `--row-s`. Peak: the
allocator's highest level during those runs, weights and latents included, in 10^9 bytes (on a CPU the bytes that autograd kept). Cosine:
gradient against full backpropagation where that row ran before, else against exact checkpointing, which is the same gradient to rounding.
Random weights are not local: their cosines say whether a way is exact, not how well it would train.
"""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import json
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from faults import is_out_of_memory
from kernels import busiest
from measured_on import environment
from torch import Tensor, nn

from splatmend.enhance.decoder import FrameLoss, LossAndGrad, TruncatedDecoder, frame_span, group_count
from splatmend.enhance.decoder.rivals import RIVALS, ExactCheckpointing, PixelGradient
from splatmend.enhance.kept_bytes import KeptBytes
from splatmend.enhance.perceptual import lpips_of_frames

FRAMES = (21, 41, 81)
SIZES = ((480, 832), (720, 1280))
MEMORY = ("fast", "balanced", "small")
WARM_UP_LATENTS = 4  # the cache has another shape in each of the first three groups
TOY_FRAMES = {21: 9, 41: 9, 81: 13, 161: 17}
TOY_SIZES = {(480, 832): (32, 32), (720, 1280): (32, 36)}
TOY_HALO = 1
PACKAGES = ("splatmend", "torch", "triton", "diffusers", "lpips")


@dataclass(frozen=True)
class Row:
    """What is measured.

    `settings` are arguments of `TruncatedDecoder`; without them `way` is a name of `RIVALS`, or the engine to decode with.
    """

    loss: str
    way: str
    frames: int
    size: tuple[int, int]
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.loss}/{self.way}/{self.frames}/{self.size[0]}x{self.size[1]}"

    @property
    def engine(self) -> str:
        if self.loss == "decode":
            return self.way
        return "reference" if self.way == "literal" else dict(self.settings).get("engine", "auto")

    def gradient_of(self, vae: AutoencoderKLWan, **more: Any) -> PixelGradient:
        return TruncatedDecoder(vae, **dict(self.settings), **more) if self.settings else RIVALS[self.way](vae)


def truncated(
    loss: str,
    frames: int,
    size: tuple[int, int],
    truncation: int,
    memory: str,
    engine: str,
    *,
    chunks: tuple[int, int] | None = None,
    block: int | None = None,
) -> Row:
    """A row of the truncated decoder with explicit settings."""
    way = f"D={truncation},{memory},{engine}"
    settings: dict[str, Any] = {"truncation": truncation, "memory": memory, "engine": engine}
    if chunks is not None:
        way += f",{chunks[0]}x{chunks[1]}"
        settings["spatial_chunks"] = chunks
    if block is not None:
        way += f",B={block}"
        settings["block"] = block
    return Row(loss, way, frames, size, tuple(settings.items()))


def all_rows() -> Iterator[Row]:
    """Every row, those first that others take their cosine from."""
    small, large = SIZES
    for size, frames, loss in itertools.product(SIZES, FRAMES, ("mse", "lpips")):
        for way in RIVALS:
            yield Row(loss, way, frames, size)
    for size, frames, engine, memory in itertools.product(SIZES, FRAMES, ("reference", "fast"), MEMORY):
        yield truncated("mse", frames, size, 1, memory, engine)
    for memory, size in itertools.product(MEMORY, SIZES):
        yield truncated("lpips", 81, size, 1, memory, "fast")
        yield truncated("lpips", 81, size, 1, memory, "fast", chunks=(2, 2))
    for frames, memory in itertools.product((21, 161), MEMORY):
        yield truncated("lpips", frames, small, 1, memory, "fast")
        if frames == 161:
            yield truncated("mse", frames, large, 1, memory, "fast")
    for truncation, frames in itertools.product((0, 2), (21, 161)):
        yield truncated("mse", frames, small, truncation, "fast", "fast", chunks=(2, 2))
        yield truncated("lpips", frames, small, truncation, "fast", "fast")
    for truncation, memory in itertools.product((0, 1, 2), MEMORY):
        # Does the peak grow with the clip? D = 1 has its short clip above.
        for frames in (161,) if truncation == 1 else (21, 81, 161):
            yield truncated("mse", frames, small, truncation, memory, "fast")
    for (size, chunks), memory, frames in itertools.product(((small, (2, 2)), (large, (2, 2)), (large, (4, 4))), MEMORY, (21, 81, 161)):
        yield truncated("mse", frames, size, 1, memory, "fast", chunks=chunks)
    for frames, block, memory in itertools.product((21, 81, 161), (3, 5), MEMORY):
        yield truncated("mse", frames, small, 1, memory, "fast", block=block)
    for size, frames, engine in itertools.product(SIZES, FRAMES, ("reference", "fast")):
        yield Row("decode", engine, frames, size)


class HostTarget:
    """Random target frames that stay on the host, one contiguous piece per group, pinned where there is a CUDA device."""

    def __init__(self, latents: int, size: tuple[int, int], factor: int, device: torch.device, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(1)
        self._device = device
        self._pieces: dict[int, Tensor] = {}
        for index in range(latents):
            span = frame_span(index, factor)
            piece = torch.rand(1, 3, span.stop - span.start, *size, generator=generator).mul_(2).sub_(1).to(dtype)
            self._pieces[span.start] = piece.pin_memory() if device.type == "cuda" else piece

    def at(self, span: slice) -> Tensor:
        """The target of one group `[1, 3, t, H, W]` on the device."""
        return self._pieces[span.start].to(self._device, non_blocking=True)


def mse_loss(target: HostTarget) -> FrameLoss:
    """Sum over frames of each frame's mean squared error."""

    def loss(frames: Tensor, span: slice, previous: Tensor | None) -> Tensor:
        del previous
        return (frames.float() - target.at(span).float()).square().mean(dim=(0, 1, 3, 4)).sum()

    return loss


def random_lpips(net: str, device: torch.device) -> nn.Module:
    """LPIPS with random weights."""
    import lpips

    torch.manual_seed(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False).requires_grad_(False).to(device)


def lpips_loss(target: HostTarget, network: nn.Module) -> FrameLoss:
    """Sum over frames of each frame's LPIPS, the network in the frames' dtype."""

    def loss(frames: Tensor, span: slice, previous: Tensor | None) -> Tensor:
        del previous
        return lpips_of_frames(network, frames, target.at(span))

    return loss


class Bench:
    """The machine, the models and the gradients that cosines are taken against."""

    def __init__(
        self, *, toy: bool, repeats: int, row_s: float = math.inf, cosine_frames: float = math.inf, profiled: bool = False
    ) -> None:
        """`row_s`: no run of a row starts after so many seconds; `cosine_frames`: no cosines of longer clips; `profiled`: kernels too."""
        self.profiled = profiled
        self.toy, self.repeats, self.row_s, self.cosine_frames = toy, repeats, row_s, cosine_frames
        self.device = torch.device("cpu" if toy else "cuda")
        self.dtype = torch.float32 if toy else torch.bfloat16
        small: dict[str, Any] = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [True, True]}
        small |= {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
        diffusers.utils.logging.set_verbosity_error()  # or it warns about every cast
        # What is there by now stays: without this, each of the many collections would walk all imported modules.
        gc.freeze()
        torch.manual_seed(0)
        self._base: Any = AutoencoderKLWan(**(small if toy else {})).to(self.dtype).eval().requires_grad_(False)
        self._vae: tuple[str, AutoencoderKLWan] | None = None
        self._lpips: nn.Module | None = None
        self._target: tuple[tuple[Any, ...], HostTarget] | None = None
        self._exact: dict[tuple[Any, ...], tuple[str, Tensor]] = {}

    def measure(self, row: Row) -> dict[str, Any]:
        """One row's record; running out of memory and any other fault is a record too."""
        frames, size = self._shape(row)
        record: dict[str, Any] = {"row": row.name, "frames": frames, "height": size[0], "width": size[1], "toy": self.toy}
        start = time.perf_counter()
        try:
            self._measure(row, record)
            record["status"] = "measured"
        except RuntimeError as fault:
            # Only its text is kept: the traceback would hold on to every tensor.
            record["status"] = "out of memory" if is_out_of_memory(fault) else "failed"
            record["error"] = " ".join(str(fault).split())[:300]
        except Exception as fault:
            record["status"] = "failed"
            record["error"] = f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}"
        self.tidy()
        record["row_s"] = round(time.perf_counter() - start, 2)
        return record

    def tidy(self) -> None:
        """Give everything back that the last row held."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _measure(self, row: Row, record: dict[str, Any]) -> None:
        """Fills the record step by step, so that what was measured before a fault stays."""
        vae, latents = self._autoencoder(row.engine), self._latents(row)
        work = self._decoding(row, vae) if row.loss == "decode" else self._gradient(row, vae)
        work(latents[:, :, : 1 if self.toy else WARM_UP_LATENTS])
        self.tidy()
        if self.profiled:
            record["profile"] = busiest(lambda: work(latents), 1, self.device)
            self.tidy()
        measured, result = self._timed(lambda: work(latents), vae)
        record.update(measured)
        if result is None:
            return
        record["loss"] = _number(result.loss)
        grad = result.grad_z.cpu()
        del result, work, vae
        if row.way == "full":
            self._exact[self._key(row)] = ("full", grad)
        if row.frames <= self.cosine_frames:
            self.tidy()
            record.update(self._against_exact(row, latents, grad))

    def _timed(self, run: Callable[[], LossAndGrad | None], vae: AutoencoderKLWan) -> tuple[dict[str, Any], LossAndGrad | None]:
        if self.device.type == "cpu":
            # Times of a tiny model say nothing, so that counting may slow them.
            with KeptBytes(vae.parameters()) as kept:
                seconds, result = self._runs(run)
            peak: dict[str, Any] = {"peak_bytes": kept.peak, "peak_of": "kept by autograd"}
        else:
            torch.cuda.synchronize()
            peak = {"before_bytes": torch.cuda.memory_allocated(), "peak_of": "CUDA allocator"}
            torch.cuda.reset_peak_memory_stats()
            seconds, result = self._runs(run)
            peak["peak_bytes"] = torch.cuda.max_memory_allocated()
        return {"seconds": statistics.median(seconds), "all_seconds": seconds} | peak, result

    def _runs(self, run: Callable[[], LossAndGrad | None]) -> tuple[list[float], LossAndGrad | None]:
        seconds: list[float] = []
        result = None
        while len(seconds) < self.repeats and sum(seconds) < self.row_s:
            result = None
            start = time.perf_counter()
            result = run()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return seconds, result

    def _gradient(self, row: Row, vae: AutoencoderKLWan) -> Callable[[Tensor], LossAndGrad]:
        way, loss = row.gradient_of(vae, **({"halo": TOY_HALO} if self.toy else {})), self._frame_loss(row)
        return lambda latents: way.loss_and_grad(latents, loss)

    def _decoding(self, row: Row, vae: AutoencoderKLWan) -> Callable[[Tensor], None]:
        decoder = TruncatedDecoder(vae, engine=row.way)  # type: ignore[arg-type]

        def decode(latents: Tensor) -> None:
            for frames in decoder.decode_stream(latents[:, :, i : i + 1] for i in range(latents.shape[2])):
                del frames

        return decode

    def _against_exact(self, row: Row, latents: Tensor, grad: Tensor) -> dict[str, Any]:
        key = self._key(row)
        if key not in self._exact:
            try:
                vae = self._autoencoder("auto")
                exact = ExactCheckpointing(vae, memory="small").loss_and_grad(latents, self._frame_loss(row)).grad_z.cpu()
            except RuntimeError as fault:
                if not is_out_of_memory(fault):
                    raise
                return {"cosine": None, "cosine_to": "nothing exact fits"}
            self._exact[key] = ("checkpointing", exact)
        to, exact = self._exact[key]
        a, b = grad.double().flatten(), exact.double().flatten()
        return {"cosine": _number(a @ b / (a.norm() * b.norm())), "length": _number(a.norm() / b.norm()), "cosine_to": to}

    def _autoencoder(self, engine: str) -> AutoencoderKLWan:
        """One at a time: the fast engine holds copies of the weights, which must not count in the other's peak."""
        kind = "fast" if engine == "auto" and self.device.type == "cuda" else engine
        if self._vae is None or self._vae[0] != kind:
            self._vae = None
            self.tidy()
            self._vae = (kind, copy.deepcopy(self._base).to(self.device))
        return self._vae[1]

    def _shape(self, row: Row) -> tuple[int, tuple[int, int]]:
        return (TOY_FRAMES[row.frames], TOY_SIZES[row.size]) if self.toy else (row.frames, row.size)

    def _latents(self, row: Row) -> Tensor:
        frames, size = self._shape(row)
        adapter = TruncatedDecoder(self._base).adapter
        shape = (1, adapter.latent_channels, group_count(frames, adapter.temporal_factor), *(s // adapter.spatial_factor for s in size))
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device, self.dtype)

    def _frame_loss(self, row: Row) -> FrameLoss:
        frames, size = self._shape(row)
        factor = TruncatedDecoder(self._base).adapter.temporal_factor
        if self._target is None or self._target[0] != (frames, size):
            self._target = ((frames, size), HostTarget(group_count(frames, factor), size, factor, self.device, self.dtype))
        target = self._target[1]
        if row.loss == "mse":
            # The other loss's network must not count in this one's peak.
            self._lpips = None
            return mse_loss(target)
        if self._lpips is None:
            self._lpips = random_lpips("squeeze" if self.toy else "vgg", self.device)
        return lpips_loss(target, self._lpips)

    def _key(self, row: Row) -> tuple[Any, ...]:
        return row.loss, row.frames, row.size


def _number(value: Tensor) -> float | None:
    """A finite number, or None, which JSON has too."""
    number = float(value)
    return number if math.isfinite(number) else None


def facts_of_run(chosen: argparse.Namespace) -> dict[str, Any]:
    """What the rows of this run are measured on, and how."""
    return environment(PACKAGES, cuda=not chosen.toy, commit=chosen.commit) | {
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "repeats": chosen.repeats,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def print_table(lines: list[dict[str, Any]]) -> None:
    """The rows of a file, under the environment that they were measured in."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=120)
    for facts, rows in _runs(lines):
        console.print(", ".join(f"{name} {value}" for name, value in facts.items() if name != "kind"))
        table = Table("row", "seconds", "peak GB", "cosine", "cosine to")
        for row in rows:
            table.add_row(*cells(row))
        console.print(table)


def cells(record: dict[str, Any]) -> list[str]:
    """Name, seconds (or what went wrong), peak in GB, cosine and what that is against."""
    if record["status"] != "measured":
        return [record["row"], record["status"] if record["status"] == "out of memory" else record["error"], "", "", ""]
    cosine = record.get("cosine")
    peak = f"{record['peak_bytes'] / 1e9:.1f}" if not record["toy"] else f"{record['peak_bytes'] / 1e9:.4f}"
    return [record["row"], f"{record['seconds']:.3f}", peak, "" if cosine is None else f"{cosine:.4f}", record.get("cosine_to", "")]


def _runs(lines: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    starts = [i for i, line in enumerate(lines) if line["kind"] == "environment"]
    for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True):
        if stop > start + 1:
            yield lines[start], lines[start + 1 : stop]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of an earlier run; a last line that was cut short is left out."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{path}: a line is cut short and left out: {line[:60]}", file=sys.stderr)
    return records


def append(path: Path, record: dict[str, Any]) -> None:
    """One line, on disk before anything else happens."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def chosen_rows(patterns: list[str]) -> list[Row]:
    """Rows whose name matches any pattern: those of the first pattern first, then as `all_rows` has them; exits where one matches none."""
    rows, chosen = list(all_rows()), {}
    for pattern in patterns:
        matching = {row.name: row for row in rows if fnmatchcase(row.name, pattern)}
        if not matching:
            sys.exit(f"--rows: no row matches {pattern}; --list names them all")
        chosen = chosen | {name: row for name, row in matching.items() if name not in chosen}
    return list(chosen.values())


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="PATTERN", help="rows to run, by shell patterns, in that order")
    parser.add_argument("--list", action="store_true", help="print the names of the chosen rows and stop")
    parser.add_argument("--out", type=Path, default=Path("chopgrad.jsonl"), help="JSON lines to append to")
    parser.add_argument("--show", action="store_true", help="print the table of --out and stop")
    parser.add_argument("--resume", action="store_true", help="leave out rows that --out holds as measured or out of memory")
    parser.add_argument("--repeats", type=int, default=3, help="runs that each median is taken over")
    parser.add_argument("--budget-s", type=float, default=math.inf, help="start no row after this many seconds")
    parser.add_argument("--row-s", type=float, default=math.inf, help="start no run of a row after this many seconds of it")
    parser.add_argument("--cosine-frames", type=int, default=10**9, help="no cosines of longer clips; 0: measure time and memory only")
    parser.add_argument("--profile", action="store_true", help="also write which kernels a row spends its time in")
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN try its algorithms first")
    parser.add_argument("--commit", help="name of the commit, where the repository is not at hand")
    parser.add_argument("--toy", action="store_true", help="the same rows at toy size on the CPU")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 where a row failed for another reason than memory."""
    started = time.perf_counter()
    chosen = parse(argv)
    if chosen.show:
        print_table(read_lines(chosen.out))
        return 0
    rows = chosen_rows(chosen.rows)
    if chosen.list:
        print("\n".join(row.name for row in rows))
        return 0
    if not chosen.toy and not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device here; --toy runs the rows at toy size on the CPU")
    if chosen.resume and chosen.out.exists():
        done = {line["row"] for line in read_lines(chosen.out) if line["kind"] == "row" and line["status"] != "failed"}
        rows = [row for row in rows if row.name not in done]
    torch.backends.cudnn.benchmark = chosen.cudnn_benchmark
    records = [{"kind": "environment"} | facts_of_run(chosen)]
    append(chosen.out, records[0])
    bench = Bench(toy=chosen.toy, repeats=chosen.repeats, row_s=chosen.row_s, cosine_frames=chosen.cosine_frames, profiled=chosen.profile)
    for index, row in enumerate(rows):
        if time.perf_counter() - started > chosen.budget_s:
            print(f"the time is over; {len(rows) - index} rows are left, {row.name} first", flush=True)
            break
        record = {"kind": "row"} | bench.measure(row)
        append(chosen.out, record)
        records.append(record)
        print(" | ".join(cells(record)), flush=True)
    print_table(records)
    return int(any(record.get("status") == "failed" for record in records))


if __name__ == "__main__":
    sys.exit(main())
