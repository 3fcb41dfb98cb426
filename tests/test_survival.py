"""Training runs as real processes that are killed, signalled, starved of disk and robbed of their data."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from tests import tiny
from tests.processes import REPOSITORY, TrainingProcess, one_thread, train_here
from tests.training import tiny_options
from upsr.commands.runs import state_of
from upsr.engine.checkpoint import CheckpointStore, load_checkpoint
from upsr.engine.distributed import Runtime
from upsr.engine.heartbeat import read_status

CPU = Runtime(torch.device("cpu"))
KILLS = 20
TOTAL = 100


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("survival")


@pytest.fixture(scope="module")
def photos(root) -> Path:
    return tiny.save_pictures(root / "photos", 5)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """As many threads as the processes have, so that sums are in the same order."""
    with one_thread():
        yield


def options(root: Path, photos: Path, name: str, **changes) -> dict:
    settings = tiny_options(
        root, photos, name=name, auto_resume=True,
        train={"total_iter": TOTAL}, logger={"save_checkpoint_freq": 3, "keep_last": 3, "weight_formats": ["safetensors"]},
    )  # fmt: skip
    from upsr.config.load import merged

    return merged(settings, changes)


@pytest.fixture(scope="module")
def uninterrupted(root, photos) -> Path:
    return train_here(options(root, photos, "uninterrupted"), CPU)


@pytest.fixture(scope="module")
def brief(root, photos) -> Path:
    """An uninterrupted run of 30 iterations."""
    return train_here(options(root, photos, "brief", train={"total_iter": 30}), CPU)


def differences(a: Path, b: Path, iteration: int) -> list[str]:
    """What two runs' checkpoints of an iteration have different, bit by bit."""
    first, second = (load_checkpoint(folder / "training_states" / f"{iteration}.state") for folder in (a, b))
    one, other = first.players["g"], second.players["g"]
    found = [n for n, v in one.params.items() if not torch.equal(v, other.params[n])]
    found += [n for n, v in one.params_ema.items() if not torch.equal(v, other.params_ema[n])]
    for index, state in one.optimizer["state"].items():
        moments = other.optimizer["state"][index]
        found += [f"optimizer {index}.{k}" for k, v in state.items() if not torch.equal(v, moments[k])]
    for slot, pairs in first.pool.items():
        found += [f"pool {slot}.{k}" for k in ("lq", "gt") if not torch.equal(pairs[k], second.pool[slot][k])]
    return found + [f"position {first.position} {second.position}"] * (first.position != second.position)


def iterations_in(log: str) -> list[int]:
    return [int(n) for n in re.findall(r"iteration (\d+): l_pix", log)]


def writing(process: TrainingProcess, before: int) -> list[int]:
    """Iterations of the checkpoints that are unfinished; those that the process found when it began do not count.

    Args:
        before: length of the log when the process began.
    """
    if not iterations_in(process.log()[before:]):  # it has not swept yet
        return []
    return [int(path.name.split(".")[1]) for path in (process.folder / "training_states").glob(".*.part")]


def trained_beside_writing(process: TrainingProcess, before: int) -> bool:
    """A checkpoint is unfinished, and an iteration after it is done."""
    unfinished = writing(process, before)
    return bool(unfinished) and max(iterations_in(process.log()[before:])) > max(unfinished)


