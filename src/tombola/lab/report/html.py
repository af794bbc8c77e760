"""One page that carries everything in itself: what some runs have to say, for readers instead of tables."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import tombola
from tombola._utils.errors import UsageError
from tombola._utils.io import write_bytes
from tombola.lab.report.blocks import Section, Shelf
from tombola.lab.report.chapters import section
from tombola.lab.report.charts import VEGA_LITE, template
from tombola.lab.report.findings import gather
from tombola.lab.report.rows import rows
from tombola.lab.results import find_runs, names_of
from tombola.runs.log import read_config


def write_report(paths: Iterable[Path | str], out: Path, show: bool = False) -> dict[str, Any]:
    """Write the page of the runs among and below some paths, into an ``.html`` file.

    Returns ``file``, ``bytes``, ``runs``, and ``left_out``: pictures and sounds that found no place.
    """
    paths = list(paths)
    if not paths:
        raise UsageError("report needs at least one run directory")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out takes an HTML page, NAME.html: got {out}")
    runs, shelf = find_runs(paths), Shelf()
    content = page(runs, shelf).encode()
    write_bytes(out, content)
    if show:
        webbrowser.open(out.resolve().as_uri())
    return {"file": str(out), "bytes": len(content), "runs": len(runs), "left_out": shelf.left_out}


def is_report(file: Path) -> bool:
    """Whether a file is such a page."""
    with file.open("rb") as content:
        return b"<title>Tombola: " in content.read(2000)


def page(runs: Sequence[Path], shelf: Shelf | None = None) -> str:
    """The page of some runs, a section per experiment and preset; equal records give equal bytes."""
    shelf = shelf or Shelf()
    configs = [(run, read_config(run)) for run in runs]
    configs.sort(key=lambda pair: (pair[1].get("item", ""), pair[1]["seed"]))
    groups: dict[tuple[str, str], list[Path]] = {}
    for run, config in configs:
        groups.setdefault(names_of(run, config), []).append(run)
    sections = [section(gather(head, group), rows(group), shelf) for head, group in sorted(groups.items())]
    return render(sections, shelf.left_out)


def render(sections: Sequence[Section], left_out: Sequence[str] = ()) -> str:
    """Sections as HTML."""
    blanks: Any = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    loader = PackageLoader("tombola.lab.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **blanks)
    environment.tests["block"] = lambda block, kind: type(block).__name__ == kind
    parts = {"vega": Markup(_vega()), "file": lambda name: Markup(template(name)), "safe": Markup}
    parts |= {"sections": sections, "left_out": left_out, "version": tombola.__version__}
    return environment.get_template("report.html.j2").render(parts)


@cache
def _vega() -> str:
    """What draws the charts, as one script that needs no network; bundling it takes a second."""
    bundle: str = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]  # it has a default
    return bundle.replace("</script", "<\\/script")
