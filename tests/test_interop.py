"""Interoperability: the same masks and outputs as torch.nn.utils.prune, on any module, and back."""

import copy
import importlib.util

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from tombola._utils.errors import MaskError, UnknownTicket
from tombola.lab.models.speech_unet import SpeechUNet
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.pruning import prune, transposed
from tombola.pruning.schedules import kept
from tombola.tickets.interop import from_torch_prune, masks_from_zeros, to_state_dict, to_torch_prune
from tombola.tickets.model import TicketModel


class TiedTransformer(nn.Module):
    """Tokens ``[B, T]`` to logits ``[B, T, 11]``; embedding and output layer are one weight."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight
        for p in self.encoder.parameters():  # torch's encoder starts with equal layers: ties
            nn.init.normal_(p, std=0.3)

    def forward(self, tokens):
        return self.head(self.encoder(self.embed(tokens)))


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


NETWORKS = ["convnet", "mlp", "unet", "transformer"]


@pytest.fixture
def network(request, make_convnet):
    """A network in evaluation mode, and inputs for it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            "convnet": lambda: (make_convnet().eval(), torch.randn(2, 1, 6, 6)),
            "mlp": lambda: (mlp().eval(), torch.randn(2, 6)),
            "unet": lambda: (SpeechUNet().eval(), torch.randn(1, 2, 3, 33)),
            "transformer": lambda: (TiedTransformer().eval(), torch.arange(10).view(2, 5)),
        }[request.param]()


def everywhere(*names):
    return pytest.mark.parametrize("network", names or NETWORKS, indirect=True)


def one_ticket(net, layout=None, sparsity=0.6):
    layout = layout or scope(net)
    scores_N = layout.flatten(dict(net.named_parameters())).detach().abs()
    ones_N = torch.ones(layout.size, dtype=torch.bool)
    mask_N = prune(ones_N, scores_N, kept(layout.size, sparsity), layout)
    return TicketModel(net, MaskSet(layout, {"cat": mask_N})).eval()


def layers(net, layout):
    return [(net.get_submodule(n.rpartition(".")[0]), n.rpartition(".")[2]) for n in layout.names]


@torch.no_grad()
def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@everywhere()
@pytest.mark.parametrize("removed", [0, 1, 7, 100])
def test_global_magnitude_keeps_what_torch_keeps(network, removed):
    net, layout = network[0], scope(network[0])
    scores_N = layout.flatten(dict(net.named_parameters())).detach().abs()
    ours = prune(torch.ones(layout.size, dtype=torch.bool), scores_N, layout.size - removed, layout)
    torch_prune.global_unstructured(layers(net, layout), torch_prune.L1Unstructured, amount=removed)
    theirs = torch.cat([getattr(m, f"{a}_mask").flatten() for m, a in layers(net, layout)])
    assert torch.equal(ours, theirs.bool())


@everywhere("convnet", "unet")
def test_channels_of_a_layer_are_those_of_torch(network):
    net, axes = network[0], transposed(network[0])
    for name, weight in dict(net.named_parameters()).items():
        if name not in scope(net).names:
            continue
        dim = 1 if name in axes else 0
        layout = Layout((name,), (tuple(weight.shape),))
        channels = weight.shape[dim]
        keep = weight.numel() // channels * (channels - channels // 2)
        ones_N, scores_N = torch.ones(layout.size, dtype=torch.bool), weight.detach().abs().flatten()
        ours = prune(ones_N, scores_N, keep, layout, granularity="channel", transposed=axes)
        path, _, attribute = name.rpartition(".")
        layer = copy.deepcopy(net.get_submodule(path))
        torch_prune.ln_structured(layer, attribute, channels // 2, n=1, dim=dim)
        assert torch.equal(ours.view(weight.shape), layer.weight_mask.bool())


@everywhere()
def test_a_module_pruned_by_torch_becomes_a_ticket_with_the_dense_weights(network):
    net, x = network
    before = copy.deepcopy(net).state_dict()
    torch_prune.global_unstructured(layers(net, scope(net)), torch_prune.L1Unstructured, amount=50)
    state = {name: t.clone() for name, t in net.state_dict().items()}
    tickets = from_torch_prune(net)
    assert tickets.masks.counts == {"pruned": tickets.scope.size - 50}
    assert set(tickets.backbone.state_dict()) == set(before)
    assert all(torch.equal(t, before[name]) for name, t in tickets.backbone.state_dict().items())
    assert not torch_prune.is_pruned(tickets.backbone)
    assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items())  # left alone
    assert torch_prune.is_pruned(net)
    same(tickets(x), net(x))


@everywhere()
def test_a_ticket_given_to_torch_computes_the_same_and_comes_back(network):
    net, x = network
    tickets = one_ticket(net)
    module = to_torch_prune(tickets)
    assert not torch_prune.is_pruned(net)
    same(module(x), tickets(x))
    back = from_torch_prune(module, "cat")
    assert back.masks == tickets.masks
    assert set(back.backbone.state_dict()) == set(net.state_dict())
    assert all(torch.equal(t, net.state_dict()[n]) for n, t in back.backbone.state_dict().items())


