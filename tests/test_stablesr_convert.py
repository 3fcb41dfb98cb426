"""Released checkpoints of StableSR in this layout: tiny ones with synthetic weights under the released names."""

from __future__ import annotations

import builtins
import contextlib
import functools
import json
import re
import shutil
import sys
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.golden_recipe import fill, key_shapes
from tests.processes import Fork
from tests.stablesr import SCHEDULER, tiny_backbone
from tests.test_cli import ended
from upsr.methods import stable_diffusion
from upsr.methods.prompts import PAPER
from upsr.methods.saved import write_weights
from upsr.methods.stablesr import convert, convert_command, networks, released
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.provenance import file_digest

UNET = {
    "sample_size": 16,
    "block_out_channels": (32, 64, 128, 128),
    "attention_head_dim": (2, 4, 8, 8),
    "cross_attention_dim": 48,
    "use_linear_projection": True,
}
VAE = {
    "block_out_channels": (32, 64, 128, 128),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
TEXT = {
    "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 0,
    "vocab_size": 514, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[sd]'")


@functools.cache
def _filled(file: str) -> dict[str, Tensor]:
    names = key_shapes(f"stablesr/{file}.json")
    return {name: fill(name.removeprefix(convert.VAE), tuple(shape)) for name, shape in names.items()}


def weights_of(file: str) -> dict[str, Tensor]:
    """A checkpoint's weights, in a dictionary to be changed."""
    return dict(_filled(file))


def text_weights() -> dict[str, Tensor]:
    """OpenCLIP's text tower as it is named in a checkpoint: one layer more than is used, and what no embedding needs."""
    width, hidden, layers = TEXT["hidden_size"], TEXT["intermediate_size"], TEXT["num_hidden_layers"]
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (77, width), "text_projection": (width, width), "logit_scale": (1,),
        "token_embedding.weight": (TEXT["vocab_size"], width), "ln_final.weight": (width,), "ln_final.bias": (width,),
    }  # fmt: skip
    for layer in range(layers + 1):
        block = {
            "ln_1": (width,), "ln_2": (width,), "attn.in_proj": (3 * width, width), "attn.out_proj": (width, width),
            "mlp.c_fc": (hidden, width), "mlp.c_proj": (width, hidden),
        }  # fmt: skip
        for name, shape in block.items():
            dot = "_" if name.endswith("in_proj") else "."
            shapes[f"transformer.resblocks.{layer}.{name}{dot}weight"] = shape
            shapes[f"transformer.resblocks.{layer}.{name}{dot}bias"] = shape[:1]
    return {name: fill(name, shape) for n, shape in shapes.items() for name in [f"cond_stage_model.model.{n}"]}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_unet_and_autoencoder_are_converted_as_diffusers_does(diffusers):
    library = pytest.importorskip("diffusers.loaders.single_file_utils")
    weights = weights_of("tiny_keys")
    unet, vae = diffusers.UNet2DConditionModel(**UNET), diffusers.AutoencoderKL(**VAE)
    plain = {name: value for name, value in weights.items() if ".spade." not in name}
    converted = convert.unet_weights(weights, unet.state_dict())
    assert same(converted, library.convert_ldm_unet_checkpoint(plain, unet.config))
    unet.load_state_dict(converted)
    converted = convert.vae_weights(weights, vae.state_dict())
    assert same(converted, library.convert_ldm_vae_checkpoint(plain, vae.config))
    assert same(converted, convert.vae_weights(weights_of("tiny_cfw_keys"), vae.state_dict(), ""))
    vae.load_state_dict(converted)


def test_blocks_are_counted_by_the_layers_of_a_level(diffusers):
    """With one layer or three a level as with two, and with attention elsewhere."""
    library = pytest.importorskip("diffusers.loaders.single_file_utils")
    for layers, attentive in ((1, (False, True, True)), (3, (True, False, False))):
        kinds = [("CrossAttn" if is_one else "") for is_one in attentive]
        unet = diffusers.UNet2DConditionModel(
            **{**UNET, "block_out_channels": (32, 32, 64), "attention_head_dim": 2},
            layers_per_block=layers,
            down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
            up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
        )
        own = unet.state_dict()
        names = [convert.UNET + name for name in convert._in_ldm_unet(own, {"resnets": convert._RESIDUAL})]
        weights = dict(zip(names, own.values(), strict=True))
        assert len(weights) == len(own)
        assert same(library.convert_ldm_unet_checkpoint(weights, unet.config), dict(own))


def test_the_text_tower_is_converted_as_diffusers_does(diffusers):
    library = pytest.importorskip("diffusers.loaders.single_file_utils")
    transformers = pytest.importorskip("transformers", reason="needs the extra: pip install 'upsr[sd]'")
    tower = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT))
    weights = text_weights()
    expected = library.convert_open_clip_checkpoint(tower, weights)
    bare = {name.removeprefix("text_model."): value for name, value in expected.items()}
    converted = convert.text_weights(weights, tower.state_dict())
    for name, value in converted.items():
        assert torch.equal(value, bare[name.removeprefix("text_model.")]), name
    tower.load_state_dict(converted)


