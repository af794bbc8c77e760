"""Objectives: what a ticket is trained and judged by, one file each."""

from tombola.objectives.classification import Classification
from tombola.objectives.custom import Custom
from tombola.objectives.enhancement import Enhancement
from tombola.objectives.language import NextToken
from tombola.objectives.metrics import METRICS, SHIPPED, MetricInfo, register_metric
from tombola.objectives.multilabel import MultiLabel
from tombola.objectives.objective import InSubset, Metric, Objective, Predict
from tombola.objectives.one_vs_rest import OneVsRest, SubsetSoftmax
from tombola.objectives.reconstruction import Reconstruction
from tombola.objectives.regression import Regression

SHIPPED.update(METRICS)

__all__ = [
    "Classification",
    "Custom",
    "Enhancement",
    "InSubset",
    "Metric",
    "MetricInfo",
    "MultiLabel",
    "NextToken",
    "Objective",
    "OneVsRest",
    "Predict",
    "Reconstruction",
    "Regression",
    "SubsetSoftmax",
    "register_metric",
]
