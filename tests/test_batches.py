"""Inputs and outputs of any structure: training, mixed batches, routers, calibration, files."""

from collections import OrderedDict, UserDict
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import tombola as tb
from tombola._utils import batch
from tombola._utils.errors import DataError, TombolaError
from tombola.methods.table import METHODS

NAMES = ("a", "b", "c")
K, S = 3, 150
QUICK = {"sparsity": 0.5, "T": 4, "steps": 12, "rewind": 0, "statistics": 2, "parallel": "no"}


class Output(OrderedDict):
    """As ``transformers.ModelOutput``: a dictionary of parts that are attributes too."""

    def __getattr__(self, name):
        return self[name]


class Net(nn.Module):
    """Token numbers (with a padding mask) and two numbers, in one of several ways."""

    def __init__(self, given="dict", gives="tensor"):
        super().__init__()
        self.given, self.gives = given, gives
        self.table = nn.Embedding(20, 8)
        self.one, self.norm, self.two = nn.Linear(10, 16), nn.BatchNorm1d(16), nn.Linear(16, 16)
        self.head = nn.Linear(16, K)

    def forward(self, ids, mask=None, extra=None):
        if self.given == "nest":
            ids, (mask, extra) = ids["ids"], ids["more"]
        shown = self.table(ids) * mask[..., None]
        h = torch.cat([shown.sum(1) / mask.sum(1, keepdim=True), extra], 1)
        h = torch.relu(self.two(torch.relu(self.norm(self.one(h)))))
        y = self.head(h)
        if self.gives == "tensor":
            return y
        if self.gives == "tuple":
            return h, y
        parts = {"logits": y, "hidden": h.unsqueeze(0), "last": None}
        return Output(parts) if self.gives == "output" else parts


def make(given="dict", gives="tensor"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net(given, gives)


def inputs():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(S) % K
    ids = torch.randint(4, 20, (S, 5), generator=g)
    ids[:, 0] = y  # the first token says the class
    mask = (torch.rand(S, 5, generator=g) < 0.8).float()
    mask[:, 0] = 1
    extra = torch.randn(S, 2, generator=g) + y[:, None]
    return {"ids": ids, "mask": mask, "extra": extra}, y


def given_as(x, given):
    if given == "tuple":
        return tuple(x.values())
    return {"ids": {"ids": x["ids"], "more": (x["mask"], x["extra"])}} if given == "nest" else x


def problem(given="dict"):
    x, y = inputs()
    data = tb.Data.of(given_as(x, given), y, {"site": y.numpy()}, validation=0.2, test=0.2)
    return data, tb.partition.by_label(data, NAMES)


def sites(split):
    return {"low": split.x["extra"][:, 0] < 1, "high": split.x["extra"][:, 0] >= 1}


PART = {"tensor": None, "tuple": 1, "dict": "logits", "output": "logits"}


@pytest.mark.parametrize("given", ["dict", "tuple", "nest"])
@pytest.mark.parametrize("gives", PART)
def test_tickets_are_found_whatever_goes_in_and_out(given, gives):
    data, partition = problem(given)
    objective = tb.objectives.OneVsRest(output=PART[gives])
    found = tb.find("rtl", make(given, gives), objective, data, partition, **QUICK)[0]
    plain, _ = problem()
    reference = tb.find("rtl", make(), tb.objectives.OneVsRest(), plain, partition, **QUICK)[0]
    assert found.models[0].masks.digest() == reference.models[0].masks.digest()
    size = "file_bytes"  # the name of the output is in the file
    assert [m for m in found.metrics if m.name != size] == [m for m in reference.metrics if m.name != size]


@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("early_bird_channels",)])
def test_every_method_takes_dictionaries(name):
    data, _ = problem()
    objective = tb.objectives.Classification(output="logits")
    site = tb.partition.by_rule(data, sites)
    if METHODS[name].conditioned:
        with pytest.raises(TombolaError, match="only a network that begins with a linear"):
            tb.find(name, make(gives="dict"), objective, data, site, **QUICK)
        return
    (outcome,) = tb.find(name, make(gives="dict"), objective, data, site, **QUICK)
    assert outcome.metrics


