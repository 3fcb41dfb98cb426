"""Imported option files train and test as they are, on pairs and with networks and losses of their projects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests import tiny
from tests.imports import FOREIGN, changed, imported
from tests.training import tiny_options
from upsr.archs.any_sr import AnySR
from upsr.archs.contracts import SRNetwork
from upsr.compat import ARCH_REGISTRY
from upsr.config import load_options
from upsr.config.components import component_problems
from upsr.config.imports.rules import Format, to
from upsr.config.imports.translate import translated
from upsr.config.load import parse_options
from upsr.config.schema import NetworkComponent
from upsr.data import PairedCropsDataset, SampleId
from upsr.engine.distributed import Runtime
from upsr.engine.setup import checked_options
from upsr.engine.testing import test as run_test
from upsr.engine.train_loop import train
from upsr.errors import UpsrError
from upsr.methods.build import build_network
from upsr.methods.sr import import_basicsr, trainner_networks

CPU = Runtime(torch.device("cpu"))

TINY_RRDB = [
    "network_d.num_feat=4",
    "network_g.network.num_feat=8",
    "network_g.network.num_block=1",
    "network_g.network.num_grow_ch=4",
]
TINY_EDSR = ["network_g.network.num_feat=8", "network_g.network.num_block=1"]
ITERATIONS = [
    "train.total_iter=2",
    "logger.use_tb_logger=false",
    "num_gpu=0",
    "train.amp=fp32",
    "val.metrics={psnr: {type: PSNR}}",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Photos, and pairs of them reduced by four."""
    root = tmp_path_factory.mktemp("foreign")
    for kind, factor in (("hr", 4), ("lr", 1)):
        (root / kind).mkdir()
        for index in range(3):
            image = Image.fromarray(tiny.picture(128 + 4 * index, 96, index))
            image.resize((24 * factor, (32 + index) * factor), Image.Resampling.BOX).save(root / kind / f"{index}.png")
    return root


def places(root: Path) -> list[str]:
    return [f"path.experiments_root={root / 'experiments'}", f"path.results_root={root / 'results'}"]


def test_the_released_upsr_trains_and_tests_as_it_is(root, tmp_path):
    mine = imported(FOREIGN / "upsr_000.yml", tmp_path / "mine.yml")
    small = tiny_options(root, root / "hr")
    sets = [f"datasets.{key}=null" for key in ("val_1", "val_2", "val_3")]
    force = [
        *ITERATIONS, *places(root), *sets, f"network_g={small['network_g']}", f"network_aux={small['network_aux']}",
        f"datasets.train.dataroot_gt={root / 'hr'}", "datasets.train.gt_size=64", "datasets.train.batch_size_per_gpu=2",
        "datasets.train.num_worker_per_gpu=0", "path.pretrain_network_aux=null", "path.allow_random_weights=true",
        "train.perceptual_opt=null",
    ]  # fmt: skip
    train(checked_options(str(mine), force, "train"), CPU)
    weights = next((root / "experiments/000_UPSR_RealSR_x4/models").glob("net_g_latest*"))
    tested = changed("upsr_000.yml", tmp_path, path={"pretrain_network_g": str(weights)})  # 001 differs by this key
    mine = imported(tested, tmp_path / "test.yml")
    pair = f"datasets.val_1={{type: PairedFolderDataset, dataroot_gt: {root / 'hr'}, dataroot_lq: {root / 'lr'}}}"
    run_test(checked_options(str(mine), [*force, pair], "test"), CPU)
    assert (root / "results/000_UPSR_RealSR_x4").is_dir()


def test_real_esrgan_trains_as_it_is(root, tmp_path):
    mine = imported(FOREIGN / "realesrgan.yml", tmp_path / "mine.yml")
    force = [
        *ITERATIONS, *places(root), *TINY_RRDB, f"datasets.train.dataroot_gt={root / 'hr'}", "datasets.train.meta_info=null",
        "datasets.train.gt_size=64", "datasets.train.num_worker_per_gpu=0", "path.pretrain_network_g=null",
        "train.perceptual_opt=null",
    ]  # fmt: skip
    train(checked_options(str(mine), force, "train"), CPU)
    names = {path.name.rsplit("_", 1)[0] for path in (root / "experiments/train_gan_x4/models").iterdir()}
    assert names == {"net_g", "net_d"}


