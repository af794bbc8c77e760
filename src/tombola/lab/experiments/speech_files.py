"""Tickets at work on sound files: any length, any rate, any number of channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch

from tombola._utils.errors import RunError, UsageError, unknown
from tombola.lab import audio
from tombola.lab.audio.files import Waves, checked, open_sound
from tombola.lab.models.speech_unet import SpeechUNet
from tombola.tickets.model import TicketModel, load

CHUNK, OVERLAP = 10, 1  # seconds at a time, and how long two of them are faded into each other
Tell = Callable[[int, int], None]  # samples done, samples in all


def find_tickets(path: Path) -> TicketModel:
    """The tickets of a file; of a run directory, those of RTL at its lowest sparsity.

    Raises:
        RunError: a directory without such tickets.
        TicketFileError: no ticket file, a damaged one, or one of another network.
    """
    if path.is_dir():
        files = list((path / "tickets").glob("rtl-*.tickets"))
        if not files:
            raise RunError(
                f"{path} holds no tickets/rtl-*.tickets: give a ticket file, or a speech run of rtl"
            )
        path = min(files, key=lambda file: float(file.stem.removeprefix("rtl-")))
    return load(path, SpeechUNet())


def enhance_file(
    source: Path,
    tickets: TicketModel,
    ticket: str | None,
    out: Path | None = None,
    on_progress: Tell | None = None,
) -> Path:
    """Enhance the speech in a sound file with one ticket; returns the file written, 16-bit WAV.

    Rate and channels stay; nothing above 8 kHz does, because the network works at 16 kHz. Every channel
    is enhanced by itself. Ten seconds at a time are in memory, faded into each other over one second.

    Args:
        source: WAV, FLAC, OGG, MP3.
        tickets: of `SpeechUNet`.
        ticket: its name; may be left out where there is one only.
        out: where to; SOURCE-TICKET.wav beside the source by default.
        on_progress: is told how far it is.

    Raises:
        UsageError: an unknown ticket, or an output that is no WAV file, is the source, or lies in no folder.
        DataError: no sound file, an empty one, or NaN in it.
    """
    ticket = _ticket(tickets, ticket)
    out = source.with_name(f"{source.stem}-{ticket}.wav") if out is None else out
    if out.suffix.lower() != ".wav":
        raise UsageError(f"WAV is written, so give -o NAME.wav: got {out}")
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent} to write {out.name} into")
    if out.exists() and source.exists() and out.samefile(source):
        raise UsageError(f"{out} is the source itself: give another file with -o")
    with open_sound(source) as file:
        partial = out.with_name(f".{out.name}.partial")  # an interruption leaves no half of a result
        try:
            options = {"subtype": "PCM_16", "format": "WAV"}
            with soundfile.SoundFile(str(partial), "w", file.samplerate, file.channels, **options) as written:
                for block in enhanced_blocks(file, tickets, ticket):
                    written.write(np.clip(block, -1, 1))
                    if on_progress is not None:
                        on_progress(written.tell(), file.frames)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
    return out


def enhanced_blocks(file: soundfile.SoundFile, tickets: TicketModel, ticket: str) -> Iterator[Waves]:
    """The enhanced sound ``[T, channels]`` piece by piece, as long together as the file."""
    rate = file.samplerate
    step, overlap = (CHUNK - OVERLAP) * rate, OVERLAP * rate
    fade = np.linspace(0, 1, overlap, dtype=np.float32)[:, None]
    kept = checked(file.read(overlap, dtype="float32", always_2d=True), file.name)  # heard by two chunks
    before: Waves | None = None
    while True:
        fresh = file.read(step, dtype="float32", always_2d=True)
        chunk = np.concatenate([kept, checked(fresh, file.name) if len(fresh) else fresh])
        made = _enhanced(chunk, rate, tickets, ticket)
        if before is not None:
            made[: len(before)] = fade * made[: len(before)] + (1 - fade) * before
        if len(fresh) < step:
            yield made
            return
        yield made[:-overlap]
        before, kept = made[-overlap:], chunk[-overlap:]


@torch.no_grad()
def _enhanced(chunk: Waves, rate: int, tickets: TicketModel, ticket: str) -> Waves:
    """``[T, channels]`` to the same shape; channels are the batch."""
    waves = torch.from_numpy(np.ascontiguousarray(audio.resample(chunk, rate, audio.RATE).T))
    length = max(waves.shape[1], audio.WINDOW)
    padded = torch.nn.functional.pad(waves, (0, length - waves.shape[1]))
    outputs = audio.waveform(tickets(audio.spectrogram(padded), ticket=ticket), length)
    return audio.resample(outputs[:, : waves.shape[1]].T.numpy(), audio.RATE, rate)[: len(chunk)].copy()


def _ticket(tickets: TicketModel, name: str | None) -> str:
    if name is None:
        if len(tickets.names) > 1:
            raise UsageError(f"which ticket? Give --ticket NAME, one of {', '.join(tickets.names)}")
        return tickets.names[0]
    if name not in tickets.names:
        raise UsageError(unknown("ticket", name, tickets.names))
    return name
