"""Passes swap nothing: threads, recomputation, assigned state give what a plain network gives."""

import copy
import functools
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm
from torch.utils.checkpoint import checkpoint

import tombola as tb
from tombola._utils.errors import ScopeError, UsageError
from tombola._utils.replica import Tree, copied
from tombola.masks.prunable import scope
from tombola.tickets.cache import WeightCache
from tombola.tickets.model import TicketModel
from tombola.training.model import FunctionalModel

NAMES = ("a", "b", "c", "d")
WIDTH = 16


class Plain(nn.Module):
    """Two layers and a head; subclasses keep something in an odd way."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def block(self, x):
        return torch.relu(self.two(torch.relu(self.one(x))))

    def forward(self, x):
        return self.head(self.block(x))


class Checkpointed(Plain):
    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x):
        return self.head(checkpoint(self.block, x, use_reentrant=self.reentrant))


class InList(Plain):
    def __init__(self):
        super().__init__()
        self.layers, self.weights = [self.one, (self.two,)], {"one": [self.one.weight]}

    def forward(self, x):
        h = torch.relu(nn.functional.linear(x, self.weights["one"][0], self.layers[0].bias))
        return self.head(torch.relu(self.layers[1][0](h)))


class Bound(Plain):
    def __init__(self):
        super().__init__()
        self.way, self.last = self.block, functools.partial(nn.functional.linear, weight=self.head.weight)

    def forward(self, x):
        return self.last(self.way(x))


class Closed(Plain):
    def __init__(self):
        super().__init__()
        self.way = lambda x: self.block(x)

    def forward(self, x):
        return self.head(self.way(x))


class Weak(Plain):
    def __init__(self):
        super().__init__()
        self.layer = weakref.ref(self.two)

    def forward(self, x):
        return self.head(torch.relu(self.layer()(torch.relu(self.one(x)))))


class Tied(Plain):
    def __init__(self):
        super().__init__()
        self.again = nn.Linear(WIDTH, WIDTH)
        self.again.weight = self.two.weight

    def forward(self, x):
        return self.head(torch.relu(self.again(self.block(x))))


class Keeps(Plain):
    """Reads what it has assigned; another thread must not come between."""

    def forward(self, x):
        self.features = self.block(x)
        return self.head(self.features)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.LSTM(6, WIDTH, batch_first=True), nn.Linear(WIDTH, 3)

    def forward(self, x):
        return self.head(self.inner(x[:, None])[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.inner = nn.Linear(6, WIDTH), nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        h = self.up(x)[:, None].expand(-1, 3, -1)
        return self.head(self.inner(h, h, h)[0].mean(1))


def hooked():
    net = Plain()
    net.one.register_forward_hook(lambda module, inputs, output: output + net.two.bias)
    return net


def pruned():
    net = Plain()
    prune.l1_unstructured(net.one, "weight", 0.3)
    return net


def normed(way):
    net = Plain()
    way(net.two)
    return net


NETWORKS = {
    "plain": Plain,
    "checkpointed": lambda: Checkpointed(False),
    "reentrant": lambda: Checkpointed(True),
    "list": InList,
    "bound": Bound,
    "closed": Closed,
    "weak": Weak,
    "tied": Tied,
    "keeps": Keeps,
    "recurrent": Recurrent,
    "attention": Attention,
    "hooked": hooked,
    "pruned": pruned,
    "weight_norm": lambda: normed(weight_norm),
    "parametrised": lambda: normed(parametrizations.weight_norm),
    "sequence": lambda: nn.Sequential(
        nn.Linear(6, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3)
    ),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NETWORKS[request.param]()


def model(net, keep=0.5, include=("*weight*",)):
    matrices = [n for n, p in net.named_parameters() if "weight" in n and p.ndim > 1]
    layout, g = scope(net, include=matrices), torch.Generator().manual_seed(1)
    masks = {name: torch.rand(layout.size, generator=g) < keep for name in NAMES}
    state = net.state_dict()
    own = {n: t for n, t in state.items() if n in ("head.bias", "1.running_mean", "1.running_var")}
    private = {name: {n: t + 0.1 * k for n, t in own.items()} for k, name in enumerate(NAMES)}
    return TicketModel(net, tb.MaskSet(layout, masks), private).eval()


def inputs(n=8):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(2))


# -- answers and gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [None, 10**6])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_ticket_answers_as_its_baked_copy(network, cache, mode):
    tickets, x = model(network), inputs()
    tickets.cache = cache and WeightCache(cache)
    with mode():  # without gradients attention is another kernel, which rounds otherwise on some machines
        expected = {name: tickets.bake(name).eval()(x) for name in NAMES}
        for name in NAMES * 2:
            assert torch.equal(tickets(x, ticket=name), expected[name])


def test_gradients_are_those_of_the_baked_copy_inside_the_mask(network):
    tickets, x = model(network), inputs().requires_grad_()
    baked = tickets.bake("b").eval()
    for one in (tickets, baked):
        out = one(x, ticket="b") if one is tickets else one(x)
        out.square().sum().backward()
    plain, mask = dict(baked.named_parameters()), tickets.masks.layers("b")
    compared = 0
    for name, p in tickets.backbone.named_parameters():
        if name in tickets.private.names or plain[name].grad is None:
            continue
        theirs = plain[name].grad * mask[name] if name in mask else plain[name].grad
        torch.testing.assert_close(p.grad, theirs)
        compared += 1
    assert compared > 1


def test_two_tickets_in_one_graph_see_each_their_own_weights(network):
    """The backward pass of both, in which checkpoints are computed again, comes after the last forward."""
    tickets, x = model(network), inputs().requires_grad_()
    names = [n for n, p in tickets.backbone.named_parameters() if n not in tickets.private.names]
    parameters = [dict(tickets.backbone.named_parameters())[n] for n in names]

    together = tickets(x, ticket="a").square().sum() + tickets(x, ticket="b").square().sum()
    together.backward()
    found = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    for name in ("a", "b"):
        tickets(x, ticket=name).square().sum().backward()
    for a, p in zip(found, parameters, strict=True):
        assert (a is None) == (p.grad is None)
        if a is not None:
            torch.testing.assert_close(a, p.grad)


@pytest.mark.parametrize("cache", [None, 10**6])
def test_any_threads_may_ask_any_tickets(network, cache):
    tickets, x = model(network), inputs(4)
    tickets.cache = cache and WeightCache(cache)
    before = {n: t.clone() for n, t in tickets.state_dict().items()}
    with torch.no_grad():
        expected = {name: tickets.bake(name).eval()(x) for name in NAMES}

    def ask(i):
        with torch.no_grad():
            name = NAMES[(i + i // 7) % 4]
            mixed = [NAMES[(i + j) % 4] for j in range(4)]
            right = torch.equal(tickets(x, ticket=name), expected[name])
            rows = torch.stack([expected[n][j] for j, n in enumerate(mixed)])
            return right and torch.allclose(tickets(x, ticket=mixed), rows, atol=1e-6)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(64)))
    assert all(torch.equal(t, before[n]) for n, t in tickets.state_dict().items())


def test_predict_does_not_touch_the_mode_that_other_threads_see():
    tickets, x = model(NETWORKS["sequence"]()).train(), inputs()
    modes = []

    def look(module, _):
        modes.append((module.training, tickets.backbone[1].training))

    tickets.backbone[1].register_forward_pre_hook(look)
    tickets.predict(x, ticket="a")
    assert modes == [(False, True)]


# -- what forward assigns -----------------------------------------------------------------------------------


class Moving(Plain):
    """A mean of inputs, a count and what was seen last."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place, self.seen = in_place, 0
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        if self.training:
            self.seen += 1
            new = 0.9 * self.mean + 0.1 * x.mean(0)
            if self.in_place:
                self.mean.copy_(new)
            else:
                self.mean = new
        self.last = x - self.mean
        return super().forward(self.last)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("cache", [None, 10**6])
