"""A recording of several scenes enhanced by the router alone: switches, delays, decibels.

What can be chosen (how long the router listens, window, margin) is chosen on recordings of validation data.
Shape letters: K tickets, I blocks, T samples in time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tombola._utils.rng import generator
from tombola.lab import audio
from tombola.lab.evaluation.loaded_run import LoadedRun
from tombola.lab.experiments import speech_stream
from tombola.lab.experiments.speech_stream import AHEAD, STEP, Recording
from tombola.tickets.model import TicketModel
from tombola.tickets.routing import Window, best_window

LISTENS = (1.5, 3.0)  # seconds that the router hears at each decision
DRAWS = 5  # random choices whose mean is reported
TIMED = 15  # blocks whose processor time is taken


@dataclass(frozen=True)
class Choice:
    """How the router is read: seconds it hears, blocks that are averaged, lead that a switch needs."""

    listens: float
    size: int
    margin: float


@dataclass(frozen=True)
class Streamed:
    """What came of one recording.

    Attributes:
        recording: what was enhanced.
        choice: how the router was read.
        who_I: the ticket of each block, int64.
        confidence_I: of the router at each block.
        sounds: waveforms ``[T]``: noisy, router, oracle, clean.
        values: metric to value; see `measure`.
        who: metric ``si_snri`` by who chooses: oracle, router, best fixed ticket, random ticket.
        delays: of each change of scene: its time, and how long another ticket went on, both in seconds.
    """

    recording: Recording
    choice: Choice
    who_I: Tensor
    confidence_I: Tensor
    sounds: dict[str, Tensor]
    values: dict[str, float]
    who: dict[str, float]
    delays: list[tuple[float, float | None]]


def measure(loaded: LoadedRun, tickets: TicketModel, snr: float, seconds: int, seed: int) -> Streamed:
    """Enhance a recording of test data, all scenes one after another, and say how well the router followed.

    Values: ``routing_accuracy``, the share of time in which the right ticket is at work; ``switches`` and
    ``true_switches``; ``delay``, the mean time in seconds from a change of scene until its ticket first
    answers, where it does; ``missed``, changes after which it never does; ``ms_route`` and ``ms_ticket``,
    processor time for a block of half a second, medians.
    """
    K = len(tickets.names)
    held = [
        speech_stream.recording(loaded.data, loaded.partition, "validation", order, snr, seconds, seed + i)
        for i, order in enumerate((range(K), range(K - 1, -1, -1)))
    ]
    choice = choose(tickets, held)
    fixed = _best_fixed(tickets, held[0])
    made = speech_stream.recording(loaded.data, loaded.partition, "test", range(K), snr, seconds, seed)
    scores_IK, confidence_I = speech_stream.scores(made.noisy_T, tickets, choice.listens)
    window = Window(choice.size, choice.margin)
    who_I, truth_I = window(scores_IK), made.scene_I()
    blocks = speech_stream.all_blocks(made.noisy_T, tickets)
    found = {"oracle": truth_I, "router": who_I, "best_fixed": torch.full_like(who_I, fixed)}
    sounds = {name: speech_stream.joined(blocks, who) for name, who in found.items()}
    better = {name: improvement(made, sound) for name, sound in sounds.items()}
    drawn = [
        torch.randint(K, who_I.shape, generator=generator(seed, "random stream", i)) for i in range(DRAWS)
    ]
    random = [improvement(made, speech_stream.joined(blocks, who)) for who in drawn]
    late = delays(made, who_I)
    came = [waited for _, waited in late if waited is not None]
    values = {
        "routing_accuracy": float((who_I == truth_I).double().mean()),
        "switches": window.switches,
        "true_switches": len(late),
        **({"delay": sum(came) / len(came)} if came else {}),
        "missed": len(late) - len(came),
        **_times(tickets, made, choice),
    }
    heard = {
        "noisy": made.noisy_T,
        "router": sounds["router"],
        "oracle": sounds["oracle"],
        "clean": made.clean_T,
    }
    better["random"] = sum(random) / DRAWS
    return Streamed(made, choice, who_I, confidence_I, heard, values, better, late)


def choose(tickets: TicketModel, held: Sequence[Recording]) -> Choice:
    """The choice whose ticket is the right one for most of the time; among equals, the quickest."""
    best, most = Choice(LISTENS[0], 1, 0.0), -1.0
    for listens in LISTENS:
        heard = [speech_stream.scores(each.noisy_T, tickets, listens)[0] for each in held]
        window, share = best_window([(s, each.scene_I()) for s, each in zip(heard, held, strict=True)])
        if share > most:
            best, most = Choice(listens, window.size, window.margin), share
    return best


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
    blocks = speech_stream.all_blocks(held.noisy_T, tickets)
    every = [torch.full((held.blocks,), k) for k in range(len(tickets.names))]
    return max(range(len(every)), key=lambda k: improvement(held, speech_stream.joined(blocks, every[k])))


def _times(tickets: TicketModel, made: Recording, choice: Choice) -> dict[str, float]:
    spent: dict[str, list[float]] = {"ms_route": [], "ms_ticket": []}
    for i in range(min(TIMED, made.blocks)):
        jobs: dict[str, Any] = {
            "ms_route": lambda i=i: tickets.route(
                audio.spectrogram(speech_stream.heard(made.noisy_T, i, choice.listens))
            ),
            "ms_ticket": lambda i=i: speech_stream.block(made.noisy_T, i, tickets, tickets.names[0]),
        }
        for name, job in jobs.items():
            begin = time.process_time()  # not that of other programs on the machine
            job()
            spent[name].append(1e3 * (time.process_time() - begin))
    return {name: sorted(each)[len(each) // 2] for name, each in spent.items()} | {
        "ms_wait": 1e3 * (STEP + AHEAD) / audio.RATE
    }
