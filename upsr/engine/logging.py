"""Log file and console of a run."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from tqdm import tqdm

from upsr.engine.distributed import Runtime


class _AboveProgressBar(logging.StreamHandler):
    """Writes lines so that a progress bar below them stays whole."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class _LogFile(logging.FileHandler):
    """Gives up with one line, not a traceback for each message, when the disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        logging.getLogger("upsr").removeHandler(self)
        logging.getLogger("upsr").warning("%s: cannot be written any more (%s)", self.baseFilename, sys.exc_info()[1])


def setup_logging(run: Runtime, log_file: Path | None) -> None:
    """Send ``upsr`` messages of the main process to the console and a file; other processes report warnings only."""
    logger = logging.getLogger("upsr")
    logger.handlers.clear()
    logger.propagate = False
    logger.setLevel(logging.INFO if run.is_main else logging.WARNING)
    handlers: list[logging.Handler] = [_AboveProgressBar()]
    if run.is_main and log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_LogFile(log_file, encoding="utf-8"))
    rank = "" if run.is_main else f" [rank {run.rank}]"
    for handler in handlers:
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s{rank}: %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(handler)