@pytest.mark.parametrize("gives", PART)
def test_mixed_batches_come_back_in_order_each_output_along_its_own_axis(gives):
    data, partition = problem()
    tickets = tb.rtl(make(gives=gives), tb.objectives.OneVsRest(output=PART[gives]), data, partition, **QUICK)
    x, names = data.inputs("test", torch.arange(7)), ["b", "a", "a", "c", "b", "a", "c"]
    with torch.no_grad():
        together = tickets(x, ticket=names)
        alone = [tickets(batch.take(x, slice(i, i + 1)), ticket=n) for i, n in enumerate(names)]
    assert type(together) is type(alone[0])

    def agree(part, axis=0):
        torch.testing.assert_close(part(together), torch.cat([part(one) for one in alone], axis))

    agree(lambda out: batch.part_of(out, PART[gives]))
    if gives in ("dict", "output"):
        agree(lambda out: out["hidden"], 1)
        assert together["last"] is None


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(torch.relu(self.a(x))).transpose(0, 1)


class Auxiliary(TimeFirst):
    def forward(self, x):
        h = self.a(x)
        return {"logits": self.b(h[:, 0]), "balance": h.pow(2).mean()}


class Pairs(TimeFirst):
    def forward(self, x):
        h = self.a(x)[:, 0]
        return h @ h.T


def tickets_of(net, names=NAMES):
    scope, g = tb.scope(net, include=["*.weight"]), torch.Generator().manual_seed(1)
    masks = {name: torch.rand(scope.size, generator=g) < 0.5 for name in names}
    return tb.TicketModel(net, tb.MaskSet(scope, masks)).eval()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_time_may_come_first(steps):
    tickets, x = tickets_of(TimeFirst()), torch.randn(4, steps, 5)
    names = ["c", "a", "c", "b"]
    with torch.no_grad():
        alone = [tickets(x[i : i + 1], ticket=n) for i, n in enumerate(names)]
        torch.testing.assert_close(tickets(x, ticket=names), torch.cat(alone, 1))


def test_a_recurrent_state_has_its_samples_second():
    class States(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.rnn = nn.Linear(5, 8), nn.GRU(8, 6, num_layers=2, batch_first=True)

        def forward(self, x):
            return self.rnn(self.inner(x))

    tickets, x, names = tickets_of(States()), torch.randn(2, 2, 5), ["b", "a"]
    with torch.no_grad():
        out, state = tickets(x, ticket=names)
        alone = [tickets(x[i : i + 1], ticket=n) for i, n in enumerate(names)]
    torch.testing.assert_close(out, torch.cat([o for o, _ in alone]))
    torch.testing.assert_close(state, torch.cat([s for _, s in alone], 1))


@pytest.mark.parametrize(
    ("kind", "words"), [(Auxiliary, r"output\['balance'\] has shape \(\)"), (Pairs, "output has shape")]
)
def test_one_value_for_all_samples_is_refused_in_a_mixed_batch(kind, words):
    net, seen = kind(), []
    tickets, x = tickets_of(net), torch.randn(4, 2, 5)
    tickets(x, ticket="a")  # alone it is fine
    net.register_forward_hook(lambda *_: seen.append(len(x)))
    with pytest.raises(TombolaError, match=words):
        tickets(x, ticket=["a", "b", "a", "b"])
    assert len(seen) == 2  # two small passes to find the axes, and none of the batch


@pytest.mark.parametrize("router", ["prototype", "score", "gate", "superposition"])
def test_routers_calibration_and_files_take_structures(router, tmp_path):
    data, _ = problem()
    objective = tb.objectives.Classification(output="logits")
    site = tb.partition.by_rule(data, sites)
    tickets = tb.rtl(make(gives="output"), objective, data, site, **QUICK)
    tickets.router = tb.routing.ROUTERS[router]().fit(tickets, data, site)
    tickets.calibration = tb.calibration.Calibration().fit(tickets, data, site)
    x = data.inputs("test", torch.arange(9))
    expected = tickets.predict(x)
    tickets.save(tmp_path / "a.tickets")
    loaded = tb.load(tmp_path / "a.tickets", make(gives="output"))
    found = loaded.predict(UserDict(x))  # such as what a tokenizer gives
    assert found.tickets == expected.tickets
    assert torch.equal(found.answer_B, expected.answer_B)
    assert found.outputs.shape == (9, K)


def test_one_vs_rest_tickets_say_which_subset_it_is():
    data, partition = problem("tuple")
    tickets = tb.rtl(make("tuple", "tuple"), tb.objectives.OneVsRest(output=1), data, partition, **QUICK)
    x = data.inputs("test", torch.arange(9))
    assert tickets.predict(x).outputs.shape == (9, K)
    assert tickets.predict(x, ticket="a").answer_B.shape == (9,)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([[1.0]], "x.*is float, not a tensor"),
        ({"ids": torch.zeros(2), "mask": torch.zeros(3)}, r"x\['ids'\] has 2, x\['mask'\] has 3"),
        ({"ids": None}, "dict without a tensor"),
        ((torch.zeros(2), torch.tensor(1.0)), r"x\[1\] is a single number"),
        ("text", "str without a tensor"),
    ],
)
def test_what_is_no_batch_is_named(x, words):
    with pytest.raises(TombolaError, match=words):
        tickets_of(TimeFirst())(x, ticket="a")


