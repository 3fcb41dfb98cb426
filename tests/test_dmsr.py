"""DM-SR as it is used: gradients, losses that go on and off, training of phase dm, restoring in one to K steps, tiles, files."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests import tiny
from tests.dmsr import tiny_options
from tests.processes import one_thread, run_fork, trained_by_two, whole_and_killed
from tests.stablesr import tiny_backbone
from tests.training import equal_states
from upsr.config.load import load_options, parse_options
from upsr.config.schema import TileOptions
from upsr.engine.distributed import Runtime
from upsr.engine.train_loop import train
from upsr.errors import UpsrError
from upsr.methods import Seen, build_method, build_training
from upsr.methods.dmsr.method import DMSR
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.restoring.restore import restore
from upsr.rng import torch_generator

pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[sd]'")

CPU = Runtime(torch.device("cpu"))
FILES = Path(__file__).parents[1] / "options" / "dmsr"
OFF: dict[str, Any] = {
    "l1": 0,
    "adversarial": {"weight": 0},
    "distribution_matching": {"weight": 0},
    "noise": {"weight": 0},
}
ON: dict[str, Any] = {
    "l1": 1.0,
    "adversarial": {"weight": 0.1},
    "distribution_matching": {"weight": 0.5},
    "noise": {"weight": 1.0},
    "perceptual_opt": {"type": "WaveletLoss", "loss_weight": 2.0},
}
single = pytest.fixture(autouse=True)(one_thread)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("dmsr")
    tiny.save_pictures(root / "photos", 3)
    return root


def options(root: Path, **changes: Any) -> Any:
    return parse_options(tiny_options(root, root / "photos", **changes), "test")


@pytest.fixture(scope="module")
def method(root) -> DMSR:
    own: Any = build_method(options(root))
    tiny.random_weights(own.encoder.injection)
    return own.eval()


def restored(method: Any, lq: Tensor, **knobs: Any) -> Tensor:
    return restore(method.adjusted(**knobs), lq, seed=0, names=["a"])


def batch(iteration: int = 0) -> dict[str, Tensor]:
    gt = torch.cat([tiny.image(64, 64, seed) for seed in (1, 2)])
    lq = nn.functional.interpolate(gt, scale_factor=0.25, mode="area")
    return {"lq": lq, "gt": gt, "iteration": torch.full((2,), iteration)}


def losses_of(training: Any, player: str = "g", given: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    return training(player, batch() if given is None else given, [torch_generator(0, slot) for slot in range(2)])


def gradients(root: Path, **losses: Any) -> dict[str, Tensor]:
    """Of the encoder, whose weights are the same each time."""
    training: Any = build_training(options(root, train=losses)).train()
    tiny.random_weights(training.method.encoder.injection)
    losses_of(training)["total"].backward()
    return {name: p.grad for name, p in training.method.encoder.named_parameters()}


# Networks.


def test_the_encoder_begins_as_the_autoencoder_s(root):
    method: Any = build_method(options(root))
    image = 2 * tiny.image(64, 64) - 1
    with torch.no_grad():
        start = method.encode(image, torch.tensor([137]))
    torch.testing.assert_close(start, method.clean_latent(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("embedding", ["scalar", "sinusoidal"])
def test_the_timestep_enters_every_level_of_the_encoder(root, embedding):
    method: Any = build_method(options(root, encoder={"embedding": embedding}))
    image = 2 * tiny.image(64, 64) - 1

    def encoded(t: int) -> Tensor:
        with torch.no_grad():
            return method.encode(image, torch.tensor([t]))

    start = encoded(200)
    for linear in method.encoder.injection:
        with torch.no_grad():
            linear.weight.normal_(std=0.3)
        assert not torch.equal(encoded(200), start)
        assert not torch.equal(encoded(200), encoded(300))
        nn.init.zeros_(linear.weight)
    assert torch.equal(encoded(200), start)


# Losses.


def test_all_trained_parameters_get_gradients_and_no_frozen_one_checkpointed_or_not(root):
    found = {}
    for checkpointed in (False, True):
        opt = options(root, train={"activation_checkpointing": checkpointed})
        training: Any = build_training(opt).train()
        tiny.random_weights(training.method.encoder.injection)
        if checkpointed:
            training.method.encoder.activation_checkpointing = True
            assert training.method.unet.is_gradient_checkpointing
        given = batch()
        losses_of(training, given=given)["total"].backward()
        method = training.method
        encoder = {name: p.grad for name, p in method.encoder.named_parameters()}
        assert all(gradient.abs().max() > 0 for gradient in encoder.values())
        for frozen in (method.unet, method.vae, method.estimator):
            assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())
        training.discriminator.zero_grad()
        losses_of(training, "d", given)["total"].backward()
        trained = [p for p in training.discriminator.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in trained)
        found[checkpointed] = encoder
    for name, gradient in found[False].items():
        torch.testing.assert_close(found[True][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("term", ON)
def test_a_loss_that_is_off_takes_its_own_gradient_away(root, term):
    neither = {"perceptual_opt": None, **OFF}
    alone, without = {**neither, term: ON[term]}, {**ON, term: neither[term]}
    whole, rest, own = (gradients(root, **given) for given in (ON, without, alone))
    for name, gradient in whole.items():
        torch.testing.assert_close(gradient - rest[name], own[name], rtol=1e-3, atol=2e-6, msg=name)
    assert any(gradient.abs().max() > 1e-6 for gradient in own.values())


def test_the_factor_of_a_loss_is_that_of_its_gradient(root):
    for term, twice in (("l1", 2.0), ("noise", {"weight": 2.0}), ("distribution_matching", {"weight": 1.0})):
        one, two = (gradients(root, **{**OFF, term: value}) for value in (ON[term], twice))
        for name, gradient in one.items():
            torch.testing.assert_close(two[name], 2 * gradient, rtol=1e-3, atol=1e-6)


def test_without_the_adversarial_loss_there_is_no_discriminator(root):
    training: Any = build_training(options(root, train={"adversarial": {"weight": 0}}))
    assert training.players.keys() == {"g"}
    assert not hasattr(training, "discriminator")


def test_the_adversarial_loss_starts_after_the_discriminator(root):
    training: Any = build_training(options(root, train={"adversarial": {"start": 3}})).train()
    given = [losses_of(training, given=batch(iteration))["l_gan"] for iteration in (2, 3)]
    assert float(given[0]) == 0 < float(given[1])
    first = batch(2)
    losses_of(training, given=first)
    losses_of(training, "d", first)["total"].backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in training.discriminator.parameters())


def test_the_discriminator_sees_restored_latents_within_bounds_and_photos_as_they_are(root):
    training: Any = build_training(options(root, train={"adversarial": {"clamp": 0.01}})).train()
    seen: list[float] = []
    training.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(float(inputs[0].abs().max())))
    given = batch()
    losses_of(training, given=given)
    losses_of(training, "d", given)
    encoder, real, fake = seen
    assert encoder == fake == pytest.approx(0.01)
    assert real > 0.01


def test_the_perceptual_loss_sees_latents_or_decoded_images(root):
    sizes: list[torch.Size] = []
    for space in ("latent", "image"):
        opt = options(root, train={"perceptual_opt": {"type": "L1Loss"}, "perceptual_space": space})
        training: Any = build_training(opt).train()
        training.perceptual.register_forward_pre_hook(lambda _, inputs: sizes.extend(x.shape for x in inputs))
        losses_of(training)
    assert sizes == [torch.Size((2, 4, 8, 8))] * 2 + [torch.Size((2, 3, 64, 64))] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {**OFF}}, "all losses of phase dm are off"),
        ({"train": {"distribution_matching": {"low": 9, "high": 8}}}, r"low \(9\) is above high \(8\)"),
        ({"train": {"compile": "default"}}, "compile: the trained networks"),
        ({"train": {"discriminator": {"norm_num_groups": 3}}}, "no multiples of norm_num_groups"),
        ({"path": {"allow_random_weights": False}}, "path.pretrain_network_t: phase dm needs the trained timestep"),
        ({"backbone": None, "timestep": 9, "path": {"allow_random_weights": False}}, "backbone: DM-SR needs Stable"),
        ({"aggregation": {"overlap": 8}}, "aggregation.overlap: 8 cells, but a tile has 8"),
    ],
)
def test_what_does_not_fit_is_refused(root, changes, message):
    with pytest.raises(UpsrError, match=message):
        build_training(options(root, **changes))


@pytest.mark.parametrize("space", ["latent", "image"])
def test_a_perceptual_loss_of_the_other_space_is_refused(root, space):
    channels = {"latent": 3, "image": 4}[space]
    training: Any = build_training(
        options(root, train={"perceptual_opt": {"type": "L1Loss"}, "perceptual_space": space})
    )
    network = nn.Conv2d(channels, 1, 1)
    training.perceptual.forward = lambda prediction, target: (network(prediction) - network(target)).mean()
    with pytest.raises(UpsrError, match=f"train.perceptual_opt: .*perceptual_space: {space} gives"):
        training.refuse_crops(64, torch.device("cpu"))


def test_crops_that_are_no_whole_cells_are_refused(root):
    opt = options(root, name="crops", datasets={"train": {"gt_size": 68}})
    with pytest.raises(UpsrError, match="gt_size: 68 is no multiple of 8, a cell of the latent"):
        train(opt, CPU)


# Training.


def shipped(root: Path, *changes: str) -> Any:
    """tiny_dm.yml with a random estimator, on the photos of the tests."""
    own = [
        f"datasets:train:dataroot_gt={root / 'photos'}", "datasets:train:gt_size=64", "path:pretrain_network_t=null",
        "datasets:train:batch_size_per_gpu=2", f"path:experiments_root={root / 'runs'}", "logger:print_freq=1", *changes,
    ]  # fmt: skip
    return load_options(FILES / "tiny_dm.yml", own)


def logged(folder: Path, tag: str) -> list[float]:
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    return [float(value) for _, name, value in lines if name == f"losses/{tag}"]


FALL = 0.9
"""Of the mean absolute error of the first ten iterations, 30 later, without the adversarial loss."""


@pytest.mark.slow
def test_phase_dm_trains_from_its_option_file(root):
    folder = train(shipped(root, "train:total_iter=40", "train:warmup_iter=5", "train:adversarial:start=1000"), CPU)
    errors = logged(folder, "g/l_1")
    assert len(errors) == 40
    assert sum(errors[-10:]) < FALL * sum(errors[:10])
    real, fake = logged(folder, "d/real"), logged(folder, "d/fake")
    assert sum(real[-10:]) - sum(fake[-10:]) > 10 * 0.1 > sum(real[:1]) - sum(fake[:1])
    after: Any = UPSRPipeline.from_pretrained(folder).method
    state = torch.load(folder / "training_states" / "40.state", weights_only=True)["players"]
    assert torch.equal(after.encoder.injection[0].weight, state["g"]["params_ema"]["injection.0.weight"])
    assert not torch.equal(state["g"]["params"]["injection.0.weight"], torch.zeros(16, 1))


@pytest.mark.slow
def test_with_the_adversarial_loss_on_the_players_stay_finite_for_300_iterations(root):
    folder = train(shipped(root, "name=adversarial", "train:adversarial:start=0", "train:adversarial:weight=0.1"), CPU)
    losses = {player: torch.tensor(logged(folder, f"{player}/total")) for player in ("g", "d")}
    assert all(len(loss) == 300 and loss.isfinite().all() for loss in losses.values())
    assert float(losses["d"][-100:].mean()) < 2 * math.log(2), "the loss of a discriminator that tells nothing"
    real, fake = (torch.tensor(logged(folder, f"d/{kind}")[-100:]).mean() for kind in ("real", "fake"))
    assert real - fake > 0.5


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(root):
    changes = {
        "auto_resume": True,
        "train": {"total_iter": 6, "warmup_iter": 0, "ema_decay": 0.9, "adversarial": {"start": 3}},
        "logger": {"save_checkpoint_freq": 2},
    }
    data = tiny_options(root, root / "photos", **changes)
    one, other = whole_and_killed(data, CPU)
    assert one.keys() == other.keys() == {"g", "d"}
    for player, state in one.items():
        assert state["params_ema"], player
        assert equal_states(state, other[player]), player


@pytest.mark.slow
def test_two_processes_train_what_one_does(root):
    rate = {"lr": 1e-3, "eps": 1e-2}
    settings = tiny_options(
        root, root / "photos", train={"total_iter": 3, "warmup_iter": 0, "optim_g": rate, "optim_d": rate},
        datasets={"train": {"batch_size_per_gpu": 4}},
    )  # fmt: skip
    one = train(parse_options({**settings, "name": "one"}, "test"), CPU)
    settings["datasets"]["train"]["batch_size_per_gpu"] = 2
    two = trained_by_two({**settings, "name": "two"})
    a, b = (torch.load(f / "training_states" / "3.state", weights_only=True)["players"] for f in (one, two))
    for player in ("g", "d"):
        first, second = a[player]["params"], b[player]["params"]
        assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-5


@pytest.mark.slow
def test_memory_and_arithmetic_of_a_step_of_full_size_are_counted():
    # In a process of its own: torch keeps what it knows of fake tensors, and other tests have theirs.
    result = run_fork("-m", "benchmarks.dmsr_memory", "--gt-size", "64")
    assert result.returncode == 0, result.stderr.decode()[-2000:]
    lasting, peak, flops = (float(number) for number in re.findall(r"([0-9.]+) (?:GiB|TFLOP)", result.stdout.decode()))
    # U-Net and autoencoder of Stable Diffusion 2.1 in float32, and four copies of what is trained.
    assert 4 * (865_910_724 + 83_653_863 + 4 * 50_500_000) / 2**30 - 0.01 < lasting < peak
    assert flops > 0.1


# Restoring.


@pytest.mark.parametrize("knobs", [{"t": 40}, {"steps": 2}, {"steps": 5}, {"colour": "wavelet"}, {"scale": 3}])
def test_each_knob_changes_the_result(method, knobs):
    lq = tiny.image(16, 16)
    out, own = restored(method, lq, **knobs), restored(method, lq)
    assert torch.isfinite(out).all()
    assert out.shape != own.shape or not torch.equal(out, own)


def test_a_timestep_takes_the_place_of_the_estimate(method, root):
    lq = tiny.image(16, 16)
    fixed: Any = build_method(options(root, timestep=40))
    assert fixed.estimator is None
    assert "estimator" not in fixed.parts()
    tiny.random_weights(fixed.encoder.injection)
    assert torch.equal(restored(fixed.eval(), lq), restored(method, lq, t=40))


def test_every_image_of_a_batch_has_a_timestep_of_its_own(method, monkeypatch):
    lq = torch.cat([tiny.image(16, 16, 0), tiny.image(16, 16, 1)])
    monkeypatch.setattr(type(method.estimator), "forward", lambda _, x_lr: torch.tensor([40.2, 300.5])[: len(x_lr)])
    both = restore(method, lq, seed=0, names=["a", "b"])
    torch.testing.assert_close(both[:1], restored(method, lq[:1], t=40), rtol=0, atol=1e-5)
    torch.testing.assert_close(both[1:], restored(method, lq[1:], t=301), rtol=0, atol=1e-5)


def test_one_timestep_of_the_whole_image_is_for_all_tiles(method):
    seen: list[torch.Size] = []
    called: list[Tensor] = []
    hooks = [
        method.estimator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape)),
        method.unet.register_forward_pre_hook(lambda _, inputs: called.append(inputs[1])),
    ]
    restore(method, tiny.image(40, 24), seed=0, names=["a"])
    for hook in hooks:
        hook.remove()
    assert seen == [torch.Size((1, 3, 160, 96))]
    assert len(called) > 4
    assert len({int(t) for t in torch.cat(called)}) == 1


def test_tiles_leave_no_seam(method, monkeypatch):
    """The change that tiles make in the latent is no larger across their borders than elsewhere."""
    lq = tiny.image(32, 64)
    latents: list[Tensor] = []
    decode = DMSR.decode
    monkeypatch.setattr(DMSR, "decode", lambda self, z: (latents.append(z), decode(self, z))[1])

    def of(size: int | None, overlap: int) -> Tensor:
        tiling = replace(method.sampling.tiling, size=size, overlap=overlap, autoencoder=None)
        restored(method._with(sampling=replace(method.sampling, tiling=tiling)), lq)
        return latents.pop()

    whole = of(None, 0)

    def ratio(tiled: Tensor) -> float:
        energy = (tiled - whole).diff(dim=-1).square().mean(dim=(0, 1, 2))
        at = torch.arange(1, 32) % 8 == 0
        return float(energy[at].mean() / energy[~at].mean())

    blended, cut = ratio(of(8, 4)), ratio(of(8, 0))
    assert blended < 1 < 1.3 < cut, (blended, cut)


def test_the_autoencoder_s_tiles_follow_the_plan(method):
    lq = tiny.image(40, 24)
    tiled = restore(method, lq, seed=0, names=["a"], tile=TileOptions(size=24, overlap=8, blend="step"))
    difference = float((tiled - restored(method, lq)).abs().mean())
    assert 0 < difference < 0.1


def test_estimates_are_shown_at_most_eight(method):
    seen: list[Seen] = []
    out = restore(method.adjusted(steps=12), tiny.image(16, 16), seed=0, names=["a"], watch=seen.append)
    assert len(seen) == 8
    assert seen[-1].name == "step 12"
    assert torch.equal(seen[-1].image, out)


def test_half_precision_is_near_and_leaves_the_estimator(method):
    lq = tiny.image(16, 16)
    lower = method.for_inference(torch.bfloat16)
    assert lower.unet.dtype == lower.vae.dtype == torch.bfloat16 == lower.encoder.quant_conv.weight.dtype
    assert next(lower.estimator.parameters()).dtype == method.unet.dtype == torch.float32
    assert (restored(lower, lq) - restored(method, lq)).abs().mean() < 0.03
    with pytest.raises(UpsrError, match="int8"):
        method.for_inference(torch.int8)


def test_predicted_noise_is_that_of_the_first_step(method):
    noise = method.predicted_noise(torch.cat([tiny.image(16, 16, seed) for seed in range(3)]))
    assert noise.shape == (3, 4, 8, 8)
    t = method.timestep_of(2 * nn.functional.interpolate(tiny.image(16, 16), size=(64, 64), mode="bicubic") - 1)
    seen: list[Tensor] = []
    hook = method.unet.register_forward_hook(lambda _, inputs, output: seen.append(output.sample))
    restored(method, tiny.image(16, 16), steps=2, t=int(t))
    hook.remove()
    torch.testing.assert_close(noise[:1], seen[0], rtol=0, atol=1e-5)
    assert not torch.equal(noise[0], noise[1])


# Files and commands.


def saved(method: DMSR, root: Path, folder: Path) -> Path:
    config = options(root).model_dump(mode="json")
    config = {"_class_name": "UPSRPipeline", **{key: config[key] for key in options(root).of_method() if key in config}}
    UPSRPipeline(method, config, "cpu").save_pretrained(folder)
    return folder


def test_a_saved_pipeline_restores_the_same_without_the_text_tower(method, root, tmp_path):
    import shutil

    folder = saved(method, root, tmp_path / "saved")
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / "backbone" / part)
    again: Any = UPSRPipeline.from_pretrained(folder, device="cpu", dtype="float32")
    lq = tiny.image(16, 16)
    assert torch.equal(restored(again.method, lq), restored(method, lq))
    with pytest.raises(UpsrError, match=r"no folder (tokenizer|text_encoder), which a new prompt needs"):
        again.method.adjusted(prompt="a red barn")


def test_a_folder_of_stable_diffusion_goes_with_encoder_and_estimator(method, root, tmp_path):
    from safetensors.torch import save_file

    files = {}
    for part in ("encoder", "estimator"):
        files[part] = tmp_path / f"{part}.safetensors"
        save_file({name: value.contiguous() for name, value in method.parts()[part].state_dict().items()}, files[part])
    folder = tiny_backbone(root / "sd")
    with pytest.raises(UpsrError, match="DM-SR needs its timestep estimator too: --part estimator=FILE"):
        UPSRPipeline.from_pretrained(folder, parts={"encoder": files["encoder"]})
    # The estimator's size is the paper's unless an option file says so.
    with pytest.raises(UpsrError, match=r"estimator.safetensors: .* not those of this TimestepEstimator"):
        UPSRPipeline.from_pretrained(folder, parts=files)


def test_the_command_restores_with_knobs(method, root, tmp_path, capsys):
    from upsr.cli import main

    weights = str(saved(method, root, tmp_path / "saved"))
    Image.fromarray(tiny.picture(16, 16, 0)).save(tmp_path / "a.png")

    def made(*more: str) -> bytes:
        given = [
            "upscale",
            str(tmp_path / "a.png"),
            "-o",
            str(tmp_path / "b.png"),
            "--weights",
            weights,
            "--overwrite",
            *more,
        ]
        assert main(given) == 0
        return (tmp_path / "b.png").read_bytes()

    results = [made(), made("--steps", "2"), made("--knob", "t=40"), made("--knob", "prompt=Good photo.")]
    assert len({*results}) == len(results)
    bad = ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "c.png"), "--weights", weights, "--knob", "t=0"]
    assert main(bad) == 2
    assert "t is 0; give whole numbers from 1 to 999: timestep in place of the estimate" in capsys.readouterr().err


def test_a_prompt_of_an_option_file_is_that_of_the_knob(root):
    first: Any = build_method(options(root, prompt="Good photo."))
    other: Any = build_method(options(root))
    assert not torch.equal(first.context(), other.context())
    assert torch.equal(first.context(), other.adjusted(prompt="Good photo.").context())
