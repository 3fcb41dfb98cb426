"""Computations that a visitor can stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class CancelledError(Exception):
    """Raised inside a computation to end it."""


class Token:
    """Carries the end of a computation from the visitor to its thread."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End the computation when it asks next."""
        self._cancelled.set()

    def check(self) -> None:
        """Called by the computation after each unit of work.

        Raises:
            CancelledError: it is no longer wanted.
        """
        if self._cancelled.is_set():
            raise CancelledError


class Jobs:
    """Runs one computation at a time in a thread, and can stop those of a session or all."""

    def __init__(self) -> None:
        self._running: dict[Token, tuple[str, asyncio.Future[Any]]] = {}
        self._one_at_a_time = threading.Lock()

    async def run(self, session: str, work: Callable[[Token], T]) -> T:
        """Wait for ``work``. When the waiting is cancelled, ``work`` is stopped first.

        Raises:
            CancelledError: it was stopped.
        """
        token = Token()
        thread = asyncio.ensure_future(asyncio.to_thread(self._work, token, work))
        self._running[token] = session, thread
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            token.cancel()
            await asyncio.wait([thread])
            thread.exception()  # else asyncio reports that no one looked at it
            raise
        finally:
            self._running.pop(token, None)

    def _work(self, token: Token, work: Callable[[Token], T]) -> T:
        with self._one_at_a_time:
            token.check()
            return work(token)

    def cancel(self, session: str | None = None) -> None:
        """Stop the computations of a session, or of all."""
        for token, (owner, _) in list(self._running.items()):
            if session is None or owner == session:
                token.cancel()

    async def stop(self, session: str) -> None:
        """Stop the computations of a session, and wait for their ends."""
        self.cancel(session)
        if threads := [thread for owner, thread in self._running.values() if owner == session]:
            await asyncio.wait(threads)
