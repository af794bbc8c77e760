"""Objectives: what a ticket is trained and judged by."""

from tombola.objectives.classification import Classification
from tombola.objectives.enhancement import Enhancement
from tombola.objectives.in_subset import InSubset
from tombola.objectives.objective import Metric, Objective, Predict
from tombola.objectives.one_vs_rest import OneVsRest
from tombola.objectives.reconstruction import Reconstruction
from tombola.objectives.subset_softmax import SubsetSoftmax

__all__ = [
    "Classification",
    "Enhancement",
    "InSubset",
    "Metric",
    "Objective",
    "OneVsRest",
    "Predict",
    "Reconstruction",
    "SubsetSoftmax",
]
