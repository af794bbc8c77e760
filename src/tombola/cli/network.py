"""The network of a ticket file: by `--backbone`, or by the experiment that the file or its run names."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tombola._utils import io
from tombola._utils.errors import UsageError
from tombola._utils.imported import imported
from tombola.lab.experiments import EXPERIMENTS, experiment
from tombola.masks.reference import original
from tombola.runs.log import read_config
from tombola.tickets.files import architecture
from tombola.training.pretrained import again


def network(file: Path, metadata: Mapping[str, Any], given: str | None, otherwise: str = "") -> nn.Module:
    """The backbone of a ticket file, with whatever weights.

    Args:
        file: the ticket file; one in the folder of a run is that run's.
        metadata: those of the file.
        given: ``MODULE:NAME`` of a network, or of a function that makes one; or an experiment that ships; or
            where the pretrained network of the file lies by now.
        otherwise: what else the user could do, for the message.

    Raises:
        UsageError: it is not known which network it is, or the named one is none.
    """
    if known := metadata.get("pretrained", {}):
        moved = given is not None and (":" not in given or Path(given).exists())
        if given is None or moved:
            return again(known, given)
    if given in EXPERIMENTS:
        return experiment(given).backbone(torch.Generator())
    if given is not None:
        return _named(given)
    run = file.resolve().parent.parent
    name = metadata.get("experiment")
    if not name and (run / "config.yaml").is_file():
        name = read_config(run).get("experiment")
    if not name:
        raise UsageError(
            f"{file} does not say which network its tickets belong to: give {_known_by(file)}{otherwise}"
        )
    return experiment(name).backbone(torch.Generator())


def _known_by(file: Path) -> str:
    """What to give as the network of a file, by the layers that it has."""
    header = io.read_metadata(file)
    layers, facts = header.get("architecture", {}), header.get("facts", {})
    if facts.get("reference") or facts.get("adapters"):
        layers = _given(layers)
    for name, known in EXPERIMENTS.items():
        with suppress(Exception):  # of networks that have to be downloaded first
            if architecture(known.backbone(torch.Generator())) == layers:
                return f"--backbone {name}, the experiment whose network has the same layers"
    kinds = [f"{n.removeprefix('module ')}: {kind}" for n, kind in layers.items() if n.startswith("module ")]
    shown = "; ".join(kinds[1:4]) + (", ..." if len(kinds) > 4 else "")
    return f"--backbone MODULE:NAME, what makes a network of these layers ({shown})"


def _given(layers: Mapping[str, str]) -> dict[str, str]:
    """An architecture as its maker knows it: without the parametrisations of a reference and of adapters.

    >>> _given({"module 0": "ParametrizedLinear(2)", "tensor 0.parametrizations.weight.original": "[2]",
    ...         "module 0.parametrizations": "ModuleDict()", "tensor 0.parametrizations.weight.0.up": "[1]"})
    {'module 0': 'Linear(2)', 'tensor 0.weight': '[2]'}
    """
    own = {n: kind for n, kind in layers.items() if "parametrizations" not in n or n.endswith(".original")}
    return {original(n): kind.removeprefix("Parametrized") for n, kind in own.items()}


def _named(given: str) -> nn.Module:
    found = imported(given, "--backbone")
    if isinstance(found, nn.Module):
        return found
    try:
        made = found()
    except TypeError as error:
        raise UsageError(f"--backbone {given}: {error}; write MODULE:FUNCTION, called with nothing") from None
    except Exception as error:  # the user's own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"--backbone {given} raises {type(error).__name__} ({reason})") from None
    if not isinstance(made, nn.Module):
        raise UsageError(f"--backbone {given} gives {type(made).__name__}, not a torch.nn.Module")
    return made
