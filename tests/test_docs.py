"""The documentation: the site builds without a warning, every page is in it, and links of other pages lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ELSEWHERE = ("http://", "https://", "mailto:", "#")


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    reference = (tmp_path / "site/api/index.html").read_text()
    assert "UPSRPipeline" in reference
    assert ":class:" not in reference
    photographer = (tmp_path / "site/photographer/index.html").read_text()
    assert "experiments/pretrained_models/RealESRGAN_x4plus.pth" in photographer


def pages_of(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    values = entry if isinstance(entry, list) else list(entry.values())  # type: ignore[attr-defined]
    return [page for value in values for page in pages_of(value)]


def test_every_page_is_in_the_navigation_once():
    pages = pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(pages) == sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "datasets/README.md",
        "examples/README.md",
        "experiments/README.md",
        "integrations/comfyui/README.md",
        "upsr/weights/tiny/README.md",
    ],
)
def test_links_of_a_page_outside_the_site_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(ELSEWHERE):
            assert ((ROOT / page).parent / target.partition("#")[0]).exists(), f"{page}: {target}"


def test_the_links_of_pages_that_leave_the_site_name_files_of_the_repository():
    """The hook turns them into names; a file that is not there is a warning, which is an error."""
    from scripts.mkdocs_hooks import on_page_markdown

    class Config:
        docs_dir, repo_url = str(ROOT / "docs"), None

    class Page:
        class file:  # noqa: N801
            src_uri = "methods/upsr.md"

    text = "[code](../../upsr/rng.py), [the card](../../upsr/weights/tiny/README.md#measured), [here](../training.md)"
    shown = on_page_markdown(text, Page, Config, None)
    assert shown == "code (`upsr/rng.py`), the card (`upsr/weights/tiny/README.md`), [here](../training.md)"
    Config.repo_url = "https://example.org/upsr/"
    linked = on_page_markdown(text, Page, Config, None)
    assert "(https://example.org/upsr/blob/main/upsr/weights/tiny/README.md#measured)" in linked
