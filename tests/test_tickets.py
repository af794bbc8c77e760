"""A TicketModel is the backbone under each ticket's mask, and a module like any other."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from tombola._utils import batch
from tombola._utils.errors import MaskError, TombolaError, UnknownTicket
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.tickets.fitted import answer_of
from tombola.tickets.model import TicketModel
from tombola.tickets.routing import PrototypeRouter
from tombola.training.norm import statistics_names

NAMES = ("top", "middle", "bottom")


@pytest.fixture
def tickets(convnet, random_masks):
    """Three tickets with private statistics and a private affine part each."""
    g = torch.Generator().manual_seed(5)
    own = [*statistics_names(convnet), "1.weight", "1.bias"]
    state = convnet.state_dict()
    private = {
        name: {n: state[n] * (0.5 + torch.rand(state[n].shape, generator=g)) for n in own} for name in NAMES
    }
    return TicketModel(convnet, random_masks(scope(convnet)), private, {"note": "test"}).eval()


@pytest.fixture
def x():
    return torch.randn(7, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def masked_by_hand(tickets, name):
    module = copy.deepcopy(tickets.backbone)
    state = module.state_dict()
    for weight, mask in tickets.masks.layers(name).items():
        state[weight] = torch.where(mask, state[weight], torch.zeros(()))
    k = NAMES.index(name)
    state |= tickets.private.unflatten(tickets.private_KP.detach()[k])
    state |= tickets.statistics.unflatten(tickets.statistics_KS[k])
    module.load_state_dict(state)
    return module


def equal(a, b, x):
    return all(torch.equal(a(x, ticket=name), b(x, ticket=name)) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_ticket_is_the_backbone_masked_by_hand_with_its_private_state(tickets, x, name):
    assert torch.equal(tickets(x, ticket=name), masked_by_hand(tickets, name)(x))


def test_tickets_differ(tickets, x):
    assert not torch.allclose(tickets(x, ticket="top"), tickets(x, ticket="bottom"))


@pytest.mark.parametrize(
    "names",
    [
        ["top", "bottom", "middle", "bottom", "top", "top", "middle"],
        ["bottom"] * 7,
        ("middle", "top", "top", "top", "top", "top", "bottom"),
    ],
)
def test_a_ticket_per_sample_equals_a_run_per_ticket_in_the_original_order(tickets, x, names):
    expected = torch.stack([tickets(x, ticket=name)[i] for i, name in enumerate(names)])
    torch.testing.assert_close(tickets(x, ticket=names), expected)


def test_a_ticket_per_sample_for_one_sample(tickets, x):
    assert torch.equal(tickets(x[:1], ticket=["middle"]), tickets(x[:1], ticket="middle"))


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3, bias=False), nn.Linear(3, 2)

    def forward(self, x):
        h = self.a(x)
        return {"hidden": h, "pair": (self.b(h), x.sum(1))}


def test_outputs_of_any_structure_are_put_back_in_order(random_masks):
    net, x, names = Several(), torch.rand(5, 4), ["dog", "cat", "dog", "cat", "cat"]
    model = TicketModel(net, random_masks(Layout(("a.weight",), ((3, 4),)), ("cat", "dog")))
    outputs = model(x, ticket=names)
    each = [model(x, ticket=name) for name in names]
    torch.testing.assert_close(outputs["hidden"], torch.stack([o["hidden"][i] for i, o in enumerate(each)]))
    torch.testing.assert_close(outputs["pair"][0], torch.stack([o["pair"][0][i] for i, o in enumerate(each)]))
    torch.testing.assert_close(outputs["pair"][1], x.sum(1))
    assert isinstance(outputs["pair"], tuple)


@pytest.mark.parametrize("count", [0, 6, 8])
def test_another_number_of_names_than_samples_is_an_error(tickets, x, count):
    with pytest.raises(TombolaError, match=f"{count} ticket names for 7 samples"):
        tickets(x, ticket=["top"] * count)


@pytest.mark.parametrize("ask", ["botom", ["top"] * 6 + ["botom"]])
def test_an_unknown_ticket_lists_names_and_near_miss(tickets, x, ask):
    with pytest.raises(UnknownTicket) as caught:
        tickets(x, ticket=ask)
    message = "there is no ticket 'botom'; did you mean 'bottom'? Known: top, middle, bottom"
    assert str(caught.value) == message
    assert isinstance(caught.value, KeyError)


def test_no_ticket_is_an_error_where_there_are_several(tickets, x):
    with pytest.raises(TombolaError, match=r"which ticket.*top, middle, bottom"):
        tickets(x)


def test_no_ticket_is_needed_where_there_is_one(convnet, random_masks, x):
    model = TicketModel(convnet, random_masks(scope(convnet), ("only",))).eval()
    assert torch.equal(model(x), model(x, ticket="only"))


@pytest.mark.parametrize("name", NAMES)
def test_a_baked_ticket_is_a_plain_module_with_the_same_outputs_and_the_users_keys(tickets, x, name):
    baked = tickets.bake(name)
    assert type(baked) is nn.Sequential
    assert list(baked.state_dict()) == list(tickets.backbone.state_dict())
    assert torch.equal(baked(x), tickets(x, ticket=name))
    for weight, mask in tickets.masks.layers(name).items():
        assert not baked.get_parameter(weight)[~mask].any()


def test_a_baked_ticket_is_a_copy(tickets, x):
    before = tickets(x, ticket="top")
    baked = tickets.bake("top")
    with torch.no_grad():
        for tensor in baked.state_dict().values():
            tensor.zero_()
    assert torch.equal(tickets(x, ticket="top"), before)


def test_deepcopy_is_equal_and_independent(tickets, x):
    replicate = copy.deepcopy(tickets)
    assert equal(replicate, tickets, x)
    with torch.no_grad():
        replicate.backbone[0].weight.zero_()
        replicate.private_KP.zero_()
    assert not equal(replicate, tickets, x)


def test_pickle_round_trip(tickets, x):
    again = pickle.loads(pickle.dumps(tickets))
    assert equal(again, tickets, x)
    assert (again.names, again.metadata, again.masks) == (tickets.names, tickets.metadata, tickets.masks)


def test_state_dict_round_trip_into_a_fresh_model(tickets, make_convnet, random_masks, x):
    net = make_convnet(seed=9)
    own = [*statistics_names(net), "1.weight", "1.bias"]
    masks = random_masks(scope(net), seed=9)
    bits = masks.masks_KN.clone()
    fresh = TicketModel(net, masks, {n: {p: net.state_dict()[p] for p in own} for n in NAMES}).eval()
    assert not equal(fresh, tickets, x)
    fresh.load_state_dict(tickets.state_dict())
    assert equal(fresh, tickets, x)
    assert torch.equal(masks.masks_KN, bits)  # the caller's masks are not written into


def test_masks_of_a_state_dict_are_checked_and_may_be_a_byte_each(tickets, x):
    state = tickets.state_dict()
    assert state["bits_KM"].numel() == 3 * -(-tickets.scope.size // 8)
    former = {n: t for n, t in state.items() if n != "bits_KM"}
    with pytest.raises(RuntimeError, match="bits_KM"):
        copy.deepcopy(tickets).load_state_dict(former)
    with pytest.raises(
        RuntimeError, match=r"bits_KM: packed masks of torch.uint8 and shape .* do not hold 3 tickets"
    ):
        copy.deepcopy(tickets).load_state_dict(state | {"bits_KM": state["bits_KM"][:2]})
    older = copy.deepcopy(tickets)
    older.bits_KM.zero_()
    older.load_state_dict(former | {"bits_KN": tickets.masks_KN.to(torch.uint8)})
    assert equal(older, tickets, x)
    nested = nn.ModuleDict({"inner": copy.deepcopy(tickets)})
    nested.load_state_dict(nested.state_dict())
    assert older.load_state_dict(former, strict=False).missing_keys == ["bits_KM"]
    with pytest.raises(RuntimeError, match="bits beyond the last weight"):
        older.load_state_dict(state | {"bits_KM": torch.full_like(state["bits_KM"], 255)})
    with pytest.raises(RuntimeError, match=r"packed masks of .*float32"):
        older.load_state_dict(state | {"bits_KM": state["bits_KM"].float()})
    other = copy.deepcopy(tickets)
    other["top"] = ~other["top"]
    answered = torch.func.functional_call(tickets, other.state_dict(), (x, "top"))
    assert torch.equal(answered, other(x, ticket="top"))
    assert tickets.type(torch.float64)(x.double(), ticket="top").dtype == torch.float64


def test_what_was_pickled_when_masks_took_a_byte_is_read(tickets, x):
    state = tickets.__getstate__()
    state["_buffers"] = {**state["_buffers"], "bits_KN": tickets.masks_KN.to(torch.uint8)}
    del state["_bits_KM"]
    older = TicketModel.__new__(TicketModel)
    older.__setstate__(state)
    assert equal(older, tickets, x)
    masks = MaskSet.__new__(MaskSet)
    masks.__setstate__({"scope": tickets.scope, "names": tickets.names, "masks_KN": tickets.masks_KN})
    assert masks == tickets.masks == pickle.loads(pickle.dumps(tickets.masks))


def test_another_mask_is_that_ticket_alone(tickets, x):
    before = {name: tickets(x, ticket=name) for name in NAMES}
    tickets["middle"] = ~tickets["middle"]
    changed = [name for name in NAMES if not torch.equal(tickets(x, ticket=name), before[name])]
    assert changed == ["middle"]
    torch.testing.assert_close(tickets(x, ticket="middle"), masked_by_hand(tickets, "middle")(x))
    with pytest.raises(UnknownTicket):
        tickets["nobody"] = tickets["middle"]
    for wrong, words in ((torch.ones(3) > 0, "shape"), ("x", "is a str"), (None, "is a NoneType")):
        with pytest.raises(MaskError, match=words):
            tickets["middle"] = wrong


def test_the_masks_of_tickets_stay_what_they_were_when_one_is_given_another(tickets):
    before = tickets.masks
    known = before.digest(), before.counts
    tickets["top"] = ~tickets["top"]
    assert (before.digest(), before.counts) == known
    assert before != tickets.masks


def test_state_dict_keeps_the_users_keys_under_backbone(tickets):
    keys = [key.removeprefix("backbone.") for key in tickets.state_dict() if key.startswith("backbone.")]
    assert keys == list(tickets.backbone.state_dict())


@pytest.mark.parametrize("training", [False, True])
def test_one_compiled_graph_serves_all_tickets(tickets, x, training):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    tickets.train(training)
    plain = copy.deepcopy(tickets)
    torch._dynamo.reset()
    compiled = torch.compile(tickets, backend=backend)
    for name in (*NAMES, "top"):
        assert torch.equal(compiled(x, ticket=name), plain(x, ticket=name))
    assert len(graphs) == 1
    torch._dynamo.reset()


def test_gradients_reach_backbone_and_private_part_and_are_zero_outside_the_mask(tickets, x):
    tickets(x, ticket="middle").square().sum().backward()
    named = dict(tickets.backbone.named_parameters())
    for name, mask in tickets.masks.layers("middle").items():
        assert not named[name].grad[~mask].any()
        assert bool(named[name].grad[mask].any())
    assert bool(named["9.weight"].grad.any())
    assert [bool(row.any()) for row in tickets.private_KP.grad] == [False, True, False]
    assert named["1.weight"].grad is None or not named["1.weight"].grad.any()


def test_training_mode_updates_the_statistics_of_the_ticket_alone(tickets, x):
    before, shared = tickets.statistics_KS.clone(), tickets.backbone[1].running_mean.clone()
    tickets.train()(x, ticket="middle")
    changed = (tickets.statistics_KS != before).any(1)
    assert changed.tolist() == [False, True, False]
    assert torch.equal(tickets.backbone[1].running_mean, shared)
    before = tickets.statistics_KS.clone()
    tickets.eval()(x, ticket="middle")
    assert torch.equal(tickets.statistics_KS, before)


def test_train_and_eval_reach_the_backbone(tickets):
    assert all(m.training for m in tickets.train().modules())
    assert not any(m.training for m in tickets.eval().modules())


def test_double_precision_reaches_weights_and_private_state(tickets, x):
    before = tickets(x, ticket="top").double()
    torch.testing.assert_close(tickets.double()(x.double(), ticket="top"), before, atol=1e-5, rtol=1e-5)
    assert tickets.masks_KN.dtype == torch.bool


def test_masks_for_another_network_are_an_error(convnet):
    with pytest.raises(MaskError, match=r"no weight 'x.weight'"):
        TicketModel(convnet, MaskSet.dense(Layout(("x.weight",), ((2,),)), ["a"]))
    with pytest.raises(
        MaskError, match=r"weight '0.weight' has shape \(4, 1, 3, 3\), the masks are for \(2,\)"
    ):
        TicketModel(convnet, MaskSet.dense(Layout(("0.weight",), ((2,),)), ["a"]))


def test_private_state_must_name_every_ticket_and_the_same_tensors(convnet, random_masks):
    masks = random_masks(scope(convnet), ("a", "b"))
    with pytest.raises(MaskError, match=r"private state is for \['a'\]"):
        TicketModel(convnet, masks, {"a": {}})
    with pytest.raises(MaskError, match="same private tensors"):
        TicketModel(convnet, masks, {"a": {}, "b": {"9.bias": torch.zeros(3)}})


def test_extra_repr_says_tickets_and_density(tickets):
    assert "3 tickets × 252 weights" in repr(tickets)
    assert "private numbers per ticket=28" in repr(tickets)


def test_an_empty_batch_gives_an_empty_output(tickets, x):
    assert tickets(x[:0], ticket=[]).shape == (0, *tickets(x, ticket="top").shape[1:])


@pytest.mark.parametrize("ask", [0, ["top"] * 6 + [1], torch.ones(7, 1, 6, 6)])
def test_a_ticket_that_is_no_name_is_an_error(tickets, x, ask):
    with pytest.raises(
        TombolaError, match=r"one name per sample \(of top, middle, bottom\), not (int|Tensor)"
    ):
        tickets(x, ask)


def test_inputs_that_are_no_tensor_are_an_error(tickets, x):
    with pytest.raises(TombolaError, match=r"x is ndarray, not a tensor: pass torch.as_tensor\(x\)"):
        tickets(x.numpy(), ticket="top")


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8])
@pytest.mark.parametrize("ask", ["top", ["top"] * 7])
def test_inputs_of_another_dtype_name_both(tickets, x, dtype, ask):
    with pytest.raises(TombolaError, match=rf"x is {dtype}, the network torch.float32: pass x.to\("):
        tickets(x.to(dtype), ticket=ask)


def test_inputs_of_another_shape_than_in_training_name_both():
    masks = MaskSet.dense(Layout(("weight",), ((3, 4),)), ["a", "b"])
    tickets = TicketModel(nn.Linear(4, 3), masks, metadata={"shape": [4]})
    with pytest.raises(TombolaError, match=r"x is \[2, 5\], tickets were trained on \[batch, 4\], and"):
        tickets(torch.zeros(2, 5), ticket="a")
    assert tickets(torch.zeros(2, 7, 4), ticket="a").shape == (2, 7, 3)  # the network can take that one


def test_a_sample_without_its_batch_is_named(tickets, x):
    tickets.metadata["shape"] = list(x.shape[1:])
    for ask in (lambda: tickets(x[0], ticket="top"), lambda: tickets.predict(x[0], ticket="top")):
        with pytest.raises(TombolaError, match=r"x is one sample, \[1, 6, 6\], and no batch: pass x\[None\]"):
            ask()


class Rows(nn.Module):
    """A network of one layer, called with one tensor or with parts by name."""

    def __init__(self, layer, scaled):
        super().__init__()
        self.layer, self.head, self.scaled = layer, nn.Linear(4, 2), scaled

    def forward(self, x, scale=None):
        if self.scaled and scale is None:
            raise TypeError("scale is missing")
        h = self.layer(x)
        h = (
            (h[0] if isinstance(h, tuple) else h).flatten(2).mean(2)
            if isinstance(self.layer, nn.Conv2d)
            else h
        )
        return self.head(h if scale is None else h * scale)


IDS = {"tensor": [6], "dtype": "int64", "range": [0, 9]}
PARTS = {
    "dict": {
        "x": {"tensor": [3], "dtype": "float32", "range": [0, 1]},
        "scale": {"tensor": [4], "dtype": "float32", "range": [0, 1]},
    }
}


@pytest.mark.parametrize(
    ("layer", "form", "x", "words"),
    [
        (nn.Linear(3, 4), None, torch.rand(5, 2), r"x is \[5, 2\], .*\(layer, Linear\) takes \[batch, 3\]"),
        (nn.Linear(3, 4), None, torch.ones(5, 3).long(), r"x is torch.int64, the network torch.float32"),
        (nn.Conv2d(3, 4, 1), None, torch.rand(5, 1, 8, 8), r"takes \[batch, 3, height, width\]"),
        (nn.Conv2d(3, 4, 1), None, torch.rand(5, 8, 8, 3), r"takes \[batch, 3, height, width\]"),
        (nn.LSTM(3, 4), None, torch.rand(5, 6, 2), r"takes \[batch, length, 3\]"),
        (nn.Embedding(10, 4), None, torch.rand(5, 6), r"x is torch.float32, .*tokens: pass x.long\(\)"),
        (nn.Embedding(10, 4), IDS, torch.rand(5, 6), r"trained on torch.int64: pass x.to\(torch.int64\)"),
        (nn.Embedding(10, 4), IDS, torch.full((5, 6), 12), r"x is from 12 to 12, .* takes 0 to 9"),
        (nn.Linear(3, 4), PARTS, torch.rand(5, 3), r"x is one tensor, .* parts 'x', 'scale'"),
        (
            nn.Linear(3, 4),
            PARTS,
            {"x": torch.rand(5, 2), "scale": torch.rand(5, 4)},
            r"x\['x'\] is \[5, 2\], .* \[batch, 3\]",
        ),
        (
            nn.Linear(3, 4),
            PARTS,
            {"x": torch.rand(5, 3).double(), "scale": torch.rand(5, 4)},
            r"pass x\['x'\].to\(torch.float32",
        ),
    ],
)
def test_inputs_that_the_network_cannot_take_are_one_line_of_what_came_and_what_is_taken(
    layer, form, x, words
):
    net = Rows(layer, scaled=form == PARTS)
    tickets = TicketModel(
        net, MaskSet.dense(scope(net), ["a", "b"]), metadata={"probe": form} if form else {}
    )
    router = PrototypeRouter()
    router.route = lambda tickets, x, context: batch.call(net, x)
    tickets.router = router
    for ask in (
        lambda: tickets(x, ticket="a"),
        lambda: tickets(x, ticket=["a", "b"] * 2 + ["a"]),
        lambda: tickets.predict(x, ticket="a"),
        lambda: tickets.route(x),
    ):
        with pytest.raises(TombolaError, match=words) as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_other_failures_of_the_network_are_passed_on():
    class Broken(nn.Linear):
        def forward(self, x):
            raise RuntimeError("out of order")

    tickets = TicketModel(Broken(3, 2), MaskSet.dense(Layout(("weight",), ((2, 3),)), ["a", "b"]))
    for metadata in ({}, {"shape": [3]}, {"probe": {"tensor": [3], "dtype": "float32", "range": [0, 1]}}):
        tickets.metadata = metadata
        with pytest.raises(RuntimeError, match=r"^out of order$"):
            tickets(torch.rand(5, 3), ticket="a")


@pytest.mark.parametrize(
    ("private", "named"),
    [
        ({"0.weight": torch.ones(4, 1, 3, 3)}, "under the masks"),
        ({"5.wieght": torch.ones(1)}, "5.weight"),
        ({"1.weight": torch.ones(5)}, r"shape \(5,\)"),
    ],
    ids=["masked", "unknown", "shape"],
)
def test_private_state_belongs_to_the_backbone_and_not_under_the_masks(private, named, convnet, random_masks):
    masks = random_masks(scope(convnet), ("one",))
    with pytest.raises(MaskError, match=named):
        TicketModel(convnet, masks, {"one": private})


def test_a_replaced_layer_is_an_error_and_no_memory_of_others(random_masks):
    net = nn.Sequential(nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 3))
    tickets = TicketModel(net, random_masks(scope(net), ("one",))).eval()
    net[0].weight = nn.Parameter(torch.rand(190, 200))
    with pytest.raises(MaskError, match="was a layer replaced"):
        tickets.weights("one")


def test_masks_are_zeros_and_ones():
    layout = Layout(("w",), ((4,),))
    with pytest.raises(MaskError, match="other numbers than 0 and 1"):
        MaskSet(layout, {"a": torch.tensor([0.1, 0.9, 1, 0])})
    assert MaskSet(layout, {"a": np.array([1, 0, 0, 1])}).counts == {"a": 2}


def test_facts_are_an_older_name_of_metadata(convnet, random_masks):
    with pytest.warns(FutureWarning, match="facts of a TicketModel are now its metadata") as caught:
        tickets = TicketModel(convnet, random_masks(scope(convnet)), facts={"note": "old"})
    assert tickets.metadata == {"note": "old"}
    with pytest.warns(FutureWarning, match="metadata"):
        assert tickets.facts is tickets.metadata
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("metadata", "names", "answer"),
    [
        ({"answer": "labels"}, "ab", "labels"),
        ({"answer": "class", "objective": "OneVsRest"}, "ab", "class"),
        ({"objective": "OneVsRest"}, "ab", "subset"),
        ({"objective": "OneVsRest", "task": "own"}, "a", "subset"),
        ({"objective": "OneVsRest", "task": "single"}, "a", "class"),
        ({"objective": "OneVsRest"}, "a", "class"),
        ({"objective": "Classification", "task": "single"}, "a", "class"),
        ({"objective": "Enhancement"}, "ab", "value"),
        ({"objective": "SomebodyElses"}, "ab", "value"),
        ({}, "ab", "value"),
    ],
)
def test_how_outputs_are_read_is_in_the_file_or_follows_from_the_objective_of_an_older_one(
    metadata, names, answer, convnet, random_masks
):
    tickets = TicketModel(convnet, random_masks(scope(convnet), tuple(names)), metadata=metadata)
    assert answer_of(tickets) == answer


# -- some of the tickets ------------------------------------------------------------------------------------


def test_tickets_are_counted_named_and_looked_for(tickets):
    assert len(tickets) == len(tickets.names)
    assert list(tickets) == list(tickets.names)
    assert tickets.names[0] in tickets
    assert "cow" not in tickets
    assert 0 not in tickets


def test_some_tickets_answer_as_among_all(tickets):
    tickets.metadata = {"answer": "subset", "outputs": [2, 0, 1]}
    names = [tickets.names[2], tickets.names[0]]
    some, x = tickets.select(names), torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    assert some.names == tuple(names)
    assert some.metadata["outputs"] == [1, 2]
    for name in names:
        one, other = some.predict(x, ticket=name), tickets.predict(x, ticket=name)
        assert torch.equal(one.outputs, other.outputs)
        assert torch.equal(one.answer_B, other.answer_B)
    with pytest.raises(UnknownTicket):
        tickets.select(["cow"])
    private = {name: tickets.private_state(name) for name in names}
    with pytest.raises(MaskError, match="other tickets than the masks"):
        TicketModel(tickets.backbone, tickets.masks.select(names), private, tickets.metadata)
