"""Tenants of one network that disagree by as much as is asked for: pixels or labels in orders of their own.

Every tenant has all images, with the pixels in an order of its own (the permuted tasks of Goodfellow et al.,
arXiv 1312.6211), with labels that mean something else to it, or both. The share of the pixels or labels that
are shuffled is the strength: at 0 all tenants have the same data, at 1 each has everything in its own order.
Test images are test images of every tenant.

Shape letters: S samples of a split, K tenants, P pixels, C classes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tombola._utils.errors import UsageError
from tombola._utils.rng import generator
from tombola.data.dataset import Data, Split
from tombola.data.partition import by_column
from tombola.lab.experiments import digits
from tombola.lab.experiments.experiment import Experiment, Preset, preset_settings
from tombola.lab.models.mlp import MLP
from tombola.objectives import Classification

HEADS = ("classifier.*",)  # an output layer for every ticket


def order_of(tenant: int, size: int, share: float, seed: int, what: str) -> Tensor:
    """The order ``[size]`` in which a tenant has its pixels or labels, a function of these arguments alone.

    The places that are shuffled are the same for all tenants, and those of a smaller share are among those of
    a larger one.

    >>> order_of(0, 6, 0.0, 0, "pixels").tolist()
    [0, 1, 2, 3, 4, 5]
    >>> sorted(order_of(0, 6, 1.0, 0, "pixels").tolist())
    [0, 1, 2, 3, 4, 5]
    """
    places = torch.randperm(size, generator=generator(seed, what, "places"))[: round(share * size)]
    order = torch.arange(size)
    order[places] = places[torch.randperm(len(places), generator=generator(seed, what, tenant))]
    return order


def in_orders(split: Split, K: int, pixels: float, labels: float, classes: int = 10, seed: int = 0) -> Split:
    """Every sample once for each of K tenants, in its orders, with a column ``tenant``.

    Args:
        split: inputs ``[S, P]`` and classes ``[S]``.
        K: tenants.
        pixels: share of the pixels that every tenant has in an order of its own.
        labels: share of the labels likewise.
        classes: labels that there are, C.
        seed: of the orders.
    """
    orders_KP = torch.stack([order_of(k, split.x.shape[1], pixels, seed, "pixels") for k in range(K)])
    labels_KC = torch.stack([order_of(k, classes, labels, seed, "labels") for k in range(K)])
    # The tenants of one sample side by side, so that no half of a split is without one of them.
    x, y = split.x[:, orders_KP].flatten(0, 1), labels_KC[:, split.y].T.flatten()
    return Split(x, y, {"tenant": np.tile(np.arange(K), len(split))})


def load(source: str | None, augment: bool, K: int, pixels: float, labels: float, seed: int) -> Data:
    """The digits as vectors of 64 pixels, split as in `digits`, then given to every tenant."""
    if source is not None:
        raise UsageError("tenants takes no --data: its digits ship with scikit-learn; see permuted_mnist")
    data = digits.load(None, augment)

    def part(split: Split) -> Split:
        return in_orders(replace(split, x=split.x.flatten(1)), K, pixels, labels, seed=seed)

    return Data(part(data.train), part(data.validation), part(data.test))


def one_more(k: int = 10) -> Data:
    """The data of tenant k alone, of one who comes after the ten: ``tombola grow --data MODULE:one_more``.

    >>> one_more()
    Data(train=1078, validation=270, test=449 samples, x=float32[64], y=int64[])
    """
    whole = load(None, False, k + 1, 1.0, 0.0, 0)

    def own(split: Split) -> Split:
        return split.take(torch.from_numpy(split.columns["tenant"] == k).nonzero()[:, 0])

    return Data(own(whole.train), own(whole.validation), own(whole.test))


def tenants(
    K: int = 10,
    pixels: float = 1.0,
    labels: float = 0.0,
    *,
    heads: bool = True,
    seed: int = 0,
    name: str = "tenants",
) -> Experiment:
    """An experiment with K tenants that disagree by so much.

    Args:
        K: tenants.
        pixels: share of the pixels that every tenant has in an order of its own.
        labels: share of the labels that mean another digit to every tenant.
        heads: whether every ticket has an output layer of its own; without, labels disagree there too.
        seed: of the orders.
        name: of the experiment.

    Raises:
        UsageError: less than two tenants, or a share that is none.

    >>> half = tenants(K=4, pixels=0.5)
    >>> half.partition(half.load(None, False)).names
    ('tenant 0', 'tenant 1', 'tenant 2', 'tenant 3')
    """
    if K < 2:
        raise UsageError(f"K is a number of tenants, from 2 on: got {K}")
    for what, share in (("pixels", pixels), ("labels", labels)):
        if not 0 <= share <= 1:
            raise UsageError(f"{what} is the share of them that is shuffled, from 0 to 1: got {share}")
    private = HEADS if heads else ()
    return Experiment(
        name=name,
        summary=(
            f"digits with {pixels:.0%} of the pixels and {labels:.0%} of the labels in an order of each "
            f"tenant's own (K = {K}), MLP, {'an output layer each' if heads else 'one output layer'}"
        ),
        data="1,797 images of 8×8, inside scikit-learn",
        load=partial(load, K=K, pixels=pixels, labels=labels, seed=seed),
        backbone=partial(MLP, (64, 64, 64, 10)),  # 8,192 prunable weights
        partition=partial(by_column, column="tenant", names=[f"tenant {k}" for k in range(K)]),
        objective=Classification(),
        presets={
            "quick": Preset(replace(QUICK, private=private), "all methods and controls in a few minutes"),
            "best": Preset(replace(BEST, private=private), "twice the training of quick"),
        },
    )


SPARSITIES = (0.5, 0.8, 0.95)
QUICK = preset_settings(2e-3, 2e-3, 32, sparsity=SPARSITIES, schedule="fraction:0.4", T=60, steps=200)
BEST = replace(QUICK, T=100, steps=500)

TENANTS = tenants()
TENANTS_LABELS = tenants(5, 0.0, 1.0, heads=False, name="tenants_labels")
# The same at other strengths, from tenants that agree on.
TENANTS_AGREE = tenants(pixels=0.0, name="tenants_agree")
TENANTS_25, TENANTS_50, TENANTS_75 = (
    tenants(pixels=share / 100, name=f"tenants_{share}") for share in (25, 50, 75)
)
