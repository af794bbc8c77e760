"""Tickets that share masked weights and have a low-rank change of each of their own."""

import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

import tombola as tb
from tombola._utils.errors import ScopeError, TicketFileError, UsageError
from tombola.cli.network import network as network_of
from tombola.lab.experiments import experiment
from tombola.lab.report.inspect import describe
from tombola.masks.layout import Layout
from tombola.masks.low_rank import LowRank, adapter_names, folded, rank_of, with_adapters
from tombola.masks.prunable import scope
from tombola.masks.reference import changed, from_reference
from tombola.methods.pipeline import Pipeline
from tombola.pruning import transposed
from tombola.runs.cache import StageCache
from tombola.tickets.export.files import state_of
from tombola.tickets.model import TicketModel

SETTINGS = tb.Settings(sparsity=(0.5,), schedule="one_shot", T=4, steps=6, statistics=2)


def found(convnet, images, partition, objective=None, **changes):
    parallel = changes.pop("parallel", "no")
    settings = replace(SETTINGS, **{"adapters": 2, **changes})
    task = objective or tb.objectives.OneVsRest()
    return tb.rtl(convnet, task, images, partition, settings=settings, parallel=parallel)


def parts(tickets, name):
    """Shared weights, mask and adapters of a ticket."""
    weights_N, mask_N, own = tickets.state(name)
    return weights_N, mask_N, {n: t for n, t in own.items() if n.endswith((".up", ".down"))}


@pytest.fixture
def tickets(convnet, images, by_class):
    return found(convnet, images, by_class).eval()


def test_a_ticket_is_masked_weights_and_a_change_of_its_own(tickets, convnet, images):
    """``θ_k = m_k ⊙ θ + B_k A_k``, written out by hand for the second convolution."""
    x = images.test.x[:5]
    for name in tickets.names:
        weights_N, mask_N, own = parts(tickets, name)
        baked = tickets.bake(name)
        assert type(baked[4]) is nn.Conv2d
        first = convnet[0].weight.numel()
        up, down = own["4.parametrizations.weight.0.up"], own["4.parametrizations.weight.0.down"]
        expected = (weights_N * mask_N)[first:].view(6, 4, 3, 3) + (up @ down).view(6, 4, 3, 3)
        torch.testing.assert_close(baked[4].weight, expected)
        assert torch.linalg.matrix_rank(up.double() @ down.double()) == 2
        torch.testing.assert_close(tickets(x, ticket=name), baked.eval()(x))


def test_changes_are_of_each_ticket_and_counted(tickets, convnet, images, by_class):
    ups = [parts(tickets, name)[2]["0.parametrizations.weight.0.up"] for name in tickets.names]
    assert all(bool(up.any()) for up in ups)
    assert not torch.equal(ups[0], ups[1])
    plain = found(convnet, images, by_class, adapters=0)
    numbers = 2 * (4 + 9) + 2 * (6 + 36)
    assert tickets.private.size - plain.private.size == numbers


def test_before_training_nothing_differs(convnet, images, by_class):
    """Changes begin at zero: a search without steps finds the same masks, and the same network."""
    plain, adapted = (found(convnet, images, by_class, T=0, steps=0, adapters=rank) for rank in (0, 2))
    assert torch.equal(plain.masks_KN, adapted.masks_KN)
    for name in plain.names:
        expected, held = plain.bake(name).state_dict(), adapted.bake(name).state_dict()
        assert expected.keys() == held.keys()
        assert all(torch.equal(held[n], t) for n, t in expected.items())


@pytest.mark.parametrize("reference", ["zero", "theta0"])
def test_a_file_is_read_on_the_plain_network(convnet, images, by_class, tmp_path, reference):
    tickets = found(convnet, images, by_class, reference=reference).eval()
    tickets.save(tmp_path / "t.tickets")
    loaded = tb.load(tmp_path / "t.tickets", convnet)
    assert rank_of(loaded.backbone) == 2
    for name in tickets.names:
        expected, held = tickets.bake(name).state_dict(), loaded.bake(name).state_dict()
        assert expected.keys() == held.keys() == convnet.state_dict().keys()
        assert all(torch.equal(held[n], t) for n, t in expected.items())


