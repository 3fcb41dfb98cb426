"""Several players in one training: each has its own update, state and weight files, on one process as on two."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint

from tests.processes import forks, train_here
from tests.test_extending import toy
from tests.toy import ToyMethod
from upsr.archs.contracts import SRNetwork
from upsr.config.load import merged, parse_options
from upsr.engine.checkpoint import load_checkpoint
from upsr.engine.distributed import Runtime, runtime
from upsr.engine.players import Updater
from upsr.engine.train_loop import Trainer
from upsr.errors import UpsrError
from upsr.methods.base import Player, Training

CPU = Runtime(torch.device("cpu"))


class Generator(SRNetwork):
    """(B, 3, h, w) to (B, 3, 2h, 2w)."""

    scale, channels = 2, 3

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.GELU(), nn.Conv2d(6, 12, 3, padding=1))
        self.activation_checkpointing = False

    def forward(self, lq):
        """The image in [0, 1], not clipped."""
        if self.activation_checkpointing:
            return F.pixel_shuffle(checkpoint(self.body, lq, use_reentrant=False), 2)
        return F.pixel_shuffle(self.body(lq), 2)


class Gan(Training):
    """A generator, then a discriminator, which judges the images that the generator's pass has left.

    The discriminator has buffers, the vectors of its spectral norm, and a frozen first layer.
    """

    METHOD = ToyMethod

    def __init__(self, method, optim) -> None:
        super().__init__()
        self.method = method
        frozen = nn.Conv2d(3, 4, 1).requires_grad_(False)
        self.judge = nn.Sequential(frozen, spectral_norm(nn.Conv2d(4, 6, 3)), nn.GELU(), nn.Conv2d(6, 1, 3))
        self.players = {"g": Player(method.network, optim), "d": Player(self.judge, optim, averaged=False)}

    @classmethod
    def from_options(cls, opt):
        """See :meth:`Training.from_options`."""
        return cls(ToyMethod.from_options(opt, training=True), opt.train.optim_g)

    def forward(self, player, batch, generators):
        """See :meth:`Training.forward`; both players draw noise on the judged images."""
        noise = 0.01 * torch.stack([torch.randn(batch["gt"].shape[1:], generator=g) for g in generators])
        if player == "g":
            restored = self.method.network(batch["lq"])
            batch["restored"] = restored.detach()
            losses = {
                "l_pix": F.l1_loss(restored, batch["gt"]),
                "l_gan": F.softplus(-self.judge(restored + noise)).mean(),
            }
        else:
            fake, real = F.softplus(self.judge(batch["restored"] + noise)), F.softplus(-self.judge(batch["gt"] + noise))
            losses = {"l_fake": fake.mean(), "l_real": real.mean()}
        return {**losses, "total": sum(losses.values())}


class Stamped:
    """Batches that say how many there were: the count is the feed's state, under slot 0."""

    def __init__(self) -> None:
        self.count = 0

    def bind(self, dataset, device):
        """See :meth:`upsr.methods.base.Feed.bind`."""

    def batch(self, raw, iteration, slots):
        """See :meth:`upsr.methods.base.Feed.batch`."""
        self.count += 1
        gt = raw["gt"].float() / 255
        return {"lq": F.avg_pool2d(gt, 2), "gt": gt, "stamp": torch.full((len(gt),), self.count)}, raw["key"]

    def state_dict(self):
        """See :meth:`upsr.methods.base.Feed.state_dict`."""
        return {0: {"count": self.count}}

    def load_state_dict(self, state, slots, device):
        """See :meth:`upsr.methods.base.Feed.load_state_dict`."""
        self.count = state[0]["count"]
        return 0


class FedGan(Gan):
    """Brings its own feed, and keeps the stamps that it sees."""

    seen: ClassVar[list[int]] = []

    def feed(self, opt):
        """See :meth:`Training.feed`."""
        return Stamped()

    def forward(self, player, batch, generators):
        """See :meth:`Training.forward`."""
        self.seen.append(int(batch["stamp"][0]))
        return super().forward(player, batch, generators)


def options(root: Path, name: str, training: str = "Gan", **changes: Any) -> dict[str, Any]:
    data = toy(root, name=name, network_g={"type": "tests.test_players.Generator"})
    data.pop("model_type", None)
    data["method"] = f"tests.test_players.{training}"
    return merged(data, changes)


def players(folder: Path, iteration: int = 4) -> dict[str, Any]:
    state = load_checkpoint(folder / "training_states" / f"{iteration}.state")
    return {name: vars(player) for name, player in state.players.items()}