@everywhere()
def test_a_plain_state_dict_holds_the_zeros_and_gives_the_mask_back(network):
    net, x = network
    tickets = one_ticket(net)
    state = to_state_dict(tickets)
    assert list(state) == list(net.state_dict())
    assert masks_from_zeros(state, tickets.scope, "cat") == tickets.masks
    plain = copy.deepcopy(net)
    plain.load_state_dict(state)
    assert masks_from_zeros(plain, name="cat") == tickets.masks
    same(plain(x), tickets(x))


def test_a_module_pruned_twice_or_in_training_mode_is_read_too():
    net = mlp().train()
    torch_prune.random_unstructured(net[0], "weight", amount=10)
    torch_prune.l1_unstructured(net[0], "weight", amount=10)
    torch_prune.l1_unstructured(net[2], "bias", amount=3)
    net(torch.randn(2, 6)).sum().backward()
    tickets = from_torch_prune(net)
    assert tickets.training
    assert tickets.masks.counts_KL().tolist() == [[28, 5]]
    assert tickets.scope.names == ("0.weight", "2.bias")


def test_the_private_state_of_a_ticket_goes_with_it(convnet, random_masks):
    layout = scope(convnet)
    private = {name: {"1.running_mean": torch.full((4,), v)} for name, v in (("a", 1.0), ("b", 2.0))}
    tickets = TicketModel(convnet, random_masks(layout, ("a", "b")), private).eval()
    x = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    for name in ("a", "b"):
        same(to_torch_prune(tickets, name).eval()(x), tickets(x, ticket=name))
        assert torch.equal(to_state_dict(tickets, name)["1.running_mean"], private[name]["1.running_mean"])


# -- shared weights ----------------------------------------------------------------------------------


def test_the_default_scope_of_a_transformer_leaves_the_tied_embedding_dense():
    names = scope(TiedTransformer()).names
    assert "encoder.layers.1.linear2.weight" in names
    assert not [name for name in names if name.startswith(("embed", "head"))]


def test_a_shared_weight_in_scope_is_pruned_in_all_its_places():
    torch.manual_seed(0)
    net, tokens = TiedTransformer().eval(), torch.arange(10).view(2, 5)
    tickets = one_ticket(net, scope(net, include=["embed.weight", "encoder.layers.*.linear?.weight"]))
    module = to_torch_prune(tickets)
    assert torch_prune.is_pruned(module.embed)
    assert torch_prune.is_pruned(module.head)
    same(module(tokens), tickets(tokens))
    back = from_torch_prune(module, "cat")
    assert back.masks == tickets.masks
    assert back.backbone.head.weight is back.backbone.embed.weight
    assert torch.equal(to_state_dict(tickets)["embed.weight"], to_state_dict(tickets)["head.weight"])


@pytest.mark.parametrize("amounts", [(5, None), (5, 9)])
def test_a_shared_weight_that_torch_prunes_in_one_place_only_is_refused(amounts):
    net = TiedTransformer()
    for layer, amount in zip((net.embed, net.head), amounts, strict=True):
        if amount:
            torch_prune.l1_unstructured(layer, "weight", amount=amount)
    with pytest.raises(MaskError, match=r"embed\.weight, head\.weight are one weight"):
        from_torch_prune(net)


# -- errors ------------------------------------------------------------------------------------------


def test_what_cannot_be_read_says_what_to_do():
    net = mlp()
    with pytest.raises(MaskError, match="masks_from_zeros"):
        from_torch_prune(net)
    with pytest.raises(MaskError, match="pass scope="):
        masks_from_zeros(net.state_dict())
    with pytest.raises(MaskError, match=r"no weight '9\.weight'"):
        masks_from_zeros(net, Layout(("9.weight",), ((6, 8),)))
    with pytest.raises(MaskError, match=r"has shape \(8, 6\), the scope asks for \(6, 8\)"):
        masks_from_zeros(net, Layout(("0.weight",), ((6, 8),)))
    layout = scope(net)
    torch_prune.l1_unstructured(net[0], "weight", amount=5)
    with pytest.raises(MaskError, match="use from_torch_prune"):
        masks_from_zeros(net)
    with pytest.raises(MaskError, match="use from_torch_prune"):
        masks_from_zeros(net.state_dict(), layout)


def test_a_ticket_has_to_be_named_where_there_are_several(convnet, random_masks):
    tickets = TicketModel(convnet, random_masks(scope(convnet)))
    for function in (to_torch_prune, to_state_dict):
        with pytest.raises(MaskError, match="top, middle, bottom"):
            function(tickets)
        with pytest.raises(UnknownTicket, match="did you mean 'top'"):
            function(tickets, "tpo")


def test_minus_zero_is_zero_and_other_entries_do_not_matter():
    weights = {"w": torch.tensor([0.0, -0.0, 1e-45, float("nan")]), "other": torch.zeros(3)}
    assert masks_from_zeros(weights, Layout(("w",), ((4,),)))["zeros"].tolist() == [False, False, True, True]


@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="transformers is not installed")
def test_a_language_model_of_transformers_goes_both_ways():
    from transformers import GPT2Config, GPT2LMHeadModel

    net = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=11, n_positions=8)).eval()
    tickets = one_ticket(net, scope(net, include=["transformer.h.*.mlp.*.weight", "transformer.wte.weight"]))
    module, tokens = to_torch_prune(tickets), torch.arange(5).view(1, 5)
    same(module(tokens).logits, tickets(tokens).logits)
    assert from_torch_prune(module, "cat").masks == tickets.masks
