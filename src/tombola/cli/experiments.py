"""``tombola experiments``: what can be run."""

from __future__ import annotations

from tombola.cli.options import Flag
from tombola.cli.terminal import experiments_plain, print_experiments, print_json


def experiments(*, json: Flag = False) -> None:
    """List what can be run, with data and presets.

    Example: tombola experiments

    Parameters
    ----------
    json: bool
        For machines.
    """
    if json:
        print_json(experiments_plain())
    else:
        print_experiments()