def test_the_file_says_their_rank(tickets, tmp_path):
    tickets.save(tmp_path / "t.tickets")
    assert describe(tmp_path / "t.tickets")["adapters"] == 2
    tickets.save_pretrained(tmp_path / "shared")
    assert "a change of rank 2 of each matrix" in (tmp_path / "shared" / "README.md").read_text()


def test_a_state_dict_needs_no_network(tickets, tmp_path):
    tickets.save(tmp_path / "t.tickets")
    for name in tickets.names:
        found, expected = state_of(tmp_path / "t.tickets", name), tickets.bake(name).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[n], t) for n, t in expected.items())


def test_a_file_on_another_network_is_refused(tickets, tmp_path):
    tickets.save(tmp_path / "t.tickets")
    with pytest.raises(TicketFileError, match="another architecture"):
        tb.load(tmp_path / "t.tickets", nn.Sequential(nn.Linear(3, 2)))


def test_one_mask_with_changes_is_lora_that_trains_its_base(convnet, images, by_class):
    settings = replace(SETTINGS, adapters=1)
    task = tb.objectives.OneVsRest()
    [outcome] = tb.find("same_mask", convnet, task, images, by_class, settings=settings)
    tickets = outcome.tickets.eval()
    first, second = tickets.names[:2]
    assert torch.equal(parts(tickets, first)[1], parts(tickets, second)[1])
    x = images.test.x[:5]
    assert not torch.equal(tickets(x, ticket=first), tickets(x, ticket=second))


def test_the_others_keep_their_bits_when_one_grows(convnet, images):
    by_site, task = tb.partition.by_column(images, "site"), tb.objectives.Classification()
    tickets = found(convnet, images, by_site, task, sparsity=(0.8,)).eval()
    x = images.test.x[:8]
    before = {name: tickets(x, ticket=name).clone() for name in tickets.names}
    grown = tickets.grow("west", images, task, policy="free", T=3, steps=3).eval()
    assert all(torch.equal(grown(x, ticket=name), value) for name, value in before.items())
    own, first = parts(grown, "west")[2], parts(grown, tickets.names[0])[2]
    assert own.keys() == first.keys()
    assert not any(torch.equal(own[n], first[n]) for n in own)
    assert all(bool(t.any()) for t in own.values())


def test_a_batch_of_tickets_trains_as_one_after_the_other(convnet, images, by_class):
    masks = [found(convnet, images, by_class, parallel=how).masks_KN for how in ("no", "batched")]
    assert torch.equal(*masks)


def test_a_weight_that_can_have_none_is_named(convnet):
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    for network, name in ((tied, "0.weight"), (nn.LSTM(2, 3), "weight_ih_l0")):
        with pytest.raises(ScopeError, match=name):
            with_adapters(network, [name], 1)
    with pytest.raises(UsageError, match="adapters must be at least 0"):
        tb.Settings(adapters=-1)


def test_weights_with_a_change_can_be_set():
    """``layer.weight = ...`` gives that weight, whatever the change is."""
    layer = with_adapters(nn.Linear(4, 3), ["weight"], 1)
    assert adapter_names(layer) == ["parametrizations.weight.0.down", "parametrizations.weight.0.up"]
    change = layer.parametrizations.weight[0]
    assert isinstance(change, LowRank)
    nn.init.ones_(change.up)
    wanted = torch.rand(3, 4)
    layer.weight = wanted
    torch.testing.assert_close(layer.weight, wanted)


@pytest.mark.parametrize("method", ["one_shot", "snip", "rtl_learned", "low_rank_4", "imp"])
def test_methods_with_settings_of_their_own_go_with_adapters(method, convnet, images, by_class):
    """The same task under other settings is made of the plain network."""
    settings = replace(SETTINGS, adapters=2)
    [outcome] = tb.find(method, convnet, tb.objectives.OneVsRest(), images, by_class, settings=settings)
    assert rank_of(outcome.tickets.backbone) == (4 if method == "low_rank_4" else 2)
    assert len(adapter_names(outcome.tickets.backbone)) == 4
    assert type(outcome.tickets.bake(outcome.tickets.names[0])[4]) is nn.Conv2d


