"""Diff-SR: noise levels, any scale, tiles of the network's size, folders of diffusers, and the training of its denoiser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests import tiny
from tests.diffsr import UNET, tiny_options
from tests.gaussian_field import filtered, process_of, spectrum
from tests.golden_recipe import GOLDEN
from tests.processes import one_thread, whole_and_killed
from upsr.archs import DenoisingDiffusionUNet, DiffusersUNet2D
from upsr.archs.contracts import NoisePredictor
from upsr.config.load import load_options, parse_options
from upsr.diffusion import VariancePreserving, alphas_cumprod, schedule_betas
from upsr.engine.distributed import Runtime
from upsr.engine.train_loop import train
from upsr.errors import UpsrError
from upsr.methods import build_method, build_training
from upsr.methods.diffsr.method import DiffSR, Sampling
from upsr.methods.diffsr.noise_level import by_scale, noise_level_of
from upsr.methods.diffsr.options import NoiseLevelOptions
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.restoring import restore
from upsr.rng import torch_generator

pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[latent]'")

CPU = Runtime(torch.device("cpu"))
FILES = Path(__file__).parents[1] / "options" / "diffsr"


class FieldPredictor(NoisePredictor):
    """The best denoiser of Gaussian fields, giving the noise."""

    channels, sample_size = 1, 64

    def __init__(self) -> None:
        super().__init__()
        self.process = process_of("scaled_linear")

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = self.process.alpha_bar(t)[:, None, None, None]
        power = spectrum(x.shape[-1])
        x_0 = filtered(x, a.sqrt() * power / (a * power + 1 - a)).to(x.dtype)
        return self.process.epsilon(x_0, x, t)


def options(root: Path, **changes: Any) -> dict[str, Any]:
    return tiny_options(root, root / "photos", **changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("diffsr")
    tiny.save_pictures(root / "photos", 3)
    return root


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """As many threads as the processes have, so that sums are in the same order."""
    with one_thread():
        yield


def method(root: Path, **changes: Any) -> DiffSR:
    built = build_method(parse_options(options(root, **changes), "test"))
    assert isinstance(built, DiffSR)
    tiny.random_weights(built.denoiser)
    return built.eval()


def photo(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(tiny.picture(height, width)).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize(
    ("scale", "level"), [(2, 0.2), (4, 0.4), (8, 0.6), (16, 0.65), (1.05, 0.05), (2.6, 0.2757), (4.5, 0.434)]
)
def test_a_doubling_takes_a_fifth_of_the_steps(scale, level):
    assert by_scale(scale) == pytest.approx(level, abs=1e-4)


def test_equal_noise_on_other_schedules_is_that_of_the_golden_tables():
    golden = json.loads((GOLDEN / "siblings" / "vp_tables.json").read_text())
    opt = NoiseLevelOptions(policy="target_alpha_bar")
    for schedule in ("linear", "sigmoid", "squaredcos_cap_v2"):
        process = VariancePreserving(alphas_cumprod(schedule_betas(schedule)))
        for scale, level in ((2, 200), (4, 400)):
            own = noise_level_of(opt, process)(scale) * 1000
            wanted = process.index_of(golden["alphas_cumprod"]["scaled_linear"][str(level)])
            assert own == pytest.approx(wanted, abs=1e-6)
    usual = VariancePreserving(alphas_cumprod(schedule_betas("scaled_linear")))
    assert noise_level_of(opt, usual)(4) == pytest.approx(0.4)


def test_a_calibration_is_read_between_its_scales_and_refused_outside(tmp_path):
    path = tmp_path / "prf.json"
    path.write_text(json.dumps({"scales": {"2": {"t_star": 0.2}, "8": {"t_star": 0.5}}}))
    level = noise_level_of(NoiseLevelOptions(policy="prf", calibration=str(path)), process_of("linear"))
    assert [level(scale) for scale in (2, 4, 8)] == pytest.approx([0.2, 0.35, 0.5])
    with pytest.raises(UpsrError, match=r"calibration: .*prf.json is for x2 to x8, not x1.5"):
        level(1.5)
    path.write_text("{}")
    with pytest.raises(UpsrError, match="no calibration of upsr diffsr calibrate"):
        noise_level_of(NoiseLevelOptions(policy="prf", calibration=str(path)), process_of("linear"))
    with pytest.raises(ValueError, match="policy: fixed and level go together"):
        NoiseLevelOptions(policy="fixed")


@pytest.mark.parametrize("level", [200, 400])
def test_gaussian_fields_are_restored_as_computed(level):
    """Golden vectors of an ideal low-pass LR field; the noise level and DDIM are those of the method."""
    with np.load(GOLDEN / "siblings" / "gaussian_field_x4.npz") as file:
        golden = {name: torch.from_numpy(file[name]).float() for name in file.files}
    own = DiffSR(FieldPredictor(), None, process_of("scaled_linear"), Sampling(1, by_scale, level / 1000), clip=False)
    from tests.golden_recipe import arr

    noise = arr("in:sb.field.a.noise", (8, 1, 64, 64))[:2]
    upsampled = golden["upsampled"].reshape(2, 1, 64, 64)
    # Out of the range of images, which restore() clamps: the steps are the same.
    from upsr.diffusion import sample
    from upsr.diffusion.sampling import repeated

    t = repeated(own.timesteps, 2, torch.device("cpu"))
    assert (own.timesteps[0], own.timesteps[-1], len(own.timesteps)) == (level, 0, 50)
    x = own.process.q_sample(upsampled, t[:, 0], noise)
    out = sample(x, own.estimate, own.process.step("ddim"), t, lambda k: noise)
    torch.testing.assert_close(out, golden[f"out_t{level}"].reshape(2, 1, 64, 64), rtol=0, atol=2e-4)


@pytest.mark.parametrize(("scale", "size"), [(2, (40, 26)), (2.6, (52, 34)), (4.5, (90, 58))])
def test_any_scale_is_restored(root, scale, size):
    out = restore(method(root).adjusted(scale=scale), photo(20, 13), seed=0, names=["a"])
    assert out.shape[-2:] == size
    assert 0 <= float(out.min()) <= float(out.max()) <= 1


def test_tiles_have_the_size_of_the_network(root):
    own = method(root)
    seen: set[tuple[int, ...]] = set()
    own.denoiser.register_forward_hook(lambda module, given, output: seen.add(tuple(given[0].shape[-2:])))
    for lq in (photo(5, 5), photo(20, 13), photo(24, 31)):
        restore(own, lq, seed=0, names=["a"])
    assert seen == {(32, 32)}


def test_without_noise_the_result_is_the_upsampled_photo(root):
    lq = photo(20, 13)
    out = restore(method(root).adjusted(scale=2.6, noise_level=0), lq, seed=0, names=["a"])
    expected = F.interpolate(lq, size=(52, 34), mode="bicubic").clamp(0, 1)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)


def test_more_noise_goes_farther_from_the_photo(root):
    own, lq = method(root), photo(16, 16)
    y = F.interpolate(lq, size=(64, 64), mode="bicubic").clamp(0, 1)
    distances = [
        float((restore(own.adjusted(noise_level=level), lq, seed=0, names=["a"]) - y).square().mean())
        for level in (0.05, 0.4)
    ]
    assert distances[0] < distances[1]


def test_settings_and_their_limits(root):
    own = method(root)
    assert set(own.knobs()) == {"scale", "noise_level", "steps", "eta"}
    assert len(own.adjusted(steps=7).timesteps) == 7
    assert own.adjusted(noise_level=0.003, steps=50).timesteps == [3, 2, 1, 0]
    with pytest.raises(UpsrError, match=r"^scale is 0.5; give 1 to 16"):
        own.adjusted(scale=0.5)
    with pytest.raises(UpsrError, match=r"^eta: it is a setting of DDIM"):
        method(root, sampler={"type": "ddpm"}).adjusted(eta=0.5)
    drawn = method(root, sampler={"type": "ddpm"})
    assert not torch.equal(*(restore(drawn, photo(8, 8), seed=seed, names=["a"]) for seed in (0, 1)))


def test_a_latent_is_denoised_in_the_space_of_an_autoencoder(root, tmp_path):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(16, 16),
        norm_num_groups=8, sample_size=64,
    ).save_pretrained(tmp_path / "vae")  # fmt: skip
    codec = {"type": "KLAutoencoder", "path": str(tmp_path)}
    own = method(root, codec=codec, network_g={"channels": 4})
    assert own.facts.state == (4, 2)
    out = restore(own, photo(20, 21), seed=0, names=["a"])
    assert out.shape[-2:] == (80, 84)
    assert torch.isfinite(out).all()
    training = build_training(parse_options(options(root, codec=codec, network_g={"channels": 4}), "test")).train()
    training("g", {"gt": photo(32, 32)}, [torch_generator(0)])["total"].backward()
    assert all(p.grad is None for p in own.codec.parameters())
    with pytest.raises(UpsrError, match=r"codec: its latent has 4 channels, but network_g has 3"):
        method(root, codec=codec)


def folder_of(path: Path, **changes: Any) -> Path:
    """A pipeline of diffusers."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(1)
    unet = UNet2DModel(
        sample_size=32, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        flip_sin_to_cos=False,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler(**{"beta_schedule": "linear", **changes})).save_pretrained(path)
    return path


