"""``tombola enhance``: clean the speech in a sound file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.progress import Progress

from tombola.cli.options import Flag, new
from tombola.cli.terminal import err_console, say
from tombola.lab.experiments.speech_stream import enhance_file, find_tickets, wave_of


def enhance(
    file: Path,
    /,
    *,
    tickets: Path,
    ticket: str | None = None,
    out: Annotated[Path | None, Parameter(name=("--out", "-o"))] = None,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Enhance the speech in a sound file with the ticket of its scene.

    Example: tombola enhance talk.wav --tickets runs/speech-quick/seed0 --ticket indoor -o clear.wav

    Args:
        file: The sound: any length, rate and number of channels; WAV, FLAC, OGG or MP3.
        tickets: A ticket file, or a run of the experiment speech: then those of rtl at its lowest sparsity.
        ticket: The scene; an unknown one is an error that lists them.
        out: The WAV file to write; FILE-TICKET.wav beside FILE by default.
        force: Replace a file that is there already.
        json: Print its name for machines.
    """
    check = partial(new, force=force, own=lambda path: file.exists() and path.samefile(file))  # refused below
    if out is not None:
        check(out)
    found = find_tickets(tickets)
    if out is None:
        check(out := wave_of(file, found, ticket))
    with Progress(console=err_console, transient=True, disable=not err_console.is_terminal) as bar:
        task = bar.add_task("enhancing")
        made = enhance_file(file, found, ticket, out, lambda n, of: bar.update(task, completed=n, total=of))
    say(f"{made}\n", {"file": str(made)}, json)