def test_buffers_and_attributes_move_as_in_a_plain_network(in_place, private, gradients, cache):
    net, x = Moving(in_place), inputs()
    plain = copy.deepcopy(net).train()
    own = {name: {"mean": torch.zeros(6)} if private else {} for name in NAMES}
    tickets = TicketModel(net, tb.MaskSet.dense(scope(net), NAMES), own).train()
    tickets.cache = cache and WeightCache(cache)
    with torch.set_grad_enabled(gradients):
        for _ in range(3):
            assert torch.allclose(tickets(x, ticket="b"), plain(x), atol=1e-6)
    here = tickets.private_state("b")["mean"] if private else tickets.backbone.mean
    assert torch.allclose(here, plain.mean)
    assert tickets.backbone.seen == plain.seen == 3
    assert torch.equal(tickets.backbone.last, plain.last)
    assert tickets.backbone.last.requires_grad == plain.last.requires_grad
    if private:
        assert not tickets.private_state("a")["mean"].any()


@pytest.mark.parametrize("in_place", [True, False])
def test_training_moves_buffers_that_are_assigned(in_place, blobs_of_three):
    data, partition = blobs_of_three
    options = {"sparsity": 0.5, "T": 4, "steps": 6, "rewind": 0, "parallel": "no"}
    tickets = tb.rtl(Moving(in_place), tb.objectives.OneVsRest(), data, partition, **options)
    assert tickets.backbone.mean.abs().sum() > 0.1


