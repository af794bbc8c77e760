"""What commands that fit something to the tickets of finished runs have in common: `route`, `calibrate`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import Parameter

from tombola.cli.options import Flag, Kept, Numbers, Page, apart
from tombola.cli.terminal import runs_of, show_rows
from tombola.lab.evaluation.loaded_run import LoadedRun, open_runs
from tombola.lab.evaluation.tables import over_seeds
from tombola.lab.report.page import check_page, made_by
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table
from tombola.tickets.model import TicketModel


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FittedOptions:
    """Options of commands that fit something to tickets, and how such commands begin and end.

    Attributes:
        method: Whose tickets.
        sparsity: At which sparsities; all that the runs have by default.
        data: Where the data of the runs are, if they have moved. For a ticket file of `tombola route`: a
            table (CSV, Parquet), a folder of pictures in folders that are called like the tickets, or
            MODULE:NAME of a `tombola.Data`.
        save: A folder for copies of the ticket files with the first router or the calibration in them; the
            runs stay as they are. For a ticket file of `tombola route`: where to write it, by default over
            the file.
        keep: A file for `tombola report`, which looks for it in a run and above: routing.json of `tombola
            route`, precision.json of `tombola calibrate`.
        write: A Markdown page to put the tables into, with a JSON twin beside it.
        json: Print rows for machines instead of tables.
    """

    method: str = "rtl"
    sparsity: Numbers = ()
    data: str | None = None
    save: Path | None = None
    keep: Kept = None
    write: Page = None
    json: Flag = False

    def runs(
        self,
        paths: Sequence[Path],
        command: str,
        option: str = "--save",
        folder: Path | None = None,
        check: Callable[[LoadedRun], None] = lambda _: None,
    ) -> Iterator[LoadedRun]:
        """The runs among and below these paths, each with a place of its own in the folder of an option.

        What is wrong with the page or with any of them, their data and tickets, is said before the first is
        given out: fitting takes long. ``check`` says what else may be.
        """
        if self.write is not None:
            check_page(self.write, made_by(command))
        found = apart(runs_of(paths, command), option, folder or self.save)
        for loaded in open_runs(found, self.data):
            check(loaded)
            for _ in self.tickets(loaded):
                pass
            if len(found) == 1:
                yield loaded
                return
        del loaded  # its data need not lie beside those of the first
        yield from open_runs(found, self.data)

    def tickets(self, loaded: LoadedRun) -> Iterator[tuple[float, TicketModel]]:
        """The tickets of a run at each sparsity that is wanted."""
        for sparsity in self.sparsity or loaded.sparsities(self.method):
            yield sparsity, loaded.of_subsets(self.method, sparsity)

    def head(self, loaded: LoadedRun, sparsity: float) -> dict[str, Any]:
        """What rows of these tickets begin with."""
        head = {"experiment": loaded.experiment, "preset": loaded.preset, "method": self.method}
        return {**head, "sparsity": sparsity, "seed": loaded.seed}

    def saved(self, loaded: LoadedRun, tickets: TicketModel, sparsity: float) -> None:
        """Write the tickets into the folder, if one is wanted."""
        if self.save is not None:
            sys.stderr.write(f"{loaded.save(tickets, self.save, f'{self.method}-{sparsity}')}\n")

    def show(
        self, values: Sequence[Row], tables: Callable[[Sequence[Row]], Sequence[Table]], command: str
    ) -> None:
        """Keep, write and print means over seeds."""
        show_rows(over_seeds(values), tables, self.json, self.write, made_by(command), self.keep)
