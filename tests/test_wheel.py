"""A wheel is the whole product: commands, option files, descriptions of methods, protocols and datasets, weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests import tiny
from tests.processes import ENVIRONMENT

ROOT = Path(__file__).parents[1]
SOURCES = ("setup.py", "README.md", "LICENSE", "pyproject.toml", "MANIFEST.in", "upsr", "options")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of the wheel, built of a copy: building writes into its folder."""
    pytest.importorskip("wheel")
    root = tmp_path_factory.mktemp("wheel")
    (root / "source/datasets").mkdir(parents=True)
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, root / "source" / name)
    for path in (ROOT / "datasets").glob("*.yml"):
        shutil.copyfile(path, root / "source/datasets" / path.name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "./source",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "-w",
        "built",
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = (root / "built").glob("upsr-*.whl")
    zipfile.ZipFile(wheel).extractall(root / "site")
    return root


def upsr(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command, in a folder with nothing in it, of the installed package."""
    place = installed / "empty"
    place.mkdir(exist_ok=True)
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(installed / "site")}
    command = [sys.executable, "-m", "upsr", *arguments]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)


SEVERAL = """
import contextlib, io, json, sys
from upsr.cli import main
done = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main(arguments)
    done.append((code, out.getvalue(), errors.getvalue()))
print(json.dumps(done))
"""


def several(installed: Path, *commands: list[str]) -> list[tuple[int, str, str]]:
    """Exit code and what was printed of commands, one after the other in one process: the imports take seconds."""
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(installed / "site")}
    command = [sys.executable, "-c", SEVERAL, json.dumps(commands)]
    done = subprocess.run(
        command, cwd=installed / "empty", env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [(code, out, errors) for code, out, errors in json.loads(done.stdout.splitlines()[-1])]


def test_option_files_and_descriptions_come_with_it(installed):
    home = installed / "site/upsr/home"
    for pattern in (
        "options/*.yml",
        "options/methods/*.yml",
        "options/protocols/*.yml",
        "datasets/*.yml",
        "options/schema/*.json",
    ):
        names = {path.name for path in home.glob(pattern)}
        assert names == {path.name for path in ROOT.glob(pattern)}
        assert names


def test_the_page_of_export_comes_with_it(installed):
    names = {path.name for path in (installed / "site/upsr/export/web/page").iterdir()}
    assert names == {path.name for path in (ROOT / "upsr/export/web/page").iterdir()}
    assert (installed / "site/upsr/home/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.slow
def test_it_upscales_tests_and_lists(installed):
    Image.fromarray(tiny.picture(8, 8)).save(installed / "photo.png")
    done = upsr(installed, "upscale", str(installed / "photo.png"), "-o", "large.png")
    assert done.returncode == 0, done.stderr
    assert Image.open(installed / "empty/large.png").size == (32, 32)
    listed, *found, missing = several(
        installed,
        ["data", "list"],
        ["train", "-opt", "options/demo/stage1_tiny.yml"],
        ["test", "-opt", "options/demo/stage1_tiny.yml"],
        ["train", "-opt", "options/nothing.yml"],
    )
    assert "RealSet65" in listed[1], listed
    # The option file is found; what it names is not here.
    for code, _, errors in found:
        assert code == 2
        assert "datasets" in errors
        assert "no such option file" not in errors
    assert missing[2].count("no such option file") == 1
