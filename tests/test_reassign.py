"""Groups that move to the tickets that suit them, and shares that none exceeds."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tombola as tb
from tests.test_affinity import CONFIG, network, planted, world
from tombola.analysis.discover import balanced, merge
from tombola.analysis.reassign import assign

TURNED = (False, True, False, True)


@given(st.integers(0, 1000), st.sampled_from([0.5, 0.6, 1.0]))
@settings(max_examples=20, deadline=None)
def test_an_assignment_is_the_best_of_all_that_keep_to_the_share(seed, most):
    g = torch.Generator().manual_seed(seed)
    cost, sizes = torch.rand(5, 2, generator=g), torch.randint(1, 9, (5,), generator=g)
    allowed = {}
    for places in product((0, 1), repeat=5):
        loads = torch.zeros(2).index_add(0, torch.tensor(places), sizes.float())
        if 0 < sum(places) < 5 and float(loads.max() / sizes.sum()) <= most + 1e-6:
            allowed[places] = float((cost[range(5), list(places)] * sizes).sum())
    if not allowed:
        with pytest.raises(tb.TombolaError, match="raise most"):
            assign(cost, sizes.tolist(), most)
        return
    found = assign(cost, sizes.tolist(), most)
    places = tuple(int(g in found[1]) for g in range(5))
    assert allowed[places] <= min(allowed.values()) * 1.002


def trained(groups: dict[str, list[int]]) -> tuple[tb.TicketModel, tb.Data, tb.partition.Partition]:
    data, fine = world(TURNED, 2400)
    options = {"T": 30, "steps": 60, "search": CONFIG, "train": CONFIG}
    partition = fine.merged(groups)
    return (
        tb.rtl(network(), tb.objectives.Classification(), data, partition, sparsity=0.3, **options),
        data,
        fine,
    )


def test_a_group_of_the_wrong_ticket_moves_by_held_out_loss_where_there_is_room():
    tickets, data, fine = trained({"a": [0], "b": [1, 3]})  # the third group was left out
    found = tb.reassign(tickets, tb.objectives.Classification(), data, fine)
    assert found.names == ("a", "b")
    assert torch.equal(found.members["test"][:, 0], fine.members["test"][:, [0, 2]].any(1))
    full = tb.reassign(tickets, tb.objectives.Classification(), data, fine, most=0.6)
    assert max(full.sizes().values()) <= 0.6 * len(data.train)
    with pytest.raises(tb.TombolaError, match="raise most"):
        tb.reassign(tickets, tb.objectives.Classification(), data, fine, most=0.3)


def test_where_there_is_a_router_a_group_goes_where_it_is_sent():
    tickets, data, fine = trained({"a": [0], "b": [1, 3]})
    for part in (data.train, data.validation, data.test):  # inputs of the third group look like the second's
        part.x[:, 7] += 20 * torch.tensor([0.0, 1.0, 1.0, 1.0])[torch.from_numpy(part.columns["context"])]
    known = fine.merged({"a": [0], "b": [1, 3]})
    tickets.router = tb.routing.PrototypeRouter().fit(tickets, data, known)
    found = tb.reassign(tickets, tb.objectives.Classification(), data, fine)
    assert torch.equal(found.members["test"][:, 0], fine.members["test"][:, 0])


def test_what_cannot_be_reassigned_is_refused():
    tickets, data, fine = trained({"a": [0], "b": [1, 3]})
    with pytest.raises(tb.TombolaError, match="asks for the subset itself"):
        tb.reassign(tickets, tb.objectives.OneVsRest(), data, fine)
    with pytest.raises(tb.TombolaError, match="2 tickets need as many groups"):
        tb.reassign(tickets, tb.objectives.Classification(), data, fine.whole())
    with pytest.raises(tb.TombolaError, match="found with Classification: got Regression"):
        tb.reassign(tickets, tb.objectives.Regression(), data, fine)
    with pytest.raises(tb.TombolaError, match="partition"):
        tb.reassign(tickets, tb.objectives.Classification(), data, None)


def test_subsets_that_merging_makes_too_large_are_shared_out_by_agreement():
    truth = torch.zeros(8, 20)
    truth[:, 0], truth[:6, 1], truth[6:, 2] = 1.0, 0.5, 0.5  # six agree, two are a little apart
    found = planted(8, truth, 8, 0.01, 0)
    assert sorted(map(len, merge(found, 2))) == [2, 6]
    groups = balanced(found, merge(found, 2), [10] * 8, 0.5)
    assert sorted(map(len, groups)) == [4, 4]
    assert any({6, 7} <= set(group) for group in groups)
