"""Being asked to stop: by Ctrl-C, by the system, or by a scheduler before the time is up."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from upsr.data.loader import STOP_SIGNALS


class StopSignal:
    """A context in which the first signal is a wish and the second one ends the process at once.

    Attributes:
        received: name of the signal, or ``None`` so far.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._former: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python takes handlers from no other thread
            self._former = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            # Nothing is torn: a file that is being written has not taken its name yet.
            os._exit(128 + number)
        self.received = signal.Signals(number).name
        note = f"\n{self.received}: saving at the next iteration boundary; once more to stop without saving\n"
        os.write(sys.stderr.fileno(), note.encode())
