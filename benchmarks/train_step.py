"""Times each part of a training iteration, ours beside a plain implementation, and says which part bounds the run.

examples:
  python benchmarks/train_step.py                                  # the full-size model: batch 16 on CUDA, 1 on the CPU
  python benchmarks/train_step.py --device cuda --amp fp16 --workers 6 --json result.json
  python benchmarks/train_step.py --set train.compile=default train.channels_last=true
  python benchmarks/train_step.py -opt options/demo/stage2_tiny.yml --batch 8
  python benchmarks/train_step.py --methods                        # whole iterations and checkpoints of every method's trainings
  python benchmarks/train_step.py --methods options/resshift/tiny.yml --set train.amp=bf16

The plain implementation (plain_training.py) trains the same networks with the same precision on the same photos: kernels by
NumPy in the loader, float images to the device, basicsr's operators as they come, g in float32, torch's default AdamW, an
average that walks over the parameters. Both are measured in this run, part by part with the device idle in between, and as a
whole iteration without such pauses. Weights are random, LPIPS's too: that does not change the time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import FULL_SIZE, machine, training_options
from PIL import Image
from plain_training import PlainAverage, PlainDegradation, PlainPool, blur_kernel, final_kernel
from torch import Tensor
from train_iterations import TRAININGS, Iterations, measured, table

from upsr.atomic import atomic_write
from upsr.config import CommonOptions
from upsr.data import SampleId
from upsr.data.loader import collate
from upsr.devices import peak_gib, reset_peak, synchronise
from upsr.engine.distributed import Runtime
from upsr.engine.feed import micro_batch
from upsr.engine.setup import configure_backends
from upsr.engine.step import MicroBatch
from upsr.engine.train_loop import Trainer
from upsr.methods.base import Batch
from upsr.methods.upsr.training import Task
from upsr.rng import torch_generator
from upsr.timing import Timing, timed

Parts = dict[str, Timing]
DEVICE_PARTS = ("copy", "degrade", "g", "forward", "loss", "backward", "optimiser", "EMA")


class Step:
    """Common to both implementations: the networks of a UPSR trainer, and the parts of its iteration as functions."""

    def __init__(self, opt: Any, folder: Path, device: torch.device) -> None:
        self.opt, self.device = opt, device
        self.trainer = Trainer(opt, Runtime(device), folder)
        self.training: Any = self.trainer.training
        self.method = self.training.method
        self.batch = opt.datasets["train"].batch_size_per_gpu
        self.number = 0

    def generators(self) -> list[torch.Generator]:
        return [torch_generator("step", self.number, i, device=self.device) for i in range(self.batch)]

    def loss(self, task: Task, prediction: Tensor | None = None) -> Tensor:
        """The loss of a task, or that of a prediction that is there already."""
        with self.trainer.step.autocast():
            prediction = self.forward(task) if prediction is None else prediction
            return self.training.losses(prediction, task.target, self.generators())["total"]

    def forward(self, task: Task) -> Tensor:
        with self.trainer.step.autocast():
            return self.method.estimate(task.x, task.t, task.cond)

    def read(self) -> Any:
        """A batch from disk."""
        raise NotImplementedError

    def degradation_of(self, there: Any) -> Callable[[], Any]:
        """A function that makes pairs of a batch on the device."""
        raise NotImplementedError

    def parts(self, repeats: int) -> Parts:
        """Each part alone."""
        raise NotImplementedError

    def whole(self) -> Callable[[], object]:
        """An iteration, but for reading data."""
        raise NotImplementedError

    def network_parts(self, batch: Batch, repeats: int, backward: Callable[[Tensor], None]) -> Parts:
        """g, forward, loss and backward, each with a graph of its own."""
        task = self.training.task(batch, self.generators())

        def losses() -> Iterator[float]:
            for _ in range(repeats + 2):
                prediction = self.forward(task)
                yield timed(lambda p=prediction: self.loss(task, p), self.device, 1, warmup=0).median

        def backwards() -> Iterator[float]:
            for _ in range(repeats + 2):
                total = self.loss(task)
                yield timed(lambda v=total: backward(v), self.device, 1, warmup=0).median
                self.trainer.step.updaters["g"].optimizer.zero_grad(set_to_none=True)

        return {
            "g": timed(lambda: self.method.g(batch["lq"]), self.device, repeats),
            "forward": timed(lambda: self.forward(task), self.device, repeats),
            "loss": Timing(list(losses())[2:]),
            "backward": Timing(list(backwards())[2:]),
        }


class Ours(Step):
    """The parts of :class:`upsr.engine.step.TrainingStep`."""

    def read(self) -> dict:
        self.number += 1
        dataset = self.trainer.data.dataset
        return collate([dataset[SampleId(self.number, i % len(dataset))] for i in range(self.batch)])

    def pairs(self, there: dict) -> MicroBatch:
        self.number += 1
        place = {"seed": self.opt.manual_seed, "iteration": self.number, "slots": range(self.batch)}
        return micro_batch(self.trainer.data.feed, there, **place, device=self.device)

    def degradation_of(self, there: dict) -> Callable[[], MicroBatch]:
        return lambda: self.pairs(there)

    def parts(self, repeats: int) -> Parts:
        updater = self.trainer.step.updaters["g"]
        raw = self.read()
        if self.device.type == "cuda":
            raw = {k: v.pin_memory() if isinstance(v, Tensor) else v for k, v in raw.items()}
        there = self.copied(raw)
        result = {
            "data": timed(self.read, self.device, repeats),
            "copy": timed(lambda: self.copied(raw), self.device, repeats),
            "degrade": timed(lambda: self.pairs(there), self.device, repeats),
        }
        batch = self.pairs(there).batch
        result |= self.network_parts(batch, repeats, updater.backward)
        loss = self.loss(self.training.task(batch, self.generators()))
        updater.backward(loss)
        synchronise(self.device)
        gradients = {p: p.grad.clone() for p in updater.parameters.values()}
        average, updater.average = updater.average, {}  # the average is timed by itself

        def update() -> None:
            for parameter, gradient in gradients.items():
                parameter.grad = gradient
            updater.step(0, loss.detach())

        result["optimiser"] = timed(update, self.device, repeats)
        updater.average = average
        result["EMA"] = timed(updater.follow, self.device, repeats)
        return result

    def copied(self, raw: dict) -> dict:
        return {k: v.to(self.device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in raw.items()}

    def whole(self) -> Callable[[], object]:
        raw = self.read()
        return lambda: self.trainer.step(self.number, [self.pairs(self.copied(raw))], meanwhile=lambda: None)


class Plain(Step):
    """The same networks, trained as plain_training.py says."""

    def __init__(self, opt: Any, folder: Path, device: torch.device) -> None:
        super().__init__(opt, folder, device)
        self.method.g.training_dtype = None  # g in float32
        self.training.train()
        self.degradation = PlainDegradation(opt.degradation, opt.scale, device)
        self.pool = PlainPool(opt.pair_pool.pairs_per_slot * self.batch)
        self.network = self.method.denoiser
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=opt.train.optim_g.lr, weight_decay=0)
        self.average = PlainAverage(self.network, opt.train.ema_decay)
        self.scaler = torch.amp.GradScaler(device.type, enabled=opt.train.amp == "fp16")
        self.paths = sorted(Path(opt.datasets["train"].arguments["dataroot_gt"]).iterdir())
        self.size = self.trainer.data.dataset.gt_size

    def read(self) -> list[Tensor]:
        self.number += 1
        rng = np.random.default_rng(self.number)
        samples = []
        for i in range(self.batch):
            with Image.open(self.paths[i % len(self.paths)]) as file:
                image = np.asarray(file.convert("RGB")).astype(np.float32) / 255
            top, left = (rng.integers(side - self.size + 1) for side in image.shape[:2])
            crop = image[top : top + self.size, left : left + self.size].transpose(2, 0, 1)
            degradation = self.opt.degradation
            kernels = (blur_kernel(degradation.first.blur), blur_kernel(degradation.second.blur))
            samples.append((crop, *kernels, final_kernel(degradation.final)))
        columns = zip(*samples, strict=True)
        return [torch.from_numpy(np.stack(column).astype(np.float32, order="C")) for column in columns]

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def update(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def copied(self, raw: list[Tensor]) -> list[Tensor]:
        return [x.to(self.device) for x in raw]

    def degradation_of(self, there: list[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: self.pool.exchange(self.degradation(*there), there[0])

    def parts(self, repeats: int) -> Parts:
        raw = self.read()
        degrade = self.degradation_of(self.copied(raw))
        result = {
            "data": timed(self.read, self.device, repeats),
            "copy": timed(lambda: self.copied(raw), self.device, repeats),
            "degrade": timed(degrade, self.device, repeats),
        }
        lq, gt = degrade()
        batch = {"lq": lq, "gt": gt}
        result |= self.network_parts(batch, repeats, self.backward)
        task = self.training.task(batch, self.generators())

        def updates() -> Iterator[float]:
            for _ in range(repeats + 1):
                self.optimizer.zero_grad(set_to_none=True)
                self.backward(self.loss(task))
                yield timed(self.update, self.device, 1, warmup=0).median

        result["optimiser"] = Timing(list(updates())[1:])
        result["EMA"] = timed(lambda: self.average.update(self.network), self.device, repeats)
        return result

    def whole(self) -> Callable[[], object]:
        raw = self.read()

        def iteration() -> float:
            lq, gt = self.degradation_of(self.copied(raw))()
            self.number += 1
            self.optimizer.zero_grad(set_to_none=True)
            with self.trainer.step.autocast():
                loss = self.training("g", {"lq": lq, "gt": gt}, self.generators())["total"]
            self.backward(loss)
            self.update()
            self.average.update(self.network)
            return loss.item()

        return iteration


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-opt", "--opt", type=Path, default=FULL_SIZE, metavar="FILE.yml", help="option file (default 000)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, help="crops (default 16 on CUDA, 1 on the CPU)")
    parser.add_argument(
        "--amp", choices=["fp32", "bf16", "fp16"], help="precision (default bf16 on CUDA, fp32 on the CPU)"
    )
    parser.add_argument(
        "--workers", type=int, default=6, help="loader processes that the verdict counts with (default 6)"
    )
    parser.add_argument("--no-lpips", action="store_true", help="without the perceptual loss")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="options for ours, as --force-yml")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each part (default 5)")
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument(
        "--methods", nargs="*", type=Path, metavar="FILE.yml",
        help="instead: whole iterations of these trainings, and what a checkpoint adds (by default one of each training)",
    )  # fmt: skip
    given = parser.parse_args()
    device = torch.device(given.device)
    cuda = device.type == "cuda"
    configure_backends(device)
    if given.methods is not None:
        return methods(given.methods or list(TRAININGS), device, given.set, given.repeats, given.json)
    changes = [
        f"datasets.train.batch_size_per_gpu={given.batch or (16 if cuda else 1)}",
        f"train.amp={given.amp or ('bf16' if cuda else 'fp32')}",
    ]
    results, opt = compared(
        given.opt, device, changes, given.set, repeats=given.repeats, lpips=None if given.no_lpips else "vgg"
    )
    print(report(results, opt, device, given.workers))
    if given.json:
        with atomic_write(given.json) as path:
            path.write_text(
                json.dumps({"machine": machine(device), **content(results)}, indent=2) + "\n", encoding="utf-8"
            )
    return 0


def methods(
    files: Sequence[Path], device: torch.device, changes: Sequence[str], repeats: int, json_file: Path | None
) -> int:
    """Print a row for each training as it is measured."""
    rows: list[Iterations] = []
    print(machine(device), table([]), sep="\n\n", flush=True)
    for file in files:
        with tempfile.TemporaryDirectory() as name:
            rows.append(measured(file, [*TRAININGS.get(file.resolve(), []), *changes], Path(name), device, repeats))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    if json_file:
        with atomic_write(json_file) as path:
            content = {"machine": machine(device), "trainings": [asdict(row) for row in rows]}
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


def compared(
    option_file: Path,
    device: torch.device,
    changes: Sequence[str],
    own: Sequence[str],
    *,
    repeats: int,
    lpips: str | None,
) -> tuple[dict[str, dict[str, Any]], CommonOptions]:
    """Measure both implementations.

    Args:
        changes: options of both.
        own: more options, for ours.
        lpips: backbone of the perceptual loss, if there is one.

    Returns:
        ``parts``, ``whole`` and ``peak_gib`` of ``"ours"`` and ``"plain"``, and the options of both.
    """
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, step_of, more in (("ours", Ours, own), ("plain", Plain, [])):
            opt = training_options(folder, option_file, [*changes, *more], lpips=lpips)
            reset_peak(device)
            step = step_of(opt, folder / kind, device)
            whole = timed(step.whole(), device, repeats)
            peak = peak_gib(device)
            results[kind] = {"parts": step.parts(repeats), "whole": whole, "peak_gib": peak}
            del step
    return results, opt


def content(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What JSON can hold of :func:`compared`."""
    return {
        kind: {
            "whole_s": result["whole"].seconds,
            "peak_gib": result["peak_gib"],
            "parts_s": {part: timing.seconds for part, timing in result["parts"].items()},
        }
        for kind, result in results.items()
    }


