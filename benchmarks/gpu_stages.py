"""The stages of gpu_day.py, one a process: `python benchmarks/gpu_stages.py NAME --device cuda --result FILE --out FOLDER`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import train_iterations
import train_step
from cases import SECTIONS, Setting
from common import FULL_SIZE, REPOSITORY, training_options
from gpu_state import pack, unpack
from harness import measure
from limits import Limits

from upsr.atomic import atomic_write
from upsr.engine.setup import configure_backends

TINY = REPOSITORY / "options" / "demo" / "stage2_tiny.yml"
STOPPED = 75
"""Exit code of a training run that was asked to stop and has saved its state."""


@dataclass(frozen=True)
class Scene:
    """Where and how large a stage works.

    Attributes:
        rehearse: on a CPU, with tiny networks.
        out: folder of the results, for files that are to come back.
        seconds: after which the last stage is asked to stop.
    """

    device: torch.device
    rehearse: bool
    out: Path
    seconds: float

    @property
    def option_file(self) -> Path:
        return TINY if self.rehearse else FULL_SIZE

    def setting(self, dtype: torch.dtype, **settings: Any) -> Setting:
        """32 images of 64 x 64; in the rehearsal 2 of 32 x 32."""
        size = {"sizes": [32], "batches": [2]} if self.rehearse else {"sizes": [64], "batches": [32]}
        given = {"compile": "none", "option_file": self.option_file, **size, **settings}
        return Setting(self.device, dtype, **given)

    def measured(self, *kinds: tuple[str, torch.dtype, dict[str, Any]]) -> dict[str, Any]:
        """Sections in some types and settings, beside plain and beside the machine's limits."""
        limits = Limits(self.device, small=self.rehearse)
        rounds, warmup = (1, 1) if self.rehearse else (5, 3)
        reports = [
            measure(SECTIONS[section](self.setting(dtype, **settings)), limits, rounds, warmup)
            for section, dtype, settings in kinds
        ]
        whole = replace(reports[0], rows=[row for report in reports for row in report.rows])
        return {**whole.content(), "markdown": whole.markdown()}


Result = dict[str, Any]


def tests(scene: Scene) -> Result:
    """Tests marked gpu."""
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py", f"--junitxml={report}"]
        command += ["-p", "no:cacheprovider"]
        # Whatever plugins the machine has, the tests need none.
        environment = {**os.environ, "UPSR_TEST_DEVICE": scene.device.type, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False)
        if not report.is_file():
            raise SystemExit(done.returncode or 1)
        cases = [(case.get("name"), _outcome(case)) for case in ElementTree.parse(report).iter("testcase")]
    lines = ["| test | outcome |", "|---|---|", *(f"| {name} | {outcome} |" for name, outcome in cases)]
    passed = sum(outcome == "passed" for _, outcome in cases)
    good = passed > 0 and done.returncode == 0
    skipped = ", ".join(name for name, outcome in cases if outcome == "skipped")
    return {"tests": dict(cases), "good": good, "markdown": "\n".join(lines), **_only_on_cuda(scene, skipped)}


def _outcome(case: ElementTree.Element) -> str:
    kinds = {child.tag for child in case}
    return "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"


def golden(scene: Scene) -> Result:
    """Largest differences from the released networks' outputs, in float32 without TF32 and with it."""
    from golden import TOLERANCE, differences

    torch.backends.cudnn.allow_tf32 = False
    found = {"float32": differences(scene.device, large=not scene.rehearse)}
    if scene.device.type == "cuda":
        configure_backends(scene.device)
        torch.backends.cudnn.allow_tf32 = True
        found["TF32"] = differences(scene.device, large=True)
    lines = [f"| vector | {' | '.join(found)} |", "|---|" + "---:|" * len(found)]
    lines += [f"| {name} | {' | '.join(f'{of[name]:.1e}' for of in found.values())} |" for name in found["float32"]]
    good = max(found["float32"].values()) <= TOLERANCE
    lines += ["", f"Allowed in float32: {TOLERANCE:.0e}."]
    large = "the denoiser and the pipeline, which take long on a CPU, and TF32"
    return {"differences": found, "good": good, "markdown": "\n".join(lines), **_only_on_cuda(scene, large)}


