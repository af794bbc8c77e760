"""Regression: a scale taken from training data, metrics in the units of the data, and clear errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import nn
from torch.nn import functional as F

import tombola as tb
from tombola._utils.errors import DataError, UsageError
from tombola._utils.rng import generator
from tombola.cli.main import main
from tombola.cli.predict import _answers
from tombola.data.dataset import Data, Split
from tombola.data.partition import by_column
from tombola.lab.evaluation.router_evaluator import defaults
from tombola.objectives import Classification, MultiLabel, OneVsRest, Reconstruction, Regression
from tombola.objectives.metrics import METRICS, metric_info
from tombola.objectives.regression import errors, in_units
from tombola.tickets.inputs import known

NO_INPUTS = torch.empty(0)


@pytest.fixture
def data():
    """Prices of 300 houses; at the second tenant they fall with what they rise with at the first."""
    x = torch.randn(300, 4, generator=generator(0, "houses"))
    sign = torch.where(torch.arange(300) % 2 == 0, 1.0, -1.0)
    tenant = np.array(["berlin", "paris"])[np.arange(300) % 2]
    return Data.of(x, 300000 + 80000 * sign * x[:, 0], {"tenant": tenant})


@pytest.fixture
def tenants(data):
    return by_column(data, "tenant")


def network(outputs=1):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, outputs))


CONFIG = tb.TrainConfig(lr=0.01, batch_size=16)
SHORT = {"T": 20, "steps": 100, "search": CONFIG, "train": CONFIG, "parallel": "no"}


@pytest.fixture
def tickets(data, tenants):
    return tb.rtl(network(), Regression(), data, tenants, sparsity=0.5, **SHORT)


# -- the scale ----------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    y=st.lists(st.floats(-1e6, 1e6, width=32), min_size=10, max_size=40),
    factor=st.floats(0.01, 1000),
    shift=st.floats(-1000, 1000),
)
def test_standardised_targets_do_not_depend_on_the_unit(y, factor, shift):
    y = torch.tensor(y, dtype=torch.double).round(decimals=2)
    scaled = [Split(torch.zeros(len(y), 1), t) for t in (y.float(), (factor * y + shift).float())]
    if float(y.amax() - y.amin()) * factor < 1e-3 * (1 + float(y.abs().amax() * factor) + abs(shift)):
        return  # what is left is rounding
    index = torch.arange(len(y))
    one, two = (Regression().targets(Data(split, split, split), None, index, 0) for split in scaled)
    torch.testing.assert_close(one, two, atol=1e-2, rtol=1e-3)
    assert abs(float(one.mean())) < 1e-3
    assert abs(float(one.std(correction=0)) - 1) < 1e-3


def test_targets_are_standardised_each_by_itself_over_training_data(data, tenants):
    y = torch.stack([data.train.y, torch.full_like(data.train.y, 7.0)], 1)
    both = Data(Split(data.train.x, y), data.validation, data.test)
    objective = Regression().of(both, tenants)
    found = objective.targets(both, tenants, torch.tensor([3, 0]), 0)
    expected = (data.train.y - data.train.y.mean()) / data.train.y.std(correction=0)
    torch.testing.assert_close(found[:, 0], expected[[3, 0]])
    assert found[:, 1].tolist() == [0, 0]  # a constant target is centred, and not divided by zero
    assert objective.metadata()["scale"]["mean"] == pytest.approx([float(data.train.y.mean()), 7])
    assert objective.metadata()["scale"]["deviation"][1] == 1


@pytest.mark.parametrize("y", [torch.arange(9), np.arange(9.0), torch.arange(9).float()[:, None]])
def test_numbers_of_any_kind_are_targets(y):
    given = Data.of(torch.rand(9, 4), y)
    assert Regression().targets(given, None, torch.arange(3), 0).shape == (3, 1)


# -- the loss -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "expected"), [("mse", (4 + 0.25) / 2), ("mae", 2.5 / 2), ("huber", (1.5 + 0.125) / 2)]
)
def test_the_loss_by_hand(loss, expected):
    outputs, y = torch.tensor([2.0, 0.5]), torch.tensor([[0.0], [0.0]])
    for shape in ((2,), (2, 1)):  # nothing is broadcast
        found = Regression(loss).loss(outputs.view(shape), y, 0, NO_INPUTS)
        assert float(found) == pytest.approx(expected)


def test_what_does_not_fit_is_one_clear_line(data, tenants):
    with pytest.raises(DataError, match=r"shape \(2, 3\), the targets have \(2, 1\): one output per target"):
        Regression().loss(torch.zeros(2, 3), torch.zeros(2, 1), 0, NO_INPUTS)
    with pytest.raises(UsageError, match="loss is one of mse, mae, huber: got 'rmse'"):
        Regression("rmse")
    with pytest.raises(UsageError, match="2 names of targets, but y has 1"):
        Regression(names=["price", "rooms"]).of(data, tenants)
    deep = Data.of(torch.rand(20, 2), torch.rand(20, 2, 2))
    with pytest.raises(DataError, match=r"\[samples\] or \[samples, targets\], not \(14, 2, 2\)"):
        Regression().of(deep, tenants)


@pytest.mark.parametrize(
    "objective", [Classification(), Classification("subset"), MultiLabel(), OneVsRest(), Reconstruction()]
)
@pytest.mark.filterwarnings("ignore:OneVsRest does not use y")
def test_real_targets_lead_from_other_objectives_to_this_one(objective, data, tenants):
    with pytest.raises(DataError, match=r"Regression"):
        tb.rtl(network(), objective, data, tenants, sparsity=0.5, T=1, steps=1, parallel="no")


def test_one_vs_rest_says_that_it_does_not_use_real_targets(data, tenants):
    assert "Regression predicts y" in OneVsRest().doubts(data, tenants)[0]


# -- metrics ------------------------------------------------------------------------------------------


def hand_made(y):
    def split(site, labels):
        return Split(torch.zeros(len(site), 1), torch.tensor(labels), {"site": np.array(list(site))})

    train = split("ab", [y[0], y[-1]])
    return Data(train, train, split("aaabb", y))


@pytest.mark.parametrize("single", [False, True])
def test_metrics_by_hand_in_the_units_of_the_data(single):
    data = hand_made([1.0, 2.0, 3.0, 5.0, 5.0])  # training: 1 and 5, mean 3, deviation 2
    partition = by_column(data, "site")
    outputs = torch.tensor([[-1.0], [-0.5], [1.0], [1.0], [0.0]])  # 1, 2, 5 and 5, 3
    objective = Regression().single(partition) if single else Regression()
    judged = partition.whole() if single else partition
    found = objective.evaluate(lambda split, k, index: outputs[index], data, judged)
    assert {(m.name, m.ticket): m.value for m in found} == {
        ("r2", ""): pytest.approx(-1),  # of a alone: in b the target is constant
        ("r2", "a"): pytest.approx(-1),  # 1 - 4/2
        ("mae", ""): pytest.approx((2 / 3 + 1) / 2),
        ("mae", "a"): pytest.approx(2 / 3),
        ("mae", "b"): pytest.approx(1),
        ("rmse", ""): pytest.approx(((4 / 3) ** 0.5 + 2**0.5) / 2),
        ("rmse", "a"): pytest.approx((4 / 3) ** 0.5),
        ("rmse", "b"): pytest.approx(2**0.5),
    }


def test_where_every_target_is_constant_there_is_no_r2():
    data = hand_made([2.0, 2.0, 2.0, 5.0, 5.0])
    found = Regression().evaluate(
        lambda split, k, index: torch.ones(len(index)), data, by_column(data, "site")
    )
    assert {m.name for m in found} == {"mae", "rmse"}


def test_metrics_of_several_targets_are_those_of_scikit_learn():
    truth, answers = torch.randn(2, 50, 3, generator=generator(0, "targets"), dtype=torch.double)
    found = errors(answers, truth)
    for name, theirs in (
        ("r2", sk.r2_score),
        ("mae", sk.mean_absolute_error),
        ("rmse", sk.root_mean_squared_error),
    ):
        assert found[name].tolist() == pytest.approx(
            theirs(truth, answers, multioutput="raw_values").tolist()
        )


def test_each_of_several_targets_has_metrics_by_its_name():
    data = hand_made([[1.0, 0.0], [2.0, 9.0], [3.0, 4.0], [5.0, 1.0], [5.0, 2.0]])
    outputs = torch.zeros(5, 2)
    found = Regression(names=["price", "age_at_sale"]).evaluate(
        lambda split, k, index: outputs[index], data, by_column(data, "site")
    )
    values = {(m.name, m.ticket): m.value for m in found}
    assert values["mae", "a"] == pytest.approx(
        (values["mae_at_price", "a"] + values["mae_at_age_at_sale", "a"]) / 2
    )
    assert ("r2_at_price", "b") not in values
    assert values["r2", "b"] == values["r2_at_age_at_sale", "b"]
    assert metric_info("mae_at_age_at_sale").label == "MAE of age_at_sale"
    unnamed = Regression().evaluate(lambda split, k, index: outputs[index], data, by_column(data, "site"))
    assert "rmse_at_1" in {m.name for m in unnamed}


def test_its_metrics_are_registered_by_its_own_file():
    assert METRICS["r2"].higher_is_better
    assert METRICS["r2"].primary
    assert not METRICS["mae"].higher_is_better
    assert not METRICS["rmse"].higher_is_better


# -- tickets ------------------------------------------------------------------------------------------


def test_a_file_answers_in_the_units_of_the_data(tickets, data, tenants, tmp_path):
    tickets.save(tmp_path / "houses.tickets")
    again = tb.load(tmp_path / "houses.tickets", network())
    names = [tenants.names[k] for k in tenants.members["test"].int().argmax(1)]
    found = again.predict(data.test.x, names)
    error = (found.outputs[:, 0] - data.test.y).abs().mean()
    assert float(error) < 20000 < float((data.test.y - data.train.y.mean()).abs().mean())
    mean, deviation = data.train.y.double().mean(), data.train.y.double().std(correction=0)
    raw = again(data.test.x, names)
    torch.testing.assert_close(found.outputs, (raw.double() * deviation + mean).float())
    assert found.answer_B is None
    assert in_units(raw, {}) is raw
    assert in_units(raw.bfloat16(), again.metadata).dtype == torch.float32


def test_r2_of_an_outcome_is_that_of_what_predict_answers(data, tenants):
    (outcome,) = tb.find("rtl", network(), Regression(), data, tenants, sparsity=0.5, **SHORT)
    for k, name in enumerate(tenants.names):
        mine = tenants.members["test"][:, k]
        answers = outcome.tickets.predict(data.test.x[mine], name).outputs
        assert outcome.of("r2", name) == pytest.approx(sk.r2_score(data.test.y[mine], answers), abs=1e-5)
        assert outcome.of("r2", name) > 0.9


@pytest.mark.parametrize("mix", [1, 2])
def test_routers_choose_among_its_tickets(mix, tickets, data, tenants):
    tickets.router = tb.routing.PrototypeRouter(mix=mix).fit(tickets, data, tenants)
    found = tickets.predict(data.test.x)
    shares = tickets.route(data.test.x).likeliest(mix)
    parts = [share[:, None] * tickets.predict(data.test.x, names).outputs for names, share in shares]
    torch.testing.assert_close(found.outputs, sum(parts), rtol=1e-4, atol=1)


def test_what_it_has_not_is_said_in_one_line(tickets, data, tenants):
    with pytest.raises(tb.TombolaError, match="Regression tickets give no probabilities"):
        tb.calibration.Calibration().fit(tickets, data, tenants)
    with pytest.raises(tb.TombolaError, match="what the outputs of Regression tickets say of their context"):
        tb.routing.ScoreRouter().fit(tickets, data, tenants)
    assert "score" not in defaults(Regression())


def test_the_command_predict_answers_in_the_units_of_the_data(tickets, data, tmp_path):
    np.savetxt(tmp_path / "two.csv", data.test.x[:2].numpy(), delimiter=",")
    rows = _answers(tickets, known(tickets.metadata), tmp_path / "two.csv", "paris", None)
    expected = tickets.predict(data.test.x[:2], "paris").outputs
    assert [row["answer"] for row in rows] == [pytest.approx(row, rel=1e-4) for row in expected.tolist()]


def test_the_command_export_says_how_outputs_become_answers(tickets, tmp_path, capsys):
    tickets.save(tmp_path / "houses.tickets")
    with pytest.raises(SystemExit):
        main(
            [
                "export",
                str(tmp_path / "houses.tickets"),
                "--ticket",
                "paris",
                "-o",
                str(tmp_path / "paris.pt"),
            ]
        )
    scale = tickets.metadata["scale"]
    assert f"standardised: multiply by {scale['deviation']}, add {scale['mean']}" in capsys.readouterr().err


def test_tables_and_page_show_its_metrics(data, tenants, tmp_path, capsys):
    out = tmp_path / "run"
    for method in ("rtl", "imp", "imp_context", "imp_per_subset", "dense"):
        tb.find(method, network(), Regression(), data, tenants, sparsity=0.5, T=1, steps=1, out=out)
    for command in (["compare", str(out)], ["report", str(out), "--out", str(tmp_path / "page.html")]):
        with pytest.raises(SystemExit) as end:
            main(command)
        assert not end.value.code
    printed, page = capsys.readouterr().out, (tmp_path / "page.html").read_text()
    assert "Quality in decibels" not in printed
    assert all(word in printed for word in ("Quality", "R²", "MAE", "RMSE", "MAE: of imp"))
    assert "By R², MAE, rtl" in page
    with pytest.raises(tb.TombolaError, match="another loss of the objective"):
        tb.find("rtl", network(), Regression("mae"), data, tenants, sparsity=0.5, T=1, steps=1, out=out)


def test_the_loss_is_on_standardised_values(data, tenants):
    objective = Regression().of(data, tenants)
    index, outputs = torch.arange(8), torch.zeros(8, 1)
    found = objective.loss(outputs, objective.targets(data, tenants, index, 0), 0, NO_INPUTS)
    expected = F.mse_loss(
        outputs, ((data.train.y[:8] - data.train.y.mean()) / data.train.y.std(correction=0))[:, None]
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
