"""The tests of ``on_fake_device.py`` in a process of their own.

The fake tensors of torch 2.11 end their process with a segmentation fault after a compilation in it, and now and then without one
(in 2 of 14 runs, once when all had passed).
"""

from __future__ import annotations

import signal
from pathlib import Path

from tests.processes import cases_apart

CASES = Path(__file__).with_name("on_fake_device.py")
CRASHED = -signal.SIGSEGV
TRIES = 4


def test_restoration_and_training_stay_on_the_device():
    for _ in range(TRIES):
        ran = cases_apart(CASES)
        if ran.returncode != CRASHED:
            break
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-5_000:]