def restoration(scene: Scene) -> Result:
    """Networks and 5 steps, as they are: types and layouts."""
    result = scene.measured(
        ("denoiser", torch.bfloat16, {}),
        ("g", torch.float32, {}),
        ("restore", torch.float32, {}),
        ("restore", torch.bfloat16, {}),
        ("restore", torch.float16, {}),
        ("restore", torch.bfloat16, {"channels_last": False}),
    )
    return {**result, **_only_on_cuda(scene, "peak memory")}


def restoration_compiled(scene: Scene) -> Result:
    """5 steps with a compiled denoiser."""
    return _compiled(scene, "default")


def restoration_graphs(scene: Scene) -> Result:
    """5 steps with a compiled denoiser in CUDA graphs."""
    return _compiled(scene, "reduce-overhead")


def restoration_autotuned(scene: Scene) -> Result:
    """5 steps with a compiled denoiser in CUDA graphs, each operator in the fastest of several forms."""
    return _compiled(scene, "max-autotune")


def _compiled(scene: Scene, mode: str) -> Result:
    result = scene.measured(("restore", torch.bfloat16, {"compile": mode}))
    return {**result, **_only_on_cuda(scene, "code generation, CUDA graphs, peak memory")}


def tiled(scene: Scene) -> Result:
    """1024 x 1024 in tiles; in the rehearsal 48 x 48."""
    settings = {"sizes": [48], "batches": [1], "tile": 32} if scene.rehearse else {"sizes": [1024], "batches": [1]}
    result = scene.measured(("tiled", torch.bfloat16, settings))
    return {**result, **_only_on_cuda(scene, "peak memory")}


def training(scene: Scene) -> Result:
    """A training step with LPIPS at batch 16, by part: bfloat16 and float16."""
    return _steps(scene, {"bf16": ("bf16", []), "fp16": ("fp16", [])}, "float16 with its loss scale, peak memory")


def training_compiled(scene: Scene) -> Result:
    """The same with channels last, and with a compiled denoiser."""
    eager, compiled = ["train.channels_last=true"], ["train.channels_last=true", "train.compile=default"]
    kinds = {"bf16, channels last": ("bf16", eager), "bf16, channels last, compiled (default)": ("bf16", compiled)}
    return _steps(scene, kinds, "code generation, peak memory")


def training_graphs(scene: Scene) -> Result:
    """The same in CUDA graphs."""
    own = ["train.channels_last=true", "train.compile=reduce-overhead"]
    kinds = {"bf16, channels last, compiled (reduce-overhead)": ("bf16", own)}
    return _steps(scene, kinds, "code generation, CUDA graphs, peak memory")


def _steps(scene: Scene, kinds: dict[str, tuple[str, list[str]]], only: str) -> Result:
    found, texts = {}, []
    for name, (amp, own) in kinds.items():
        amp = "bf16" if scene.rehearse else amp
        changes = [f"train.amp={amp}", f"datasets.train.batch_size_per_gpu={2 if scene.rehearse else 16}"]
        repeats, lpips = (1, "squeeze") if scene.rehearse else (5, "vgg")
        own = [*own, f"train.aux_amp={amp}"]
        results, opt = train_step.compared(scene.option_file, scene.device, changes, own, repeats=repeats, lpips=lpips)
        found[name] = train_step.content(results)
        texts += [f"### {name}", "", train_step.report(results, opt, scene.device, workers=6), ""]
        torch.compiler.reset()
    return {"steps": found, "markdown": "\n".join(texts), **_only_on_cuda(scene, only)}


def data_wait(scene: Scene) -> Result:
    """The share of its time that a training run waits for data, as the run itself reports it."""
    from upsr.engine.distributed import Runtime
    from upsr.engine.sinks import read_rows
    from upsr.engine.train_loop import train

    every, lpips = (2, None) if scene.rehearse else (50, "vgg")
    workers = 1 if scene.rehearse else 6
    with tempfile.TemporaryDirectory() as name:
        changes = [
            f"train.total_iter={2 * every}", f"logger.print_freq={every}", "logger.save_checkpoint_freq=1000000",
            "logger.use_tb_logger=false", f"path.experiments_root={name}", "num_gpu=auto", "train.amp=bf16",
            f"datasets.train.batch_size_per_gpu={2 if scene.rehearse else 16}", f"datasets.train.num_worker_per_gpu={workers}",
        ]  # fmt: skip
        opt = training_options(Path(name), scene.option_file, changes, lpips=lpips)
        rows = read_rows(train(opt, Runtime(scene.device)) / "metrics.csv")
    # The first report counts the start of the loader.
    last = {tag: float(value) for iteration, tag, value in rows if int(iteration) == 2 * every}
    kept = {tag: last[tag] for tag in ("s_per_iter", "images_per_s", "data_wait_share", "memory_gib")}
    text = (
        f"The last {every} of {2 * every} iterations with {workers} loader processes: {kept['s_per_iter']:.3f} s each, "
        f"{100 * kept['data_wait_share']:.1f} % of it waiting for data, {kept['memory_gib']:.2f} GiB."
    )
    return {**kept, "markdown": text}