def test_basicsr_trains_on_pairs_as_it_is(root, tmp_path):
    mine = imported(FOREIGN / "basicsr.yml", tmp_path / "mine.yml")
    force = [
        *ITERATIONS, *places(root), *TINY_EDSR, "datasets.train.meta_info=null", "datasets.train.gt_size=64",
        "datasets.train.num_worker_per_gpu=0", "datasets.val_2=null", "val.val_freq=2",
        *(f"datasets.{key}.dataroot_gt={root / 'hr'}" for key in ("train", "val")),
        *(f"datasets.{key}.dataroot_lq={root / 'lr'}" for key in ("train", "val")),
    ]  # fmt: skip
    train(checked_options(str(mine), force, "train"), CPU)
    assert (root / "experiments/edsr_pairs_x4/validation.csv").is_file()


def test_pairs_at_three_times_are_trained_on_and_tested(root, tmp_path):
    for kind, side in (("hr3", 72), ("lr3", 24)):
        (root / kind).mkdir()
        Image.fromarray(tiny.picture(72, 72)).resize((side, side)).save(root / kind / "0.png")
    source = changed("basicsr.yml", tmp_path, scale=3, network_g={"upscale": 3})
    sets = [f"datasets.{name}.dataroot_{side}={root / folder}"
            for name in ("train", "val") for side, folder in (("gt", "hr3"), ("lq", "lr3"))]  # fmt: skip
    sets += ["datasets.train.meta_info=null", "datasets.val_2=null", "datasets.train.gt_size=48"]
    force = [*ITERATIONS, *places(root), *TINY_EDSR, *sets, "datasets.train.batch_size_per_gpu=2",
             "datasets.train.num_worker_per_gpu=0", "name=three"]  # fmt: skip
    mine = imported(source, tmp_path / "mine.yml")
    folder = train(checked_options(str(mine), force, "train"), CPU)
    weights = next((folder / "models").glob("net_g_latest*"))
    test_set = [*force, f"path.pretrain_network_g={weights}", "datasets.train=null", "val.save_img=true"]
    run_test(checked_options(str(mine), test_set, "test"), CPU)
    written = next((root / "results/three/visualization").rglob("*.png"))
    assert Image.open(written).size == (72, 72)


def test_pairs_are_cropped_at_one_place(root):
    data = PairedCropsDataset(str(root / "hr"), str(root / "lr"), gt_size=32, scale=4)
    data.bind(0, parse_options({**tiny_options(root, root / "hr")}, "x").degradation)
    for sample in range(6):
        item = data[SampleId(sample, sample % 3)]
        assert item["gt"].shape == (3, 32, 32)
        reduced = torch.nn.functional.avg_pool2d(item["gt"].float(), 4)
        assert (reduced - item["lq"].float()).abs().mean() < 3  # of 255: both were reduced from one photo
        assert torch.equal(data[SampleId(sample, sample % 3)]["lq"], item["lq"])


def test_pairs_of_another_scale_are_refused(root):
    data = PairedCropsDataset(str(root / "hr"), str(root / "lr"), gt_size=32, scale=2)
    with pytest.raises(UpsrError, match="check scale and pairing"):
        data[SampleId(0, 0)]
    with pytest.raises(UpsrError, match="gt_size: 30 is no multiple of 4"):
        PairedCropsDataset(str(root / "hr"), str(root / "lr"), gt_size=30)


def test_a_network_by_its_class_takes_weights_of_its_own_names(tmp_path):
    from upsr.archs.weights import load_network_weights

    component = NetworkComponent(type="EDSR", num_in_ch=3, num_out_ch=3, num_feat=8, num_block=1, upscale=2)
    network, other = AnySR(component, scale=2), AnySR(component, scale=2)
    torch.save(
        {"params": {name: value + 1 for name, value in network.network.state_dict().items()}}, tmp_path / "w.pth"
    )
    load_network_weights(other, tmp_path / "w.pth")
    assert all(
        torch.equal(a + 1, b) for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True)
    )
    with pytest.raises(UpsrError, match=r"EDSR makes \(1, 3, 16, 16\) of \(1, 3, 8, 8\)"):
        AnySR(component, scale=4)(torch.rand(1, 3, 8, 8))
    with pytest.raises(UpsrError, match=r"network\.depth: unknown key"):
        AnySR(NetworkComponent(type="EDSR", num_in_ch=3, num_out_ch=3, depth=3))


