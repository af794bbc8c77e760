"""The K trainings of a round: in turn, in workers, and as one batch give the same search."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

import tombola as tb
from tombola._utils.checkpoint import Checkpoint
from tombola._utils.errors import (
    DataError,
    LayerCollapse,
    RunError,
    TombolaError,
    UnknownTicket,
    UsageError,
    WorkerDied,
)
from tombola.cli.main import main
from tombola.lab.models.ghostnet import GhostNet
from tombola.masks.maskset import MaskSet
from tombola.objectives import Classification, OneVsRest
from tombola.pruning.scores import parse
from tombola.runs.directory import Run
from tombola.runs.log import read_environment
from tombola.settings import Settings, TrainConfig
from tombola.training.callbacks.collapse import CollapseMonitor
from tombola.training.callbacks.rules import parse as rule
from tombola.training.callbacks.similarity import SimilarityRecord
from tombola.training.parallel import batched, choose, mapper, settled
from tombola.training.parallel.batched import Batched
from tombola.training.parallel.choose import InTurn, threads
from tombola.training.parallel.workers import Workers
from tombola.training.pruning_context import Pruner, TicketContext
from tombola.training.rewind import StartWeights
from tombola.training.search import find_tickets
from tombola.training.ticket import TicketTrainer, Training

forks = pytest.mark.skipif(bool(choose.hindrance()), reason="no workers here")
PARENT = os.getpid()


@pytest.fixture
def two(monkeypatch):
    """A machine of two cores, on which any search is worth its workers."""
    monkeypatch.setattr(choose, "cores", lambda: 2)
    monkeypatch.setattr(choose, "WORTH", 0.0)


def search(problem, schedule=(200, 120), T=3, *, parallel="no", kept=False, rules=(), **options):
    """Masks, and all that a search leaves behind."""
    names, checkpoint = problem.partition.names, options.pop("checkpoint", Checkpoint())
    pruner = Pruner(**{name: options.pop(name) for name in ("score", "selection") if name in options})
    theta0 = problem.f.theta0()
    start = StartWeights([theta0] * len(names), keeps=kept)
    masks = find_tickets(
        problem,
        theta0,
        MaskSet.dense(problem.f.scope, names),
        schedule,
        T,
        pruner=pruner,
        rewind=start,
        callbacks=[SimilarityRecord(), CollapseMonitor(), *rules],
        checkpoint=checkpoint,
        map_tickets=parallel,
        **options,
    )
    return masks, checkpoint.rows, problem.samples_seen, start.tensors()


def equal(first, second):
    """Whether two searches left the same bits."""
    tensors = first[-1], second[-1]
    assert tensors[0].keys() == tensors[1].keys()
    return first[:-1] == second[:-1] and all(
        torch.equal(t, tensors[1][name]) for name, t in tensors[0].items()
    )


# -- in workers --------------------------------------------------------------------------------------------


@forks
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"score": parse("movement"), "selection": "layer"},
        {"score": parse("snip:2"), "T": 0},
        {"kept": True, "later": TrainConfig(lr=1e-3, batch_size=8)},
        {"rules": [rule("early_bird:0.9:1:1")]},
        {"schedule": (120,), "rules": [rule("rigl:0.3:1")]},
        {"kept": True, "rules": [rule("learned:0.1:frozen")]},
    ],
    ids=["magnitude", "movement", "snip", "kept", "early_bird", "rigl", "learned"],
)
def test_workers_leave_the_same_bits_as_one_after_the_other(make_problem, make_convnet, two, options):
    net = make_convnet(dropout=0.2)
    found = [search(make_problem(net), parallel=way, **options) for way in ("no", "workers")]
    assert equal(*found)
    assert not multiprocessing.active_children()


@forks
def test_workers_of_a_process_with_several_threads_have_the_bits_of_one(make_problem, convnet, two):
    one = search(make_problem(convnet))
    with threads(2):
        torch.nn.functional.conv2d(torch.randn(64, 8, 32, 32), torch.randn(8, 8, 3, 3)).sum()  # threads exist
        assert equal(search(make_problem(convnet), parallel="workers"), one)
        assert torch.get_num_threads() == 2


@forks
@pytest.mark.parametrize("alive", [0, 2, 4])
@pytest.mark.parametrize("way", ["workers", "batched"])
def test_an_interrupted_search_goes_on_to_the_same_bits(make_problem, convnet, interrupted, two, way, alive):
    whole, checkpoint = (
        search(make_problem(convnet), (200, 160, 120, 100, 80), parallel=way),
        interrupted(alive),
    )
    with pytest.raises(KeyboardInterrupt):
        search(make_problem(convnet), (200, 160, 120, 100, 80), parallel=way, checkpoint=checkpoint)
    assert not multiprocessing.active_children()
    checkpoint.alive = -1
    again = search(make_problem(convnet), (200, 160, 120, 100, 80), parallel=way, checkpoint=checkpoint)
    assert (again[0], again[2]) == (whole[0], whole[2])


@forks
@pytest.mark.parametrize(
    ("config", "schedule", "kind"),
    [
        (TrainConfig("SGD", 1e30, 8), (100,), DataError),
        (TrainConfig(lr=1e-2, batch_size=8), (200, 1), LayerCollapse),
    ],
)
def test_an_error_in_a_worker_is_the_same_error_here(make_problem, convnet, two, config, schedule, kind):
    said = []
    for way in ("no", "workers"):
        with pytest.raises(kind) as caught:
            search(make_problem(convnet, config=config), schedule, parallel=way)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "in a worker process" in caught.value.__notes__[0]
    assert not multiprocessing.active_children()


class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


@forks
@pytest.mark.parametrize(
    ("error", "kind"),
    [(UnknownTicket("cta", ["cat"]), TombolaError), (Odd(1, 2), RuntimeError), (KeyError("a"), KeyError)],
)
def test_an_error_that_cannot_be_sent_keeps_its_words(make_problem, convnet, two, error, kind):
    def score(context):
        raise error

    with pytest.raises(kind) as caught:
        search(make_problem(convnet), parallel="workers", score=score)
    assert str(error) in str(caught.value)


@forks
def test_a_killed_worker_is_one_clear_error_that_names_the_ticket(make_problem, convnet, two):
    def score(context):
        if context.k == 1 and os.getpid() != PARENT:
            os.kill(os.getpid(), signal.SIGKILL)
        return context.weights_N.abs()

    with pytest.raises(WorkerDied, match=r"that trained ticket 'middle' ended with signal 9.*goes on from"):
        search(make_problem(convnet), parallel="workers", score=score)
    assert not multiprocessing.active_children()


SCRIPT = """
import signal

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
import sys, time, torch
from torch import nn
import tombola as tb
from tombola.training.parallel import choose

