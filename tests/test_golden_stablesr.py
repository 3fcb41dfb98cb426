"""Parity of StableSR with the released modules: networks, process, tiles, colours, losses and a whole restoration."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.golden_recipe import GOLDEN, arr, fill, key_shapes
from upsr.diffusion import VariancePreserving, alphas_cumprod, sample, schedule_betas, timesteps_from
from upsr.diffusion.sampling import repeated
from upsr.tiling.colour import COLOUR_FIXES, _low_pass
from upsr.tiling.scratch import Scratch
from upsr.tiling.tiles import Tiles, tiled, whole_plan
from upsr.tiling.windows import gaussian_windows, tile_starts

pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[sd]'")

BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
CPU = torch.device("cpu")


def golden(file: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / "stablesr" / f"{file}.npz") as content:
        return {key: torch.from_numpy(content[key]) for key in content.files}


def listed(file: str) -> dict[str, object]:
    return json.loads((GOLDEN / "stablesr" / f"{file}.json").read_text())


def released(file: str) -> dict[str, Tensor]:
    """A checkpoint with golden weights under its released names."""
    keys = key_shapes(f"stablesr/{file}.json")
    return {key: fill(key.removeprefix("first_stage_model."), tuple(shape)) for key, shape in keys.items()}


@cache
def networks() -> tuple[nn.Module, nn.Module]:
    """The U-Net under its SFT layers, and the autoencoder with its fusion blocks."""
    import diffusers

    from upsr.methods.stablesr import convert
    from upsr.methods.stablesr.cfw import CFW, WrappedAutoencoder
    from upsr.methods.stablesr.encoder import TimeAwareEncoder
    from upsr.methods.stablesr.sft import Conditioning, ModulatedUNet, sft_layers

    unet = diffusers.UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64, 128, 128), layers_per_block=2, cross_attention_dim=48,
        attention_head_dim=(2, 4, 8, 8), use_linear_projection=True,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 128, 128), layers_per_block=2,
    )  # fmt: skip
    conditioning = Conditioning(TimeAwareEncoder(4, 32, 32), sft_layers(unet, 32))
    cfw = CFW((32, 64, 128, 128))
    first, second = released("tiny_keys"), released("tiny_cfw_keys")
    unet.load_state_dict(convert.unet_weights(first, unet.state_dict()))
    conditioning.load_state_dict(convert.conditioning_weights(first, conditioning.state_dict()))
    vae.load_state_dict(convert.vae_weights(first, vae.state_dict()))
    cfw.load_state_dict(convert.cfw_weights(second, cfw.state_dict()))
    counts = listed("counts")["tiny"]
    assert sum(p.numel() for p in conditioning.encoder.parameters()) == counts["encoder"]
    assert sum(p.numel() for p in conditioning.sft.parameters()) == counts["sft"]
    assert sum(p.numel() for p in cfw.parameters()) == counts["cfw"]
    return ModulatedUNet(unet, conditioning).eval(), WrappedAutoencoder(vae, cfw).eval()


def method(steps: int, **changes: object) -> nn.Module:
    """StableSR of the golden networks."""
    import diffusers

    from upsr.methods.prompts import Prompts
    from upsr.methods.stable_diffusion import Backbone
    from upsr.methods.stablesr.method import Sampling, StableSR
    from upsr.methods.stablesr.options import StableSROptions

    denoiser, autoencoder = networks()
    scheduler = diffusers.DDPMScheduler(beta_schedule="scaled_linear", **BETAS, clip_sample=False)
    prompts = Prompts(None, 48)
    prompts._known[""] = arr("in:ss.e1.ctx", (1, 7, 48))
    opt = StableSROptions(name="x", datasets={}, sampler={"steps": steps}, **changes)
    backbone = Backbone(denoiser.unet, autoencoder.vae, scheduler, prompts)
    return StableSR(denoiser, autoencoder, backbone, Sampling.from_options(opt, backbone))


@pytest.mark.parametrize(
    ("file", "name", "batch", "size", "t"),
    [("nets_16x16_t999_333", "n1", 2, (16, 16), [999, 333]), ("nets_16x24_t500", "n2", 1, (16, 24), [500])],
)
def test_encoder_and_modulated_u_net(file, name, batch, size, t):
    denoiser, _ = networks()
    z, x = (arr(f"in:ss.{name}.{kind}", (batch, 4, *size)) for kind in "zx")
    timesteps = torch.tensor(t)
    with torch.no_grad():
        features = denoiser.conditioning.encoder(z, timesteps)
        out = denoiser(x, timesteps, arr(f"in:ss.{name}.ctx", (batch, 7, 48)), features)
    expected = golden(file)
    for level, feature in enumerate(features):
        assert (feature - expected[f"feat{level}"]).abs().max() < 1e-4
    assert (out - expected["out"]).abs().max() < 1e-4


@pytest.mark.parametrize(("file", "name", "size"), [("cfw_64x64", "v1", (64, 64)), ("cfw_64x96", "v2", (64, 96))])
def test_autoencoder_with_fusion_blocks(file, name, size):
    _, autoencoder = networks()
    image = 2 * arr(f"in:ss.{name}.img", (1, 3, *size), "uniform") - 1
    latent = arr(f"in:ss.{name}.lat", (1, 4, size[0] // 8, size[1] // 8))
    expected = golden(file)
    with torch.no_grad():
        moments = autoencoder.vae.encode(image).latent_dist.parameters
        features = autoencoder.features(image)
        assert (moments - expected["moments"]).abs().max() < 1e-4
        assert (features["1"][..., ::2, ::2] - expected["fea_level1_sub"]).abs().max() < 1e-4
        assert (features["2"] - expected["fea_level2"]).abs().max() < 1e-4
        for key in (key for key in expected if key.startswith("dec_w")):
            decoded = autoencoder.decode(latent * 0.18215, image, float(key.removeprefix("dec_w")))
            shown = decoded if file == "cfw_64x64" else decoded[..., ::2, ::2]
            assert (shown - expected[key]).abs().max() < 1e-4


def vp() -> VariancePreserving:
    return VariancePreserving(alphas_cumprod(schedule_betas("scaled_linear", **BETAS)))


def test_schedule_and_timesteps():
    process = vp()
    for t, alpha in listed("vp_alphas")["alphas_cumprod_at"].items():
        assert abs(float(process.alpha_bar(torch.tensor(int(t)))) - alpha) < 1e-6
    for steps, table in listed("respaced_schedules").items():
        assert timesteps_from(999, int(steps)) == table["t"]
        if int(steps) <= 20:
            found = process.alpha_bar(torch.tensor(table["t"]))
            assert (found - torch.tensor(table["alphas_cumprod"])).abs().max() < 1e-6


def stub(z_lr: Tensor, context: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The noise predictor of the golden vectors."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        t = t.view(-1, 1, 1, 1)
        return 0.8 * torch.tanh(0.6 * x + 0.0005 * t) + 0.1 * z_lr * (1 + 0.0002 * t) + 0.2 * context.mean()

    return predict


@pytest.mark.parametrize(
    ("file", "steps", "seen"),
    [("ddpm4_noise", 4, range(4)), ("ddpm20_noised_lr", 20, [0, 1, 2, 10, 18, 19]), ("ddpm4_guided_2.5", 4, range(4))],
)
def test_ddpm(file, steps, seen):
    process, expected = vp(), golden(file)
    batch = len(expected["out"])
    z_lr = 0.8 * arr("in:ss.smp.zlr", (2, 4, 16, 16))[:batch]
    context = arr("in:ss.smp.ctx", (2, 3, 4))[:batch]
    start = arr("in:ss.smp.start", (2, 4, 16, 16))[:batch]
    t = repeated(timesteps_from(999, steps), batch, CPU)
    x = process.q_sample(z_lr, t[:, 0], start) if "noised" in file else start
    assert (x - expected["x_T"]).abs().max() < 1e-5

    def mean_of_each(context: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        own = [stub(z_lr[i : i + 1], context[i : i + 1]) for i in range(len(context))]
        return lambda x, t: torch.cat([one(x[i : i + 1], t[i : i + 1]) for i, one in enumerate(own)])

    positive, negative = mean_of_each(context), mean_of_each(arr("in:ss.smp.neg", (1, 3, 4)))
    states = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        states.append(x)
        eps = positive(x, t)
        if "guided" in file:
            eps = negative(x, t) + 2.5 * (eps - negative(x, t))
        return process.x_0(eps, x, t)

    noise = lambda k: arr(f"in:ss.{file}.n{k - 1}", (2, 4, 16, 16))[:batch]  # noqa: E731
    out = sample(x, denoise, process.step("ddpm"), t, noise)
    states = [*states[1:], out]
    for place, k in enumerate(seen):
        assert (states[k] - expected["steps"][place]).abs().max() < 3e-4
    assert (out - expected["out"]).abs().max() < 3e-4


def test_tiles_begin_where_the_released_ones_do():
    for length, starts in listed("tile_starts_64_32").items():
        assert tile_starts(int(length), 64, 32) == starts


def released_tiles(like: Tensor) -> Tiles:
    rows, columns = (
        gaussian_windows(side, 64, 32, middle, CPU) for side, middle in zip(like.shape[-2:], (32, 31.5), strict=True)
    )
    return Tiles(whole_plan(CPU), like, 1, passes=1, axes=(rows, columns))


def test_aggregation_of_a_prediction():
    x, z = (f * arr(f"in:ss.tile_96x128.{name}", (1, 4, 96, 128)) for f, name in ((1, "x"), (0.8, "z")))
    ramp = torch.linspace(-1, 1, 64)
    area = released_tiles(x)

    def predict(windows):
        place = 0.3 * ramp[None, :] + 0.5 * ramp[:, None] ** 2
        return torch.tanh(0.6 * area.cut(x, windows)) + 0.1 * area.cut(z, windows) * (1 + 0.0002 * 666) + place

    expected = golden("tile_96x128")["aggregate"]
    assert (area.blend(area.blank(4), predict) - expected).abs().max() < 1e-5


def test_sampling_in_tiles():
    process, expected, name = vp(), golden("canvas4_96x128"), "in:ss.canvas4_96x128"
    z = 0.8 * arr(f"{name}.z", (1, 4, 96, 128))
    t = repeated(timesteps_from(999, 4), 1, CPU)
    x = process.q_sample(z, t[:, 0], arr(f"{name}.start", z.shape))
    assert (x - expected["x_T"]).abs().max() < 1e-5
    area, context = released_tiles(z), arr("in:ss.smp.ctx1", (1, 3, 4))

    def denoise_in(windows):
        predict = stub(area.cut(z, windows), context)
        return lambda x, t: process.x_0(predict(x, t), x, t)

    out = sample(x, tiled(denoise_in, area), process.step("ddpm"), t, lambda k: arr(f"{name}.n{k - 1}", z.shape))
    assert (out - expected["out"]).abs().max() < 3e-4


@pytest.mark.parametrize("kind", ["adain", "wavelet"])
def test_colours(kind):
    content = 0.6 * arr("in:ss.c1.content", (2, 3, 48, 40)) + 0.1
    style = 0.3 * arr("in:ss.c1.style", (2, 3, 48, 40)) - 0.2
    fix = partial(COLOUR_FIXES[kind], scratch=Scratch(CPU))
    fixed = [
        2 * fix((one[None].clone() + 1) / 2, (like[None] + 1) / 2) - 1 for one, like in zip(content, style, strict=True)
    ]
    assert (torch.cat(fixed) - golden("colour_48x40")[kind]).abs().max() < 1e-5


def test_low_frequencies():
    content = 0.6 * arr("in:ss.c1.content", (2, 3, 48, 40)) + 0.1
    assert (_low_pass(content) - golden("colour_48x40")["content_low"]).abs().max() < 1e-5


def test_a_whole_restoration():
    from upsr.diffusion import sampling

    expected = golden("e2e_k4_128")
    u = 2 * arr("in:ss.e1.img", (1, 3, 128, 128), "uniform") - 1
    padded = nn.functional.pad(u, (2, 2, 2, 2), mode="reflect")
    image = (2 * nn.functional.avg_pool2d(padded, 5, stride=1)).clamp(-1, 1)
    own = method(4, scale=1, cfw={"w": 0.5})
    assert own.facts.canvas_size(128, 128) == (128, 128)
    draws = {0: 0, **{k: k + 1 for k in range(1, 9)}}  # the second draw of the released script is not used
    latents = []
    found = own.restore(
        (image + 1) / 2,
        lambda k: arr(f"in:ss.e1.n{draws[k]}", (1, 4, 16, 16)),
        watch=lambda seen: latents.append(seen),
    )
    assert [seen.name for seen in latents] == ["t=999", "t=666", "t=333", "t=0"]
    assert (found[..., ::2, ::2] - expected["final_sub"]).abs().max() < 1e-4
    z_lr = own.encode(image, arr("in:ss.e1.n0", (1, 4, 16, 16)))
    assert (z_lr - expected["z_lr"]).abs().max() < 1e-4
    t = sampling.repeated(own.timesteps, 1, CPU)
    latent = sample(
        arr("in:ss.e1.n2", (1, 4, 16, 16)),
        own.denoise_given(z_lr, own.contexts(own.sampling)),
        own.process.step("ddpm"),
        t,
        lambda k: arr(f"in:ss.e1.n{2 + k}", (1, 4, 16, 16)),
    )
    assert (latent - expected["latent"]).abs().max() < 1e-3
    with torch.no_grad():
        decoded = own.autoencoder.decode(latent, image, 0.5)
    assert (decoded[..., ::4, ::4] - expected["decoded_sub"]).abs().max() < 1e-4


def test_the_loss_of_stage_one():
    from upsr.methods.stablesr import convert
    from upsr.methods.stablesr.options import StableSRTrainOptions
    from upsr.methods.stablesr.training_sft import SFTTraining

    training = SFTTraining(method(4), StableSRTrainOptions(total_iter=1))
    training.context = arr("in:ss.l1.ctx", (1, 7, 48))
    z_gt, z_lr = (0.8 * arr(f"in:ss.l1.{name}", (2, 4, 16, 16)) for name in ("zgt", "zlr"))
    noise = arr("in:ss.l1.noise", (2, 4, 16, 16))
    training.requires_grad_(False)
    own = training.players["g"].network
    own.requires_grad_(True)
    prediction, target = training.prediction(z_gt, z_lr, torch.tensor([100, 700]), noise)
    loss = nn.functional.mse_loss(prediction, target)
    loss.backward()
    expected = golden("stage1_loss_eps")
    assert abs(loss - expected["loss"]) < 1e-5
    per_sample = (prediction - target).square().mean(dim=(1, 2, 3))
    assert (per_sample - expected["per_sample"]).abs().max() < 1e-5
    assert compare_gradients(own, convert.conditioning_weights, "tiny_keys", expected, 1e-6) == 5
    own.zero_grad()


def compare_gradients(
    own: nn.Module, converter: Callable, file: str, expected: dict[str, Tensor], within: float
) -> int:
    """Compare a network's gradients with those of released names, and return their number.

    Args:
        converter: says which parameter belongs to which released name of the key list ``file``.
    """
    names = {name: torch.full(value.shape, float(i)) for i, (name, value) in enumerate(released(file).items())}
    numbers = {float(i): name for i, name in enumerate(names)}
    mapped = converter(names, own.state_dict())
    compared = 0
    for name, parameter in own.named_parameters():
        key = f"grad:{numbers[float(mapped[name].flatten()[0])]}"
        if key in expected:
            part = expected[key]
            assert (parameter.grad.flatten()[: len(part)] - part).abs().max() < within
            compared += 1
    return compared


def test_the_losses_of_stage_two():
    from upsr.methods.stablesr import convert
    from upsr.methods.stablesr.options import StableSRTrainOptions
    from upsr.methods.stablesr.training_cfw import CFWTraining

    training = CFWTraining(method(4, scale=1), StableSRTrainOptions(total_iter=1))
    of_d = "loss.discriminator."
    weights = {name.removeprefix(of_d): value for name, value in released("tiny_cfw_keys").items() if of_d in name}
    own = training.discriminator.state_dict()
    # The released one has running statistics too, which its training does not use.
    assert {name for name in weights if not name.endswith(("running_mean", "running_var", "tracked"))} == own.keys()
    training.discriminator.load_state_dict({name: weights[name] for name in own})
    lq, gt = (arr(f"in:ss.s1.{name}", (1, 3, 64, 64), "uniform") for name in ("lq", "gt"))
    z_0 = 0.18215 * arr("in:ss.s1.lat", (1, 4, 8, 8))
    expected, cfw = golden("stage2_cfw_b1"), training.method.autoencoder.cfw
    gradients = {}
    for step, started in (("step0", 0.0), ("step600", 1.0)):
        batch = {"lq": lq, "gt": gt, "z_0": z_0, "iteration": torch.tensor([501 if started else 500])}
        losses = training("cfw", batch, [])
        losses["total"].backward()
        gradients[step] = next(cfw.parameters()).grad.clone()
        assert (batch["restored"][..., ::2, ::2] - expected["rec_sub"]).abs().max() < 1e-5
        assert abs(losses["total"] - expected[f"{step}:total_loss"]) < 1e-5
        assert abs(losses["l_pix"] - expected[f"{step}:rec_loss"]) < 1e-5
        assert abs(losses["l_gan"] - 0.025 * started * expected[f"{step}:g_loss"]) < 1e-6
        if started:
            assert compare_gradients(cfw, convert.cfw_weights, "tiny_cfw_keys", expected, 1e-7) == 3
        judged = training("d", batch, [])
        assert abs(judged["total"] - expected[f"{step}:disc_loss"]) < 1e-5
        for name in ("real", "fake"):
            assert abs(judged[name] - expected[f"{step}:logits_{name}"]) < 1e-5
        training.zero_grad()
    assert not torch.equal(gradients["step0"], gradients["step600"])
