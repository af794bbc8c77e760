"""Several processes of one job: the same search to the bit, joint training as by one process, one writer."""

import itertools
import multiprocessing
import os
import pickle
import signal
import socket
import time

import pytest
import torch
import torch._dynamo  # an optimiser imports it when it is made: here, and not in every fork
import torch.distributed as dist
from torch import nn

import tombola as tb
from tombola._utils import ranks as ranks_module
from tombola._utils.checkpoint import Checkpoint
from tombola._utils.errors import LayerCollapse, RankLost, RunError, UsageError
from tombola._utils.ranks import ranks
from tombola.cli.main import main
from tombola.masks.maskset import MaskSet
from tombola.objectives import Classification
from tombola.runs.directory import Run
from tombola.runs.log import read_environment
from tombola.settings import TrainConfig
from tombola.training.callbacks.rules import parse as rule
from tombola.training.callbacks.similarity import SimilarityRecord
from tombola.training.joint import train_jointly
from tombola.training.parallel import choose, settled
from tombola.training.parallel.gradients import Gradients, RankGradients
from tombola.training.pruning_context import Pruner
from tombola.training.rewind import StartWeights
from tombola.training.search import find_tickets

pytestmark = pytest.mark.skipif(bool(choose.hindrance()) or not dist.is_available(), reason="no ranks here")


# -- the search --------------------------------------------------------------------------------------------


def search(problem, parallel="ranks", schedule=(200, 120), T=3, kept=False, rules=(), score=None):
    """Masks, records, samples and kept weights of a search."""
    names, theta0, checkpoint = problem.partition.names, problem.f.theta0(), Checkpoint()
    start = StartWeights([theta0] * len(names), keeps=kept)
    masks = find_tickets(
        problem,
        theta0,
        MaskSet.dense(problem.f.scope, names),
        schedule,
        T,
        pruner=Pruner(score) if score else None,
        rewind=start,
        callbacks=[SimilarityRecord(), *rules],
        map_tickets=parallel,
        checkpoint=checkpoint,
    )
    kept_weights = {name: t.tolist() for name, t in start.tensors().items()}
    return masks.pack().tolist(), checkpoint.rows, problem.samples_seen, kept_weights


@pytest.mark.parametrize(
    ("size", "options"),
    [(2, {}), (3, {"kept": True}), (4, {"rules": [rule("early_bird:0.9:1:1")]})],
    ids=["two", "kept", "more than tickets"],
)
def test_a_search_over_ranks_has_the_bits_of_one_process(make_problem, make_convnet, over, size, options):
    net = make_convnet(dropout=0.2)
    alone = search(make_problem(net), "no", **options)
    assert over(lambda _: search(make_problem(net), **options), size) == [alone] * size


def test_what_a_rank_has_of_a_round_may_be_one_batch(make_problem, convnet, over):
    alone = search(make_problem(convnet), "no")
    found = over(lambda _: search(make_problem(convnet), "batched_ranks"))
    assert same(*found)
    masks, rows, seen, _ = found[0]
    assert (masks, seen) == (alone[0], alone[2])
    losses = [
        {**row, "loss": pytest.approx(row["loss"], rel=1e-4)} if "loss" in row else row for row in alone[1]
    ]
    assert rows == losses
    found = over(lambda _: search(make_problem(convnet), "batched_ranks", schedule=(200, 1)))
    assert [type(error) for error in found] == [LayerCollapse] * 2


def test_an_error_of_one_ticket_is_the_error_of_all_ranks(make_problem, convnet, over):
    found = over(lambda _: search(make_problem(convnet), schedule=(200, 1)))
    assert [type(error) for error in found] == [LayerCollapse] * 2
    assert len(set(map(str, found))) == 1


def test_ranks_that_start_from_other_masks_are_told_so(make_problem, convnet, over):
    def work(rank):
        ranks().agree("seeds", "same")
        ranks().agree("masks", f"{rank}")

    found = over(work, 3)
    assert [str(error) for error in found] == [str(found[0])] * 3
    assert "masks differ between ranks: 0 on rank 0, 1 on rank 1" in str(found[0])


# -- joint training ----------------------------------------------------------------------------------------

RECIPES = [
    TrainConfig("SGD", 0.1, 8, options={"momentum": 0.9, "weight_decay": 0.01}),
    TrainConfig("Adam", 0.01, 10, lr_schedule="cosine"),
]


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3))


def trained(problem, masks, gradients=None, **options):
    """Weights, records and samples of joint training."""
    checkpoint = Checkpoint()
    theta = train_jointly(
        problem,
        problem.f.theta0(),
        masks,
        6,
        save_every=4,
        gradients=gradients,
        checkpoint=checkpoint,
        **options,
    )
    tensors = {name: t.numpy() for name, t in theta.tensors().items()}
    return tensors, checkpoint.rows, problem.samples_seen


def on_ranks(problem, masks, **options):
    return trained(problem, masks, RankGradients(problem, ranks()), **options)