choose.cores, choose.WORTH = lambda: 2, 0.0

class Slow(nn.Linear):
    def forward(self, x):
        print(flush=True)
        time.sleep(0.05)
        return super().forward(x)

x, y = torch.rand(200, 8), torch.arange(200) % 2
data = tb.Data.of(x, y)
net = nn.Sequential(Slow(8, 16), nn.ReLU(), nn.Linear(16, 2))
partition = tb.partition.by_label(data, names=["even", "odd"])
tb.rtl(net, tb.objectives.OneVsRest(), data, partition, T=10_000, steps=1, parallel="workers")
"""


def workers_of(pid):
    children = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True).stdout
    return [int(child) for child in children.split()]


@forks
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(number, tmp_path):
    script = tmp_path / "unguarded.py"  # no `if __name__ == "__main__"`: a fork does not need it
    script.write_text(SCRIPT)
    command = [sys.executable, str(script)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(workers_of(process.pid)) < 2:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    for _ in range(20):  # the network runs
        process.stdout.readline()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.kill()
    errors = process.communicate(timeout=60)[1].decode()  # ends when the last of them lets go of the pipe
    assert process.returncode == -number
    assert errors.count("Traceback") == (1 if number == signal.SIGINT else 0)


# -- as one batch ------------------------------------------------------------------------------------------


def contexts(problem, trajectory=False, rewound=None, density=0.6):
    """Every ticket under a random mask, about to be trained."""
    names, theta0 = problem.partition.names, rewound or problem.f.theta0()
    masks = [
        torch.rand(problem.f.scope.size, generator=torch.Generator().manual_seed(k)) < density
        for k in range(len(names))
    ]
    return [
        TicketContext(problem, theta0, theta0.masked(m), m, k, 1, trajectory) for k, m in enumerate(masks)
    ]


def one_by_one(found, T):
    trainer = TicketTrainer(found[0].problem, T, Pruner())
    return [trainer.train(Training(context)) for context in found]


def as_batch(found, T):
    return batched.train(found, T, found[0].problem.config)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"config": TrainConfig("SGD", 0.05, 8, "cosine", {"momentum": 0.9})},
        {"config": TrainConfig("AdamW", 1e-2, 8, options={"weight_decay": 0.1})},
        {"objective": Classification()},
        {"private": ["1.weight", "1.bias"]},
    ],
    ids=["adam", "sgd", "adamw", "classification", "private"],
)
def test_a_batch_trains_each_ticket_as_alone_up_to_rounding(make_problem, make_convnet, options):
    net = make_convnet()
    net[5].weight.requires_grad_(False)  # a constant
    alone, together = make_problem(net, **options), make_problem(net, **options)
    first, second = contexts(alone, trajectory=True), contexts(together, trajectory=True)
    before = {name: t.clone() for name, t in together.f.module.state_dict().items()}
    losses = one_by_one(first, 4), as_batch(second, 4)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert together.samples_seen == alone.samples_seen
    assert all(torch.equal(t, before[name]) for name, t in together.f.module.state_dict().items())
    for a, b in zip(first, second, strict=True):
        ours, theirs = b.theta.tensors(), a.theta.tensors()
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=2e-4, atol=2e-6)
        assert not torch.equal(ours["weights"], a.theta0.weights_N)
        assert torch.equal(ours["weights"][~b.mask_N], torch.zeros(int((~b.mask_N).sum())))
        torch.testing.assert_close(b.moved_N, a.moved_N, rtol=2e-3, atol=2e-5)


def test_a_batch_trains_in_bfloat16_as_each_alone(make_problem, convnet):
    config = TrainConfig("SGD", 0.05, 8, precision="bfloat16")
    first, second = (contexts(make_problem(convnet, config=config)) for _ in range(2))
    whole = contexts(make_problem(convnet, config=replace(config, precision="float32")))
    losses = [one_by_one(first, 4), as_batch(second, 4), as_batch(whole, 4)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert losses[1] != losses[2]
    assert second[0].theta.weights_N.dtype == torch.float32


def test_a_batch_of_ghostnets_trains_as_each_alone(make_problem):
    x, y = torch.randn(60, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    data = tb.Data.of(x.to(memory_format=torch.channels_last), y)
    problem = make_problem(
        GhostNet(2, torch.Generator().manual_seed(0)),
        config=TrainConfig("SGD", 0.01, 8),
        data=data,
        partition=tb.partition.by_label(data, ["even", "odd"]),
    )
    first, second = contexts(problem), contexts(problem)
    losses = one_by_one(first, 1), as_batch(second, 1)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for a, b in zip(first, second, strict=True):
        ours, theirs = b.theta, a.theta
        torch.testing.assert_close(ours.weights_N, theirs.weights_N, rtol=1e-3, atol=1e-4)
        for name, buffer in theirs.buffers.items():
            torch.testing.assert_close(ours.buffers[name], buffer, rtol=1e-3, atol=1e-4)


def test_private_parts_of_a_rewind_point_stay_with_their_tickets(make_problem, convnet):
    problem = make_problem(convnet, private=["1.weight"])
    rewound = problem.f.theta0().clone(3)
    for k, private in enumerate(rewound.private):
        private.data += k
    first, second = contexts(problem, rewound=rewound), contexts(problem, rewound=rewound)
    one_by_one(first, 4)
    as_batch(second, 4)
    for a, b in zip(first, second, strict=True):
        for p, q in zip(a.theta.private, b.theta.private, strict=True):
            torch.testing.assert_close(q, p)


def test_the_step_of_a_stack_has_the_bits_of_single_steps():
    g = torch.Generator().manual_seed(0)
    values, masks = torch.randn(3, 500, generator=g), torch.rand(3, 500, generator=g) < 0.5
    for config in (TrainConfig(), TrainConfig("AdamW", 0.1, 2, options={"weight_decay": 0.1})):
        stack, rows = values.clone().requires_grad_(), [v.clone().requires_grad_() for v in values]
        whole, single = config.build([stack]), [config.build([row]) for row in rows]
        for _ in range(3):
            stack.grad = torch.randn(3, 500, generator=g)
            whole.step([masks])
            for row, grad, mask, optimizer in zip(rows, stack.grad, masks, single, strict=True):
                row.grad = grad
                optimizer.step([mask])
        assert torch.equal(stack, torch.stack(rows))


def test_a_batched_search_finds_the_same_masks(make_problem, convnet):
    one, other = (search(make_problem(convnet), parallel=way) for way in ("no", "batched"))
    assert other[0] == one[0]
    assert other[2] == one[2]
    for a, b in zip(one[1], other[1], strict=True):
        assert b == {**a, "loss": pytest.approx(a["loss"], rel=1e-4)} if "loss" in a else b == a


def test_what_looks_into_a_training_sees_one_after_the_other(make_problem, convnet):
    looking = {"rules": [rule("early_bird:0.9:1:1")]}
    one, other = (search(make_problem(convnet), parallel=way, **looking) for way in ("no", "batched"))
    assert equal(one, other)


def test_a_network_that_draws_random_numbers_is_refused(make_problem, make_convnet):
    with pytest.raises(UsageError, match=r"cannot be trained as a batch .*random.*parallel=workers"):
        search(make_problem(make_convnet(dropout=0.5)), parallel="batched")


def test_a_loss_that_is_not_finite_names_the_ticket_of_a_batch(make_problem, convnet):
    with pytest.raises(DataError, match="loss of ticket 'top' became"):
        search(make_problem(convnet, config=TrainConfig("SGD", 1e30, 8)), parallel="batched")


# -- the choice --------------------------------------------------------------------------------------------


@pytest.fixture
def work(make_problem, convnet):
    return TicketTrainer(make_problem(convnet), 1, Pruner())


def test_one_core_goes_in_turn_and_several_take_workers_where_that_pays(work, monkeypatch):
    monkeypatch.setattr(choose, "affinity", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(choose, "hindrance", lambda: "")
    with threads(1):
        assert settled("auto") == "no"
        assert mapper("auto", work, 10, 10**6).threads is None
        assert mapper("workers", work, 10, 10**6).threads == 1
    with threads(3):
        assert settled("auto") == "workers"
        chosen = mapper("auto", work, 10, 10**6)
        assert (type(chosen), chosen.count, chosen.cores) == (
            Workers,
            3,
            (),
        )  # one core is left to others: none is pinned
        assert mapper("auto", work, 2, 10**6).count == 2
        assert mapper("auto", work, 10, 1).threads == 1  # too short, to the same bits
        assert mapper("workers", work, 1, 10**6).threads is None  # one ticket has nobody beside it
        assert type(mapper("no", work, 10, 10**6)) is InTurn
        assert type(mapper("batched", work, 10, 1)) is Batched
    with threads(4):
        assert mapper("auto", work, 10, 10**6).cores == [0, 1, 2, 3]


def test_samples_that_take_long_to_read_make_workers_pay(work, monkeypatch):
    class Slow:
        def __len__(self):
            return 40

        def __getitem__(self, i):
            time.sleep(0.002)
            return torch.rand(1, 6, 6), i % 2

    assert choose.reading(work.problem.data.train.x) == 0
    slow = tb.Data.from_dataset(Slow()).train.x
    assert 0.002 <= choose.reading(slow) < 0.1
    monkeypatch.setattr(choose, "affinity", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(choose, "hindrance", lambda: "")
    with threads(3):
        assert type(mapper("auto", work, 10, 100)) is InTurn
        monkeypatch.setattr(choose, "reading", lambda _: 0.002)
        assert type(mapper("auto", work, 10, 100)) is Workers


def test_a_way_that_does_not_exist_or_cannot_be_is_one_clear_error(monkeypatch):
    with pytest.raises(UsageError, match="there is no way to run tickets 'worker'; did you mean 'workers'"):
        settled("worker")
    monkeypatch.setattr(choose, "hindrance", lambda: "no forks here")
    assert settled("auto") == "no"
    with pytest.raises(UsageError, match="no workers: no forks here"):
        settled("workers")


def test_a_run_goes_on_the_way_it_began(tmp_path, monkeypatch):
    config = {"seed": 0, "settings": Settings().plain()}
    with Run(tmp_path / "a", config, parallel="batched") as run:
        assert run.parallel == "batched"
    with Run(tmp_path / "a", config) as run:
        assert run.parallel == "batched"
    assert read_environment(tmp_path / "a")["parallel"] == "batched"
    with pytest.raises(RunError, match="began with parallel=batched, and no may change its last bits"):
        Run(tmp_path / "a", config, parallel="no")
    monkeypatch.setattr(choose, "cores", lambda: 2)
    monkeypatch.setattr(choose, "hindrance", lambda: "")
    with Run(tmp_path / "b", config) as run:
        assert run.parallel == "workers"
    with Run(tmp_path / "c", config, parallel="no"):
        pass
    file = tmp_path / "c" / "environment.json"
    file.write_text(file.read_text().replace('"parallel"', '"before_there_was_a_choice"'))
    with Run(tmp_path / "c", config) as run:
        assert run.parallel == "no"


@forks
def test_a_call_takes_workers_to_the_same_tickets(convnet, images, by_class, two):
    task = (convnet, OneVsRest(), images, by_class)
    given = {"sparsity": 0.5, "T": 2, "steps": 2, "schedule": "fraction:0.3"}
    one, other = (tb.rtl(*task, parallel=way, **given) for way in ("no", "workers"))
    assert one.masks == other.masks
    theirs = other.state_dict()
    assert all(torch.equal(t, theirs[name]) for name, t in one.state_dict().items())


def test_the_command_line_takes_a_way_and_keeps_to_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = [
        "--method",
        "rtl",
        "--sparsity",
        "0.5",
        "--set",
        "T=1",
        "steps=1",
        "statistics=1",
        "schedule=one_shot",
    ]
    for words, status, said in (
        (["run", "digits", *small, "--parallel", "sometimes"], 2, "sometimes"),
        (["run", "digits", *small, "--parallel", "batched"], None, ""),
        (["run", "digits", *small], None, ""),
        (["resume", "runs/digits-quick/seed0", "--parallel", "no"], 1, "began with parallel=batched"),
    ):
        try:
            main(words)
            code = None
        except SystemExit as ended:
            code = ended.code or None
        assert (code, said in capsys.readouterr().err) == (status, True)
    assert read_environment(tmp_path / "runs/digits-quick/seed0")["parallel"] == "batched"
