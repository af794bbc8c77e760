"""Several labels per sample: an objective in one file, which everything else takes as it is."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import nn
from torch.nn import functional as F

import tombola as tb
from tombola._utils.errors import DataError
from tombola._utils.rng import generator
from tombola.cli.main import main
from tombola.cli.predict import _answers, _text
from tombola.data.dataset import Data, Split
from tombola.data.partition import by_column
from tombola.objectives import MultiLabel
from tombola.objectives.metrics import METRICS
from tombola.tickets.inputs import known

NO_INPUTS = torch.empty(0)


@pytest.fixture
def data():
    """240 samples at two sites; label c is whether input c is above zero, at the other site below."""
    x = torch.randn(240, 4, generator=generator(0, "labels"))
    site = np.array(["north", "south"])[np.arange(240) % 2]
    sign = torch.where(torch.arange(240) % 2 == 0, 1.0, -1.0)[:, None]
    return Data.of(x, (x[:, :3] * sign > 0).float(), {"site": site}, validation=0.2, test=0.3)


@pytest.fixture
def by_site(data):
    return by_column(data, "site")


def network(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, outputs))


@pytest.fixture
def tickets(data, by_site):
    config = tb.TrainConfig(lr=0.01, batch_size=8)
    settings = {"T": 20, "steps": 200, "search": config, "train": config, "parallel": "no"}
    return tb.rtl(network(), MultiLabel(), data, by_site, sparsity=0.5, **settings)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_targets_are_zeros_and_ones_of_any_type(data, by_site, dtype):
    given = Data.of(data.train.x, data.train.y.to(dtype))
    targets = MultiLabel().targets(given, by_site, torch.tensor([5, 0]), 0)
    assert targets.dtype == torch.float32
    assert torch.equal(targets, given.train.y[[5, 0]].float())


@pytest.mark.parametrize("y", [torch.arange(9), torch.full((9, 2), 2), torch.full((9, 2), 0.5)])
def test_what_is_no_set_of_labels_is_an_error(by_site, y):
    given = Data.of(torch.rand(9, 4), y)
    with pytest.raises(DataError, match=r"needs 0 or 1 for each label in y, \[samples, labels\], not"):
        MultiLabel().targets(given, by_site, torch.arange(3), 0)


def test_the_loss_is_binary_cross_entropy_over_all_outputs():
    outputs, y = torch.tensor([[0.0, 2.0], [-1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    by_hand = -F.logsigmoid(torch.tensor([0.0, -2.0, 1.0, 0.0])).mean()
    torch.testing.assert_close(MultiLabel().loss(outputs, y, 0, NO_INPUTS), by_hand)
    with pytest.raises(DataError, match=r"outputs of shape \(2, 3\), the targets have \(2, 2\): one output"):
        MultiLabel().loss(torch.zeros(2, 3), y, 0, NO_INPUTS)


def hand_made():
    """Test samples of subset a (four) and b (two); the third label is never true in either."""

    def split(site, labels):
        y = torch.tensor(labels, dtype=torch.float)
        return Split(torch.zeros(len(y), 1), y, {"site": np.array(list(site))})

    train = split("ab", [[1, 0, 0], [0, 1, 0]])
    test = split("aaaabb", [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]])
    return Data(train, train, test)


OUTPUTS = torch.tensor(
    [
        [4.0, 1.0, -1.0],  # a: label 0 right, label 1 said and not true
        [-3.0, 2.0, -1.0],  # a: label 0 missed, label 1 right
        [-2.0, -4.0, -1.0],  # a: label 1 missed
        [-5.0, -3.0, -1.0],  # a: nothing, rightly
        [1.0, -1.0, -1.0],  # b: right
        [1.0, -1.0, -1.0],  # b: right
    ]
)


@pytest.mark.parametrize("single", [False, True])
def test_metrics_by_hand(single):
    data = hand_made()
    partition = by_column(data, "site")
    objective = MultiLabel().single(partition) if single else MultiLabel()
    judged = partition.whole() if single else partition
    found = objective.evaluate(lambda split, k, index: OUTPUTS[index], data, judged)
    values = {(m.name, m.ticket): m.value for m in found}
    # Subset a. Label 0: a hit, a miss: F1 2/3; scores 4 (true), -2, -3 (true), -5: precision 1 and 2/3.
    # Label 1: a hit, a false alarm, a miss: F1 1/2; scores 2 (true), 1, -3, -4 (true): precision 1 and 1/2.
    # Label 2 is never true nor said. All together: two hits, three errors: F1 4/7. Subset b is all right.
    assert values == {
        ("f1_macro", ""): pytest.approx((7 / 12 + 1) / 2),
        ("f1_macro", "a"): pytest.approx((2 / 3 + 1 / 2) / 2),
        ("f1_macro", "b"): 1.0,
        ("f1_micro", ""): pytest.approx((4 / 7 + 1) / 2),
        ("f1_micro", "a"): pytest.approx(4 / 7),
        ("f1_micro", "b"): 1.0,
        ("mean_average_precision", ""): pytest.approx((19 / 24 + 1) / 2),
        ("mean_average_precision", "a"): pytest.approx((5 / 6 + 3 / 4) / 2),
        ("mean_average_precision", "b"): 1.0,
    }
    assert {m.reading for m in found} == {"like_for_like"}


def test_f1_and_average_precision_are_those_of_scikit_learn(data, by_site):
    outputs = torch.randn(len(data.test), 3, generator=generator(0, "outputs"))
    found = MultiLabel().evaluate(lambda split, k, index: outputs[index], data, by_site)
    values = {(m.name, m.ticket): m.value for m in found}
    for k, name in enumerate(by_site.names):
        index = by_site.members["test"][:, k]
        truth, scores = data.test.y[index].numpy(), outputs[index].numpy()
        for average in ("macro", "micro"):
            expected = sk.f1_score(truth, scores > 0, average=average)
            assert values[f"f1_{average}", name] == pytest.approx(expected)
        expected = sk.average_precision_score(truth, scores, average="macro")
        assert values["mean_average_precision", name] == pytest.approx(expected)


def test_a_subset_without_any_label_counts_in_no_mean():
    data = hand_made()
    data.test.y[4:] = 0
    partition = by_column(data, "site")
    found = MultiLabel().evaluate(lambda split, k, index: -OUTPUTS[index].abs(), data, partition)
    assert [m.ticket for m in found if m.name == "mean_average_precision"] == ["", "a"]


def test_its_metrics_are_registered_by_its_own_file():
    for name in ("f1_macro", "f1_micro", "mean_average_precision"):
        assert METRICS[name].higher_is_better
        assert METRICS[name].format == "share"


def test_tickets_are_found_and_answer_with_sets_of_labels(tickets, data, by_site, tmp_path):
    tickets.save(tmp_path / "labels.tickets")
    again = tb.load(tmp_path / "labels.tickets", network())
    assert (again.metadata["answer"], again.metadata["router_score"]) == ("labels", "max_logit")
    x = data.test.x
    names = [by_site.names[k] for k in by_site.members["test"].int().argmax(1)]
    found, logits = again.predict(x, names), again(x, names)
    assert torch.equal(found.answer_B, (logits > 0).long())
    p = logits.double().sigmoid()
    torch.testing.assert_close(found.probability_B, torch.where(logits > 0, p, 1 - p).prod(1))
    assert torch.equal(found.confidence_B, found.probability_B)
    assert float((found.answer_B == data.test.y).double().mean()) > 0.8
    with torch.no_grad():
        for bias in (p for p in again.backbone.parameters() if p.ndim == 1):
            bias.fill_(torch.nan)
    lost = again.predict(x, names)
    assert (float(lost.confidence_B[0]), lost.answer_B[0].sum()) == (0, 0)
    assert "no answer" in lost.why[0]


def test_its_metrics_are_in_the_tables_of_runs(data, by_site, tmp_path, capsys):
    out = tmp_path / "run"
    for method in ("rtl", "imp"):
        tb.find(method, network(), MultiLabel(), data, by_site, sparsity=0.5, T=1, steps=1, out=out)
    with pytest.raises(SystemExit) as end:
        main(["compare", str(out)])
    printed = capsys.readouterr().out
    assert not end.value.code
    assert "mAP" in printed
    assert "F1, macro" in printed


@pytest.mark.parametrize("mix", [1, 2])
def test_routers_choose_among_tickets_of_labels(tickets, data, by_site, mix):
    tickets.router = tb.routing.ScoreRouter(mix=mix).fit(tickets, data, by_site)
    assert tickets.router.options["reading"] == "max_logit"
    found = tickets.predict(data.test.x)
    assert found.answer_B.shape == data.test.y.shape
    assert bool((found.confidence_B <= found.probability_B + 1e-6).all())
    each = torch.stack([tickets(data.test.x, name).double().sigmoid() for name in tickets.names])
    shares = tickets.route(data.test.x).scores_BK.exp().T[..., None]
    if mix == 2:
        assert torch.equal(found.answer_B, ((each * shares).sum(0) > 0.5).long())


@pytest.mark.parametrize(
    "method", ["imp", "imp_per_subset", "imp_context", "random_mask", "shuffled_partition", "dense"]
)
def test_other_methods_take_it_as_it_is(method, data, by_site, tmp_path):
    options = {"sparsity": 0.5, "T": 2, "steps": 4, "parallel": "no", "out": tmp_path / "run"}
    (found,) = tb.find(method, network(), MultiLabel(), data, by_site, **options)
    assert 0 <= found["f1_macro"] <= 1
    assert 0 <= found.of("mean_average_precision", "north") <= 1
    if method == "imp":
        assert found.tickets.predict(data.test.x).answer_B.shape == data.test.y.shape


def test_the_command_predict_answers_with_a_one_or_a_zero_for_each_label(tickets, data, tmp_path):
    np.savetxt(tmp_path / "two.csv", data.test.x[:2].numpy(), delimiter=",")
    rows = _answers(tickets, known(tickets.metadata), tmp_path / "two.csv", "north", None)
    expected = tickets.predict(data.test.x[:2], "north").answer_B
    assert [row["answer"] for row in rows] == expected.tolist()
    assert _text(rows[0]["answer"]) == " ".join(map(str, expected[0].tolist()))
