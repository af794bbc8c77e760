"""Tickets over HTTP: who is meant stays meant, what is wrong is said, what is limited stays limited."""

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import nn

import tombola as tb
from tombola._utils.errors import DataError, UsageError
from tombola.cli.main import main
from tombola.lab.evaluation.inputs import inputs_of, taken_by
from tombola.lab.evaluation.values import inputs_among
from tombola.tickets.identity import identities
from tombola.tickets.inputs import Inputs

pytest.importorskip("fastapi", reason="the extra serve is not installed")
httpx = pytest.importorskip("httpx")

from tombola.serve import batcher as batching  # noqa: E402
from tombola.serve.app import create_app  # noqa: E402
from tombola.serve.limits import Limits  # noqa: E402
from tombola.serve.registry import Refused, Registry  # noqa: E402

ROOT = Path(__file__).parent.parent
BEARER = {"Authorization": "Bearer secret"}
K = 6


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 5))


def made(seed=0, names=None, **metadata):
    net, g = network(), torch.Generator().manual_seed(seed)
    layout = tb.scope(net, exclude=["2.weight"])
    names = names or [f"ticket{k}" for k in range(K)]
    masks = {name: torch.rand(layout.size, generator=g) < 0.5 for name in names}
    return tb.TicketModel(net, tb.MaskSet(layout, masks), metadata={"answer": "value", **metadata}).eval()


def read(path):
    from tombola._utils.io import read

    return tb.load(path, network()), taken_by(path, read(path)[1]["facts"])


@pytest.fixture
def files(tmp_path):
    """Three files of tickets of the same names, and the baked copies by hash."""
    baked = {}
    for seed, name in enumerate(("a", "a2", "b")):
        tickets = made(seed)
        tickets.save(tmp_path / f"{name}.tickets", like=torch.rand(2, 64))
        baked |= {hash: tickets.bake(ticket).eval() for ticket, hash in identities(tickets).items()}
    assert len(baked) == 3 * K
    return SimpleNamespace(folder=tmp_path, baked=baked)


def served(files, names=("a",), **options):
    paths = {name: files.folder / f"{name}.tickets" for name in names}
    return Registry(paths, read, [files.folder], **options)


@contextlib.asynccontextmanager
async def client_of(app):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def talk(app, conversation):
    """What a conversation with a service returns."""

    async def whole():
        async with client_of(app) as client:
            return await conversation(client)

    return asyncio.run(whole())


def ask(app, path="/v1/predict", method="POST", **what):
    return talk(app, lambda client: client.request(method, path, **what))


# -- who answers -------------------------------------------------------------------------------------------


