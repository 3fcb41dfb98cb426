"""Beside other programs: how long threads spin, how many there are, and what is said. Seconds: benchmarks/busy.py."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from PIL import Image

from upsr import busy, cli


@pytest.fixture
def threads(monkeypatch):
    """Two cores with two threads, whose number the user has not set."""
    before = torch.get_num_threads()
    monkeypatch.setattr(busy, "cores", lambda: 2)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("given", "count", "expected"),
    [
        ({}, 0, {"GOMP_SPINCOUNT": "10000"}),
        ({}, 1, {"GOMP_SPINCOUNT": "1000"}),
        ({"GOMP_SPINCOUNT": "7"}, 1, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, 1, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_threads_spin_shorter_beside_others_unless_the_user_says(given, count, expected):
    environment = dict(given)
    busy.set_waiting(environment, lambda: count)
    assert environment == expected


@pytest.mark.parametrize(("count", "allowed", "expected"), [(0, 2, 2), (1, 2, 1), (2, 2, 2), (3, 16, 13), (16, 16, 16)])
def test_threads_are_those_of_the_free_cores(count, allowed, expected):
    assert busy.threads_beside(count, allowed) == expected


@pytest.mark.usefixtures("threads")
def test_what_was_done_is_said_in_a_line():
    assert busy.fit_threads(0) is None
    assert torch.get_num_threads() == 2
    said = busy.fit_threads(1)
    assert said is not None
    assert said.startswith("other programs keep 1 of 2 cores busy: 1 thread(s)")
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_number_of_threads_of_the_user_s_stays(name, monkeypatch):
    monkeypatch.setenv(name, "2")
    assert busy.fit_threads(1) is None
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells how many tasks run")
def test_programs_that_compute_are_counted():
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy.cores())]
    try:
        # One that has just been started may not run yet.
        assert any(busy.busy_cores() == busy.cores() for _ in range(200))
    finally:
        for program in programs:
            program.kill()
            program.wait()


def test_a_system_that_does_not_tell_counts_as_quiet(monkeypatch, tmp_path):
    monkeypatch.setattr(busy, "_LOAD", tmp_path / "nothing")
    assert busy.busy_cores() == 0


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [0, 1])
def test_a_photo_is_upscaled_beside_others_and_by_itself(count, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("upsr.commands.upscale.busy_cores", lambda: count)
    Image.new("RGB", (16, 16), "teal").save(tmp_path / "photo.png")
    assert cli.main(["upscale", str(tmp_path / "photo.png"), "-o", str(tmp_path / "large.png"), "--device", "cpu"]) == 0
    assert (tmp_path / "large.png").is_file()
    assert ("1 of 2 cores busy" in capsys.readouterr().err) == bool(count)
