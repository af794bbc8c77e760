"""``tombola calibrate``: probabilities, thresholds and one answer from the tickets of finished runs."""

from __future__ import annotations

from pathlib import Path

from tombola._utils.errors import CalibrationError, UsageError
from tombola.cli.fitted_options import FittedOptions
from tombola.cli.terminal import say_aside
from tombola.lab.evaluation.loaded_run import LoadedRun
from tombola.lab.evaluation.precision import measure, scores, single_recall, within
from tombola.lab.evaluation.tables import Values, calibration_tables
from tombola.tickets.calibration import Calibration
from tombola.tickets.model import TicketModel


def calibrate(
    *paths: Path,
    scaling: str = "platt",
    coupling: str = "vector",
    target: str = "f1",
    miss: float = 0.0,
    options: FittedOptions = FittedOptions(),  # noqa: B008
) -> None:
    """Calibrate the tickets of finished runs on validation data, and compare all ways to read them.

    One-vs-rest tickets stand beside the single mask (imp), which is read in the same ways: at probability one
    half, after a shift of prior, at thresholds from validation data, and coupled into one answer.

    Example: tombola calibrate runs/cifar10-quick/seed0 --save calibrated

    Args:
        paths: Run directories, or folders that hold some; seeds of one experiment are averaged.
        scaling: Of the calibration that is saved: temperature, platt or isotonic.
        coupling: Of the calibration that is saved: argmax, calibrated, vector or matrix.
        target: What the saved thresholds are for: half, f1, f0.5, recall=0.8, precision=0.5.
        miss: Share of each class that the saved sets of answers may miss; 0 for no sets.
    """
    try:
        wished = Calibration(scaling, coupling, target, miss).options
    except CalibrationError as error:
        raise UsageError(str(error)) from None
    values: Values = []

    def check(loaded: LoadedRun) -> None:
        if wished != Calibration().options and loaded.objective.answer == "class":
            raise UsageError(
                f"{loaded.path}: classes within a context get a temperature, so --scaling, --coupling, "
                "--target and --miss do nothing there: leave them out"
            )
        if loaded.objective.answer not in ("class", "subset"):
            task = type(loaded.objective).__name__
            raise UsageError(f"{loaded.path}: {task} tickets give no probabilities")

    for loaded in options.runs(paths, "calibrate", check=check):
        for sparsity, tickets in options.tickets(loaded):
            found = _fitted(loaded, options.method, sparsity, tickets, Calibration(**wished))
            values += [{**options.head(loaded, sparsity), **row} for row in found]
            options.saved(loaded, tickets, sparsity)
            said = f"{loaded.path}: {options.method} at {sparsity:.0%} calibrated"
            say_aside(said)
    options.show(values, calibration_tables, "calibrate")


def _fitted(
    loaded: LoadedRun, method: str, sparsity: float, tickets: TicketModel, wished: Calibration
) -> Values:
    """Rows of the tickets, and of the single mask where the run has one; the calibration is set."""
    if loaded.objective.answer == "class":
        values, tickets.calibration = within(loaded, tickets)
        return values
    if len(tickets.names) != len(loaded.partition):
        raise UsageError(f"{method} has no ticket for each subset: there is nothing to couple")
    own, members = scores(loaded, tickets), loaded.partition.members
    wished.fit_scores(own["validation"], members["validation"], tickets.names)
    tickets.calibration = wished.bind(tickets)
    imp = loaded.tickets("imp", sparsity)
    if imp is None:
        return measure(own, members, single_recall(own["validation"], members["validation"]))
    theirs = scores(loaded, imp)
    recall = single_recall(theirs["validation"], members["validation"])
    of_imp = [{"method": "imp", **row} for row in measure(theirs, members, recall)]
    return measure(own, members, recall) + of_imp
