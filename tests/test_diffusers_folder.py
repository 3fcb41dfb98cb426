"""Networks in folders of diffusers: all of their weights, or one line that names what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from upsr.errors import UpsrError
from upsr.weights.diffusers_folder import class_in, described_network, read_network, read_scheduler

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[latent]'")


@pytest.fixture
def folder(diffusers, tmp_path: Path) -> Path:
    blocks = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    unet = diffusers.UNet2DModel(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, **blocks)
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_end=0.015)
    diffusers.DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(tmp_path)
    return tmp_path


def test_a_network_and_a_schedule_are_read(diffusers, folder):
    assert (class_in(folder), class_in(folder / "unet"), class_in(folder / "scheduler")) == (
        "DDPMPipeline",
        "UNet2DModel",
        None,
    )
    network = read_network("UNet2DModel", folder / "unet")
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    scheduler = read_scheduler(folder / "scheduler")
    expected = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_end=0.015).alphas_cumprod
    assert torch.equal(scheduler.alphas_cumprod, expected)
    assert scheduler.config.prediction_type == "epsilon"


def test_a_network_is_described_without_its_weights(folder, tmp_path):
    weights = read_network("UNet2DModel", folder / "unet").state_dict()
    (folder / "unet" / WEIGHTS).unlink()
    described = described_network("UNet2DModel", folder / "unet").state_dict()
    assert {name: value.shape for name, value in described.items()} == {n: v.shape for n, v in weights.items()}
    assert {value.device.type for value in described.values()} == {"meta"}
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(UpsrError, match=r"unet: diffusers cannot load it \("):
        described_network("UNet2DModel", folder / "unet")


def renamed(weights: dict[str, torch.Tensor]) -> None:
    weights["strange.weight"] = weights.pop("conv_out.weight")


def added(weights: dict[str, torch.Tensor]) -> None:
    weights["strange.weight"] = weights["conv_out.bias"].clone()


def reshaped(weights: dict[str, torch.Tensor]) -> None:
    weights["conv_out.bias"] = torch.zeros(7)


@pytest.mark.parametrize(
    ("change", "key"), [(renamed, "conv_out.weight"), (added, "strange"), (reshaped, "conv_out.bias")]
)
def test_weights_that_do_not_fit_are_refused_by_name(folder, change, key, capfd):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "unet" / WEIGHTS)
    change(weights)
    save_file(weights, folder / "unet" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UpsrError, match=rf"unet: .*{key}"):
        read_network("UNet2DModel", folder / "unet")
    assert capfd.readouterr().err == "", "one line, that of the error"


def test_a_damaged_folder_is_named(folder):
    (folder / "unet" / WEIGHTS).write_bytes(b"junk")
    with pytest.raises(UpsrError, match=r"unet: diffusers cannot load it \(") as error:
        read_network("UNet2DModel", folder / "unet")
    assert "\n" not in str(error.value)
    with pytest.raises(UpsrError, match="absent: no such folder"):
        read_network("UNet2DModel", folder / "absent")
    assert class_in(folder / "absent") is None
