"""The Dockerfile, read without Docker: what it copies is there and not ignored, what it installs is the tested set."""

from __future__ import annotations

import json
import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

from tests.test_wheel import SOURCES

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """Instructions in their order, with continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def copied() -> list[str]:
    """What is copied from the checkout, not from another stage."""
    return [
        source
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]


def requirements(text: str) -> set[str]:
    return {line.partition("==")[0] for line in text.splitlines() if line and not line.startswith("#")}


def test_what_is_copied_is_there_and_not_ignored():
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for source in copied():
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) or pattern.startswith(f"{source}/") for pattern in kept), source
    assert {pattern.partition("/")[0] for pattern in kept} == set(copied())


def test_all_that_a_wheel_is_built_of_is_copied():
    assert {*SOURCES} <= {*copied()}


def test_the_runtime_is_the_tested_set_without_tools_of_development(tmp_path):
    (tmp_path / "requirements.txt").write_bytes((ROOT / "requirements.txt").read_bytes())
    run = next(rest for name, rest in instructions() if name == "RUN" and rest.startswith("sed"))
    subprocess.run(["bash", "-c", run.split("&&")[0]], cwd=tmp_path, check=True)
    runtime, every = (requirements((tmp_path / f"{n}.txt").read_text()) for n in ("runtime", "requirements"))
    assert {"torch", "torchvision", "gradio", "onnxruntime", "opencv-python-headless", "diffusers"} <= runtime
    assert every - runtime == {
        "basicsr", "pyiqa", "jsonschema", "mkdocs", "mkdocs-material", "mkdocstrings", "mkdocstrings-python", "mypy",
        "playwright", "pytest", "pytest-xdist", "ruff", "types-PyYAML",
    }  # fmt: skip


def test_packages_that_are_picked_by_name_are_in_the_tested_set():
    text = (ROOT / "requirements.txt").read_text()
    picks = [pick for name, rest in instructions() if name == "RUN"
             for pick in re.findall(r"\$\(grep (?:-E )?'(.+?)' requirements\.txt\)", rest)]  # fmt: skip
    assert len(picks) == 3
    for pick in picks:
        assert re.search(pick, text, re.MULTILINE), pick


def test_the_python_is_one_that_the_project_takes():
    version = next(rest for name, rest in instructions() if name == "ARG")
    assert version in ("PYTHON=3.10", "PYTHON=3.11", "PYTHON=3.12")


def test_it_runs_the_command_as_a_user_without_rights():
    last = dict(instructions())
    assert json.loads(last["ENTRYPOINT"]) == ["upsr"]
    assert last["USER"] == "upsr"


def test_the_sources_of_torch_are_those_of_the_documentation():
    sources = re.findall(r"TORCH_INDEX=(https:\S+)", (ROOT / "Dockerfile").read_text())
    page = (ROOT / "docs/install.md").read_text()
    assert len(sources) == 2
    assert [source for source in sources if source not in page] == []
