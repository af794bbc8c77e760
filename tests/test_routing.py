"""Routers: who answers where no context is given; what they keep, count, refuse and admit not to know."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tombola._utils.errors import DataError, RouterError, TombolaError, UnknownTicket
from tombola._utils.rng import generator
from tombola.data import partition as partitions
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.masks.prunable import scope
from tombola.tickets.interop import to_state_dict
from tombola.tickets.model import TicketModel, load
from tombola.tickets.routing import (
    ROUTERS,
    ContextRouter,
    PrototypeRouter,
    Routed,
    Window,
    best_window,
    mixed,
    restored,
    router,
)
from tombola.tickets.routing.features import Gaussians, RouterFeatures
from tombola.tickets.routing.shallow import core
from tombola.tickets.routing.superposition import Certainty, SuperpositionRouter
from tombola.training.model import norms
from tombola.training.norm import statistics_names

NAMES = ("calm", "rough", "wild")
FITTED = [name for name, kind in ROUTERS.items() if kind.needs_fit]


@pytest.fixture
def data():
    """240 images [1, 6, 6] in three contexts that differ in contrast; the class is another thing."""
    g = generator(3, "routing data")
    where, y = torch.arange(240) % 3, (torch.arange(240) // 3) % 3
    x = torch.randn(240, 1, 6, 6, generator=g) * (0.2 + 1.5 * where)[:, None, None, None]
    x[torch.arange(240), 0, 2 * y, 0] += 1
    return Data.of(x, y, {"sea": np.array(NAMES)[where.numpy()]}, validation=0.3, test=0.3)


@pytest.fixture
def contexts(data):
    return partitions.by_column(data, "sea")


@pytest.fixture
def tickets(convnet, random_masks):
    own = [*statistics_names(convnet), "1.weight", "1.bias"]
    g, state = generator(5, "private"), convnet.state_dict()
    private = {n: {p: state[p] * (0.5 + torch.rand(state[p].shape, generator=g)) for p in own} for n in NAMES}
    masks = random_masks(scope(convnet), NAMES, density=0.8)
    return TicketModel(convnet, masks, private, {"objective": "Classification"}).eval()


@pytest.fixture
def x(data):
    return data.test.x


def truth(data, contexts):
    return contexts.members["test"].int().argmax(1)


# -- what every router does -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FITTED)
def test_tickets_choose_by_the_router_and_come_back_from_the_file(kind, tickets, data, contexts, x, tmp_path):
    tickets.router = router(kind).fit(tickets, data, contexts)
    routed = tickets.route(x)
    assert torch.equal(tickets(x), tickets(x, ticket=routed.names))
    torch.testing.assert_close(routed.scores_BK.exp().sum(1), torch.ones(len(x)))
    assert bool(((routed.confidence_B >= 0) & (routed.confidence_B <= 1)).all())
    tickets.save(tmp_path / "a.tickets")
    again = load(tmp_path / "a.tickets", tickets.backbone)
    torch.testing.assert_close(
        again.route(x).scores_BK, routed.scores_BK
    )  # private tensors lie in another order
    torch.testing.assert_close(again.route(x).familiarity_B, routed.familiarity_B)
    assert again.router.options == tickets.router.options
    again.save(tmp_path / "b.tickets")
    assert (tmp_path / "a.tickets").read_bytes() == (tmp_path / "b.tickets").read_bytes()


@pytest.mark.parametrize("kind", FITTED)
def test_same_data_same_router_and_nothing_of_the_tickets_moves(kind, tickets, data, contexts, x):
    before, torch_state = copy.deepcopy(tickets.state_dict()), torch.get_rng_state()
    modes = [m.training for m in tickets.train().modules()]
    first, second = (router(kind).fit(tickets, data, contexts) for _ in range(2))
    first.route(tickets, x)
    assert [m.training for m in tickets.modules()] == modes
    assert torch.equal(torch.get_rng_state(), torch_state)
    for name, tensor in tickets.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(m._forward_pre_hooks for m in tickets.modules())
    assert first.state()[0] == second.state()[0]
    for name, tensor in first.state()[1].items():
        assert torch.equal(tensor, second.state()[1][name]), name


@pytest.mark.parametrize("kind", FITTED)
def test_a_sample_is_routed_alike_alone_and_in_any_batch(kind, tickets, data, contexts, x):
    made = router(kind).fit(tickets, data, contexts)
    whole = made.scores_BK(tickets, x)
    alone = torch.cat([made.scores_BK(tickets, x[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, whole[:5], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", FITTED)
@pytest.mark.parametrize("strange", ["blank", "noise", "huge"])
def test_an_input_unlike_every_context_gets_a_low_confidence(kind, strange, tickets, data, contexts):
    made = router(kind).fit(tickets, data, contexts)
    given = {
        "blank": torch.zeros(3, 1, 6, 6),
        "noise": 30 * torch.rand(3, 1, 6, 6, generator=generator(0)),
        "huge": torch.full((3, 1, 6, 6), 1e6),
    }[strange]
    routed = made.route(tickets, given)
    assert float(routed.confidence_B.max()) < 0.25
    assert "unlike what was seen before" in routed.why(0)
    assert float(made.route(tickets, data.test.x).confidence_B.mean()) > 0.3


@pytest.mark.parametrize("kind", ["prototype", "gate"])
def test_contexts_that_features_tell_apart_are_found(kind, tickets, data, contexts, x):
    tickets.router = router(kind).fit(tickets, data, contexts)
    right = tickets.route(x).index_B == truth(data, contexts)
    assert float(right.double().mean()) > 0.9


@pytest.mark.parametrize("kind", FITTED)
def test_plain_copies_of_tickets_with_a_router(kind, tickets, data, contexts, x):
    tickets.router = router(kind, mix=2).fit(tickets, data, contexts)
    assert torch.equal(copy.deepcopy(tickets)(x), tickets(x))
    assert torch.equal(pickle.loads(pickle.dumps(tickets))(x), tickets(x))


def test_adding_a_router_leaves_the_bytes_of_the_tickets(tickets, data, contexts, tmp_path):
    from tombola._utils import io

    tickets.save(tmp_path / "plain.tickets")
    tickets.router = PrototypeRouter().fit(tickets, data, contexts)
    tickets.save(tmp_path / "routed.tickets")
    plain, metadata = io.read(tmp_path / "plain.tickets")
    routed, more = io.read(tmp_path / "routed.tickets")
    assert "parts" not in metadata  # a file without a router is the file of before
    assert {n for n in routed if n not in plain} == {n for n in routed if n.startswith("part.router.")}
    assert all(torch.equal(routed[n], t) for n, t in plain.items())
    assert {k: v for k, v in more.items() if k != "parts"} == metadata
    json.dumps(more)


# -- the single routers ---------------------------------------------------------------------------------


def test_features_are_those_of_the_core_by_hand(tickets, data, contexts, x):
    made = PrototypeRouter().fit(tickets, data, contexts)
    plain = copy.deepcopy(tickets.backbone)
    plain.load_state_dict(core(tickets) | made.shallow.statistics, strict=False)
    kept = tickets.masks_KN.all(0)
    weights = tickets.scope.flatten(dict(plain.named_parameters()))
    assert not weights[~kept].any()
    h = plain[:4](x).flatten(2)
    expected = torch.cat([h.mean(2), (h.var(2, unbiased=False) + 1e-6).log() / 2], 1)
    torch.testing.assert_close(made.shallow(tickets, x), expected)
    assert set(made.shallow.statistics) == {"1.running_mean", "1.running_var"}  # the pass ends before 5


def test_norm_statistics_under_the_core_are_estimated_afresh(tickets, data, contexts):
    made = PrototypeRouter().fit(tickets, data, contexts)
    plain = copy.deepcopy(tickets.backbone)
    plain.load_state_dict(core(tickets), strict=False)
    index = contexts.members["train"].any(1).nonzero()[:, 0]
    seen = plain[0](data.inputs("train", index))  # a hair off: batches count alike
    torch.testing.assert_close(
        made.shallow.statistics["1.running_mean"], seen.mean((0, 2, 3)), atol=0.03, rtol=0.1
    )
    assert not torch.allclose(made.shallow.statistics["1.running_var"], next(norms(plain))[1].running_var)


def test_gaussians_whiten_and_measure_as_mahalanobis():
    g = generator(0, "gaussians")
    mixing = torch.eye(4) + 0.3 * torch.randn(4, 4, generator=g)
    where = torch.arange(900) % 3
    z = torch.randn(900, 4, generator=g) @ mixing + 5 * where[:, None]
    found = Gaussians.of(z, where, 3)
    means = torch.stack([z[where == k].mean(0) for k in range(3)])
    centred = (z - means[where]).double()
    precision = torch.linalg.inv(centred.T @ centred / len(z))
    apart = z[:20, None].double() - means
    expected = torch.einsum("bkd,de,bke->bk", apart, precision, apart)
    torch.testing.assert_close(
        found(z[:20]).double(), expected, rtol=0.1, atol=0.3
    )  # the covariance is shrunk


def test_several_prototypes_serve_a_context_of_several_things():
    g = generator(1, "prototypes")
    where = torch.arange(400) % 2
    z = 0.3 * torch.randn(400, 2, generator=g)
    side = torch.where(torch.arange(400) // 2 % 2 == 0, -4.0, 4.0)
    z[:, 0] += torch.where(where == 0, side, torch.zeros(()))  # context 0 lies on both sides of context 1
    one, two = Gaussians.of(z, where, 2), Gaussians.of(z, where, 2, prototypes=2)
    right = [float((found(z).argmin(1) == where).double().mean()) for found in (one, two)]
    assert right[0] < 0.9
    assert right[1] > 0.99


def test_a_constant_feature_is_no_reason_to_fail():
    z = torch.cat([torch.randn(50, 2, generator=generator(0)), torch.full((50, 1), 7.0)], 1)
    distances = Gaussians.of(z, torch.arange(50) % 2, 2)(z)
    assert bool(torch.isfinite(distances).all())


def test_the_gate_counts_k_times_d_plus_one_numbers(tickets, data, contexts):
    made = router("gate").fit(tickets, data, contexts)
    D = made.tensors["whiten_DD"].shape[0]
    assert made.numbers() == 3 * (D + 1)
    assert made.stored() > made.numbers()


def test_the_gate_of_two_contexts_is_symmetric(convnet, random_masks, data):
    two = TicketModel(convnet, random_masks(scope(convnet), NAMES[:2], density=0.8)).eval()
    part = partitions.by_column(data, "sea", {n: n for n in NAMES[:2]})
    made = router("gate").fit(two, data, part)
    index = part.members["test"].any(1).nonzero()[:, 0]
    routed = made.route(two, data.inputs("test", index))
    assert made.numbers() == 2 * (made.tensors["whiten_DD"].shape[0] + 1)
    assert float((routed.index_B == part.members["test"][index].int().argmax(1)).double().mean()) > 0.9


def test_the_score_router_reads_all_tickets_and_calibrates_them(tickets, data, contexts, x):
    made = router("score", reading="energy").fit(tickets, data, contexts)
    read = torch.stack([tickets(x, ticket=n).logsumexp(1) for n in NAMES], 1)
    raw = read * made.tensors["a_K"] + made.tensors["b_K"]
    expected = (raw * made.tensors["scale"]).log_softmax(1)
    torch.testing.assert_close(made.scores_BK(tickets, x), expected)
    assert made.numbers() == 6
    assert 0.5 < float(made.tensors["scale"]) < 2  # fitted already, but for a weak penalty


def test_one_vs_rest_tickets_are_read_at_their_own_outputs(tickets, data, contexts, x):
    tickets.metadata["objective"] = "OneVsRest"
    made = router("score").fit(tickets, data, contexts)
    assert made.options["reading"] == "own_output"
    read = torch.stack([tickets(x, ticket=n)[:, k] for k, n in enumerate(NAMES)], 1)
    raw = read * made.tensors["a_K"] + made.tensors["b_K"]
    torch.testing.assert_close(made.scores_BK(tickets, x), (raw * made.tensors["scale"]).log_softmax(1))


class Denoiser(nn.Module):
    """Keeps what its ticket keeps: a diagonal."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(6))
            self.second.weight.copy_(torch.eye(6))

    def forward(self, x):
        return self.second(self.first(x))


