"""Groups that move to the ticket that answers them best, with no more than a share of the samples for each.

The step that alternates with training: tickets of a partition are judged on validation data of every fine
group, each group goes where it loses least, and the next search is of that partition. So k-means assigns,
with networks in place of means; Ghosh et al. cluster the users of federated learning that way (IFCA, arXiv
2006.04088). Without a bound the best ticket may take all groups, which is one mask again.

Shape letters: G groups, K tickets, S samples of a split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tombola._utils.device import device_of
from tombola._utils.errors import UsageError
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.objectives import Objective
from tombola.tickets.model import TicketModel
from tombola.training.checks import check_kinds

ROWS = 500  # samples that go through a network at once
SECONDS, GAP = 20, 1e-3  # an assignment that near to the best one is good enough


def reassign(
    tickets: TicketModel, objective: Objective, data: Data, fine: Partition, *, most: float = 1.0
) -> Partition:
    """The partition, named by tickets, in which every fine group has the ticket that suits it best.

    Where tickets have a router, that is the one which it gives most of the group's validation samples, for it
    will answer them; without, the one with the lowest loss on them, among all classes.

    Args:
        tickets: trained ones.
        objective: what they are trained by.
        data: its validation samples are judged.
        fine: groups that stay together.
        most: the largest share of the training samples that a ticket may have. Under it the sum over samples
            is the best there is; every ticket keeps a group at least.

    Raises:
        UsageError: the objective asks for the subset itself, or no assignment keeps to the share.

    >>> import tombola as tb
    >>> x, camera = torch.randn(1200, 8), torch.arange(1200) % 4
    >>> y = (x[:, 0] > 0).long() ^ (camera > 1).long()
    >>> data = tb.Data.of(x, y, {"camera": camera})
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    >>> fine = tb.partition.by_column(data, "camera")
    >>> wrong = fine.merged({"a": [0, 1, 2], "b": [3]})  # the third agrees with the fourth
    >>> tickets = tb.rtl(net, tb.objectives.Classification(), data, wrong, sparsity=0.5, T=50, steps=100)
    >>> reassign(tickets, tb.objectives.Classification(), data, fine).sizes("train")["b"] > 400
    True
    """
    check_kinds(tickets.backbone, objective, data, fine, 0)
    if objective.context_is_answer:
        raise UsageError(
            f"{type(objective).__name__} asks for the subset itself, so tickets cannot be asked about groups "
            "of others: give an objective whose answer is another, such as Classification"
        )
    theirs = tickets.metadata.get("objective")
    if theirs not in (None, type(objective).__name__):
        raise UsageError(f"the tickets were found with {theirs}: got {type(objective).__name__}")
    if len(fine) < len(tickets):
        raise UsageError(f"{len(tickets)} tickets need as many groups at least: got {len(fine)}")
    if tickets.router is None:
        cost_GK = _losses(tickets, objective, data, fine)
    else:
        cost_GK = _elsewhere(tickets, data, fine)
    sizes = list(fine.sizes("train").values())
    groups = assign(cost_GK, sizes, most)
    return fine.merged(dict(zip(tickets.names, groups, strict=True)))


def assign(cost_GK: Tensor, sizes: Sequence[int], most: float) -> list[list[int]]:
    """Numbers of the groups of each of K places at the least cost, summed over samples.

    No place has more than this share of all samples, and none is empty.

    >>> assign(torch.tensor([[0.0, 1.0], [0.1, 1.0], [0.4, 1.0]]), [10, 10, 10], 0.7)
    [[0, 1], [2]]

    Raises:
        UsageError: there is no such assignment.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # a second to import
    from scipy.sparse import eye_array, kron

    G, K = cost_GK.shape
    size_G = np.asarray(sizes, dtype=float)
    groups, places = kron(eye_array(G), np.ones((1, K))), kron(np.ones((1, G)), eye_array(K))
    loads = kron(size_G[None] / size_G.sum(), eye_array(K))
    found = milp(
        (cost_GK.double().numpy() * size_G[:, None]).ravel() / size_G.sum(),
        integrality=np.ones(G * K),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(groups, 1, 1),  # each group has one place,
            LinearConstraint(places, 1, np.inf),  # each place a group,
            LinearConstraint(loads, 0, most + 1e-9),
        ],
        options={"time_limit": SECONDS, "mip_rel_gap": GAP},
    )
    if found.x is None:
        raise UsageError(
            f"{G} groups cannot be shared out so that each of {K} has one, and none more than {most:.0%} of "
            f"the samples (the largest group has {size_G.max() / size_G.sum():.0%}): raise most"
        )
    place_G = found.x.reshape(G, K).argmax(1)
    return [np.flatnonzero(place_G == k).tolist() for k in range(K)]


@torch.no_grad()
def _losses(tickets: TicketModel, objective: Objective, data: Data, fine: Partition) -> Tensor:
    """The mean loss of every ticket on validation samples of every group, ``[G, K]``."""
    objective, device = objective.of(data, fine.whole()), device_of(tickets)
    held = replace(data, train=data.validation)  # objectives give targets of training samples
    found = torch.zeros(len(fine), len(tickets))
    for k, name in enumerate(tickets.names):
        network = tickets.bake(name).eval()
        for g, members_S in enumerate(fine.members["validation"].unbind(1)):
            batches = members_S.nonzero()[:, 0].split(ROWS)
            for x, numbers in zip(data.batches("validation", batches, device), batches, strict=True):
                y = objective.targets(held, fine.whole(), numbers, 0).to(device)
                found[g, k] += float(objective.loss_of(network, x, y, 0)) * len(numbers)
    return found / fine.members["validation"].sum(0)[:, None]


def _elsewhere(tickets: TicketModel, data: Data, fine: Partition) -> Tensor:
    """The share of each group's validation samples that the router does not give to a ticket, ``[G, K]``."""
    device, rows = device_of(tickets), []
    for members_S in fine.members["validation"].unbind(1):
        batches = data.batches("validation", members_S.nonzero()[:, 0].split(ROWS), device)
        chosen = torch.cat([tickets.route(x).index_B.cpu() for x in batches])
        rows.append(1 - torch.bincount(chosen, minlength=len(tickets)) / len(chosen))
    return torch.stack(rows)
