"""The tests of ``on_fake_device.py`` in a process of their own.

The fake tensors of torch 2.11 end their process after a compilation in it. Copies of them did so too in 2 of 14 runs, until
``fake_device.py`` made the copies itself; a process that ends by a signal is tried again, a failed test is not.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.processes import cases_apart

CASES = Path(__file__).with_name("on_fake_device.py")
CRASHED = {-signal.SIGSEGV, -signal.SIGABRT}
TRIES = 4


@pytest.mark.slow
def test_restoration_and_training_stay_on_the_device():
    for _ in range(TRIES):
        ran = cases_apart(CASES)
        if ran.returncode not in CRASHED:
            break
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-5_000:]
