"""The tests of ``on_fake_accelerator.py`` in a process of their own: a kind of device that torch was told of stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import cases_apart

CASES = Path(__file__).with_name("on_fake_accelerator.py")


@pytest.mark.slow
def test_an_accelerator_of_a_kind_that_nothing_names_is_used():
    ran = cases_apart(CASES, CUDA_VISIBLE_DEVICES="")
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-5_000:]
