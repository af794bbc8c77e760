"""``tombola stream``: a recording of several scenes, enhanced by the router alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tombola._utils.errors import UsageError
from tombola.cli.fitted_options import FittedOptions
from tombola.cli.options import Flag, Numbers, Page, Words
from tombola.cli.route import fitted_options
from tombola.cli.terminal import busy, say_aside
from tombola.lab.evaluation.loaded_run import LoadedRun
from tombola.lab.evaluation.streamed import draw, measure
from tombola.lab.evaluation.tables import MOVES, RIGHT, rows
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Column, Table, decibel, decimal, outcomes, whole
from tombola.tickets.routing import router as router_of

COLUMNS = [  # who chooses, then how the router follows
    *(Column(who, who, decibel) for who in ("oracle", "router")),
    *(Column("best_fixed", "fixed", decibel), Column("random", "random", decibel)),
    *(RIGHT, *MOVES, Column("delay", "late, s", decibel), Column("missed", "missed", decimal)),
    *(Column("ms_route", "ms route", decibel), Column("ms_ticket", "ms ticket", decibel)),
    Column("ms_wait", "ms wait", whole),
]


def stream(
    *paths: Path,
    out: Annotated[Path | None, Parameter(name=("--out", "-o"))] = None,
    router: str = "prototype",
    set: Words = ("bands=16",),
    method: str = "rtl",
    sparsity: Numbers = (),
    snr: float = 0.0,
    seconds: int = 20,
    seed: int = 0,
    data: str | None = None,
    write: Page = None,
    json: Flag = False,
) -> None:
    """Enhance a recording that passes through all scenes, the ticket chosen from the sound alone.

    The recording is made of held-out voices and noise of the run's own data. How long the router listens,
    its window and its margin are chosen on such recordings of validation data.

    Example: tombola stream runs/speech-quick --sparsity 0.5 --out stream

    Args:
        paths: Run directories of speech enhancement, or folders that hold some; seeds are averaged.
        out: A folder for stream.png and noisy.wav, router.wav, oracle.wav, clean.wav; one below it for each
            run.
        router: Which router: prototype, gate or score.
        set: Options of the router, such as bands=16 or depth=2.
        method: Whose tickets.
        sparsity: At which sparsities; all that the runs have by default.
        snr: Signal-to-noise ratio of the recording in dB, one of those that the test split has.
        seconds: How long each scene lasts, a multiple of 4.
        seed: Which voices and noises.
        data: Where the data of the runs are, if they have moved.
        write: A Markdown page to put the table into, with a JSON twin NAME-stream.json beside it.
        json: Print rows for machines instead of the table.
    """
    options = FittedOptions(method=method, sparsity=sparsity, data=data, write=write, json=json)
    of_router, values = fitted_options((router,), set)[router], list[Row]()

    def check(loaded: LoadedRun) -> None:
        if not loaded.objective.sound:
            raise UsageError(
                f"{loaded.path}: stream enhances sound, and this is a run of {loaded.experiment}"
            )

    for loaded in options.runs(paths, "stream", "--out", out, check):
        for level, tickets in options.tickets(loaded):
            with busy(f"{loaded.path}: {method} at {level:.0%}") as now:
                now(f"fitting the router {router}")
                tickets.router = router_of(router, **of_router).fit(tickets, loaded.data, loaded.partition)
                now("enhancing recordings")
                found = measure(loaded, tickets, snr, seconds, seed)
            head = {**options.head(loaded, level), "router": router}
            for who, improvement in found.who.items():
                values += rows({**head, "who": who}, {"si_snri": improvement})
            values += rows(head, asdict(found.choice) | found.values)
            if out is not None:
                title = f"{loaded.experiment}, seed {loaded.seed}, {level:.0%} removed, mixed at {snr:g} dB"
                for file in draw(found, out / f"{loaded.path.name}-{level:g}", title):
                    sys.stderr.write(f"{file}\n")
            say_aside(f"{loaded.path}: {method} at {level:.0%} streamed")
    options.show(values, _tables, "stream")


def _tables(rows: Sequence[Row]) -> list[Table]:
    """One line for each experiment, sparsity and router."""
    named = [{**row, "run": f"{row['experiment']} {row['preset']}"} for row in rows]
    named = [{**row, "metric": row.get("who", row["metric"])} for row in named]
    title = "A stream of scenes: SI-SNRi in dB by who chooses, and how the router follows"
    keys = {"run": "run", "removed": "sparsity", "router": "router"}
    return [outcomes(title, named, keys, COLUMNS)]
