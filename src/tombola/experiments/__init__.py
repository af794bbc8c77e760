"""Experiments: data, backbone, objective and defaults, one file each."""

from tombola.errors import UsageError, unknown
from tombola.experiments.cifar10 import CIFAR10
from tombola.experiments.digits import DIGITS
from tombola.experiments.experiment import Experiment, Preset

EXPERIMENTS = {experiment.name: experiment for experiment in (DIGITS, CIFAR10)}


def experiment(name: str) -> Experiment:
    """An experiment by its name; an unknown one is an error that lists them."""
    if name not in EXPERIMENTS:
        raise UsageError(unknown("experiment", name, EXPERIMENTS))
    return EXPERIMENTS[name]


__all__ = ["EXPERIMENTS", "Experiment", "Preset", "experiment"]
