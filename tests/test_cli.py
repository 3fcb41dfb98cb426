"""The command line before any command does something: help, versions, spellings, mistakes in one line."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import pytest

import upsr
from upsr.arguments import ArgumentParser, path
from upsr.cli import main
from upsr.errors import one_line


def ended(*arguments):
    """The exit code of the command, which argparse gives by raising."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return ended.code


def test_without_arguments_the_commands_are_told(capsys):
    assert ended() == 0
    printed = capsys.readouterr()
    assert "upscale" in printed.out
    assert printed.err == ""


def test_the_version_is_told(capsys):
    assert ended("--version") == 0
    assert capsys.readouterr().out == f"upsr {upsr.__version__}\n"


@pytest.mark.parametrize("action", ["list", "check", "prepare", "teach", "preview", "meta-info", "lmdb", "shards"])
def test_an_action_explains_itself_alone(action, capsys):
    assert ended("data", action, "--help") == 0
    printed = capsys.readouterr().out
    assert ("--source" in printed) == (action == "prepare")
    assert ("--workers" in printed) == (action in ("teach", "meta-info", "lmdb", "shards"))
    assert f"upsr data {action}" in printed.split("examples:")[1]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("upscale", "photo.png"), "-o/--out"),
        (("upscale", "photo.png", "-o", "large", "--sufix", "_x4"), "--sufix"),
        (("upscal", "photo.png"), "upscal"),
        (("data", "list", "--source", "photos"), "--source"),
        (("data", "shards", "--input", "photos"), "--index-only"),
        (("runs", "--root", "nowhere"), "nowhere"),
        (("export", "tiny", "-o", ""), "-o/--output: it is empty"),
    ],
)
def test_a_mistake_is_one_line_without_the_usage(arguments, word, capsys):
    assert ended(*arguments) == 2
    printed = capsys.readouterr().err
    assert word in printed
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1


@pytest.mark.parametrize("name", ["-x.png", "--x.png", "-o.png"])
def test_a_file_whose_name_begins_with_a_dash_has_a_remedy(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ("upscale", name, *(() if name == "-o.png" else ("-o", "large")))
    assert ended(*arguments) == 2
    assert "./" not in capsys.readouterr().err
    (tmp_path / name).touch()
    assert ended(*arguments) == 2
    printed = capsys.readouterr().err
    assert f"; the file {name} is given as ./{name}; " in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("spelling", ["--max-images=3", "--max_images=3", "--max-im=3", "--max_im=3"])
@pytest.mark.parametrize("declared", ["--max-images", "--max_images"])
def test_options_have_two_spellings(declared, spelling):
    parser = ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument_group("more").add_argument(declared, type=int)
    given = parser.parse_args([spelling, "a_b-c", "--", "--max_x"])
    assert (given.max_images, given.names) == (3, ["a_b-c", "--max_x"])


def test_an_empty_path_is_no_path():
    with pytest.raises(argparse.ArgumentTypeError, match="empty"):
        path("")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"photo \xc3\xbc.png", "photo ü.png"),
        (b"caf\xe9.png", "caf\\xe9.png"),
        (b"a\nb\x1b[31m.png", "a\\nb\\x1b[31m.png"),
        ("a\u2028b.png".encode(), "a\\u2028b.png"),
    ],
)
def test_any_name_is_shown_in_one_line(name, shown):
    assert one_line(name.decode("utf-8", "surrogateescape")) == shown


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, ("10000", "1000")), ({"OMP_WAIT_POLICY": "ACTIVE"}, ("None",)), ({"GOMP_SPINCOUNT": "5"}, ("5",))],
)
def test_threads_do_not_spin_for_long_unless_asked_to(given, expected):
    others = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    code = "import os, sys, upsr; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    run = [sys.executable, "-c", code]
    printed = subprocess.run(run, env={**others, **given}, capture_output=True, text=True, check=True).stdout
    spins, imported = printed.split()
    assert spins in expected
    assert imported == "False"