def test_what_is_missing_or_misshapen_is_named_as_in_the_file(diffusers):
    vae = diffusers.AutoencoderKL(**VAE)
    weights = weights_of("tiny_cfw_keys")
    gone = ["quant_conv.bias", "decoder.up.0.block.2.conv1.weight"]
    short = {name: value for name, value in weights.items() if name not in gone}
    with pytest.raises(convert.MisfitError, match=re.escape("missing tensors (2): ")) as error:
        convert.vae_weights(short, vae.state_dict(), "")
    assert all(name in str(error.value) for name in gone)
    weights["decoder.conv_in.bias"] = torch.zeros(7)
    with pytest.raises(convert.MisfitError, match=re.escape("decoder.conv_in.bias (7,) for (128,)")):
        convert.vae_weights(weights, vae.state_dict(), "")


LIGHTNING = "pytorch_lightning.callbacks.model_checkpoint"


@pytest.fixture(scope="module")
def place(diffusers, tmp_path_factory) -> Path:
    """Checkpoints of both stages and an option file that describes their networks."""
    transformers = pytest.importorskip("transformers", reason="needs the extra: pip install 'upsr[sd]'")
    folder = tmp_path_factory.mktemp("released")
    for name, network in (("unet", diffusers.UNet2DConditionModel(**UNET)), ("vae", diffusers.AutoencoderKL(**VAE))):
        network.save_config(str(folder / "sizes" / name))
    diffusers.DDIMScheduler(**SCHEDULER).save_config(str(folder / "sizes/scheduler"))
    transformers.CLIPTextConfig(**TEXT).save_pretrained(str(folder / "sizes/text_encoder"))
    options = {
        "method": "stablesr", "backbone": str(folder / "sizes"), "sampler": {"steps": 2},
        "encoder": {"model_channels": 32, "out_channels": 32},
    }  # fmt: skip
    (folder / "tiny.yml").write_text(yaml.safe_dump(options))
    save(folder / "one.ckpt", weights_of("tiny_keys") | text_weights() | {"betas": torch.ones(1000)})
    save(folder / "two.ckpt", weights_of("tiny_cfw_keys"))
    return folder


def save(file: Path, weights: Mapping[str, Tensor], **beside: Any) -> Path:
    torch.save({"state_dict": dict(weights), "global_step": 117, "epoch": 1, **beside}, file)
    return file


def run(
    place: Path, out: Path, *arguments: Any, one: str | Path = "one.ckpt", two: str | Path | None = "two.ckpt"
) -> Any:
    files = [place / file for file in (one, two) if file is not None]
    return ended(*map(str, ("convert", "stablesr", *files, "--opt", place / "tiny.yml", "-o", out, *arguments)))


@pytest.fixture(scope="module")
def converted(place) -> Path:
    """The folder of both checkpoints; what was printed is in the file ``printed`` beside it."""
    with (place / "printed").open("w") as file, contextlib.redirect_stdout(file):
        assert run(place, place / "converted" / "sr") == 0
    return place / "converted" / "sr"


def test_whole_checkpoints_become_a_saved_pipeline(place, converted):
    printed = (place / "printed").read_text()
    assert f"{place / 'one.ckpt'}: left out: cond_stage_model (14), betas\n" in printed
    assert f"{place / 'two.ckpt'}: left out: encoder (106), decoder (138), loss (23), " in printed
    assert [entry.name for entry in converted.parent.iterdir()] == ["sr"]

    pipe = UPSRPipeline.from_pretrained(converted)
    one, two = weights_of("tiny_keys"), weights_of("tiny_cfw_keys")
    parts = pipe.method.parts()
    for name, read, weights in (
        ("unet", convert.unet_weights, one), ("vae", convert.vae_weights, one),
        ("conditioning", convert.conditioning_weights, one), ("cfw", convert.cfw_weights, two),
    ):  # fmt: skip
        own = parts[name].state_dict()
        assert same(dict(own), read(weights, own)), name
    photo = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    assert pipe(photo).images[0].size == (96, 64)


