"""Fixtures shared by all tests."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.page import FakePipeline

if "PYTEST_XDIST_WORKER" in os.environ:
    # Test files run side by side (make test): one core each, for the processes they start too.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Where a test asks for two, a thread that waits for one without a core leaves it its own, and does not spin.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

REPOSITORY = Path(__file__).resolve().parents[1]
LONGEST = (
    "method_contract",
    "app",
    "survival",
    "training",
    "training_upkeep",
    "evaluation",
    "app_results",
    "pipeline",
    "app_accessibility",
    "upscale",
    "export_web",
    "vote",
    "stablesr",
)
"""Files of half a minute and more: they begin first, so that workers end at about the same time. Slow tests are not counted."""


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector of cycles need not look at it again, which took a tenth of the time."""
    gc.collect()
    gc.freeze()


def pytest_configure() -> None:
    """A crash in native code prints the stack of its thread alone: with those of all, as pytest does, it was lost in a log."""
    faulthandler.enable(os.dup(2), all_threads=False)  # a copy: pytest captures the other


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first; the order within a file stays."""
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Reference results, photos and weights that are not part of the repository; tests that need them skip without."""
    path = Path(os.environ.get("UPSR_SHARED", REPOSITORY.parent / "shared"))
    if not path.is_dir():
        pytest.skip(
            "compares with photos or results that are not part of the repository; nothing is wrong with your installation "
            f"(no folder {path}; UPSR_SHARED names one)"
        )
    return path


@pytest.fixture(autouse=True)
def logging_as_at_the_start():
    """A run sends messages to its own console and file; each test starts without those of others."""
    logger = logging.getLogger("upsr")
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
    logger.handlers.clear()


@pytest.fixture(scope="module")
def fake() -> FakePipeline:
    """A pipeline for the page of ``upsr serve``."""
    from tests.page import FakePipeline

    return FakePipeline()


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; tests that need it skip where it is absent."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, a development dependency")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        program = driver.chromium.launch(executable_path=executable, args=arguments)
        yield program
        program.close()
