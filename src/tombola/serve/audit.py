"""A line for every request, of who asked whom and what became of it, without what was asked or answered."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tombola.serve.registry import Meant

QUIET = {"/livez", "/readyz", "/metrics"}  # asked every few seconds by machines


class Audit:
    """Middleware: writes the line, counts the request, gives it a number (``X-Request-Id``).

    Args:
        app: the service.
        write: takes a line, without an end.
        count: takes whom a request meant (None: nobody), its status and seconds.
    """

    def __init__(
        self, app: ASGIApp, write: Callable[[str], None], count: Callable[[Meant | None, int, float], None]
    ) -> None:
        self.app, self.write, self.count = app, write, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in QUIET:
            await self.app(scope, receive, send)
            return
        began, number, status, size = time.perf_counter(), secrets.token_hex(8), 500, 0
        note: dict[str, Any] = scope.setdefault("state", {})
        note["audit"] = {}

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", number.encode())]
            await send(message)

        async def received() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            return message

        try:
            await self.app(scope, received, sent)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", None)  # never the path itself: it may hold anything
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "request": number,
                "client": (scope.get("client") or ("", 0))[0],
                "method": scope["method"][:10],
                "route": route,
                "status": status,
                "bytes": size,
                "ms": round(seconds * 1e3, 2),
                **note["audit"],
            }
            self.write(json.dumps(line))
            if route == "/v1/predict":
                self.count(note.get("meant"), status, seconds)