def test_what_is_missing_in_either_file_is_named_and_nothing_is_written(place, tmp_path, capsys):
    one, two = weights_of("tiny_keys") | text_weights(), weights_of("tiny_cfw_keys")
    gone = [
        "model.diffusion_model.out.2.bias", "model.diffusion_model.input_blocks.10.0.emb_layers.1.weight",
        "model.diffusion_model.middle_block.2.spade.mlp_beta.bias", "first_stage_model.quant_conv.bias",
        "structcond_stage_model.fea_tran.3.in_layers.0.weight", "structcond_stage_model.middle_block.1.qkv.weight",
        "cond_stage_model.model.positional_embedding", "decoder.fusion_layer_2.encode_enc_2.1.rdb3.conv5.bias",
    ]  # fmt: skip
    for name in gone:
        del (one if name in one else two)[name]
    save(tmp_path / "one.ckpt", one)
    save(tmp_path / "two.ckpt", two)
    before = sorted(tmp_path.iterdir())
    assert run(place, tmp_path / "sr", one=tmp_path / "one.ckpt", two=tmp_path / "two.ckpt") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert [name for name in gone if name not in error] == []
    assert "one.ckpt: " in error
    assert "two.ckpt: missing tensors (1): decoder.fusion_layer_2" in error
    assert sorted(tmp_path.iterdir()) == before


def test_tensors_that_the_networks_do_not_have_are_refused(place, tmp_path, capsys):
    """The blocks of a larger network would be lost."""
    more = {"decoder.fusion_layer_3.encode_enc_1.norm1.bias": torch.ones(3)}
    save(tmp_path / "two.ckpt", weights_of("tiny_cfw_keys") | more)
    assert run(place, tmp_path / "sr", two=tmp_path / "two.ckpt") == 2
    assert "unknown tensors (1): decoder.fusion_layer_3.encode_enc_1.norm1.bias" in capsys.readouterr().err


@pytest.fixture
def lightning(monkeypatch) -> type:
    """Lightning's class, while it is installed."""
    kind = type("ModelCheckpoint", (), {"__module__": LIGHTNING})
    module = types.ModuleType(LIGHTNING)
    module.ModelCheckpoint = kind
    monkeypatch.setitem(sys.modules, LIGHTNING, module)
    for parent in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    return kind


def test_records_of_lightning_are_read_past(place, lightning, monkeypatch, tmp_path):
    record = {"monitor": "val/loss", "best_model_score": np.float64(0.25), "best_model_path": "last.ckpt"}
    made = lightning()
    made.state = record
    callbacks = {lightning: record, "of an object": made}
    save(tmp_path / "one.ckpt", weights_of("tiny_keys") | text_weights(), callbacks=callbacks, optimizer_states=[{}])
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", LIGHTNING):
        monkeypatch.setitem(sys.modules, name, None)
    assert run(place, tmp_path / "sr", one=tmp_path / "one.ckpt") == 0
    assert (tmp_path / "sr/config.json").is_file()


class Trap:
    """Unpickles to a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("trap", "named"),
    [
        (lambda path: Trap(__import__("os").system, f"touch {path}"), "posix.system"),
        (lambda path: Trap(builtins.eval, f"open({str(path)!r}, 'w')"), "eval"),
        (lambda path: Trap(Path(path).touch), "getattr"),
        (lambda path: Trap(torch.save, 1, str(path)), "torch.serialization.save"),
    ],
)
@pytest.mark.parametrize("key", ["callbacks", "state_dict"])
def test_what_a_checkpoint_would_run_is_refused_and_not_run(place, tmp_path, capsys, trap, named, key):
    ran = tmp_path / "ran"
    torch.save(
        {"state_dict": {"model.diffusion_model.out.2.bias": torch.ones(4)}, key: trap(ran)}, tmp_path / "one.ckpt"
    )
    assert run(place, tmp_path / "sr", one=tmp_path / "one.ckpt") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{tmp_path / 'one.ckpt'}: holds more than tensors and plain values ({named}" in error
    assert "weights_only" not in error
    assert not ran.exists()
    assert not (tmp_path / "sr").exists()


def test_a_file_by_the_name_of_a_released_one_has_its_sha256(place, tmp_path, capsys):
    shutil.copy(place / "one.ckpt", tmp_path / "stablesr_turbo.ckpt")
    arguments = ("convert", "stablesr", str(tmp_path / "stablesr_turbo.ckpt"), "-o", str(tmp_path / "sr"))
    assert ended(*arguments) == 2
    error = capsys.readouterr().err
    assert "not the released file of this name (sha256 " in error
    assert "3615aa00dcab2868" in error
    args = types.SimpleNamespace(
        variant=None, opt=place / "tiny.yml", checkpoint=tmp_path / "stablesr_turbo.ckpt", cfw=None
    )
    assert convert_command._variant(args) == released.Variant(), "of one's own, by --opt"


@pytest.fixture
def small_by_default(monkeypatch):
    """Networks of the tiny checkpoints in the place of Stable Diffusion 2.1's."""
    encoder, layers = networks.TimeAwareEncoder, networks.sft_layers
    sizes = {"_UNET": UNET, "_VAE": VAE, "_TEXT_ENCODER": TEXT}
    for name, value in sizes.items():
        monkeypatch.setattr(stable_diffusion, name, value)
    monkeypatch.setattr(networks, "TimeAwareEncoder", lambda channels, **_: encoder(channels, 32, 32))
    monkeypatch.setattr(networks, "sft_layers", lambda unet, _, **arguments: layers(unet, 32, **arguments))
    for what in ("_write", "_write_prompts"):  # only descriptions are looked at
        monkeypatch.setattr(convert_command, what, lambda *_: None)