@pytest.mark.slow
def test_killed_twenty_times_it_ends_where_an_uninterrupted_run_ends(root, photos, uninterrupted):
    """SIGKILL at random moments, every third one while a checkpoint is being written, every third when training has gone on."""
    rng = random.Random(0)
    settings = options(root, photos, "killed")
    killed_in_writing = killed_beside_it = 0
    for life in range(KILLS):
        process = TrainingProcess(settings, program=("train.py", "tests/slow_disk.py", "train.py")[life % 3])
        before = len(process.log())
        if life % 3 == 1:
            process.wait_for(lambda p=process, n=before: trained_beside_writing(p, n), "training beside the writing")
            time.sleep(rng.uniform(0, 0.2))
        elif life % 3 == 2:
            process.wait_for(lambda p=process, n=before: writing(p, n), "checkpoint being written")
            time.sleep(rng.uniform(0, 0.02))
        else:
            done = rng.randint(2, 7)
            process.wait_for(lambda p=process, n=before, k=done: len(iterations_in(p.log()[n:])) >= k, "iterations")
            process.wait_for(lambda p=process: CheckpointStore(p.folder).iterations(), "a first checkpoint")
            time.sleep(rng.uniform(0, 0.1))
        assert process.popen.poll() is None, process.printed()[-3000:]
        process.popen.kill()
        assert process.wait() == -signal.SIGKILL
        killed_beside_it += trained_beside_writing(process, before)
        killed_in_writing += bool(writing(process, before))
    assert killed_in_writing >= 2
    assert killed_beside_it >= 2

    last = TrainingProcess(settings)
    assert last.wait() == 0, last.printed()[-3000:]
    assert differences(uninterrupted, last.folder, TOTAL) == []
    assert not list(last.folder.rglob(".*.part"))

    # Every life began at the newest checkpoint of those before.
    saved = 0
    resumed = 0
    for line in last.log().splitlines():
        if match := re.search(r"saved \S+/(\d+)\.state", line):
            saved = int(match[1])
        elif match := re.search(r"resumed from \S+ at iteration (\d+)", line):
            resumed += 1
            assert saved <= int(match[1]) <= saved + 3
            saved = int(match[1])
    assert resumed == KILLS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_exits_with_its_own_code(root, photos, brief, number):
    settings = options(
        root, photos, f"signal {number}", logger={"save_checkpoint_freq": 1000}, train={"total_iter": 30},
        datasets={"train": {"num_worker_per_gpu": 1}},
    )  # fmt: skip
    process = TrainingProcess(settings)
    process.wait_for(lambda: len(iterations_in(process.log())) >= 2, "iterations")
    process.popen.send_signal(number)
    assert process.wait() == 75, process.printed()[-3000:]
    state = CheckpointStore(process.folder).newest_valid()
    assert state is not None
    assert int(state.stem) == iterations_in(process.log())[-1]
    assert f"stopped: {number.name} at iteration {state.stem} of 30" in process.printed()
    assert "Traceback" not in process.printed()
    if number == signal.SIGTERM:
        again = TrainingProcess(settings)
        assert again.wait() == 0, again.printed()[-3000:]
        assert differences(brief, again.folder, 30) == []


@pytest.mark.slow
def test_a_second_signal_ends_at_once_and_tears_nothing(root, photos):
    settings = options(root, photos, "impatient", datasets={"train": {"batch_size_per_gpu": 24}})
    process = TrainingProcess(settings)
    process.wait_for(lambda: len(iterations_in(process.log())) >= 4, "iterations")
    started = time.monotonic()
    process.popen.send_signal(signal.SIGTERM)
    process.popen.send_signal(signal.SIGINT)
    assert process.wait() in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert time.monotonic() - started < 20
    newest = CheckpointStore(process.folder).newest_valid()
    assert newest is not None
    assert int(newest.stem) % 3 == 0  # none was made for the signal
    assert "damaged" not in process.printed()


def ranks(process: TrainingProcess) -> list[int]:
    """Process ids by rank, from the environment that torchrun gave them."""

    def rank(pid: int) -> int:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return int(next(entry.split(b"=")[1] for entry in environment if entry.startswith(b"RANK=")))

    return sorted(process.workers(), key=rank)


def torchrun(*more: str) -> tuple[str, ...]:
    return "-m", "torch.distributed.run", "--nproc_per_node=2", *more


@pytest.mark.slow
def test_one_of_two_ranks_dies_and_both_end(root, photos):
    settings = options(root, photos, "two", datasets={"train": {"batch_size_per_gpu": 1}}, distributed={"timeout": 60})
    process = TrainingProcess(settings, launcher=torchrun("--master_port=29621"))
    process.wait_for(lambda: len(iterations_in(process.log())) >= 4, "iterations")
    both = ranks(process)
    started = time.monotonic()
    os.kill(both[1], signal.SIGKILL)
    assert process.wait() != 0
    assert time.monotonic() - started < 60
    assert all(not Path(f"/proc/{pid}").exists() for pid in both)
    assert "rank 0: another process of this run ended or does not answer" in process.printed()
    assert CheckpointStore(process.folder).newest_valid() is not None


