"""Objectives: what a ticket is trained and judged by."""

from tombola.objectives.classification import Classification
from tombola.objectives.objective import Metric, Objective, Predict
from tombola.objectives.one_vs_rest import OneVsRest
from tombola.objectives.subset_softmax import SubsetSoftmax

__all__ = ["Classification", "Metric", "Objective", "OneVsRest", "Predict", "SubsetSoftmax"]