@pytest.mark.parametrize(
    ("variant", "prediction", "size", "steps"),
    [("512", "epsilon", 64, 200), ("768v", "v_prediction", 96, 200), ("turbo", "epsilon", 64, 4)],
)
def test_released_files_are_known_by_their_content(
    place, small_by_default, tmp_path, monkeypatch, capsys, variant, prediction, size, steps
):
    monkeypatch.setitem(released.RELEASED, "a.ckpt", (variant, file_digest(place / "one.ckpt")))
    assert ended("convert", "stablesr", str(place / "one.ckpt"), "-o", str(tmp_path / "sr")) == 0
    assert "not a released file" not in capsys.readouterr().out
    config, unet, scheduler = (
        json.loads((tmp_path / "sr" / file).read_text())
        for file in ("config.json", "backbone/unet/config.json", "backbone/scheduler/scheduler_config.json")
    )
    assert (config["sampler"]["steps"], config["cfw"], config["backbone"]) == (steps, None, "backbone")
    assert (unet["sample_size"], scheduler["prediction_type"]) == (size, prediction)


def test_a_file_of_one_s_own_training_is_said_to_be_unknown(place, small_by_default, tmp_path, capsys):
    files = [str(place / "one.ckpt"), str(place / "two.ckpt")]
    assert ended("convert", "stablesr", *files, "-o", str(tmp_path / "plain")) == 0
    assert capsys.readouterr().out.count("not a released file") == 2
    assert ended("convert", "stablesr", *files, "--variant", "768v", "-o", str(tmp_path / "v")) == 0
    assert "not a released file" not in capsys.readouterr().out
    [plain, v] = [
        json.loads((tmp_path / name / "backbone/scheduler/scheduler_config.json").read_text())
        for name in ("plain", "v")
    ]
    assert (plain["prediction_type"], v["prediction_type"]) == ("epsilon", "v_prediction")


def test_weights_are_written_in_another_type_and_without_stage_two_there_is_no_cfw(place, tmp_path):
    assert run(place, tmp_path / "sr", "--dtype", "float16", two=None) == 0
    files = {file.name: load_file(file) for file in (tmp_path / "sr").rglob("*.safetensors")}
    kinds = {name: {value.dtype for value in weights.values()} for name, weights in files.items()}
    assert kinds.pop("prompts.safetensors") == {torch.float32}
    assert kinds == {
        name: {torch.float16}
        for name in ("diffusion_pytorch_model.safetensors", "model.safetensors", "conditioning.safetensors")
    }
    assert "cfw" not in UPSRPipeline.from_pretrained(tmp_path / "sr").method.parts()


def test_files_of_the_wrong_stage_or_of_neither_are_named(place, tmp_path, capsys):
    save(tmp_path / "other.ckpt", {"a": torch.ones(2)})
    (tmp_path / "text.ckpt").write_text("not found")
    torch.save({"state_dict": 3}, tmp_path / "no.ckpt")
    for one, words in (
        (place / "two.ckpt", "not a checkpoint of stage one: none of its "),
        (tmp_path / "other.ckpt", "none of its 1 tensors is model.diffusion_model.*"),
        (tmp_path / "text.ckpt", "not a readable weight file"),
        (tmp_path / "no.ckpt", "no state dict"),
        (tmp_path / "absent.ckpt", "no such"),
    ):
        assert run(place, tmp_path / "sr", one=one) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert words in error
        assert str(one) in error
    assert ended("convert", "stablesr", str(tmp_path / "absent.ckpt"), "-o", str(tmp_path / "sr")) == 2
    assert "absent.ckpt: no such" in capsys.readouterr().err
    assert run(place, tmp_path / "sr", two="one.ckpt") == 2
    assert "one.ckpt: not a checkpoint of stage two" in capsys.readouterr().err


