"""Exported networks give what torch gives, at sizes they were not traced at, and restore a photo without this package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from upsr import cli
from upsr.archs import ATD, CompactSR
from upsr.errors import UpsrError
from upsr.export import check
from upsr.export import export as exporting
from upsr.export.check import Difference
from upsr.export.export import export_model, write
from upsr.export.trace import Sizes, trace
from upsr.methods import Facts, Method
from upsr.methods.graphs import Exported, Graph
from upsr.methods.sr.method import SR
from upsr.methods.upsr.method import UPSR
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.provenance import file_digest, weights_digest
from upsr.weights import shipped_names

pytest.importorskip("onnxscript", reason="exporting to ONNX needs pip install 'upsr[export]'")
ort = pytest.importorskip("onnxruntime", reason="exporting to ONNX needs pip install 'upsr[export]'")

PAGE = Path(__file__).parents[1] / "docs/export.md"


def model_of(g: torch.nn.Module) -> UPSR:
    """The middle of the denoiser attends, no other place: each more is ten seconds of exporting."""
    return tiny.model(tiny.random_weights(g), unet={**tiny.UNET, "attention_resolutions": []})


@pytest.fixture(scope="module")
def compact(tmp_path_factory):
    """A model with CompactSR, and its folder of ONNX and .pt2 files."""
    model, folder = model_of(CompactSR(num_feat=8, num_block=2)), tmp_path_factory.mktemp("export") / "compact"
    export_model(model, folder, formats=["onnx", "torch"], source="a test")
    return model, folder


def run_onnx(path: Path, *inputs: torch.Tensor) -> torch.Tensor:
    session = ort.InferenceSession(path)
    named = {given.name: value.numpy() for given, value in zip(session.get_inputs(), inputs, strict=True)}
    return torch.from_numpy(session.run(None, named)[0])


def denoiser_inputs(batch: int, height: int, width: int) -> tuple[torch.Tensor, ...]:
    return torch.randn(batch, 48, height, width), torch.arange(batch), torch.randn(batch, 96, height, width)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(4, 16, 16), (1, 80, 32), (2, 48, 96)])
def test_onnx_takes_sizes_that_the_exporter_did_not_see(compact, size):
    model, folder = compact
    batch, height, width = size
    lq, inputs = torch.rand(batch, 3, height, width), denoiser_inputs(*size)
    with torch.inference_mode():
        torch.testing.assert_close(run_onnx(folder / "g.onnx", lq), model.g.network(lq), atol=1e-5, rtol=0)
        given, expected = run_onnx(folder / "denoiser.onnx", *inputs), model.denoiser(*inputs)
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_pt2_takes_sizes_that_the_exporter_did_not_see(compact):
    model, folder = compact
    inputs = denoiser_inputs(2, 48, 80)
    loaded = torch.export.load(folder / "denoiser.pt2").module()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(*inputs), model.denoiser(*inputs), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_record_says_what_was_exported_and_measured(compact):
    model, folder = compact
    assert {f.name for f in folder.iterdir()} == {"g.onnx", "g.pt2", "denoiser.onnx", "denoiser.pt2", "export.json"}
    assert [f.name for f in folder.parent.iterdir()] == [folder.name], "something unfinished was left"
    record = json.loads((folder / "export.json").read_text())
    assert record["opset"] == 20
    assert {"torch", "onnx", "onnxruntime", "onnxscript"} <= record["versions"].keys()
    assert record["restoring"]["timesteps"] == [4, 3, 2, 1, 0]
    assert record["networks"]["denoiser"]["weights_sha256"] == weights_digest(model.denoiser)
    assert record["networks"]["denoiser"]["inputs"]["x"] == ["batch", 48, "height", "width"]
    for part in record["networks"].values():
        for file in part["files"]:
            assert file["sha256"] == file_digest(folder / file["name"])
            assert file["smallest_side"] == 16 or file["format"] == "torch"
            assert len(file["differences"]) == 3
            assert all(d["max_abs_difference"] < 1e-5 for d in file["differences"])


def example() -> str:
    return re.search(r"```python\n(.+?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddim", "posterior"])
def test_the_example_of_the_page_restores_what_the_model_restores(compact, sampler, tmp_path, monkeypatch):
    model, folder = compact
    monkeypatch.setattr(model, "sampling", replace(model.sampling, sampler=sampler))
    for name in ("g.onnx", "denoiser.onnx"):
        (tmp_path / name).hardlink_to(folder / name)
    (tmp_path / "export.json").write_text(json.dumps({"restoring": model.exported().restoring}))
    page: dict = {"__name__": "page"}
    exec(compile(example(), "docs/export.md", "exec"), page)
    lq = torch.from_numpy(tiny.picture(32, 48)).permute(2, 0, 1)[None].float() / 255
    noise = [torch.randn(1, 48, 32, 48) for _ in range(5)]
    restored = page["restore"](lq.numpy(), lambda k, shape: noise[k].numpy().reshape(shape), tmp_path)
    with torch.inference_mode():
        expected = model.restore(lq, lambda k: noise[k])
    np.testing.assert_allclose(restored, expected.numpy(), atol=1e-4)
    assert expected.std() > 0.05


@pytest.mark.slow
def test_the_example_of_the_page_is_a_program_for_photos_of_any_size(compact, tmp_path):
    (tmp_path / "restore.py").write_text(example(), encoding="utf-8")
    Image.fromarray(tiny.picture(21, 13)).save(tmp_path / "photo.png")
    arguments = [sys.executable, "restore.py", str(compact[1]), "photo.png", "restored.png"]
    subprocess.run(arguments, cwd=tmp_path, check=True, timeout=120)
    assert Image.open(tmp_path / "restored.png").size == (52, 84)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", shipped_names())
def test_shipped_weights_are_exported_as_the_page_says_and_restore_a_photo(name, threads, tmp_path, monkeypatch):
    """The page's command and program; the networks have several attention heads, as none of the tests' own has."""
    # one size instead of three
    monkeypatch.setattr(check, "compared", lambda sizes, least: [(1, 2 * sizes.multiple, sizes.multiple)])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert cli.main(["export", name, "-o", str(tmp_path / name)]) == 0
    finally:
        torch.set_num_threads(before)
    record = json.loads((tmp_path / name / "export.json").read_text())
    for part in record["networks"].values():
        assert all(d["max_abs_difference"] < 1e-5 for file in part["files"] for d in file["differences"])
    (tmp_path / "restore.py").write_text(example(), encoding="utf-8")
    Image.fromarray(tiny.picture(40, 33)).save(tmp_path / "photo.png")
    arguments = [sys.executable, "restore.py", name, "photo.png", "restored.png"]
    subprocess.run(arguments, cwd=tmp_path, check=True, timeout=300)
    restored = np.asarray(Image.open(tmp_path / "restored.png"), dtype=float)
    expected = np.asarray(UPSRPipeline.from_pretrained(name, device="cpu")(tiny.picture(40, 33)).images[0], dtype=float)
    assert np.square(restored - expected).mean() ** 0.5 < 12, "other noise, the same photo"


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_the_released_kind_of_g_is_exported_for_all_sizes(tmp_path, depth):
    """The second block shifts its windows, as the denoiser's do."""
    g = ATD(**{**tiny.ATD, "window_size": 16, "category_size": 128, "depths": [depth]})
    model = model_of(g)
    sizes = Sizes(16)
    written = write(trace(model.exported().graphs[0], sizes), "onnx", tmp_path, sizes, check=True)
    assert written.worst < 1e-4
    lq = torch.rand(2, 3, 16, 64)
    with torch.inference_mode():
        torch.testing.assert_close(run_onnx(tmp_path / "g.onnx", lq), g(lq), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_g_that_asks_for_the_size_is_refused_or_exported_for_one(tmp_path):
    model = model_of(ATD(**{**tiny.ATD, "category_size": 24, "depths": [1]}))  # the last group is filled up, or not
    with pytest.raises(UpsrError, match=r"^g: the graph of ATD fails at 16 x 16 .*--size H W"):
        export_model(model, tmp_path / "free")
    assert list(tmp_path.iterdir()) == []
    sizes = Sizes(16, (32, 16))
    written = write(trace(model.exported().graphs[0], sizes), "onnx", tmp_path, sizes, check=True)
    assert {(d.height, d.width) for d in written.differences} == {(32, 16)}
    assert {d.batch for d in written.differences} == {1, 3}


def test_a_difference_above_the_tolerance_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "differences", lambda *_: [Difference(1, 16, 16, 0.01)])
    with pytest.raises(UpsrError, match=r"g\.onnx: differs from torch by up to 0\.01, more than 0\.001"):
        export_model(model_of(CompactSR(num_feat=8, num_block=1)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    model = model_of(CompactSR(num_feat=8, num_block=1))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UpsrError, match="no empty folder"):
        export_model(model, tmp_path)
    with pytest.raises(UpsrError, match="multiples of 16"):
        export_model(model, tmp_path / "out", size=(16, 24))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UpsrError, match="no-such-compiler"):
        export_model(model, tmp_path / "out", formats=["aoti"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UpsrError, match=r"onnxruntime: pip install 'upsr\[export\]'"):
        export_model(model, tmp_path / "out")
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_a_method_without_export_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        UPSRPipeline, "from_pretrained", lambda *_, **__: SimpleNamespace(method=SR(CompactSR(num_feat=8, num_block=1)))
    )
    assert cli.main(["export", "g.pth", "-o", str(tmp_path / "out")]) == 2
    assert re.search(r"g\.pth: the method SR has no export; .*docs/export\.md.*\n$", said := capsys.readouterr().err)
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


