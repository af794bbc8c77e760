"""A file of tickets knows its network by what it computes, not by how it prints."""

import json

import pytest
import torch
from torch import nn

import tombola as tb
from tombola._utils import io
from tombola._utils.errors import TicketFileError
from tombola.masks.prunable import scope
from tombola.tickets import probe


class Encoder(nn.Module):
    def __init__(self, heads=4, activation="relu", norm_first=False, dropout=0.1):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, heads, 32, dropout, activation, 1e-5, True, norm_first)
        self.head = nn.Linear(16, 3)

    def forward(self, x, mask=None):
        return {"logits": self.head(self.layer(x, src_key_padding_mask=mask).mean(1)), "x": x.long()}


def made(net, x, private=None):
    torch.manual_seed(0)
    size = scope(net)
    masks = tb.MaskSet(size, {name: torch.rand(size.size) < 0.5 for name in ("a", "b")})
    return tb.TicketModel(net, masks, private, {"probe": probe.described(x)} if x is not None else None)


@pytest.fixture
def file(tmp_path):
    made(Encoder(), torch.randn(8, 5, 16)).save(tmp_path / "a.tickets")
    return tmp_path / "a.tickets"


@pytest.mark.parametrize("change", [{"heads": 8}, {"activation": "gelu"}, {"norm_first": True}])
def test_a_network_with_the_same_weights_that_computes_something_else_is_refused(file, change):
    with pytest.raises(
        TicketFileError,
        match=r"belongs to another network: outputs on the probe of the file differ by \d+",
    ) as caught:
        tb.load(file, Encoder(**change))
    assert "\n" not in str(caught.value)


def test_another_dropout_rate_and_compiled_wrappers_compute_the_same(file, tmp_path):
    x = torch.randn(3, 5, 16)
    plain = tb.load(file, Encoder())
    answer = plain(x, ticket="b")["logits"]
    inside = Encoder()
    inside.layer = torch.compile(inside.layer)
    for net in (Encoder(dropout=0.5), torch.compile(Encoder()), inside):
        assert torch.equal(tb.load(file, net)(x, ticket="b")["logits"], answer)
    assert isinstance(inside.layer, torch._dynamo.eval_frame.OptimizedModule)  # the given one stays
    compiled = torch.compile(Encoder(), backend="eager")
    made(compiled, torch.randn(8, 5, 16)).save(tmp_path / "b.tickets")
    assert tb.load(tmp_path / "b.tickets", Encoder()).scope.names == plain.scope.names


def test_names_and_shapes_come_first(file):
    net = Encoder()
    net.head = nn.Linear(16, 4)
    with pytest.raises(TicketFileError, match=r"tensor head.bias is torch.float32 \(3,\) in the file"):
        tb.load(file, net)


def test_a_network_that_cannot_take_the_probe_is_refused(file):
    net = Encoder()
    net.head.forward = lambda _: 1 / 0
    with pytest.raises(TicketFileError, match=r"cannot take the probe of the file \(division by zero\)"):
        tb.load(file, net)


@pytest.mark.parametrize("metadata", [None, {"probe": None}])
def test_without_a_probe_modules_have_to_print_alike_but_for_dropout(tmp_path, metadata):
    net, other = Encoder(), Encoder(dropout=0.5)
    tickets = made(net, None)
    tickets.metadata |= metadata or {}
    tickets.save(tmp_path / "a.tickets")
    tb.load(tmp_path / "a.tickets", other)
    tb.load(tmp_path / "a.tickets", torch.compile(net))
    other.layer.norm1.eps = 1e-3
    with pytest.raises(TicketFileError, match=r"another architecture: module layer\.norm1 is LayerNorm"):
        tb.load(tmp_path / "a.tickets", other)


