"""Weights that name no method: which method is asked, what lies beside them, folders of other libraries, the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests import tiny
from upsr.archs.weights import load_network_weights
from upsr.arguments import ArgumentParser, add_model, model_of
from upsr.choices import DEFAULT_WEIGHTS
from upsr.config.methods import method_names
from upsr.config.schema import CommonOptions, PathOptions
from upsr.errors import UpsrError
from upsr.methods import Facts, Method
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.weights import unset_weights, weight_files

TWO, FOLDER = f"{__name__}.TwoParts", f"{__name__}.FromFolder"


class TwoPaths(PathOptions):
    """Weights of both parts."""

    pretrain_network_g: str | None = None
    pretrain_network_codec: str | None = None


class TwoOptions(CommonOptions):
    """Options of :class:`TwoParts`."""

    path: TwoPaths = TwoPaths()


class TwoParts(Method):
    """Adds what both of its parts give to the upsampled image."""

    Options = TwoOptions
    weight_keys: ClassVar[Mapping[str, str]] = {"g": "pretrain_network_g", "codec": "pretrain_network_codec"}
    takes = "two.pth with codec.pth beside it or as --part codec="

    def __init__(self, g: nn.Module, codec: nn.Module) -> None:
        super().__init__()
        self.g, self.codec = g, codec
        self.facts = Facts(2, 3)

    @classmethod
    def from_options(cls, opt, *, training=False):
        parts = {"g": nn.Conv2d(3, 3, 1), "codec": nn.Conv2d(3, 3, 1)}
        for part, network in parts.items():
            load_network_weights(network, getattr(opt.path, cls.weight_keys[part]))
        return cls(**parts)

    @classmethod
    def assumed(cls, path, tensors, beside):
        if sorted(tensors) != ["bias", "weight"]:
            return None
        codec = beside.get("codec", path.with_name("codec.pth"))
        paths = {"pretrain_network_g": str(path), "pretrain_network_codec": str(codec)}
        return {"method": TWO, "scale": 2, "path": paths}

    def restore(self, lq, noise, *, tiles=None, watch=None):
        with torch.inference_mode():
            return F.interpolate(self.codec(self.g(lq)), scale_factor=2).sigmoid()


class FolderOptions(CommonOptions):
    """Options of :class:`FromFolder`."""

    backbone: str | None = None


class FromFolder(TwoParts):
    """Reads one of its parts from a folder with a description."""

    Options = FolderOptions
    weight_keys: ClassVar[Mapping[str, str]] = {}
    folder_keys: ClassVar[Mapping[str, str]] = {"g": "backbone", "codec": "backbone"}
    takes = "a folder of two"

    @classmethod
    def from_options(cls, opt, *, training=False):
        parts = {"g": nn.Conv2d(3, 3, 1), "codec": nn.Conv2d(3, 3, 1)}
        for part, network in parts.items():
            load_network_weights(network, f"{opt.backbone}/{part}/model.safetensors")
        return cls(**parts)

    @classmethod
    def assumed(cls, path, tensors, beside):
        known = path.is_dir() and json.loads((path / "model_index.json").read_text()) == {"_class_name": "Two"}
        return {"method": FOLDER, "scale": 2, "backbone": str(path), "path": {}} if known else None

    def save_folder(self, key, folder):
        from safetensors.torch import save_file

        folder.mkdir()
        (folder / "model_index.json").write_text('{"_class_name": "Two"}')
        for part, network in self.parts().items():
            (folder / part).mkdir()
            save_file(network.state_dict(), folder / part / "model.safetensors")


def convolution(seed: int) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(3, 3, 1)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for seed, name in enumerate(("two", "codec", "other")):
        torch.save({"params": convolution(seed).state_dict()}, tmp_path / f"{name}.pth")
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    FromFolder(convolution(0), convolution(1)).save_folder("backbone", tmp_path / "model")
    return tmp_path / "model"


def load(source: Path | str, method: str | None = TWO, **parts: Path) -> UPSRPipeline:
    return UPSRPipeline.from_pretrained(source, method=method, parts=parts, device="cpu")


def picture(pipe: UPSRPipeline) -> np.ndarray:
    return np.asarray(pipe(tiny.picture(8, 12)).images[0])


def test_parts_beside_a_file_are_read_and_saved_with_it(files):
    beside, named = load(files / "two.pth"), load(files / "two.pth", codec=files / "other.pth")
    assert beside.digest()["g"] == named.digest()["g"]
    assert beside.digest()["codec"] != named.digest()["codec"]
    named.save_pretrained(files / "saved")
    assert {path.name for path in (files / "saved").iterdir()} == {"config.json", "g.safetensors", "codec.safetensors"}
    for method in (None, TWO):
        assert np.array_equal(picture(load(files / "saved", method)), picture(named))


def test_a_part_that_is_not_there_is_refused_with_those_that_are(files):
    with pytest.raises(UpsrError, match=r"--part aux=: .*other\.pth would not be read.*are g, codec"):
        load(files / "two.pth", aux=files / "other.pth")
    with pytest.raises(UpsrError, match=r"--part g=: .*other\.pth would not be read, as --weights names g"):
        load(files / "two.pth", g=files / "other.pth")


def test_weights_that_the_method_does_not_know_are_refused_with_what_it_takes(files):
    torch.save({"body.weight": torch.zeros(3)}, files / "strange.pth")
    with pytest.raises(UpsrError, match=r"strange\.pth: the method .*TwoParts does not know .* it takes two\.pth with"):
        load(files / "strange.pth")
    with pytest.raises(UpsrError, match=r"the method bicubic does not know these weights; it takes no weights by"):
        load(files / "two.pth", "bicubic")
    with pytest.raises(
        UpsrError, match=r"two\.pth with codec=.*: no method knows these weights; --weights takes .*upsr\.pth"
    ):
        load(files / "two.pth", None, codec=files / "codec.pth")


def test_an_unknown_method_is_refused_with_those_there_are(files):
    with pytest.raises(UpsrError, match=f"^--method, method=: .*{', '.join(method_names())}"):
        load(files / "two.pth", "nonesuch")


def test_a_source_that_names_its_method_is_of_that_method(files):
    assert load("tiny", "upsr").scale == 4
    with pytest.raises(UpsrError, match="tiny is of the method upsr, not sr"):
        load("tiny", "sr")


def test_the_mistake_of_assumed_weights_says_that_they_were_assumed(files):
    torch.save({"weight": torch.zeros(1), "bias": torch.zeros(3)}, files / "two.pth")
    with pytest.raises(UpsrError, match=r"two\.pth.*of another shape.*were assumed"):
        load(files / "two.pth")


def test_a_folder_of_another_library_is_read_and_moves_with_a_saved_pipeline(folder, tmp_path):
    pipe = load(folder, FOLDER)
    pipe.save_pretrained(tmp_path / "saved")
    expected = picture(pipe)
    shutil.rmtree(folder)
    moved = load(shutil.move(tmp_path / "saved", tmp_path / "moved"), None)
    assert np.array_equal(picture(moved), expected)
    moved.save_pretrained(tmp_path / "again")
    assert np.array_equal(picture(load(tmp_path / "again", None)), expected)


def test_a_folder_that_no_method_knows_is_refused(folder):
    with pytest.raises(UpsrError, match=r"model: neither a saved pipeline .* no method knows these weights"):
        load(folder, None)
    (folder / "config.json").write_text('{"_class_name": "Two"}')
    with pytest.raises(UpsrError, match=r"the method upsr does not know these weights; it takes upsr\.pth"):
        load(folder, "upsr")


def test_a_folder_counts_as_the_weight_files_in_it(folder, tmp_path):
    def options(backbone: str | None) -> Any:
        return FolderOptions(name="x", method=FOLDER, scale=2, datasets={}, backbone=backbone)

    found = [str(path.relative_to(folder)) for path in weight_files(options(str(folder))).values()]
    assert found == ["codec/model.safetensors", "g/model.safetensors", "model_index.json"], "weights, then descriptions"
    assert weight_files(options(str(tmp_path / "absent"))) == {"backbone": tmp_path / "absent"}
    assert weight_files(options("someone/absent")) == {"backbone": Path("someone/absent")}
    assert unset_weights(options(None)) == ["backbone"]


def test_a_repository_may_hold_a_folder_of_another_library(folder, monkeypatch):
    import huggingface_hub

    asked: list[dict[str, Any]] = []

    def download(name: str, **how: Any) -> str:
        asked.append({"name": name, **how})
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert np.array_equal(picture(load("someone/two", FOLDER)), picture(load(folder, FOLDER)))
    (once,) = asked
    assert once["name"] == "someone/two"
    assert {"*.json", "*.safetensors"} <= set(once["allow_patterns"])
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(UpsrError, match="no such weight file"):
        load("someone/two", FOLDER)
    assert "*.bin" in asked[-1]["allow_patterns"]


def given(*arguments: str) -> dict[str, Any]:
    parser = ArgumentParser()
    add_model(parser)
    return model_of(parser.parse_args(arguments))


def test_arguments_name_the_model_and_its_parts():
    assert given() == {"source": DEFAULT_WEIGHTS, "method": None, "parts": {}}
    arguments = ("--weights", "a.pth", "--method", "x", "--part", "codec=b=c.pth", "--g", "g.pth")
    assert given(*arguments) == {"source": "a.pth", "method": "x", "parts": {"codec": "b=c.pth", "g": "g.pth"}}
    for wrong in (("--part", "codec"), ("--part", "=b.pth"), ("--part", "codec="), ("--part", "g=a", "--g", "b")):
        with pytest.raises(UpsrError, match="--part"):
            given(*wrong)