@pytest.mark.parametrize(
    ("scale", "unshuffle", "channels"), [(4, True, 3), (2, True, 12), (1, True, 48), (2, False, 3)]
)
def test_esrgan_below_x4_begins_with_a_pixel_unshuffle(scale, unshuffle, channels, tmp_path):
    network = {"type": "esrgan_lite", "num_blocks": 1, "use_pixel_unshuffle": unshuffle, "norm": None}
    opt = load_options(
        imported(changed("trainner.yml", tmp_path, scale=scale, network_g=network), tmp_path / "mine.yml")
    )
    assert opt.network_g.arguments["network"]["in_nc"] == channels
    net = build_network(opt.network_g, "network_g", scale=scale, contract=SRNetwork)
    assert net(torch.rand(1, 3, 12, 8)).shape == (1, 3, 12 * scale, 8 * scale)


def test_vgg_loss_is_the_sum_of_basicsr_s_parts(monkeypatch):
    from basicsr.archs import vgg_arch
    from torchvision.models import vgg11

    from upsr.losses import VGGLoss

    monkeypatch.setattr(vgg_arch.vgg, "vgg11", lambda pretrained: vgg11(weights=None))
    loss = VGGLoss({"conv1_1": 1.0, "conv2_1": 0.5}, vgg_type="vgg11", style_weight=2.0)
    a, b = (2 * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) - 1 for seed in (0, 1))
    features, style = loss.loss(a, b)
    assert loss(a, b) == pytest.approx(float(features + style))
    assert loss(a, a) == 0
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_a_loss_without_weights_says_where_they_belong(monkeypatch):
    from urllib.error import URLError

    from basicsr.archs import vgg_arch

    from upsr.losses import VGGLoss
    from upsr.losses.first_available import LossUnavailableError

    def unreachable(pretrained: bool) -> None:
        raise URLError("no network")

    monkeypatch.setattr(vgg_arch.vgg, "vgg19", unreachable)
    with pytest.raises(LossUnavailableError, match=r"set train\.perceptual_opt: null"):
        VGGLoss({"conv5_4": 1.0})


MILLIONS = {
    "RRDBNet": 16.70, "SwinIR": 11.90, "esrgan": 16.70, "compact": 0.62, "swinir_m": 11.90, "hat_m": 20.77, "drct": 14.14,
    "atd": 20.26, "rgt": 13.37, "plksr": 7.39, "realplksr": 7.39, "omnisr": 0.81, "safmn": 0.24, "rcan": 15.59,
}  # fmt: skip
"""Parameters of networks as their papers and pages count them."""
SIZES: dict[str, dict[str, Any]] = {
    "SwinIR": {
        "window_size": 8,
        "depths": [6] * 6,
        "num_heads": [6] * 6,
        "embed_dim": 180,
        "mlp_ratio": 2,
        "upsampler": "pixelshuffle",
    },
    "ECBSR": {"num_block": 1, "num_channel": 4, "with_idt": False, "act_type": "prelu"},
}  # fmt: skip


@pytest.mark.parametrize("kind", [*import_basicsr.NETWORKS, *trainner_networks.NETWORKS])
def test_every_network_of_the_tables_fits_its_class(kind):
    names = import_basicsr.NETWORKS if kind in import_basicsr.NETWORKS else trainner_networks.NETWORKS
    channels = {} if kind == "SwinIR" or names is not import_basicsr.NETWORKS else {"num_in_ch": 3, "num_out_ch": 3}
    source = {"scale": 4, "network_g": {"type": kind, **channels, **SIZES.get(kind, {})}}
    form = Format("", bool, {"network_g": import_basicsr.network(names), "scale": to("scale")}, {})
    component = NetworkComponent(**translated(form, source, "x").data["network_g"])
    assert list(component_problems(ARCH_REGISTRY, component, "network_g")) == []
    if kind in MILLIONS:
        network = build_network(component, "network_g", scale=4, contract=SRNetwork)
        assert (network.scale, network.channels) == (4, 3)
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(MILLIONS[kind], abs=0.005)
