"""What a service takes at most, and the body of a request within that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

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


async def body_of(request: Request, most: int) -> bytes:
    """The body of a request; 413 as soon as it is known to be too large, and no more of it is read."""
    said = request.headers.get("content-length", "")
    parts, size = [], 0
    try:
        if not said.isdecimal() or int(said) <= most:
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > most:
                    break
            else:
                return b"".join(parts)
    except ClientDisconnect:
        raise Refused(400, "the request ended before its body did") from None
    raise Refused(413, f"the body is larger than {most:,} bytes: send less at a time")
