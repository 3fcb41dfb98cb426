"""Hooks of the documentation's site: links to files outside docs/, and the roles of docstrings."""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

logger = logging.getLogger("mkdocs.hooks.upsr")

_LINK = re.compile(r"\[([^\]\[]*)\]\(((?:\.\./)+[^)#\s]*)(#[^)\s]*)?\)")
_ROLE = re.compile(r":(?:class|meth|func|data|attr|mod|exc):<code>~?")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to files of the repository lead there, or without ``repo_url`` name the file; one that is not there is a warning."""
    folder = posixpath.dirname(page.file.src_uri)
    root = Path(config.docs_dir).parent

    def link(match: re.Match[str]) -> str:
        text, target = match[1], posixpath.normpath(posixpath.join("docs", folder, match[2]))
        if target.startswith("docs/"):
            return match[0]
        if not (root / target).exists():
            logger.warning("%s: %s is not in the repository", page.file.src_uri, target)
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{target}{match[3] or ''})"
        return text if target in text else f"{text} (`{target}`)"

    return _LINK.sub(link, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """References of docstrings are shown as code."""
    return _ROLE.sub("<code>", html)
