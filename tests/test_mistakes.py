"""The mistakes of a careless user: each is one line, before anything long is computed."""

import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import tombola as tb
from tombola._utils.io import file_name
from tombola.data.partition import Partition
from tombola.pruning.scores import Criterion, registry

X, Y = torch.rand(100, 8), torch.arange(100) % 2


def find(x=X, net=None, **options):
    data = tb.Data.of(x, Y)
    net = net or nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    options = {"sparsity": 0.5, "T": 1, "steps": 1} | options
    return tb.rtl(net, tb.objectives.OneVsRest(), data, tb.partition.by_label(data), **options)


def answers(y):
    data = tb.Data.of(X, y)
    halves = tb.partition.by_rule(data, lambda split: {"all": torch.ones(len(split)) > 0})
    tb.rtl(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), tb.objectives.Classification(), data, halves)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda: find(torch.rand(100, 7)), "cannot take the data"),
        (lambda: find(net=nn.ReLU()), "the backbone has no parameters"),
        (lambda: find(sparsity=1.0), r"in \[0, 1\)"),
        (lambda: find(T=-1), "T must be at least 0"),
        (lambda: find(out=5), "out is the path of a directory, or None: got int"),
        (lambda: find(out=__file__), "a file is in the way"),
        (lambda: answers(Y - 1), "class -1 in y"),
        (lambda: answers(Y * 5), "class 5 in y"),
        (lambda: tb.TrainConfig(batch_size=0), "batch_size must be even and at least 2"),
        (lambda: tb.load(None, nn.Linear(1, 1)), "a file is given by its path: got NoneType"),
        (lambda: tb.Data.of(None, Y), "x is None"),
        (lambda: tb.Data.of(X.to_sparse(), Y), r"x is a tensor that is sparse: pass a dense one"),
        (lambda: tb.Data.of(X.to("meta"), Y), "without values"),
        (lambda: tb.Data.of(X + 1j, Y), "x is complex"),
        (lambda: tb.Data.of(np.ma.masked_less(X.numpy(), 0.5), Y), r"masked values: fill them in \(x.filled"),
    ],
)
def test_a_mistake_is_one_line(mistake, words):
    with pytest.raises(tb.TombolaError, match=words) as caught:
        mistake()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (lambda _: None, "the score mine gives NoneType"),
        (lambda context: context.weights_N[1:], r"the score mine gives \[127\], .* a tensor \[128\]"),
    ],
)
def test_a_score_that_is_no_number_per_weight_is_one_line(score, words, monkeypatch):
    monkeypatch.setitem(registry.CRITERIA, "mine", Criterion("mine", score))
    with pytest.raises(tb.TombolaError, match=words):
        find(score="mine")


def test_what_is_no_mistake_is_taken():
    swapped = tb.Data.of(X.numpy().astype(">f4"), Y.numpy().astype(">i8"))
    assert torch.equal(swapped.train.x, tb.Data.of(X, Y).train.x)
    assert torch.equal(swapped.train.y, tb.Data.of(X, Y).train.y)
    assert len(tb.Data.of(np.ma.asarray(X.numpy()), Y).train) == 70  # nothing is masked
    find(X.clone().requires_grad_())  # of another network, say


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"T": 0}, r"all 2 tickets have the same mask: .*\(T=0\), and magnitude reads no data"),
        ({"T": 2, "search": tb.TrainConfig(lr=1e-12)}, "all 2 tickets have the same mask: in 2 steps"),
        ({"T": 0, "score": "snip"}, None),
        ({"T": 20, "search": tb.TrainConfig(lr=1.0)}, None),
        ({"T": 0, "sparsity": 0.0}, None),  # nothing is pruned
    ],
)
def test_tickets_that_nothing_tells_apart_are_said(how, words):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        find(**{"steps": 1, "schedule": "one_shot", "sparsity": 0.5, **how})
    said = [str(each.message) for each in said if "same mask" in str(each.message)]
    assert [bool(re.search(words, line)) for line in said] == [True] if words else not said


BLANKS = ["a ", " a", "  far west  "]
NO_NAMES = ["", " ", "..", "a\nb", "a\tb", "a\0b", "x" * 101, "語" * 70, "\udcff", 3]
NAMES = ["a", "far west", "Kraków, 2. Stock", "語", "law/tax", "a%2Fb", "50 % off?", "-"]


def named(name):
    """Ways in which a ticket gets its name."""
    tickets = tb.TicketModel(nn.Linear(8, 2), tb.MaskSet.dense(tb.scope(nn.Linear(8, 2)), ["one", "two"]))
    data, task = tb.Data.of(X, Y), tb.objectives.Classification()
    fine = {name: nn.Linear(8, 2), "two": nn.Linear(8, 2)}
    members = {split: torch.ones(5, 1) > 0 for split in ("train", "validation", "test")}
    return {
        "rename": lambda: tickets.rename("one", name),
        "grow": lambda: tickets.grow(name, data, task, T=1, steps=1, sparsity=0.9),
        "merge": lambda: tb.merge(nn.Linear(8, 2), fine, "mean"),
        "partition": lambda: Partition((name,), members),
    }


@pytest.mark.parametrize("way", named("x"))
def test_what_can_be_the_name_of_a_ticket_is_one_rule(way):
    for name in NO_NAMES:
        with pytest.raises(tb.TombolaError, match=r"(one line of 1 to 100 characters|must be strings)"):
            named(name)[way]()
    for name in BLANKS:
        words = f"begins and ends without blanks: got {name!r}, write {name.strip()!r}"
        with pytest.raises(tb.TombolaError, match=words):
            named(name)[way]()
    if way in ("rename", "partition"):
        assert all(name in named(name)[way]().names for name in NAMES)


def test_every_name_is_that_of_a_file_of_its_own(tmp_path):
    files = {file_name(name) for name in [*NAMES, "law%2Ftax", "a/b"]}
    assert len(files) == len(NAMES) + 2
    for file in files:
        (tmp_path / file).write_text(file)
