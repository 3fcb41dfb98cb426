"""MANIQA by a network of this package: pyiqa's scores for the same weights, and files that are missing or others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests import tiny
from tests.filling import filled
from upsr.archs.maniqa_network import MANIQANetwork, crop_places
from upsr.compat import METRIC_REGISTRY
from upsr.config.components import build
from upsr.config.schema import MetricComponent
from upsr.errors import UpsrError
from upsr.metrics import MANIQA, MetricUnavailableError
from upsr.pipeline.verification import verify_entry
from upsr.weights.catalogue import read_catalogue

FILE = "ckpt_koniq10k.pt"
SCORE = 0.0871991
"""pyiqa 0.1.16's score of the picture of 224 x 224, of which all crops are the same, with the weights of the fixture."""


def shapes():
    with torch.device("meta"):
        return MANIQANetwork().state_dict()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file in the layout of the published one, with random weights."""
    folder = tmp_path_factory.mktemp("maniqa")
    weights = filled(shapes(), 0.02)
    # The published file also has layers and constants that no score depends on.
    others = {
        "vit.norm.weight": torch.ones(768),
        "swintransformer1.layers.0.blocks.1.attn_mask": torch.zeros(49, 16, 16),
    }
    torch.save({**weights, **others}, folder / FILE)
    return folder


@pytest.fixture(scope="module")
def metric(folder):
    return made(folder / FILE)


def made(path):
    return build(METRIC_REGISTRY, MetricComponent(type="MANIQA", weights_path=str(path)))


@pytest.fixture(scope="module")
def reference():
    """pyiqa's metric with random weights, which it is not let fetch."""
    pyiqa = pytest.importorskip("pyiqa", reason="compares with pyiqa: pip install 'upsr[metrics]'")
    import timm

    with pytest.MonkeyPatch.context() as patch:
        create = timm.create_model
        patch.setattr(timm, "create_model", lambda name, **_: create(name, pretrained=False))
        return pyiqa.create_metric("maniqa", device="cpu", pretrained=False)


class Plain(MANIQANetwork):
    """Scores each crop by its mean, all with one weight or by ``weight``, and keeps them."""

    def __init__(self, weight=lambda scores: torch.ones_like(scores)):
        nn.Module.__init__(self)
        self.seen, self.weight = [], weight

    def sums(self, crops):
        self.seen.append(2 * crops - 1)
        scores = crops.mean(dim=(1, 2, 3))
        return torch.stack([scores * self.weight(scores), self.weight(scores)], dim=1)


def test_the_score_is_what_pyiqa_gave_for_these_weights(metric):
    """One crop in place of twenty that are the same: a second of computing."""
    assert metric(tiny.image(224, 224), None) == pytest.approx(SCORE, abs=1e-4)


@pytest.mark.slow  # making pyiqa's network is half a minute
@pytest.mark.parametrize("size", [(96, 130), (224, 224), (225, 224), (231, 226), (333, 501), (700, 900), (1, 5)])
def test_crops_are_those_that_pyiqa_takes(reference, size):
    class SeenError(Exception):
        pass

    taken = []

    def stop(_, inputs):
        taken.append(inputs[0])
        raise SeenError

    image = tiny.image(*size)
    hook = reference.net.vit.register_forward_pre_hook(stop)
    with pytest.raises(SeenError), torch.inference_mode():
        reference(image)
    hook.remove()
    network = Plain()
    score = network(image)
    ours = torch.cat(network.seen)
    torch.testing.assert_close(ours.unique(dim=0), taken[0].unique(dim=0), rtol=0, atol=1e-5)
    assert float(score) == pytest.approx(float((taken[0].mean() + 1) / 2), abs=1e-5)


def test_crops_stand_where_pyiqa_took_them():
    """Its crops of an image of 624 x 424 pixels, and of one that is hardly larger than a crop."""
    places = crop_places(624, 424)
    assert len(places) == 20
    assert places[:6] == [(0, 0), (0, 50), (0, 100), (0, 150), (0, 200), (100, 0)]
    assert places[-1] == (300, 200)
    assert set(crop_places(225, 227)) == {(0, 0)}


@pytest.mark.slow  # 40 crops through a ViT-B with patches of 8
def test_scores_are_those_of_pyiqa_for_the_same_weights(reference, tmp_path):
    own = reference.net.state_dict()
    drawn = {name: value for name, value in own.items() if not name.endswith(("attn_mask", "relative_position_index"))}
    weights = {**own, **filled(drawn, 0.02, seed=3)}
    torch.save(weights, tmp_path / "weights.pt")
    reference.net.load_state_dict(weights)
    image = tiny.image(500, 333)
    with torch.inference_mode():
        expected = float(reference(image))
    assert made(tmp_path / "weights.pt")(image, None) == pytest.approx(expected, abs=1e-4)
    assert expected > 0.01


def test_crops_with_more_weight_count_for_more():
    image = torch.linspace(0.1, 1, 500).expand(1, 3, 300, 500)
    crops = [image[..., y : y + 224, x : x + 224].mean() for y, x in crop_places(300, 500)]
    weights = [score**8 for score in crops]
    expected = sum(score * weight for score, weight in zip(crops, weights, strict=True)) / sum(weights)
    score = float(Plain(weight=lambda scores: scores**8)(image))
    assert score == pytest.approx(float(expected), abs=1e-6)
    assert score > float(Plain()(image)) + 0.05


def test_scores_of_a_batch_are_those_of_its_images():
    first, second = tiny.image(300, 240), tiny.image(300, 240, seed=1)
    both = Plain()(torch.cat([first, second]))
    assert both.tolist() == pytest.approx([float(Plain()(first)), float(Plain()(second))], abs=1e-6)
    assert both[0] != pytest.approx(float(both[1]), abs=1e-3)


def test_what_cannot_be_measured_is_missing_and_not_0(metric, monkeypatch):
    monkeypatch.setattr(metric, "network", Plain())
    with pytest.raises(MetricUnavailableError, match="MANIQA of this image is nan"):
        metric(torch.full((1, 3, 230, 230), float("nan")), None)
    grey = tiny.image(230, 240)[:, :1]
    assert metric(grey, None) == metric(grey.expand(-1, 3, -1, -1), None)


def test_files_that_are_missing_or_others_are_named_with_the_remedy(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    with pytest.raises(MetricUnavailableError, match=r"ckpt_koniq10k\.pt: upsr weights fetch MANIQA"):
        MANIQA()
    with pytest.raises(UpsrError, match=r"MANIQA\.weights_path: no such file: absent\.pt; upsr weights fetch MANIQA"):
        MANIQA(weights_path="absent.pt")
    torch.save({"fc_score.0.weight": torch.ones(384, 384), "head.bias": torch.ones(1)}, "others.pt")
    with pytest.raises(UpsrError, match=r"others\.pt does not hold .*: \d+ missing .* 1 unknown \(head\.bias\)"):
        made("others.pt")


def test_fetched_files_are_found_and_verified(folder, metric, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.hub._hub_dir", str(folder))  # as --metric-weights does
    assert MANIQA().version == metric.version
    assert verify_entry("MANIQA", read_catalogue()["MANIQA"], folder) == "loads (metric 114,164,578 parameters)"
