"""ResShift and SinSR as they are used: option files, training, weights by their published names, restoring with knobs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests import tiny
from tests.processes import one_thread, trained_by_two, whole_and_killed
from tests.resshift import OPTIONS, tiny_options
from upsr.config.load import load_options, parse_options
from upsr.engine.distributed import Runtime
from upsr.engine.train_loop import train
from upsr.errors import UpsrError
from upsr.methods import build_method, build_training
from upsr.methods.resshift.files import released_options
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.restoring import restore

pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[latent]'")

FILES = Path(__file__).parents[1] / "options" / "resshift"
CPU = Runtime(torch.device("cpu"))
HEAD = ["input_blocks.0.0.weight", "out.2.weight"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("resshift")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """As many threads as the processes have, so that sums are in the same order."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def photos(root) -> Path:
    return tiny.save_pictures(root / "photos", 2)


@pytest.fixture(scope="module")
def autoencoder(root) -> Path:
    """An autoencoder that was trained for a moment: it keeps colours and large shapes."""
    from upsr.codecs import VQAutoencoder

    torch.manual_seed(0)
    codec = VQAutoencoder(**{key: value for key, value in OPTIONS["autoencoder"].items() if key != "type"})
    image = torch.from_numpy(tiny.picture(64, 64, 0)).permute(2, 0, 1)[None].float() / 127.5 - 1
    optimiser = torch.optim.Adam(codec.parameters(), lr=3e-3)
    for _ in range(60):
        z = codec.encode(image)
        quantised, commitment, _ = codec.network.quantize(z)
        loss = F.mse_loss(codec.network.decoder(codec.network.post_quant_conv(quantised)), image) + commitment
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.save(codec.other_layouts()[1], root / "autoencoder.pth")
    return root / "autoencoder.pth"


def test_training_settings_are_the_published_ones():
    v1, v3, student = (load_options(FILES / f"train_{name}.yml") for name in ("v1", "v3", "sinsr"))
    assert (v1.diffusion.steps, v1.diffusion.min_noise_level, v1.train.perceptual_opt) == (15, 0.04, None)
    assert (v1.train.total_iter, v1.train.scheduler.type, v1.degradation.second_order_prob) == (
        300_000,
        "MultiStepLR",
        0.5,
    )
    assert (v3.diffusion.steps, v3.diffusion.min_noise_level, v3.train.perceptual_opt.type) == (4, 0.2, "LPIPSLoss")
    assert (v3.train.total_iter, v3.train.scheduler.min_factor, v3.train.optim_g.lr) == (400_000, 0.4, 5e-5)
    assert (student.phase, student.diffusion.steps) == ("distillation", 15)
    assert student.train.consistency.model_dump() == {"inverse": 1.0, "ground_truth": 1.0}
    for opt in (v1, v3, student):
        d = opt.diffusion
        assert (d.kappa, d.power, d.sqrt_eta_end, d.sampler.type) == (2.0, 0.3, 0.99, "posterior")
    assert load_options(FILES / "test_sinsr.yml").diffusion.one_step