def test_a_folder_of_diffusers_upscales_by_itself(tmp_path):
    folder = folder_of(tmp_path / "model", num_train_timesteps=200, prediction_type="v_prediction", clip_sample=False)
    pipe = UPSRPipeline.from_pretrained(folder, method="diffsr", device="cpu")
    with pytest.raises(UpsrError, match=r"compile: is for a denoiser of \(x, t, lq\), and this method has none"):
        UPSRPipeline.from_pretrained(folder, method="diffsr", device="cpu", compile="default")
    own = pipe.method
    assert isinstance(own, DiffSR)
    assert (own.process.num_timesteps, own.process.prediction, own.clip) == (200, "v_prediction", False)
    from diffusers import DDPMScheduler, UNet2DModel

    theirs = UNet2DModel.from_pretrained(folder / "unet")
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([3, 150])
    with torch.no_grad():
        torch.testing.assert_close(own.denoiser(x, t), theirs(x, t).sample)
    betas = DDPMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod
    torch.testing.assert_close(own.process.alpha_bar(torch.arange(200)).float(), betas)
    image = tiny.picture(20, 13)
    large = pipe(image, outscale=2.6, steps=3, output_type="np").images[0]
    assert large.shape == (52, 34, 3)
    pipe.save_pretrained(tmp_path / "saved")
    again = UPSRPipeline.from_pretrained(tmp_path / "saved", device="cpu")
    assert np.array_equal(again(image, outscale=2.6, steps=3, output_type="np").images[0], large)
    alone = UPSRPipeline.from_pretrained(folder / "unet", method="diffsr", device="cpu")
    assert alone.method.process.num_timesteps == 1000