def close(ours, theirs):
    for name, tensor in theirs[0].items():
        torch.testing.assert_close(
            torch.tensor(ours[0][name]), torch.tensor(tensor), rtol=1e-4, atol=2e-6, msg=name
        )
    assert ours[2] == theirs[2]
    assert ours[1] == [{**row, "loss": pytest.approx(row["loss"], rel=1e-4)} for row in theirs[1]]


def same(one, other):
    return pickle.dumps(one) == pickle.dumps(other)


CASES = [
    *itertools.product(RECIPES, ({"form": "sequential"}, {"form": "simultaneous"})),
    (RECIPES[0], {"tickets": [1], "form": "simultaneous"}),  # a ticket alone
    (RECIPES[1], {"shares": "size"}),
]


@pytest.mark.parametrize("size", [2, 3])
def test_joint_training_over_ranks_is_that_of_one_process(make_problem, random_masks, over, size):
    private = {"private": ["3.bias"]}
    problems = [make_problem(perceptron(), Classification(), config, **private) for config, _ in CASES]
    masks = random_masks(problems[0].f.scope, density=0.4)
    cases = [(problem, options) for problem, (_, options) in zip(problems, CASES, strict=True)]
    found = over(lambda _: [on_ranks(problem, masks, **options) for problem, options in cases], size)
    assert all(same(one, found[0]) for one in found)
    for (problem, options), ours in zip(cases, found[0], strict=True):
        outside = ~masks.union()
        kept = torch.tensor(ours[0]["weights"])[outside]
        assert torch.equal(kept, problem.f.theta0().weights_N.detach()[outside])
        close(ours, trained(problem, masks, **options))


class Parts(Gradients):
    """The oracle where a norm sees parts of a batch: one process that goes through the parts in turn."""

    def add(self, theta, mask_N, batch, group):
        halves = zip(batch.x.tensor_split(2), batch.targets.tensor_split(2), strict=True)
        losses = []
        for x, targets in halves:
            loss = self.problem.loss(theta, mask_N, batch._replace(x=x, targets=targets)) / 2
            loss.backward()
            losses.append(loss.detach())
        return sum(losses)


def test_a_norm_sees_the_part_of_its_rank(make_problem, convnet, random_masks, over):
    problem = make_problem(convnet, Classification())
    masks = random_masks(problem.f.scope)
    ours, other = over(lambda _: on_ranks(problem, masks))
    assert same(ours, other)  # running statistics too
    theirs = trained(problem, masks, Parts(problem))
    weights = [torch.tensor(one[0]["weights"]) for one in (ours, theirs, trained(problem, masks))]
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=2e-6)
    assert not torch.allclose(weights[0], weights[2], rtol=1e-4, atol=2e-6)


def test_a_batch_that_is_too_small_is_refused(make_problem, convnet, random_masks, over):
    problem = make_problem(convnet, config=TrainConfig(batch_size=4))
    masks = random_masks(problem.f.scope)
    found = over(lambda _: on_ranks(problem, masks), 3)
    assert all(isinstance(error, UsageError) and "batch_size=4 over 3 ranks" in str(error) for error in found)


# -- a run -------------------------------------------------------------------------------------------------

TINY = {"sparsity": [0.5, 0.75], "T": 2, "steps": 4, "statistics": 1, "schedule": "fraction:0.4"}


def find(images, by_class, net, out, parallel="auto", **changes):
    """The masks of a run, and whether this process has its file."""
    found = tb.find(
        *("rtl", net, Classification(), images, by_class), out=out, parallel=parallel, **{**TINY, **changes}
    )
    return [outcome.models[0].masks.pack().tolist() for outcome in found], found[-1]["accuracy"]


def bytes_of(path):
    """Everything that a run consists of, but for the times and the environment."""
    left_out = ("timings.jsonl", "environment.json", ".lock")
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name not in left_out
    }


def test_rank_0_writes_the_run_of_one_process(images, by_class, convnet, over, tmp_path):
    args = images, by_class, convnet
    alone = find(*args, tmp_path / "alone", "no")
    assert over(lambda _: find(*args, tmp_path / "run"), 3) == [alone] * 3
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "alone")
    assert read_environment(tmp_path / "run")["parallel"] == "ranks"
    assert over(lambda _: find(*args, None)) == [alone] * 2  # in memory
    before = (tmp_path / "run" / "timings.jsonl").read_bytes()
    next((tmp_path / "run" / "tickets").iterdir()).unlink()
    assert over(lambda _: find(*args, tmp_path / "run")) == [alone] * 2
    assert (tmp_path / "run" / "timings.jsonl").read_bytes() == before  # all of it was there
    assert find(*args, tmp_path / "run") == alone  # and one process goes on with it


