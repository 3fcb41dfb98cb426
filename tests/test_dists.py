"""DISTS by a network of this package: pyiqa's scores for the same weights, and files that are missing or others."""

from __future__ import annotations

import pytest
import torch
import torchvision

from tests import tiny
from upsr.compat import METRIC_REGISTRY
from upsr.config.components import build
from upsr.config.schema import MetricComponent
from upsr.data.image_io import to_tensor
from upsr.errors import UpsrError
from upsr.metrics import DISTS, MetricUnavailableError
from upsr.pipeline.verification import verify_entry
from upsr.weights.catalogue import read_catalogue


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files in the published layouts, with random weights."""
    folder = tmp_path_factory.mktemp("dists")
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = torchvision.models.vgg16(weights=None).features.state_dict()
    torch.save({f"features.{name}": value for name, value in backbone.items()}, folder / "vgg16-397923af.pth")
    learned = {name: 0.1 + 0.01 * torch.randn(1, 1475, 1, 1, generator=generator) for name in ("alpha", "beta")}
    torch.save(learned, folder / "DISTS_weights.pt")
    return folder


@pytest.fixture(scope="module")
def metric(folder):
    return made(folder)


def made(folder, **changes):
    paths = {"weights_path": folder / "DISTS_weights.pt", "backbone_path": folder / "vgg16-397923af.pth", **changes}
    return build(METRIC_REGISTRY, MetricComponent(type="DISTS", **{name: str(path) for name, path in paths.items()}))


def pair(height, width):
    first = to_tensor(tiny.picture(height, width))[None]
    return first, (first + 0.1 * torch.randn(first.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


@pytest.fixture(scope="module")
def reference(folder):
    """pyiqa's network, filled from the same files."""
    pytest.importorskip("pyiqa", reason="compares with pyiqa: pip install 'upsr[metrics]'")
    from pyiqa.archs import dists_arch

    with pytest.MonkeyPatch.context() as patch:
        vgg16 = torchvision.models.vgg16
        patch.setattr(dists_arch.models, "vgg16", lambda weights: vgg16(weights=None))  # else it is fetched
        network = dists_arch.DISTS(pretrained=False).eval()
    backbone, learned = (torch.load(folder / name) for name in ("vgg16-397923af.pth", "DISTS_weights.pt"))
    own = network.state_dict()
    numbered = {name: f"features.{name.partition('.')[2]}" for name in own}
    filled = {name: backbone[source] for name, source in numbered.items() if source in backbone}
    assert len(filled) == len(backbone)
    network.load_state_dict({**own, **filled, **learned})
    return network


@pytest.mark.parametrize("size", [(64, 64), (37, 50), (16, 17)])
def test_scores_are_those_of_pyiqa_s_network_for_the_same_weights(metric, reference, size):
    first, second = pair(*size)
    with torch.inference_mode():
        expected = float(reference(first, second))
    assert expected > 1e-3
    assert metric(first, second) == pytest.approx(expected, abs=1e-5)
    assert metric(second, first) == pytest.approx(expected, abs=1e-5)


def test_equal_images_have_no_distance_and_noise_adds_to_it(metric):
    first, second = pair(48, 48)
    assert metric(first, first) == pytest.approx(0, abs=1e-6)
    assert metric((first + second) / 2, first) < metric(second, first)
    assert metric(first[:, :1], second[:, :1]) > 0  # grey


def test_what_cannot_be_measured_is_missing_and_not_0(metric):
    first, second = pair(48, 48)
    with pytest.raises(MetricUnavailableError, match="needs 16 pixels; an image has 48x15"):
        metric(first[..., :15, :], second[..., :15, :])
    with pytest.raises(UpsrError, match="has a ground truth of"):
        metric(first, second[..., :40])


def test_weights_are_part_of_the_version(folder, metric, tmp_path):
    learned = torch.load(folder / "DISTS_weights.pt")
    torch.save({"alpha": learned["beta"], "beta": learned["alpha"]}, tmp_path / "others.pt")
    other = made(folder, weights_path=tmp_path / "others.pt")
    assert made(folder).version == metric.version != other.version


def test_files_that_are_missing_or_others_are_named_with_the_remedy(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    with pytest.raises(MetricUnavailableError, match=r"DISTS_weights\.pt: upsr weights fetch DISTS"):
        DISTS()
    with pytest.raises(UpsrError, match=r"no such file: .*absent\.pt; upsr weights fetch DISTS"):
        DISTS(weights_path="absent.pt")
    torch.save({"alpha": torch.ones(1, 1475, 1, 1)}, "half.pt")
    with pytest.raises(UpsrError, match=r"half\.pt does not hold alpha and beta"):
        made(folder, weights_path="half.pt")
    with pytest.raises(UpsrError, match=r"features\.0\.weight is missing or of another shape"):
        made(folder, backbone_path=folder / "DISTS_weights.pt")


def test_fetched_files_are_found_and_verified(folder, metric, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.hub._hub_dir", str(folder))  # as --metric-weights does
    assert DISTS().version == metric.version
    assert verify_entry("DISTS", read_catalogue()["DISTS"], folder) == "loads (metric 14,717,638 parameters)"
