"""A recording of several scenes enhanced by the router alone: switches, delays, decibels, picture, sounds.

What can be chosen (how long the router listens, window, margin) is chosen on recordings of validation data.
Shape letters: K tickets, I blocks, T samples in time.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from tombola._utils.io import write_bytes
from tombola._utils.rng import generator
from tombola.lab import audio
from tombola.lab.evaluation.loaded_run import LoadedRun
from tombola.lab.evaluation.router_evaluator import median_ms
from tombola.lab.experiments.pictures import decibels, new_figure, power, show_spectrogram, write_sounds
from tombola.lab.experiments.speech_stream import (
    AHEAD,
    STEP,
    Recording,
    all_blocks,
    block,
    heard,
    joined,
    recording,
    scores,
)
from tombola.tickets.model import TicketModel
from tombola.tickets.routing import Window, best_window

LISTENS = (1.5, 3.0)  # seconds that the router hears at each decision
DRAWS = 5  # random choices whose mean is reported
TIMED = 15  # blocks whose processor time is taken
COLOURS = 64  # of the file of a picture, so that it stays small
COLUMNS = 600  # of a spectrogram, so that a minute fits


@dataclass(frozen=True)
class Choice:
    """How the router is read: seconds it hears, blocks that are averaged, lead that a switch needs."""

    listens: float
    window: int
    margin: float


@dataclass(frozen=True)
class Streamed:
    """What came of one recording."""

    recording: Recording  # what was enhanced
    choice: Choice  # how the router was read
    who_I: Tensor  # the ticket of each block, int64
    confidence_I: Tensor  # of the router at each block
    sounds: dict[str, Tensor]  # waveforms ``[T]``: noisy, router, oracle, clean
    values: dict[str, float]  # metric to value; see `measure`
    # metric ``si_snri`` by who chooses: oracle, router, best fixed ticket, random ticket
    who: dict[str, float]
    # of each change of scene: its time, and how long another ticket went on, both in seconds
    delays: list[tuple[float, float | None]]


def measure(loaded: LoadedRun, tickets: TicketModel, snr: float, seconds: int, seed: int) -> Streamed:
    """Enhance a recording of test data, all scenes one after another, and say how well the router followed.

    Values: ``routing_accuracy``, the share of time in which the right ticket is at work; ``switches`` and
    ``true_switches``; ``delay``, the mean time in seconds from a change of scene until its ticket first
    answers, where it does; ``missed``, changes after which it never does; ``ms_route`` and ``ms_ticket``,
    processor time for a block of half a second, medians.
    """
    K, data, subsets = len(tickets.names), loaded.data, loaded.partition
    held = [
        recording(data, subsets, "validation", order, snr, seconds, seed + i)
        for i, order in enumerate((range(K), range(K)[::-1]))
    ]
    choice = choose(tickets, held)
    made = recording(data, subsets, "test", range(K), snr, seconds, seed)
    scores_IK, confidence_I = scores(made.noisy_T, tickets, choice.listens)
    window = Window(choice.window, choice.margin)
    who_I, truth_I = window(scores_IK), made.scene_I()
    blocks = all_blocks(made.noisy_T, tickets)
    random = (generator(seed, "random stream", i) for i in range(DRAWS))
    chosen = {
        "oracle": [truth_I],
        "router": [who_I],
        "best_fixed": [torch.full_like(who_I, _best_fixed(tickets, held[0]))],
        "random": [torch.randint(K, who_I.shape, generator=g) for g in random],
    }
    sounds = {name: [joined(blocks, who) for who in every] for name, every in chosen.items()}
    better = {name: sum(improvement(made, s) for s in every) / len(every) for name, every in sounds.items()}
    late = delays(made, who_I)
    came = [waited for _, waited in late if waited is not None]
    values = {"routing_accuracy": float((who_I == truth_I).double().mean())}
    values |= {"switches": window.switches, "true_switches": len(late)}
    values |= {"delay": sum(came) / len(came)} if came else {}
    values |= {"missed": len(late) - len(came), **_times(tickets, made, choice)}
    (router,), (oracle,) = sounds["router"], sounds["oracle"]
    waves = {"noisy": made.noisy_T, "router": router, "oracle": oracle, "clean": made.clean_T}
    return Streamed(made, choice, who_I, confidence_I, waves, values, better, late)


def choose(tickets: TicketModel, held: Sequence[Recording]) -> Choice:
    """The choice whose ticket is the right one for most of the time; among equals, the quickest."""
    found = []
    for listens in LISTENS:
        window, share = best_window([(scores(r.noisy_T, tickets, listens)[0], r.scene_I()) for r in held])
        found.append((share, Choice(listens, window.size, window.margin)))
    return max(found, key=itemgetter(0))[1]


def improvement(made: Recording, sound_T: Tensor) -> float:
    """SI-SNRi in dB, the mean over the pieces of the recording."""
    clean, noisy, sound = (made.pieces(wave.double()) for wave in (made.clean_T, made.noisy_T, sound_T))
    return float((audio.si_snr(sound, clean) - audio.si_snr(noisy, clean)).mean())


def delays(made: Recording, who_I: Tensor) -> list[tuple[float, float | None]]:
    """For each change of scene: when it was, and how much later its ticket was first at work, in seconds.

    None for a scene whose ticket never came.
    """
    truth_I, found = made.scene_I(), []
    changes = [round(at * audio.RATE / STEP) for at in made.changes()]
    for begin, end in zip(changes, [*changes[1:], len(truth_I)], strict=True):
        right = (who_I[begin:end] == truth_I[begin]).nonzero()
        waited = int(right[0]) * STEP / audio.RATE if len(right) else None
        found.append((begin * STEP / audio.RATE, waited))
    return found


def _best_fixed(tickets: TicketModel, held: Recording) -> int:
    blocks = all_blocks(held.noisy_T, tickets)
    every = [improvement(held, joined(blocks, torch.full((held.blocks,), k))) for k in range(len(blocks))]
    return every.index(max(every))


def _times(tickets: TicketModel, made: Recording, choice: Choice) -> dict[str, float]:
    blocks, wave_T, name = range(min(TIMED, made.blocks)), made.noisy_T, tickets.names[0]

    def route(i: int) -> None:
        tickets.route(audio.spectrogram(heard(wave_T, i, choice.listens)))

    return {
        "ms_route": median_ms(partial(route, i) for i in blocks),
        "ms_ticket": median_ms(partial(block, wave_T, i, tickets, name) for i in blocks),
        "ms_wait": 1e3 * (STEP + AHEAD) / audio.RATE,
    }


def draw(found: Streamed, out: Path, title: str) -> list[Path]:
    """``stream.png`` and four WAV files, all on one scale of loudness, into a folder that is made."""
    out.mkdir(parents=True, exist_ok=True)
    return [_picture(found, out / "stream.png", title), *write_sounds(found.sounds, out)]


def _picture(found: Streamed, file: Path, title: str) -> Path:
    """Spectrograms before and after; scene, ticket and confidence over time."""
    figure = new_figure(10, 7, title)
    before, after, scenes, sure = figure.subplots(4, 1, sharex=True, height_ratios=(3, 3, 1.6, 1.4))
    pictures = [_loudness(found.sounds[name]) for name in ("noisy", "router")]
    top, seconds = max(float(p.max()) for p in pictures), len(found.recording.noisy_T) / audio.RATE
    for axes, picture, name in zip((before, after), pictures, ("noisy", "enhanced, router"), strict=True):
        show_spectrogram(axes, picture, seconds, top)
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_ylabel("kHz")
    blue, names = "#0b5fa5", found.recording.scenes
    at = np.arange(len(found.who_I) + 1) * STEP / audio.RATE
    truth = found.recording.scene_I()
    scenes.stairs(truth.numpy(), at, baseline=None, color="#999999", linewidth=6, label="scene")
    scenes.stairs(found.who_I.numpy(), at, baseline=None, color=blue, linewidth=1.8, label="ticket")
    scenes.set_yticks(range(len(names)), names, fontsize=8)
    scenes.set_ylim(-0.5, len(names) - 0.5)
    scenes.legend(fontsize=7, loc="upper left")
    scenes.set_title(_words(found), fontsize=9, loc="left")
    sure.stairs(found.confidence_I.numpy(), at, baseline=None, color=blue)
    sure.set(ylim=(0, 1.02), xlabel="time, s", ylabel="confidence")
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=90, format="png")
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(small, "PNG", optimize=True)
    write_bytes(file, small.getvalue())
    return file


def _words(found: Streamed) -> str:
    words = [f"right ticket {found.values['routing_accuracy']:.0%} of the time"]
    for at, wait in found.delays:
        came = "never came" if wait is None else f"first came {wait:.1f} s later"
        words.append(f"change at {at:.0f} s: its ticket {came}")
    return "; ".join(words)


def _loudness(wave: Tensor) -> np.ndarray:
    """Loudness ``[COLUMNS, bins / 3]``, means over neighbours."""
    found = power(wave)
    return decibels(adaptive_avg_pool2d(found[None], (COLUMNS, found.shape[1] // 3))[0])