@pytest.mark.parametrize(
    ("parallel", "kills"), [("ranks", [(1, 5)]), ("joint_ranks", [(0, 6), (1, 3)])], ids=["ranks", "joint"]
)
def test_a_killed_rank_goes_on_to_the_same_bytes(
    images, by_class, make_convnet, over, tmp_path, monkeypatch, parallel, kills
):
    args, options = (images, by_class, make_convnet()), {"steps": 6, "sparsity": 0.5}
    begin = Run.__init__  # every state is saved
    monkeypatch.setattr(Run, "__init__", lambda *args, **named: begin(*args, **{**named, "save_seconds": 0}))
    if parallel == "ranks":  # it has the bytes of one process
        find(*args, tmp_path / "whole", "no", **options)
    else:
        over(lambda _: find(*args, tmp_path / "whole", parallel, **options))
    for victim, at in kills:
        run = tmp_path / f"rank{victim}"

        def killed(rank, victim=victim, at=at, run=run):
            if rank == victim:
                calls = iter(range(10**6))
                told = ranks_module.Ranks._show

                def show(self):
                    if next(calls) == at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    told(self)

                ranks_module.Ranks._show = show
            return find(*args, run, parallel, **options)

        monkeypatch.setenv(ranks_module.TIMEOUT, "3")
        found = over(killed)
        assert found[victim] is None
        assert isinstance(found[1 - victim], RankLost)
        assert "the same command goes on" in str(found[1 - victim])
        monkeypatch.delenv(ranks_module.TIMEOUT)
        size = 3 if parallel == "ranks" else 2  # any number has the bytes of a search that is shared out
        over(lambda _, run=run: find(*args, run, parallel, **options), size)
        assert bytes_of(run) == bytes_of(tmp_path / "whole")


def test_another_number_of_ranks_is_said_where_bytes_change(images, by_class, convnet, over, tmp_path):
    args = images, by_class, convnet
    over(lambda _: find(*args, tmp_path / "run", "joint_ranks", sparsity=0.5))
    settings = {**TINY, "sparsity": 0.5}
    with pytest.warns(
        UserWarning, match="began on 2 ranks and goes on with 1: masks and finished stages keep"
    ):
        tb.find("rtl", convnet, Classification(), images, by_class, out=tmp_path / "run", **settings)


def test_what_ranks_do_not_agree_on_is_said(images, by_class, convnet, over, tmp_path):
    def work(rank):
        return find(images, by_class, convnet, tmp_path / "run", T=2 + rank)

    error = over(work, seconds=5)[1]
    assert isinstance(error, RunError)
    assert "rank 1 was given other settings: T: 2 there, 3 here" in str(error)
    find(images, by_class, convnet, tmp_path / "other", "no", sparsity=0.5)
    for error in over(lambda _: find(images, by_class, convnet, tmp_path / "other", sparsity=0.5)):
        assert isinstance(error, RunError)
        assert "began with parallel=no, and ranks may change" in str(error)


@pytest.mark.parametrize("joint", [False, True])
def test_a_hung_rank_is_named_with_its_ticket(make_problem, random_masks, over, monkeypatch, joint):
    monkeypatch.setenv(ranks_module.TIMEOUT, "1")
    monkeypatch.setattr(ranks_module, "GRACE", 0.5)
    problem = make_problem(perceptron(), Classification())
    masks = random_masks(problem.f.scope)

    def work(rank):
        def score(context):
            if rank == 1:
                time.sleep(4)
            return context.weights_N.abs()

        if not joint:
            return search(problem, score=score)
        gradients = RankGradients(problem, ranks())
        if rank == 1:
            gradients.add = lambda *_: time.sleep(4)
        return trained(problem, masks, gradients)

    error = over(work, seconds=1)[0]
    assert isinstance(error, RankLost)
    at = "joint training, ticket 'top'" if joint else "ticket 'middle', round 0"
    assert f"rank 1 has been silent for 1 s, at {at}: the same command goes on" in str(error)


def test_auto_is_over_ranks_inside_a_group_alone(over):
    assert settled("auto") != "ranks"
    assert (
        over(lambda _: (settled("auto"), settled("auto", over_ranks=False) != "ranks"))
        == [("ranks", True)] * 2
    )


def test_a_time_out_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv(ranks_module.TIMEOUT, "soon")
    with pytest.raises(UsageError, match="TOMBOLA_TIMEOUT is a number of seconds above 0: got 'soon'"):
        ranks_module.limit()


# -- the command line --------------------------------------------------------------------------------------


def test_the_command_line_joins_by_the_variables_of_torchrun(tmp_path, capfd):
    command = ["run", "digits", "--method", "rtl", "--sparsity", "0.5", "--threads", "1", "--brief", "--set"]
    command += ["T=1", "steps=2", "schedule=one_shot", "statistics=1", "--out"]
    with pytest.raises(SystemExit):
        main([*command, str(tmp_path / "alone"), "--parallel", "no"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    said = capfd.readouterr().out

    def rank(number):
        variables = {"RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update(variables)
        main([*command, str(tmp_path / "ranks")])

    processes = [multiprocessing.get_context("fork").Process(target=rank, args=(r,)) for r in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert capfd.readouterr().out == said  # once, and not by each
    runs = [tmp_path / way / "digits-quick" / "seed0" for way in ("alone", "ranks")]
    assert bytes_of(runs[0]) == bytes_of(runs[1])