def checkpoints(scene: Scene) -> Result:
    """How long training stands still for a checkpoint: the full-size UPSR, from pinned memory."""
    batch = 2 if scene.rehearse else 16
    changes = [
        *train_iterations.TRAININGS[scene.option_file], "num_gpu=auto", "train.amp=bf16", "datasets.train.num_worker_per_gpu=1",
        f"datasets.train.batch_size_per_gpu={batch}",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        repeats = 1 if scene.rehearse else 5
        row = train_iterations.measured(scene.option_file, changes, Path(name), scene.device, repeats)
    return {**asdict(row), "markdown": train_iterations.table([row])}


def train_tiny(scene: Scene) -> Result:
    """The training of `make train-tiny`, for as long as there is time; its state goes into the folder of the results.

    A rehearsal trains the demo's g for a few iterations instead.
    """
    with tempfile.TemporaryDirectory() as name:
        runs = Path(name) / "experiments" if scene.rehearse else REPOSITORY / "experiments" / "tiny2"
        unpack(scene.out, runs)
        code = _until(_rehearsed_training(Path(name)) if scene.rehearse else _train_tiny(), scene.seconds)
        size = pack(runs, scene.out) if runs.is_dir() else 0
    if code not in (0, STOPPED):
        raise SystemExit(code)
    state = "done" if code == 0 else "partial"
    text = f"{'Finished' if code == 0 else 'Stopped, to be continued'}; {size / 2**20:.1f} MiB of state in state.tar.*."
    return {"state": state, "markdown": text, **_only_on_cuda(scene, "scripts/train_tiny.py itself")}


def _train_tiny() -> list[str]:
    if not (REPOSITORY / "scripts" / "train_tiny.py").is_file():
        raise SystemExit("error: scripts/train_tiny.py is not in this checkout")
    return [sys.executable, "-m", "scripts.train_tiny", "--threads", str(os.cpu_count() or 1)]


def _rehearsed_training(folder: Path) -> list[str]:
    from common import photos

    changes = [
        f"datasets.train.dataroot_gt={photos(folder / 'photos', 2)}", f"path.experiments_root={folder / 'experiments'}",
        "train.total_iter=3", "num_gpu=0", "datasets.train.batch_size_per_gpu=2",
    ]  # fmt: skip
    return [
        sys.executable,
        "train.py",
        "-opt",
        "options/demo/stage1_tiny.yml",
        "--auto-resume",
        "--force-yml",
        *changes,
    ]


def _until(command: Sequence[str], seconds: float) -> int:
    """The exit code of a command that is asked to stop after some time."""
    process = subprocess.Popen(command, cwd=REPOSITORY)
    try:
        return process.wait(max(seconds, 1.0))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        return process.wait()


def _only_on_cuda(scene: Scene, what: str) -> Result:
    return {"only_on_cuda": what} if scene.rehearse and what else {}


STAGES: dict[str, Callable[[Scene], Result]] = {
    stage.__name__: stage
    for stage in (
        tests,
        golden,
        restoration,
        restoration_compiled,
        restoration_graphs,
        restoration_autotuned,
        tiled,
        training,
        training_compiled,
        training_graphs,
        data_wait,
        checkpoints,
        train_tiny,
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--device", required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--rehearse", action="store_true")
    given = parser.parse_args()
    scene = Scene(torch.device(given.device), given.rehearse, given.out, given.seconds)
    if given.stage != "golden":  # which begins without TF32
        configure_backends(scene.device)
    if given.rehearse:
        # Graphs are made, and then run by torch: a compiler of C++ would take minutes.
        torch.compile = partial(torch.compile, backend="eager")  # type: ignore[assignment]
    result = STAGES[given.stage](scene)
    with atomic_write(given.result) as path:
        path.write_text(json.dumps(result), encoding="utf-8")
    return 0 if result.get("good", True) else 1


if __name__ == "__main__":
    sys.exit(main())
