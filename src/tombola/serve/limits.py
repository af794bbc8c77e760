"""What a service takes at most."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tombola._utils.errors import UsageError
from tombola.serve.registry import Refused


@dataclass(frozen=True)
class Limits:
    """Limits of a request, and of all of them together.

    Attributes:
        body: bytes of a request.
        samples: samples of a request, or tickets that one sample is shown to.
        unfold: pixels of an image, moments of a sound: what small files may unfold to.
        seconds: from the arrival of a request to its answer.
        requests: requests at once.
        batch: samples that go through a network together.
        delay: seconds that a request waits for others to go with.
    """

    body: int = 8_000_000
    samples: int = 256
    unfold: int = 25_000_000
    seconds: float = 30.0
    requests: int = 64
    batch: int = 64
    delay: float = 0.002

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (value == 0 and name != "delay"):
                raise UsageError(f"--{name} must be above 0: got {value:g}")


class Places:
    """Places for requests; one that finds none is refused (429) at once and does not wait."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """A place, as long as this lasts."""
        if self.taken >= self.most:
            raise Refused(429, f"{self.most} requests are being answered: try again in a moment")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class Bounded:
    """Middleware: refuses a body (413) as soon as it is known to be too large, and reads no more of it.

    It is for all routes: FastAPI reads a body before it asks who sends it.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        size, said = 0, Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        words = f"the body is larger than {self.most:,} bytes: send less at a time"

        async def received() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.most:
                raise HTTPException(413, words)
            return message

        if said.isdecimal() and int(said[:20]) > self.most:
            await JSONResponse({"error": words}, 413)(scope, receive, send)
        else:
            await self.app(scope, received, send)
