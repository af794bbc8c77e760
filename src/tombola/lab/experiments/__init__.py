"""Experiments: data, backbone, objective and defaults, one file each."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tombola._utils.errors import UsageError, unknown
from tombola._utils.imported import imported
from tombola.lab.experiments.attributes import ATTRIBUTES
from tombola.lab.experiments.cifar10 import CIFAR10
from tombola.lab.experiments.cifar100 import CIFAR100, CIFAR100_SUPERCLASSES, CIFAR100_TEXT, CIFAR100_WITHIN
from tombola.lab.experiments.cifar100_tasks import CIFAR100_SPLIT, CIFAR100_SUPERCLASS
from tombola.lab.experiments.corruptions import CIFAR10_CORRUPTIONS, CORRUPTIONS
from tombola.lab.experiments.digits import DIGITS
from tombola.lab.experiments.experiment import Experiment, Finished, Preset
from tombola.lab.experiments.inr import INR, INR_SIREN
from tombola.lab.experiments.pacs import PACS, PACS64
from tombola.lab.experiments.pacs_pretrained import PACS_PRETRAINED, PACS_PRETRAINED_128, PACS_QUESTIONS
from tombola.lab.experiments.permuted_mnist import PERMUTED_MNIST
from tombola.lab.experiments.pretrained import Options, experiment_of
from tombola.lab.experiments.sentences import SENTENCES, SENTENCES_2, SENTENCES_8, SENTENCES_16
from tombola.lab.experiments.speech import SPEECH
from tombola.lab.experiments.tasks import TASKS_AT_ONCE
from tombola.lab.experiments.tenants import (
    TENANTS,
    TENANTS_25,
    TENANTS_50,
    TENANTS_75,
    TENANTS_AGREE,
    TENANTS_LABELS,
)
from tombola.lab.experiments.text_domains import TEXT_DOMAINS

_CIFAR100 = (CIFAR100, CIFAR100_WITHIN, CIFAR100_SUPERCLASSES, CIFAR100_TEXT)
_OTHERS = (INR, INR_SIREN, CORRUPTIONS, CIFAR10_CORRUPTIONS, PACS, PACS64, SPEECH)
_SENTENCES = (SENTENCES, SENTENCES_2, SENTENCES_8, SENTENCES_16)
_PRETRAINED = (*_SENTENCES, PACS_PRETRAINED, PACS_PRETRAINED_128, PACS_QUESTIONS, TEXT_DOMAINS)
_TENANTS = (TENANTS, TENANTS_LABELS, TENANTS_AGREE, TENANTS_25, TENANTS_50, TENANTS_75)
_TASKS = (PERMUTED_MNIST, TASKS_AT_ONCE, ATTRIBUTES, CIFAR100_SPLIT, CIFAR100_SUPERCLASS)
_ALL = (DIGITS, CIFAR10, *_CIFAR100, *_OTHERS, *_TENANTS, *_TASKS, *_PRETRAINED)
EXPERIMENTS = {one.name: one for one in _ALL}


def experiment(name: str, options: Mapping[str, Any] | None = None) -> Experiment:
    """An experiment by its name, one of the user's own by ``MODULE:NAME``, or one that is made of options
    (`tombola.lab.experiments.pretrained`).

    Raises:
        UsageError: there is none of that name; the message lists those of Tombola.
    """
    if options is not None:
        return experiment_of(name, Options.from_plain(dict(options)))
    if ":" in name:
        found = imported(name, "the experiment")
        if not isinstance(found, Experiment):
            raise UsageError(f"{name} is {type(found).__name__}, not a tombola.experiments.Experiment")
        return replace(found, name=name)
    if name not in EXPERIMENTS:
        raise UsageError(unknown("experiment", name, EXPERIMENTS))
    return EXPERIMENTS[name]


__all__ = ["EXPERIMENTS", "Experiment", "Finished", "Preset", "experiment"]
