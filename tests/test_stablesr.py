"""StableSR as it is used: counts, hooks, training of stage one from option files, restoring with knobs, tiles, saved folders."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests import tiny
from tests.golden_recipe import GOLDEN
from tests.processes import one_thread, trained_by_two
from tests.stablesr import tiny_backbone, tiny_options
from upsr.config.load import load_options, parse_options
from upsr.engine.distributed import Runtime
from upsr.engine.step import MicroBatch, TrainingStep
from upsr.engine.train_loop import train
from upsr.errors import UpsrError
from upsr.methods import Seen, build_method, build_training
from upsr.methods.stablesr.method import StableSR
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.restoring.restore import restore
from upsr.tiling.scratch import Scratch
from upsr.tiling.tiles import TilePlan

pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[sd]'")

CPU = Runtime(torch.device("cpu"))
FILES = Path(__file__).parents[1] / "options" / "stablesr"
single = pytest.fixture(autouse=True)(one_thread)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("stablesr")
    tiny.save_pictures(root / "photos", 3)
    return root


def options(root: Path, **changes: Any) -> Any:
    return parse_options(tiny_options(root, root / "photos", **changes), "test")


@pytest.fixture(scope="module")
def method(root) -> StableSR:
    own: Any = build_method(options(root))
    for part in ("conditioning", "cfw"):
        tiny.random_weights(own.parts()[part])
    return own.eval()


def restored(method: Any, lq: Tensor, **knobs: Any) -> Tensor:
    return restore(method.adjusted(**knobs), lq, seed=0, names=["a"])


def test_networks_of_full_size_have_the_published_numbers_of_parameters():
    from upsr.methods.stable_diffusion import published
    from upsr.methods.stablesr.cfw import CFW
    from upsr.methods.stablesr.encoder import TimeAwareEncoder
    from upsr.methods.stablesr.sft import sft_layers

    counts = json.loads((GOLDEN / "stablesr" / "counts.json").read_text())
    with torch.device("meta"):
        backbone = published()
        sft = sft_layers(backbone.unet, 256)
        networks = {
            "unet_without_sft": backbone.unet, "vae": backbone.vae, "sft": sft, "encoder": TimeAwareEncoder(),
            "cfw": CFW(backbone.vae.config.block_out_channels),
        }  # fmt: skip
    assert len(sft) == counts["n_sft"] == 22
    for name, network in networks.items():
        assert sum(p.numel() for p in network.parameters()) == counts[name], name


@pytest.mark.slow
def test_128_pixels_to_512_take_less_than_8_gib_in_float16():
    from benchmarks.stablesr_memory import counted

    weights, peak = counted(128, torch.float16)
    assert 2.1e9 < weights < peak < 8 << 30


@pytest.fixture(scope="module")
def hooked() -> tuple[nn.Module, tuple[Any, ...]]:
    """A U-Net of 22 residual blocks without normalisation of the branches, all heads zero, and inputs."""
    import diffusers

    from upsr.methods.stablesr.encoder import TimeAwareEncoder
    from upsr.methods.stablesr.sft import Conditioning, ModulatedUNet, sft_layers

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 32, 64, 64), layers_per_block=2, cross_attention_dim=32,
        attention_head_dim=(1, 1, 2, 2), use_linear_projection=True, norm_num_groups=8,
    ).eval().requires_grad_(False)  # fmt: skip
    layers = sft_layers(unet, 32, hidden_channels=8, norm="none")
    for layer in layers.values():
        for head in (layer.scale, layer.shift):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
    encoder = TimeAwareEncoder(4, 32, 32, num_res_blocks=1, norm_num_groups=8)
    z_lr, x, t = torch.randn(2, 4, 16, 24), torch.randn(2, 4, 16, 24), torch.tensor([999, 333])
    context = torch.randn(2, 7, 32)
    return ModulatedUNet(unet, Conditioning(encoder, layers)), (x, t, context, z_lr)


def output_of(denoiser: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    x, t, context, z_lr = inputs
    return denoiser(x, t, context, denoiser.conditioning.encoder(z_lr, t))


@torch.no_grad()
def test_a_u_net_under_layers_that_do_nothing_is_the_plain_one_to_the_bit(hooked):
    denoiser, inputs = hooked
    plain = copy.deepcopy(denoiser.unet)
    for module in plain.modules():
        module._forward_hooks.clear()
    expected = plain(*inputs[:3]).sample
    assert torch.equal(output_of(denoiser, inputs), expected)
    layers = denoiser.conditioning.sft
    assert len(layers) == 22
    for name, layer in layers.items():
        layer.shift.bias.fill_(0.1)
        assert not torch.equal(output_of(denoiser, inputs), expected), name
        layer.shift.bias.zero_()
    assert torch.equal(output_of(denoiser, inputs), expected)


@torch.no_grad()
def test_a_copy_has_hooks_of_its_own(hooked):
    denoiser, inputs = hooked
    expected = output_of(denoiser, inputs)
    other: Any = copy.deepcopy(denoiser)
    for layer in other.conditioning.sft.values():
        layer.shift.bias.fill_(0.1)
    assert not torch.equal(output_of(other, inputs), expected)
    assert torch.equal(output_of(denoiser, inputs), expected)


@pytest.mark.parametrize("part", ["conditioning", "unet", "vae", "cfw"])
def test_a_part_may_be_replaced_and_the_method_stays_as_it_is(method, part):
    lq = tiny.image(16, 16)
    expected = restored(method, lq)
    same, other = (copy.deepcopy(method.parts()[part]) for _ in range(2))
    # Weights at other addresses: on Zen 4 MKL's last bits depend on their alignment.
    torch.testing.assert_close(restored(method.replaced(part, same), lq), expected, atol=1e-5, rtol=0)
    other = method.replaced(part, tiny.random_weights(other, seed=3))
    assert not torch.equal(restored(other, lq), expected)
    assert torch.equal(restored(method, lq), expected)
    assert {id(p) for p in other.parameters()} & {id(p) for p in method.parameters()}


def gradients_of(training: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    training.zero_grad()
    training("g", dict(batch), [torch.Generator().manual_seed(i) for i in range(2)])["total"].backward()
    return [p.grad.clone() for p in training.players["g"].network.parameters()]


def test_only_encoder_and_sft_layers_get_gradients_checkpointed_or_not(root):
    training: Any = build_training(options(root)).train()
    batch = {"lq": torch.rand(2, 3, 16, 16), "gt": torch.rand(2, 3, 64, 64)}
    plain = gradients_of(training, batch)
    assert all(float(gradient.abs().max()) > 0 for gradient in plain)
    frozen = [*training.method.denoiser.unet.parameters(), *training.method.autoencoder.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    training.players["g"].network.activation_checkpointing = True
    again = gradients_of(training, batch)
    assert training.method.denoiser.unet.is_gradient_checkpointing
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_everything_but_encoder_and_sft_layers_stays_to_the_bit(root):
    opt = options(root)
    training: Any = build_training(opt).train()
    parts = training.method.parts()
    before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    step = TrainingStep(training, opt.train, CPU, seed=0)
    batch = {"lq": torch.rand(2, 3, 16, 16), "gt": torch.rand(2, 3, 64, 64)}
    for iteration in range(2):
        generators = [torch.Generator().manual_seed(2 * iteration + i) for i in range(2)]
        step(iteration, [MicroBatch(dict(batch), generators, ["a", "b"], [0, 1])], lambda: None)
    for name, state in before.items():
        equal = [torch.equal(value, parts[name].state_dict()[key]) for key, value in state.items()]
        assert not any(equal) if name == "conditioning" else all(equal), name


def test_broken_and_chosen_samples_see_the_ground_truth(root):
    training: Any = build_training(options(root, train={"no_degradation_prob": 0.5}))
    gt = torch.ones(64, 3, 8, 8)
    x_lr = torch.zeros_like(gt)
    x_lr[3, 0, 2, 2] = torch.nan
    seen = training.sometimes_sharp(x_lr, gt, [torch.Generator().manual_seed(i) for i in range(64)])
    assert torch.equal(seen[3], gt[3])
    share = float(seen.mean())
    assert 0.3 < share < 0.7
    assert set(seen.unique().tolist()) == {0, 1}


def shipped(root: Path, iterations: int, *more: str) -> Any:
    """tiny_sft.yml with photos of the test."""
    own = [
        "num_gpu=0", f"datasets:train:dataroot_gt={root / 'photos'}", "datasets:train:gt_size=64",
        f"path:experiments_root={root / 'runs'}", f"train:total_iter={iterations}", "logger:print_freq=1",
        "logger:save_checkpoint_freq=1000", *more,
    ]  # fmt: skip
    return load_options(FILES / "tiny_sft.yml", own)


@pytest.mark.slow
def test_stage_one_trains_from_its_option_file(root):
    opt = shipped(root, 60, "datasets:train:batch_size_per_gpu=2")
    before: Any = build_training(opt).method
    folder = train(opt, CPU)
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    losses = [float(value) for _, tag, value in lines if tag == "losses/total"]
    assert len(losses) == 60
    assert sum(losses[-20:]) < FALL * sum(losses[:20])
    state = torch.load(folder / "training_states" / "60.state", weights_only=True)
    assert state["players"].keys() == {"g"}
    own = before.conditioning.state_dict()
    for kind in ("params", "params_ema"):
        assert state["players"]["g"][kind].keys() == own.keys()
    after: Any = UPSRPipeline.from_pretrained(folder).method
    assert torch.equal(
        after.conditioning.encoder.conv_in.weight, state["players"]["g"]["params_ema"]["encoder.conv_in.weight"]
    )
    assert not torch.equal(own["encoder.conv_in.weight"], after.conditioning.encoder.conv_in.weight)


FALL = 0.9
"""Of the mean loss of the first 20 iterations, 40 later."""


@pytest.mark.slow
def test_two_processes_train_what_one_does(root):
    settings = tiny_options(
        root, root / "photos", train={"total_iter": 3, "warmup_iter": 0, "optim_g": {"lr": 1e-3, "eps": 1e-2}},
        datasets={"train": {"batch_size_per_gpu": 4, "gt_size": 128}}, cfw=None,
    )  # fmt: skip
    one = train(parse_options({**settings, "name": "one"}, "test"), CPU)
    settings["datasets"]["train"]["batch_size_per_gpu"] = 2
    two = trained_by_two({**settings, "name": "two"})
    a, b = (torch.load(f / "training_states" / "3.state", weights_only=True)["players"]["g"] for f in (one, two))
    assert max(float((a["params"][n] - b["params"][n]).abs().max()) for n in a["params"]) < 1e-5


@pytest.mark.parametrize(
    "knobs",
    [
        {"steps": 3}, {"guidance": 2.5}, {"guidance": 2.5, "negative_prompt": "Bad photo."}, {"start": "noise"}, {"w": 1},
        {"sampler": "ddim"}, {"latent": "mode"}, {"colour": "wavelet"}, {"scale": 3},
    ],
)  # fmt: skip
def test_each_knob_changes_the_result(method, knobs):
    lq = tiny.image(20, 16)
    plain, other = restored(method, lq), restored(method, lq, **knobs)
    size = (60, 48) if "scale" in knobs else (80, 64)
    assert other.shape[-2:] == size
    assert other.isfinite().all()
    assert "scale" in knobs or not torch.equal(plain, other)


def test_knobs_that_change_nothing_change_nothing(method):
    lq = tiny.image(16, 16)
    plain = restored(method, lq)
    assert torch.equal(restored(method, lq, guidance=1, negative_prompt="Bad photo."), plain)
    assert torch.equal(restored(method, lq, start="noise"), plain)
    ddim = method.adjusted(sampler="ddim")
    assert torch.equal(restored(ddim, lq, eta=0), restored(ddim, lq))
    with pytest.raises(UpsrError, match=r"^eta: it is a setting of ddim"):
        method.adjusted(eta=0.5)


def test_without_guidance_there_is_one_pass_a_step(method, monkeypatch):
    calls = []
    forward = type(method.denoiser).forward
    monkeypatch.setattr(type(method.denoiser), "forward", lambda *args: (calls.append(1), forward(*args))[1])
    restored(method, tiny.image(16, 16), steps=3)
    assert len(calls) == 3
    restored(method, tiny.image(16, 16), steps=3, guidance=2)
    assert len(calls) == 3 + 6


def test_small_images_are_enlarged_to_the_networks_size_and_larger_ones_tiled(method):
    assert method.facts.canvas_size(8, 8) == (64, 64)
    assert method.facts.enlarged_size(8, 16) == (64, 128)
    assert method.facts.canvas_size(17, 24) == (96, 96)
    seen: list[Seen] = []
    out = restore(method, tiny.image(8, 16), seed=0, names=["a"], watch=seen.append)
    assert out.shape[-2:] == (32, 64)
    assert [item.name for item in seen] == ["t=999", "t=0"]
    assert torch.equal(seen[-1].image, out)


def test_one_tile_is_the_whole_and_many_are_near_it(root):
    lq = tiny.image(24, 20)
    whole = build_method(options(root, aggregation=None, autoencoder_tile=None)).eval()
    large = build_method(options(root, aggregation={"size": 16, "overlap": 4})).eval()
    # A latent of 12 x 12 in one tile of at most 16.
    assert (restored(large, lq, start="noise") - restored(whole, lq, start="noise")).abs().max() < 1e-5
    tiled = build_method(options(root)).eval()
    difference = restored(tiled, lq, start="noise") - restored(whole, lq, start="noise")
    assert 0 < float(difference.abs().mean()) < 0.1


def test_images_are_coded_in_tiles_with_the_features_of_their_windows(method):
    from dataclasses import replace

    from upsr.methods.options import AutoencoderTileOptions

    small = AutoencoderTileOptions(size=64, overlap=32)
    tiles = method._with(sampling=replace(method.sampling, tiling=replace(method.sampling.tiling, autoencoder=small)))
    lq = tiny.image(32, 16)
    out, whole = restored(tiles, lq, w=1), restored(method, lq, w=1)
    assert 0 < float((out - whole).abs().mean()) < 0.1


def test_progress_counts_all_tiles_once(method):
    told: list[tuple[int, int]] = []
    plan = TilePlan(None, Scratch(torch.device("cpu")), progress=lambda done, total: told.append((done, total)))
    lq = tiny.image(24, 16)
    height, width = (side // 8 for side in method.facts.canvas_size(24, 16))
    method.restore(lq, lambda k: torch.randn(1, 4, height, width), tiles=plan)
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert {total for _, total in told} == {len(told)}


def test_half_precision_is_near(method):
    lq = tiny.image(16, 16)
    for dtype in (torch.bfloat16, torch.float16):
        lower = method.for_inference(dtype)
        assert lower.denoiser.unet.dtype == dtype == lower.autoencoder.vae.dtype
        assert (restored(lower, lq) - restored(method, lq)).abs().mean() < 0.03
    assert method.denoiser.unet.dtype == torch.float32
    with pytest.raises(UpsrError, match="int8"):
        method.for_inference(torch.int8)


def test_a_saved_pipeline_needs_neither_the_folder_nor_the_text_tower(method, root, tmp_path):
    lq = tiny.image(16, 16)
    first = restored(method, lq)
    config = {"_class_name": "UPSRPipeline", **options(root).model_dump(mode="json")}
    config = {key: config[key] for key in ("_class_name", *options(root).of_method()) if key in config}
    UPSRPipeline(method, config, "cpu").save_pretrained(tmp_path / "saved")
    import shutil

    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(tmp_path / "saved" / "backbone" / part)
    again: Any = UPSRPipeline.from_pretrained(tmp_path / "saved", device="cpu", dtype="float32")
    assert torch.equal(restored(again.method, lq), first)
    with pytest.raises(UpsrError, match=r"no folder (tokenizer|text_encoder), which a new prompt needs"):
        again.method.adjusted(prompt="a red barn")


def test_prompts_are_embedded_by_the_text_tower_once(root, monkeypatch):
    import transformers

    from upsr.methods.prompts import Prompts

    prompts = Prompts(tiny_backbone(root / "sd"), 32)
    first = prompts["Good photo."]
    assert first.shape == (1, 77, 32)
    monkeypatch.setattr(transformers.CLIPTextModel, "from_pretrained", lambda *_, **__: pytest.fail("loaded again"))
    assert torch.equal(prompts["Good photo."], first)
    prompts.save(root, ["Good photo."])
    assert torch.equal(Prompts(root, 32)["Good photo."], first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "nowhere"}, "nowhere: no such folder"),
        ({"encoder": {"channel_mult": [1, 1, 2]}}, "encoder.channel_mult: 3 levels, but the U-Net has 4"),
        ({"aggregation": {"overlap": 8}}, "aggregation.overlap: 8 cells, but a tile has 8"),
        ({"cfw": {"levels": [3]}}, "cfw.levels: 3, but the autoencoder's are 0 to 2"),
        ({"backbone": None, "path": {"allow_random_weights": False}}, "backbone: StableSR needs Stable Diffusion"),
    ],
)
def test_what_does_not_fit_is_refused(root, changes, message):
    with pytest.raises(UpsrError, match=message):
        build_method(options(root, **changes))


def test_stablesr_says_what_to_install_where_diffusers_is_not(root, monkeypatch, capsys):
    from upsr.cli import main

    monkeypatch.setitem(sys.modules, "diffusers", None)
    file = root / "stablesr.yml"
    data = {"name": "x", "method": "stablesr", "datasets": {}, "random_backbone": "tiny"}
    file.write_text(json.dumps({**data, "path": {"allow_random_weights": True}}))
    tiny.save_pictures(root / "one", 1)
    assert main(["upscale", str(root / "one"), "-o", str(root / "out"), "--weights", str(file)]) == 2
    assert capsys.readouterr().err.strip().endswith("this network needs diffusers: pip install 'upsr[sd]'")
    assert main(["options", "list"]) == 0
    assert main(["upscale", str(root / "one"), "-o", str(root / "out")]) == 0


def test_the_command_takes_texts_and_its_own_colour_fix(root, tmp_path):
    from upsr.cli import main

    file = root / "knobs.yml"
    data = tiny_options(root, root / "photos", datasets=None)
    file.write_text(json.dumps({**data, "datasets": {}}))
    Image.fromarray(tiny.picture(16, 16, 0)).save(tmp_path / "a.png")

    def made(*more: str) -> bytes:
        given = [
            "upscale",
            str(tmp_path / "a.png"),
            "-o",
            str(tmp_path / "b.png"),
            "--weights",
            str(file),
            "--overwrite",
        ]
        assert main([*given, *more]) == 0
        return (tmp_path / "b.png").read_bytes()

    guided = ["--knob", "guidance=3"]
    results = [
        made(), made("--colour-fix", "none"), made("--colour-fix", "wavelet"), made(*guided),
        made(*guided, "--knob", "prompt=Good photo."), made("--steps", "3"),
    ]  # fmt: skip
    assert len(set(results)) == len(results)
    assert made("--knob", "colour=wavelet") == results[2]


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ("guidance=much", "--knob: guidance=much; give a number: guidance to the prompt"),
        ("start=middle", "start is 'middle'; give auto or noise or noised_lr: first state"),
        ("w", "--knob: w; give NAME=VALUE"),
        ("w=2", "w is 2; give 0 to 1"),
        ("steps=3", "--knob: steps=3; --steps is given too"),
    ],
)
def test_wrong_knobs_are_refused_in_one_line(root, tmp_path, capsys, knob, message):
    from upsr.cli import main

    file = root / "wrong.yml"
    data = tiny_options(root, root / "photos", datasets=None)
    file.write_text(json.dumps({**data, "datasets": {}}))
    Image.fromarray(tiny.picture(16, 16, 0)).save(tmp_path / "a.png")
    arguments = ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--weights", str(file)]
    assert main([*arguments, "--steps", "2", "--knob", knob]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "b.png").exists()


def test_a_folder_of_stable_diffusion_goes_with_the_trained_networks(method, root, tmp_path):
    from safetensors.torch import save_file

    files = {}
    for part in ("conditioning", "cfw"):
        files[part] = tmp_path / f"{part}.safetensors"
        save_file({name: value.contiguous() for name, value in method.parts()[part].state_dict().items()}, files[part])
    folder = tiny_backbone(root / "sd")
    with pytest.raises(UpsrError, match="Stable Diffusion alone restores no photos"):
        UPSRPipeline.from_pretrained(folder)
    # The networks' sizes are those of the released ones unless an option file says so.
    with pytest.raises(UpsrError, match=r"conditioning.safetensors: the weights .* are not those of this Conditioning"):
        UPSRPipeline.from_pretrained(folder, parts=files)
    torch.save({"state_dict": {"structcond_stage_model.a": torch.zeros(1)}}, tmp_path / "stablesr.ckpt")
    with pytest.raises(UpsrError, match=r"stablesr.ckpt: .* upsr convert stablesr"):
        UPSRPipeline.from_pretrained(tmp_path / "stablesr.ckpt")


def test_of_many_steps_eight_estimates_are_shown_and_counted(method):
    seen: list[str] = []
    told: list[tuple[int, int]] = []
    plan = TilePlan(None, Scratch(torch.device("cpu")), progress=lambda done, total: told.append((done, total)))
    own = method.adjusted(steps=20)
    own.restore(
        tiny.image(16, 16), lambda k: torch.randn(1, 4, 8, 8), tiles=plan, watch=lambda item: seen.append(item.name)
    )
    assert len(seen) == 8
    assert (seen[0], seen[-1]) == ("t=999", "t=0")
    assert told[-1] == (len(told), len(told))


def test_a_pipeline_saved_into_its_own_folder_stays_as_it_is(method, root, tmp_path):
    config = options(root).model_dump(mode="json")
    config = {"_class_name": "UPSRPipeline", **{key: config[key] for key in options(root).of_method() if key in config}}
    UPSRPipeline(method, config, "cpu").save_pretrained(tmp_path / "saved")
    again: Any = UPSRPipeline.from_pretrained(tmp_path / "saved", device="cpu", dtype="float32")
    first = restored(again.method, tiny.image(16, 16))
    again.save_pretrained(tmp_path / "saved")
    again = UPSRPipeline.from_pretrained(tmp_path / "saved", device="cpu", dtype="float32")
    assert torch.equal(restored(again.method, tiny.image(16, 16)), first)
    (tmp_path / "saved" / "backbone" / "prompts.safetensors").write_bytes(b"damaged")
    with pytest.raises(UpsrError, match=r"prompts.safetensors: not readable"):
        UPSRPipeline.from_pretrained(tmp_path / "saved", device="cpu")


def test_prompts_of_visitors_are_not_kept(root):
    from upsr.methods.prompts import Prompts

    prompts = Prompts(tiny_backbone(root / "sd"), 32)
    for i in range(40):
        prompts._recent[str(i)] = torch.zeros(1, 77, 32)
        prompts[f"prompt {i}"]
    assert len(prompts._recent) <= 33
    prompts.save(root, ["prompt 39"])
    assert set(Prompts(root, 32)._known) == {"prompt 39"}


def test_compiling_is_refused(root):
    with pytest.raises(UpsrError, match="compile: the trained layers work inside the networks of diffusers"):
        options(root, train={"compile": "default"})
