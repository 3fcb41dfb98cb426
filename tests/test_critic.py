"""A discriminator beside the trained network of UPSR, of its student and of a plain SR network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests import tiny
from tests.processes import train_here, trained_by_two
from tests.test_players import largest_difference, players
from tests.training import tiny_options
from upsr.archs import UNetModelSwin
from upsr.config.load import merged, parse_options
from upsr.data import SampleId
from upsr.data.datasets import build_dataset
from upsr.engine.distributed import Runtime
from upsr.engine.feed import DegradedPairs
from upsr.engine.step import MicroBatch, TrainingStep
from upsr.errors import UpsrError
from upsr.methods import build_training
from upsr.methods.critic import Critic
from upsr.rng import torch_generator

CPU = Runtime(torch.device("cpu"))
PATCHES = {"type": "PatchDiscriminator", "width": 8, "layers": 2, "norm": "none"}
HINGE = {"type": "GANLoss", "gan_type": "hinge", "loss_weight": 0.1}
SR = {
    "model_type": "AuxiliarySRModel",
    "network_g": {"type": "CompactSR", "num_feat": 8, "num_block": 1},
    "network_aux": None,
    "diffusion": None,
    "path": {"pretrain_network_aux": None},
}
TRAININGS = ["UPSRModel", "UPSRDistillationModel", "AuxiliarySRModel"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("critic")
    tiny.save_pictures(root / "photos", 3)
    save_file(tiny.random_weights(UNetModelSwin(**tiny.UNET)).state_dict(), root / "start.safetensors")
    return root


def data(root: Path, training: str = "AuxiliarySRModel", **changes: Any) -> dict[str, Any]:
    own = {
        "UPSRModel": {},
        "UPSRDistillationModel": {"path": {"pretrain_network_g": str(root / "start.safetensors")}},
        "AuxiliarySRModel": SR,
    }[training]
    critic = {"network_d": PATCHES, "train": {"gan_opt": HINGE, "optim_d": {"type": "Adam", "lr": 1e-3}}}
    return merged(tiny_options(root, root / "photos", **{"model_type": training, **own}), merged(critic, changes))


def built(root: Path, training: str = "AuxiliarySRModel", **changes: Any) -> Any:
    return build_training(parse_options(data(root, training, **changes), "test")).train()


def batch(iteration: int = 0) -> dict[str, torch.Tensor]:
    lq = torch.rand(2, 3, 16, 16, generator=torch_generator(0))
    gt = torch.rand(2, 3, 64, 64, generator=torch_generator(1))
    return {"lq": lq, "gt": gt, "iteration": torch.full((2,), iteration)}


def generators() -> list[torch.Generator]:
    return [torch_generator(5, slot) for slot in range(2)]


@pytest.mark.parametrize("name", TRAININGS)
def test_each_player_is_updated_by_its_own_loss(root, name):
    training = built(root, name)
    opt = parse_options(data(root, name), "test")
    step = TrainingStep(training, opt.train, CPU, seed=0)
    before = {player: {n: p.detach().clone() for n, p in u.parameters.items()} for player, u in step.updaters.items()}
    updates, _ = step(0, [MicroBatch(batch(), generators(), ["a", "b"], [0, 1])], lambda: None)
    assert list(updates) == ["g", "d"]
    for player, updater in step.updaters.items():
        assert any(not torch.equal(before[player][n], p) for n, p in updater.parameters.items()), player
    g, d = updates["g"].losses, updates["d"].losses
    parts = [value for key, value in g.items() if key.startswith("l_")]
    assert float(g["total"]) == pytest.approx(float(sum(parts)), rel=1e-5)
    assert float(d["total"]) == float(d["l_d"])
    # Hinge losses of a discriminator that has not learnt: about 1 each, halved.
    assert float(d["l_d"]) == pytest.approx(1, abs=0.2)


def test_a_plain_training_is_the_same_without_a_discriminator(root):
    alone = built(root, network_d=None, train={"gan_opt": None})
    judged = built(root)
    assert list(alone.players) == ["g"]
    losses = [training("g", batch(), generators()) for training in (alone, judged)]
    assert "l_gan" not in losses[0]
    assert float(losses[1]["total"].detach() - losses[1]["l_gan"].detach()) == pytest.approx(
        float(losses[0]["total"].detach()), rel=1e-5
    )


def test_the_loss_joins_at_its_iteration_and_the_discriminator_learns_before(root):
    training = built(root, train={"gan_start": 10})
    before, after = batch(9), batch(10)
    assert float(training("g", before, generators())["l_gan"]) == 0
    assert float(training("g", after, generators())["l_gan"]) != 0
    judged = [training("d", content, []) for content in (before, after)]
    assert float(judged[0]["total"]) == float(judged[1]["total"]) > 0


def test_images_are_judged_from_0_to_1_and_real_ones_are_photos_where_there_are_any():
    seen = []

    class Mean(nn.Module):
        def forward(self, image):
            seen.append(image)
            return image.mean().reshape(1)

    class Judged(nn.Module):
        def forward(self, logits, target_is_real, is_disc=False):
            return logits.sum() * (10 if target_is_real else 1) * (1 if is_disc else 100)

    critic = Critic(Mean(), Judged(), None)
    content = {"iteration": torch.zeros(1), "gt": torch.full((1, 3, 2, 2), 0.25)}
    restored = torch.full((1, 3, 2, 2), -0.5)
    assert float(critic.against(restored, content)["l_gan"]) == pytest.approx(0.25 * 1000)
    assert float(seen[0].mean()) == 0.25
    assert float(critic.judging(content)["total"]) == pytest.approx((2.5 + 0.25) / 2)
    content["photo"] = torch.full((1, 3, 2, 2), 0.75)
    assert float(critic.judging(content)["real"]) == 0.75


def test_an_update_makes_restored_images_more_like_photos_to_the_discriminator(root):
    training = built(root, network_d={**PATCHES, "width": 16}, train={"gan_opt": {**HINGE, "loss_weight": 1.0}})
    bright = batch()
    bright["gt"] = 0.9 + 0.1 * bright["gt"]
    judge = torch.optim.Adam(training.critic.network.parameters(), lr=2e-3)
    for _ in range(20):
        training("g", bright, generators())
        losses = training("d", bright, [])
        judge.zero_grad()
        losses["total"].backward()
        judge.step()
    apart = float(losses["real"] - losses["fake"])
    assert apart > 0.5
    own = torch.optim.Adam(training.method.g.parameters(), lr=2e-3)
    for _ in range(20):
        loss = training("g", bright, generators())["l_gan"]
        own.zero_grad()
        loss.backward()
        own.step()
    assert float(training("d", bright, [])["fake"]) > float(losses["fake"]) + 0.3 * apart


@pytest.mark.parametrize("kind", ["vanilla", "lsgan", "hinge", "wgan_softplus"])
def test_a_discriminator_of_basicsr_and_its_losses(root, kind):
    judge = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4, "skip_connection": True}
    training = built(root, network_d=judge, train={"gan_opt": {"type": "GANLoss", "gan_type": kind}})
    content = batch()
    for player in ("g", "d"):
        losses = training(player, content, generators())
        assert math.isfinite(float(losses["total"]))
        losses["total"].backward()
    assert all(p.grad is not None for p in training.critic.network.parameters())


def test_two_iterations_and_two_more_are_four(root):
    judge = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}

    def run(name: str, iterations: int) -> dict[str, Any]:
        own = {"total_iter": iterations, "warmup_iter": 1, "ema_decay": 0.9}
        return players(train_here(data(root, name=name, auto_resume=True, network_d=judge, train=own), CPU), iterations)

    whole, half = run("at once", 4), run("in two", 2)
    resumed = run("in two", 4)
    assert largest_difference(half["d"]["params"], whole["d"]["params"]) > 0
    assert largest_difference(resumed, whole) == 0


@pytest.mark.parametrize("sharpen", [False, True])
def test_the_discriminator_sees_photos_that_are_not_sharpened(root, sharpen):
    opt = parse_options(data(root, degradation={"usm_gt": sharpen}, pair_pool={"pairs_per_slot": 0}), "test")
    training = build_training(opt)
    feed = DegradedPairs(opt, training)
    dataset = build_dataset(opt.datasets["train"])
    feed.bind(dataset, torch.device("cpu"))
    item = dataset[SampleId(0, 0)]
    raw = {name: value[None] if torch.is_tensor(value) else [value] for name, value in item.items()}
    content, _ = feed.batch(raw, 0, [0])
    assert torch.equal(content["photo"], item["gt"][None].float() / 255)
    assert torch.equal(content["photo"], content["gt"]) != sharpen


@pytest.mark.slow
def test_two_processes_train_what_one_does(root):
    optim = {"type": "Adam", "lr": 1e-3, "eps": 1e-4}  # smaller, rounding decides steps of gradients that vanish
    own = {"total_iter": 3, "warmup_iter": 1, "optim_g": optim, "optim_d": optim}
    loader = {"datasets": {"train": {"num_worker_per_gpu": 0}}}
    one = train_here(data(root, "UPSRModel", name="one", train=own, **loader), CPU)
    halves = merged(loader, {"datasets": {"train": {"batch_size_per_gpu": 1}}})
    two = trained_by_two(data(root, "UPSRModel", name="two", train=own, **halves))
    assert largest_difference(players(one, 3), players(two, 3)) < 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network_d": None}, r"^network_d: it is needed beside train\.gan_opt"),
        ({"train": {"gan_opt": None}}, r"^train\.gan_opt: it is needed beside network_d"),
        ({"network_d": {**PATCHES, "layers": 6}}, r"network_d, train\.gan_opt: they cannot judge crops of 3 x 64 x 64"),
        ({"path": {"pretrain_network_d": "nothing.pth"}}, r"nothing\.pth: no such weight file \(path\.pretrain_network_d\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(root, changes, message):
    with pytest.raises(UpsrError, match=message):
        train_here(data(root, name="refused", **changes), CPU)
