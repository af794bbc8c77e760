"""From what was found of one comparison to the chapters of its section."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tombola.lab.experiments import EXPERIMENTS, Preset
from tombola.lab.report import advice, kept, semantics
from tombola.lab.report.blocks import (
    Block,
    Chapter,
    Commands,
    Figures,
    Gallery,
    Section,
    Shelf,
    Tabled,
    Words,
)
from tombola.lab.report.figures import Axis, Figure, Series, Style, bars, dots, method_style, percent, xy
from tombola.lab.report.findings import Findings, Ran
from tombola.lab.report.likeness import course, layers, likeness
from tombola.lab.report.rows import Row, spread
from tombola.lab.report.tables import SIMILAR, STORED, Paper, Table, heading, paper_of, share, tables
from tombola.lab.report.verdicts import Headline, answer, headlines
from tombola.lab.results import flat
from tombola.methods.table import METHODS, dense
from tombola.objectives.metrics import LIKE_FOR_LIKE
from tombola.runs.log import full_settings

_WATCHED = (
    "After every round the search records what needs no label: how alike tickets are, and how many weights "
    "the smallest layer keeps. An alarm is no proof: docs/results/collapse.md says how late it was."
)
_HASHES = ("theta0", "data", "partition", "backbone", "objective")
_FEW = 5  # runs that stand side by side
_PIECES = {  # of what is stored: which metric, how it is filled
    "core: kept by every ticket": "fill0",
    "union without the core": "fill1",
    "private to a ticket": "fill2",
    "dense remainder": "fill3",
}


def section(found: Findings, rows: Sequence[Row], shelf: Shelf) -> Section:
    """All chapters; those without anything to show say what is missing, or are left out."""
    named, paper = tables(rows), paper_of(found.head)
    media = shelf.take([ran.path for ran in found.runs], any(ran.unit[0] for ran in found.runs))
    judged = bool(found.methods)
    chapters: dict[str, list[Block]] = {
        "Do tickets pay here?": advice.chapter(found),
        "What was compared, and what came out": _headline(found, paper),
        "Sparsity and quality": _quality(found, paper, named) if judged else [],
        "The score of each ticket": _by_ticket(found, named) if judged else [],
        "What is stored": _stored(found, named) if judged else [],
        "Where the weights went": layers(found) if judged else [],
        "How alike the tickets are": [*likeness(found), *_titled(named, SIMILAR)] if judged else [],
        "Has pruning gone too far?": collapse(found),
        "Do tickets of related subsets look alike?": semantics.chapter(found),
        "Who answers where no context is given?": kept.routing(found),
        "What are the probabilities worth?": kept.calibration(found),
        "The course of training": course(found),
        "Pictures and sounds": [Gallery(media)] if media else [],
        "Configuration, and how to run it again": _configuration(found),
    }
    return Section(heading(found.head), [Chapter(*each) for each in chapters.items() if each[1]])


def _figures(charts: Sequence[Figure]) -> list[Block]:
    return [Figures(charts)] if charts else []


def _titled(named: Sequence[Table], title: str) -> list[Block]:
    return [Tabled(table) for table in named if table.title == title]


# -- what came out ----------------------------------------------------------------------------------------


def _headline(found: Findings, paper: Paper) -> list[Block]:
    blocks: list[Block] = [Words([_compared(found)])]
    missing = []
    for ran in found.runs:
        known = ran.config.get("experiment")
        onwards = "`tombola resume` with its directory" if known else "The program of your own that made it"
        which = ", ".join(f"{method} at {s:.0%}" for method, s in ran.missing)
        words = f"{ran.label} is not finished: {which} is missing. {onwards} goes on from where it stopped."
        missing += [words] if ran.missing else []
    blocks += [Words(missing, missing=True)] if missing else []
    if not found.methods:
        return [*blocks, Words(["Nothing was judged yet, so there is nothing to compare."], missing=True)]
    names = [[name, METHODS[name].summary] for name in found.methods]
    methods = Table("What the methods are", ["method", "in a line"], names)
    return [*blocks, *answer(found, paper), Tabled(methods, words=True)]


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
    if found.items > 1:
        words.append(f"Items, each with a network of its own: {found.items}.")
    return " ".join(words)


# -- scores -----------------------------------------------------------------------------------------------


def _quality(found: Findings, paper: Paper, named: Sequence[Table]) -> list[Block]:
    """A chart per headline metric and reading, and all tables of readings."""
    charts = []
    usual = [name for name in found.methods if not METHODS[name].control]
    controls = [name for name in found.methods if METHODS[name].control]
    for headline in headlines(found):
        printed = {} if headline.reading == LIKE_FOR_LIKE else paper
        charts.append(_curves(found, headline, headline.title, usual or found.methods, printed))
        if usual and controls:
            title = f"{headline.title}: {found.subject} and its controls"
            charts.append(_curves(found, headline, title, [found.subject, *controls], {}))
    elsewhere = (STORED, SIMILAR)
    others = [t for t in named if t.title not in elsewhere and "by subset" not in t.title]
    return [*_figures(charts), *map(Tabled, others)]


def _curves(found: Findings, headline: Headline, title: str, methods: Sequence[str], paper: Paper) -> Figure:
    """Means and intervals over sparsity; dotted what the paper prints; a dense network is a level."""
    series, metric = [], headline.info.name
    for method in methods:
        points = [
            (sparsity, measured.mean, measured.ci95)
            for name, sparsity in found.outcomes
            if name == method
            and (measured := spread(found.values.get((name, sparsity, *headline.key, ""), {})))
        ]
        figures = {s: f[metric] for (m, s), f in paper.items() if m == method and metric in f}
        if not points:
            continue
        chosen = method_style(method)
        series.append(Series(method, chosen, points))
        if METHODS[method].masks is dense:
            most = max(sparsity for _, sparsity in found.outcomes)
            level = [(0.0, points[0][1], None), (most, points[0][1], None)]
            series.append(Series(method, chosen, level, marked=False))
        if figures:
            dotted = Style(chosen.number, hollow=True, dotted=True)
            printed = [(s, figures[s], None) for s in sorted(figures)]
            series.append(Series(f"{method}, in the paper", dotted, printed))
    levels = sorted({p[0] for each in series for p in each.points})
    x = Axis("share of weights removed", percent, levels, (min(levels) - 0.04, max(levels) + 0.04))
    return xy(title, series, x, Axis(headline.info.label, headline.info.write))


def _by_ticket(found: Findings, named: Sequence[Table]) -> list[Block]:
    """Dots at the middle sparsity, and everything in tables."""
    charts, folded = [], []
    for headline in headlines(found):
        keys = [k for k in found.values if k[2:4] == headline.key and k[4]]
        names = list(dict.fromkeys(k[4] for k in keys))
        if not names:
            continue
        own = sorted({k[1] for k in keys if k[0] == found.subject}) or sorted({k[1] for k in keys})
        middle = own[len(own) // 2]

        def of_tickets(method: str, sparsity: float, key: tuple = headline.key, names: list = names) -> list:
            return [found.mean((method, sparsity, *key, ticket)) for ticket in names]

        series = []
        for method in found.methods:
            means = of_tickets(method, 0.0 if METHODS[method].masks is dense else middle)
            points = [(float(i), mean, None) for i, mean in enumerate(means) if mean is not None]
            if points and not METHODS[method].control:
                series.append(Series(method, method_style(method), points))
        if series:
            axis = Axis(headline.info.label, headline.info.write)
            charts.append(dots(f"{headline.title}, {middle:.0%} removed", names, series, axis))
        body = []
        for method, sparsity in found.outcomes:
            means = of_tickets(method, sparsity)
            written = ["" if mean is None else headline.info.write(mean) for mean in means]
            body += [[method, f"{sparsity:.0%}", *written]] if any(written) else []
        title = f"{headline.title}, means over seeds"
        folded.append(Tabled(Table(title, ["method", "sparsity", *names], body)))
    by_subset = [Tabled(table) for table in named if table.title.endswith("ahead of imp by subset")]
    return [*_figures(charts), *folded, *by_subset]


def _stored(found: Findings, named: Sequence[Table]) -> list[Block]:
    """Numbers and bytes as bars and as a table; bars of controls only where there is nothing else."""
    numbers: dict[str, dict[str, float]] = {}
    sizes: dict[str, dict[str, float]] = {}
    usual = [outcome for outcome in found.outcomes if not METHODS[outcome[0]].control]
    for method, sparsity in usual or found.outcomes:
        metrics = ("core", "union", "private", "dense_rest", "mask_bytes", "file_bytes")
        core, union, private, rest, masks, file = (
            found.mean((method, sparsity, "", metric, "")) for metric in metrics
        )
        name = f"{method} {sparsity:.0%}"
        if core is not None and union is not None and private is not None and rest is not None:
            numbers[name] = dict(zip(_PIECES, (core, union - core, private, rest), strict=True))
        if file is not None:
            sizes[name] = {"masks": masks or 0.0, "all else": file - (masks or 0.0)}
    charts = [bars("Numbers stored", numbers, "numbers", _PIECES)] if numbers else []
    fills = {"masks": "fill0", "all else": "fill1"}
    charts += [bars("Ticket files", sizes, "bytes", fills)] if sizes else []
    return [*_figures(charts), *_titled(named, STORED)]


# -- collapse ----------------------------------------------------------------------------------------------


def collapse(found: Findings) -> list[Block]:
    """Nothing where no search was watched (runs that are older than the alarm)."""
    labels = {ran.unit: ran.label for ran in found.runs}
    said = [f"{labels[unit]}: {words}." for unit, alarms in found.alarms.items() for words in alarms]
    if not found.watched and not said:
        return []
    runs = len(found.watched)
    said = said or [f"No alarm in {runs} watched {'run' if runs == 1 else 'runs'}."]
    body = []
    for unit, history in found.watched.items():
        for row in history:
            kappa = "" if row.get("kappa") is None else share(row["kappa"])
            body.append([labels[unit], f"{1 - row['density']:.1%}", kappa, str(row.get("fewest", ""))])
    header = ["run", "removed", "mean kappa", "weights in the smallest layer"]
    measured = Tabled(Table("Likeness and the smallest layer, round by round", header, body))
    return [Words([_WATCHED]), Words(said, lead=True), measured]


# -- configuration ----------------------------------------------------------------------------------------


def _configuration(found: Findings) -> list[Block]:
    lines = commands(found.runs)
    again: Block = Commands(lines) if lines else Words(["Made by a program of your own: run that again."])
    runs, settings = _runs_table(found.runs), _settings_table(found.runs[0])
    if len(found.runs) <= _FEW:  # few runs have many facts: rows as columns
        header, *body = map(list, zip(runs.header, *runs.body, strict=True))
        runs = Table(runs.title, header, body)
    return [again, Tabled(settings, words=True), Tabled(runs, words=True)]


def commands(runs: Sequence[Ran]) -> list[str]:
    """Command lines, one per group of runs that differ in seed and item only.

    Empty where the runs were made by a program of the user's own.
    """
    groups: dict[str, list[Ran]] = {}
    for ran in runs:
        if ran.config.get("experiment"):
            groups.setdefault(_without_seed(ran), []).append(ran)
    return [line + _seeds(group) for line, group in groups.items()]


def _without_seed(ran: Ran) -> str:
    config, threads = ran.config, ran.environment.get("threads")
    words = ["tombola", "run", config["experiment"], *_options(config.get("pretrained") or {})]
    words += ["--preset", config["preset"]] if config.get("preset") else []
    words += ["--data", str(config["source"])] if config.get("source") else []
    words += ["--method", *config["methods"]] if config.get("methods") else []
    settings = full_settings(dict(config))
    words += ["--sparsity", *(f"{s}" for s in settings.pop("sparsity", []))]
    preset = _preset(ran)
    defaults = flat(preset.settings.plain()) if preset else {}
    changed = {name: value for name, value in flat(settings).items() if defaults.get(name) != value}
    words += ["--set", *(f"{name}={_yaml(value)}" for name, value in changed.items())] if changed else []
    if preset is None or config.get("augment", False) != preset.augment:
        words += ["--augment" if config.get("augment") else "--no-augment"]
    words += ["--tune"] if config.get("tune") else []
    words += ["--threads", str(threads)] if threads else []
    way = ran.environment.get("parallel", "no")
    words += ["--parallel", way] if ran.environment else []
    device = ran.environment.get("device", "cpu")
    words += ["--device", device] if device != "cpu" else []
    return shlex.join(words)


def _options(made_of: Mapping[str, Any]) -> list[str]:
    """The options of an experiment that was made of them."""
    found: list[str] = []
    for name, value in made_of.items():
        if name != "labels" and value not in ("", False):
            found += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return found


def _seeds(group: Sequence[Ran]) -> str:
    seeds = dict.fromkeys(str(ran.config["seed"]) for ran in group)
    items = dict.fromkeys(ran.config["item"] for ran in group if ran.config.get("item"))
    return shlex.join(["", "--seed", *seeds, *(["--item", *items] if items else [])]).removeprefix("''")


def _yaml(value: Any) -> str:
    """As ``--set`` reads it."""
    written: str = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return written.removesuffix("\n").removesuffix("\n...").strip()


def _preset(ran: Ran) -> Preset | None:
    known = EXPERIMENTS.get(ran.config.get("experiment") or "")
    return known.presets.get(ran.config.get("preset") or "") if known else None


def _settings_table(ran: Ran) -> Table:
    """Every setting, with what the preset says where one differs."""
    config, preset = ran.config, _preset(ran)
    defaults = flat(preset.settings.plain()) if preset else {}
    plain = {k: v for k, v in config.items() if k not in ("settings", "seed", "item", "methods", *_HASHES)}
    body = [[name, _yaml(value), ""] for name, value in plain.items()]
    for name, value in flat(full_settings(dict(config))).items():
        other = _yaml(defaults[name]) if name in defaults and defaults[name] != value else ""
        body.append([name, _yaml(value), other])
    header = ["name", "value", "the preset's, where it differs"]
    shown = 3 if any(line[2] for line in body) else 2
    return Table("Settings", header[:shown], [line[:shown] for line in body])


def _runs_table(runs: Sequence[Ran]) -> Table:
    """Where and with which versions each run began, and the hashes that tell it from others."""
    names = list(dict.fromkeys(name for ran in runs for name in ran.environment))
    hashes = [name for name in _HASHES if any(name in ran.config for ran in runs)]
    body = []
    for ran in runs:
        versions = [str(ran.environment.get(name, "not recorded")) for name in names]
        marks = [str(ran.config.get(name, ""))[:12] for name in hashes]
        methods = " ".join(ran.config.get("methods", []))
        body.append([ran.label, methods, *versions, *marks])
    return Table("Runs", ["run", "methods", *(name.replace("_", " ") for name in names), *hashes], body)