def report(results: dict[str, dict], opt: CommonOptions, device: torch.device, workers: int) -> str:
    """A Markdown table and the verdict."""
    ours, plain = results["ours"], results["plain"]
    batch = opt.datasets["train"].batch_size_per_gpu
    lines = [
        machine(device),
        f"{opt.name}: batch {batch}, crops of {opt.datasets['train'].arguments['gt_size']}, {opt.train.amp}",
        "",
        "| part | ours, ms | plain, ms | plain / ours |",
        "|---|---|---|---|",
    ]
    for part, timing in ours["parts"].items():
        label = f"data ({batch} images, 1 process)" if part == "data" else part
        lines.append(row(label, timing, plain["parts"][part]))
    lines.append(row("**whole iteration, data ready**", ours["whole"], plain["whole"]))
    if ours["peak_gib"] is not None:
        lines.append(f"| peak memory, GiB | {ours['peak_gib']:.2f} | {plain['peak_gib']:.2f} | |")
    data = ours["parts"]["data"].median / workers
    whole = ours["whole"].median
    parts = {part: ours["parts"][part].median for part in DEVICE_PARTS}
    largest = max(parts, key=lambda part: parts[part])
    reading = f"{1e3 * data:.1f} ms with {workers} loader processes"
    if data > whole:
        verdict = f"reading data bounds the run: {reading}, against {1e3 * whole:.1f} ms"
    else:
        share = 100 * parts[largest] / sum(parts.values())
        verdict = (
            f"{largest} bounds the run, with {share:.0f} % of the parts' time; reading beside it takes {reading}, "
            f"{100 * data / whole:.0f} % of an iteration"
        )
    return "\n".join([*lines, "", verdict])


def row(label: str, ours: Timing, plain: Timing) -> str:
    return f"| {label} | {1e3 * ours.median:.2f} | {1e3 * plain.median:.2f} | {plain.median / ours.median:.2f} |"


if __name__ == "__main__":
    sys.exit(main())
