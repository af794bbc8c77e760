"""A recording that passes through several scenes, and tickets at work on it block by block.

Shape letters: K tickets, T samples in time, I blocks, P pieces of the recording.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola._utils.errors import DataError, UsageError
from tombola._utils.rng import generator
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.lab import audio
from tombola.lab.experiments.speech_mixing import LENGTH, Mixer
from tombola.tickets.model import TicketModel

PIECE = 4  # seconds of one speaker in one noise
STEP = audio.RATE // 2  # samples that are decided and enhanced at a time
PAST, AHEAD = 2 * STEP, STEP // 2  # what the network sees before them and after them
FADE = 1024  # samples in which one block gives way to the next


@dataclass(frozen=True)
class Recording:
    """One mixture of pieces, with what is in it.

    Attributes:
        clean_T: the speech, float ``[T]``, 16 kHz.
        noisy_T: speech and noise.
        scene_P: the number of each piece's scene in ``scenes``, int64 ``[P]``; pieces are equally long.
        scenes: their names.
    """

    clean_T: Tensor
    noisy_T: Tensor
    scene_P: Tensor
    scenes: tuple[str, ...]

    @property
    def blocks(self) -> int:
        """How many blocks of `STEP` samples it has."""
        return len(self.noisy_T) // STEP

    def scene_I(self) -> Tensor:
        """The scene in the middle of each block, int64 ``[I]``."""
        middle_I = torch.arange(self.blocks) * STEP + STEP // 2
        return self.scene_P[middle_I * len(self.scene_P) // len(self.noisy_T)]

    def changes(self) -> list[float]:
        """When another scene begins, in seconds."""
        seconds = len(self.noisy_T) / audio.RATE / len(self.scene_P)
        return [float(seconds * (p + 1)) for p in (self.scene_P.diff() != 0).nonzero()[:, 0].tolist()]

    def pieces(self, wave_T: Tensor) -> Tensor:
        """A waveform in the pieces of the recording, ``[P, T / P]``."""
        return wave_T.view(len(self.scene_P), -1)


def recording(
    data: Data, partition: Partition, split: str, order: Sequence[int], snr: float, seconds: int, seed: int
) -> Recording:
    """Held-out voices in held-out noises, scene after scene, at one signal-to-noise ratio.

    Args:
        data: of the experiment speech: rows that `Mixer` makes sounds of.
        partition: by scene.
        split: validation or test.
        order: numbers of the scenes, one after another; a scene may come again.
        snr: in dB, one of those that the split has.
        seconds: how long each scene lasts.
        seed: which voices and noises.

    Raises:
        DataError: data of another kind, or too few mixtures of a scene at this ratio.
        UsageError: ``seconds`` is no multiple of `PIECE`.
    """
    if not isinstance(data.prepare, Mixer) or "snr" not in data.split(split).columns:
        raise DataError(
            "a stream is made of the mixtures of the experiment speech, and these data are others"
        )
    if seconds < PIECE or seconds % PIECE:
        raise UsageError(f"a scene lasts a multiple of {PIECE} seconds: got {seconds}")
    held, count = data.split(split), seconds // PIECE
    at_snr_S = torch.as_tensor(held.column("snr") == snr)
    drawn: list[Tensor] = []
    for k in range(len(partition)):
        mine = (partition.members[split][:, k] & at_snr_S).nonzero()[:, 0]
        needed = count * list(order).count(k)
        if len(mine) < needed:
            known = ", ".join(f"{value:g}" for value in sorted(set(held.column("snr").tolist())))
            raise DataError(
                f"{needed} mixtures of {partition.names[k]} at {snr:g} dB needed, {split} has {len(mine)}, "
                f"and ratios of {known} dB: take one of them, or shorter scenes"
            )
        random = torch.randperm(len(mine), generator=generator(seed, "recording", split, k))
        drawn.append(mine[random])
    turns, parts = [0] * len(partition), []
    for k in order:
        parts.append(drawn[k][turns[k] : turns[k] + count])
        turns[k] += count
    rows = held.x[torch.cat(parts)].clone()
    rows[:, LENGTH] = PIECE * audio.RATE
    clean, noisy = data.prepare.waves(rows)
    where = torch.tensor(order).repeat_interleave(count)
    return Recording(clean.flatten(), noisy.flatten(), where, tuple(partition.names))


def seen(noisy_T: Tensor, i: int) -> tuple[Tensor, int]:
    """What the network is given for block i ``[1, T]``, and where in it the block begins."""
    start = i * STEP
    first = max(0, start - PAST)
    return noisy_T[None, first : start + STEP + AHEAD], start - first


def heard(noisy_T: Tensor, i: int, seconds: float) -> Tensor:
    """What the router is given for block i: the last seconds up to what the network sees, ``[1, T]``."""
    last = min(len(noisy_T), (i + 1) * STEP + AHEAD)
    return noisy_T[None, max(0, last - round(seconds * audio.RATE)) : last]


@torch.no_grad()
def block(noisy_T: Tensor, i: int, tickets: TicketModel, ticket: str) -> Tensor:
    """Block i enhanced by a ticket, with `FADE` samples before it, float ``[FADE + STEP]``."""
    x, at = seen(noisy_T, i)
    made = audio.waveform(tickets(audio.spectrogram(x), ticket=ticket), x.shape[1])[0]
    whole = torch.nn.functional.pad(made, (max(0, FADE - at), 0))
    at = max(at, FADE)
    return whole[at - FADE : at + STEP]


def all_blocks(noisy_T: Tensor, tickets: TicketModel) -> Tensor:
    """Every block by every ticket, ``[K, I, FADE + STEP]``: any way to choose is put together from these."""
    count = len(noisy_T) // STEP
    rows = [torch.stack([block(noisy_T, i, tickets, name) for i in range(count)]) for name in tickets.names]
    return torch.stack(rows)


def joined(blocks_KI: Tensor, who_I: Tensor) -> Tensor:
    """One sound from blocks of several tickets, each faded into the one before, float ``[T]``.

    >>> blocks = torch.stack([torch.zeros(3, FADE + STEP), torch.ones(3, FADE + STEP)])
    >>> sound = joined(blocks, torch.tensor([0, 1, 1]))
    >>> float(sound[0]), float(sound[-1]), 0 < float(sound[STEP - FADE // 2]) < 1
    (0.0, 1.0, True)
    """
    fade = torch.linspace(0, 1, FADE)
    parts: list[Tensor] = []
    for i, k in enumerate(who_I.tolist()):
        made = blocks_KI[k, i]
        if parts:
            parts[-1][-FADE:] = (1 - fade) * parts[-1][-FADE:] + fade * made[:FADE]
        parts.append(made[FADE:].clone())
    return torch.cat(parts)


@torch.no_grad()
def scores(noisy_T: Tensor, tickets: TicketModel, seconds: float) -> tuple[Tensor, Tensor]:
    """What the router says at each block: log-posteriors ``[I, K]`` and confidence ``[I]``."""
    routed = [tickets.route(audio.spectrogram(x)) for x in _heard_all(noisy_T, seconds)]
    return torch.cat([r.scores_BK for r in routed]), torch.cat([r.confidence_B for r in routed])


def _heard_all(noisy_T: Tensor, seconds: float) -> Iterator[Tensor]:
    for i in range(len(noisy_T) // STEP):
        yield heard(noisy_T, i, seconds)
