"""What making a batch costs, beside the training step that it is for."""

from __future__ import annotations

import torch

from benchmarks.measure import Side, interleave
from benchmarks.row import Row, ratio
from benchmarks.setting import generator, ghostnet, half
from benchmarks.training import masked_step
from tombola.data.dataset import Data, Split, Stream
from tombola.data.images import crop_and_flip
from tombola.lab.experiments.cifar10 import NORMALISE
from tombola.masks.prunable import scope
from tombola.training.model import FunctionalModel

SAMPLES, BATCH = 50_000, 320


def data_share(full: bool) -> list[Row]:
    pictures = torch.randint(256, (SAMPLES, 3, 32, 32), dtype=torch.uint8, generator=generator())
    split = Split(pictures, torch.arange(SAMPLES) % 10)
    data = Data(split, split, split, prepare=NORMALISE, augment=crop_and_flip)
    stream = Stream(lambda g: torch.randperm(SAMPLES, generator=g), BATCH, 0, "benchmark")
    turn = iter(range(1 << 40))

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        i = next(turn)
        index = stream[i]
        return data.inputs("train", index, generator(i)), split.y[index]

    net = ghostnet()
    f = FunctionalModel(net, scope(net))
    sides: dict[str, Side] = {"batch": batch, "step": masked_step(f, [half(f)], *batch())}
    times = interleave(sides, 30 if full else 8)
    against = f"masked step of GhostNet, batch {BATCH}; cropped, mirrored and normalised from uint8 in memory"
    return [ratio("data_share", times, "batch", "step", against, 0.05)]
