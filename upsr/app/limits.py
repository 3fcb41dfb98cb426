"""Limits of a visitor's requests."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of one visitor.

    Attributes:
        upload_bytes: largest file.
        upload_pixels: most pixels of a photo, compared before it is decoded.
        output_pixels: most pixels of a result.
        batch_bytes: largest upload of several photos, in all.
        batch_photos: most photos at once.
        requests_per_minute: of one client; uploads and upscalings are counted separately.
        queue: upscalings that may wait; one runs.
    """

    upload_bytes: int = 20_000_000
    upload_pixels: int = 32_000_000
    output_pixels: int = 16_000_000
    batch_bytes: int = 200_000_000
    batch_photos: int = 50
    requests_per_minute: int = 20
    queue: int = 8


class RateLimit:
    """At most ``count`` requests of a client in any ``period`` seconds."""

    _MOST_CLIENTS = 10_000

    def __init__(self, count: int, period: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._count, self._period, self._clock = count, period, clock
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def wait(self, client: str) -> float:
        """0 when the request is allowed (it is counted then), else the seconds until the next one is."""
        now = self._clock()
        with self._lock:
            if len(self._times) > self._MOST_CLIENTS:
                self._times = {name: times for name, times in self._times.items() if times[-1] > now - self._period}
            times = self._times.setdefault(client, deque(maxlen=self._count))
            if len(times) == self._count and (wait := times[0] + self._period - now) > 0:
                return wait
            times.append(now)
            return 0.0
