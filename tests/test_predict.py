"""`tombola predict` asks files that no run made: tables, folders, arrays, prepared as in training."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import tombola as tb
from tombola._utils.errors import DataError
from tombola.cli.main import main
from tombola.data.images import read_folder
from tombola.lab.evaluation.inputs import inputs_of
from tombola.tickets.inputs import Inputs

NETWORKS = """
import torch
from torch import nn

def rows(): return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
pictures = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.size, self.out = nn.EmbeddingBag(5, 8), nn.Linear(3, 8), nn.Linear(8, 2)
    def forward(self, ids, size):
        return self.out(torch.relu(self.words(ids) + self.size(size)))
"""
OPTIONS = {"sparsity": 0.5, "T": 2, "steps": 6, "parallel": "no"}


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A folder of its own, with a module of networks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("my_networks", None)
    import my_networks

    yield my_networks
    sys.modules.pop("my_networks", None)


def rows_of(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["predict", *map(str, arguments), "--json"])
    assert left.value.code == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["predict", *map(str, arguments)])
    assert left.value.code
    return capsys.readouterr().err


@pytest.fixture
def houses(nets, tmp_path):
    """Tickets of a table in its units, whose classes are text; the rows as CSV and as Parquet."""
    draw = np.random.default_rng(0)
    table = pd.DataFrame({"area": draw.normal(100, 20, 120), "rooms": draw.integers(1, 6, 120)})
    table["city"], table["kind"] = draw.choice(["Bergen", "Oslo"], 120), draw.choice(["a", "b", "c"], 120)
    data = tb.Data.from_table(table, "kind", context="city", standardize=True)
    cities = tb.partition.by_column(data, "city")
    tickets = tb.rtl(nets.rows(), tb.objectives.Classification(), data, cities, **OPTIONS)
    tickets.save("houses.tickets")
    table = table[:9]
    table[["kind", "rooms", "city", "area"]].to_csv(
        "rows.csv", index=False
    )  # in another order, and more of them
    table.to_parquet("rows.parquet")
    table[["area", "rooms"]].to_csv("bare.csv", index=False, header=False)
    return table, tickets


@pytest.mark.parametrize("rows", ["rows.csv", "rows.parquet", "bare.csv"])
def test_a_table_in_its_units_is_answered_with_names_of_classes(houses, capsys, rows):
    table, tickets = houses
    x = tickets.prepare(table[["area", "rooms"]].to_numpy())
    wanted = tickets.predict(x, "Oslo")
    found = rows_of(capsys, "houses.tickets", rows, "--ticket", "Oslo", "--backbone", "my_networks:rows")
    assert [row["answer"] for row in found] == wanted.answers
    assert [row["probability"] for row in found] == pytest.approx(wanted.probability_B.tolist(), abs=1e-5)
    assert {row["answer"] for row in found} <= {"a", "b", "c"}


def test_in_python_nothing_is_prepared_unasked(houses):
    table, tickets = houses
    stored = torch.from_numpy(table[["area", "rooms"]].to_numpy(np.float32))
    x = tickets.prepare(stored)
    assert not torch.allclose(x, stored)
    with torch.no_grad():
        for given in (x, stored):
            assert torch.equal(tickets.predict(given, "Oslo").outputs, tickets(given, ticket="Oslo"))
    assert "tickets.predict(tickets.prepare(x))" in tb.TicketModel.predict.__doc__


def test_an_exported_ticket_says_how_inputs_are_prepared_and_classes_are_called(houses, capsys):
    command = ["export", "houses.tickets", "--ticket", "Oslo", "--out", "oslo.safetensors"]
    with pytest.raises(SystemExit):
        main([*command, "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["class_names"] == ["a", "b", "c"]
    assert [step["step"] for step in said["prepare"]] == ["standardize"]
    with pytest.raises(SystemExit):
        main([*command, "--force"])
    assert "inputs have to be prepared as in training: [{" in capsys.readouterr().err


def test_a_column_names_the_ticket_of_each_row(houses, capsys):
    table, _ = houses
    command = ["houses.tickets", "rows.csv", "--backbone", "my_networks:rows", "--ticket-column"]
    assert [row["ticket"] for row in rows_of(capsys, *command, "city")] == table["city"].tolist()
    assert "there is no column 'town'" in refusal(capsys, *command, "town")
    assert "give one of them" in refusal(capsys, *command, "city", "--ticket", "Oslo")


def test_what_a_table_lacks_is_said_by_name(houses, capsys, tmp_path):
    table, _ = houses
    table.drop(columns="area").to_csv("short.csv", index=False)
    table.assign(area=np.nan).to_csv("gaps.csv", index=False)
    table[:0].to_csv("empty.csv", index=False)
    for name, words in (
        ("short", "no column 'area'"),
        ("gaps", "column 'area' has 9 missing values"),
        ("empty", "holds no rows"),
    ):
        command = ["houses.tickets", f"{name}.csv", "--ticket", "Oslo", "--backbone", "my_networks:rows"]
        assert words in " ".join(refusal(capsys, *command).split())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_named_by_sample_and_column(houses, value):
    table, tickets = houses
    x = tickets.prepare(table[["area", "rooms"]].to_numpy())
    x[4, 1] = value
    words = r"in 1 of 9 samples \(the first is number 4, column 'rooms'\): fill them in"
    for name in ("Oslo", ["Oslo"] * 9):
        with pytest.raises(DataError, match=f"^x holds NaN or infinite values {words}"):
            tickets.predict(x, name)
    tickets.metadata = {}  # nothing is known of columns
    with pytest.raises(DataError, match=r"the first is number 4, at \[1\]"):
        tickets.predict(x, "Oslo")


def test_parts_of_a_batch_are_looked_at_where_they_are_numbers_with_a_point():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(2, 3)

        def forward(self, ids, size):
            return self.out(size) + ids[:, :1]

    net = Sum()
    masks = tb.MaskSet(tb.scope(net, include=["out.weight"]), {"a": torch.ones(6, dtype=torch.bool)})
    tickets = tb.TicketModel(net, masks, metadata={"answer": "class"})
    x = {"ids": torch.ones(3, 1).long(), "size": torch.ones(3, 2)}
    assert len(tickets.predict(x).tickets) == 3
    x["size"][2, 0] = torch.nan
    with pytest.raises(DataError, match=r"^x\['size'\] holds NaN .*\(the first is number 2, at \[0\]\)"):
        tickets.predict(x)


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        ("csv", "the table holds NaN or infinite values in 1 of 9 samples (the first is number 3, column"),
        ("npy", "bad.npy holds NaN or infinite values in 1 of 9 samples (the first is number 3, at [1]"),
    ],
)
def test_the_command_names_what_is_not_finite(houses, capsys, suffix, words):
    table, _ = houses
    values = table[["area", "rooms"]].astype(float)
    values.loc[2, "rooms"] = np.inf
    values.to_csv("bad.csv", index=False)
    np.save("bad.npy", values.to_numpy())
    command = ["houses.tickets", f"bad.{suffix}", "--ticket", "Oslo", "--backbone", "my_networks:rows"]
    assert words in " ".join(refusal(capsys, *command).split())
    np.save("bad.npy", np.full((2, 2), 1e38))  # finite, but not over deviations
    tickets = tb.load("houses.tickets", nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)))
    tickets.metadata["input"]["prepare"] = [{"step": "scale", "factor": 100.0, "shift": 0.0}]
    tickets.save("houses.tickets")
    said = " ".join(refusal(capsys, command[0], "bad.npy", *command[2:]).split())
    assert "bad.npy, prepared as in training, holds NaN or infinite values in 2 of 2 samples" in said


def test_a_folder_of_pictures_is_answered_as_it_was_read_in_training(nets, tmp_path, capsys):
    draw = np.random.default_rng(0)
    for n in range(48):
        place = tmp_path / "scenes" / ("day", "night")[n % 2] / ("cat", "dog")[n // 2 % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (12 + n % 5, 16, 3), dtype=np.uint8)).save(
            place / f"{n:02}.png"
        )
    data = tb.Data.from_folder("scenes", 8, ("domain", "class"))
    assert data.class_names == ("cat", "dog")
    domains = tb.partition.by_column(data, "domain")
    tickets = tb.rtl(nets.pictures, tb.objectives.Classification(), data, domains, **OPTIONS)
    tickets.save("scenes.tickets")
    command = ["scenes.tickets", "scenes", "--ticket", "day", "--backbone", "my_networks:pictures"]
    found = rows_of(capsys, *command)
    assert [row["input"] for row in found[:2]] == ["scenes/day/cat/00.png", "scenes/day/cat/04.png"]
    every, _ = read_folder("scenes", ("domain", "class"), 8, False, 0, True, False)
    wanted = tickets.predict(tickets.prepare(every), "day")
    assert [row["answer"] for row in found] == wanted.answers
    assert [row["probability"] for row in found] == pytest.approx(wanted.probability_B.tolist(), abs=1e-5)
    (tmp_path / "none").mkdir()
    assert "holds no pictures" in refusal(capsys, "scenes.tickets", "none", *command[2:])


def test_arrays_of_several_parts_are_asked_by_name(nets, capsys):
    torch.manual_seed(0)
    x = {"ids": torch.randint(0, 5, (60, 4)), "size": torch.rand(60, 3)}
    data = tb.Data.of(x, torch.arange(60) % 2)
    tickets = tb.rtl(
        nets.Two(), tb.objectives.OneVsRest(), data, tb.partition.by_label(data, ["a", "b"]), **OPTIONS
    )
    tickets.save("two.tickets")
    command = ["two.tickets", "x.npz", "--backbone", "my_networks:Two"]
    np.savez("x.npz", **{name: part[:7].numpy() for name, part in x.items()})
    found = rows_of(capsys, *command)
    wanted = tickets.predict({name: part[:7] for name, part in x.items()})
    assert [row["answer"] for row in found] == wanted.answers
    np.savez("x.npz", ids=x["ids"].numpy())
    assert "holds ids: these tickets take ids, size" in " ".join(refusal(capsys, *command).split())


def halved(x):
    return x / 2


def test_what_a_function_of_ones_own_prepared_is_refused_unless_it_is_prepared(nets, capsys):
    x = torch.rand(60, 2)
    data = tb.Data.of(x, torch.arange(60) % 2, prepare=halved)
    tickets = tb.rtl(nets.rows(), tb.objectives.OneVsRest(), data, tb.partition.by_label(data), **OPTIONS)
    tickets.save("own.tickets")
    np.save("x.npy", halved(x[:3]).numpy())
    command = ["own.tickets", "x.npy", "--backbone", "my_networks:rows"]
    words = " ".join(refusal(capsys, *command).split())
    assert "halved, which a ticket file cannot hold: pass inputs that it has prepared (--prepared)" in words
    assert [row["answer"] for row in rows_of(capsys, *command, "--prepared")] == tickets.predict(
        halved(x[:3])
    ).answers


def test_tickets_made_by_hand_say_by_like_what_they_take(nets, capsys):
    net = nets.rows()
    masks = tb.MaskSet(tb.scope(net), {"one": torch.ones(16, dtype=torch.bool)})
    tickets = tb.TicketModel(net, masks)
    np.save("x.npy", np.ones((3, 2), np.float32))
    command = ["hand.tickets", "x.npy", "--backbone", "my_networks:rows"]
    tickets.save("hand.tickets")
    assert "save the tickets with tickets.save(FILE, like=x)" in " ".join(refusal(capsys, *command).split())
    torch.manual_seed(0)
    tickets.save("hand.tickets", like=torch.rand(4, 2))
    assert len(rows_of(capsys, *command)) == 3


def test_files_of_an_older_version_take_what_is_prepared(nets, capsys):
    net, masks = nets.rows(), tb.MaskSet(tb.scope(nets.rows()), {"one": torch.ones(16, dtype=torch.bool)})
    tb.TicketModel(net, masks, metadata={"data": "a hash", "shape": [2]}).save("old.tickets")
    np.save("x.npy", np.ones((3, 2), np.float32))
    command = ["old.tickets", "x.npy", "--backbone", "my_networks:rows"]
    assert "did not say how inputs are prepared: pass what the network" in refusal(capsys, *command)
    assert len(rows_of(capsys, *command, "--prepared")) == 3


@pytest.mark.parametrize(
    ("dtype", "values", "words"),
    [
        ("int64", [[0.5, 1.0]], "some numbers are no int64"),
        ("float32", [[1.0, 2.0, 3.0]], "3 columns, but 2"),
    ],
)
def test_columns_of_another_kind_are_refused(tmp_path, dtype, values, words):
    pd.DataFrame(values, columns=list("abc")[: len(values[0])]).to_parquet(tmp_path / "x.parquet")
    taken = Inputs({"tensor": [2], "dtype": dtype, "range": None})
    with pytest.raises(DataError, match=words):
        inputs_of(tmp_path / "x.parquet", taken)


def test_answers_are_named_where_names_are_known():
    x, net = torch.rand(3, 2), nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3))
    masks = tb.MaskSet(tb.scope(net), {name: torch.ones(8, dtype=torch.bool) for name in ("a", "b")})
    plain = tb.TicketModel(net, masks, metadata={"answer": "class"}).predict(x, "a")
    assert plain.answers == plain.answer_B.tolist()
    few = tb.TicketModel(net, masks, metadata={"answer": "class", "class_names": ["x"]}).predict(x, "a")
    assert few.answers == ["x" if n == 0 else n for n in few.answer_B.tolist()]
    assert tb.TicketModel(net, masks, metadata={"answer": "value"}).predict(x, "a").answers is None
