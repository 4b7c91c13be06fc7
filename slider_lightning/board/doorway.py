"""Who may send requests to the board, and who still waits for an answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Seconds that a browser has between its question and the stream that brings the answer.
PATIENCE = 3.0
_ARRIVED = "slider_lightning.arrived"


class Visitors:
    """The sessions with an open stream for answers."""

    def __init__(self) -> None:
        self._streams: Counter[str] = Counter()

    def opened(self, session: str) -> None:
        """A session listens from now on."""
        self._streams[session] += 1

    def closed(self, session: str) -> None:
        """One of its streams has ended."""
        self._streams[session] -= 1
        if not self._streams[session]:
            del self._streams[session]

    def gone(self, session: str | None, scope: Scope) -> bool:
        """Whether nobody waits for the answer to a request of a session."""
        return session not in self._streams and time.monotonic() - scope.get(_ARRIVED, 0.0) > PATIENCE


class Doorway:
    """An ASGI middleware that refuses what does not come from the board's own page with 403.

    A page elsewhere can make its visitor's browser send requests to this machine, under its own Origin or, after it
    has turned its own name to this address, under that name as Host. No control of the page takes files, so uploads
    are refused as well.

    Args:
        app: what is served.
        hosts: the values of Host that are the board's own; None takes every one, where names are not known.
        visitors: notes whose streams are open.
    """

    def __init__(self, app: App, hosts: frozenset[str] | None, visitors: Visitors) -> None:
        self._app = app
        self._hosts = hosts
        self._visitors = visitors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or refuse it."""
        from starlette.responses import PlainTextResponse

        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await PlainTextResponse(refusal, 403)(scope, receive, send)
            return
        scope[_ARRIVED] = time.monotonic()
        session = _stream_of(scope)
        if session is None:
            await self._app(scope, receive, send)
            return
        self._visitors.opened(session)
        try:
            await self._app(scope, receive, send)
        finally:
            self._visitors.closed(session)

    def _refusal(self, scope: Scope) -> str | None:
        found = [(name, value.decode("latin-1").lower()) for name, value in scope["headers"]]
        hosts = [value for name, value in found if name == b"host"]
        origins = [value for name, value in found if name == b"origin"]
        if len(hosts) != 1 or (self._hosts is not None and hosts[0] not in self._hosts):
            return "Expected the board's own address as Host; open the address that its command logs."
        if any(origin.partition("://")[2] != hosts[0] for origin in origins):
            return "Expected a request of the board's own page, but its Origin is another."
        if scope["path"].rstrip("/").endswith("/upload"):
            return "Expected no upload: no control of the board takes files."
        return None


def own_hosts(host: str, port: int) -> frozenset[str]:
    """The values of Host under which a loopback address is reached from its own machine."""
    names = {"localhost", "127.0.0.1", "[::1]", f"[{host.lower()}]" if ":" in host else host.lower()}
    return frozenset({f"{name}:{port}" for name in names} | (names if port == 80 else set()))


def _stream_of(scope: Scope) -> str | None:
    """The session whose answers a request streams."""
    if not scope["path"].endswith("/queue/data"):
        return None
    sessions = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("session_hash")
    return sessions[0] if sessions else None
