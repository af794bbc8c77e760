"""The command line: parses, calls, prints."""

from __future__ import annotations

import os

# Two OpenMP programs at once spin on each other; must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import App, CycloptsError, Parameter
from rich.progress import Progress

import tombola
from tombola.commands.calibrate import calibrate
from tombola.commands.collapse import collapse
from tombola.commands.predict import predict
from tombola.commands.route import route
from tombola.commands.semantics import semantics
from tombola.commands.stream import stream
from tombola.commands.sweep import sweep
from tombola.commands.watch import watch
from tombola.errors import TombolaError, UsageError
from tombola.experiments import experiment
from tombola.experiments.speech_files import enhance_file, find_tickets
from tombola.launch import Order, finished, order_of
from tombola.records import read_environment
from tombola.report.html import write_report
from tombola.report.inspect import describe
from tombola.report.page import write_page
from tombola.report.rows import find_runs
from tombola.report.rows import rows as rows_of
from tombola.terminal import (
    carry_out,
    err_console,
    experiments_plain,
    print_experiments,
    print_json,
    print_rows,
    print_tickets,
)

app = App(
    name="tombola",
    help="One network, many winning tickets: sparse subnetworks for subsets of your data.",
    version=tombola.__version__,
    suppress_keyboard_interrupt=False,  # `main` says how to go on
)
Json = Annotated[bool, Parameter(negative="")]


@app.command
def run(
    name: str,
    *,
    preset: str | None = None,
    method: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    sparsity: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = (),
    seed: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (0,),
    data: str | None = None,
    item: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    augment: bool | None = None,
    set: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    tune: Annotated[bool, Parameter(negative="")] = False,
    out: Path = Path("runs"),
    threads: int | None = None,
    json: Json = False,
) -> None:
    """Run methods of an experiment and compare them. What is done already is not done again.

    Example: tombola run digits --method rtl imp --seed 0 1

    Parameters
    ----------
    name: str
        The experiment; `tombola experiments` lists them.
    preset: str
        Its settings; the first of the experiment by default.
    method: tuple[str, ...]
        Which methods; all that make sense, with the controls, by default.
    sparsity: tuple[float, ...]
        Shares of weights removed; the preset's by default.
    seed: tuple[int, ...]
        Seeds of initialisation, data order and controls; a run directory each.
    data: str
        A folder with the data, or the name of a hub data set; what ships inside a dependency by default.
    item: tuple[str, ...]
        Of an experiment with a network per item (photograph): which; all by default.
    augment: bool
        Random crop and flip; the preset's choice by default.
    set: tuple[str, ...]
        Changes of settings, such as T=40 or train.lr=0.01; `tombola.Settings` documents them.
    tune: bool
        Leave the test split alone: judge on one half of validation, choose thresholds on the other.
    out: Path
        Where run directories go: OUT/NAME-PRESET/seedN, or OUT/NAME-PRESET/ITEM/seedN.
    threads: int
        Threads of one process; all cores by default. Another number may change the last bits.
    json: bool
        Print rows for machines instead of tables.
    """
    _threads(threads)
    chosen = experiment(name)
    preset, defaults = chosen.preset(preset)
    settings = replace(defaults.settings, sparsity=sparsity) if sparsity else defaults.settings
    settings = settings.changed(set)
    augment = defaults.augment if augment is None else augment
    order = Order(chosen, preset, settings, augment, data and _absolute(data), tune, method)
    folder, found = out / f"{name}-{preset}", order.load()
    where = [(s, i, folder / i / f"seed{s}") for i in item or found for s in seed]
    carry_out(order, found, where, json)


@app.command
def resume(path: Path, *, threads: int | None = None, json: Json = False) -> None:
    """Go on with an interrupted run; the result is the same, byte for byte.

    Example: tombola resume runs/digits-quick/seed0

    Parameters
    ----------
    path: Path
        The run directory.
    threads: int
        As they were when the run began, by default.
    json: bool
        Print rows for machines instead of tables.
    """
    order, seed, item = order_of(path)
    _threads(read_environment(path).get("threads") if threads is None else threads)
    carry_out(order, order.load(), [(seed, item, path)], json)


@app.command
def compare(
    *paths: Path,
    write: Path | None = None,
    json: Json = False,
) -> None:
    """Compare the methods of runs: both readings, the paper's figures, everything that is stored.

    Example: tombola compare runs/digits-quick

    Parameters
    ----------
    paths: Path
        Run directories, or folders that hold some; seeds of one experiment are averaged.
    write: Path
        A Markdown page to put the tables into, with a JSON twin beside it.
    json: bool
        Print rows for machines instead of tables.
    """
    if not paths:
        raise UsageError("compare needs at least one run directory")
    found = rows_of(find_runs(paths))
    if write is not None:
        write_page(write, found)
    print_rows(found, json)