def test_consistency_finds_the_ticket_that_leaves_its_own_output_alone():
    from tombola.masks.layout import Layout
    from tombola.masks.maskset import MaskSet

    net = Denoiser()
    layout = Layout(("first.weight",), ((6, 6),))
    masks = MaskSet(layout, {"a": torch.ones(36, dtype=torch.bool), "b": torch.eye(6).bool().flatten()})
    with torch.no_grad():
        net.first.weight.add_(0.3 * torch.ones(6, 6).triu(1))  # a changes what it made, b does not
    model = TicketModel(net, masks, None, {"objective": "Enhancement"}).eval()
    g = generator(0, "denoise")
    x, where = torch.randn(120, 6, generator=g), torch.arange(120) % 2
    x[where == 0, 1:] = 0  # only here does a leave its output alone
    data = Data.of(x, x, {"kind": np.array(["a", "b"])[where.numpy()]}, validation=0.3)
    part = partitions.by_column(data, "kind")
    made = router("score").fit(model, data, part)
    assert made.options["reading"] == "consistency"
    right = made.route(model, data.test.x).index_B == part.members["test"].int().argmax(1)
    assert float(right.double().mean()) > 0.9


def test_the_gradient_of_superposition_is_that_of_the_definition(tickets, x):
    made, alpha = SuperpositionRouter(), torch.full((3,), 1 / 3, dtype=torch.double)
    tickets = tickets.double()
    alive = torch.ones(2, 3, dtype=torch.bool)
    found = made.helps_BK(tickets, x[:2].double(), alive)

    def entropy(a, one):
        weights, _, _ = tickets.state("calm")
        named = tickets.scope.unflatten(weights.detach() * (a @ tickets.masks_KN.double()))
        named |= tickets.private.unflatten(a @ tickets.private_KP.detach())
        named |= tickets.statistics.unflatten(alpha @ tickets.statistics_KS)
        p = torch.func.functional_call(tickets.backbone, named, (one[None],)).softmax(1)
        return float(-(p * p.log()).sum().detach())

    for b in range(2):
        for k in range(3):
            step = torch.zeros(3, dtype=torch.double)
            step[k] = 1e-5
            slope = (entropy(alpha + step, x[b].double()) - entropy(alpha - step, x[b].double())) / 2e-5
            assert float(found[b, k].detach()) == pytest.approx(-slope, rel=1e-3, abs=1e-7)