@pytest.mark.slow
def test_it_learns_a_photo_by_heart(root, photos, autoencoder):
    """The latent of the restoration nears that of the photo, from which the upsampled photo's is far."""
    opt = parse_options(
        tiny_options(root, photos, path={"pretrain_autoencoder": str(autoencoder)}, train={"optim_g": {"lr": 2e-3}}),
        "test",
    )
    training = build_training(opt).train()
    gt = torch.from_numpy(tiny.picture(64, 64, 0)).permute(2, 0, 1)[None].float() / 255
    lq = F.interpolate(gt, scale_factor=0.25, mode="bicubic", antialias=True)
    lq = (lq + 0.2 * torch.randn(lq.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    batch = {"gt": gt, "lq": lq}
    optimiser = torch.optim.Adam(training.players["g"].network.parameters(), lr=2e-3)
    generators = [torch.Generator().manual_seed(0)]
    for _ in range(160):
        optimiser.zero_grad()
        training("g", batch, generators)["total"].backward()
        optimiser.step()
    method = training.eval().method
    with torch.inference_mode():
        y, z_0 = training.latents(batch)
        out = restore(method, batch["lq"], seed=0, names=["a"])
        best = (method.codec.decode(z_0) + 1) / 2
        start = (method.codec.decode(y) + 1) / 2
    assert F.mse_loss(out, best) < 0.5 * F.mse_loss(start, best)
    assert F.mse_loss(out, gt) < F.mse_loss(start, gt)


def test_perceptual_loss_is_of_the_decoded_image(root, photos, autoencoder):
    opt = parse_options(
        tiny_options(
            root, photos, path={"pretrain_autoencoder": str(autoencoder)}, train={"perceptual_opt": {"type": "L1Loss"}}
        ),
        "test",
    )
    training = build_training(opt).train()
    batch = {"lq": torch.rand(1, 3, 16, 16), "gt": torch.rand(1, 3, 64, 64)}
    losses = training("g", batch, [torch.Generator().manual_seed(0)])
    losses["l_percep"].backward()
    total, latent, percep = (float(losses[name].detach()) for name in ("total", "l_latent", "l_percep"))
    assert total == pytest.approx(latent + percep)
    head = training.method.denoiser.out[2].weight.grad
    assert head is not None
    assert float(head.abs().max()) > 0
    assert all(p.grad is None for p in training.method.codec.parameters())


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(root, photos):
    settings = tiny_options(
        root, photos, train={"total_iter": 40, "warmup_iter": 2}, logger={"save_checkpoint_freq": 2}, auto_resume=True
    )
    a, b = (players["g"] for players in whole_and_killed(settings, CPU))
    for key in ("params", "params_ema"):
        assert a[key].keys() == b[key].keys()
        assert all(torch.equal(a[key][name], b[key][name]) for name in a[key])


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["supervised", "distillation"])
def test_two_processes_train_what_one_does(root, photos, phase):
    start = build_method(parse_options(tiny_options(root, photos), "test")).denoiser
    torch.save(tiny.random_weights(start).state_dict(), root / "start.pth")
    # With its usual eps AdamW's first steps turn rounding of near-zero gradients into whole steps.
    settings = tiny_options(
        root, photos, phase=phase, path={"pretrain_network_g": str(root / "start.pth")},
        train={"total_iter": 3, "warmup_iter": 0, "optim_g": {"lr": 1e-3, "eps": 1e-2}},
        datasets={"train": {"batch_size_per_gpu": 4}},
    )  # fmt: skip
    one = train(parse_options({**settings, "name": f"one {phase}"}, "test"), CPU)
    settings["datasets"]["train"]["batch_size_per_gpu"] = 2
    two = trained_by_two({**settings, "name": f"two {phase}"})
    a, b = (torch.load(f / "training_states" / "3.state", weights_only=True)["players"]["g"] for f in (one, two))
    assert max(float((a["params"][n] - b["params"][n]).abs().max()) for n in a["params"]) < 1e-5


@pytest.mark.parametrize(
    ("name", "steps", "one_step"),
    [
        ("resshift_realsrx4_s15_v1.pth", 15, False),
        ("resshift_realsrx4_s15_v2.pth", 15, False),
        ("resshift_realsrx4_s4_v3.pth", 4, False),
        ("resshift_bicsrx4_s4.pth", 4, False),
        ("SinSR_v1.pth", 15, True),
    ],
)
def test_published_files_are_known_by_their_names(tmp_path, name, steps, one_step):
    (tmp_path / "autoencoder_vq_f4.pth").touch()
    data = released_options(tmp_path / name, HEAD, None)
    assert data is not None
    opt = parse_options({**data, "name": "x", "datasets": {}}, "test")
    assert (opt.diffusion.steps, opt.diffusion.one_step) == (steps, one_step)
    assert opt.path.pretrain_autoencoder == str(tmp_path / "autoencoder_vq_f4.pth")
    assert released_options(tmp_path / name, ["conv_last.weight", HEAD[0]], None) is None


def test_what_a_published_file_lacks_is_said(tmp_path):
    with pytest.raises(UpsrError, match=r"mine.pth: holds a denoiser of ResShift, .*keep the released name"):
        released_options(tmp_path / "mine.pth", HEAD, None)
    with pytest.raises(
        UpsrError, match=r"SinSR_v1.pth: .*autoencoder_vq_f4.pth is not here; .*--part autoencoder=FILE"
    ):
        released_options(tmp_path / "SinSR_v1.pth", HEAD, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 2}, r"scale: 2, but the autoencoder's cells of 4 pixels .* make x4"),
        ({"autoencoder": {"z_channels": 4}}, r"network_g.in_channels is 3, but the latent of the autoencoder has 4"),
        ({"autoencoder": {"type": "ATD", "ch": None}}, r"autoencoder\.type: ATD is no Codec"),
    ],
)
def test_networks_that_do_not_fit_are_refused(root, photos, changes, message):
    data = tiny_options(root, photos)
    if "type" in changes.get("autoencoder", {}):
        data["autoencoder"], changes = {"type": "ATD"}, {}
    from upsr.config.load import merged

    with pytest.raises(UpsrError, match=message):
        build_method(parse_options(merged(data, changes), "test"))


