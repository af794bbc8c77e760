"""Shared by all tests: one thread, tiny networks, tiny data."""

import gc
import itertools
import multiprocessing
import os
import pickle
import shutil
import sys
import time
import traceback
from datetime import timedelta

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything reads it: nothing is downloaded in tests

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from tombola._utils import ranks as ranks_module
from tombola._utils.rng import generator
from tombola.data import partition as partitions
from tombola.data.dataset import Data
from tombola.lab.experiments import images as images_module
from tombola.lab.models.ghostnet import kaiming_
from tombola.masks.prunable import scope
from tombola.objectives import OneVsRest
from tombola.settings import TrainConfig
from tombola.training.model import FunctionalModel
from tombola.training.trainer import Problem

torch.set_num_threads(1)
# A child that looked for garbage in what it inherited would copy the memory of all tests before it.
os.register_at_fork(after_in_child=gc.freeze)


@pytest.fixture
def make_convnet():
    """A factory of tiny convolutional networks with batch norm; 252 weights in scope."""

    def make(outputs: int = 3, seed: int = 0, dropout: float = 0.0) -> nn.Module:
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, outputs),
        )
        g = generator(seed, "convnet")
        kaiming_(net, g)
        for layer in (net[1], net[5]):  # a network that has seen data: no statistic is 0 or 1
            nn.init.normal_(layer.running_mean, 0, 0.1, generator=g)
            nn.init.uniform_(layer.running_var, 0.5, 1.5, generator=g)
            nn.init.uniform_(layer.weight, 0.5, 1.5, generator=g)
            nn.init.normal_(layer.bias, 0, 0.1, generator=g)
        return net

    return make


@pytest.fixture
def convnet(make_convnet) -> nn.Module:
    return make_convnet()


@pytest.fixture
def images() -> Data:
    """180 images [1, 6, 6] of three classes that a small network can tell apart, and a column."""
    g = generator(0, "images")
    y = torch.arange(180) % 3
    x = 0.5 * torch.randn(180, 1, 6, 6, generator=g)
    for c in range(3):
        x[y == c, 0, 2 * c : 2 * c + 2] += 1.0
    site = np.array(["north", "south"])[torch.randint(2, (180,), generator=g).numpy()]
    return Data.of(x, y, {"site": site}, validation=0.2, test=0.3)


@pytest.fixture
def by_class(images):
    return partitions.by_label(images, ["top", "middle", "bottom"])


@pytest.fixture
def make_problem(images, by_class):
    """A factory of problems over the images."""

    def make(backbone, objective=None, config=None, seed=0, partition=None, data=None, **options) -> Problem:
        f = FunctionalModel(backbone, scope(backbone), options.pop("private", ()))
        config = config or TrainConfig(lr=1e-2, batch_size=8)
        return Problem(
            f, data or images, partition or by_class, objective or OneVsRest(), config, seed, **options
        )

    return make


@pytest.fixture
def random_masks():
    """A factory of named random masks over a scope."""
    from tombola.masks.maskset import MaskSet

    def make(layout, names=("top", "middle", "bottom"), density: float = 0.5, seed: int = 0) -> MaskSet:
        g = generator(seed, "masks")
        return MaskSet(layout, {name: torch.rand(layout.size, generator=g) < density for name in names})

    return make


@pytest.fixture
def interrupted():
    """A stage that keeps what is saved as a file would, and dies after ``alive`` saves."""
    from tombola._utils.checkpoint import Checkpoint

    class Interrupted(Checkpoint):
        def __init__(self, alive: int) -> None:
            super().__init__()
            self.alive, self.saved = alive, None

        def load(self):
            return self.saved

        def save(self, tensors, metadata):
            if self.alive == 0:
                raise KeyboardInterrupt
            self.alive -= 1
            self.saved = {name: t.clone() for name, t in tensors().items()}, dict(metadata)

    return Interrupted


@pytest.fixture
def fresh_accelerate():
    """Accelerate as a new process has it: its state, of the whole process, is that of its first user."""
    yield
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


@pytest.fixture
def browser():
    """Headless Chromium, for what a page looks like; the tests are skipped where it is absent."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as p:
        try:
            started = p.chromium.launch(executable_path=found, args=["--no-sandbox"] if found else [])
        except playwright.Error as error:
            pytest.skip(f"Chromium is not installed or does not start: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture
def few_pictures(monkeypatch):
    """Of the pictures of a split 2,000 are decoded, for time; the others are black."""
    every = images_module._pixels
    monkeypatch.setattr(images_module, "_pixels", lambda *of: itertools.islice(every(*of), 2_000))


@pytest.fixture
def over(tmp_path):
    """A function that runs another one on N ranks: forks of this process, which share all that it made.

    The results by rank; an error of a rank is its result.
    """

    def serve(work, rank, size, folder, seconds):
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/store",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=seconds),
        )
        try:
            found = work(rank)
        except BaseException as error:  # those of pytest are no Exceptions
            traceback.print_exc()
            found = error
        (folder / f"{rank}.new").write_bytes(pickle.dumps(found))
        (folder / f"{rank}.new").rename(folder / f"{rank}.pickle")
        ranks_module._known = None
        gc.collect()
        dist.destroy_process_group()
        os._exit(0)

    def run(work, size=2, seconds=60):
        folder = tmp_path / f"ranks{time.monotonic_ns()}"
        folder.mkdir()
        context = multiprocessing.get_context("fork")
        processes = [
            context.Process(target=serve, args=(work, r, size, folder, seconds)) for r in range(size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
            process.kill()
        files = [folder / f"{rank}.pickle" for rank in range(size)]
        return [pickle.loads(file.read_bytes()) if file.exists() else None for file in files]

    return run
