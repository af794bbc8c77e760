"""What `prepare` does is in the ticket file: every step that ships comes back to the same bits."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import tombola as tb
from tombola._utils import io
from tombola._utils.errors import DataError, TicketFileError, TombolaError
from tombola.data.prepare import (
    CASTS,
    KINDS,
    Compose,
    Normalise,
    Scale,
    Standardize,
    described,
    restored,
    same,
)

numbers = st.floats(-1e6, 1e6)
positive = st.floats(1e-3, 1e6)
SHIPPED = {
    "normalise": st.tuples(st.tuples(numbers, numbers), st.tuples(positive, positive)).map(
        lambda a: Normalise(*a)
    ),
    "standardize": st.tuples(st.tuples(numbers, numbers), st.tuples(positive, positive)).map(
        lambda a: Standardize(*a)
    ),
    "scale": st.builds(Scale, numbers, numbers),
}
steps = st.one_of(*SHIPPED.values(), *map(st.just, (Tensor.float, Tensor.double)))


def test_no_step_that_ships_is_left_out_here():
    assert SHIPPED.keys() == KINDS.keys()


def through_a_file(prepare):
    return restored(json.loads(json.dumps(described(prepare), allow_nan=False)))


@given(st.recursive(steps, lambda inner: st.lists(inner, max_size=3).map(Compose), max_leaves=5))
def test_steps_come_back_to_the_same_bits(prepare):
    x = torch.arange(16.0).view(2, 2, 2, 2)
    assert torch.equal(through_a_file(prepare)(x), prepare(x))
    assert described(through_a_file(prepare)) == described(prepare)


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_casts_come_back(cast):
    assert through_a_file(cast) is cast
    assert through_a_file(same) is same


def test_numbers_of_any_kind_are_written_as_plain_ones():
    given = Normalise(np.array([0.5], np.float32), torch.tensor([0.25]))
    assert described(given) == [{"step": "normalise", "mean": [0.5], "std": [0.25]}]


def twice(x):
    return 2 * x


@pytest.mark.parametrize(
    ("prepare", "name"),
    [
        (twice, "test_prepare.twice"),
        (Compose([Tensor.float, twice]), "test_prepare.twice"),
        (Scale(float("nan")), "Scale"),
        (Standardize((0.0,), (0.0,)), "Standardize"),
    ],
)
def test_what_no_file_holds_is_said_by_name(prepare, name):
    with pytest.raises(DataError, match=rf"prepared by \S*{name}, .* pass inputs that it has prepared"):
        through_a_file(prepare)


def test_a_step_of_a_newer_version_is_one_that_no_file_holds():
    with pytest.raises(DataError, match="prepared by whiten,"):
        restored([{"step": "whiten", "matrix": [[1.0]]}])


# -- in ticket files --------------------------------------------------------------------------------------


def network(inputs, outputs=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))


def saved(data, partition, path, net, objective=None):
    objective = objective or tb.objectives.Classification()
    tickets = tb.rtl(net, objective, data, partition, sparsity=0.5, T=2, steps=4, parallel="no")
    tickets.save(path)
    return tickets, tb.load(path, net)


def houses(count=120):
    draw = np.random.default_rng(0)
    table = pd.DataFrame({"area": draw.normal(100, 20, count), "rooms": draw.integers(1, 6, count)})
    table["city"] = draw.choice(["Bergen", "Oslo"], count)
    table["kind"] = pd.Categorical(draw.choice(["flat", "villa", "cabin"], count), ["villa", "flat", "cabin"])
    return table


@pytest.fixture(scope="module")
def of_table(tmp_path_factory):
    table, path = houses(), tmp_path_factory.mktemp("table") / "houses.tickets"
    data = tb.Data.from_table(table, "kind", context="city", standardize=True)
    tickets, again = saved(data, tb.partition.by_column(data, "city"), path, network(2, 3))
    return path, table, data, tickets, again


def test_a_table_is_standardised_as_in_training(of_table):
    _, table, data, tickets, again = of_table
    rows = table[["area", "rooms"]].to_numpy()
    assert torch.equal(again.prepare(data.test.x), data.inputs("test", torch.arange(len(data.test))))
    assert torch.equal(again.prepare(rows), tickets.prepare(rows))
    assert again.metadata["input"]["features"] == ["area", "rooms"]


def test_pictures_are_scaled_as_in_training(tmp_path):
    x = torch.randint(0, 256, (60, 3, 4, 4), dtype=torch.uint8)
    for i, prepare in enumerate([Normalise((0.5,) * 3, (0.2,) * 3), Tensor.float, Compose([Scale(1 / 255)])]):
        data = tb.Data.of(x, torch.arange(60) % 2, prepare=prepare)
        _, again = saved(data, tb.partition.by_label(data), tmp_path / f"{i}.tickets", network(48))
        assert torch.equal(again.prepare(x.numpy()), prepare(x))
        assert again.metadata["input"]["stored"]["dtype"] == "uint8"


def test_a_function_of_ones_own_is_in_the_file_by_name_and_refused(tmp_path):
    data = tb.Data.of(torch.rand(60, 4), torch.arange(60) % 2, prepare=twice)
    _, again = saved(data, tb.partition.by_label(data), tmp_path / "a.tickets", network(4))
    assert again.metadata["input"]["prepare"] == [{"own": f"{twice.__module__}.twice"}]
    assert again.predict(twice(data.test.x), ticket="0").outputs.shape == (12, 2)
    with pytest.raises(TombolaError, match=r"prepared by \S*twice"):
        again.prepare(data.test.x)


def test_a_file_that_says_nothing_takes_inputs_as_they_are(tmp_path):
    x, net = torch.rand(3, 4), network(4)
    masks = tb.MaskSet(tb.scope(net), {"a": torch.ones(32, dtype=torch.bool)})
    for metadata in ({}, {"input": {"kind": "sound"}}):
        tb.TicketModel(net, masks, metadata=metadata).save(tmp_path / "a.tickets")
        assert torch.equal(tb.load(tmp_path / "a.tickets", net).prepare(x), x)
    tb.TicketModel(net, masks, metadata={"input": None}).save(tmp_path / "a.tickets")
    with pytest.raises(TombolaError, match="prepared by a function that an older version did not name"):
        tb.load(tmp_path / "a.tickets", net).prepare(x)
    old = {"kind": "values", "shape": [1, 2, 2], "bytes": True, "range": [0, 1], "mean": [0.5], "std": [0.5]}
    tb.TicketModel(net, masks, metadata={"input": old}).save(tmp_path / "a.tickets")
    white = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    assert tb.load(tmp_path / "a.tickets", net).prepare(white).flatten().tolist() == [1.0] * 4


@pytest.mark.parametrize(
    "said",
    [
        3,
        {"prepare": 3},
        {"prepare": [3]},
        {"prepare": [{}]},
        {"prepare": [{"step": []}]},
        {"prepare": [{"own": 3}]},
        {"stored": 3},
        {"prepare": [{"step": "scale"}]},
        {"prepare": [{"step": "scale", "factor": [1.0], "shift": 0.0}]},
        {"prepare": [{"step": "normalise", "mean": [0.0], "std": [0.0]}]},
        {"prepare": [{"step": "normalise", "mean": [0.0, 1.0], "std": [1.0]}]},
        {"bytes": True},
    ],
)
def test_damaged_steps_are_refused_before_they_are_used(of_table, tmp_path, said):
    tensors, header = io.read(of_table[0])
    header["facts"]["input"] = said
    io.write(tmp_path / "b.tickets", tensors, header)
    with pytest.raises(TicketFileError, match=r"\(facts input\)"):
        tb.load(tmp_path / "b.tickets", network(2, 3))


def test_inputs_that_cannot_be_prepared_are_one_line(of_table):
    with pytest.raises(
        TombolaError, match=r"cannot be prepared as in training .*samples as they were stored"
    ):
        of_table[4].prepare(torch.rand(2, 5))
