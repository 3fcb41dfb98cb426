"""`upsr doctor`: what it says, and that a device that computes wrong is found. Accelerators: test_accelerator.py."""

from __future__ import annotations

import json

import torch

from upsr import cli
from upsr.busy import cores
from upsr.pipeline import selftest


def test_people_are_shown_what_there_is(capsys, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"torch {torch.__version__}" in said
    assert f"cores: {cores()} allowed of" in said
    assert "OMP_WAIT_POLICY=passive" in said
    assert "\ncpu: " in said
    assert "float32: right: differs by" in said
    assert said.endswith("every device is right\n")


def test_programs_are_given_json(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["right"]
    assert said["devices"][0]["device"] == "cpu"
    finding = said["devices"][0]["findings"][0]
    assert finding["dtype"] == "float32"
    assert 0 < finding["largest"] < 0.1  # the stored result is rounded
    assert finding["seconds"] > 0


def test_a_processor_that_computes_wrong_is_found(capsys, monkeypatch):
    convolution = torch.nn.functional.conv2d
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *args, **kwargs: convolution(*args, **kwargs) * 1.01)
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "float32: WRONG: differs by" in said
    assert "a device is wrong" in said


def test_a_result_that_is_not_finite_is_found(monkeypatch):
    monkeypatch.setattr(selftest, "restore", lambda *args, **kwargs: torch.full((1, 3, 96, 96), torch.nan))
    findings = list(selftest.check_device(torch.device("cpu")))
    assert {finding.problem for finding in findings} == {"the result is not finite"}
    assert not any(finding.right for finding in findings)
