"""``tombola calibrate``: probabilities, thresholds and one answer from the tickets of finished runs."""

from __future__ import annotations

import sys
from pathlib import Path

from tombola._utils.errors import CalibrationError, UsageError
from tombola.cli.options import Flag, Numbers, apart
from tombola.cli.terminal import err_console, runs_of, show_rows
from tombola.lab.evaluation.precision import measure, scores, single_recall, within
from tombola.lab.evaluation.precision_tables import tables
from tombola.lab.evaluation.summary import over_seeds
from tombola.lab.evaluation.world import LoadedRun, open_run
from tombola.lab.report.page import made_by
from tombola.lab.report.rows import Row
from tombola.objectives import Classification, OneVsRest
from tombola.tickets.calibration import Calibration
from tombola.tickets.model import TicketModel


def calibrate(
    *paths: Path,
    method: str = "rtl",
    scaling: str = "platt",
    coupling: str = "vector",
    target: str = "f1",
    miss: float = 0.0,
    sparsity: Numbers = (),
    data: str | None = None,
    save: Path | None = None,
    keep: Path | None = None,
    write: Path | None = None,
    json: Flag = False,
) -> None:
    """Calibrate the tickets of finished runs on validation data, and compare all ways to read them.

    One-vs-rest tickets stand beside the single mask (imp), which is read in the same ways: at probability one
    half, after a shift of prior, at thresholds from validation data, and coupled into one answer.

    Example: tombola calibrate runs/cifar10-quick/seed0 --save calibrated

    Parameters
    ----------
    paths: Path
        Run directories, or folders that hold some; seeds of one experiment are averaged.
    method: str
        Whose tickets.
    scaling: str
        Of the calibration that is saved: temperature, platt or isotonic.
    coupling: str
        Of the calibration that is saved: argmax, calibrated, vector or matrix.
    target: str
        What the saved thresholds are for: half, f1, f0.5, recall=0.8, precision=0.5.
    miss: float
        Share of each class that the saved sets of answers may miss; 0 for no sets.
    sparsity: tuple[float, ...]
        At which sparsities; all that the runs have by default.
    data: str
        Where the data of the runs are, if they have moved.
    save: Path
        A folder for copies of the ticket files with the calibration in them; the runs stay as they are.
    keep: Path
        A file precision.json for `tombola report`, which looks for it in a run and above.
    write: Path
        A Markdown page to put the tables into, with a JSON twin beside it.
    json: bool
        Print rows for machines instead of tables.
    """
    values: list[Row] = []
    try:
        wished = Calibration(scaling, coupling, target, miss)
    except CalibrationError as error:
        raise UsageError(str(error)) from None
    changed = wished.options != Calibration().options
    for path in apart(runs_of(paths, "calibrate"), "--save", save):
        loaded = open_run(path, data)
        if changed and isinstance(loaded.objective, Classification):
            raise UsageError(
                f"{path}: classes within a context get a temperature, so --scaling, --coupling, --target and "
                "--miss do nothing there: leave them out"
            )
        if not isinstance(loaded.objective, OneVsRest | Classification):
            raise UsageError(f"{path}: {type(loaded.objective).__name__} tickets give no probabilities")
        for level in sparsity or loaded.sparsities(method):
            tickets = loaded.of_subsets(method, level)
            values += _one(loaded, method, level, tickets, wished)
            if save is not None:
                sys.stderr.write(f"{loaded.save(tickets, save, f'{method}-{level}')}\n")
            err_console.print(f"{path}: {method} at {level:.0%} calibrated", highlight=False)
    show_rows(over_seeds(values), tables, json, write, made_by("calibrate"), keep)


def _one(
    loaded: LoadedRun, method: str, level: float, tickets: TicketModel, wished: Calibration
) -> list[Row]:
    """Rows of the tickets, and of the single mask where the run has one; the calibration is set."""
    head = {"experiment": loaded.experiment, "preset": loaded.preset, "sparsity": level, "seed": loaded.seed}
    if isinstance(loaded.objective, Classification):
        values, tickets.calibration = within(loaded, tickets)
        return [{**head, "method": method, **row} for row in values]
    if len(tickets.names) != len(loaded.partition):
        raise UsageError(f"{method} has no ticket for each subset: there is nothing to couple")
    own, members = scores(loaded, tickets), loaded.partition.members
    tickets.calibration = wished.fit_scores(own["validation"], members["validation"], tickets.names)
    tickets.calibration.bind(tickets)
    imp = loaded.tickets("imp", level)
    theirs = scores(loaded, imp) if imp is not None else None
    recall = single_recall((theirs or own)["validation"], members["validation"])
    found = [{**head, "method": method, **row} for row in measure(own, members, recall)]
    if theirs is not None:
        found += [{**head, "method": "imp", **row} for row in measure(theirs, members, recall)]
    return found
