"""The tests of ``on_fake_accelerator.py`` in a process of their own: a kind of device that torch was told of stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CASES = Path(__file__).with_name("on_fake_accelerator.py")


def test_an_accelerator_of_a_kind_that_nothing_names_is_used():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, cwd=CASES.parents[1], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-5_000:]