def test_inputs_like_those_of_a_model_made_by_hand(tmp_path):
    tickets = made(Encoder(), None)
    tickets.save(tmp_path / "a.tickets", like={"x": torch.randn(2, 5, 16), "mask": torch.zeros(2, 5).bool()})
    tb.load(tmp_path / "a.tickets", Encoder(dropout=0.5))
    with pytest.raises(TicketFileError, match="another network"):
        tb.load(tmp_path / "a.tickets", Encoder(heads=2))


def test_the_file_has_none_of_the_data(tmp_path):
    x = torch.randn(50, 5, 16)
    known = probe.described(x)
    assert known == {"tensor": [5, 16], "dtype": "float32", "range": [float(x.min()), float(x.max())]}
    drawn = probe.inputs(known)
    assert drawn.shape == (2, 5, 16)
    assert not torch.isin(drawn, x).any()
    assert drawn.min() >= x.min()
    assert drawn.max() <= x.max()
    made(Encoder(), x).save(tmp_path / "a.tickets")
    stored = {n: t for n, t in io.read(tmp_path / "a.tickets")[0].items() if n.startswith("probe.")}
    assert {name: t.numel() for name, t in stored.items()} == {"probe.['logits'] [2, 3]": 6}


def test_inputs_of_any_structure_are_drawn_in_their_ranges():
    x = (
        {"ids": torch.tensor([[3, 9], [4, 5]]), "b": torch.ones(2, 3).bool()},
        [torch.zeros(2, dtype=torch.float16), None, "s", True],
    )
    ids, b, half, *rest = torch.utils._pytree.tree_leaves(
        probe.inputs(json.loads(json.dumps(probe.described(x))))
    )
    ids, b = (ids, b) if ids.dtype == torch.int64 else (b, ids)
    assert ids.shape == (2, 2)
    assert set(ids.flatten().tolist()) <= set(range(3, 10))
    assert b.all()
    assert half.tolist() == [0, 0]
    assert rest == [None, "s", True]


@pytest.mark.parametrize(
    "x",
    [
        torch.tensor([[float("nan")]]),
        torch.zeros(2, 1, dtype=torch.complex64),
        {1: torch.zeros(2)},
        {"a": object()},
        torch.zeros(1).expand(2, probe.MOST),
    ],
)
def test_what_cannot_be_described_gives_no_probe(x):
    assert probe.described(x) is None


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.rand(())


class Counting(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Refusing(nn.Linear):
    def forward(self, x):
        if not self.training:
            raise RuntimeError("not for evaluation")
        return super().forward(x)


def test_outputs_that_are_chance_and_networks_without_an_evaluation_mode_give_no_probe(tmp_path):
    for net in (Noisy(4, 3), Refusing(4, 3)):
        made(net, torch.rand(2, 4)).save(tmp_path / "a.tickets")
        assert not any(n.startswith("probe.") for n in io.read(tmp_path / "a.tickets")[0])
        tb.load(tmp_path / "a.tickets", net)


def test_a_probe_changes_nothing(tmp_path):
    other, tickets = Counting(), made(Counting(), torch.rand(2, 4))
    state = torch.get_rng_state()
    tickets.save(tmp_path / "a.tickets")
    again = tb.load(tmp_path / "a.tickets", other)
    assert tickets.backbone.calls == again.backbone.calls == 0
    assert torch.equal(torch.get_rng_state(), state)
    again.save(tmp_path / "b.tickets")
    assert (tmp_path / "a.tickets").read_bytes() == (tmp_path / "b.tickets").read_bytes()


def test_tickets_that_were_found_know_their_probe(tmp_path, convnet, images):
    by_class = tb.partition.by_label(images)
    tickets = tb.rtl(convnet, tb.objectives.OneVsRest(), images, by_class, sparsity=0.5, T=1, steps=1)
    assert tickets.metadata["probe"]["tensor"] == [1, 6, 6]
    tickets.select(tickets.names[1:]).save(tmp_path / "a.tickets")
    tb.load(tmp_path / "a.tickets", convnet)
    convnet[2] = nn.GELU()
    with pytest.raises(TicketFileError, match="another network"):
        tb.load(tmp_path / "a.tickets", convnet)
