"""``tombola experiments``: what can be run."""

from __future__ import annotations

from rich.text import Text

from tombola.cli.options import Flag
from tombola.cli.terminal import out_console, print_json
from tombola.lab.experiments import EXPERIMENTS
from tombola.methods.table import METHODS, TOOLBOX


def experiments(*, json: Flag = False) -> None:
    """List what can be run, with data and presets.

    Example: tombola experiments

    Args:
        json: For machines.
    """
    if json:
        rows = []
        for e in EXPERIMENTS.values():
            presets = {name: preset.summary for name, preset in e.presets.items()}
            rows.append({"name": e.name, "summary": e.summary, "data": e.data, "presets": presets})
        print_json(rows)
        return
    for e in EXPERIMENTS.values():
        out_console.print(Text(e.name, "bold"), f" {e.summary}\n  data: {e.data}")
        for name, preset in e.presets.items():
            out_console.print(f"  --preset {name}: {preset.summary}")
    out_console.print("methods:")
    for name, composed in METHODS.items():
        control = " (control)" if composed.control else ""
        control += " (toolbox: asked for by name)" if name in TOOLBOX else ""
        out_console.print(f"  --method {name}: {composed.summary}{control}")
