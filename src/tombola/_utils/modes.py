"""The training mode of a module, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Inside, a module is in training or evaluation mode; afterwards every part is in the mode it was in.

    >>> net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
    >>> with in_mode(net, training=True):
    ...     net[1].training
    True
    >>> [part.training for part in net]
    [True, False]
    """
    modes = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
