"""What several networks answer to a split, asked once, and judged for as many assignments as are wished.

Shape letters: S samples of a split, K networks, C classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from tombola.data.dataset import Data
from tombola.methods.pipeline import predict
from tombola.objectives.classification import mask_logits
from tombola.tickets.routing import Routed, mixed

IN_MEMORY = 2**28  # bytes; what is larger (spectrograms) lies in a temporary file
LARGE = 2**14  # numbers in one answer; such inputs go through the network in small batches


@dataclass(frozen=True)
class Answers:
    """Outputs of K networks on all samples of the test split, ``[K, S, ...]``.

    ``classes_KC``: which classes network k may answer with; None for all.
    """

    outputs_KS: Tensor
    classes_KC: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def of(cls, networks: Sequence[nn.Module], data: Data, classes_KC: Tensor | None = None) -> Self:
        """Ask each network for every sample of the test split."""
        S = len(data.test)
        one = predict(networks[0], data, "test", torch.arange(1))
        kept = _space((len(networks), S, *one.shape[1:]), one.dtype)
        for row, network in zip(kept, networks, strict=True):
            for index in torch.arange(S).split(16 if one[0].numel() > LARGE else 500):
                row[index] = predict(network, data, "test", index)
        return cls(kept, classes_KC)

    def chosen(self, answering_S: Tensor, samples: Tensor) -> Tensor:
        """Answers to these samples ``[B, ...]``, sample i by network ``answering_S[i]``."""
        who = answering_S[samples]
        found = self.outputs_KS[who, samples]
        return found if self.classes_KC is None else mask_logits(found, self.classes_KC[who])

    def mixed(self, routed: Routed, samples: Tensor) -> Tensor:
        """Answers to these samples by the two likeliest tickets, weighed (`tombola.routing.mixed`)."""
        number = {name: k for k, name in enumerate(routed.tickets)}
        part = Routed(routed.tickets, routed.scores_BK[samples], routed.familiarity_B[samples], routed.kind)
        likeliest = part.likeliest(2)
        who = [torch.tensor([number[name] for name in names]) for names, _ in likeliest]
        outputs = [self.outputs_KS[k, samples] for k in who]
        classes = [None if self.classes_KC is None else self.classes_KC[k] for k in who]
        found: Tensor = mixed(outputs, [share_B for _, share_B in likeliest], classes)
        return found


def _space(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Room for a tensor: memory, or a file without a name that goes when the tensor does."""
    if prod(shape) * dtype.itemsize <= IN_MEMORY:
        return torch.empty(shape, dtype=dtype)
    kept = torch.empty(0, dtype=dtype).numpy().dtype
    with tempfile.TemporaryFile() as file:  # the mapping outlives the name and the handle
        return torch.from_numpy(np.memmap(file, kept, "w+", shape=shape))
