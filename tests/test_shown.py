"""What `print` shows of results, and how short their `repr` is."""

import pytest
import torch
from torch import nn

import tombola as tb
from tombola.analysis.affinity import Affinity
from tombola.analysis.plan import planned
from tombola.analysis.specificity import Specificity
from tombola.methods.pipeline import Pipeline
from tombola.runs.cache import StageCache
from tombola.tickets.routing import Routed

SETTINGS = tb.Settings((0.5,), "one_shot", T=2, steps=2)


@pytest.fixture(scope="module")
def cameras():
    """Three cameras of which the last answers the other way; a network, data, partition."""
    torch.manual_seed(0)
    x, camera = torch.randn(1200, 8), torch.arange(1200) % 3
    data = tb.Data.of(x, (x[:, 0] > 0).long() ^ (camera == 2).long(), {"camera": camera})
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    return net, data, tb.partition.by_column(data, "camera", names=["north", "south", "mirror"])


def short(result):
    said = repr(result)
    assert len(said) < 120
    assert "\n" not in said
    assert "tensor" not in said
    return said


def test_an_affinity_is_a_matrix_with_names_bound_least_pair_and_cost(cameras):
    net, data, partition = cameras
    found = tb.affinity(net, tb.objectives.Classification(), data, partition)
    said, matrix = str(found).splitlines(), found.matrix()
    a, b, value = found.least()
    assert value == float(matrix.min())
    assert {a, b} & {"mirror"}
    assert said[0].startswith(f"Affinity of 3 subsets: mean {found.mean:.2f} (")
    assert said[1].startswith("Bound of noise: 0.")
    assert said[2] == f"Least between {a} and {b}: {value:.2f}"
    assert said[3] == f"Took {found.samples:,} passes of a sample, forward and backward"
    assert said[5].split() == ["north", "south", "mirror"]
    assert said[8].split() == ["mirror", *(f"{v:.2f}" for v in matrix[2].tolist())]
    assert short(found).startswith("Affinity(K=3, points=(0, 5, 20), batches=8, mean=-0.")


def test_an_affinity_of_one_subset_or_of_many_is_printed_too():
    one = Affinity(("a",), ("w",), (0,), torch.eye(4, dtype=torch.float64)[None, None])
    assert str(one).startswith("Affinity of 1 subset\n")
    many = Affinity(tuple(map(str, range(20))), ("w",), (0,), torch.eye(40, dtype=torch.float64)[None, None])
    assert str(many).endswith("(20 of them: see .matrix())")
    assert short(one), short(many)


def test_predictions_and_routings_are_tables(cameras):
    net, data, partition = cameras
    task = tb.objectives.Classification()
    tickets = tb.rtl(net, task, data, partition, sparsity=0.5, T=5, steps=5, parallel="no", progress=False)
    tickets.router = tb.routing.PrototypeRouter().fit(tickets, data, partition)
    x = data.test.x[:15]
    found = tickets.predict(x)
    lines = str(found).splitlines()
    assert lines[0].split() == ["answer", "probability", "ticket", "confidence", "why"]
    assert lines[1].split()[:4] == [
        "0",
        str(found.answers[0]),
        f"{found.probability_B[0]:.2f}",
        found.tickets[0],
    ]
    assert (len(lines), lines[-1]) == (14, "and 3 more")
    assert short(found).startswith("Prediction(15 samples: ")
    routed = tickets.route(x[:2])
    assert str(routed).splitlines()[1].split()[:2] == ["0", routed.names[0]]
    assert routed.why(1) in str(routed)
    assert short(routed).startswith("Routed(2 samples by prototype: ")
    values = tb.TicketModel(nn.Linear(8, 2), tickets.masks.dense(tb.scope(nn.Linear(8, 2)), ["a"]))
    assert "see .outputs" in str(values.predict(x[:1]))


def test_advice_scopes_plans_and_specificity_are_printed(cameras):
    net, data, partition = cameras
    task = tb.objectives.Classification()
    advice = tb.advise(net, task, data, partition, sparsity=0.5, minutes=0.02, progress=False)
    assert short(advice) == f"Advice(method={advice.method!r}, sparsity=0.5, arms={len(advice.first)})"
    assert "\nAffinity of subsets\n" in str(advice)
    scope = tb.scope(net, include=["0.weight"])
    assert str(scope) == "1 tensor, 128 numbers\nname      shape    numbers\n0.weight  [16, 8]      128"
    plan = planned(Pipeline(net, task, data, partition, SETTINGS, 0, StageCache()), ["rtl"])
    assert str(plan).splitlines()[1].split() == ["rtl", str(plan.trainings), str(plan.steps)]
    assert short(plan).startswith("Plan(stages=")
    assert str(Specificity(0.5, 0.25)).endswith("overlap 0.50, 1 where masks differ by chance alone")


def test_a_routing_of_no_samples_is_printed():
    nobody = Routed(("cat", "dog"), torch.zeros(0, 2), torch.zeros(0), "gate")
    assert repr(nobody) == "Routed(0 samples by gate: )"
    assert str(nobody).split() == ["ticket", "confidence", "why"]
