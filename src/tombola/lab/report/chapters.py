"""From what was found of one comparison to the chapters of its section."""

from __future__ import annotations

from collections.abc import Sequence

from tombola.lab.experiments import EXPERIMENTS
from tombola.lab.report import answering, certain, collapsing, semantics
from tombola.lab.report.again import commands, runs_table, settings_table
from tombola.lab.report.answer import answer
from tombola.lab.report.blocks import Block, Chapter, Commands, Gallery, Section, Tabled, Words
from tombola.lab.report.findings import Findings, Ran
from tombola.lab.report.likeness import course, layers, likeness
from tombola.lab.report.media import Shelf
from tombola.lab.report.rows import Row
from tombola.lab.report.scores import SIMILAR, by_ticket, quality, stored, titled
from tombola.lab.report.tables import Table, heading, tables
from tombola.lab.report.verdicts import Paper
from tombola.methods.table import METHODS, dense

_FEW = 5  # runs that stand side by side


def section(found: Findings, rows: Sequence[Row], shelf: Shelf) -> Section:
    """All chapters; those without anything to show say what is missing, or are left out."""
    named, paper = tables(rows), _paper(found)
    chapters = [Chapter("What was compared, and what came out", _headline(found, paper))]
    if found.methods:
        chapters += [
            Chapter("Sparsity and quality", quality(found, paper, named)),
            Chapter("The score of each ticket", by_ticket(found, named)),
            Chapter("What is stored", stored(found, named)),
            Chapter("Where the weights went", layers(found)),
            Chapter("How alike the tickets are", [*likeness(found), *titled(named, SIMILAR)]),
        ]
    chapters.append(Chapter("Has pruning gone too far?", collapsing.chapter(found)))
    chapters.append(Chapter("Do tickets of related subsets look alike?", semantics.chapter(found)))
    chapters.append(Chapter("Who answers where no context is given?", answering.chapter(found)))
    chapters.append(Chapter("What are the probabilities worth?", certain.chapter(found)))
    chapters.append(Chapter("The course of training", course(found)))
    if media := shelf.take([ran.path for ran in found.runs], any(ran.unit[0] for ran in found.runs)):
        chapters.append(Chapter("Pictures and sounds", [Gallery(media)]))
    chapters.append(Chapter("Configuration, and how to run it again", _configuration(found)))
    return Section(heading(found.head), [chapter for chapter in chapters if chapter.blocks])


def _paper(found: Findings) -> Paper:
    """The paper's figures, unless something stands in for the data."""
    known = EXPERIMENTS.get(found.head[0])
    if known is None or (known.stand_in and f"(on {known.stand_in})" in found.head[1]):
        return {}
    return known.paper


# -- what came out ----------------------------------------------------------------------------------------


def _headline(found: Findings, paper: Paper) -> list[Block]:
    blocks: list[Block] = [Words([_compared(found)])]
    if unfinished := [ran for ran in found.runs if ran.missing]:
        missing = [
            f"{ran.label} is not finished: "
            + ", ".join(f"{method} at {s:.0%}" for method, s in ran.missing)
            + f" is missing. {_onwards(ran)} goes on from where it stopped."
            for ran in unfinished
        ]
        blocks.append(Words(missing, missing=True))
    if not found.methods:
        return [*blocks, Words(["Nothing was judged yet, so there is nothing to compare."], missing=True)]
    return [*blocks, *answer(found, paper), Tabled(_methods(found), words=True)]


def _onwards(ran: Ran) -> str:
    known = ran.config.get("experiment")
    return "`tombola resume` with its directory" if known else "The program of your own that made it"


def _methods(found: Findings) -> Table:
    """What the names mean."""
    body = [[name, METHODS[name].summary] for name in found.methods]
    return Table("What the methods are", ["method", "in a line"], body)


def _items(found: Findings) -> int:
    return len({ran.unit[0] for ran in found.runs})


def _compared(found: Findings) -> str:
    known = EXPERIMENTS.get(found.head[0])
    seeds = sorted({ran.unit[1] for ran in found.runs})
    sparsities = sorted({s for method, s in found.outcomes if METHODS[method].masks is not dense})
    words = [f"{known.summary}." if known else "A program of your own."]
    usual = [name for name in found.methods if not METHODS[name].control]
    controls = [name for name in found.methods if METHODS[name].control]
    if found.methods:
        words.append(f"Methods: {', '.join(usual) or 'none'}.")
        words += [f"Controls: {', '.join(controls)}."] if controls else []
    if sparsities:
        words.append(f"Share of weights removed: {', '.join(f'{s:.0%}' for s in sparsities)}.")
    words.append(f"{'Seeds' if len(seeds) > 1 else 'Seed'}: {', '.join(map(str, seeds))}.")
    if _items(found) > 1:
        words.append(f"Items, each with a network of its own: {_items(found)}.")
    return " ".join(words)


# -- configuration ----------------------------------------------------------------------------------------


def _configuration(found: Findings) -> list[Block]:
    lines = commands(found.runs)
    again: Block = Commands(lines) if lines else Words(["Made by a program of your own: run that again."])
    runs = runs_table(found.runs)
    turned = _turned(runs) if len(found.runs) <= _FEW else runs
    settings = _filled(settings_table(found.runs[0]))
    return [again, Tabled(settings, words=True), Tabled(turned, words=True)]


def _filled(table: Table) -> Table:
    """Without columns that are empty."""
    kept = [i for i in range(len(table.header)) if any(line[i] for line in table.body)]
    header, *body = [[line[i] for i in kept] for line in (table.header, *table.body)]
    return Table(table.title, header, body)


def _turned(table: Table) -> Table:
    """Rows as columns: few runs have many facts."""
    header, *body = map(list, zip(table.header, *table.body, strict=True))
    return Table(table.title, header, body)
