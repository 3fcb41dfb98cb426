"""The day with a GPU: rehearsed as a whole on a machine that has only what is carried, resumed, and honest about failures."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import gpu_day
import gpu_stages
import gpu_wheels
import pytest
import torch
from gpu_state import PIECE, carried, pack, unpack

from upsr.errors import UpsrError

REPOSITORY = Path(__file__).parents[1]

BARE = """import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden} else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


def not_carried() -> list[str]:
    """Modules of distributions that are neither torch's nor on the list of wheels."""
    there = gpu_wheels._torchs() | {gpu_wheels.canonical(name) for name in gpu_wheels.MODULES.values()}
    there |= {"upsr", "pip", "setuptools"}
    owners = importlib.metadata.packages_distributions()
    hidden = {module for module, names in owners.items() if not {*map(gpu_wheels.canonical, names)} & there}
    return sorted(hidden - {path.name for path in REPOSITORY.iterdir()})  # a distribution has a module named tests


@pytest.mark.slow
def test_the_whole_day_is_rehearsed_with_what_is_carried_alone(tmp_path):
    hidden = not_carried()
    assert {"gradio", "diffusers", "spandrel", "matplotlib", "lmdb"} <= set(hidden)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BARE.format(hidden=set(hidden)))
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu_day.py", "--rehearse", "--out", str(out)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    text = (out / gpu_day.SUMMARY).read_text() if (out / gpu_day.SUMMARY).is_file() else done.stderr
    assert done.returncode == 0, text
    results = json.loads((out / gpu_day.RESULTS).read_text())
    stages = results["stages"]
    assert results["rehearsal"]
    assert {name: stage["state"] for name, stage in stages.items()} == dict.fromkeys(gpu_day.MINUTES, "done")
    assert max(stages["golden"]["differences"]["float32"].values()) < 1e-4
    assert {"passed"} <= set(stages["tests"]["tests"].values()) <= {"passed", "skipped"}
    for name in ("restoration", "restoration_compiled", "restoration_graphs", "restoration_autotuned", "tiled"):
        for row in stages[name]["rows"]:
            assert row["median"] > 0 < row["ratio"]
            assert row["difference"] is None or row["difference"] < 5e-3
    for name in ("training", "training_compiled", "training_graphs"):
        for step in stages[name]["steps"].values():
            assert step["ours"]["parts_s"].keys() == step["plain"]["parts_s"].keys()
    assert 0 <= stages["data_wait"]["data_wait_share"] <= 1
    assert "no number here says anything about speed" in text
    assert "code generation, CUDA graphs" in stages["training_graphs"]["only_on_cuda"]
    assert [path.name for path in out.glob("state.tar.*")] == ["state.tar.00"]


def test_every_stage_has_its_time_and_none_is_longer_than_a_call():
    assert list(gpu_day.MINUTES) == list(gpu_stages.STAGES)
    assert max(gpu_day.MINUTES.values()) < 9


@pytest.fixture
def day(monkeypatch):
    """The command with stages that take no time; which of them ran, and what is to become of them."""
    ran, fate = [], {}

    def stage(name, plan):
        ran.append(name)
        return {"state": "done", "seconds": 1.0, "markdown": name, **fate.get(name, {})}

    def call(*arguments):
        ran.clear()
        return gpu_day.main(["--rehearse", *map(str, arguments)])

    monkeypatch.setattr(gpu_day, "_ran", stage)
    return call, ran, fate


FAILED = {"state": "failed", "ended": "exit code 1", "output": ["out of luck"]}


def test_finished_stages_are_not_run_again(day, tmp_path, capsys):
    call, ran, fate = day
    fate["train_tiny"] = {"state": "partial"}
    assert call("--out", tmp_path / "one") == 0
    assert ran == list(gpu_day.MINUTES)
    assert "left for another call, with --previous: train_tiny" in capsys.readouterr().out
    (tmp_path / "one" / "state.tar.00").write_bytes(b"state")
    fate.clear()
    assert call("--out", tmp_path / "two", "--previous", tmp_path / "one") == 0
    assert ran == ["train_tiny"]
    assert (tmp_path / "two" / "state.tar.00").read_bytes() == b"state"
    assert call("--out", tmp_path / "two") == 0
    assert ran == []
    assert capsys.readouterr().out == ""


def test_a_stage_that_fails_is_recorded_and_the_others_go_on(day, tmp_path):
    call, ran, fate = day
    fate["golden"] = FAILED
    assert call("--out", tmp_path) == 1
    assert ran == list(gpu_day.MINUTES)
    assert "out of luck" in (tmp_path / gpu_day.SUMMARY).read_text()
    fate.clear()
    assert call("--out", tmp_path) == 0
    assert ran == ["golden"]


