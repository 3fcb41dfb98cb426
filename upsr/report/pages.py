"""Pages of HTML that need no server and nothing from the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from markupsafe import Markup

from upsr.atomic import atomic_write

_PAGES = Path(__file__).parent / "page"


def write_page(path: Path, name: str, data: Mapping[str, Any], **fields: Any) -> Path:
    """Write a page from the template ``page/NAME.html``, in which ``raw(FILE)`` is the text of a style or script.

    Args:
        data: for its script.
        fields: for its template.

    Returns:
        ``path``.
    """
    environment = Environment(
        loader=FileSystemLoader(_PAGES),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["raw"] = lambda file: Markup((_PAGES / file).read_text(encoding="utf-8"))
    # "</script>" would end the script inside a string too.
    embedded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    page = environment.get_template(f"{name}.html").render(data=embedded, **fields)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path
