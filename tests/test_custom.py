"""A task from two functions: its loss in search, training and scores, its metrics in tables and verdicts."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tombola as tb
from tombola._utils.errors import DataError, RunError, UsageError
from tombola._utils.rng import generator
from tombola.cli.main import main
from tombola.data.dataset import Data
from tombola.data.partition import by_column
from tombola.lab.report.rows import rows
from tombola.objectives import SHIPPED, Classification, Custom
from tombola.objectives.metrics import METRICS, MetricInfo, introduced, register_metric

SHORT = {"sparsity": 0.5, "T": 3, "steps": 5, "parallel": "no"}


@pytest.fixture(autouse=True)
def _only_what_ships():
    """Metrics of one's own are forgotten afterwards, as by another process."""
    yield
    forget()


def forget():
    for name in set(METRICS) - SHIPPED:
        del METRICS[name]


@pytest.fixture
def data():
    x = torch.randn(240, 4, generator=generator(0, "custom"))
    site = np.array(["north", "south"])[np.arange(240) % 2]
    return Data.of(x, (x[:, 0] > 0).long(), {"site": site})


@pytest.fixture
def sites(data):
    return by_column(data, "site")


def network(batch_norm=False):
    torch.manual_seed(0)
    norm = [nn.BatchNorm1d(16)] if batch_norm else []
    return nn.Sequential(nn.Linear(4, 16), *norm, nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))


def entropy(net, batch, ticket):
    x, y = batch
    return F.cross_entropy(net(x), y)


def two_views(net, batch, ticket):
    x, y = batch
    one, two = net(x + 0.1 * torch.randn_like(x)), net(x + 0.1 * torch.randn_like(x))
    return F.cross_entropy(one, y) + (one - two).square().mean()


def measures(outputs, targets, ticket):
    right = (outputs.argmax(1) == targets).float().mean()
    return {"rightness": right, "surprise": F.cross_entropy(outputs, targets).item()}


BETTER = {"rightness": "higher", "surprise": "lower"}


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.values(), two.values(), strict=True))


@pytest.mark.parametrize("method", ["rtl", "imp", "snip", "grasp", "taylor", "movement", "imp_per_subset"])
def test_the_loss_of_classification_gives_its_bits(method, data, sites):
    """Search, training and scores read the loss of the two functions where they read that of a class."""
    found = [
        tb.find(method, network(batch_norm=True), objective, data, sites, **SHORT)[0]
        for objective in (Classification(), Custom(entropy, measures, better=BETTER))
    ]
    for one, two in zip(*(outcome.models for outcome in found), strict=True):
        assert torch.equal(one.masks_KN, two.masks_KN)
        assert same(one.state_dict(), two.state_dict())
    assert found[0]["accuracy"] == pytest.approx(found[1]["rightness"], abs=1e-6)


def test_a_loss_may_call_the_network_twice_and_draw(data, sites):
    found = [
        tb.rtl(network(batch_norm=True), Custom(two_views, measures, better=BETTER), data, sites, **SHORT)
        for _ in range(2)
    ]
    assert same(found[0].state_dict(), found[1].state_dict())
    plain = tb.rtl(network(batch_norm=True), Classification(), data, sites, **SHORT)
    assert not same(found[0].state_dict(), plain.state_dict())


def test_the_loss_is_given_the_network_the_batch_and_the_name(data, sites):
    seen = []

    def loss(net, batch, ticket):
        seen.append((ticket, isinstance(net, nn.Sequential), net.training, len(batch)))
        return net[-1](net[:-1](batch[0])).square().mean()  # parts of it have the ticket's weights too

    tb.rtl(network(), Custom(loss, measures, better=BETTER), data, sites, **SHORT)
    assert set(seen) == {("north", True, True, 2), ("south", True, True, 2)}
    seen.clear()
    tb.find("imp", network(), Custom(loss, measures, better=BETTER), data, sites, **SHORT)
    assert {ticket for ticket, *_ in seen} == {"all"}