def test_requests_while_files_come_and_go_are_answered_by_whom_they_named(files, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.service import asks_of
    from benchmarks.service_faults import changes, wrong

    names = [*(f"{file}/ticket{k}" for file in "ab" for k in range(K)), "best", "ticket1"]
    inputs, asks = asks_of(300, names)
    app = create_app(served(files, cache=100_000), Limits(delay=0.001), "secret")

    async def conversation(client):
        waiting, answers = list(enumerate(asks)), []

        async def change(method, path, value):
            answer = await client.request(method, path, json=value, headers=BEARER)
            return answer.status_code, answer.json()

        async def one():
            while waiting:
                i, body = waiting.pop()
                head = {"Content-Type": "application/json"}
                said = await client.post("/v1/predict", content=body, headers=head)
                answers.append((i, said.status_code, said.content))

        await asyncio.gather(*(one() for _ in range(8)), changes(change, files.folder, lambda: not waiting))
        return answers

    answers = talk(app, conversation)
    found = wrong(answers, inputs, asks, files.baked)
    assert found["lost"] == found["failed"] == found["misrouted"] == 0
    assert all(found[f"{file}: right"] for file in ("a", "b", "best"))
    hashes = {json.loads(body)["answers"][0]["hash"] for _, status, body in answers if status == 200}
    assert len(hashes) > 2 * K  # both files of the name a have answered, and b


def test_a_wrong_answer_would_be_seen(files, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.service_faults import wrong

    hash = next(iter(files.baked))
    said = {"answers": [{"hash": hash, "ticket": "a/ticket0", "answer": [0.0] * 5}]}
    asks = [json.dumps({"ticket": "a/ticket0"})] * 2
    found = wrong([(0, 200, json.dumps(said))], torch.ones(2, 64), asks, files.baked)
    assert found == {"lost": 1, "misrouted": 1}


def test_names_mean_one_ticket_or_none(files):
    registry = served(files)
    registry.load(str(files.folder / "b.tickets"))
    registry.alias("best", "b/ticket2")
    for name, (file, ticket) in {
        "a/ticket1": ("a", "ticket1"),
        "b/ticket1": ("b", "ticket1"),
        "ticket1": ("a", "ticket1"),  # of the file that was there at the start, whatever came later
        "best": ("b", "ticket2"),
    }.items():
        meant = registry.state.find(name)
        assert (meant.entry.name, meant.ticket) == (file, ticket)
    for name in ("c/ticket1", "a/other", "other", "a/", "/", "a/ticket1/"):
        with pytest.raises(Refused, match="there is no ticket") as caught:
            registry.state.find(name)
        assert caught.value.status == 404
    for alias, ticket, status in (
        ("ticket1", "a/ticket2", 409),
        ("x/y", "a/ticket2", 422),
        ("x", "b/none", 404),
    ):
        with pytest.raises(Refused) as caught:
            registry.alias(alias, ticket)
        assert caught.value.status == status
    assert registry.unload("b")[1] == ["best"]
    registry.unload("a")
    for name in ("best", "ticket1", "a/ticket1"):
        with pytest.raises(Refused, match="there is no ticket"):
            registry.state.find(name)


def test_of_two_files_each_request_says_which(files):
    state = served(files, ("a", "b")).state
    with pytest.raises(Refused, match=r"which ticket\?.*of a, b"):
        state.find(None)
    with pytest.raises(Refused, match="there is no ticket 'ticket1'"):
        state.find("ticket1")
    with pytest.raises(Refused, match="b has no router that could choose: name one"):
        state.find(None, "b")
    assert state.find("b/ticket1").entry is state.files["b"]
    with pytest.raises(Refused, match="file= is for requests that name no ticket"):
        state.find("a/ticket1", "a")


def test_an_answer_is_that_of_predict_with_hashes(files):
    registry, x = served(files), torch.rand(3, 64)
    entry = registry.state.files["a"]
    body = {"inputs": x.tolist(), "ticket": "ticket2"}
    said = ask(create_app(registry), json=body).json()
    assert [row["answer"] for row in said["answers"]] == [
        pytest.approx(row, abs=1e-5) for row in entry.tickets.predict(x, "ticket2").outputs.tolist()
    ]
    assert {(row["ticket"], row["hash"]) for row in said["answers"]} == {
        ("a/ticket2", entry.hashes["ticket2"])
    }
    assert said["hash"] == entry.hash
    assert ask(create_app(registry), json={**body, "hash": entry.hashes["ticket2"]}).status_code == 200
    assert ask(create_app(registry), json={**body, "hash": entry.hashes["ticket1"]}).status_code == 409


def test_one_vs_rest_asks_all_and_every_shows_what_each_said(tmp_path):
    tickets = made(names=list("abcde"), answer="subset")
    tickets.save(tmp_path / "digits.tickets", like=torch.rand(2, 64))
    app, x = create_app(Registry({"digits": tmp_path / "digits.tickets"}, read)), torch.rand(1, 64)
    said = ask(app, json={"inputs": x[0].tolist(), "every": True}).json()
    found = tickets.predict(x)
    assert [row["answer"] for row in said["answers"]] == found.answers
    assert said["answers"][0]["ticket"] == f"digits/{found.tickets[0]}"
    assert [row["answer"] for row in said["every"]] == [tickets.predict(x, n).answers[0] for n in "abcde"]
    two = ask(app, json={"inputs": x.repeat(2, 1).tolist(), "every": True})
    assert two.status_code == 422


def test_outputs_that_are_no_numbers_are_null(tmp_path):
    tickets = made()
    with torch.no_grad():
        tickets.backbone[2].bias[:2] = torch.tensor([torch.nan, torch.inf])
    tickets.save(tmp_path / "a.tickets", like=torch.rand(2, 64))
    app = create_app(Registry({"a": tmp_path / "a.tickets"}, read))
    said = ask(app, json={"inputs": [0.5] * 64, "ticket": "ticket1"})
    assert [value is None for value in said.json()["answers"][0]["answer"]] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_hash_is_of_what_a_ticket_answers_with():
    before = identities(made())
    assert identities(made(names=[f"other{k}" for k in range(K)])).keys() != before.keys()
    assert [*identities(made(names=[f"other{k}" for k in range(K)])).values()] == [*before.values()]
    for change in ({"class_names": ["x"] * 5}, {"output": 0}, {"scale": {"mean": [0.0], "deviation": [2.0]}}):
        assert set(identities(made(**change)).values()).isdisjoint(before.values())
    moved = made()
    with torch.no_grad():
        mask = moved.scope.unflatten(moved["ticket1"])["0.weight"]
        moved.backbone[0].weight[tuple(mask.nonzero()[0])] += 1  # one weight that ticket1 keeps
    after = identities(moved)
    own = moved.masks_KN[:, moved["ticket1"].nonzero()[0]][:, 0].tolist()
    assert [after[n] != before[n] for n in before] == own
    assert 0 < sum(own) < K


# -- micro-batches -----------------------------------------------------------------------------------------


def test_requests_for_one_ticket_go_together_and_one_that_fails_fails_alone(files, monkeypatch):
    entry, sizes = served(files).state.files["a"], []
    meant = batching.Meant(entry, "ticket1")
    made_together = batching.Batcher(8, 0.02, lambda _, samples: sizes.append(samples))

    async def whole():
        good = [made_together.ask(meant, torch.full((2, 64), float(i))) for i in range(3)]
        # The same form, and no number: `predict` says so of the whole batch.
        other = made_together.ask(batching.Meant(entry, "ticket2"), torch.ones(1, 64))
        wide = made_together.ask(meant, torch.ones(1, 63))
        return await asyncio.gather(*good, other, wide, return_exceptions=True)

    *rows, other, wide = asyncio.run(whole())
    assert sorted(sizes) == [1, 1, 6]
    assert "63" in str(wide)
    assert len(other) == 1
    expected = [
        entry.tickets.predict(torch.full((2, 64), float(i)), "ticket1").outputs.tolist() for i in range(3)
    ]
    assert [[row["answer"] for row in each] for each in rows] == [
        [pytest.approx(row, abs=1e-5) for row in each] for each in expected
    ]
    predict = type(entry.tickets).predict

    def fails(tickets, x, ticket):
        if bool((x == 1).all(1).any()):
            raise IndexError("out of range")
        return predict(tickets, x, ticket)

    monkeypatch.setattr(type(entry.tickets), "predict", fails)
    first, second, third = asyncio.run(whole())[:3]
    assert isinstance(second, IndexError)
    for alone, before in ((first, rows[0]), (third, rows[2])):  # of another batch: equal but for last bits
        assert [row["answer"] for row in alone] == [pytest.approx(row["answer"], abs=1e-5) for row in before]


def test_a_batch_has_no_more_samples_than_it_may(files):
    entry, sizes = served(files).state.files["a"], []
    together = batching.Batcher(4, 5.0, lambda _, samples: sizes.append(samples))

    async def whole():
        meant = batching.Meant(entry, "ticket0")
        return await asyncio.gather(*(together.ask(meant, torch.rand(n, 64)) for n in (3, 3, 9, 4)))

    began = time.perf_counter()
    assert [len(rows) for rows in asyncio.run(whole())] == [3, 3, 9, 4]
    assert sizes == [3, 3, 9, 4]
    assert time.perf_counter() - began < 4  # what is full does not wait


async def parts(count):
    for _ in range(count):
        yield b" " * 1_000


# -- limits ------------------------------------------------------------------------------------------------


def test_what_is_too_much_is_refused(files, monkeypatch):
    app, one = create_app(served(files), Limits(body=5_000, samples=3)), [0.5] * 64
    asked = {"inputs": one, "ticket": "ticket1"}
    assert ask(app, json={**asked, "inputs": [one] * 4}).status_code == 413
    assert ask(app, content=b" " * 5_001, headers={"Content-Type": "application/json"}).status_code == 413
    for path in ("/v1/predict", "/v1/files"):  # before it is asked who sends it
        said = ask(app, path, content=parts(9), headers={"Content-Type": "a/b"})
        assert said.status_code == 413
    assert ask(app, content=b"x", headers={"Content-Type": "application/x-pickle"}).status_code == 415


def test_what_takes_too_long_or_is_one_too_many_is_refused(files, monkeypatch):
    app = create_app(served(files), Limits(seconds=0.5, requests=2))
    asked = {"inputs": [0.5] * 64, "ticket": "ticket1"}
    predict = tb.TicketModel.predict

    def slow(tickets, x, ticket):
        time.sleep(0.8)
        return predict(tickets, x, ticket)

    async def conversation(client):
        monkeypatch.setattr(tb.TicketModel, "predict", slow)
        found = await asyncio.gather(*(client.post("/v1/predict", json=asked) for _ in range(3)))
        monkeypatch.undo()
        await asyncio.sleep(0.8)
        return [*found, await client.post("/v1/predict", json=asked)]

    *answers, last = talk(app, conversation)
    assert sorted(answer.status_code for answer in answers) == [429, 504, 504]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["Retry-After"] == "1"
    assert last.status_code == 200  # the places are free again


@pytest.mark.parametrize("limit", ["body", "samples", "seconds", "requests", "batch"])
def test_a_limit_of_nothing_is_a_mistake(limit):
    with pytest.raises(UsageError, match=f"--{limit} must be above 0"):
        Limits(**{limit: 0})


def test_malformed_requests_are_no_fault_of_the_server(files, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.service_faults import malformed

    app = create_app(served(files))

    async def conversation(client):
        found = set()
        for path, kind, body in malformed(250):
            answer = await client.post(path, content=body, headers={"Content-Type": kind})
            found.add(answer.status_code)
            assert answer.status_code < 500, (path, kind, body[:200], answer.text)
            assert answer.status_code == 200 or answer.json()["error"]
        return found

    assert {404, 413, 415, 422} <= talk(app, conversation)


# -- inputs ------------------------------------------------------------------------------------------------


def test_a_picture_a_sound_and_a_table_are_read_as_files_are(tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("rooms,area\n3,80.5\n4,95\n")
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(9000.0)), 16_000)
    picture = Inputs({"tensor": [1, 4, 4], "dtype": "uint8", "range": [0, 255]})
    row = Inputs({"tensor": [2], "dtype": "float32", "range": None}, features=["area", "rooms"])
    for name, kind, taken in (
        ("a.png", "image/png", picture),
        ("a.csv", "text/csv", row),
        ("a.wav", "audio/wav", Inputs(kind="sound")),
    ):
        seen = []
        _, reader = create_predictions().asked(kind, {}, (tmp_path / name).read_bytes())
        assert torch.equal(reader(taken, seen.append), inputs_of(tmp_path / name, taken))
    rows = [{"rooms": 3, "area": 80.5, "more": "x"}, {"area": 95, "rooms": 4}]
    assert torch.equal(inputs_among(rows, row), inputs_of(tmp_path / "a.csv", row))
    assert inputs_among(rows[0], row).tolist() == inputs_among([80.5, 3], row).tolist() == [[80.5, 3.0]]


def create_predictions():
    from tombola.serve.metrics import Metrics
    from tombola.serve.predict import Predictions

    return Predictions(SimpleNamespace(), Limits(), Metrics())


@pytest.mark.parametrize(
    ("values", "form", "words"),
    [
        ([[1, 2]], "float32", r"\[B, 3\] is needed"),
        ([[1, 2, 3], [1, 2]], "float32", "all samples need one shape"),
        ([1, 2, "3"], "float32", "numbers are needed"),
        ([1, 2, float("inf")], "float32", r"NaN or infinite values in 1 of 1 samples .*at \[2\]"),
        ([1, 2, 1e300], "float32", "NaN or infinite values"),
        ([1, 2, 300], "uint8", "some numbers are no uint8"),
        ([1, 2, 0.5], "int64", "some numbers are no int64"),
        ([], "float32", "is needed"),
        ({"a": [1, 2, 3]}, "float32", "numbers are needed"),
    ],
)
def test_values_of_another_form_are_refused(values, form, words):
    with pytest.raises(DataError, match=words):
        inputs_among(values, Inputs({"tensor": [3], "dtype": form, "range": None}))


@pytest.mark.parametrize("kind", ["json", "npy", "csv"])
def test_inputs_that_are_not_finite_are_refused_in_one_line(files, kind):
    app, row = create_app(served(files)), ["0.5"] * 63 + ["NaN"]
    if kind == "json":
        body = f'{{"inputs": [[{",".join(["1"] * 64)}], [{",".join(row)}]], "ticket": "ticket1"}}'.encode()
    elif kind == "csv":
        body = f"{','.join(['1'] * 64)}\n{','.join(row)}\n".encode()
    else:
        x, held = np.ones((2, 64)), io.BytesIO()
        x[1, 63] = np.nan
        np.save(held, x)
        body = held.getvalue()
    types = {"json": "application/json", "npy": "application/x-npy", "csv": "text/csv"}
    query = {} if kind == "json" else {"params": {"ticket": "ticket1"}}
    said = ask(app, content=body, headers={"Content-Type": types[kind]}, **query)
    assert said.status_code == 422
    words = said.json()["error"]
    assert "row 2" in words if kind == "csv" else "(the first is number 2, at [63])" in words
    assert "\n" not in words


def test_rows_are_refused_by_the_name_of_the_column():
    row = Inputs({"tensor": [2], "dtype": "float32", "range": None}, features=["area", "rooms"])
    for values, words in (
        ({"area": 1}, "no 'rooms': a row needs area, rooms"),
        ([{"area": 1, "rooms": 2}, {"area": 1}], "column 'rooms' has 1 missing values"),
        ({"area": "big", "rooms": 2}, "column 'area' needs one number"),
        ({"area": 10**400, "rooms": 2}, "column 'area' needs one number"),
    ):
        with pytest.raises(DataError, match=words):
            inputs_among(values, row)


def test_small_files_that_unfold_are_refused_before_they_do(tmp_path):
    from tombola.lab.evaluation.inputs import inputs_in

    large, long = io.BytesIO(), io.BytesIO()
    Image.new("L", (3000, 3000)).save(large, "PNG")
    soundfile.write(long, np.zeros(100_000), 1_000, format="FLAC")
    picture = Inputs({"tensor": [1, 4, 4], "dtype": "uint8", "range": None})
    for name, body, taken, words in (
        ("x.png", large, picture, "3000x3000: 1,000,000 pixels at most"),
        ("x.flac", long, Inputs(kind="sound"), "longer than 62.5 seconds"),
    ):
        body.seek(0)
        with pytest.raises(DataError, match=words):
            inputs_in(name, body, taken, most=1_000_000)
    packed = io.BytesIO()
    np.savez_compressed(packed, x=np.zeros((1, 3)))
    packed.seek(0)  # an archive that says it is an array
    with pytest.raises(DataError, match="no array that can be read"):
        inputs_in("x.npy", packed, Inputs({"tensor": [3], "dtype": "float32", "range": None}))


# -- administration ----------------------------------------------------------------------------------------


def test_nothing_changes_without_the_token(files):
    registry = served(files)
    changes = [
        ("POST", "/v1/files", {"path": str(files.folder / "b.tickets")}),
        ("DELETE", "/v1/files/a", None),
        ("PUT", "/v1/aliases/x", {"ticket": "a/ticket1"}),
        ("GET", "/v1/files/a/content", None),
        ("POST", "/v1/files/a/tickets", {"ticket": "new", "path": "x.csv"}),
    ]
    before = registry.state
    for app, headers, status in (
        (create_app(registry), BEARER, 403),
        (create_app(registry, token="secret"), {}, 401),
        (create_app(registry, token="secret"), {"Authorization": "Bearer secre"}, 401),
    ):
        for method, path, value in changes:
            assert ask(app, path, method, json=value, headers=headers).status_code == status
    assert registry.state is before


def test_only_what_is_allowed_is_read(files, tmp_path):
    inside, outside = files.folder / "inside", files.folder / "out.tickets"
    inside.mkdir()
    made(5).save(outside, like=torch.rand(2, 64))
    (inside / "link.tickets").symlink_to(outside)
    (inside / "loop").symlink_to(inside / "loop")
    made(6).save(inside / "good.tickets", like=torch.rand(2, 64))
    registry = Registry({"a": files.folder / "a.tickets"}, read, [inside])
    for path, status in (
        (outside, 403),
        (inside / "link.tickets", 403),
        (inside / ".." / "out.tickets", 403),
        (Path.home(), 403),
        (inside / "loop", 403),
        ("\0", 403),
        (inside / "none.tickets", 404),
        (inside, 404),
    ):
        with pytest.raises(Refused) as caught:
            registry.load(str(path))
        assert caught.value.status == status, path
    assert registry.load(str(inside / ".." / "inside" / "good.tickets")).name == "good"
    with pytest.raises(Refused, match="there is a file 'good' already"):
        registry.load(str(inside / "good.tickets"))


def test_a_file_of_another_network_is_not_loaded(files):
    net = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 5))
    masks = tb.MaskSet.dense(tb.scope(net), ["one"])
    tb.TicketModel(net, masks).save(files.folder / "other.tickets", like=torch.rand(2, 64))
    registry = served(files)
    with pytest.raises(Refused, match="belongs to none of the networks"):
        registry.load(str(files.folder / "other.tickets"))
    (files.folder / "torn.tickets").write_bytes((files.folder / "b.tickets").read_bytes()[:-9])
    app = create_app(registry, token="secret")
    torn = {"path": str(files.folder / "torn.tickets")}
    assert ask(app, "/v1/files", json=torn, headers=BEARER).status_code == 422