def test_folders_that_are_not_known_are_refused_in_one_line(tmp_path):
    folder = folder_of(tmp_path / "model")
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "beta_schedule": "laplace"}))
    with pytest.raises(UpsrError, match=r"scheduler_config.json: beta_schedule is laplace; Diff-SR knows linear"):
        UPSRPipeline.from_pretrained(folder, device="cpu")
    scheduler.write_text(json.dumps({"rescale_betas_zero_snr": True}))
    with pytest.raises(UpsrError, match=r"has betas of its own \(rescale_betas_zero_snr\)"):
        UPSRPipeline.from_pretrained(folder, device="cpu")
    scheduler.write_text("{}")
    network = folder / "unet" / "config.json"
    network.write_text(json.dumps({**json.loads(network.read_text()), "num_class_embeds": 10}))
    with pytest.raises(UpsrError, match=r"takes a class \(num_class_embeds\); Diff-SR needs an unconditional one"):
        UPSRPipeline.from_pretrained(folder, device="cpu")
    for file in (folder / "unet").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(UpsrError, match="unet: no weights here"):
        UPSRPipeline.from_pretrained(folder, device="cpu")


def test_a_weight_more_or_less_is_refused_by_name(root, tmp_path):
    network = DiffusersUNet2D(**{key: value for key, value in UNET.items() if key != "type"})
    weights = dict(network.other_layouts()[0])
    weights["conv_in.weight_of_another"] = weights.pop("conv_in.weight")
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(UpsrError, match=r"1 missing \(conv_in.weight\); 1 unknown \(conv_in.weight_of_another\)"):
        method(root, path={"pretrain_network_g": str(tmp_path / "w.pth")})


def test_the_network_of_the_paper_has_its_size():
    pytest.importorskip("denoising_diffusion_pytorch", reason="needs the extra: pip install 'upsr[diffsr]'")
    opt = load_options(FILES / "train_paper.yml")
    with torch.device("meta"):
        network = DenoisingDiffusionUNet(**opt.network_g.arguments)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 35.71
    train = opt.train
    assert (train.optim_g.type, train.optim_g.lr, opt.datasets["train"].batch_size_per_gpu) == ("Adam", 1e-5, 16)
    small = DenoisingDiffusionUNet(32, dim=16, dim_mults=[1, 2])
    assert small(torch.randn(2, 3, 32, 32), torch.tensor([0, 999])).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_loss_falls_and_only_the_denoiser_learns(root, prediction):
    training = build_training(parse_options(options(root, diffusion={"prediction": prediction}), "test")).train()
    batch = {"gt": torch.cat([photo(32, 32), photo(40, 40)[..., 8:, 8:]])}
    optimiser = torch.optim.Adam(training.players["g"].network.parameters(), lr=3e-3)
    losses = []
    for i in range(30):
        loss = training("g", batch, [torch_generator(i, slot) for slot in range(2)])
        assert loss["tenth_by_timestep"].shape == (2, 10)
        optimiser.zero_grad()
        loss["total"].backward()
        optimiser.step()
        losses.append(float(loss["total"].detach()))
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])


@pytest.mark.slow
def test_a_killed_training_ends_as_one_that_was_not(root):
    settings = options(
        root, train={"total_iter": 40, "warmup_iter": 2}, logger={"save_checkpoint_freq": 2}, auto_resume=True
    )
    a, b = (players["g"] for players in whole_and_killed(settings, CPU))
    for key in ("params", "params_ema"):
        assert a[key].keys() == b[key].keys()
        assert all(torch.equal(a[key][name], b[key][name]) for name in a[key])


def test_a_run_validates_and_upscales(root):
    settings = options(
        root, name="used", train={"total_iter": 2}, val={"val_freq": 2, "metrics": {"psnr": {"type": "PSNR"}}}
    )
    settings["datasets"]["val_1"] = {"type": "BicubicFolderDataset", "dataroot_gt": str(root / "photos")}
    folder = train(parse_options(settings, "test"), CPU)
    assert "val_1: psnr" in (folder / "train.log").read_text()
    large = UPSRPipeline.from_pretrained(folder, device="cpu")(tiny.picture(20, 13), steps=2, output_type="np").images[
        0
    ]
    assert large.shape == (80, 52, 3)
