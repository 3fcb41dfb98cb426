"""Gradio's server, kept to this machine: no telemetry, no sharing, nothing readable but the page and its files."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from upsr.app.limits import Limits
from upsr.choices import PORT
from upsr.errors import UpsrError

if TYPE_CHECKING:
    import gradio as gr

    from upsr.app.models import Model


def require_gradio() -> None:
    """Check that the extra is installed.

    Raises:
        UpsrError: it is not.
    """
    if find_spec("gradio") is None:
        raise UpsrError("the page needs gradio: pip install 'upsr[app]'")


def check_port(host: str, port: int) -> None:
    """Check the address before the weights are read.

    Raises:
        UpsrError: there is no such address, or another program has it.
    """
    if not 1 <= port <= 65535:
        raise UpsrError(f"--port: {port} is not between 1 and 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UpsrError(f"--host, --port: {host}:{port} cannot be used ({error.strerror}); choose another") from None


@contextlib.contextmanager
def serving(models: Sequence[Model], limits: Limits, host: str = "127.0.0.1", port: int = PORT) -> Iterator[str]:
    """Serve the page while the block runs; yields its address. Uploads and results are gone afterwards.

    Args:
        models: what a visitor may choose; the first is chosen at the start.

    Raises:
        UpsrError: gradio is missing, or the address is taken.
    """
    require_gradio()
    check_port(host, port)
    with (
        tempfile.TemporaryDirectory(prefix="upsr-serve-", ignore_cleanup_errors=True) as folder,
        _environment(folder, host),
    ):
        from upsr.app.handlers import build_app
        from upsr.app.jobs import Jobs

        jobs = Jobs()
        app = build_app(models, limits, Path(folder), jobs)
        try:
            yield _launch(app, limits, host, port)
        finally:
            jobs.cancel()
            _close(app)


def _launch(app: gr.Blocks, limits: Limits, host: str, port: int) -> str:
    from starlette.middleware import Middleware

    from upsr.app.guard import Guard
    from upsr.app.style import CSS, accessible_script, theme

    try:
        _, url, _ = app.launch(
            server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, inbrowser=False,
            show_error=False, allowed_paths=[], max_file_size=limits.upload_bytes, enable_monitoring=False,
            run_history=False, footer_links=[], strict_cors=True, ssr_mode=False, num_workers=0, pwa=False,
            mcp_server=False, app_kwargs={"middleware": [Middleware(Guard, limits=limits)]}, theme=theme(), css=CSS,
            head=accessible_script(),
        )  # fmt: skip
    except OSError:
        raise UpsrError(f"--host, --port: {host}:{port} cannot be used; choose another") from None
    return url


def _close(app: gr.Blocks) -> None:
    """End the server. Pages that are open keep a connection, which it would wait for."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it is no error that they are cut off
    if app.is_running:
        app.server.config.timeout_graceful_shutdown = 1
    app.close(verbose=False)


@contextlib.contextmanager
def _environment(folder: str, host: str) -> Iterator[None]:
    """Variables that Gradio reads, for the block; those a user has set for other programs must not open paths here."""
    hosts = ",".join(
        filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1,localhost", host))
    )
    wanted = {
        "GRADIO_TEMP_DIR": folder,
        "GRADIO_EXAMPLES_CACHE": f"{folder}/examples",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": hosts,
        "no_proxy": hosts,
    }
    unwanted = ("GRADIO_ALLOWED_PATHS", "GRADIO_SHARE", "GRADIO_ROOT_PATH", "GRADIO_WATCH_DIRS", "GRADIO_VIBE_MODE")
    before: Mapping[str, str] = dict(os.environ)
    os.environ.update(wanted)
    for name in unwanted:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        for name in (*wanted, *unwanted):
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)
