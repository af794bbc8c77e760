"""``tombola inspect``: what is in a ticket file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tombola.cli.options import Flag
from tombola.cli.terminal import out_console, print_json
from tombola.lab.report.inspect import describe
from tombola.lab.report.tables import Table


def inspect(file: Path, /, *, json: Flag = False) -> None:
    """Show what is in a ticket file.

    Example: tombola inspect runs/digits-quick/seed0/tickets/rtl-0.5.tickets

    Args:
        file: A ticket file.
        json: Everything, for machines: also similarity and the settings it was made with.
    """
    metadata = describe(file)
    if json:
        print_json(metadata)
    else:
        _print(metadata)


def _print(metadata: Mapping[str, Any]) -> None:
    """What `tombola.lab.report.inspect.describe` found in a ticket file."""
    for key in ("method", "router", "calibration"):
        out_console.print(f"{key}: {_named(metadata[key])}", soft_wrap=True)
    if base := metadata["facts"].get("pretrained"):
        out_console.print(f"pretrained: {base['model']}", soft_wrap=True)
    heads = ("bytes", "weights_in_scope", "union", "core", "free", "private_numbers_per_ticket", "dense_rest")
    if metadata["grown"]:
        grown = ", ".join(f"{name} ({policy})" for name, policy in metadata["grown"].items())
        out_console.print(f"grown: {grown}", soft_wrap=True)
    if metadata["adapters"]:
        out_console.print(f"adapters of each ticket: rank {metadata['adapters']}")
    for key in heads:
        out_console.print(f"{key.replace('_', ' ')}: {metadata[key]:,}")
    layers = list(next(iter(metadata["layers"].values())))
    body = [
        [layer, *(f"{metadata['layers'][t][layer]:.3f}" for t in metadata["tickets"])] for layer in layers
    ]
    total = ["all", *(f"{n / metadata['weights_in_scope']:.3f}" for n in metadata["tickets"].values())]
    out_console.print(Table("Density per layer", ["layer", *metadata["tickets"]], [*body, total]))


def _named(fact: str | Mapping[str, Any] | None) -> str:
    """A word, or the name of what was fitted and its options."""
    if fact is None or isinstance(fact, str):
        return fact or "none"
    first, *options = fact.items()
    return " ".join([str(first[1]), *(f"{name}={value}" for name, value in options if value != "")])
