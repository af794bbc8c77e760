"""Coded masks come back as they were, in about their joint entropy; damage is an error."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tombola._utils import io
from tombola._utils.errors import MaskError, MissingExtra, TicketFileError
from tombola.masks import codec as coding
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.tickets import files
from tombola.tickets.model import TicketModel, load

needs_coder = pytest.mark.skipif(find_spec("constriction") is None, reason="tombola[coding] is not installed")
every_coding = pytest.mark.parametrize(
    "name", ["plain", "patterns", pytest.param("chain", marks=needs_coder), "auto"]
)


def alike(K, N, level, density=0.5, seed=0):
    """Masks that agree the more, the lower the level of the noise."""
    random = torch.Generator().manual_seed(seed)
    base = torch.randn(N, generator=random)
    scores = (base + level * torch.randn(K, N, generator=random)).abs()
    return scores > scores.quantile(1 - density)


def joint_entropy(masks_KN):
    """Bits per weight."""
    _, counts = np.unique(np.packbits(masks_KN.numpy(), axis=0).T, axis=0, return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum())


def size(tensors):
    return sum(t.numel() * t.element_size() for t in tensors.values())


@every_coding
@given(
    st.integers(1, 11), st.integers(0, 70), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.integers(0, 2**32)
)
@settings(max_examples=25, deadline=None)
def test_masks_come_back(name, K, N, density, seed):
    masks = torch.rand(K, N, generator=torch.Generator().manual_seed(seed)) < density
    tensors = coding.encode(masks, name)
    assert torch.equal(coding.decode(tensors, K, N), masks)


@every_coding
@pytest.mark.parametrize("K", [1, 2, 70, 130])
def test_many_tickets_come_back(name, K):
    masks = alike(K, 3000, 0.2)
    assert torch.equal(coding.decode(coding.encode(masks, name), K, 3000), masks)


@needs_coder
@pytest.mark.parametrize("K", [2, 4, 10])
@pytest.mark.parametrize("level", [0.02, 0.05, 0.3, 1.0, 100.0])
@pytest.mark.parametrize("densities", [[0.5], [0.9, 0.5, 0.2, 0.1]])
def test_masks_take_little_more_than_their_joint_entropy_at_any_similarity(K, level, densities):
    layers = [alike(K, 60_000 // len(densities), level, density) for density in densities]
    masks = torch.cat(layers, 1)
    tensors = coding.encode(masks, "chain")
    assert torch.equal(coding.decode(tensors, *masks.shape), masks)
    assert size(tensors) * 8 <= 1.05 * joint_entropy(masks) * masks.shape[1]


@needs_coder
def test_counts_of_older_files_are_read():
    masks = torch.tensor([[(i * 7 + k * k) % 5 < 3 for i in range(24)] for k in range(3)])
    tensors = {
        "masks.histogram": torch.tensor([0, 9, 10, 5]),
        "masks.counts": torch.tensor([-1383689344, 66519000], dtype=torch.int32),
        "masks.0": torch.tensor([], dtype=torch.int32),
        "masks.1": torch.tensor([2042138304, 322], dtype=torch.int32),
        "masks.2": torch.tensor([-415745544, 644], dtype=torch.int32),
        "masks.ones": torch.tensor([[0, 10], [5, 5], [4, 5]], dtype=torch.int16),
        "masks.checks": torch.tensor([1200624952, 4246577053, 4060305390]),
    }
    assert torch.equal(coding.decode(tensors, 3, 24), masks)


def test_without_the_coder_patterns_take_less_than_plain_bits(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    masks = alike(10, 50_000, 0.05)
    tensors = coding.encode(masks)
    assert size(tensors) * 8 < 1.5 * joint_entropy(masks) * 50_000 < 0.5 * masks.numel()
    assert torch.equal(coding.decode(tensors, 10, 50_000), masks)
    with pytest.raises(MissingExtra, match=r"constriction is needed; pip install -e '.\[coding\]'"):
        coding.encode(masks, "chain")


@needs_coder
def test_reading_a_chain_without_the_coder_says_what_to_install(monkeypatch):
    tensors = coding.encode(alike(3, 500, 0.1), "chain")
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(MissingExtra, match="pip install"):
        coding.decode(tensors, 3, 500)


def test_independent_masks_stay_plain():
    assert list(coding.encode(torch.rand(6, 4000, generator=torch.Generator().manual_seed(0)) < 0.5)) == [
        "masks"
    ]


def not_read(tensors, masks):
    """Whether reading fails with a clear error; if it does not, the masks must be right."""
    try:
        assert torch.equal(coding.decode(tensors, *masks.shape), masks)
    except MaskError as error:
        return "damaged" in str(error)
    return False


@pytest.mark.parametrize("name", ["patterns", pytest.param("chain", marks=needs_coder)])
def test_damage_is_noticed_or_does_no_harm(name):
    masks, noticed = alike(4, 900, 0.2), 0
    tensors = coding.encode(masks, name)
    for key, t in tensors.items():
        for place in {0, t.numel() // 2, t.numel() - 1} if t.numel() else ():
            broken = {**tensors, key: t.clone()}
            broken[key].view(-1)[place] ^= 5
            noticed += not_read(broken, masks)
        noticed += not_read({**tensors, key: t[: len(t) // 2]}, masks)
    assert noticed > 2 * len(tensors)


def test_an_unknown_coding_is_an_error():
    with pytest.raises(MaskError, match="no coding 'zip'; choose auto or one of chain, patterns, plain"):
        coding.encode(torch.ones(1, 8).bool(), "zip")


@pytest.fixture
def tickets():
    masks = alike(3, 1600, 0.1)
    net = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 2))
    return TicketModel(net, MaskSet.stacked(Layout(("0.weight",), ((40, 40),)), ["a", "b", "c"], masks))


def packed(tickets, name):
    private = {ticket: {} for ticket in tickets.names}
    return files.pack(tickets.backbone, tickets.masks, private, {}, None, name)


@every_coding
def test_ticket_files_hold_coded_masks(tickets, tmp_path, name):
    path = tmp_path / "t"
    tickets.save(path, coding=name)
    assert load(path, tickets.backbone).masks == tickets.masks


def test_files_of_the_first_format_are_read(tickets, tmp_path):
    tensors, header = files.pack(
        tickets.backbone, tickets.masks, {k: {} for k in tickets.names}, {}, None, "plain"
    )
    assert header["format"] == 1
    assert torch.equal(tensors["masks"], tickets.masks.pack())
    io.write(tmp_path / "old", tensors, header)
    assert load(tmp_path / "old", tickets.backbone).masks == tickets.masks


def test_damaged_masks_are_an_error(tmp_path, tickets):
    tensors, header = files.pack(
        tickets.backbone, tickets.masks, {k: {} for k in tickets.names}, {}, None, "patterns"
    )
    tensors["masks.patterns"][40] ^= 9
    io.write(tmp_path / "broken", tensors, header)
    with pytest.raises(TicketFileError, match="damaged"):
        load(tmp_path / "broken", tickets.backbone)


@pytest.mark.parametrize("size", [(4, 50_000, 100), (4, 400_000, 4), (9, 200_000, 100)])
def test_auto_takes_patterns_where_masks_have_some(size):
    K, N, each = size
    groups = torch.rand(K, N // each, generator=torch.Generator().manual_seed(0)) < 0.3
    masks = groups.repeat_interleave(each, 1)
    found = coding.encode(masks)
    assert [*found] == ["masks.patterns", "masks.checks"]
    assert torch.equal(coding.decode(found, K, N), masks)
