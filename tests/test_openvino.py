"""The denoiser in OpenVINO: its process with a stand-in for the package, and the package itself where it is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from upsr import cli
from upsr.accelerate import in_openvino
from upsr.accelerate.in_openvino import InOpenVINO
from upsr.archs import UNetModelSwin
from upsr.errors import UpsrError
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.provenance import processor

CPU = torch.device("cpu")
REPOSITORY = Path(__file__).parents[1]
INSTALLED = importlib.util.find_spec("openvino") is not None  # importing it may send telemetry

STAND_IN = """
import json, os, pathlib, signal
import numpy, torch

try:
    import openvino_telemetry
except ImportError:
    pass
else:
    os._exit(7)


def convert_model(network, example_input, input):
    assert [list(tensor.shape) for tensor in example_input] == input
    return network


class Core:
    def compile_model(self, network, device, settings):
        with open(os.environ["STAND_IN_LOG"], "a") as file:
            file.write(json.dumps([device, settings]) + "\\n")
        self.network = network
        return self

    def create_infer_request(self):
        return self

    def infer(self, arrays, share_inputs):
        print("words of a library")
        how = pathlib.Path(os.environ["STAND_IN"]).read_text()
        if how == "crashes":
            os.kill(os.getpid(), signal.SIGILL)
        if how == "fails":
            raise RuntimeError("no kernel\\nfor this")
        with torch.no_grad():
            result = self.network(*map(torch.from_numpy, arrays)).numpy()
        return [result + {"right": 0, "wrong": 1, "overflows": numpy.nan}[how]]
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A package openvino that computes with torch, or goes wrong."""
    for name in ("openvino", "openvino_telemetry"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(STAND_IN if name == "openvino" else "")
    (tmp_path / "openvino-2026.4.1.dist-info").mkdir()
    (tmp_path / "openvino-2026.4.1.dist-info/METADATA").write_text("Name: openvino\nVersion: 2026.4.1\n")
    log = tmp_path / "log"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(REPOSITORY)]))
    monkeypatch.setenv("STAND_IN_LOG", str(log))
    monkeypatch.setenv("STAND_IN", str(tmp_path / "how"))
    return StandIn(tmp_path / "how", log)


class StandIn:
    """What it does, and what it has compiled."""

    def __init__(self, how, log):
        self._how, self._log = how, log
        self.does("right")

    def does(self, how):
        self._how.write_text(how)

    def compiled(self):
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@pytest.fixture(scope="module")
def network():
    return tiny.random_weights(UNetModelSwin(**tiny.UNET)).eval().requires_grad_(False)


def inputs(side, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, lq = (torch.randn(1, count, side, side, generator=generator) for count in (48, 96))
    return x, torch.tensor([2]), lq


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_last_sizes_are_kept_and_others_compiled_again(network, stand_in, monkeypatch):
    monkeypatch.setattr(in_openvino, "_MOST_SIZES", 2)
    view = InOpenVINO(network, torch.bfloat16, CPU)
    with torch.inference_mode():
        for seed, (side, number) in enumerate([(16, 1), (16, 1), (32, 2), (16, 2), (48, 3), (16, 3), (32, 4), (48, 5)]):
            given = inputs(side, seed)
            close(view(*given), network(*given))
            assert len(stand_in.compiled()) == number, (side, number)
        assert view.given(given[2]) is view
    device, settings = stand_in.compiled()[0]
    assert device == "CPU"
    assert settings == {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": torch.get_num_threads()}


@pytest.mark.slow
def test_an_interrupted_call_leaves_no_answer_for_the_next(network, stand_in, monkeypatch):
    view = InOpenVINO(network, torch.float32, CPU)
    with torch.inference_mode(), monkeypatch.context() as patch:
        view(*inputs(16))

        def interrupted(pipe):
            raise KeyboardInterrupt

        patch.setattr(in_openvino, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            view(*inputs(16, 1))
    with torch.inference_mode():
        close(view(*inputs(16, 2)), network(*inputs(16, 2)))


@pytest.mark.slow
def test_what_goes_wrong_is_said_in_one_line_with_versions(network, stand_in):
    view = InOpenVINO(network, torch.float32, CPU)
    reasons = {
        "fails": "RuntimeError: no kernel for this",
        "wrong": r"its result is 1 from torch's, which is \S+, in root mean square",
        "overflows": "its result is nan from torch's, .*",
        "crashes": "its process ended with SIGILL",
    }
    with torch.inference_mode():
        for number, (how, reason) in enumerate(reasons.items(), 1):
            stand_in.does(how)
            for _ in range(2):  # a size that failed is not tried again
                with pytest.raises(UpsrError, match=rf"\({reason}\).*--compile none") as error:
                    view(*inputs(16 * number))
                assert f"OpenVINO 2026.4.1, torch {torch.__version__}, {processor()}" in str(error.value)
                assert "\n" not in str(error.value)
                stand_in.does("right")
            assert len(stand_in.compiled()) == number
        given = inputs(16 * len(reasons) + 16)
        close(view(*given), network(*given))  # in a process of its own again


def test_a_crash_is_said_and_leaves_no_result(stand_in, tmp_path, capsys):
    stand_in.does("crashes")
    _photo(tmp_path / "photos/one.png")
    _photo(tmp_path / "photos/two.png")
    code = cli.main(["upscale", str(tmp_path / "photos"), "--weights", "tiny", "--devices", "cpu", "--dtype", "float32",
                     "--compile", "openvino", "-o", str(tmp_path / "out")])  # fmt: skip
    said = capsys.readouterr()
    assert code == 1, said
    assert "0 upscaled, 0 skipped, 2 failed" in said.err
    assert "OpenVINO does not compute the denoiser here" in said.err
    assert len(stand_in.compiled()) == 1  # photos of a size that failed cost no time
    assert "Traceback" not in said.err
    assert not list((tmp_path / "out").glob("*.png"))


def _photo(path):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (16, 16), "teal").save(path)


def _pixels(folder):
    (path,) = folder.glob("*.png")
    return np.asarray(Image.open(path)).astype(int)


def test_a_photo_is_that_of_torch_and_says_what_made_it(stand_in, tmp_path):
    _photo(tmp_path / "photo.png")
    record = tmp_path / "record.json"
    common = ["upscale", str(tmp_path / "photo.png"), "--weights", "tiny", "--devices", "cpu", "--dtype", "float32"]
    assert cli.main([*common, "-o", str(tmp_path / "torch")]) == 0
    assert cli.main([*common, "-o", str(tmp_path / "own"), "--compile", "openvino", "--record", str(record)]) == 0
    expected, actual = (_pixels(tmp_path / name) for name in ("torch", "own"))
    assert abs(actual - expected).max() <= 1
    facts = json.loads(record.read_text())
    assert facts["compile"] == "openvino"
    assert facts["versions"]["openvino"] == "2026.4.1"
    assert len(stand_in.compiled()) == 1


@pytest.mark.slow
def test_a_process_ends_with_its_caller(stand_in):
    program = (
        "import torch; from tests.test_openvino import *; torch.set_grad_enabled(False)\n"
        "view = InOpenVINO(tiny.random_weights(UNetModelSwin(**tiny.UNET)).eval(), torch.float32, CPU)\n"
        "view(*inputs(16)); print(view._process.pid)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(ended.stdout), 0)


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    def none_of_it(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", none_of_it)
    with pytest.raises(UpsrError, match=r"openvino is not installed; pip install 'upsr\[openvino\]'"):
        UPSRPipeline.from_pretrained("tiny", device="cpu", dtype="float32", compile="openvino")


def test_types_and_devices_that_it_has_not_are_refused_by_name(network):
    with pytest.raises(UpsrError, match="compile: openvino computes in float32 or bfloat16, and dtype is float16"):
        InOpenVINO(network, torch.float16, CPU)
    with pytest.raises(UpsrError, match="compile: openvino computes on the CPU, and the device is meta"):
        InOpenVINO(network, torch.float32, torch.device("meta"))


@pytest.mark.skipif(not INSTALLED, reason="openvino, which is not in requirements.txt, is not installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_shipped_denoiser_is_within_a_level(dtype):
    plain = UPSRPipeline.from_pretrained("tiny", device="cpu", dtype="float32").method.parts()["denoiser"]
    view = InOpenVINO(plain, dtype, CPU)
    generator = torch.Generator().manual_seed(0)
    given = (
        torch.randn(1, 48, 64, 64, generator=generator),
        torch.tensor([2]),
        torch.rand(1, 96, 64, 64, generator=generator),
    )
    with torch.inference_mode():
        first, second, expected = view(*given), view(*given), plain(*given)
    assert torch.equal(first, second)
    assert ((first - expected).abs() / 2 < 1 / 255).double().mean() >= 0.999  # its range is [-1, 1]
