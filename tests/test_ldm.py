"""LDM-SR: diffusers' own pipeline gives the same image; folders, settings, tiles, and entries of an evaluation."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from upsr.cli import main
from upsr.codecs.vq import decoded
from upsr.config.load import parse_options
from upsr.config.schema import TileOptions
from upsr.errors import MissingPackageError, UpsrError
from upsr.evaluation.entries import MissingWeightsError, WrongWeightsError, describe, make_ready
from upsr.methods import build_method
from upsr.methods.ldm.method import LatentDiffusionSR
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.restoring import restore
from upsr.restoring.noise import SequentialNoise

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[latent]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ldm") / "model"
    tiny.ldm_options(folder)
    return folder


def method(folder: Path, **changes: Any) -> LatentDiffusionSR:
    data = {"name": "x", "datasets": {}, **tiny.ldm_options(folder), **changes}
    built = build_method(parse_options(data, "test"))
    assert isinstance(built, LatentDiffusionSR)
    return built.eval()


def lr_image(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(tiny.picture(height, width)).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("changes", [{}, {"steps": 7}, {"steps": 4, "eta": 1.0}])
def test_the_pipeline_of_diffusers_gives_the_same(diffusers, folder, changes, monkeypatch):
    own, lq = method(folder, **changes), lr_image(16, 24)
    pipeline = diffusers.LDMSuperResolutionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    latents: list[torch.Tensor] = []  # a rounding may choose another code, so the images are compared from one latent
    decode = pipeline.vqvae.decode
    monkeypatch.setattr(pipeline.vqvae, "decode", lambda latent: decode(latents.append(latent) or latent))
    torch.manual_seed(5)  # diffusers draws the noise of the steps from the global generator
    theirs = pipeline(
        2 * lq - 1, num_inference_steps=own.sampling.steps, eta=own.sampling.eta, output_type="np"
    ).images[0]

    def decoded_theirs(network: Any, latent: torch.Tensor) -> torch.Tensor:
        torch.testing.assert_close(latent, latents[0], rtol=1e-4, atol=1e-4)
        return decoded(network, latents[0])

    monkeypatch.setattr("upsr.methods.ldm.method.decoded", decoded_theirs)
    torch.manual_seed(5)
    ours = own.restore(lq, lambda k: torch.randn(1, 3, 16, 24))
    np.testing.assert_allclose(ours[0].permute(1, 2, 0).numpy(), theirs, atol=5e-5, rtol=0)


@pytest.mark.parametrize("offset", [0, 1])
def test_timesteps_are_those_of_leading_spacing(diffusers, tmp_path, offset):
    tiny.ldm_options(tmp_path / "model", steps_offset=offset)
    own = method(tmp_path / "model")
    for steps in (1, 3, 15, 200, 1000):
        scheduler = diffusers.DDIMScheduler(steps_offset=offset, timestep_spacing="leading")
        scheduler.set_timesteps(steps)
        expected = [min(int(t), 999) for t in scheduler.timesteps]
        assert own.adjusted(steps=steps).timesteps() == expected


def test_a_folder_that_bounds_its_estimates_is_heeded(tmp_path):
    tiny.ldm_options(tmp_path / "model", clip_sample=True, clip_sample_range=0.25)
    bounded, lq = method(tmp_path / "model"), lr_image(16, 16)
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([900])
    assert bounded.denoiser(lq)(x, t).abs().max() == 0.25
    bounded.bound = None
    assert bounded.denoiser(lq)(x, t).abs().max() > 0.25


def test_tiles_meet_at_every_step(folder):
    own, lq = method(folder), lr_image(48, 40)
    whole = restore(own, lq, seed=0, names=["a"])
    tiled = restore(own, lq, seed=0, names=["a"], tile=TileOptions(size=32, overlap=16, blend="step"))
    assert (tiled - whole).abs().mean() < 0.05


def test_no_tile_changes_the_noise_of_another(folder, monkeypatch):
    fields = []
    call = SequentialNoise.__call__
    monkeypatch.setattr(
        SequentialNoise, "__call__", lambda self, k: fields.append((call(self, k), self, k)) or fields[-1][0]
    )
    tile = TileOptions(size=32, overlap=16, blend="end")
    restore(method(folder), lr_image(48, 40), seed=0, names=["a"], noise="sequential", tile=tile)
    assert fields
    assert all(torch.equal(field, call(noise, k)) for field, noise, k in fields)


def test_saved_it_is_one_folder(folder, tmp_path):
    pipe = UPSRPipeline.from_pretrained(shutil.copytree(folder, tmp_path / "model"), device="cpu")
    assert list(pipe.knobs()) == ["steps", "eta"]
    pixels = tiny.picture(16, 24)
    expected = np.asarray(pipe(pixels, steps=2).images[0])
    assert expected.std() > 1
    pipe.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "model")
    moved = UPSRPipeline.from_pretrained(shutil.move(tmp_path / "saved", tmp_path / "moved"), device="cpu")
    assert moved.digest() == pipe.digest()
    assert np.array_equal(np.asarray(moved(pixels, steps=2).images[0]), expected)


def test_the_command_upscales_with_a_folder(folder, tmp_path, capsys):
    Image.fromarray(tiny.picture(16, 20)).save(tmp_path / "a.png")
    arguments = ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--weights", str(folder), "--quiet"]
    arguments.append("--overwrite")
    assert main([*arguments, "--method", "ldm", "--steps", "2", "--knob", "eta=0.5"]) == 0
    assert Image.open(tmp_path / "out/a.png").size == (80, 64)
    for wrong, said in (
        (("--method", "sr"), "the method sr does not know these weights"),
        (("--part", "g=a.pth"), "--part g=: a.pth would not be read by the method ldm; it has no such parts"),
        (("--fidelity", "0.5"), "--fidelity: has no effect"),
        (("--knob", "eta=2"), "eta is 2; give 0 to 1"),
    ):
        assert main([*arguments, *wrong]) == 2
        assert said in capsys.readouterr().err


def entry(folder: Path) -> Any:
    options = folder.parent / "entry.yml"
    options.write_text("name: x\nmethod: ldm\ndatasets: {}\nsteps: 2\n" + f"backbone: {folder}\n")
    return describe(str(options)).model_copy(update={"get": ["the shop"]})


def test_an_entry_without_its_folder_says_where_to_get_it(tmp_path):
    with pytest.raises(
        MissingWeightsError, match=r"weights are not here \(backbone: .*absent\); get them from the shop"
    ):
        make_ready(entry(tmp_path / "absent"), CPU, None)


def test_an_entry_with_a_damaged_folder_is_wrong(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model/unet/config.json").write_text("{")
    with pytest.raises(WrongWeightsError, match=r"unet: diffusers cannot load it"):
        make_ready(entry(tmp_path / "model"), CPU, None)
    (tmp_path / "model/model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    with pytest.raises(WrongWeightsError, match=r"no folder of diffusers' LDMSuperResolutionPipeline"):
        make_ready(entry(tmp_path / "model"), CPU, None)


def test_an_entry_without_diffusers_is_missing(folder, monkeypatch, tmp_path):
    def absent() -> Any:
        raise MissingPackageError("diffusers is not here")

    monkeypatch.setattr("upsr.weights.diffusers_folder.diffusers", absent)
    shutil.copytree(folder, tmp_path / "model")
    with pytest.raises(MissingWeightsError, match="diffusers is not here; get them from the shop"):
        make_ready(entry(tmp_path / "model"), CPU, None)


def test_an_entry_is_made_of_all_files_of_the_folder(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    ready = make_ready(entry(tmp_path / "model"), CPU, None)
    assert {path.name for path in ready.weights} >= {"diffusion_pytorch_model.safetensors", "scheduler_config.json"}
    assert ready.facts["parameters"] > 0
    assert ready.facts["aux_parameters"] > 0


def test_other_networks_than_the_scale_says_are_refused(folder):
    with pytest.raises(UpsrError, match="backbone: the networks are x4, but scale is 2"):
        method(folder, scale=2)
    with pytest.raises(UpsrError, match="backbone: LDM-SR needs a folder of diffusers'"):
        method(folder, backbone=None)


def test_a_test_run_restores_and_names_a_folder_that_is_not_here(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny.save_pictures(tmp_path / "photos", 1, size=16)
    data = {**tiny.ldm_options(folder), "name": "run", "num_gpu": 0}
    data["datasets"] = {"val": {"type": "FolderDataset", "dataroot_lq": "photos"}}
    data["val"] = {"save_img": True}
    for backbone, code in ((str(folder), 0), ("gone", 2)):
        (tmp_path / "run.yml").write_text(json.dumps({**data, "backbone": backbone}))
        monkeypatch.setattr(sys, "argv", ["test.py", "-opt", "run.yml"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(Path(__file__).parents[1] / "test.py"), run_name="__main__")
        assert (ended.value.code or 0) == code
    assert "backbone: no such folder: gone" in capsys.readouterr().err
    (result,) = tmp_path.glob("results/run/**/*.png")
    assert Image.open(result).size == (64, 64)