def test_text_becomes_tokens_by_a_tokenizer_of_the_start_alone(files):
    def text_of(where, digest):
        return {"column": "t", "tokenizer": where, "digest": digest, "length": 4}

    form = {"tensor": [64], "dtype": "float32", "range": [0.0, 1.0]}

    def save(name, text):
        made(input={"stored": form, "prepare": [], "kind": "values", "text": text}).save(
            files.folder / f"{name}.tickets", like=torch.rand(2, 64)
        )
        return str(files.folder / f"{name}.tickets")

    save("texts", text_of("here", "one"))
    registry = served(files, ("texts",))
    assert registry.load(save("moved", text_of("elsewhere", "one"))).taken.text["tokenizer"] == "here"
    with pytest.raises(Refused, match="another tokenizer than"):
        registry.load(save("other", text_of("elsewhere", "two")))


def test_a_ticket_is_grown_the_others_keep_their_hashes_and_the_content_is_a_file(tmp_path):
    x, y = torch.rand(80, 64), torch.arange(80) % 5
    data = tb.Data.of(x, y, {"site": torch.arange(80) // 5 % 2})
    sites = tb.partition.by_column(data, "site", ["north", "south"])
    options = {"sparsity": 0.75, "T": 2, "steps": 2, "parallel": "no"}
    tickets = tb.rtl(network(), tb.objectives.Classification(), data, sites, **options)
    tickets.save(tmp_path / "sites.tickets")
    np.savez(tmp_path / "west.npz", x=x.numpy(), y=4 - y.numpy())
    registry = Registry({"sites": tmp_path / "sites.tickets"}, read, [tmp_path])
    app, before = create_app(registry, token="secret"), registry.state.files["sites"].hashes
    grow = {"ticket": "west", "path": str(tmp_path / "west.npz"), "policy": "free"}
    assert ask(app, "/v1/files/sites/tickets", json=grow, headers=BEARER).status_code == 200
    after = registry.state.files["sites"].hashes
    assert {name: after[name] for name in before} == before
    said = ask(app, json={"inputs": x[:2].tolist(), "ticket": "west"}).json()
    assert {row["hash"] for row in said["answers"]} == {after["west"]}
    content = ask(app, "/v1/files/sites/content", "GET", headers=BEARER).content
    (tmp_path / "grown.tickets").write_bytes(content)
    assert identities(tb.load(tmp_path / "grown.tickets", network())) == after
    assert ask(app, "/v1/files/sites/tickets", json=grow, headers=BEARER).status_code == 409  # it is there
    grow["path"] = "os:system"
    assert ask(app, "/v1/files/sites/tickets", json=grow, headers=BEARER).status_code == 403


def test_masked_weights_of_all_files_have_room_together(files):
    one = 64 * 16 * 4
    registry = served(files, cache=4 * one)
    assert registry.state.files["a"].tickets.cache.max_bytes == 4 * one
    registry.load(str(files.folder / "b.tickets"))
    assert [e.tickets.cache.max_bytes for e in registry.state.files.values()] == [2 * one] * 2
    for number in range(3):
        registry.load(str(files.folder / "a2.tickets"), f"c{number}")
    assert [e.tickets.cache for e in registry.state.files.values()] == [None] * 5  # less than a ticket each


# -- what is seen ------------------------------------------------------------------------------------------


def test_metrics_and_lines_say_who_was_asked_and_nothing_of_what(files):
    lines = []
    app = create_app(served(files), write=lines.append, token="secret")
    secret = 0.123454321
    ask(app, json={"inputs": [secret] * 64, "ticket": "ticket3"})
    ask(app, json={"inputs": [secret] * 64, "ticket": "who\n\x1b?"})
    ask(app, "/v1/who?ticket=somebody", "GET")
    ask(app, "/v1/files/a", "DELETE", headers=BEARER)
    found = [json.loads(line) for line in lines]
    assert [line["status"] for line in found] == [200, 404, 404, 200]
    assert (found[0]["file"], found[0]["ticket"], found[0]["samples"]) == ("a", "ticket3", 1)
    assert not any(word in line for line in lines for word in ("12345", "who", "somebody", "secret"))
    text = ask(app, "/metrics", "GET").text
    assert 'tombola_requests_total{file="",status="404",ticket=""} 1.0' in text
    assert "ticket3" not in text  # its file is gone


def test_shares_and_confidence_of_a_router_are_counted(files):
    from tombola.serve.metrics import FIRST, Metrics

    metrics, entry = Metrics(), SimpleNamespace(name="a", tickets=SimpleNamespace(router=object()))
    rows = [{"ticket": "x", "probability": 0.5, "confidence": 0.45}]
    for _ in range(FIRST):
        metrics.chosen(entry, rows)
    metrics.chosen(entry, [{"ticket": "y", "probability": None, "confidence": 0.1}] * 300)
    text = metrics.text().decode()
    assert f'tombola_routed_samples_total{{file="a",ticket="x"}} {float(FIRST)}' in text
    assert 'tombola_routed_samples_total{file="a",ticket="y"} 300.0' in text
    drift = next(line for line in text.splitlines() if line.startswith("tombola_router_confidence_drift{"))
    assert -0.8 < float(drift.split()[-1]) < -0.7  # from 0.9 towards 0.1


def test_probes_lists_and_the_description(files):
    registry = served(files)
    app = create_app(registry, token="secret")
    assert ask(app, "/readyz", "GET").status_code == 200
    (file,) = ask(app, "/v1/tickets", "GET").json()["files"]
    assert {t["name"]: t["hash"] for t in file["tickets"]} == registry.state.files["a"].hashes
    stored = ask(app, "/v1/files/a", "GET").json()
    masks = registry.state.files["a"].tickets.masks
    assert stored["union"] == int(masks.union().sum())
    assert stored["jaccard"][0][1] == pytest.approx(float(masks.jaccard()[0, 1]), abs=1e-4)
    paths = ask(app, "/openapi.json", "GET").json()["paths"]
    assert {"/v1/predict", "/v1/tickets", "/v1/files", "/v1/aliases/{alias}", "/livez"} <= paths.keys()
    assert "image/png" in paths["/v1/predict"]["post"]["requestBody"]["content"]
    app.state.draining = True
    assert ask(app, "/readyz", "GET").status_code == 503
    app.state.draining = False
    registry.unload("a")
    assert [ask(app, path, "GET").status_code for path in ("/readyz", "/livez")] == [503, 200]


def test_the_docs_list_all_routes_metrics_and_limits(files):
    page = (ROOT / "docs" / "serving.md").read_text()
    app = create_app(served(files), token="secret")
    for path, methods in ask(app, "/openapi.json", "GET").json()["paths"].items():
        assert re.sub(r"\{(\w+)\}", lambda name: name[1].upper(), path) in page
        assert all(method.upper() in page for method in methods)
    ask(app, json={"inputs": [0.5] * 64, "ticket": "ticket1"})
    text = ask(app, "/metrics", "GET").text
    for name in re.findall(r"^# HELP (tombola_\w+)", text, re.MULTILINE):
        assert f"`{name}`" in page or name.endswith(("_created", "_drift"))
    limits = Limits()
    said = {name: float(value) for name, value in re.findall(r"^\| `--(\w+) ([\d.]+)`", page, re.MULTILINE)}
    assert said == {
        "body": limits.body / 1e6,
        **{n: getattr(limits, n) for n in ("samples", "seconds", "requests")},
    }


# -- the command -------------------------------------------------------------------------------------------


def test_a_careless_user_is_told_before_anything_is_loaded(files, capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = str(files.folder / "a.tickets")
        for status, arguments, words in (
            (2, [], "at least one ticket file"),
            (1, [file, "--port", str(port)], f"port {port} (Address already in use): choose another"),
            (2, [file, "--port", "99999"], "choose another"),
            (2, [file, file, "--port", "0"], "both called 'a' here: give them names"),
            (2, [file, "--port", "0"], "give --backbone MODULE:NAME"),
            (1, [file, "--allow", str(tmp_path / "none")], "there is no such folder"),
            (1, [file, "--token-file", str(tmp_path / "none")], "cannot be read"),
            (2, [file, "--samples", "0"], "--samples must be above 0"),
            (1, [file, "--audit", str(tmp_path), "--port", "0"], "cannot be written"),
            (1, [str(tmp_path / "none.tickets"), "--port", "0"], "there is no file"),
        ):
            with pytest.raises(SystemExit) as left:
                main(["serve", *arguments])
            assert left.value.code == status, arguments
            assert words in capsys.readouterr().err, arguments


def test_without_the_extra_its_name_is_said(files, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "tombola.serve.app")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(SystemExit):
        main(["serve", str(files.folder / "a.tickets")])
    assert "tombola serve: fastapi is needed; pip install -e '.[serve]'" in capsys.readouterr().err


@contextlib.contextmanager
def running(files, folder, *options):
    """`tombola serve` in a process of its own, and where it listens."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_serve import network\n"
    (folder / "my_net.py").write_text(code)
    command = ["serve", str(files.folder / "a.tickets"), "--backbone", "my_net:network", "--port", "0"]
    path = os.pathsep.join([str(ROOT / "src"), str(folder)])
    env = {**os.environ, "PYTHONPATH": path, "TOMBOLA_TOKEN": "secret"}
    command = [sys.executable, "-m", "tombola", *command, *options]
    with subprocess.Popen(command, stderr=-1, stdout=-1, env=env, cwd=folder, text=True) as process:
        try:
            line = next(line for line in process.stderr if "http" in line)
            yield process, f"http://{line.split('http://')[1].split()[0]}"
        finally:
            process.kill()


def test_a_service_that_is_killed_leaves_its_files_and_one_that_is_to_end_answers_first(files, tmp_path):
    asked = {"inputs": [[0.5] * 64] * 2, "ticket": "ticket4"}
    before = {p: p.read_bytes() for p in files.folder.iterdir()}
    with running(files, tmp_path, "--allow", str(files.folder)) as (process, address):
        load = {"path": str(files.folder / "b.tickets")}
        assert httpx.post(f"{address}/v1/files", json=load, headers=BEARER).status_code == 200
        assert httpx.post(f"{address}/v1/predict", json={**asked, "ticket": "b/ticket1"}).status_code == 200
        process.kill()
    assert {p: p.read_bytes() for p in before} == before
    with running(files, tmp_path, "--delay", "700") as (process, address), ThreadPoolExecutor(1) as thread:
        found = thread.submit(httpx.post, f"{address}/v1/predict", json=asked, timeout=20)
        time.sleep(0.4)  # it waits for others of its ticket
        process.send_signal(signal.SIGTERM)
        answer = found.result().json()["answers"][0]
        printed, errors = process.communicate(timeout=20)
    expected = files.baked[answer["hash"]](torch.full((1, 64), 0.5))[0]
    assert answer["answer"] == pytest.approx(expected.tolist(), abs=1e-5)
    assert json.loads(printed.splitlines()[0])["status"] == 200
    assert not errors
