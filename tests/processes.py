"""Training as real processes, for tests that kill them; forks of a process with everything imported start in no time."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing.forkserver
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from upsr.config import parse_options
from upsr.engine.distributed import Runtime
from upsr.engine.train_loop import train
from upsr.errors import UpsrError
from upsr.evaluation import teaching

REPOSITORY = Path(__file__).parents[1]
PATIENCE = 120
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
IMPORTED = [
    "upsr.cli", "upsr.commands.upscale", "upsr.pipeline.pipeline", "upsr.engine.testing", "upsr.engine.train_loop",
    "upsr.engine.setup", "upsr.compat", "basicsr",
]  # fmt: skip
"""The last ones take seconds, and are imported when they are used."""


@functools.cache
def forks() -> multiprocessing.context.ForkServerContext:
    """A server that has imported the package, has computed nothing and has one thread; each test process is its fork."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _program(arguments: tuple[str, ...], cwd: str, environment: dict[str, str], output: str, errors: str) -> None:
    """The body of a fork: what ``python ARGUMENTS`` does after it has started."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), stream)
    sys.path.insert(0, cwd)
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        runpy.run_path(arguments[0], run_name="__main__")


class Fork:
    """``python ARGUMENTS`` with the methods of subprocess.Popen that tests use; both streams are appended to files."""

    def __init__(
        self, arguments: tuple[str, ...], output: Path, *, errors: Path | None = None, cwd: Path = REPOSITORY,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        values = {**os.environ, **ENVIRONMENT, **(environment or {})}
        given = (arguments, str(cwd), values, str(output), str(errors or output))
        self._process = forks().Process(target=_program, args=given)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; minus the number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def run_fork(
    *arguments: str, cwd: Path = REPOSITORY, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """``python ARGUMENTS`` in a fork, to its end."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        code = Fork(arguments, output, errors=errors, cwd=cwd, environment=environment).wait(300)
        return subprocess.CompletedProcess(arguments, code, output.read_bytes(), errors.read_bytes())


def run_two(
    *arguments: str, cwd: Path = REPOSITORY, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """``python ARGUMENTS`` in two forks with the variables that torchrun sets, to their end; both print to one stdout.

    Torchrun itself takes 10 s of a processor for the imports of three processes; tests that ask what it does start it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "GROUP_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "none",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output")
        places = [{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
        ranks = [Fork(arguments, output, cwd=cwd, environment={**(environment or {}), **place}) for place in places]
        deadline = time.monotonic() + 2 * PATIENCE
        try:
            # One that fails leaves the other waiting for it.
            while any(rank.returncode is None for rank in ranks) and not any(rank.returncode for rank in ranks):
                assert time.monotonic() < deadline, output.read_text()[-2000:]
                time.sleep(0.01)
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait(PATIENCE)
        code = next((rank.returncode for rank in ranks if rank.returncode), 0)
        return subprocess.CompletedProcess(arguments, code, output.read_bytes(), b"")


def _written(options: dict[str, Any]) -> Path:
    """The option file of an option mapping, beside its experiments."""
    path = Path(options["path"]["experiments_root"]).parent / f"{options['name']}.yml"
    path.write_text(yaml.safe_dump(options))
    return path


class TrainingProcess:
    """``python train.py`` (or torchrun, or a program around it) on an option mapping, with its output in a file."""

    def __init__(
        self, options: dict[str, Any], *, launcher: tuple[str, ...] = (), arguments: tuple[str, ...] = (),
        program: str = "train.py",
    ) -> None:  # fmt: skip
        self.folder = Path(options["path"]["experiments_root"]) / options["name"]
        option_file = _written(options)
        self.output = option_file.with_suffix(".out")
        command = (*launcher, program, "-opt", str(option_file), *arguments)
        self.output.touch()
        self.popen: Fork | subprocess.Popen[bytes]
        if launcher:
            with self.output.open("ab") as sink:
                self.popen = subprocess.Popen(
                    [sys.executable, *command],
                    cwd=REPOSITORY, env={**os.environ, **ENVIRONMENT}, stdout=sink, stderr=subprocess.STDOUT,
                )  # fmt: skip
        else:
            self.popen = Fork(command, self.output)

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


def trained_by_two(options: dict[str, Any]) -> Path:
    """The folder of a training on two processes, which have ended well."""
    done = run_two("train.py", "-opt", str(_written(options)))
    assert done.returncode == 0, done.stdout.decode()[-2000:]
    return Path(options["path"]["experiments_root"]) / options["name"]


def train_here(options: dict[str, Any], run: Runtime) -> Path:
    """The same training in this process."""
    return train(parse_options(options, "test"), run)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """This process computes with that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """This process computes with one thread."""
    with threads(1):
        yield


class _Here(Executor):
    """In place of a pool of processes, each of which imports the package."""

    def __init__(self, max_workers: int, context: Any, initializer: Callable[..., None], initargs: Any) -> None:
        initializer(*initargs)

    def submit(self, task: Callable[..., Any], *arguments: Any) -> Future[Any]:  # type: ignore[override]
        future: Future[Any] = Future()
        try:
            future.set_result(task(*arguments))
        except UpsrError as error:
            future.set_exception(error)
        return future


@contextlib.contextmanager
def taught_here() -> Iterator[None]:
    """Teacher caches are made in this process: a worker of their own takes five seconds to start."""
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr(teaching, "ProcessPoolExecutor", _Here)
        patch.setattr(teaching, "_end_with", lambda parent: None)
        yield


def whole_and_killed(options: dict[str, Any], run: Runtime) -> list[dict[str, Any]]:
    """The last states of the players: of a run to its end, and of one that is killed after a checkpoint and resumed.

    Args:
        options: with ``auto_resume`` and a checkpoint every second iteration.
    """
    whole = train_here({**options, "name": "whole"}, run)
    killed = TrainingProcess({**options, "name": "killed"})
    killed.wait_for(lambda: list((killed.folder / "training_states").glob("4.state")), "a second checkpoint")
    killed.popen.kill()
    killed.wait()
    again = TrainingProcess({**options, "name": "killed"})
    assert again.wait() == 0, again.printed()[-2000:]
    assert "resumed from" in again.log()
    last = f"{options['train']['total_iter']}.state"
    states = [folder / "training_states" / last for folder in (whole, again.folder)]
    return [torch.load(state, weights_only=True)["players"] for state in states]


def cases_apart(cases: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of a file in a pytest of its own, with more variables of the environment."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    return subprocess.run(
        command, cwd=cases.parents[1], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
