"""CLIP-IQA by a network of this package: pyiqa's scores for the same weights, and files that are missing or others."""

from __future__ import annotations

import zlib

import pytest
import torch
from torch import nn

from tests import tiny
from upsr.archs.clipiqa_network import PAIRS, TOKENS, CLIPIQANetwork
from upsr.compat import METRIC_REGISTRY
from upsr.config.components import build
from upsr.config.schema import MetricComponent
from upsr.errors import UpsrError
from upsr.metrics import CLIPIQA, MetricUnavailableError
from upsr.pipeline.verification import verify_entry
from upsr.weights.catalogue import read_catalogue

GOLDEN = {(64, 64): 0.283781, (224, 224): 0.406698, (300, 451): 0.487734, (451, 300): 0.424863}
"""pyiqa 0.1.16's `clipiqa` of `tiny.image` at sizes (height, width), with the weights of the fixture `folder`: computed by
calling it, its source was not read."""
PAPER = 0.647360
"""Of 64x64, by the network of openai-clip 1.0.1 (MIT) with an embedding of zeros in its last pooling."""
EMBEDDING = "visual.attnpool.positional_embedding"


class Part(nn.Module):
    """A node of a tree of weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def shapes():
    """The published state without values."""
    with torch.device("meta"):
        return {**CLIPIQANetwork("pyiqa").published_state(), EMBEDDING: torch.zeros(50, 2048)}


def drawn(name, like):
    """Values that leave the softmax unsaturated, by name."""
    values = 2 * torch.rand(like.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))) - 1
    if name == "logit_scale":
        return torch.tensor(4.6)
    if name.endswith("running_var"):
        return 1 + 0.5 * values
    if name.endswith(("bias", "running_mean")):
        return 0.1 * values
    if values.ndim == 1:
        return 1 + 0.2 * values
    if "embedding" in name:
        return values
    return values * (3 * values.shape[0] / values.numel()) ** 0.5 * (2**0.5 if values.ndim == 4 else 1)


def save_archive(weights, path):
    """A TorchScript archive in float16, as OpenAI's is."""
    root = Part()
    for name, value in weights.items():
        part = root
        *parents, last = name.split(".")
        for parent in parents:
            if parent not in part._modules:
                part.add_module(parent, Part())
            part = part._modules[parent]
        part.register_parameter(last, nn.Parameter(value.half(), requires_grad=False))
    torch.jit.script(root).save(str(path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """OpenAI's file in its layout, with values from seeds; 200 MB, which do not outlive the tests."""
    folder = tmp_path_factory.mktemp("clipiqa")
    save_archive({name: drawn(name, like) for name, like in shapes().items()}, folder / "RN50.pt")
    yield folder
    (folder / "RN50.pt").unlink()


@pytest.fixture(scope="module")
def metric(folder):
    return made(folder / "RN50.pt")


def made(path, **arguments):
    return build(METRIC_REGISTRY, MetricComponent(type="CLIPIQA", weights_path=str(path), **arguments))


@pytest.fixture(scope="module")
def reference(folder):
    """pyiqa's metric of the same file."""
    pyiqa = pytest.importorskip("pyiqa", reason="compares with pyiqa: pip install 'upsr[metrics]'")
    return pyiqa.create_metric("clipiqa", backbone=str(folder / "RN50.pt"), device=torch.device("cpu"))


@pytest.mark.parametrize("size", list(GOLDEN))
def test_scores_are_the_recorded_ones_of_pyiqa(metric, size):
    assert metric(tiny.image(*size), None) == pytest.approx(GOLDEN[size], abs=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (130, 75)])
def test_scores_are_those_of_pyiqa_for_the_same_weights(metric, reference, size):
    image = tiny.image(*size, seed=1)
    grey = image[:, :1]
    with torch.inference_mode():
        assert metric(image, None) == pytest.approx(float(reference(image)), abs=1e-5)
        assert metric(grey, None) == pytest.approx(float(reference(grey.expand(-1, 3, -1, -1))), abs=1e-5)


def test_the_paper_s_pair_of_prompts_is_another_measure(folder, metric):
    paper = made(folder / "RN50.pt", prompts="paper")
    assert paper(tiny.image(64, 64), None) == pytest.approx(PAPER, abs=1e-5)
    assert paper.version != metric.version
    assert paper.version.split()[-1] == metric.version.split()[-1]  # the same weights


def test_tokens_are_those_of_openai_s_tokenizer():
    clip = pytest.importorskip("clip", reason="compares with openai-clip, which pyiqa installs", exc_type=ImportError)
    assert {text for pairs in PAIRS.values() for pair in pairs for text in pair} == set(TOKENS)
    for text, tokens in TOKENS.items():
        found = clip.tokenize([text])[0].tolist()
        assert found == [49406, *tokens, 49407, *[0] * (75 - len(tokens))]


def test_what_cannot_be_measured_is_missing_and_not_0(metric):
    assert 0 < metric(tiny.image(31, 40), None) < 1
    with pytest.raises(MetricUnavailableError, match="CLIPIQA needs 31 pixels; an image has 48x30"):
        metric(tiny.image(30, 48), None)
    with pytest.raises(MetricUnavailableError, match="CLIPIQA of this image is nan"):
        metric(torch.full((1, 3, 40, 40), float("nan")), None)


def test_the_measure_is_of_values_and_not_of_a_file(folder, metric, tmp_path):
    """A state dict with torch's counters in place of the archive, and one that differs in a value."""
    weights = {name: drawn(name, like).half() for name, like in shapes().items()}
    counters = {
        name.replace("running_var", "num_batches_tracked"): torch.tensor(7) for name in weights if "_var" in name
    }
    assert len(counters) == 55
    torch.save({**weights, **counters}, tmp_path / "state.pth")
    same = made(tmp_path / "state.pth")
    assert same.version == metric.version
    weights["visual.bn1.bias"][0] += 1
    torch.save(weights, tmp_path / "state.pth")
    assert made(tmp_path / "state.pth").version != metric.version
    (tmp_path / "state.pth").unlink()


def test_files_that_are_missing_or_others_are_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    with pytest.raises(MetricUnavailableError, match=r"RN50\.pt: upsr weights fetch CLIPIQA"):
        CLIPIQA()
    with pytest.raises(UpsrError, match=r"no such file: absent\.pt; upsr weights fetch CLIPIQA"):
        CLIPIQA(weights_path="absent.pt")
    empty = {name: torch.zeros(()).expand(like.shape) for name, like in shapes().items()}  # a number each in the file
    other = {**empty, "logit_scale": torch.zeros(2), "visual.proj": torch.zeros(1)}
    del other["ln_final.weight"]
    torch.save(other, "other.pt")
    with pytest.raises(
        UpsrError,
        match=r"other\.pt does not hold CLIP's ResNet-50: 1 missing \(ln_final\.weight\); 1 unknown \(visual\.proj\); "
        r"1 of another shape \(logit_scale \(2,\) for \(\)\); upsr weights fetch CLIPIQA",
    ):
        CLIPIQA(weights_path="other.pt")
    save_archive({name: value for name, value in empty.items() if name != "ln_final.weight"}, "archive.pt")
    with pytest.raises(UpsrError, match=r"archive\.pt does not hold .* 1 missing \(ln_final\.weight\)"):
        CLIPIQA(weights_path="archive.pt")


def test_fetched_files_are_found_and_verified(folder, metric, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.hub._hub_dir", str(folder))  # as --metric-weights does
    assert CLIPIQA().version == metric.version
    assert verify_entry("CLIPIQA", read_catalogue()["CLIPIQA"], folder) == "loads (metric 101,904,737 parameters)"
