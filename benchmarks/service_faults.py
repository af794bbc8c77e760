"""What goes wrong around a service must not go wrong in it: ``docs/serving.md``.

    python -m benchmarks.service_faults

Requests while files come, go and are replaced: is every answer that of the ticket whose hash it names? Two
thousand malformed requests: is there a fault of the server, or memory that stays? A server that is killed
under load: are the files as they were, and does the next one answer?
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.service import Client, K, asks_of, load_of, memory, server, tickets
from tombola.tickets.identity import identities

Ask = Callable[..., Awaitable[tuple[int, Any]]]  # method, path, JSON: status and what is said


def files(folder: Path) -> dict[str, nn.Module]:
    """Three files of tickets of the same names; the baked copy of each ticket by its hash."""
    baked: dict[str, nn.Module] = {}
    for seed, name in enumerate(("a", "a2", "b")):
        found = tickets(seed)
        found.save(folder / f"{name}.tickets", like=torch.rand(2, 64))
        baked |= {hash: found.bake(ticket).eval() for ticket, hash in identities(found).items()}
    return baked


async def changes(ask: Ask, folder: Path, until: Callable[[], bool]) -> Counter[str]:
    """Loads, unloads, replacements and aliases, one after the other, over and over."""
    done: Counter[str] = Counter()

    async def change(method: str, path: str, value: Any = None) -> None:
        status, said = await ask(method, path, value)
        if status != 200:
            raise RuntimeError(f"{method} {path}: {status} {said}")
        done[f"{method} {path.split('/')[2]}"] += 1

    while not until():
        await change("POST", "/v1/files", {"path": str(folder / "b.tickets")})
        await change("PUT", "/v1/aliases/best", {"ticket": "b/ticket3"})
        await change("POST", "/v1/files", {"path": str(folder / "a2.tickets"), "name": "a", "replace": True})
        await change("PUT", "/v1/aliases/best", {"ticket": "a/ticket5"})
        await change("DELETE", "/v1/files/b")
        await change("POST", "/v1/files", {"path": str(folder / "a.tickets"), "name": "a", "replace": True})
        await change("DELETE", "/v1/aliases/best")
    return done


@torch.no_grad()
def wrong(
    answers: Sequence[Any], inputs: Tensor, asks: Sequence[bytes], baked: Mapping[str, nn.Module]
) -> Counter[str]:
    """What became of requests: right answers by file, tickets that were not there, and what must not be."""
    found: Counter[str] = Counter(lost=len(asks) - len(answers))
    for i, status, body in answers:
        name, said = json.loads(asks[i])["ticket"], json.loads(body)
        file = name.partition("/")[0]
        if status == 404 and file in ("b", "best"):
            found[f"{file}: not there"] += 1
        elif status != 200:
            found["failed"] += 1
        else:
            (answer,) = said["answers"]
            right = baked[answer["hash"]](inputs[i : i + 1])[0]
            close = torch.allclose(torch.tensor(answer["answer"]), right, atol=1e-4)
            named = answer["ticket"] in (name, f"a/{name}") or file == "best"
            found[f"{file}: right" if close and named else "misrouted"] += 1
    return found


NAMES = [*(f"a/ticket{k}" for k in range(K)), *(f"b/ticket{k}" for k in range(K)), "best", "best", "ticket7"]


def misrouted(count: int, folder: Path) -> bool:
    """Whether requests all get what is theirs, while files come and go."""
    baked = files(folder)
    inputs, asks = asks_of(count, NAMES)

    async def all_of_it(port: int) -> tuple[Any, Counter[str]]:
        await Client(port).json("POST", "/v1/files", {"path": str(folder / "b.tickets")})
        loading = asyncio.create_task(load_of(port, asks))
        await Client(port).json("DELETE", "/v1/files/b")
        done = await changes(Client(port).json, folder, loading.done)
        return await loading, done

    with server("tickets", folder / "a.tickets") as running:
        outcome, done = asyncio.run(all_of_it(running.port))
    found = wrong(outcome.answers, inputs, asks, baked)
    print(f"{count} requests in {outcome.seconds:.1f} s, meanwhile {sum(done.values())} changes {dict(done)}")
    print(f"  {dict(found)}", flush=True)
    return not (found["lost"] or found["failed"] or found["misrouted"])


# -- malformed requests ------------------------------------------------------------------------------------


def picture(draw: random.Random) -> bytes:
    """A PNG whose bytes were changed, cut, or left."""
    file = BytesIO()
    Image.fromarray(np.zeros((draw.randint(1, 40), 7), np.uint8)).save(file, "PNG")
    return broken(file.getvalue(), draw)


def sound(draw: random.Random) -> bytes:
    """A WAV of an odd rate and size."""
    rate, frames = draw.choice([1, 7, 16_000, 2**31]), draw.choice([0, 1, 2**31])
    head = b"WAVEfmt " + (16).to_bytes(4, "little") + b"\x01\0\x01\0" + rate.to_bytes(4, "little")
    body = b"data" + frames.to_bytes(4, "little") + bytes(draw.randint(0, 99))
    return broken(b"RIFF\xff\xff\xff\x7f" + head + bytes(4) + b"\x02\0\x10\0" + body, draw)


def array(draw: random.Random) -> bytes:
    """An array whose header promises anything."""
    shape = draw.choice(["(10000000000000,)", "(1, 64)", "(-1, 64)", "(0, 64)", "()", "(1,)", "'"])
    kind = draw.choice(["<f4", "<f8", "|O", "|u1", "<U9", "|V0"])
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(118).encode() + b"\n"
    return broken(b"\x93NUMPY\x01\0" + len(head).to_bytes(2, "little") + head + bytes(256), draw)


def broken(content: bytes, draw: random.Random) -> bytes:
    """The same, cut short, with other bytes in it, or as it was."""
    made = bytearray(content)
    for _ in range(draw.choice([0, 1, 9])):
        made[draw.randrange(len(made))] = draw.randrange(256)
    return bytes(made[: draw.choice([len(made), len(made), draw.randrange(len(made))])])


ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e39, 1e999, float("nan"), 10**400, "", "a", "\0", "é" * 999, [], [[]], {},
    {"a": 1}, [None], ["a"], [[1, 2], [3]], [[0.5] * 64, [0.5] * 63], [[0.5] * 64] * 999, [0.5] * 63,
    [["0.5"] * 64], [{"a": 1}, 2], [[True] * 64], [[float("nan")] * 64], [[1e300] * 64], [[10**30] * 64],
    {"inputs": {}},
)  # fmt: skip


def values(draw: random.Random) -> bytes:
    """JSON of another form."""
    ask = {"inputs": draw.choice(ODD)} | {
        name: draw.choice(ODD) for name in ("ticket", "file", "hash", "every", "more") if draw.random() < 0.3
    }
    return broken(json.dumps(draw.choice([ask, draw.choice(ODD)])).encode(), draw)


def nested(draw: random.Random) -> bytes:
    """Brackets in brackets, as many as fit."""
    depth = draw.choice([70, 500, 200_000])
    mark = draw.choice([("[", "]"), ('{"a":', "}")])
    return b'{"inputs": ' + mark[0].encode() * depth + b"1" + mark[1].encode() * depth + b"}"


def noise(draw: random.Random) -> bytes:
    """Any bytes."""
    return draw.randbytes(draw.randint(0, 999))


def huge(draw: random.Random) -> bytes:
    """More than a body may have."""
    return b"[" + b"0," * draw.choice([1_000, 5_000_000])


def text(draw: random.Random) -> bytes:
    """Rows of odd values."""
    cells = ["1", "nan", "", '"', "1e999", "a", "\xff", ",", "\n"]
    return ",".join(draw.choices(cells, k=draw.randint(0, 200))).encode(draw.choice(["utf-8", "latin-1"]))


BODIES = {
    "application/json": (values, values, values, nested, noise, huge),
    "image/png": (picture, picture, noise),
    "image/jpeg": (picture, noise),
    "audio/wav": (sound,),
    "audio/flac": (sound, noise),
    "application/x-npy": (array, array, noise),
    "text/csv": (text, noise),
    "text/plain": (text,),
    "application/x-pickle": (noise,),
    "": (values,),
    "multipart/form-data; boundary=x": (noise,),
}
QUERIES = (
    "",
    "ticket=a/ticket1",
    "ticket=%00",
    "ticket=%ff/..%2f",
    "file=zzz",
    "every=x",
    "more=1",
    "ticket=best",
)


def malformed(count: int, seed: int = 0) -> Iterator[tuple[str, str, bytes]]:
    """Requests as path, content type and body; a few of them are well-formed by chance."""
    draw = random.Random(seed)
    for _ in range(count):
        kind = draw.choice(list(BODIES))
        query = draw.choice(QUERIES) if draw.random() < 0.8 else "ticket=" + "x" * 400
        yield f"/v1/predict?{query}", kind, draw.choice(BODIES[kind])(draw)


def fuzzed(count: int, folder: Path) -> bool:
    """Whether malformed requests are answered, without a fault of the server or memory that stays."""
    files(folder)

    async def send(port: int, part: Sequence[tuple[str, str, bytes]]) -> Counter[int]:
        found: Counter[int] = Counter()
        for path, kind, body in part:
            client = Client(port)  # a server may close the connection of one whose body it did not read
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                found[(await client.send("POST", path, body, kind))[0]] += 1
            if client.streams is not None:
                client.streams[1].close()
        return found

    every = list(malformed(count))
    with server("tickets", folder / "a.tickets") as running:
        found, sizes = Counter[int](), []
        for start in range(0, count, max(count // 4, 1)):
            found += asyncio.run(send(running.port, every[start : start + count // 4]))
            sizes.append(memory(running.process.pid) / 1e6)
        _, asks = asks_of(50, NAMES[:K])
        after = asyncio.run(load_of(running.port, asks))
    right = Counter(status for _, status, _ in after.answers)
    shown = ", ".join(f"{size:.1f}" for size in sizes)
    print(
        f"{count} malformed requests: {dict(found)}; MB after each quarter: {shown}; then {dict(right)}",
        flush=True,
    )
    return not any(status >= 500 for status in found) and sizes[-1] < 1.05 * sizes[1] and right == {200: 50}


# -- killed ------------------------------------------------------------------------------------------------


def killed(times: int, folder: Path) -> bool:
    """Whether servers that are killed under load leave the files as they were, and the next one answers."""
    files(folder)
    before, draw = digests(folder), random.Random(0)
    _, asks = asks_of(10_000, NAMES)

    async def until_killed(running: Any) -> int:
        tasks = [asyncio.create_task(load_of(running.port, asks))]
        tasks.append(asyncio.create_task(changes(Client(running.port).json, folder, lambda: False)))
        await asyncio.sleep(draw.uniform(0.2, 2))
        running.process.kill()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        return sum(isinstance(each, Exception) for each in done)

    alike = True
    for _ in range(times):
        with server("tickets", folder / "a.tickets") as running:
            first = asyncio.run(load_of(running.port, asks[:40], 1)).answers
            cut = asyncio.run(until_killed(running))
        answered = Counter(status for _, status, _ in first)
        alike = alike and digests(folder) == before and not answered.keys() - {200, 404} and cut == 2
    print(f"killed {times} times under load: files {'as they were' if alike else 'CHANGED'}", flush=True)
    return alike


def digests(folder: Path) -> dict[str, str]:
    """The hashes of all files in a folder."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--malformed", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=5)
    given = parser.parse_args()
    began, good = time.perf_counter(), []
    for check, count in ((misrouted, given.requests), (fuzzed, given.malformed), (killed, given.kills)):
        if count:  # 0 leaves it out
            with tempfile.TemporaryDirectory() as folder:
                good.append(check(count, Path(folder)))
    print(f"{'all as it should be' if all(good) else 'FAULTS'} ({time.perf_counter() - began:.0f} s)")
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
