"""Groups that are split where their parts disagree, so that discovery may start from one group of all.

The parts of a group are proposed by 2-means of features and tested by their affinity. What proposes must not
test: means are fitted on one half of the training samples, and gradients are taken of the other half, which
belong to the nearest mean whatever their targets. Parts differ in what they ask for, and that is no
disagreement: 2-means of one tenant's digits finds the sevens, whose gradients are far from those of the
zeros. So parts are compared on as many samples of each label. Parts that hold the same mixture agree though
there is much to find in each, so a group stays whole only if neither its parts nor theirs disagree.

Shape letters: S samples of a split, D features.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tombola._utils.errors import UsageError
from tombola._utils.rng import generator
from tombola.analysis.affinity import BATCHES, affinity, quantiles
from tombola.data.dataset import SPLITS, Data
from tombola.data.partition import Partition
from tombola.data.partition.clusters import Features, Floats, feature_vectors
from tombola.objectives import Objective

Members = Mapping[str, Tensor]  # who belongs to one group, boolean ``[S]`` by split
FURTHER = 1  # how often parts that agree are parted again: two that hold the same mixture do agree


def split(
    backbone: nn.Module,
    objective: Objective,
    data: Data,
    coarse: Partition,
    features: Features,
    *,
    enough: float = 0.5,
    batches: int = BATCHES,
    seed: int = 0,
    **options: Any,
) -> Partition:
    """Each group in two, again and again, while the affinity of its parts is surely below ``enough`` and 1.

    The parts of a group called ``a`` are ``a.0`` and ``a.1``. A group stays whole where a part would have no
    sample in some split, or where its parts have too few samples of the same labels.

    Args:
        backbone: the dense network; it is not changed.
        objective: what tickets are to be trained by.
        data: targets are read of training samples alone.
        coarse: groups that may hold what disagrees.
        features: vectors ``[S, D]`` by which parts are proposed (`tombola.partition.by_clusters`).
        enough: parts of this affinity belong together though they differ by more than noise.
        batches: of each part.
        seed: of halves, means and orders.
        options: further ones of `tombola.affinity`.

    Raises:
        UsageError: the objective asks for the subset itself, so that parts ask for different things.

    >>> import tombola as tb
    >>> x, turned = torch.randn(1200, 8), torch.arange(1200) % 2
    >>> y = (x[:, 0] > 0).long() ^ turned  # every second sample is of a camera that answers the other way,
    >>> x[:, 7] += 9 * turned  # and is brighter
    >>> data = tb.Data.of(x, y)
    >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> all_of_it = tb.partition.by_rule(data, lambda split: {"all": split.y >= 0})
    >>> split(net, tb.objectives.Classification(), data, all_of_it, lambda split: split.x).names
    ('all.0', 'all.1')
    """
    if objective.context_is_answer:
        raise UsageError(
            f"{type(objective).__name__} asks for the subset itself, so that the parts of a group always "
            "disagree: give the groups, or an objective whose answer is another, such as Classification"
        )
    points = feature_vectors(features, data)

    def apart(parts: Sequence[Members], tested_S: Tensor, g: torch.Generator) -> bool:
        inside = {each: torch.stack([part[each] for part in parts], 1) for each in SPLITS}
        inside["train"] = alike(data.train.y, inside["train"] & tested_S[:, None], g)
        if int(inside["train"].sum(0).min()) < 2 * batches:
            return False
        of = Partition(("0", "1"), inside)
        found = affinity(backbone, objective, data, of, batches=batches, seed=seed, **options)
        return bool(quantiles(found.resampled()[:, 0, 1], 0.95)[1] < min(enough, 1.0))

    def parted(name: str, group: Members, further: int = FURTHER) -> dict[str, Members]:
        g = generator(seed, "split", name)
        proposed = propose(points, group, g)
        disagree = proposed is not None and apart(*proposed, g)
        if proposed is None or not (disagree or further):
            return {name: group}
        found: dict[str, Members] = {}
        for i, part in enumerate(proposed[0]):
            found |= parted(f"{name}.{i}", part, FURTHER if disagree else further - 1)
        return found if disagree or len(found) > 2 else {name: group}

    groups: dict[str, Members] = {}
    for k, name in enumerate(coarse.names):
        groups |= parted(name, {each: coarse.members[each][:, k] for each in SPLITS})
    members = {each: torch.stack([group[each] for group in groups.values()], 1) for each in SPLITS}
    return Partition(tuple(groups), members, coarse.made_of)


def propose(
    points: Mapping[str, Floats], group: Members, g: torch.Generator
) -> tuple[tuple[Members, Members], Tensor] | None:
    """Two parts by 2-means, and the training samples ``[S]`` that the means were not fitted on.

    None where a part has no sample in some split.
    """
    from sklearn.cluster import KMeans  # the package is read without: seconds

    own = group["train"].nonzero()[:, 0]
    fitted, tested = own[torch.randperm(len(own), generator=g)].tensor_split(2)
    if len(fitted) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer than two different points: one part is empty then
        means = KMeans(2, n_init=10, random_state=0).fit(points["train"][fitted.numpy()])
    number = {name: torch.from_numpy(means.predict(found)) for name, found in points.items()}
    parts = tuple({name: group[name] & (number[name] == i) for name in SPLITS} for i in (0, 1))
    if not all(part[name].any() for part in parts for name in SPLITS):
        return None
    return (parts[0], parts[1]), torch.zeros_like(group["train"]).index_fill(0, tested, True)


def alike(y: Tensor, parts_S2: Tensor, g: torch.Generator) -> Tensor:
    """The largest random selection of two parts with as many samples of each label, boolean ``[S, 2]``.

    It is empty where fewer than two labels are common, which leaves nothing to tell apart. Where targets are
    no labels, one each, it is all of both parts.

    >>> parts = torch.tensor([[1, 0], [1, 0], [0, 1], [1, 0], [0, 1], [0, 1]]).bool()
    >>> found = alike(torch.tensor([0, 0, 0, 1, 1, 2]), parts, torch.Generator())
    >>> found.sum(0).tolist(), found[3:].int().tolist()
    ([2, 2], [[1, 0], [0, 1], [0, 0]])
    """
    if y.ndim != 1 or y.is_floating_point():
        return parts_S2
    chosen, labels = torch.zeros_like(parts_S2), 0
    for label in y[parts_S2.any(1)].unique():
        each = [((y == label) & part).nonzero()[:, 0] for part in parts_S2.unbind(1)]
        count = min(map(len, each))
        labels += count > 0
        for i, numbers in enumerate(each):
            chosen[numbers[torch.randperm(len(numbers), generator=g)[:count]], i] = True
    return chosen if labels > 1 else torch.zeros_like(chosen)
