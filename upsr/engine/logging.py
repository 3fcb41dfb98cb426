"""Log file, console and TensorBoard of a run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from upsr.engine.distributed import Runtime


class _AboveProgressBar(logging.StreamHandler):
    """Writes lines so that a progress bar below them stays whole."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def setup_logging(run: Runtime, log_file: Path | None) -> None:
    """Send ``upsr`` messages of the main process to the console and a file; other processes report warnings only."""
    logger = logging.getLogger("upsr")
    logger.handlers.clear()
    logger.propagate = False
    logger.setLevel(logging.INFO if run.is_main else logging.WARNING)
    handlers: list[logging.Handler] = [_AboveProgressBar()]
    if run.is_main and log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
    rank = "" if run.is_main else f" [rank {run.rank}]"
    for handler in handlers:
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s{rank}: %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(handler)


class Board:
    """TensorBoard, on the main process and where it is asked for; elsewhere it does nothing."""

    def __init__(self, folder: Path, enabled: bool, purge_step: int | None = None) -> None:
        self._writer = None
        if enabled:
            from torch.utils.tensorboard import SummaryWriter  # here: its import takes seconds

            self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Plot values by tag."""
        if self._writer is not None:
            for tag, value in values.items():
                self._writer.add_scalar(tag, value, iteration)

    def picture(self, tag: str, image: Tensor, iteration: int) -> None:
        """Show a (C, H, W) image in [0, 1]."""
        if self._writer is not None:
            self._writer.add_image(tag, image, iteration)

    def close(self) -> None:
        """Write out what is pending."""
        if self._writer is not None:
            self._writer.close()
