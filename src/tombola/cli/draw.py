"""``tombola draw``: pictures, spectrograms and sounds from finished runs."""

from __future__ import annotations

from pathlib import Path

from tombola.cli.options import Flag
from tombola.cli.terminal import runs_of, say
from tombola.lab.launch import finished


def draw(*paths: Path, out: Path = Path("pictures"), json: Flag = False) -> None:
    """Draw what an experiment has to show: pictures, spectrograms, sounds, from finished runs.

    Example: tombola draw runs/inr-quick --out pictures

    Args:
        paths: Run directories of one experiment, or folders that hold some.
        out: Where the files go.
        json: Print their names for machines.
    """
    drawn, runs = finished(runs_of(paths, "draw"))
    out.mkdir(parents=True, exist_ok=True)
    files = [str(file) for file in drawn(runs, out)]
    say("\n".join(files) + "\n", files, json)