class Doubled(torch.autograd.Function):
    """Has a gradient, and no forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, slope):
        return 2 * slope


@pytest.mark.parametrize("entropy", [True, False])
def test_slopes_of_superposition_are_the_same_in_both_modes(tickets, x, entropy):
    tickets, x = tickets.double(), x[:5].double()
    made, alive = Certainty(tickets, entropy), torch.tensor([True, False, True])
    forward, reverse = made.forward(alive, x), made.reverse(alive, x)
    torch.testing.assert_close(forward, reverse)
    assert bool((forward[:, alive] != 0).any())
    assert not forward[:, 1].any()


def test_superposition_does_without_a_forward_mode(tickets, x, monkeypatch):
    made, alive = SuperpositionRouter(), torch.ones(5, 3, dtype=torch.bool)
    plain = made.helps_BK(tickets, x[:5], alive)
    forward = type(tickets.backbone).forward
    monkeypatch.setattr(type(tickets.backbone), "forward", lambda net, x: Doubled.apply(forward(net, x)) / 2)
    with pytest.raises(NotImplementedError):
        Certainty(tickets, True).forward(alive[0], x[:5])
    torch.testing.assert_close(made.helps_BK(tickets, x[:5], alive), plain)


def test_superposition_asks_a_network_that_looks_at_its_inputs_one_by_one(tickets, x, monkeypatch):
    alive = torch.tensor([True, False, True])
    plain = Certainty(tickets, True).reverse(alive, x[:5])
    forward = type(tickets.backbone).forward
    monkeypatch.setattr(type(tickets.backbone), "forward", lambda net, x: forward(net, x if x.any() else -x))
    torch.testing.assert_close(Certainty(tickets, True).reverse(alive, x[:5]), plain)


def test_an_error_of_the_network_is_not_taken_for_a_missing_forward_mode(tickets, x, monkeypatch):
    made, alive = SuperpositionRouter(), torch.ones(5, 3, dtype=torch.bool)
    forward = type(tickets.backbone).forward

    def one_row(net, x):  # one sample at a time, which is what the reverse mode gives it, would pass
        return forward(net, x).reshape(1, 3)

    monkeypatch.setattr(type(tickets.backbone), "forward", one_row)
    assert Certainty(tickets, True).reverse(alive[0], x[:5]).shape == (5, 3)
    with pytest.raises(RuntimeError, match=r"shape '\[1, 3\]' is invalid for input of size 15"):
        made.helps_BK(tickets, x[:5], alive)


def test_superposition_does_with_an_operation_of_torch_that_has_no_forward_mode(tickets, x, monkeypatch):
    forward, alive = type(tickets.backbone).forward, torch.ones(5, 3, dtype=torch.bool)
    monkeypatch.setattr(
        type(tickets.backbone), "forward", lambda net, x: torch.cdist(forward(net, x), torch.eye(3))
    )
    found = SuperpositionRouter().helps_BK(tickets, x[:5], alive)
    torch.testing.assert_close(found, Certainty(tickets, True).reverse(alive[0], x[:5]))


def test_samples_that_share_their_live_tickets_are_judged_as_if_alone(tickets, x):
    made = SuperpositionRouter()
    alive = torch.tensor([[True, True, True], [True, False, True], [True, True, False], [True, False, True]])
    found = made.helps_BK(tickets, x[:4], alive)
    for i in range(4):
        torch.testing.assert_close(made.helps_BK(tickets, x[i : i + 1], alive[i : i + 1])[0], found[i])


def test_routers_that_read_the_same_read_it_once(tickets, data, contexts, monkeypatch):
    reads, of = [], RouterFeatures.of.__func__
    monkeypatch.setattr(RouterFeatures, "of", classmethod(lambda cls, *a: reads.append(a) or of(cls, *a)))
    looked = {}
    for kind in FITTED:
        shared = router(kind).fit(tickets, data, contexts, looked)
        alone = router(kind).fit(tickets, data, contexts)
        assert all(torch.equal(shared.tensors[name], t) for name, t in alone.tensors.items())
    assert len(reads) == 1 + len(FITTED)
    router("gate", depth=1).fit(tickets, data, contexts, looked)
    others = TicketModel(tickets.backbone, tickets.masks.select(list(NAMES)[::-1])).eval()
    router("prototype").fit(others, data, contexts, looked)
    assert len(looked) == 3


def test_binary_search_with_two_tickets_is_one_shot(convnet, random_masks, x):
    two = TicketModel(convnet, random_masks(scope(convnet), NAMES[:2])).eval()
    made = [SuperpositionRouter(search=s) for s in ("one_shot", "binary")]
    raw = [m.raw_BK(two, x, x, x) for m in made]
    assert torch.equal(raw[0].argmax(1), raw[1].argmax(1))


def test_binary_search_drops_half_of_the_tickets_by_gradient(tickets, x, monkeypatch):
    made = SuperpositionRouter(search="binary")
    slopes = torch.tensor([[0.3, 0.1, 0.2]]).expand(len(x), 3)
    alive_seen = []

    def helps(tickets, part, alive):
        alive_seen.append(alive.clone())
        # Among all, 0 leads; among 0 and 2, 2 does.
        return (
            slopes[: len(part)] if bool(alive.all()) else torch.tensor([[0.1, 0, 0.4]]).expand(len(part), 3)
        )

    monkeypatch.setattr(made, "helps_BK", helps)
    raw = made.raw_BK(tickets, x[:4], x, x)
    assert raw.argmax(1).tolist() == [2] * 4
    assert raw.argmin(1).tolist() == [1] * 4
    assert alive_seen[1].tolist() == [[True, False, True]] * 4


# -- windows --------------------------------------------------------------------------------------------


def test_a_window_is_chosen_by_what_is_right_for_most_of_the_time():
    truth = torch.arange(4).repeat_interleave(8) % 2
    sure = torch.where(torch.arange(2) == truth[:, None], 0.0, -9.0)
    wrong = sure.clone()
    wrong[3::8] = wrong[3::8].flip(1) / 9  # one doubtful sample in each context says the opposite
    window, share = best_window([(wrong, truth)])
    assert (window.size, window.margin, share) == (1, 1.0, 1.0)
    assert best_window([(sure, truth)], sizes=(4,), margins=(0.0,))[1] == 1 - 3 * 2 / 32  # late by half of it
    noisy = sure.clone()
    noisy[::3] = noisy[::3].flip(1)
    constant = torch.zeros(32, dtype=torch.int64)
    assert best_window([(torch.where(truth[:, None] == 0, noisy, noisy.flip(1)), constant)])[0].size > 1


# -- contexts that are given ----------------------------------------------------------------------------


def test_contexts_are_looked_up_in_a_table(tickets, x):
    tickets.router = ContextRouter({"bay": "calm", "cape": "wild", 7: "rough"})
    given = ["cape", "bay", 7]
    assert torch.equal(tickets(x[:3], context=given), tickets(x[:3], ticket=["wild", "calm", "rough"]))
    assert torch.equal(tickets(x[:3], context="bay"), tickets(x[:3], ticket="calm"))
    assert torch.equal(tickets(x[:2], context=np.array([7, 7])), tickets(x[:2], ticket="rough"))


def test_without_a_table_a_context_is_a_ticket(tickets, x, tmp_path):
    tickets.router = ContextRouter()
    assert torch.equal(tickets(x[:3], context="wild"), tickets(x[:3], ticket="wild"))
    tickets.save(tmp_path / "c.tickets")
    again = load(tmp_path / "c.tickets", tickets.backbone)
    assert torch.equal(again(x[:3], context="wild"), tickets(x[:3], ticket="wild"))


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (None, "a context is needed"),
        ("cap", r"there is no context 'cap'; did you mean 'cape'\? Known: bay, cape"),
        (["bay"], "1 contexts for 3 samples"),
        (["bay", None, "bay"], "there is no context None"),
    ],
)
def test_a_context_that_is_missing_or_unknown_is_an_error(context, words, tickets, x):
    tickets.router = ContextRouter({"bay": "calm", "cape": "wild"})
    with pytest.raises(RouterError, match=words):
        tickets(x[:3], context=context)


def test_a_table_that_leads_to_no_ticket_is_an_error(tickets, x):
    tickets.router = ContextRouter({"bay": "clam"})
    with pytest.raises(RouterError, match=r"there is no ticket 'clam'; did you mean 'calm'"):
        tickets(x[:1], context="bay")


def test_a_region_map_is_looked_up_at_pixel_centres():
    made = ContextRouter.from_map(np.array([[0, 1, 2], [2, 1, 0]]), NAMES)
    corners = torch.tensor([[-1.0, -1], [0, -1], [1, -1], [-1, 1], [0.1, 0.9], [1, 1], [9, -9]])
    assert made.route(None, corners).index_B.tolist() == [0, 1, 2, 2, 1, 0, 2]
    again = restored(*made.state())
    assert again.route(None, corners).index_B.tolist() == [0, 1, 2, 2, 1, 0, 2]
    with pytest.raises(RouterError, match="whole numbers from 0 to 1"):
        ContextRouter.from_map([[0, 2]], ["a", "b"])
    with pytest.raises(RouterError, match=r"coordinates \[batch, 2\]"):
        made.route(None, torch.zeros(3, 1, 6, 6))


# -- mixing and windows ---------------------------------------------------------------------------------


def test_two_tickets_are_mixed_by_their_posteriors(tickets, data, contexts, x):
    tickets.router = router("prototype", mix=2).fit(tickets, data, contexts)
    routed, mixture = tickets.route(x), tickets(x)
    top = routed.scores_BK.topk(2, 1)
    shares = top.values.exp() / top.values.exp().sum(1, keepdim=True)
    each = torch.stack([tickets(x, ticket=n) for n in NAMES], 1)
    rows = torch.arange(len(x))
    expected = sum(shares[:, i, None] * each[rows, top.indices[:, i]] for i in range(2))
    torch.testing.assert_close(mixture, expected)


def test_one_vs_rest_tickets_are_not_mixed(tickets, data, contexts):
    tickets.metadata["objective"] = "OneVsRest"
    with pytest.raises(RouterError, match="outputs of two cannot be mixed: mix=1"):
        router("prototype", mix=2).fit(tickets, data, contexts)


def test_outputs_of_any_structure_are_mixed():
    routed = Routed(NAMES, torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.ones(1), "gate")
    value = {"calm": 1.0, "rough": 9.0, "wild": 100.0}
    likeliest = routed.likeliest(2)
    outputs = [{"a": torch.tensor([value[n] for n in names])} for names, _ in likeliest]
    found = mixed(outputs, [share_B for _, share_B in likeliest])
    torch.testing.assert_close(found["a"], torch.tensor([1 * 0.625 + 9 * 0.375]))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.floats(-9, 0), min_size=3, max_size=3), min_size=1, max_size=30), st.integers(1, 5)
)
def test_a_window_in_pieces_is_a_window_at_once_and_looks_at_the_past_alone(rows, size):
    scores = torch.tensor(rows, dtype=torch.double)
    whole, pieces = Window(size, 0.3), Window(size, 0.3)
    parallel = whole(scores)
    assert torch.equal(torch.cat([pieces(part) for part in scores.split(2)]), parallel)
    assert whole.switches == int((parallel.diff() != 0).sum())
    assert torch.equal(Window(size, 0.3)(scores[:3]), parallel[:3])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.floats(-9, 0), min_size=2, max_size=2), min_size=1, max_size=30))
def test_no_window_and_no_margin_is_the_argmax(rows):
    scores = torch.tensor(rows, dtype=torch.double)
    decided = (scores[:, 0] - scores[:, 1]).abs() > 1e-9
    assert torch.equal(Window(1, 0.0)(scores)[decided], scores.argmax(1)[decided])


def test_hysteresis_keeps_the_ticket_through_a_small_lead_and_a_window_through_an_outlier():
    lead = torch.tensor([[0.0, -2.0], [-0.4, 0.0], [-0.4, 0.0], [-3.0, 0.0]])
    assert Window(1, 0.0)(lead).tolist() == [0, 1, 1, 1]
    assert Window(1, 0.5)(lead).tolist() == [0, 0, 0, 1]
    outlier = torch.tensor([[0.0, -2.0], [0.0, -2.0], [-3.0, 0.0], [0.0, -2.0]])
    assert Window(3, 0.0)(outlier).tolist() == [0, 0, 0, 0]
    endless = torch.tensor([[0.0, -torch.inf], [-1.0, 0.0]])
    assert Window(2)(endless).tolist() == [0, 0]


@pytest.mark.parametrize("options", [{"size": 0}, {"margin": -1.0}])
def test_a_window_that_is_none_is_refused(options):
    with pytest.raises(RouterError, match="a window has"):
        Window(**options)


# -- bad input ------------------------------------------------------------------------------------------


def test_without_a_router_a_missing_ticket_says_how_to_get_one(tickets, x):
    with pytest.raises(TombolaError, match=r"which ticket.*calm, rough, wild.*tickets.router"):
        tickets(x)
    with pytest.raises(TombolaError, match="both say who answers"):
        tickets(x, ticket="calm", context="bay")


@pytest.mark.parametrize("kind", FITTED)
def test_fitting_with_one_context_is_an_error(kind, tickets, data):
    with pytest.raises(RouterError, match=r"one context only \(all\): nothing to choose"):
        router(kind).fit(tickets, data, partitions.by_column(data, "sea").whole())


def test_fitting_with_more_contexts_than_tickets_or_fewer_is_an_error(tickets, data, contexts, random_masks):
    few = TicketModel(tickets.backbone, tickets.masks.select(NAMES[:2]), {n: {} for n in NAMES[:2]})
    with pytest.raises(RouterError, match="3 contexts for 2 tickets: wild has no ticket"):
        PrototypeRouter().fit(few, data, contexts)
    with pytest.raises(RouterError, match="ticket wild has no context"):
        PrototypeRouter().fit(tickets, data, partitions.by_column(data, "sea", {n: n for n in NAMES[:2]}))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_context_without_samples_of_its_own_is_named(split, tickets, data, contexts):
    members = {s: m.clone() for s, m in contexts.members.items()}
    members[split][:, 0] |= members[split][:, 1]  # what is rough is calm as well
    with pytest.raises(RouterError, match=f"context 'rough' has 0 {split} samples that belong to it alone"):
        PrototypeRouter().fit(tickets, data, Partition(NAMES, members))


def test_where_tickets_share_no_weight_of_a_layer_the_union_is_looked_at(tickets, data, contexts, x):
    apart = copy.deepcopy(tickets)
    apart[apart.names[0]] = apart[apart.names[0]] & (torch.arange(apart.scope.size) >= 36)
    core = apart.scope.unflatten(apart.masks_KN.all(0))["0.weight"]
    assert not bool(core.any())
    router = PrototypeRouter().fit(apart, data, contexts)
    assert len(router.route(apart, x).names) == len(x)


def test_a_router_of_other_tickets_is_refused(tickets, data, contexts, x, tmp_path):
    made = PrototypeRouter().fit(tickets, data, contexts)
    with pytest.raises(RouterError, match="was not fitted"):
        PrototypeRouter().route(tickets, x)
    other = TicketModel(tickets.backbone, tickets.masks.select(NAMES[:2]), {n: {} for n in NAMES[:2]}).eval()
    with pytest.raises(RouterError, match="knows calm, rough, wild, not calm, rough"):
        made.route(other, x)
    with pytest.raises(RouterError, match="takes no context"):
        made.route(tickets, x, context="calm")
    tickets.router = made
    with torch.no_grad():
        tickets.private_KP.add_(1)
    with pytest.raises(TombolaError, match="router was fitted on other tickets"):
        tickets.save(tmp_path / "x.tickets")


def test_weights_that_no_ticket_keeps_do_not_make_other_tickets(tickets, data, contexts, tmp_path):
    for name in tickets.names:
        tickets[name] = tickets[name] & ~((torch.arange(tickets.scope.size) // 10) == 4)
    tickets.router = PrototypeRouter().fit(tickets, data, contexts)
    with torch.no_grad():
        tickets.backbone[4].weight.view(-1)[4:14] = 9.0
    assert tickets.save(tmp_path / "x.tickets") > 0


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("prototyp", {}, "there is no router 'prototyp'; did you mean 'prototype'"),
        ("gate", {"mix": 3}, "mix is 1"),
        ("gate", {"limit": 1}, "limit of a router must be at least 2"),
        ("gate", {"colour": 1}, "no such option"),
        ("prototype", {"prototypes": 0}, "prototypes must be at least 1"),
        ("score", {"reading": "entropy"}, "there is no reading of the score router 'entropy'"),
        ("superposition", {"search": "ternary"}, "there is no search"),
    ],
)
def test_options_that_make_no_sense_are_named(name, options, words):
    with pytest.raises(RouterError, match=words):
        router(name, **options)


def test_a_task_without_a_reading_says_what_to_do(tickets, data, contexts):
    tickets.metadata["objective"] = "Reconstruction"
    with pytest.raises(RouterError, match=r"outputs of Reconstruction tickets.*pass reading="):
        router("score").fit(tickets, data, contexts)


def test_more_prototypes_than_samples_is_an_error(tickets, data, contexts):
    with pytest.raises(RouterError, match="99 prototypes of"):
        router("prototype", prototypes=99).fit(tickets, data, contexts)


# -- careless use ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FITTED)
def test_numbers_that_are_not_finite_have_no_confidence_and_say_why(kind, tickets, data, contexts, x):
    tickets.router = router(kind).fit(tickets, data, contexts)
    strange = x[:3].clone()
    strange[0], strange[1, 0, 2, 2] = float("nan"), float("inf")
    routed = tickets.route(strange)
    assert routed.confidence_B[:2].tolist() == [0, 0]
    with pytest.raises(DataError, match=r"in 2 of 3 samples \(the first is number 0, at \[0, 0, 0\]\)"):
        tickets.predict(strange)
    large = torch.where(strange.isfinite(), strange, 3e38)  # whose outputs are none
    answer = tickets.predict(large)
    assert bool(answer.probability_B.isfinite().all())
    assert all("not a finite number" in line for line in answer.why[:2])
    assert "not a finite number" not in answer.why[2]
    torch.testing.assert_close(routed.scores_BK[2:], tickets.route(x[2:3]).scores_BK)


@pytest.mark.parametrize("kind", FITTED)
def test_no_samples_have_no_answers(kind, tickets, data, contexts, x):
    tickets.router = router(kind).fit(tickets, data, contexts)
    assert len(tickets(x[:0])) == len(tickets.predict(x[:0]).tickets) == len(tickets.route(x[:0]).names) == 0


def test_a_prediction_routes_once(tickets, data, contexts, x, monkeypatch):
    tickets.router = PrototypeRouter().fit(tickets, data, contexts)
    calls, route = [], PrototypeRouter.route
    monkeypatch.setattr(PrototypeRouter, "route", lambda *a, **o: calls.append(1) or route(*a, **o))
    answer = tickets.predict(x)
    assert len(calls) == 1
    torch.testing.assert_close(answer.outputs, tickets(x))


def test_values_of_a_column_of_numbers_are_contexts(convnet, random_masks, x):
    masks = random_masks(scope(convnet), ("0", "1", "2"))
    tickets = TicketModel(convnet, masks).eval()
    tickets.router = ContextRouter()
    for context in ([0, 2, 1], torch.tensor([0, 2, 1]), np.array([0, 2, 1])):
        torch.testing.assert_close(tickets(x[:3], context=context), tickets(x[:3], ticket=["0", "2", "1"]))
    with pytest.raises(RouterError, match="no context '7'"):
        tickets(x[:3], context=7)


def test_what_was_fitted_on_other_tickets_is_not_taken(tickets, data, contexts, convnet, random_masks):
    made = PrototypeRouter().fit(tickets, data, contexts)
    others = TicketModel(convnet, random_masks(scope(convnet), NAMES, seed=1)).eval()
    with pytest.raises(TombolaError, match="router was fitted on other tickets"):
        others.router = made
    with pytest.raises(TombolaError, match="got the class PrototypeRouter itself"):
        tickets.router = PrototypeRouter
    with pytest.raises(
        TombolaError, match=r"tickets\.calibration is a Calibration or None: got PrototypeRouter"
    ):
        tickets.calibration = made
    assert tickets.router is tickets.calibration is None


@pytest.mark.parametrize("ticket", ["", "calmer"])
def test_an_empty_name_is_unknown(ticket, tickets, x):
    with pytest.raises(UnknownTicket):
        tickets.predict(x, ticket)
    with pytest.raises(UnknownTicket):
        to_state_dict(tickets, ticket)


def test_more_layers_than_there_are_cannot_be_shallow(tickets, data, contexts):
    with pytest.raises(RouterError, match="depth=99: only"):
        PrototypeRouter(depth=99).fit(tickets, data, contexts)


def test_what_was_chosen_can_be_read(tickets, data, contexts):
    assert repr(Window(4, 0.5)) == "Window(size=4, margin=0.5)"
    fitted = PrototypeRouter().fit(tickets, data, contexts)
    assert repr(fitted).startswith("PrototypeRouter(mix=1, depth=0")
    assert all(name in repr(fitted) for name in tickets.names)