def test_no_stage_begins_that_no_longer_fits(day, tmp_path, capsys):
    call, ran, _ = day
    assert call("--out", tmp_path, "--minutes", gpu_day.REHEARSED / 2, "--only", "golden", "tiled") == 0
    assert ran == []
    assert "left for another call, with --previous: golden, tiled" in capsys.readouterr().out


def test_what_stopped_a_stage_is_kept(tmp_path):
    plan = gpu_day.Plan(tmp_path, "cpu", True, float("inf"))
    stage = gpu_day._ran("nothing", plan)
    assert (stage["state"], stage["ended"]) == ("failed", "exit code 2")
    assert "invalid choice: 'nothing'" in "\n".join(stage["output"])


def test_a_stage_that_takes_too_long_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_day, "REHEARSED", 0.005)
    stage = gpu_day._ran("tests", gpu_day.Plan(tmp_path, "cpu", True, float("inf")))
    assert (stage["state"], stage["ended"]) == ("failed", "stopped after 0 s")


def test_mistakes_are_one_line(day, tmp_path, capsys, monkeypatch):
    call, _, _ = day
    (tmp_path / gpu_day.RESULTS).write_text("[]")
    assert call("--out", tmp_path) == 2
    assert "no results of gpu_day.py" in capsys.readouterr().err
    (tmp_path / gpu_day.RESULTS).write_text('{"rehearsal": false, "stages": {}}')
    assert call("--out", tmp_path) == 2
    assert "a rehearsal and a real run do not go into one folder" in capsys.readouterr().err
    monkeypatch.setattr(gpu_day, "missing_modules", lambda: ["lpips", "yaml"])
    assert call("--out", tmp_path) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "lpips, yaml cannot be imported; carry their wheels: python benchmarks/gpu_wheels.py" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_rehearsal_is_named():
    with pytest.raises(UpsrError, match=r"cannot be used here .*; run it on a machine with a GPU, or give --rehearse"):
        gpu_day._device(rehearse=False)


def test_the_state_of_a_run_comes_back_in_pieces(tmp_path):
    runs = tmp_path / "runs"
    contents = {
        "state.txt": b"stage two",
        "g/training_states/900.state": b"old",
        "g/training_states/1000.state": b"new" * (PIECE // 2),
        "g/training_states/1000.json": b"manifest",
        "g/models/net_g_900.safetensors": b"old",
        "g/models/net_g_1000.safetensors": b"new",
        "g/models/net_g_latest.safetensors": b"latest",
        "g/train.log": b"log",
    }
    for name, content in contents.items():
        (runs / name).parent.mkdir(parents=True, exist_ok=True)
        (runs / name).write_bytes(content)
    assert {path.relative_to(runs).as_posix() for path in carried(runs)} == {n for n in contents if "900" not in n}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "state.tar.07").write_bytes(b"of an earlier, larger state")
    size = pack(runs, tmp_path / "out")
    pieces = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in pieces] == ["state.tar.00", "state.tar.01"]
    assert sum(path.stat().st_size for path in pieces) == size
    unpack(tmp_path / "out", tmp_path / "back")
    back = {p.relative_to(tmp_path / "back").as_posix(): p.read_bytes() for p in carried(tmp_path / "back")}
    assert back == {name: content for name, content in contents.items() if "900" not in name}


def wheels(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gpu_wheels.py", *map(str, arguments)])
    return gpu_wheels.main()


def test_wheels_are_those_that_the_machine_lacks(monkeypatch, capsys, tmp_path):
    assert wheels(monkeypatch) == 0
    printed = capsys.readouterr()
    assert "basicsr" in printed.out
    assert "\ntorch" not in printed.out
    assert "warning: more than 64 MiB" in printed.err
    names = [name for name in gpu_wheels.MODULES.values() if name not in ("lpips", "basicsr")]
    (tmp_path / "list.txt").write_text("\n".join(f"{name.replace('-', '_')}   1.0" for name in names))
    assert wheels(monkeypatch, "--present", tmp_path / "list.txt") == 0
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.split("\n\n")[0].splitlines()] == ["basicsr", "lpips"]
    assert "pip wheel --no-deps --no-build-isolation --wheel-dir wheels basicsr==1.4.2" in printed.out
    assert printed.err == ""
    assert wheels(monkeypatch, "--present", tmp_path / "nothing.txt") == 2
    assert "nothing.txt: cannot be read" in capsys.readouterr().err