@pytest.fixture
def blobs_of_three():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 3
    data = tb.Data.of(torch.randn(120, 6, generator=g) + 2 * torch.eye(3, 6)[y], y)
    return data, tb.partition.by_label(data, NAMES[:3])


def test_checkpointing_changes_no_bit_of_a_search(blobs_of_three):
    data, partition = blobs_of_three
    options = {"sparsity": 0.5, "T": 6, "steps": 6, "rewind": 0, "parallel": "no"}
    found = []
    for kind in (Plain, lambda: Checkpointed(False)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = kind()
        found.append(tb.rtl(net, tb.objectives.OneVsRest(), data, partition, **options))
    assert found[0].masks.digest() == found[1].masks.digest()
    for a, b in zip(found[0].state_dict().values(), found[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_an_output_that_is_a_weight_stays_what_it_was():
    class Says(Plain):
        def forward(self, x):
            return super().forward(x), self.two.weight[0]

    tickets, x = model(Says()), inputs()
    with torch.no_grad():
        said = {name: tickets(x, ticket=name)[1] for name in NAMES}
    for name in NAMES:
        assert torch.equal(said[name], tickets.bake(name).two.weight[0])


# -- references, hooks, copies ------------------------------------------------------------------------------


def test_hooks_on_gradients_act_in_training_as_on_a_plain_network():
    net, seen = Plain(), []
    net.two.weight.register_hook(lambda g: seen.append(g.shape) or g * 0)
    f = FunctionalModel(net, scope(net))
    theta = f.theta0().clone()
    f(theta, torch.ones(f.scope.size, dtype=torch.bool), inputs()).sum().backward()
    parts = f.scope.unflatten(theta.weights_N.grad)
    assert seen == [(WIDTH, WIDTH)]
    assert not parts["two.weight"].any()
    assert parts["one.weight"].any()


def test_what_a_copy_cannot_have_is_refused_by_name(blobs_of_three):
    data, partition = blobs_of_three
    late, script, sparse, elsewhere = Plain(), torch.jit.script(Plain()), Plain(), Plain()
    late.one.weight.register_post_accumulate_grad_hook(lambda p: None)
    sparse.table = nn.EmbeddingBag(3, 2, sparse=True)
    hidden = {"net": None}

    class Reads(Plain):
        def forward(self, x):
            return super().forward(x) + hidden["net"].two.bias.sum()

    elsewhere = hidden["net"] = Reads()
    for net, error, words in (
        (late, ScopeError, "one.weight has a hook"),
        (script, UsageError, "TorchScript"),
        (sparse, UsageError, "table is an EmbeddingBag with sparse=True.*set table.sparse to False"),
        (elsewhere, ScopeError, "forward reads two.bias by another way"),
    ):
        with pytest.raises(error, match=words):
            tb.rtl(net, tb.objectives.OneVsRest(), data, partition, sparsity=0.5, T=1, steps=1)


@pytest.mark.parametrize(
    "name", ["plain", "checkpointed", "reentrant", "tied", "keeps", "attention", "sequence"]
)
def test_replicas_of_data_parallel_answer(name):
    """As ``torch.nn.parallel.replicate`` makes them: parameters are plain tensors, attributes of modules."""
    tickets, x = model(NETWORKS[name]()), inputs()
    there = {module: module._replicate_for_data_parallel() for module in tickets.modules()}
    parameters = {p: p.detach().clone().requires_grad_() for p in tickets.parameters()}
    for module, made in there.items():
        made._former_parameters = {}
        for name, child in module._modules.items():
            made._modules[name] = there[child]
        for name, p in module._parameters.items():
            if p is not None:
                made._former_parameters[name] = parameters[p]
                setattr(made, name, parameters[p])
    with torch.no_grad():
        for name in NAMES:
            assert torch.equal(there[tickets](x, ticket=name), tickets.bake(name).eval()(x))


def test_a_deep_copy_leads_to_itself(network):
    x = inputs()
    network.eval()(x)
    made = copied(network).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1)
        assert not torch.equal(made(x), network(x))
    torch.manual_seed(0)
    assert not any(a is b for a, b in zip(made.parameters(), network.parameters(), strict=True))


def change_mode(net):
    net.train()


def change_attribute(net):
    net.scale = 2.0


def change_layer(net):
    net.one = nn.Linear(6, WIDTH)


def change_parameter(net):
    net.two.bias = nn.Parameter(torch.ones(WIDTH))


def change_buffer(net):
    net.register_buffer("count", torch.zeros(1))


def remove_child(net):
    net.head = None


@pytest.mark.parametrize(
    "change",
    [change_mode, change_attribute, change_layer, change_parameter, change_buffer, remove_child],
)
def test_a_tree_knows_when_the_network_has_changed(change):
    net = Plain().eval()
    tree = Tree(net)
    assert tree.current
    with torch.no_grad():
        net.one.weight.mul_(2)  # values are the network's own
    assert tree.current
    change(net)
    assert not tree.current


def test_networks_that_are_changed_answer_as_they_then_are():
    tickets, x = model(Plain()), inputs()
    with torch.no_grad():
        tickets(x, ticket="a")
        for change in (change_parameter, change_layer):
            change(tickets.backbone)
            assert torch.equal(tickets(x, ticket="a"), tickets.bake("a").eval()(x))


# -- what is changed between two passes ---------------------------------------------------------------------


def test_hooks_that_come_and_go_act_as_on_a_plain_network():
    net, x = Plain(), inputs()
    tickets = model(net)
    with torch.no_grad():
        before = tickets(x, ticket="a")
        hook = net.one.register_forward_hook(lambda module, _, y: y * 0 + net.two.bias.sum())
        assert torch.equal(tickets(x, ticket="a"), tickets.bake("a").eval()(x))
        assert not torch.equal(tickets(x, ticket="a"), before)
        hook.remove()
        assert torch.equal(tickets(x, ticket="a"), before)


def test_a_list_that_grows_leads_to_the_ticket():
    class Ordered(Plain):
        def __init__(self):
            super().__init__()
            self.order = []

        def forward(self, x):
            h = self.one(x)
            for layer in self.order:
                h = torch.relu(layer(h))
            return self.head(h)

    net, x = Ordered(), inputs()
    tickets = model(net)
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(tickets(x, ticket="a"), tickets.bake("a").eval()(x))
            net.order.append(net.two)


def test_a_loss_that_forward_keeps_has_its_graph():
    class Balanced(Plain):
        def forward(self, x):
            h = self.block(x)
            self.aux = h.pow(2).mean()
            return self.head(h)

    net = Balanced()
    tickets = model(net)
    tickets(inputs(), ticket="a")
    net.aux.backward()
    assert net.one.weight.grad.any()


def test_a_network_that_is_compiled_in_place_runs():
    net, x = Plain(), inputs()
    tickets = model(net)
    with torch.no_grad():
        expected = tickets(x, ticket="a")
        net.compile(backend="eager")
        assert torch.equal(tickets(x, ticket="a"), expected)