def tensors(value: Any, at: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a nested state, by their place."""
    if isinstance(value, torch.Tensor):
        return {at: value}
    found: dict[str, torch.Tensor] = {}
    for key, item in value.items() if isinstance(value, dict) else ():
        found |= tensors(item, f"{at}/{key}")
    return found


def largest_difference(a: Any, b: Any) -> float:
    first, second = tensors(a), tensors(b)
    assert first.keys() == second.keys()
    return max(float((value.double() - second[key].double()).abs().max()) for key, value in first.items())


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("players")


@pytest.fixture(scope="module")
def whole(root) -> Path:
    """Four iterations at once."""
    return train_here(options(root, "whole", logger={"weight_formats": ["safetensors", "pth"]}), CPU)


def test_every_player_has_its_numbers_and_weight_files(whole):
    log = (whole / "train.log").read_text()
    for number in ("g/l_pix", "g/l_gan", "d/l_fake", "d/l_real", "g/lr", "d/lr", "g/grad norm", "d/grad norm"):
        assert f"{number} " in log
    files = {path.name for path in (whole / "models").iterdir()}
    names, suffixes = ("2", "4", "latest"), ("safetensors", "pth")
    assert files == {f"net_{player}_{name}.{suffix}" for player in "gd" for name in names for suffix in suffixes}
    for player, kind in (("g", "params_ema"), ("d", "params")):
        path = whole / "models" / f"net_{player}_4.safetensors"
        with safe_open(path, "pt") as file:
            assert file.metadata()["weights"] == kind
        assert largest_difference(load_file(path), players(whole)[player][kind]) == 0


def test_trained_parameters_and_buffers_are_saved_and_frozen_ones_are_not(whole):
    names = set(players(whole)["d"]["params"])
    assert any("_u" in name for name in names)
    assert not any(name.startswith("0.") for name in names)
    assert players(whole)["d"]["params_ema"] == {}


def test_two_iterations_and_two_more_are_four(root, whole):
    half = players(train_here(options(root, "halves", train={"total_iter": 2}), CPU), 2)
    halves = train_here(options(root, "halves"), CPU)
    assert "resumed from" in (halves / "train.log").read_text()
    assert largest_difference(players(halves), players(whole)) == 0
    assert largest_difference(half, players(whole)) > 0


def test_a_state_of_format_2_is_resumed_exactly(root):
    """Versions before the players wrote the state of one network at the top."""
    whole = train_here(toy(root, name="one player"), CPU)
    content = torch.load(whole / "training_states" / "2.state", weights_only=True)
    torch.save({**content, **content.pop("players")["g"], "format": 2}, root / "format 2.state")
    data = merged(toy(root, name="of format 2"), {"path": {"resume_state": str(root / "format 2.state")}})
    resumed = train_here(data, CPU)
    assert "resumed from" in (resumed / "train.log").read_text()
    assert largest_difference(players(resumed), players(whole)) == 0
    assert largest_difference(players(resumed), players(whole, 2)) > 0


def test_an_update_changes_only_its_player(root, monkeypatch):
    trainer = Trainer(parse_options(options(root, "updates"), "test"), CPU, root / "updates")
    trainer.resume()
    trainer.data.open(trainer.sampler)
    updaters = trainer.step.updaters
    original, order = Updater.step, []

    def step(self, iteration, loss):
        (name,) = (name for name, updater in updaters.items() if updater is self)
        order.append(name)
        before = {key: [p.detach().clone() for p in updater.parameters.values()] for key, updater in updaters.items()}
        trained = {key: [p.grad is not None for p in updater.parameters.values()] for key, updater in updaters.items()}
        assert {key for key, grads in trained.items() if any(grads)} == {name}
        assert all(trained[name])
        outcome = original(self, iteration, loss)
        for key, updater in updaters.items():
            same = [torch.equal(a, b) for a, b in zip(before[key], updater.parameters.values(), strict=True)]
            assert not any(same) if key == name else all(same)
        return outcome

    monkeypatch.setattr(Updater, "step", step)
    for iteration in range(2):
        trainer.step(iteration, trainer.data.micro_batches(iteration, trainer.sampler), meanwhile=lambda: None)
    assert order == ["g", "d", "g", "d"]
    assert all(p.requires_grad for updater in updaters.values() for p in updater.parameters.values())


def _one_of_two(rank: int, runs: list[dict[str, Any]]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29671", "CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(1)
    with runtime("pytorch", 0) as place:
        for data in runs:
            train_here(data, place)


def test_two_processes_train_what_one_does(root):
    """DistributedDataParallel wraps one module tree twice; a player that is not frozen in the other's update spoils it."""
    # AdamW's first steps enlarge the rounding of small gradients.
    slow = {"warmup_iter": 100}
    settings = {"static graph": {"activation_checkpointing": True, **slow}, "accumulated": {"accumulate": 2, **slow}}

    def data(name: str, setting: str, batch: int) -> dict[str, Any]:
        sets = {"train": {"batch_size_per_gpu": batch}, "val": None}
        return options(root, f"{name}, {setting}", train=settings[setting], datasets=sets)

    runs = [data("two", setting, 2) for setting in settings]
    processes = [forks().Process(target=_one_of_two, args=(rank, runs)) for rank in range(2)]
    for process in processes:
        process.start()
    for setting in settings:
        train_here(data("one", setting, 4), CPU)
    for process in processes:
        process.join(240)
        assert process.exitcode == 0
    for setting in settings:
        one, two = (root / "experiments" / f"{name}, {setting}" for name in ("one", "two"))
        assert largest_difference(parameters(one, 4), parameters(two, 4)) < 2e-7, setting
        assert largest_difference(parameters(one, 4), parameters(one, 2)) > 1e-5


def parameters(folder: Path, iteration: int) -> dict[str, Any]:
    return {name: player["params"] for name, player in players(folder, iteration).items()}


def test_a_state_of_another_training_is_refused(root, whole):
    state = str(whole / "training_states" / "4.state")
    with pytest.raises(
        UpsrError, match=r"4\.state: the state is of another training; it has the players g, d, this one has g"
    ):
        train_here(merged(toy(root, name="refused"), {"path": {"resume_state": state}}), CPU)


def test_a_training_s_own_feed_is_read_and_resumed(root, monkeypatch):
    monkeypatch.setattr(FedGan, "seen", [])
    train_here(options(root, "fed", "FedGan", train={"total_iter": 2}), CPU)
    train_here(options(root, "fed", "FedGan"), CPU)
    assert FedGan.seen == [1, 1, 2, 2, 3, 3, 4, 4]  # each batch by both players