def test_a_network_with_adapters_can_be_told_the_context(convnet, images):
    by_site, task = tb.partition.by_column(images, "site"), tb.objectives.Classification()
    [outcome] = tb.find("imp_context", convnet, task, images, by_site, settings=replace(SETTINGS, adapters=2))
    assert rank_of(outcome.tickets.backbone) == 2


def test_what_adapters_do_not_go_with_is_one_line(tickets, convnet, images, by_class):
    with pytest.raises(UsageError, match="has adapters already: give a plain one"):
        found(tickets.backbone, images, by_class)
    with pytest.raises(UsageError, match="only plain tickets can be widened"):
        tickets.widen(convnet)
    with pytest.raises(UsageError, match="no weight has more than 6 rows and columns"):
        found(convnet, images, by_class, adapters=7)
    with pytest.raises(tb.TombolaError, match="cannot be pickled: save its tickets"):
        pickle.dumps(tickets)


def test_a_rank_is_no_higher_than_the_weight(convnet, images, by_class, tmp_path):
    tickets = found(convnet, images, by_class, adapters=6)
    shapes = {n: tuple(p.shape) for n, p in tickets.backbone.named_parameters() if n in tickets.private.names}
    assert shapes["0.parametrizations.weight.0.up"] == (4, 4)
    assert shapes["4.parametrizations.weight.0.up"] == (6, 6)
    tickets.save(tmp_path / "t.tickets")
    loaded = tb.load(tmp_path / "t.tickets", convnet)
    assert {n: tuple(p.shape) for n, p in loaded.backbone.named_parameters() if n in shapes} == shapes


@pytest.mark.parametrize("reference", [False, True])
def test_a_file_is_known_by_the_layers_of_the_network_that_was_given(reference, tmp_path, random_masks):
    """Who has a copied file is told what to give: not the layers that torch's parametrisation made of it."""
    network = experiment("digits").backbone(torch.Generator())
    names = scope(network).names
    network = from_reference(network, names) if reference else network
    network = with_adapters(network, names, 1)
    weights = {changed(name): network.get_parameter(changed(name)) for name in names}
    TicketModel(network, random_masks(Layout.of(weights))).save(tmp_path / "t.tickets")
    with pytest.raises(UsageError, match="give --backbone digits, the experiment whose network has the same"):
        network_of(tmp_path / "t.tickets", {}, None)


@pytest.mark.parametrize("made", [lambda net: from_reference(net, ["1.weight"]), lambda net: net])
def test_weights_that_are_stored_input_first_are_known_under_a_parametrisation(made):
    """Channels of a transposed convolution are its second axis, whatever its weight is made of."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 6, 3, groups=2))
    adapted = with_adapters(made(net), ["1.weight"], 1)
    assert transposed(adapted) == {"1.parametrizations.weight.original": 2}
    assert transposed(made(net)) in ({"1.parametrizations.weight.original": 2}, {"1.weight": 2})


def test_the_same_task_under_other_settings_or_another_seed_begins_with_the_plain_network(
    convnet, images, by_class
):
    settings = replace(SETTINGS, adapters=2)
    given = convnet, tb.objectives.OneVsRest(), images, by_class, settings, 0, StageCache("no")
    first = Pipeline(*given)
    again = replace(first, seed=1, settings=replace(settings, sparsity=(0.8,), adapters=1))
    assert (rank_of(first.f.module), rank_of(again.f.module)) == (2, 1)
    assert again.f.scope == first.f.scope
    assert not rank_of(first.backbone)


def test_parameters_with_the_names_of_adapters_stay():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

    net = nn.Sequential(nn.Linear(4, 3), nn.Sequential(Own()))
    assert folded(with_adapters(net, ["0.weight"], 1).state_dict()).keys() == net.state_dict().keys()