def test_a_part_that_is_not_there_or_not_named_is_an_error_before_training():
    data, partition = problem()
    for output, words in (
        (None, r"returns a dict of 'logits', 'hidden', 'last', not a tensor.*output='logits'"),
        ("logit", r"output='logit': the network returns a dict of 'logits'"),
        ("last", "output='last' of the network is a NoneType"),
    ):
        with pytest.raises(DataError, match=words):
            tb.rtl(make(gives="dict"), tb.objectives.OneVsRest(output=output), data, partition, **QUICK)


def test_dictionaries_of_arrays_are_split_row_by_row():
    x, y = inputs()
    arrays = {name: t.numpy() for name, t in x.items()}
    data = tb.Data.of(arrays, y.numpy())
    assert repr(data).endswith("x={ids: int64[5], mask: float32[5], extra: float32[2]}, y=int64[])")
    part = data.train.x
    assert torch.equal(part["extra"].argmax(1) * 0 + part["ids"][:, 0], data.train.y)
    with pytest.raises(DataError, match=r"x\['mask'\]"):
        tb.Data.of({**arrays, "mask": arrays["mask"][:-1]}, y)
    with pytest.raises(DataError, match=r"x\['extra'\] holds NaN"):
        tb.Data.of({**arrays, "extra": arrays["extra"] * float("nan")}, y)
    with pytest.raises(DataError, match="empty dict"):
        tb.Data.of({}, y)


def test_a_data_set_of_dictionaries_is_read():
    x, y = inputs()

    @dataclass
    class Rows:
        def __len__(self):
            return S

        def __getitem__(self, i):
            return {name: t[i] for name, t in x.items()}, y[i]

    data = tb.Data.from_dataset(Rows(), memory=True)
    assert torch.equal(data.train.x["ids"][:, 0], data.train.y)
    read = tb.Data.from_dataset(Rows()).inputs("train", torch.arange(len(data.train)))
    assert all(torch.equal(read[name], data.train.x[name]) for name in x)


def test_augment_and_prepare_see_the_whole_batch():
    x, y = inputs()
    seen = []

    def augment(x, generator):
        return {**x, "extra": x["extra"] + torch.rand(1, generator=generator)}

    def prepare(x):
        seen.append(sorted(x))
        return {**x, "mask": x["mask"].clamp(min=0.5)}

    data = tb.Data.of(x, y, augment=augment, prepare=prepare)
    made = data.inputs("train", torch.arange(3), torch.Generator().manual_seed(0))
    assert seen == [["extra", "ids", "mask"]]
    assert float(made["mask"].min()) == 0.5
    assert not torch.equal(made["extra"], data.train.x["extra"][:3])


def test_samples_that_are_flattened_into_rows_are_refused_in_a_mixed_batch():
    class Flat(TimeFirst):
        def forward(self, x):
            return self.b(self.a(x)).flatten(0, 1)

    tickets, x = tickets_of(Flat()), torch.randn(4, 5, 5)
    assert tickets(x, ticket="a").shape == (20, 3)
    with pytest.raises(TombolaError, match=r"output has shape \(5, 3\) for one sample and \(10, 3\) for two"):
        tickets(x, ticket=["a", "b", "a", "b"])


def test_the_axis_of_the_samples_may_depend_on_the_number_of_axes():
    class Either(TimeFirst):
        def forward(self, x):
            y = self.b(self.a(x))
            return y.transpose(0, 1) if x.ndim == 3 else y

    tickets, names = tickets_of(Either()), ["a", "b", "a", "b"]
    assert tickets(torch.randn(4, 5), ticket=names).shape == (4, 3)
    assert tickets(torch.randn(4, 7, 5), ticket=names).shape == (7, 4, 3)


def test_outputs_of_unequal_lengths_are_one_clear_error():
    class Trimmed(TimeFirst):
        def forward(self, x):
            return self.b(self.a(x))[:, : int(x[:, 0, 0].max())]

    tickets, x = tickets_of(Trimmed()), torch.ones(4, 5, 5)
    x[1, 0, 0] = 3
    with pytest.raises(TombolaError, match="cannot be put together"):
        tickets(x, ticket=["a", "b", "a", "a"])
