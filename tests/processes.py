"""Training as real processes, for tests that kill them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from upsr.config import parse_options
from upsr.engine.distributed import Runtime
from upsr.engine.train_loop import train

REPOSITORY = Path(__file__).parents[1]
PATIENCE = 120


class TrainingProcess:
    """``python train.py`` (or torchrun) on an option mapping, with its output in a file."""

    def __init__(
        self, options: dict[str, Any], *, launcher: tuple[str, ...] = (), arguments: tuple[str, ...] = ()
    ) -> None:
        root = Path(options["path"]["experiments_root"]).parent
        self.folder = Path(options["path"]["experiments_root"]) / options["name"]
        option_file = root / f"{options['name']}.yml"
        option_file.write_text(yaml.safe_dump(options))
        self.output = root / f"{options['name']}.out"
        self._sink = self.output.open("ab")
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        self.popen = subprocess.Popen(
            [sys.executable, *launcher, "train.py", "-opt", str(option_file), *arguments],
            cwd=REPOSITORY, env=environment, stdout=self._sink, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def log(self) -> str:
        """train.log so far."""
        path = self.folder / "train.log"
        return path.read_text() if path.exists() else ""

    def printed(self) -> str:
        """What the process has printed so far."""
        return self.output.read_text()

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        """Poll until the condition is true."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if value := condition():
                return value
            assert self.popen.poll() is None, f"ended before {what}:\n{self.printed()[-3000:]}"
            time.sleep(0.01)
        raise AssertionError(f"no {what} within {PATIENCE} s:\n{self.printed()[-3000:]}")

    def wait(self) -> int:
        """The exit code."""
        return self.popen.wait(timeout=PATIENCE)

    def workers(self) -> list[int]:
        """Process ids of the children: under torchrun, the ranks in order."""
        return [int(pid) for pid in Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()]


def train_here(options: dict[str, Any], run: Runtime) -> Path:
    """The same training in this process."""
    return train(parse_options(options, "test"), run)
