"""Training of unconditional DDPMs: shipped option files, two runs as one, crops alone, gradients, weights of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.diffsr import tiny_options
from upsr.archs import DenoisingDiffusionUNet
from upsr.archs.weights import load_network_weights
from upsr.config.load import load_options, parse_options
from upsr.config.schema import CommonOptions
from upsr.data import RealESRGANDegradation
from upsr.engine.distributed import Runtime
from upsr.engine.train_loop import train
from upsr.errors import UpsrError
from upsr.methods import build_training
from upsr.methods.build import build_network
from upsr.rng import torch_generator

pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[latent]'")

CPU = Runtime(torch.device("cpu"))
FILES = Path(__file__).parents[1] / "options" / "diffsr"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return tiny.save_pictures(tmp_path_factory.mktemp("ddpm") / "photos", 3)


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shipped(folder: Path, photos: Path, iterations: int, *more: str) -> CommonOptions:
    """tiny.yml with photos of the test."""
    own = [
        "num_gpu=0", "auto_resume=true", f"datasets:train:dataroot_gt={photos}", f"path:experiments_root={folder}",
        f"train:total_iter={iterations}", "logger:print_freq=1", "logger:save_checkpoint_freq=2", *more,
    ]  # fmt: skip
    return load_options(FILES / "tiny.yml", own)


def players(folder: Path, iteration: int) -> dict[str, Any]:
    state = torch.load(folder / "training_states" / f"{iteration}.state", weights_only=True)
    own: dict[str, Any] = state["players"]["g"]
    return own


def test_two_and_two_iterations_are_four(tmp_path, photos):
    whole = train(shipped(tmp_path / "a", photos, 4), CPU)
    first = train(shipped(tmp_path / "b", photos, 2), CPU)
    again = train(shipped(tmp_path / "b", photos, 4), CPU)
    assert first == again
    a, half, b = players(whole, 4), players(again, 2), players(again, 4)
    for key in ("params", "params_ema"):
        assert all(torch.equal(a[key][name], b[key][name]) for name in a[key])
        assert not all(torch.equal(half[key][name], b[key][name]) for name in half[key])


def test_validation_restores_in_tiles_at_the_scale_of_the_file(tmp_path, photos):
    """The network is trained at 16 x 16, the photos are larger and restored in tiles."""
    sets = [
        "scale=2", "datasets:val_1:type=BicubicFolderDataset", "datasets:val_1:scale=2",
        f"datasets:val_1:dataroot_gt={photos}", "val:val_freq=2", "sampler:steps=2",
    ]  # fmt: skip
    folder = train(shipped(tmp_path, photos, 2, *sets), CPU)
    assert "val_1: psnr" in (folder / "train.log").read_text()


def test_nothing_is_degraded(tmp_path, photos, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a degradation was computed")

    monkeypatch.setattr(RealESRGANDegradation, "__call__", refuse)
    monkeypatch.setattr(RealESRGANDegradation, "forward", refuse, raising=False)
    train(shipped(tmp_path, photos, 1), CPU)


def test_crops_that_do_not_fit_the_network_are_refused(tmp_path, photos):
    with pytest.raises(UpsrError, match=r"datasets.train.gt_size: 20 is no multiple of 8, which the network needs"):
        train(shipped(tmp_path, photos, 1, "datasets:train:gt_size=20"), CPU)


def test_only_the_denoiser_has_gradients_in_a_latent(tmp_path, photos):
    from diffusers import AutoencoderKL

    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 8),
        norm_num_groups=8, sample_size=32,
    ).save_pretrained(tmp_path / "vae")  # fmt: skip
    codec = {"type": "KLAutoencoder", "path": str(tmp_path)}
    data = tiny_options(tmp_path, photos, codec=codec, network_g={"channels": 4})
    training = build_training(parse_options(data, "test")).train()
    training("g", {"gt": torch.rand(2, 3, 64, 64)}, [torch_generator(i) for i in range(2)])["total"].backward()
    own = set(training.method.denoiser.parameters())
    assert all(p.grad is not None and bool(p.grad.any()) for p in own)
    others = set(training.method.parameters()) - own
    assert others
    assert all(p.grad is None and not p.requires_grad for p in others)


def test_draws_belong_to_samples(photos, tmp_path):
    """The loss of a batch is the mean of its samples' own losses, timesteps and noise included."""
    training = build_training(parse_options(tiny_options(tmp_path, photos), "test")).train()
    gt = torch.rand(3, 3, 32, 32)

    def loss(slots: list[int]) -> torch.Tensor:
        return training("g", {"gt": gt[slots]}, [torch_generator(slot) for slot in slots])["total"].detach()

    together, apart = loss([0, 1, 2]), [loss([slot]) for slot in range(3)]
    torch.testing.assert_close(together, torch.stack(apart).mean())
    assert len({float(x) for x in apart}) == 3


def test_shipped_networks_have_the_sizes_that_their_files_say():
    counts = {}
    for name in ("small", "tiny"):
        with torch.device("meta"):
            network = build_network(load_options(FILES / f"{name}.yml").network_g, "network_g")
        counts[name] = sum(p.numel() for p in network.parameters())
    assert counts == {"small": 637_043, "tiny": 41_899}


def test_weights_of_the_package_load_as_they_are(tmp_path):
    package = pytest.importorskip("denoising_diffusion_pytorch", reason="needs the extra: pip install 'upsr[diffsr]'")
    theirs = package.Unet(dim=8, dim_mults=(1, 2))
    torch.save(theirs.state_dict(), tmp_path / "unet.pt")
    own = DenoisingDiffusionUNet(16, dim=8, dim_mults=[1, 2])
    load_network_weights(own, tmp_path / "unet.pt")
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([0, 999])
    with torch.no_grad():
        assert torch.equal(own(x, t), theirs(x, t))
    state = theirs.state_dict()
    state["another.weight"] = state.pop("init_conv.weight")
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(UpsrError, match=r"1 missing \(init_conv.weight\); 1 unknown \(another.weight\)"):
        load_network_weights(own, tmp_path / "other.pt")
