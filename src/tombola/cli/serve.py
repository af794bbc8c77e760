"""``tombola serve``: answers over HTTP by the tickets of files, and a page to try them on."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

from tombola._utils import io
from tombola._utils.errors import DataError, TombolaError, UsageError, needs
from tombola.cli.network import network
from tombola.cli.options import Flag, Several, absolute, use_threads
from tombola.cli.terminal import say_aside
from tombola.lab.evaluation.inputs import taken_by
from tombola.tickets.inputs import Inputs
from tombola.tickets.model import TicketModel, load

MEGA = 1_000_000
TOKEN = "TOMBOLA_TOKEN"


def serve(
    *files: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    backbone: str | None = None,
    tokenizer: str | None = None,
    prepared: Flag = False,
    allow: Annotated[tuple[Path, ...], Several] = (),
    token_file: Path | None = None,
    audit: Path | None = None,
    cache: float = 256,
    body: float = 8,
    samples: int = 256,
    seconds: float = 30,
    requests: int = 64,
    batch: int = 64,
    delay: float = 2,
    threads: int | None = None,
) -> None:
    """Serve the tickets of files over HTTP: POST /v1/predict, and a page at http://HOST:PORT/ to try them.

    Example: tombola serve runs/digits-quick/seed0/tickets/rtl-0.5.tickets

    Args:
        files: Ticket files, FILE or NAME=FILE: what it is called in requests, by default its name without
            suffix.
        host: Where to listen; by default this machine alone can connect.
        port: Where to listen; 0 for any that is free.
        backbone: MODULE:NAME of the network of all files; by default that which each file or its run names.
        tokenizer: Where the tokenizer of training lies by now, if text is what tickets take and it was moved.
        prepared: Inputs are what the network takes, already prepared.
        allow: Folders and files from which files may be loaded while the service runs; by default none.
        token_file: A file with the token of those who may load, unload, grow and name tickets; else
            TOMBOLA_TOKEN in the environment. Without either nobody may.
        audit: A file to add the line of each request to; by default standard output.
        cache: Megabytes for masked weights that are kept, of all files together; 0 for none.
        body: Megabytes of a request, at most.
        samples: Samples of a request, at most.
        seconds: Time for a request, at most.
        requests: Requests at once, at most.
        batch: Samples that go through a network together, at most.
        delay: Milliseconds that a request waits for others of the same ticket.
        threads: Threads of a pass; all cores by default.
    """
    if not files:
        raise UsageError("serve needs at least one ticket file")
    with needs("serve", "tombola serve"):
        from tombola.serve.app import create_app
        from tombola.serve.limits import Limits
        from tombola.serve.registry import Registry
    counts = {"samples": samples, "requests": requests, "batch": batch}
    limits = Limits(body=round(body * MEGA), seconds=seconds, delay=delay / 1e3, **counts)
    use_threads(threads)
    token = _token(token_file)
    for path in allow:
        if not path.exists():
            raise DataError(f"--allow {path}: there is no such folder or file")
    listening = _listening(host, port)  # before anything is loaded
    where = f"http://{host if ':' not in host else f'[{host}]'}:{listening.getsockname()[1]}"

    def read(path: Path) -> tuple[TicketModel, Inputs]:
        metadata = io.read_metadata(path).get("facts", {})
        taken = taken_by(path, metadata, prepared, tokenizer and absolute(tokenizer))
        return load(path, network(path, metadata, backbone)), taken

    named = _named(files)
    with _lines(audit) as lines:
        registry = Registry(named, read, allow, round(cache * MEGA), prepared)
        app = create_app(registry, limits, token, lambda line: print(line, file=lines, flush=True))
        count = sum(len(entry.hashes) for entry in registry.state.files.values())
        words = (
            f"{count} tickets of {len(named)} file{'s' * (len(named) > 1)} at {where} (a page to try them)"
        )
        say_aside(f"{words}; requests: {where}/openapi.json")
        _run(app, listening, limits.seconds)


def _token(file: Path | None) -> str:
    if file is None:
        return os.environ.get(TOKEN, "").strip()
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--token-file {file} cannot be read ({error})") from None
    if not token:
        raise DataError(f"--token-file {file} is empty: write a token into it")
    return token


def _named(files: Sequence[str]) -> dict[str, Path]:
    """Paths by the names that they have in requests."""
    found: dict[str, Path] = {}
    for given in files:
        named = re.fullmatch(r"([\w.-]+)=(.+)", given)
        name, path = (named[1], Path(named[2])) if named else (Path(given).stem, Path(given))
        if name in found:
            raise UsageError(
                f"{found[name]} and {path} are both called {name!r} here: give them names, as in "
                f"one={found[name]} two={path}"
            )
        found[name] = path
    return found


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)  # a second one is refused now
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error)
        kind = UsageError if isinstance(error, OverflowError | socket.gaierror) else TombolaError
        reason = reason.partition(" (while ")[0]  # where is said below
        raise kind(
            f"cannot listen on {host}, port {port} ({reason}): choose another one (--port, --host)"
        ) from None


def _lines(audit: Path | None) -> Any:
    """Where lines of requests go, as a context."""
    if audit is None:
        return nullcontext(sys.stdout)
    try:
        return audit.open("a", encoding="utf-8")
    except OSError as error:
        raise DataError(f"--audit {audit} cannot be written ({error.strerror})") from None


def _run(app: Any, listening: socket.socket, seconds: float) -> None:
    """Answer until a signal comes; then no new requests, and what has arrived is answered."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            app.state.draining = True
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # the lines of the audit say more
        server_header=False,
        timeout_graceful_shutdown=round(seconds) + 1,
    )
    Server(config).run(sockets=[listening])
