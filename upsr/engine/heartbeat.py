"""What a run says of itself while it works: a status file for those who look, a warning when it stands still."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from upsr.atomic import atomic_write
from upsr.engine.distributed import Runtime, job_id
from upsr.errors import PreemptedError, UpsrError

logger = logging.getLogger(__name__)

STATUS_FILE = "status.json"


def read_status(folder: Path) -> dict[str, Any]:
    """What a run last said of itself; empty if it never did."""
    try:
        status = json.loads((folder / STATUS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


class Heartbeat:
    """A thread that watches the training loop of its process.

    The main process keeps ``status.json`` up to date: state (running, finished, preempted, failed), iteration, activity,
    time; where it has reported nothing for ``interval`` seconds it logs that it is alive. Any process that makes no progress
    for so long says where it stands, so that of many ranks the stuck one can be recognised.

    Args:
        folder: the run's.
        interval: seconds between two beats.
        total: iterations of the run.
    """

    def __init__(self, run: Runtime, folder: Path, *, interval: float, total: int) -> None:
        self.run = run
        self.path = folder / STATUS_FILE
        self.interval = interval
        self.total = total
        self._iteration = 0
        self._activity = "starting"
        self._since = self._reported = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def beat(self, iteration: int, activity: str) -> None:
        """Progress was made: ``activity`` begins after ``iteration`` finished iterations."""
        self._iteration, self._activity, self._since = iteration, activity, time.monotonic()

    def reported(self) -> None:
        """The log has a line on the progress."""
        self._reported = time.monotonic()

    def __enter__(self) -> Heartbeat:
        self._write("running")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if error is None:
            self._write("finished")
        elif isinstance(error, PreemptedError):
            self._write("preempted", message=str(error))
        else:
            self._write("failed", message=str(error) or type(error).__name__)

    def _watch(self) -> None:
        warned = 0.0
        while not self._ended.wait(self.interval):
            self._write("running")
            now = time.monotonic()
            still = now - self._since
            if self.run.is_main and still < self.interval <= now - self._reported:
                logger.info("alive: %s after iteration %d of %d", self._activity, self._iteration, self.total)
            if still >= self.interval and self._since != warned:
                warned = self._since
                logger.warning(
                    "rank %d: no progress for %.0f s, in '%s' after iteration %d",
                    self.run.rank, still, self._activity, self._iteration,
                )  # fmt: skip

    def _write(self, state: str, **more: Any) -> None:
        if not self.run.is_main:
            return
        status = {
            "state": state,
            "iteration": self._iteration,
            "total_iter": self.total,
            "activity": self._activity,
            "time": time.time(),
            "interval": self.interval,
            "job": job_id(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            **more,
        }
        try:
            with atomic_write(self.path) as path:
                path.write_text(json.dumps(status, indent=2) + "\n", encoding="utf-8")
        except UpsrError as error:  # a full disk must not end the run from here
            logger.warning("%s", error)
