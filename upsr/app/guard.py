"""Restricts Gradio's server to the routes that the page needs, none of which fetches from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from upsr.app.limits import Limits, RateLimit

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]

_UPLOAD = "/gradio_api/upload"
_POSTS = re.compile(r"/gradio_api/(upload|queue/join|cancel|reset|run/predict)/?")
_GETS = re.compile(
    r"/|/(assets|static|svelte)/.+|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?"
    r"|/gradio_api/(startup-events|theme\.css|upload_progress|queue/data|heartbeat/\w+|file=(?!\s*[a-z][a-z0-9+.-]+:).+)",
    re.IGNORECASE,
)
_LARGEST_BODY = 1 << 19
"""Of an event, in bytes; a painted mask, a PNG of at most 640 pixels a side, is part of one."""
_MULTIPART_OVERHEAD = 1 << 14
_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; "
    b"object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class Guard:
    """ASGI middleware: an allowlist of routes, limits on what is sent, and headers that keep the browser at home."""

    def __init__(self, app: _App, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._uploads = RateLimit(limits.requests_per_minute)

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Pass a request on, or refuse it with one line."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None and scope["method"] == "POST" and not scope["path"].startswith(_UPLOAD):
            receive, refusal = await _checked(receive)
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        await self._app(scope, receive, _with_headers(send))

    def _refusal(self, scope: _Message) -> tuple[int, str] | None:
        path, method = scope["path"], scope["method"]
        if method in ("GET", "HEAD"):
            return None if _GETS.fullmatch(path) else (403, "Not available.")
        if method != "POST" or not _POSTS.fullmatch(path):
            return 403, "Not available."
        return self._refused_upload(scope) if path.startswith(_UPLOAD) else None

    def _refused_upload(self, scope: _Message) -> tuple[int, str] | None:
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return 411, "The length of an upload must be given."
        most = max(self._limits.upload_bytes, self._limits.batch_bytes)  # Gradio counts each of several files itself
        if int(length) > most + _MULTIPART_OVERHEAD:
            return 413, f"The upload is larger than {most:,} bytes."
        if wait := self._uploads.wait(client_of(scope)):
            return 429, f"Too many uploads; the next one is possible in {wait:.0f} s."
        return None


def client_of(scope: _Message) -> str:
    """The address that the rate of requests is limited for."""
    return scope["client"][0] if scope.get("client") else ""


async def _checked(receive: _Receive) -> tuple[_Receive, tuple[int, str] | None]:
    """Read the body of an event; Gradio would fetch addresses that stand where the path of an upload should."""
    body, more = b"", True
    while more and len(body) <= _LARGEST_BODY:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if len(body) > _LARGEST_BODY:
        return receive, (413, "The request is too large.")
    try:
        given = json.loads(body or b"null")
    except (ValueError, RecursionError):
        return receive, (400, "The request is not JSON.")
    if _names_elsewhere(given):
        return receive, (403, "Not available.")
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> _Message:
        return unread.pop() if unread else await receive()

    return again, None


def _names_elsewhere(given: Any) -> bool:
    """True if the path of a file is an address."""
    waiting = [given]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(path := value.get("path"), str) and re.match(
                r"\s*[a-z][a-z0-9+.-]+:|\s*//", path, re.IGNORECASE
            ):
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False


async def _refuse(send: _Send, status: int, message: str) -> None:
    body = json.dumps({"detail": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: _Send) -> _Send:
    async def sending(message: _Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_HEADERS]
        await send(message)

    return sending