@app.command
def report(
    *paths: Path,
    out: Annotated[Path, Parameter(name=("--out", "-o"))] = Path("report.html"),
    open: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> None:
    """Make one self-contained HTML page of runs: verdicts, curves, tickets, storage, similarity.

    Example: tombola report runs/digits-quick -o digits.html --open

    Parameters
    ----------
    paths: Path
        Run directories, or folders that hold some; a folder `pictures` in or beside a run is embedded.
    out: Path
        The page.
    open: bool
        Show it in a browser.
    json: bool
        Print what was written, for machines.
    """
    made = write_report(paths, out, show=open)
    if json:
        print_json(made)
    else:
        sys.stdout.write(f"{made['file']}\n")


@app.command
def draw(*paths: Path, out: Path = Path("pictures"), json: Json = False) -> None:
    """Draw what an experiment has to show: pictures, spectrograms, sounds, from finished runs.

    Example: tombola draw runs/inr-quick --out pictures

    Parameters
    ----------
    paths: Path
        Run directories of one experiment, or folders that hold some.
    out: Path
        Where the files go.
    json: bool
        Print their names for machines.
    """
    if not paths:
        raise UsageError("draw needs at least one run directory")
    drawn, runs = finished(find_runs(paths))
    out.mkdir(parents=True, exist_ok=True)
    files = [str(file) for file in drawn(runs, out)]
    if json:
        print_json(files)
    else:
        sys.stdout.write("\n".join(files) + "\n")


@app.command
def enhance(
    file: Path,
    *,
    tickets: Path,
    ticket: str | None = None,
    out: Annotated[Path | None, Parameter(name=("--out", "-o"))] = None,
    json: Json = False,
) -> None:
    """Enhance the speech in a sound file with the ticket of its scene.

    Example: tombola enhance talk.wav --tickets runs/speech-quick/seed0 --ticket indoor -o clear.wav

    Parameters
    ----------
    file: Path
        The sound: any length, rate and number of channels; WAV, FLAC, OGG or MP3.
    tickets: Path
        A ticket file, or a run of the experiment speech: then those of rtl at its lowest sparsity.
    ticket: str
        The scene; an unknown one is an error that lists them.
    out: Path
        The WAV file to write; FILE-TICKET.wav beside FILE by default.
    json: bool
        Print its name for machines.
    """
    found = find_tickets(tickets)
    with Progress(console=err_console, transient=True, disable=not err_console.is_terminal) as bar:
        task = bar.add_task("enhancing")
        made = enhance_file(file, found, ticket, out, lambda n, of: bar.update(task, completed=n, total=of))
    if json:
        print_json({"file": str(made)})
    else:
        sys.stdout.write(f"{made}\n")


@app.command
def inspect(file: Path, *, json: Json = False) -> None:
    """Show what is in a ticket file.

    Example: tombola inspect runs/digits-quick/seed0/tickets/rtl-0.5.tickets

    Parameters
    ----------
    file: Path
        A ticket file.
    json: bool
        Everything, for machines: also similarity and the settings it was made with.
    """
    facts = describe(file)
    if json:
        print_json(facts)
    else:
        print_tickets(facts)


@app.command
def experiments(*, json: Json = False) -> None:
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


app.command(sweep)
app.command(route)
app.command(calibrate)
app.command(predict)
app.command(collapse)
app.command(semantics)
app.command(watch)
app.command(stream)


def _threads(count: int | None) -> None:
    if count is not None:
        if count < 1:
            raise UsageError(f"--threads must be at least 1: got {count}")
        torch.set_num_threads(count)


def _absolute(source: str) -> str:
    folder = Path(source).expanduser()
    return str(folder.resolve()) if folder.exists() else source


def main(arguments: list[str] | None = None) -> None:
    """Entry point: status 0, 2 for a bad argument, 1 for another error, 130 when interrupted."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except (UsageError, CycloptsError) as error:
        _fail(error, 2)
    except (TombolaError, OSError) as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; `tombola resume RUN`, or the same command, goes on from here\n")
        sys.exit(130)


def _fail(error: Exception, status: int) -> None:
    message = " ".join(str(error).split())
    sys.stderr.write(f"tombola: {message}\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
