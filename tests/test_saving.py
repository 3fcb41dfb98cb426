"""Checkpoints that are written while training goes on."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.processes import train_here
from tests.training import equal_states, tiny_options
from upsr.engine.checkpoint import Checkpoint, CheckpointStore, PlayerState, load_checkpoint
from upsr.engine.distributed import Runtime
from upsr.engine.players import Updater
from upsr.engine.saving import Saver
from upsr.engine.step import TrainingStep
from upsr.errors import UpsrError

CPU = Runtime(torch.device("cpu"))
PATIENCE = 60


@pytest.fixture
def photos(tmp_path) -> Path:
    return tiny.save_pictures(tmp_path / "photos", 3)


@pytest.fixture
def begun(monkeypatch) -> list[int]:
    """Iterations that training has begun; the first one is 0."""
    iterations: list[int] = []
    step = TrainingStep.__call__

    def counting(self, iteration, *others, **named):
        iterations.append(iteration)
        return step(self, iteration, *others, **named)

    monkeypatch.setattr(TrainingStep, "__call__", counting)
    return iterations


def run(root: Path, photos: Path, **changes) -> Path:
    logger = {"save_checkpoint_freq": 2, "weight_formats": ["safetensors"], **changes.pop("logger", {})}
    return train_here(tiny_options(root, photos, logger=logger, **changes), CPU)


def state(folder: Path, iteration: int) -> Checkpoint:
    return load_checkpoint(folder / "training_states" / f"{iteration}.state")


def waits_before_writing(monkeypatch, condition, at: int = 2) -> None:
    """The checkpoint of iteration ``at`` is written once ``condition`` is true."""
    save = CheckpointStore.save

    def late(self, checkpoint):
        deadline = time.monotonic() + PATIENCE
        while checkpoint.iteration == at and not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return save(self, checkpoint)

    monkeypatch.setattr(CheckpointStore, "save", late)


class SlowToRead(dict):
    """Tensors that are copied late."""

    def __init__(self, tensors, wait) -> None:
        super().__init__(tensors)
        self.wait = wait

    def items(self):
        self.wait()
        return super().items()


def test_training_goes_on_meanwhile_and_the_state_is_that_of_its_iteration(tmp_path, photos, begun, monkeypatch):
    waiting = run(tmp_path, photos, name="waiting", logger={"save_beside": False})
    begun.clear()

    def wait() -> None:
        """Not for ever: only a training that changes the state before it is copied reaches the iteration."""
        deadline = time.monotonic() + 4
        while 3 not in begun and time.monotonic() < deadline:
            time.sleep(0.01)

    content = Updater.state

    def slow_to_copy(self):
        own = content(self)
        return replace(own, params=SlowToRead(own.params, wait))

    monkeypatch.setattr(Updater, "state", slow_to_copy)
    waits_before_writing(monkeypatch, lambda: 3 in begun)  # the copy is still whole when the next steps are done
    beside = run(tmp_path, photos, name="beside")
    for iteration in (2, 4):
        one, other = state(waiting, iteration), state(beside, iteration)
        assert equal_states(one.players["g"].__dict__, other.players["g"].__dict__)
        assert equal_states(one.pool, other.pool)
        assert (one.position, one.guard, one.run) == (other.position, other.guard, other.run)
    sizes = {folder.name: (folder / "training_states/4.state").stat().st_size for folder in (waiting, beside)}
    assert sizes["beside"] < 1.01 * sizes["waiting"]  # buffers without an average are in it once


def test_the_state_may_not_change_before_it_is_copied(tmp_path):
    class Store:
        def save(self, checkpoint):
            return Path("2.state")

    params = SlowToRead({"w": torch.ones(3)}, lambda: time.sleep(0.5))
    checkpoint = Checkpoint(2, 8, {"g": PlayerState(params, {}, {"state": {}}, {})}, {}, {}, {}, {})
    with Saver(Store(), torch.device("cpu")) as saver:
        saver.begin(checkpoint)
        started = time.monotonic()
        saver.copied()
        assert time.monotonic() - started > 0.3
        assert saver.finish() is None


def test_a_second_checkpoint_waits_for_the_first(tmp_path, photos, monkeypatch):
    """And the one before the last is still deleted by ``keep_last`` after the last is whole."""
    at_a_time = []
    save = CheckpointStore.save

    def counted(self, checkpoint):
        at_a_time.append(checkpoint.iteration)
        time.sleep(0.2)
        path = save(self, checkpoint)
        at_a_time.append(-checkpoint.iteration)
        return path

    monkeypatch.setattr(CheckpointStore, "save", counted)
    folder = run(tmp_path, photos, logger={"save_checkpoint_freq": 1, "keep_last": 2})
    assert at_a_time == [1, -1, 2, -2, 3, -3, 4, -4]
    assert CheckpointStore(folder).iterations() == [4, 3]


def test_an_error_in_training_waits_for_the_checkpoint(tmp_path, photos, begun, monkeypatch):
    ended = threading.Event()
    follow = Updater.follow

    def broken(self):
        if 3 in begun:
            ended.set()
            raise ValueError("of the fourth iteration")
        follow(self)

    monkeypatch.setattr(Updater, "follow", broken)
    waits_before_writing(monkeypatch, ended.is_set)
    with pytest.raises(ValueError, match="of the fourth iteration"):
        run(tmp_path, photos)
    assert CheckpointStore(tmp_path / "experiments" / "run").newest_valid().stem == "2"


def test_what_goes_wrong_in_writing_is_raised_or_logged_as_ever(tmp_path, photos, monkeypatch):
    save = CheckpointStore.save

    def broken(self, checkpoint):
        if checkpoint.iteration in failing:
            raise failing[checkpoint.iteration]
        return save(self, checkpoint)

    monkeypatch.setattr(CheckpointStore, "save", broken)
    failing = {2: UpsrError("2.state: cannot be written (No space left on device)")}
    folder = run(tmp_path, photos, name="second fits")
    log = (folder / "train.log").read_text()
    assert "iteration 2 was not saved: 2.state: cannot be written (No space left on device); earlier" in log
    assert CheckpointStore(folder).iterations() == [4]
    failing = {4: UpsrError("4.state: cannot be written (No space left on device)")}
    with pytest.raises(UpsrError, match=r"No space left on device\); make room and resume with --auto-resume"):
        run(tmp_path, photos, name="last does not")
    failing = {2: ZeroDivisionError("a mistake in the writer")}
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, photos, name="mistaken")
