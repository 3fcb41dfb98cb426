"""Figures as files, by matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from upsr.atomic import atomic_write


class FigureUnavailableError(Exception):
    """A figure cannot be drawn here; the message is the reason."""


def panels(columns: int, *, rows: int = 1, height: float) -> tuple[list[Any], Callable[[Path], None]]:
    """Axes, row by row, and a function that writes the figure."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise FigureUnavailableError("figures need matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(height * 1.25 * columns, height * rows), dpi=150)
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]

    def finish(path: Path) -> None:
        figure.tight_layout()
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="png")

    return axes, finish
