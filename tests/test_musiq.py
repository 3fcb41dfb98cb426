"""MUSIQ by a network of this package: pyiqa's scores for the same weights, and files that are missing or others."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.filling import filled
from upsr.archs.musiq_network import MUSIQNetwork
from upsr.compat import METRIC_REGISTRY
from upsr.config.components import build
from upsr.config.schema import MetricComponent
from upsr.errors import UpsrError
from upsr.metrics import MUSIQ, MetricUnavailableError
from upsr.pipeline.verification import verify_entry
from upsr.weights.catalogue import read_catalogue

FILE = "musiq_koniq_ckpt-e95806b9.pth"
SCORES = {(96, 130): -1.54953, (224, 224): 1.20733, (333, 500): -0.11789, (448, 225): 1.61522}
"""pyiqa 0.1.16's scores of pictures of (height, width), with the weights of the fixture."""


def shapes():
    with torch.device("meta"):
        return MUSIQNetwork().state_dict()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file in the layout of the published one, with random weights."""
    folder = tmp_path_factory.mktemp("musiq")
    torch.save(filled(shapes(), 0.1), folder / FILE)
    return folder


@pytest.fixture(scope="module")
def metric(folder):
    return made(folder / FILE)


def made(path):
    return build(METRIC_REGISTRY, MetricComponent(type="MUSIQ", weights_path=str(path)))


@pytest.fixture(scope="module")
def reference(folder):
    """pyiqa's metric with the same file."""
    pyiqa = pytest.importorskip("pyiqa", reason="compares with pyiqa: pip install 'upsr[metrics]'")
    return pyiqa.create_metric("musiq", device="cpu", pretrained_model_path=str(folder / FILE))


@pytest.mark.parametrize("size", SCORES)
def test_scores_are_those_that_pyiqa_gave_for_these_weights(metric, size):
    assert metric(tiny.image(*size), None) == pytest.approx(SCORES[size], abs=1e-4)


@pytest.mark.parametrize("size", [(96, 130), (450, 230), (5, 9)])
def test_scores_are_those_of_pyiqa_for_the_same_file(metric, reference, size):
    image = tiny.image(*size)
    with torch.inference_mode():
        expected = float(reference(image))
    assert metric(image, None) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (384, 384), (500, 333), (448, 225), (333, 768), (700, 900), (8, 300)])
@pytest.mark.parametrize(("scale", "seed"), [(0.03, 1), (0.05, 2), (0.1, 3)])
def test_scores_are_those_of_pyiqa_for_other_weights_and_sizes(reference, tmp_path, scale, seed, size):
    weights = filled(shapes(), scale, seed)
    torch.save(weights, tmp_path / "others.pth")
    before = {name: value.clone() for name, value in reference.net.state_dict().items()}
    try:
        reference.net.load_state_dict(weights)
        image = tiny.image(*size)
        with torch.inference_mode():
            expected = float(reference(image))
    finally:
        reference.net.load_state_dict(before)
    assert made(tmp_path / "others.pth")(image, None) == pytest.approx(expected, abs=1e-4)


def test_a_score_does_not_depend_on_what_else_is_in_the_batch(metric):
    first, second = tiny.image(40, 70), tiny.image(40, 70, seed=1)
    with torch.inference_mode():
        both = metric.network(torch.cat([first, second]))
    assert both.tolist() == pytest.approx([metric(first, None), metric(second, None)], abs=1e-5)
    assert both[0] != pytest.approx(float(both[1]), abs=1e-2)


def test_a_grey_image_is_measured_as_rgb(metric):
    image = tiny.image(40, 70)[:, :1]
    assert metric(image, None) == metric(image.expand(-1, 3, -1, -1), None)


def test_what_cannot_be_measured_is_missing_and_not_0(metric):
    with pytest.raises(MetricUnavailableError, match="MUSIQ: 500x1 pixels have no shorter side"):
        metric(torch.zeros(1, 3, 1, 500), None)
    with pytest.raises(MetricUnavailableError, match="MUSIQ of this image is nan"):
        metric(torch.full((1, 3, 32, 32), float("nan")), None)


def test_weights_are_part_of_the_version(metric, folder, tmp_path):
    weights = torch.load(folder / FILE)
    torch.save({"params": {**weights, "head.bias": weights["head.bias"] + 1}}, tmp_path / "others.pth")
    other = made(tmp_path / "others.pth")
    assert metric.version != other.version
    image = tiny.image(32, 32)
    assert other(image, None) == pytest.approx(metric(image, None) + 1, abs=1e-5)


def test_files_that_are_missing_or_others_are_named_with_the_remedy(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    with pytest.raises(MetricUnavailableError, match=r"ckpt-e95806b9\.pth: upsr weights fetch MUSIQ"):
        MUSIQ()
    with pytest.raises(UpsrError, match=r"MUSIQ\.weights_path: no such file: absent\.pth; upsr weights fetch MUSIQ"):
        MUSIQ(weights_path="absent.pth")
    weights = torch.load(folder / FILE)
    torch.save({**weights, "head.weight": torch.ones(10, 384), "head.bias": torch.ones(10)}, "ava.pth")
    with pytest.raises(UpsrError, match=r"ava\.pth does not hold .* 2 of another shape \(head\.weight \(10, 384\) for"):
        made("ava.pth")
    torch.save({name: value for name, value in weights.items() if name != "head.bias"}, "half.pth")
    with pytest.raises(UpsrError, match=r"half\.pth does not hold the weights of MUSIQ: 1 missing \(head\.bias\)"):
        made("half.pth")


def test_fetched_files_are_found_and_verified(folder, metric, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.hub._hub_dir", str(folder))  # as --metric-weights does
    assert MUSIQ().version == metric.version
    assert verify_entry("MUSIQ", read_catalogue()["MUSIQ"], folder) == "loads (metric 27,125,825 parameters)"
