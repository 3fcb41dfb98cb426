"""Tensors out of TorchScript archives: none of what an archive holds is run."""

from __future__ import annotations

import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

from upsr.archs.torchscript import is_torchscript, torchscript_tensors
from upsr.archs.weights import read_weight_file
from upsr.errors import UpsrError


class Block(nn.Module):
    """A norm, and attributes of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.sizes = [1, 2, 3]
        self.names = {"a": 0.5}
        self.mask = torch.ones(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x) * self.sizes[0] * self.names["a"] + self.mask.sum()


@pytest.fixture
def network():
    return nn.Sequential(nn.Conv2d(3, 3, 1), Block()).half()


@pytest.fixture
def archive(network, tmp_path):
    torch.jit.script(network).save(str(tmp_path / "archive.pt"))
    return tmp_path / "archive.pt"


def test_tensors_have_the_names_of_the_module(network, archive):
    read = torchscript_tensors(archive)
    state = network.state_dict()
    assert set(read) == {*state, "1.mask"}
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in state.items())


def test_the_program_is_neither_run_nor_compiled(archive, monkeypatch):
    monkeypatch.setattr(torch._C, "import_ir_module", None)  # what torch.jit.load calls
    with pytest.raises(TypeError):
        torch.jit.load(archive)
    assert len(read_weight_file(archive, scripted=True)) == 8


def test_archives_are_told_from_weights_and_read_where_they_are_expected(network, archive, tmp_path):
    torch.save(network.state_dict(), tmp_path / "state.pth")
    (tmp_path / "other.pth").write_bytes(b"neither")
    assert [is_torchscript(tmp_path / name) for name in ("archive.pt", "state.pth", "other.pth")] == [
        True,
        False,
        False,
    ]
    assert set(read_weight_file(tmp_path / "state.pth", scripted=True)) == set(network.state_dict())
    with pytest.raises(UpsrError, match="a TorchScript program and not weights"):
        read_weight_file(archive)


class Command:
    def __init__(self, line: str) -> None:
        self.line = line

    def __reduce__(self):
        return os.system, (self.line,)


@pytest.mark.parametrize("module", [os.system.__module__, "__torch__"])
def test_what_would_be_run_is_refused_or_an_empty_object(archive, tmp_path, module):
    pickled = pickle.dumps(Command(f"touch {tmp_path / 'was here'}"), protocol=2)
    assert os.system.__module__.encode() in pickled
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(tmp_path / "changed.pt", "w") as target:
        for name in source.namelist():
            content = pickled.replace(os.system.__module__.encode(), module.encode())
            target.writestr(name, content if name.endswith("data.pkl") else source.read(name))
    if module == "__torch__":
        assert read_weight_file(tmp_path / "changed.pt", scripted=True) == {}
    else:
        with pytest.raises(UpsrError, match=r"holds more than tensors and plain values \(.*system"):
            read_weight_file(tmp_path / "changed.pt", scripted=True)
    assert not (tmp_path / "was here").exists()


def test_a_damaged_archive_is_named(archive):
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"torch._utils", b"torch._other"))
    with pytest.raises(UpsrError, match=r"archive\.pt: "):
        read_weight_file(archive, scripted=True)