def test_a_condition_larger_than_the_latent_makes_x2(root, photos):
    data = tiny_options(root, photos, scale=2, network_g={"lq_size": 32})
    method = build_method(parse_options(data, "test")).eval()
    assert (method.facts.scale, method.facts.multiple, method.facts.state) == (2, 32, (3, 4))
    lq = torch.from_numpy(tiny.picture(40, 24, 1)).permute(2, 0, 1)[None].float() / 255
    assert restore(method, lq, seed=0, names=["a"]).shape == (1, 3, 80, 48)


def test_a_run_and_a_saved_pipeline_restore_the_same_photo(root, photos, autoencoder, tmp_path):
    folder = train(
        parse_options(
            tiny_options(
                root, photos, name="used", train={"total_iter": 2}, path={"pretrain_autoencoder": str(autoencoder)}
            ),
            "test",
        ),
        CPU,
    )
    pipe = UPSRPipeline.from_pretrained(folder, device="cpu")
    photo = tiny.picture(40, 24, 1)
    large = pipe(photo, output_type="np", seed=1, tile=16).images[0]
    assert large.shape == (160, 96, 3)
    assert set(pipe.knobs()) == {"steps"}
    assert not np.array_equal(large, pipe(photo, output_type="np", seed=1, tile=16, steps=2).images[0])
    with pytest.raises(UpsrError, match=r"^fidelity: the method ResShift has no such setting; it has steps"):
        pipe(photo, fidelity=0.5)
    pipe.save_pretrained(tmp_path / "saved")
    again = UPSRPipeline.from_pretrained(tmp_path / "saved", device="cpu")
    assert np.array_equal(again(photo, output_type="np", seed=1, tile=16).images[0], large)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    seen = pipe(tmp_path / "photo.png", return_intermediates=True)
    assert list(seen.intermediates[0]) == ["x_T", "t=3", "t=2", "t=1", "t=0"]


def test_a_run_with_a_random_autoencoder_restores_with_the_same_one(root, photos):
    settings = tiny_options(root, photos, name="random", train={"total_iter": 2})
    opt = parse_options(settings, "test")
    folder = train(opt, CPU)
    pipe = UPSRPipeline.from_pretrained(folder, device="cpu")
    codec, own = build_method(opt).codec.state_dict(), pipe.method.codec.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in codec.items())