def test_a_tower_from_elsewhere_embeds_where_the_file_has_none(place, converted, tmp_path, capsys):
    bare = save(tmp_path / "bare.ckpt", weights_of("tiny_keys"))
    assert run(place, tmp_path / "sr", one=bare, two=None) == 2
    assert "holds no text tower (cond_stage_model.*), which embeds the prompt; give --text" in capsys.readouterr().err
    tower, prompts = converted / "backbone/text_encoder", converted / "backbone/prompts.safetensors"
    for name, text in (("tower", tower), ("prompts", prompts)):
        assert run(place, tmp_path / name, "--text", text, one=bare, two=None) == 0
        assert same(load_file(tmp_path / name / "backbone/prompts.safetensors"), load_file(prompts))
        assert (tmp_path / name / "backbone/text_encoder").is_dir() == (name == "tower")
    UPSRPipeline.from_pretrained(tmp_path / "prompts")
    assert run(place, tmp_path / "sr", "--text", tower) == 2
    assert "holds a text tower of its own" in capsys.readouterr().err
    save_file({"": torch.zeros(1, 77, 32)}, tmp_path / "narrow.safetensors")
    assert run(place, tmp_path / "sr", "--text", tmp_path / "narrow.safetensors", one=bare, two=None) == 2
    assert "its embeddings are 32 wide, but the U-Net takes 48" in capsys.readouterr().err


def test_the_empty_prompt_needs_no_tokenizer_and_the_others_of_the_paper_are_kept_with_one(place, converted, tmp_path):
    backbone = tiny_backbone(tmp_path / "sd")
    assert run(place, tmp_path / "more", "--tokenizer", backbone, two=None) == 0
    plain, more = (load_file(folder / "backbone/prompts.safetensors") for folder in (converted, tmp_path / "more"))
    assert list(plain) == [""]
    assert set(more) == set(PAPER)
    assert torch.equal(plain[""], more[""])
    UPSRPipeline.from_pretrained(tmp_path / "more").method.adjusted(
        guidance=2.0, negative_prompt="a prompt of one's own"
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), SafetensorError("full")])
def test_a_failure_leaves_nothing(place, tmp_path, monkeypatch, capsys, error):
    written = []

    def fails_at_the_third(file: Path, weights: Mapping[str, Tensor]) -> None:
        written.append(file)
        if len(written) == 3:
            raise error
        write_weights(file, weights)

    monkeypatch.setattr(convert_command, "write_weights", fails_at_the_third)
    assert run(place, tmp_path / "sr") == (130 if error is KeyboardInterrupt else 2)
    assert len(written) == 3
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.count("\n") == 1


def test_a_killed_conversion_leaves_no_folder(place, tmp_path):
    arguments = (
        "-m",
        "upsr",
        "convert",
        "stablesr",
        "one.ckpt",
        "two.ckpt",
        "--opt",
        "tiny.yml",
        "-o",
        str(tmp_path / "sr"),
    )
    process = Fork(arguments, tmp_path / "output", cwd=place)
    while process.poll() is None and not list(tmp_path.glob(".sr*/backbone/vae/*.safetensors")):
        time.sleep(0.002)
    process.kill()
    process.wait(30)
    assert process.returncode < 0, "killed while it worked"
    assert not (tmp_path / "sr").exists()


def test_without_diffusers_one_line_says_what_to_install(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert run(place, tmp_path / "sr") == 2
    assert capsys.readouterr().err == "error: this network needs diffusers: pip install 'upsr[sd]'\n"


def test_methods_that_convert_are_listed_and_explained(capsys):
    assert ended("convert") == 0
    assert "stablesr" in capsys.readouterr().out
    assert ended() == 0
    assert re.search(r"^ +convert +released checkpoints", capsys.readouterr().out, re.MULTILINE)
    for start in (("convert", "stablesr"), ("stablesr", "convert")):
        assert ended(*start, "--help") == 0
        assert "upsr convert stablesr stablesr_000117.ckpt" in capsys.readouterr().out
    assert ended("convert", "sr", "a.ckpt") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_digests_are_those_that_are_known(shared_dir):
    known = yaml.safe_load((shared_dir / "reference/weights.yml").read_text())
    entries = {
        name: entry["sha256"] for entry in known.values() if "sha256" in entry for name in entry.get("files", ())
    }
    assert {name: entries[name] for name in released.RELEASED} == {
        n: digest for n, (_, digest) in released.RELEASED.items()
    }
