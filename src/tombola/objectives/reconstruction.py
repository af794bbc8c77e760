"""Reconstruction: a picture as a function, each region of it represented by its own ticket."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola._utils.errors import DataError
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.objectives.objective import InSubset, Metric, Predict, check_shapes, mean_and_each

LEAST = 1e-10  # of a mean squared error: what is exact would be infinite decibels, and is 100


class Reconstruction(InSubset):
    """Mean squared error against targets from 0 to 1: `Regression` on a scale that is known, in decibels.

    Metrics, in decibels, outputs clamped to 0..1, which is all that a picture can show:
    ``psnr`` of all test samples, each as its own subset's ticket has it (a sample of two subsets counts
    in both); ``psnr`` per ticket, over its subset; ``psnr_region``, the mean of those, in which a small
    region counts as much as a large one; and ``psnr_floor``, the ``psnr`` of the mean target of each
    subset's training samples, which K·C numbers give without any network.
    """

    def targets(self, data: Data, partition: Partition, index: Tensor, k: int) -> Tensor:  # noqa: ARG002
        """The values, float ``[B, C]``."""
        y = data.train.y[index]
        if not y.is_floating_point() or float(y.min()) < 0 or float(y.max()) > 1:
            raise DataError(
                "Reconstruction needs float targets from 0 to 1: divide bytes by 255; Regression takes "
                "numbers of any unit"
            )
        return y

    def loss(self, outputs: Tensor, targets: Tensor, k: int, inputs: Tensor) -> Tensor:  # noqa: ARG002
        """Mean squared error."""
        check_shapes(outputs, targets, "as many values per sample are needed")
        return F.mse_loss(outputs, targets)

    def evaluate(self, predict: Predict, data: Data, partition: Partition) -> list[Metric]:
        """PSNR over everything, per ticket, their mean, and the floor."""
        judged = self.original or partition
        each, errors, floors = {}, [], []
        for k, name, index, outputs in self.by_subset(predict, partition):
            truth = data.test.y[index]
            errors.append(squared(outputs.clamp(0, 1), truth))
            each[name] = psnr(errors[-1])
            mean = data.train.y[judged.members["train"][:, k]].mean(0)
            floors.append(squared(mean.expand_as(truth), truth))
        regions, *per_ticket = mean_and_each("psnr", each)
        return [
            Metric("psnr", psnr(torch.cat(errors))),
            *per_ticket,
            Metric("psnr_region", regions.value),
            Metric("psnr_floor", psnr(torch.cat(floors))),
        ]


def squared(outputs: Tensor, truth: Tensor) -> Tensor:
    """Squared errors in double precision, flat."""
    return (outputs.double() - truth.double()).square().flatten()


def psnr(squared_errors: Tensor) -> float:
    """Peak signal-to-noise ratio ``-10 log10(MSE)`` of values from 0 to 1; 100 dB where nothing is wrong.

    >>> round(psnr(torch.full((4,), 0.01)), 6)
    20.0
    """
    return -10 * math.log10(max(float(squared_errors.mean()), LEAST))