def test_gradients_of_the_loss_are_those_of_the_ticket_alone(data, sites):
    """After one step nothing outside the mask has moved, however often the network is called."""
    net, objective = network(), Custom(two_views, measures, better=BETTER)
    tickets = tb.rtl(net, objective, data, sites, sparsity=0.5, T=0, steps=5, score="random", parallel="no")
    start = tickets.scope.flatten(dict(net.named_parameters()))
    after, mask, _ = tickets.state("north")
    _, other, _ = tickets.state("south")
    assert torch.equal(after[~(mask | other)], start[~(mask | other)])
    assert not torch.equal(after[mask], start[mask])


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.head = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x, targets=None):
        logits = self.head(torch.relu(self.trunk(x)))
        return {"logits": logits, "loss": None if targets is None else F.cross_entropy(logits, targets)}


def test_a_network_that_computes_its_own_loss_of_a_dictionary(data, sites):
    named = Data(*(tb.Split({"x": s.x}, s.y) for s in (data.train, data.validation, data.test)))

    def loss(net, batch, ticket):
        inputs, y = batch
        return net(**inputs, targets=y)["loss"]

    objective = Custom(loss, measures, better=BETTER, output="logits")
    (found,) = tb.find("rtl", Pair(), objective, named, sites, **SHORT)
    assert found.tickets.predict({"x": data.test.x[:3]}, "north").outputs.shape == (3, 2)


# -- metrics ------------------------------------------------------------------------------------------


def evaluated(metrics, data, sites, **options):
    outputs = torch.zeros(len(data.test), 2)
    task = Custom(entropy, metrics, **options)
    return {(m.name, m.ticket): m.value for m in task.evaluate(lambda split, k, i: outputs[i], data, sites)}


def test_metrics_are_of_the_test_samples_of_each_subset_and_their_mean(data, sites):
    def metrics(outputs, targets, ticket):
        return {"count": len(targets), "only_north": 1.0 if ticket == "north" else float("nan")}

    sizes = sites.sizes("test")
    assert evaluated(metrics, data, sites) == {
        ("count", ""): (sizes["north"] + sizes["south"]) / 2,
        ("count", "north"): sizes["north"],
        ("count", "south"): sizes["south"],
        ("only_north", ""): 1,
        ("only_north", "north"): 1,
    }


def run(data, sites, out, **options):
    objective = Custom(entropy, measures, **options)
    for method in ("rtl", "imp"):
        tb.find(method, network(), objective, data, sites, out=out, **SHORT)


def test_tables_and_verdict_of_another_process_know_which_way_is_better(data, sites, tmp_path, capsys):
    run(data, sites, tmp_path / "run", better=BETTER)
    forget()
    for command in (["compare"], ["report", "--out", str(tmp_path / "page.html")]):
        with pytest.raises(SystemExit) as end:
            main([*command, str(tmp_path / "run")])
        assert not end.value.code
    printed, page = capsys.readouterr().out, (tmp_path / "page.html").read_text()
    assert all(
        word in printed for word in ("rightness", "surprise", "Surprise by subset", "surprise: of imp")
    )
    assert "By rightness, surprise, rtl" in page
    assert (METRICS["rightness"].higher_is_better, METRICS["surprise"].higher_is_better) == (True, False)
    means = {(r["method"], r["metric"]): r["mean"] for r in rows([tmp_path / "run"]) if "ticket" not in r}
    lead = means["imp", "surprise"] - means["rtl", "surprise"]
    assert means["rtl", "surprise_lead"] == pytest.approx(lead)


def test_what_nobody_said_of_a_metric_is_taken_for_granted_with_a_warning(data, sites, tmp_path):
    with pytest.warns(UserWarning, match="'surprise' is compared as if higher were better: say what is"):
        run(data, sites, tmp_path / "run", better={"rightness": "higher"})
    assert METRICS["surprise"].headline
    Custom(entropy, measures, better={"surprise": "lower"})  # said afterwards
    assert not METRICS["surprise"].higher_is_better
    with pytest.raises(RunError, match="says that higher values of surprise are better, others do not"):
        rows([tmp_path / "run"])


