"""A student that learns in one call what its teacher's deterministic sampler does in all of its steps."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.training import tiny_options
from upsr.archs import UNetModelSwin
from upsr.config.load import parse_options
from upsr.diffusion.schedule import respace
from upsr.engine.distributed import Runtime
from upsr.engine.train_loop import train
from upsr.errors import UpsrError
from upsr.methods import build_method, build_training
from upsr.methods.upsr.distillation import UPSRDistillation
from upsr.methods.upsr.method import UPSR
from upsr.rng import stacked, torch_generator


def options(tmp_path, **changes):
    """Options of a distillation whose teacher has random weights."""
    weights = tmp_path / "teacher.pth"
    if not weights.exists():
        torch.save({"params": tiny.random_weights(UNetModelSwin(**tiny.UNET)).state_dict()}, weights)
    photos = tiny.save_pictures(tmp_path / "photos", 2)
    data = tiny_options(tmp_path, photos, model_type="UPSRDistillationModel", **changes)
    data["path"]["pretrain_network_g"] = str(weights)
    return parse_options(data, "test")


def batch():
    generator = torch.Generator().manual_seed(0)
    lq, gt = torch.rand(2, 3, 16, 16, generator=generator), torch.rand(2, 3, 64, 64, generator=generator)
    return lq, gt, lambda: [torch_generator(5, slot) for slot in range(2)]


def test_the_target_is_where_the_teacher_ends_with_the_same_noise(tmp_path):
    opt = options(tmp_path)
    model = build_training(opt).train()
    assert isinstance(model, UPSRDistillation)
    lq, gt, generators = batch()
    loss = model("g", {"lq": lq, "gt": gt}, generators())["total"]

    teacher = build_method(opt.model_copy(update={"model_type": "UPSRModel"})).eval()
    assert list(teacher.sampling.timesteps) == respace(5, 2)
    noise = teacher.codec.encode(stacked("randn", (3, 64, 64), generators()))
    target = 2 * teacher.restore(lq, lambda k: noise) - 1
    method = model.eval().method
    student = method.generate(method.condition(lq), lambda k: noise)
    assert float(loss) == pytest.approx(float((student - target).square().mean()), rel=1e-4)
    assert float(model.train()("g", {"lq": lq, "gt": 1 - gt}, generators())["total"]) == pytest.approx(
        float(loss)
    )  # gt is not looked at


def test_a_teacher_that_draws_is_refused(tmp_path):
    with pytest.raises(UpsrError, match=r"diffusion\.sampler\.type: posterior; .* the teacher needs ddim"):
        build_training(options(tmp_path, diffusion={"sampler": {"type": "posterior"}}))


@pytest.mark.slow
def test_only_the_student_learns_and_it_nears_its_teacher(tmp_path):
    opt = options(tmp_path, train={"optim_g": {"lr": 2e-3}})
    model = build_training(opt).train()
    frozen = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    lq, gt, generators = batch()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    assert len(optimiser.param_groups[0]["params"]) == len(list(model.method.denoiser.parameters()))
    losses = []
    for _ in range(25):
        loss = model("g", {"lq": lq, "gt": gt}, generators())["total"]
        losses.append(float(loss))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.5 * losses[0]
    assert not model.teacher.training
    assert all(torch.equal(value, frozen[name]) for name, value in model.teacher.state_dict().items())


def test_a_student_is_a_one_step_upsr(tmp_path):
    folder = train(options(tmp_path, train={"total_iter": 2}), Runtime(torch.device("cpu")))
    weights = folder / "models/net_g_latest.safetensors"
    data = tiny_options(tmp_path, tmp_path / "photos", diffusion={"one_step": True, "sampler": {"steps": 1}})
    data["path"]["pretrain_network_g"] = str(weights)
    method = build_method(parse_options(data, "test"))
    assert type(method) is UPSR
    assert method.sampling.timesteps == (4,)