@pytest.mark.slow
@pytest.mark.parametrize("rendezvous", ["static", "c10d"])
def test_restarted_by_torchrun_it_goes_on_where_it_was(root, photos, rendezvous):
    """One rank is killed once; torchrun starts both again, and they end where one process ends that nothing happened to."""
    settings = options(
        root, photos, f"restarted-{rendezvous}", auto_resume=False,
        datasets={"train": {"batch_size_per_gpu": 1}}, train={"total_iter": 30, "warmup_iter": 1000},
    )  # fmt: skip
    meeting = {
        "static": ["--master_port=29622"],
        "c10d": ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:29623", "--rdzv-id=a job"],
    }[rendezvous]
    process = TrainingProcess(settings, launcher=torchrun(*meeting, "--max-restarts=1"))
    process.wait_for(lambda: len(iterations_in(process.log())) >= 8, "iterations")
    os.kill(ranks(process)[1], signal.SIGKILL)
    assert process.wait() == 0, process.printed()[-5000:]
    log = process.log()
    saved = [int(n) for n in re.findall(r"saved \S+/(\d+)\.state", log.split("resumed from")[0])]
    resumed = int(re.search(r"resumed from \S+ at iteration (\d+)", log)[1])
    assert saved[-1] <= resumed <= saved[-1] + 3
    # A slow warm-up: AdamW's first steps turn rounding of near-zero gradients into whole steps.
    brief = {"total_iter": 30, "warmup_iter": 1000}
    straight = train_here(options(root, photos, f"straight {rendezvous}", train=brief), CPU)
    a, b = (load_checkpoint(folder / "training_states" / "30.state") for folder in (straight, process.folder))
    assert a.position == b.position
    own, other = a.players["g"].params, b.players["g"]
    assert max(float((v - other.params[n]).abs().max()) for n, v in own.items()) < 2e-5
    assert max(float((v - other.params_ema[n]).abs().max()) for n, v in own.items()) > 1e-4  # it has moved


def test_vanished_data_is_reported_and_nothing_is_lost(root, photos, brief):
    away = root / "moved"
    own = root / "own photos"
    shutil.copytree(photos, own)
    settings = options(root, own, "robbed", logger={"save_checkpoint_freq": 1000}, train={"total_iter": 30})
    process = TrainingProcess(settings)
    process.wait_for(lambda: len(iterations_in(process.log())) >= 3, "iterations")
    own.rename(away)
    assert process.wait() == 2
    assert "own photos: the dataset folder has vanished" in process.printed()
    assert "Traceback" not in process.printed()
    state = CheckpointStore(process.folder).newest_valid()
    assert state is not None
    assert int(state.stem) == iterations_in(process.log())[-1]
    away.rename(own)
    again = TrainingProcess(settings)
    assert again.wait() == 0, again.printed()[-3000:]
    assert differences(brief, again.folder, 30) == []


@pytest.fixture
def small_disk(tmp_path):
    """40 MB: room for two checkpoints of about 20 MB, one of them being written."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=44m", "tmpfs", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip(f"no right to mount a small file system here: {made.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_reported_and_the_checkpoints_stay_good(small_disk, root, photos):
    settings = options(small_disk, photos, "full", logger={"keep_last": None}, train={"total_iter": 12})
    process = TrainingProcess(settings)
    assert process.wait() == 2
    printed = process.printed()
    assert "No space left on device" in printed
    assert "earlier checkpoints are untouched" in printed
    assert "Traceback" not in printed
    state = CheckpointStore(process.folder).newest_valid()
    assert state is not None
    assert iterations_in(process.log())[-1] == 12  # it trained on: the next checkpoint might have fitted
    assert not list(process.folder.rglob(".*.part"))
    shutil.copytree(process.folder, root / "experiments" / "full")
    more_room = TrainingProcess(options(root, photos, "full", train={"total_iter": 12}))
    assert more_room.wait() == 0, more_room.printed()[-3000:]
    straight = train_here(options(root, photos, "not full", train={"total_iter": 12}), CPU)
    assert differences(straight, more_room.folder, 12) == []


@pytest.mark.parametrize("damage", ["flipped", "cut", "state gone", "manifest gone", "manifest cut"])
def test_a_damaged_newest_checkpoint_is_passed_over(root, photos, damage):
    straight = root / "experiments" / "straight 9"
    if not straight.exists():
        train_here(options(root, photos, "straight 9", train={"total_iter": 9}), CPU)
    name = f"damaged {damage}"
    folder = train_here(options(root, photos, name, train={"total_iter": 6}), CPU)
    state, manifest = (folder / "training_states" / f"6.{suffix}" for suffix in ("state", "json"))
    if damage == "flipped":
        content = bytearray(state.read_bytes())
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    elif damage == "cut":
        state.write_bytes(state.read_bytes()[:-100])
    elif damage == "manifest cut":
        manifest.write_text(manifest.read_text()[:50])
    else:
        (state if damage == "state gone" else manifest).unlink()
    train_here(options(root, photos, name, train={"total_iter": 9}), CPU)
    log = (folder / "train.log").read_text()
    assert "training_states/3.state at iteration 3" in log
    assert ("looking for an earlier one" in log) == (damage != "manifest gone")
    assert differences(straight, folder, 9) == []


FAKE_SRUN = """
import os, subprocess, sys
command = sys.argv[1:]
while command[0].startswith("-"):
    del command[0]