class Toy(Method):
    """A method of one network that states its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.facts = Facts(scale=1, channels=1, multiple=2)

    @classmethod
    def from_options(cls, opt, *, training=False):
        raise NotImplementedError

    def restore(self, lq, noise, *, tiles=None, watch=None):
        return self.gain(lq)

    def exported(self) -> Exported:
        def examples(batch, height, width, random):
            return (torch.rand(batch, 1, height, width, generator=random),)

        return Exported(
            [Graph("gain", self.gain, {"lq": ["batch", 1, "height", "width"]}, "sr", examples)], {"scale": 1}
        )


def test_any_method_that_states_its_graphs_is_exported(tmp_path):
    method, folder = Toy().eval(), tmp_path / "out"
    (written,) = export_model(method, folder)
    record = json.loads((folder / "export.json").read_text())
    assert record["restoring"] == {"scale": 1}
    assert record["networks"]["gain"]["inputs"] == {"lq": ["batch", 1, "height", "width"]}
    assert record["networks"]["gain"]["files"] == [asdict(written)]
    lq = torch.rand(3, 1, 6, 14)
    with torch.inference_mode():
        torch.testing.assert_close(run_onnx(folder / "gain.onnx", lq), method.gain(lq), atol=1e-5, rtol=0)


def test_the_command_exports_a_model_by_name(tmp_path, monkeypatch, capsys):
    asked = []

    def from_pretrained(source: str, *, device: str, **parts: Any) -> SimpleNamespace:
        asked.append((source, device))
        model = model_of(CompactSR(num_feat=8, num_block=1))
        whole = model.exported()
        monkeypatch.setattr(model, "exported", lambda: replace(whole, graphs=whole.graphs[:1]))  # g: seconds less
        return SimpleNamespace(method=model)

    monkeypatch.setattr(UPSRPipeline, "from_pretrained", from_pretrained)
    out = tmp_path / "out"
    assert cli.main(["export", "tiny", "-o", str(out), "--size", "16", "32"]) == 0
    assert asked == [("tiny", "cpu")]
    assert re.fullmatch(r".*g\.onnx: largest difference from torch \S+ at 2 sizes\n", capsys.readouterr().out)
    assert json.loads((out / "export.json").read_text())["source"] == "tiny"
    assert cli.main(["export", "tiny", "-o", str(out), "--size", "16", "32"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