def test_a_registered_metric_keeps_its_label_and_families_are_known(recwarn):
    info = MetricInfo("odds", "The odds", table="quality", headline=("",), format="decibel")
    register_metric(info)
    register_metric(MetricInfo("hits_at_*", "Hits at {}", table="quality"))
    found = introduced({"odds": "", "hits_at_5": "", "mae_at_price": "", "accuracy": ""})
    assert found == [info, METRICS["hits_at_*"]]
    assert not recwarn
    with pytest.warns(UserWarning, match="'kappa' is called like one of Tombola's own"):
        assert introduced({"kappa": ""}) == []


# -- what cannot work ---------------------------------------------------------------------------------


def test_the_batched_form_is_refused_before_training(data, sites):
    trained = []

    def loss(net, batch, ticket):
        trained.append(ticket)
        return entropy(net, batch, ticket)

    with pytest.raises(
        UsageError, match="the loss of Custom calls the network itself, so its tickets cannot"
    ):
        tb.rtl(network(), Custom(loss, measures), data, sites, sparsity=0.5, parallel="batched")
    assert not trained


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda net, batch, ticket: 1.0, "a scalar tensor, such as a mean over the batch: got float"),
        (lambda net, batch, ticket: net(batch[0])[:, 0], r"got torch.float32 \(\d+,\)"),
        (
            lambda net, batch, ticket: net(batch[0]).mean().detach(),
            "does not depend on the network's weights",
        ),
    ],
)
def test_a_loss_that_cannot_be_trained_is_one_clear_line(loss, words, data, sites):
    with pytest.raises(UsageError, match=words):
        tb.rtl(network(), Custom(loss, measures), data, sites, **SHORT)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (lambda *_: 0.5, "metrics must return numbers by name, {'mae': 0.5}: got 0.5"),
        (lambda *_: {"each": torch.ones(2)}, "metric 'each' must be one number: got Tensor"),
    ],
)
def test_metrics_that_are_none_are_one_clear_line(metrics, words, data, sites):
    with pytest.raises(UsageError, match=words):
        evaluated(metrics, data, sites)


def test_arguments_that_make_no_sense_are_one_clear_line():
    with pytest.raises(UsageError, match=r"metrics must be a function of \(outputs, targets, ticket\)"):
        Custom(entropy, None)
    with pytest.raises(UsageError, match="higher or lower of each metric: got 'up' for 'hits'"):
        Custom(entropy, measures, better={"hits": "up"})
    with pytest.raises(UsageError, match="mae is a metric of Tombola, and higher is not better"):
        Custom(entropy, measures, better={"mae": "higher"})


def test_several_outputs_need_a_name_before_training(data, sites):
    with pytest.raises(DataError, match="say which part the objective reads"):
        tb.rtl(Pair(), Custom(entropy, measures), data, sites, **SHORT)


def test_another_loss_does_not_go_on_with_a_run(data, sites, tmp_path):
    run(data, sites, tmp_path / "run", better=BETTER)
    with pytest.raises(RunError, match="another loss of the objective"):
        tb.rtl(network(), Custom(two_views, measures), data, sites, out=tmp_path / "run", **SHORT)


def test_routers_and_calibration_say_what_they_cannot(data, sites):
    tickets = tb.rtl(network(), Custom(entropy, measures, better=BETTER), data, sites, **SHORT)
    with pytest.raises(tb.TombolaError, match="what the outputs of Custom tickets say of their context"):
        tb.routing.ScoreRouter().fit(tickets, data, sites)
    with pytest.raises(tb.TombolaError, match="Custom tickets give no probabilities"):
        tb.calibration.Calibration().fit(tickets, data, sites)
    tickets.router = tb.routing.PrototypeRouter().fit(tickets, data, sites)
    assert tickets.predict(data.test.x).outputs.shape == (len(data.test), 2)