tasks = [
    subprocess.Popen(command, env={**os.environ, "SLURM_PROCID": str(r), "SLURM_LOCALID": str(r), "SLURM_NTASKS": "2"})
    for r in range(2)
]
open(os.environ["PIDS"], "w").write(" ".join(str(task.pid) for task in tasks))
sys.exit(max(task.wait() % 256 for task in tasks))
"""


FAKE_SCONTROL = """
import os, sys
open(os.environ["CALLS"], "a").write(" ".join(sys.argv[1:]))
"""


@pytest.mark.slow
def test_the_slurm_script_queues_the_job_again_after_a_signal(root, photos, brief):
    """srun and scontrol are stand-ins; the processes, their start by Slurm's variables, the signal and the codes are real."""
    programs = root / "slurm"
    programs.mkdir()
    for name, text in (("srun", FAKE_SRUN), ("scontrol", FAKE_SCONTROL)):
        (programs / name).write_text(f"#!{sys.executable}\n{text}")
        (programs / name).chmod(0o755)
    settings = options(
        root, photos, "slurm job", auto_resume=False, datasets={"train": {"batch_size_per_gpu": 1}},
        train={"total_iter": 30}, logger={"save_checkpoint_freq": 1000},
    )  # fmt: skip
    (root / "slurm.yml").write_text(yaml.safe_dump(settings))
    environment = {
        **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "", "SLURM_SUBMIT_DIR": str(REPOSITORY), "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "localhost", "PIDS": str(root / "pids"), "CALLS": str(root / "calls"),
    }  # fmt: skip
    folder = root / "experiments" / "slurm job"

    def job() -> subprocess.Popen:
        command = ["bash", str(REPOSITORY / "scripts/slurm/train.sbatch"), str(root / "slurm.yml")]
        output = (root / "slurm.out").open("a")
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)

    first = job()
    deadline = time.monotonic() + 120
    log = folder / "train.log"
    while not (log.exists() and len(iterations_in(log.read_text())) >= 3):
        assert time.monotonic() < deadline, (root / "slurm.out").read_text()
        time.sleep(0.02)
    for pid in (root / "pids").read_text().split():
        os.kill(int(pid), signal.SIGUSR1)
    assert first.wait(120) == 0
    assert (root / "calls").read_text() == "requeue 4711"
    saved = CheckpointStore(folder).newest_valid()
    assert saved is not None

    second = job()  # as Slurm would start it: the same job
    assert second.wait(120) == 0
    assert (root / "calls").read_text() == "requeue 4711"
    assert f"{saved.stem}.state at iteration {saved.stem}" in log.read_text()
    assert CheckpointStore(folder).newest_valid().stem == "30"


def test_the_list_of_runs_tells_them_apart(root, photos, brief):
    listed = subprocess.run(
        [sys.executable, "-m", "upsr", "runs", "--root", str(root / "experiments"), "--json"],
        cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    runs = {run["name"]: run for run in json.loads(listed.stdout)}
    assert runs["brief"]["state"] == "finished"
    assert runs["brief"]["iteration"] == runs["brief"]["last_checkpoint"] == 30
    status = root / "experiments" / "brief" / "status.json"
    kept = status.read_text()
    try:
        for state, age, expected in (
            ("running", 0, "running"),
            ("running", 3600, "silent"),
            ("failed", 3600, "failed"),
        ):
            status.write_text(json.dumps({**json.loads(kept), "state": state, "time": time.time() - age}))
            assert state_of(read_status(status.parent)) == expected
    finally:
        status.write_text(kept)
