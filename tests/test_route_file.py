"""`tombola route FILE`: a router for tickets without a run, from data that name the ticket of each sample."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import tombola as tb
from tombola.cli import main as cli

NETS = """
import torch, tombola as tb
from torch import nn

torch.manual_seed(0)
rows = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

def pictures():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)]
    return nn.Sequential(*layers)

def data():
    where = torch.arange(120) % 2
    x = torch.randn(120, 2, generator=torch.Generator().manual_seed(0)) + 6 * where[:, None]
    return tb.Data.of(x, where, {"city": [("Bergen", "Oslo")[k] for k in where.tolist()]})
"""


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        sys.exit(cli.main([*map(str, arguments)]))
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, " ".join(err.split())


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "route_nets.py").write_text(NETS)
    yield tmp_path
    sys.modules.pop("route_nets", None)


@pytest.fixture
def houses(here):
    """Tickets of two cities, whose houses differ in their columns; a table of others."""
    import route_nets

    data = table(0)
    made = tb.Data.from_table(data, target="kind", context="city", standardize=True)
    cities, task = tb.partition.by_column(made, "city"), tb.objectives.Classification()
    how = {"sparsity": 0.3, "T": 3, "steps": 20, "parallel": "no", "progress": False}
    tickets = tb.rtl(route_nets.rows, task, made, cities, **how)
    tickets.save("houses.tickets")
    table(1).to_csv("more.csv", index=False)
    return tickets


def table(seed, size=200):
    draw = np.random.default_rng(seed)
    where = np.arange(size) % 2
    rows = pd.DataFrame({"area": draw.normal(80, 5, size) + 60 * where, "rooms": 3 + draw.normal(0, 1, size)})
    return rows.assign(city=np.array(["Bergen", "Oslo"])[where], kind=draw.choice(["a", "b", "c"], size))


ROUTE = ("route", "houses.tickets", "--data", "more.csv", "--ticket-column", "city")
NET = ("--backbone", "route_nets:rows")


def test_a_file_gets_a_router_and_answers_without_names_then(houses, capsys):
    code, out, err = call(capsys, *ROUTE, *NET, "--json")
    assert code == 0, err
    made = json.loads(out)
    assert made["routing_accuracy"] > 0.95
    assert set(made["routing_accuracy_each"]) == {"Bergen", "Oslo"}
    assert sum(made["samples"].values()) == 200
    again = tb.load("houses.tickets", houses.backbone)
    assert again.router.kind == made["router"] == "prototype"
    assert made["stored"] == again.router.stored()
    rows = table(2)
    x = again.prepare(rows[["area", "rooms"]].to_numpy(np.float32))
    assert np.mean(np.array(again.predict(x).tickets) == rows["city"]) > 0.95  # what is prepared is routed
    assert torch.equal(again(x, ticket="Oslo"), houses(x, ticket="Oslo"))
    call(capsys, "predict", "houses.tickets", "more.csv", *NET)


def test_a_router_that_is_there_is_replaced_where_that_is_asked_for(houses, capsys):
    assert call(capsys, *ROUTE, *NET, "--router", "gate", "--set", "C=0.5", "depth=1")[0] == 0
    content = (file := Path("houses.tickets")).read_bytes()
    code, _, err = call(capsys, *ROUTE, *NET)
    assert (code, "has a router already: --force replaces it" in err) == (2, True)
    assert file.read_bytes() == content
    assert call(capsys, *ROUTE, *NET, "--save", "new.tickets")[0] == 0
    assert file.read_bytes() == content
    assert tb.load("new.tickets", houses.backbone).router.kind == "prototype"
    assert tb.load("houses.tickets", houses.backbone).router.options["C"] == 0.5
    code, out, _ = call(capsys, *ROUTE, *NET, "--force")
    assert code == 0
    assert "the prototype router sends" in out
    assert "held-out samples to their own ticket; least of " in out


def test_pictures_and_data_in_python_are_taken_too(here, capsys):
    import route_nets

    draw = np.random.default_rng(0)
    for n in range(60):
        place = here / "scenes" / ("day", "night")[n % 2] / ("cat", "dog")[n // 2 % 2]
        place.mkdir(parents=True, exist_ok=True)
        values = draw.integers(0, 60, (8, 8, 3)) + 180 * (n % 2)
        Image.fromarray(values.astype(np.uint8)).save(place / f"{n:02}.png")
    data = tb.Data.from_folder("scenes", 8, ("domain", "class"))
    domains, task = tb.partition.by_column(data, "domain"), tb.objectives.Classification()
    how = {"sparsity": 0.3, "T": 2, "steps": 5, "parallel": "no", "progress": False}
    tb.rtl(route_nets.pictures(), task, data, domains, **how).save("scenes.tickets")
    command = ("route", "scenes.tickets", "--data", "scenes", "--backbone", "route_nets:pictures", "--json")
    code, out, err = call(capsys, *command)
    assert code == 0, err
    assert json.loads(out)["routing_accuracy"] > 0.9
    assert "leave --ticket-column out" in call(capsys, *command, "--force", "--ticket-column", "x")[2]

    made = route_nets.data()
    cities = tb.partition.by_column(made, "city")
    tb.rtl(route_nets.rows, task, made, cities, **how).save("cities.tickets")
    given = ("--data", "route_nets:data", "--ticket-column", "city", *NET)
    code, out, err = call(capsys, "route", "cities.tickets", *given, "--json")
    assert code == 0, err
    assert json.loads(out)["routing_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("status", "arguments", "words"),
    [
        (2, ROUTE, "give --backbone MODULE:NAME"),
        (2, (*ROUTE[:2], *NET), "needs --data"),
        (2, (*ROUTE[:4], *NET), "say with --ticket-column which column of more.csv"),
        (2, (*ROUTE[:-1], "town", *NET), "there is no column 'town'"),
        (2, (*ROUTE, *NET, "--router", "gate", "prototype"), "one --router"),
        (2, (*ROUTE, *NET, "--router", "gat"), "did you mean 'gate'"),
        (2, (*ROUTE, *NET, "--set", "mix=3"), "mix is 1"),
        (2, (*ROUTE, *NET, "--sparsity", "0.5"), "are for runs"),
        (2, ("route", "runs", "--ticket-column", "city"), "are for a ticket file"),
        (2, (*ROUTE[:2], "other.tickets", *ROUTE[2:], *NET), "give one file"),
        (1, (*ROUTE[:3], "none.csv", *ROUTE[4:], *NET), "none.csv"),
        (1, (*ROUTE[:3], "short.csv", *ROUTE[4:], *NET), "there is no column 'rooms'"),
        (1, (*ROUTE[:-1], "kind", *NET), "there is no ticket 'c'"),
        (1, (*ROUTE[:3], "one.csv", *ROUTE[4:], *NET), "is of the ticket 'Bergen'"),
        (1, (*ROUTE[:3], "lacking.csv", *ROUTE[4:], *NET), "column 'city' has 1 missing value"),
        (1, ("route", "none.tickets", *ROUTE[2:], *NET), "none.tickets"),
    ],
)
def test_mistakes_are_one_line_and_leave_the_file(houses, capsys, status, arguments, words):
    table(1).drop(columns="rooms").to_csv("short.csv", index=False)
    table(1).assign(city="Oslo").to_csv("one.csv", index=False)
    lacking = table(1)
    lacking.loc[3, "city"] = None
    lacking.to_csv("lacking.csv", index=False)
    content = Path("houses.tickets").read_bytes()
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (status, ""), err
    assert words in err
    assert Path("houses.tickets").read_bytes() == content
