"""Permuted MNIST in the field's form: ten tasks, each all of MNIST with the pixels in an order of its own.

The network, 784-100-100-10 with an output layer per task, is that of Kang et al. (WSN, ICML 2022) and their
rivals; there tasks come one after another, here all at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from tombola._utils.errors import UsageError
from tombola.data.dataset import Data, Split
from tombola.data.partition import by_column
from tombola.lab.experiments import digits
from tombola.lab.experiments.experiment import Experiment, Preset, preset_settings
from tombola.lab.experiments.images import decode, list_images, set_aside
from tombola.lab.experiments.tenants import HEADS, SPARSITIES, in_orders
from tombola.lab.models.mlp import MLP
from tombola.objectives import Classification

K, SIDE = 10, 28
VALIDATION = 5_000
STAND_IN = "digits-not-mnist"


def prepare(x: Tensor) -> Tensor:
    """uint8 to float with mean 0 and deviation 1, the published ones of MNIST's pixels."""
    return (x.float() / 255 - 0.1307) / 0.3081


def load(source: str | None, augment: bool) -> Data | Mapping[str, Data]:
    """MNIST, ``x`` uint8 ``[10 S, 784]``: every image in ten orders, told apart by the column ``tenant``.

    Without a source the digits of scikit-learn stand in, as an item that is called so.
    """
    if augment:
        raise UsageError("permuted_mnist has no augmentation: a flipped digit is another sign")
    if source is None:
        x, y = digits.large_images(side=SIDE)
        return {STAND_IN: permuted(Data.of(x, y, **digits.SHARES))}
    rest, test = list_images(source, digits.NAMES, "label")
    return permuted(Data(*decode(SIDE, *set_aside(rest, VALIDATION, source, "mnist"), test)))


def permuted(data: Data) -> Data:
    """The first channel of images as vectors, in ten orders."""

    def part(split: Split) -> Split:
        return in_orders(replace(split, x=split.x[:, 0].flatten(1)), K, pixels=1.0, labels=0.0)

    return Data(part(data.train), part(data.validation), part(data.test), prepare)


QUICK = preset_settings(
    1e-3, 1e-3, 100, sparsity=SPARSITIES, schedule="fraction:0.4", T=100, steps=300, private=HEADS
)

PERMUTED_MNIST = Experiment(
    name="permuted_mnist",
    summary=f"MNIST in {K} orders of the pixels, one ticket per order (K = {K}), MLP, an output layer each",
    data=(
        "70,000 images of 28×28: --data FOLDER (Parquet, or train/CLASS/*.png); "
        f"without --data scikit-learn's digits stand in, as the item {STAND_IN}"
    ),
    load=load,
    backbone=partial(MLP, (SIDE * SIDE, 100, 100, 10)),  # 88,400 prunable weights
    partition=partial(by_column, column="tenant", names=[f"order {k}" for k in range(K)]),
    objective=Classification(),
    presets={
        "quick": Preset(QUICK, "half an epoch a task and sparsity; all methods in ten minutes"),
        "best": Preset(replace(QUICK, T=300, steps=2000), "six times the training of quick"),
    },
    stand_in="digits",
)
