"""Tickets as a service: one file against a server that keeps K networks, and against a pass per request.

The clients are 32 connections in this process; the server is another process. What must not go wrong is in
`benchmarks.service_faults`.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import multiprocessing
import os
import random
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.row import Row
from benchmarks.setting import generator, masks_of
from tombola.masks.prunable import scope
from tombola.serve.limits import Limits
from tombola.serve.registry import Registry
from tombola.tickets.inputs import known
from tombola.tickets.model import TicketModel, load

K, CLIENTS, TOKEN = 20, 32, "a token"
ONE = Limits(batch=1, delay=0)  # a pass per request


def network() -> nn.Module:
    """1.1 million weights; ten outputs, which are the answer."""
    torch.manual_seed(0)
    wide = [nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU()]
    return nn.Sequential(*wide, nn.Linear(1024, 10))


def tickets(seed: int = 0) -> TicketModel:
    """K tickets at 50%; those of another seed have other masks and the same names."""
    net = network()
    layout = scope(net, exclude=["4.weight"])
    masks = masks_of(layout, torch.rand(K, layout.size, generator=generator(seed)))
    return TicketModel(net, masks, metadata={"answer": "value"}).eval()


class Networks(TicketModel):
    """The rival: a network for each ticket; of masks and shared weights nothing is kept."""

    @classmethod
    def of(cls, path: Path) -> Networks:
        one = load(path, network())
        made = cls(one.backbone, one.masks, metadata=one.metadata).eval()
        made.__dict__["each"] = {name: one.bake(name).eval() for name in one.names}
        return made

    def _answer(self, ticket: str, x: Any) -> Any:
        return self.__dict__["each"][ticket](x)

    def bare(self) -> None:
        """Give the memory back that a pass does not need."""
        self._bits_KM = torch.zeros(1, 1, dtype=torch.uint8).expand_as(self._bits_KM)
        for p in self.backbone.parameters():
            p.data = p.data[:0]


# -- the server --------------------------------------------------------------------------------------------


def serving(
    kind: str, path: Path, folder: Path, limits: Limits, listening: socket.socket, sizes: Any
) -> None:
    """A process: tickets, or networks, until it is killed."""
    import uvicorn

    from tombola.serve.app import create_app

    torch.set_num_threads(1)
    before = memory("self")
    read: Callable[[Path], TicketModel] = Networks.of if kind == "networks" else lambda p: load(p, network())
    metadata = known_inputs(path)
    cache = 256_000_000 if kind == "cached" else 0
    registry = Registry({"a": path}, lambda p: (read(p), metadata), [folder], cache)
    if isinstance(rival := registry.state.files["a"].tickets, Networks):
        rival.bare()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was needed to load, of whichever side, is no part of it
    sizes.put(before)
    app = create_app(registry, limits, TOKEN)
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


def known_inputs(path: Path) -> Any:
    from tombola._utils import io

    return known(io.read(path)[1]["facts"])


def memory(process: int | str) -> int:
    """Bytes that a process holds now (Linux)."""
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def processor(process: int) -> float:
    """Seconds of processor time that a process has taken (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A running server: its address, its process, and what it held before it had loaded anything."""

    port: int
    process: Any
    before: int

    @property
    def held(self) -> int:
        """Bytes beyond those of an empty server."""
        return memory(self.process.pid) - self.before


@contextmanager
def server(kind: str, path: Path, limits: Limits | None = None) -> Iterator[Server]:
    """A server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    sizes = context.Queue()
    given = (kind, path, path.parent, limits or Limits(), listening, sizes)
    process = context.Process(target=serving, args=given, daemon=True)
    process.start()
    try:
        yield Server(listening.getsockname()[1], process, sizes.get(timeout=120))
    finally:
        listening.close()
        process.kill()
        process.join()


# -- clients -----------------------------------------------------------------------------------------------


class Client:
    """A connection that is kept; httpx would take more of the processor than the server does."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> Any:
        """Status, and the body of the answer."""
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n"
        writer.write(f"{head}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        said = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(said.split("content-length:")[1].split("\r\n")[0])
        found = await reader.readexactly(length)
        if "connection: close" in said:
            writer.close()
            self.streams = None
        return int(said.split()[1]), found

    async def json(self, method: str, path: str, value: Any = None) -> Any:
        """Status, and what the answer says."""
        status, body = await self.send(method, path, b"" if value is None else json.dumps(value).encode())
        return status, json.loads(body)


@dataclass
class Outcome:
    """Seconds of all requests, and of each; what was answered."""

    seconds: float
    each: list[float]
    answers: list[Any]  # of each request: its number, status, and what was said
    busy: float = 0.0  # seconds of processor time that the server took

    def at(self, share: float) -> float:
        """The time within which this share of the requests was answered."""
        return sorted(self.each)[min(int(share * len(self.each)), len(self.each) - 1)]


async def load_of(port: int, asks: Sequence[bytes], clients: int = CLIENTS) -> Outcome:
    """All requests, by so many connections, each as soon as the one before is answered."""
    waiting, each, answers = list(enumerate(asks))[::-1], [], []

    async def one() -> None:
        client = Client(port)
        while waiting:
            i, body = waiting.pop()
            start = time.perf_counter()
            status, said = await client.send("POST", "/v1/predict", body)
            each.append(time.perf_counter() - start)
            answers.append((i, status, said))

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    return Outcome(time.perf_counter() - start, each, answers)


def asks_of(count: int, names: Sequence[str], seed: int = 0) -> tuple[torch.Tensor, list[bytes]]:
    """Requests of one sample each, for tickets in a random order."""
    draw, x = random.Random(seed), torch.randn(count, 64, generator=generator(seed))
    bodies = [{"inputs": [round(v, 4) for v in row.tolist()], "ticket": draw.choice(names)} for row in x]
    return torch.tensor([body["inputs"] for body in bodies]), [json.dumps(body).encode() for body in bodies]


# -- rows of the performance page --------------------------------------------------------------------------


def service(full: bool) -> list[Row]:
    """Latency, throughput and memory beside K networks, and beside a pass per request."""
    count, rounds = (1000, 5) if full else (200, 1)
    sides = {"tickets": ("tickets", None), "networks": ("networks", None), "alone": ("tickets", ONE)}
    found: dict[str, list[Outcome]] = {side: [] for side in sides}
    held: dict[str, list[int]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tickets"
        tickets().save(path, like=torch.rand(2, 64))
        _, asks = asks_of(count, [f"a/ticket{k}" for k in range(K)])
        for _ in range(rounds):
            for side, (kind, limits) in sides.items():
                with server(kind, path, limits) as running:
                    asyncio.run(load_of(running.port, asks[:100]))
                    before = processor(running.process.pid)
                    found[side].append(asyncio.run(load_of(running.port, asks)))
                    found[side][-1].busy = processor(running.process.pid) - before
                    held[side].append(running.held)
    kept = _rows(found, "networks", f"a server that keeps {K} networks")
    return [*kept, _memory(held), *_rows(found, "alone", "a pass per request")]


def _rows(found: dict[str, list[Outcome]], other: str, against: str) -> list[Row]:
    rows = []
    for name, value, form in (
        ("p50", lambda o: o.at(0.5), "{:.1f} over {:.1f} ms"),
        ("p99", lambda o: o.at(0.99), "{:.1f} over {:.1f} ms"),
        ("time", lambda o: o.seconds / len(o.each), "{:.2f} over {:.2f} ms per request"),
        ("processor", lambda o: o.busy / len(o.each), "{:.2f} over {:.2f} ms of the server per request"),
    ):
        mine, theirs = ([value(o) for o in found[side]] for side in ("tickets", other))
        note = form.format(1e3 * statistics.median(mine), 1e3 * statistics.median(theirs))
        ratios = sorted(a / b for a, b in zip(mine, theirs, strict=True))
        value_ = statistics.median(mine) / statistics.median(theirs)
        spread = (ratios[0], ratios[-1])
        rows.append(Row(f"service_{name}_vs_{other}", value_, "×", f"{against} ({note})", None, spread))
    return rows


def _memory(held: dict[str, list[int]]) -> Row:
    """The least of the rounds: what a library has not given back yet is chance."""
    mine, theirs = min(held["tickets"]), min(held["networks"])
    sizes = f"{mine / 1e6:.0f} over {theirs / 1e6:.0f} MB, beyond an empty server"
    note = f"a server that keeps {K} networks ({sizes})"
    return Row("service_memory_vs_networks", mine / theirs, "×", note)
