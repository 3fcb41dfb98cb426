"""Commands that methods state: `upsr METHOD COMMAND`, listed and run without the command line knowing any method."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tests.test_cli import ended
from upsr.config import methods

METHOD = '''
"""A method whose commands only count."""

COMMANDS = {"count": ("counting_command", "prints numbers"), "weigh": ("nowhere", "is not imported")}
'''
COMMAND = '''
"""Prints numbers up to another."""

EXAMPLES = "examples:\\n  upsr counting count 3"


def add_arguments(parser):
    parser.add_argument("last", type=int)


def main(given):
    print(list(range(given.last)))
    return 0
'''


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """A method of a user's in the current folder; its name."""
    (tmp_path / "counting.py").write_text(METHOD)
    (tmp_path / "counting_command.py").write_text(COMMAND)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "counting"
    for module in ("counting", "counting_command"):
        sys.modules.pop(module, None)


def test_a_command_of_a_user_s_own_method_runs(counting, capsys):
    assert ended(counting, "count", "3") == 0
    assert capsys.readouterr().out == "[0, 1, 2]\n"


def test_a_method_lists_its_commands_and_imports_none(counting, capsys):
    assert ended(counting) == 0
    printed = capsys.readouterr().out
    assert "prints numbers" in printed
    assert "is not imported" in printed
    assert "counting_command" not in sys.modules


def test_a_command_of_a_method_explains_itself(counting, capsys):
    assert ended(counting, "count", "--help") == 0
    printed = capsys.readouterr().out
    assert "usage: upsr counting count" in printed
    assert "upsr counting count 3" in printed.split("examples:")[1]


def test_an_installed_method_s_short_name_does_as_well(counting, capsys, monkeypatch):
    def points(*, group, name):
        found = [EntryPoint("mine", "counting", "upsr.method")]
        return [point for point in found if (point.group, point.name) == (group, name)]

    monkeypatch.setattr(methods, "entry_points", points)
    monkeypatch.syspath_prepend(Path.cwd())
    assert ended("mine", "count", "1") == 0
    assert capsys.readouterr().out == "[0]\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("counting", "cuont", "3"), ("cuont", "count")),
        (("counting", "count"), ("last", "upsr counting count --help")),
        (("upscal", "photo.png"), ("upscal: no such command", "did you mean 'upscale'?")),
        (("sr", "calibrate"), ("sr: no such command, nor a method with commands",)),
        (("missing.method", "count"), ("missing.method", "cannot be imported")),
    ],
)
def test_a_mistake_is_one_line(counting, arguments, words, capsys):
    assert ended(*arguments) == 2
    printed = capsys.readouterr().err
    assert all(word in printed for word in words)
    assert printed.count("\n") == 1


def test_listing_the_commands_imports_no_torch():
    code = "import sys; from upsr.cli import main; code = main([]); print('torch' in sys.modules, code)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "False 0"
