"""Experiments: data, backbone, objective and defaults, one file each."""

from tombola.errors import UsageError, unknown
from tombola.experiments.cifar10 import CIFAR10
from tombola.experiments.cifar100 import CIFAR100, CIFAR100_SUPERCLASSES, CIFAR100_TEXT, CIFAR100_WITHIN
from tombola.experiments.corruptions import CIFAR10_CORRUPTIONS, CORRUPTIONS
from tombola.experiments.digits import DIGITS
from tombola.experiments.experiment import Experiment, Finished, Preset
from tombola.experiments.inr import INR, INR_SIREN
from tombola.experiments.pacs import PACS, PACS64
from tombola.experiments.speech import SPEECH

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        DIGITS,
        CIFAR10,
        CIFAR100,
        CIFAR100_WITHIN,
        CIFAR100_SUPERCLASSES,
        CIFAR100_TEXT,
        INR,
        INR_SIREN,
        CORRUPTIONS,
        CIFAR10_CORRUPTIONS,
        PACS,
        PACS64,
        SPEECH,
    )
}


def experiment(name: str) -> Experiment:
    """An experiment by its name; an unknown one is an error that lists them."""
    if name not in EXPERIMENTS:
        raise UsageError(unknown("experiment", name, EXPERIMENTS))
    return EXPERIMENTS[name]


__all__ = ["EXPERIMENTS", "Experiment", "Finished", "Preset", "experiment"]
