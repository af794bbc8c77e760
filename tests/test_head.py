"""The output layer is found from what the outputs are computed of, or named, and never guessed."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

import tombola as tb
from tombola._utils.errors import ScopeError
from tombola.training.head import Head, find_head

K = 3
X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


class Trunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 16)

    def trunk(self, x):
        return torch.relu(self.b(torch.relu(self.a(x))))


class First(Trunk):
    """The head is registered before the others; a temperature comes after it."""

    def __init__(self):
        super().__init__()
        layers = dict(self._modules)
        self._modules.clear()
        self.head, self.temperature = nn.Linear(16, K), nn.Parameter(torch.tensor(0.7))
        self._modules.update(layers)

    def forward(self, x):
        return self.head(self.trunk(x)) / self.temperature


class Prototypes(Trunk):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(K, 16))

    def forward(self, x):
        return F.linear(self.trunk(x), self.w)


class Probabilities(First):
    def forward(self, x):
        return super().forward(x).log_softmax(1)


class Recurrent(Trunk):
    def __init__(self):
        super().__init__()
        self.g = nn.GRU(16, K, batch_first=True)

    def forward(self, x):
        return self.g(self.trunk(x)[:, None])[0][:, -1]


class Two(First):
    def __init__(self):
        super().__init__()
        self.skip = nn.Linear(6, K)

    def forward(self, x):
        return super().forward(x) + self.skip(x)


class Only(nn.Module):
    """A recurrent layer and one linear layer, which is the head."""

    def __init__(self):
        super().__init__()
        self.g, self.head = nn.GRU(6, 16, batch_first=True), nn.Linear(16, K)

    def forward(self, x):
        return self.head(self.g(x[:, None])[0][:, -1])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.inner = nn.Embedding(K, 8), nn.Linear(8, 8)

    def forward(self, x):
        return F.linear(torch.relu(self.inner(self.table(x.argmax(1) % K))), self.table.weight)


def sequence(*layers):
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), *layers)


FOUND = {
    "linear": (lambda: sequence(nn.Linear(8, K)), "2.weight", ("2.weight", "2.bias")),
    "first": (First, "head.weight", ("head.weight", "head.bias")),
    "prototypes": (Prototypes, "w", ("w",)),
    "probabilities": (Probabilities, "head.weight", ()),  # each output reads every row
    "only": (Only, "head.weight", ("head.weight", "head.bias")),
    "tied": (Tied, "table.weight", ()),  # the table is read by the inputs too
    "normed": (lambda: sequence(nn.Linear(8, K), nn.BatchNorm1d(K)), "2.weight", ("2.weight", "2.bias")),
    "dropout": (lambda: sequence(nn.Linear(8, K), nn.Dropout(0.5)), "2.weight", ("2.weight", "2.bias")),
    "turned": (
        lambda: sequence(nn.Unflatten(1, (8, 1)), nn.ConvTranspose1d(8, K, 1), nn.Flatten()),
        "3.weight",
        (),
    ),
    "convolution": (
        lambda: sequence(nn.Unflatten(1, (8, 1)), nn.Conv1d(8, K, 1, bias=False), nn.Flatten()),
        "3.weight",
        ("3.weight",),
    ),
    "one output": (lambda: sequence(nn.Linear(8, 8), nn.Linear(8, 1)), "3.weight", ("3.weight", "3.bias")),
    "one output without an axis": (lambda: sequence(nn.Linear(8, 1), nn.Flatten(0)), "2.weight", ()),
    "a scale of each channel": (
        lambda: sequence(
            nn.Linear(8, K), nn.Unflatten(1, (K, 1)), nn.Conv1d(K, K, 1, groups=K), nn.Flatten()
        ),
        "2.weight",
        ("2.weight", "2.bias"),
    ),
    "parametrised": (
        lambda: sequence(weight_norm(nn.Linear(8, K, bias=False))),
        "2.parametrizations.weight.original1",
        ("2.parametrizations.weight.original0", "2.parametrizations.weight.original1"),
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_the_output_layer_is_found_from_the_data_flow(name):
    make, weight, rows = FOUND[name]
    net = make()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    assert find_head(net, X) == Head(weight, rows)
    assert net.training
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


class Bytes(Trunk):
    def __init__(self):
        super().__init__()
        self.h = nn.Linear(16, K)

    def forward(self, x):
        return self.h(self.trunk((x * 9).byte().float() / 255))


class NoGrad(Bytes):
    def forward(self, x):
        with torch.no_grad():
            f = torch.relu(self.a(x))
        return self.h(torch.relu(self.b(f)))


class Shifted(Bytes):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, K))

    def forward(self, x):
        return self.h(self.trunk(x)) + self.shift


class Hidden(Bytes):
    def forward(self, x):
        return checkpoint(lambda z: self.h(self.b(z)), torch.relu(self.a(x)), use_reentrant=True)


@pytest.mark.parametrize("kind", [Bytes, NoGrad, Shifted])
def test_inputs_without_gradients_and_vectors_of_outputs_do_not_mislead(kind):
    assert find_head(kind(), X).weight == "h.weight"


def test_what_a_checkpoint_hides_is_not_guessed():
    assert find_head(Hidden(), X) is None


def test_frozen_weights_hide_nothing():
    assert find_head(First().requires_grad_(False), X).weight == "head.weight"


@pytest.mark.parametrize("kind", [Recurrent, Two])
def test_several_weights_at_once_are_no_output_layer(kind):
    assert find_head(kind(), X) is None


# -- in a search --------------------------------------------------------------------------------------------


@pytest.fixture
def blobs():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(90) % K
    data = tb.Data.of(torch.randn(90, 6, generator=g) + 2 * torch.eye(K, 6)[y], y)
    return data, tb.partition.by_label(data, ["a", "b", "c"])


def rtl(net, blobs, **changes):
    options = {"sparsity": 0.5, "T": 4, "steps": 8, "rewind": 0, "parallel": "no", **changes}
    return tb.rtl(net, tb.objectives.OneVsRest(), *blobs, **options)


@pytest.mark.parametrize("kind", [First, Prototypes, Probabilities])
def test_hidden_layers_are_pruned_and_trained_wherever_the_head_is_registered(kind, blobs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = kind()
    tickets = rtl(net, blobs)
    assert tickets.scope.names == ("a.weight", "b.weight")
    moved = tickets.backbone.b.weight != net.b.weight
    assert bool(moved.any(1).sum() > 8)  # not just the rows of three tickets


@pytest.mark.parametrize("kind", [Recurrent, Two])
def test_an_output_layer_that_is_not_known_is_asked_for_before_training(kind, blobs):
    with pytest.raises(ScopeError, match=r"head=, say head='none', or name what may be pruned"):
        rtl(kind(), blobs)
    assert rtl(kind(), blobs, include=["a.weight"]).scope.names == ("a.weight",)
    assert "b.weight" in rtl(kind(), blobs, head="none").scope.names


def test_it_can_be_named(blobs):
    assert rtl(Two(), blobs, head="head").scope.names == ("a.weight", "b.weight", "skip.weight")
    assert "head.weight" in rtl(Two(), blobs, head="skip.weight").scope.names
    with pytest.raises(ScopeError, match=r"output layer 'heat'.*did you mean 'head'"):
        rtl(Two(), blobs, head="heat")


def test_a_head_that_is_the_only_linear_layer_is_not_pruned_in_silence(blobs):
    tickets = rtl(Only(), blobs)
    assert tickets.scope.names == ("g.weight_ih_l0", "g.weight_hh_l0")


def test_one_ticket_leaves_the_rows_of_the_others(blobs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = First()
    one = tb.partition.by_rule(blobs[0], lambda s: {"a": s.y == 0, "b": s.y == 1})
    tickets = tb.rtl(net, tb.objectives.OneVsRest(), blobs[0], one, sparsity=0.5, T=2, steps=4, rewind=0)
    assert torch.equal(tickets.backbone.head.weight[2], net.head.weight[2])
    assert not torch.equal(tickets.backbone.head.weight[1], net.head.weight[1])
