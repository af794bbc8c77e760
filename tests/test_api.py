"""The short way, in memory and in a directory."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

import tombola as tb
from tombola._utils.errors import (
    DataError,
    PartitionError,
    RunError,
    TicketFileError,
    UnknownTicket,
    UsageError,
)
from tombola.data.dataset import with_context
from tombola.methods import pipeline
from tombola.methods.context import conditioned
from tombola.settings import TrainConfig

OPTIONS = {
    "schedule": "one_shot",
    "T": 2,
    "steps": 3,
    "statistics": 2,
    "search": TrainConfig(lr=1e-2, batch_size=8),
    "train": TrainConfig(lr=1e-2, batch_size=8),
}


@pytest.fixture
def rtl(convnet, images, by_class):
    def call(sparsity=0.5, **changes):
        objective = tb.objectives.OneVsRest()
        return tb.rtl(convnet, objective, images, by_class, sparsity=sparsity, **{**OPTIONS, **changes})

    return call


@pytest.fixture
def calls(monkeypatch):
    """Counts of the two algorithms."""
    where = dict.fromkeys(("find_tickets", "train_jointly"), pipeline)
    counts = dict.fromkeys(where, 0)

    def counted(name):
        original = getattr(where[name], name)

        def call(*args, **options):
            counts[name] += 1
            return original(*args, **options)

        return call

    for name in counts:
        monkeypatch.setattr(where[name], name, counted(name))
    return counts


def equal(a, b):
    states = a.state_dict(), b.state_dict()
    return (
        a.names == b.names
        and states[0].keys() == states[1].keys()
        and all(torch.equal(t, states[1][n]) for n, t in states[0].items())
    )


@pytest.mark.parametrize(
    ("change", "word"),
    [({"prepare": torch.zeros_like}, "prepare"), ({"augment": lambda x, generator: x}, "augment")],
)
def test_a_directory_goes_on_with_the_same_inputs_alone(change, word, convnet, images, by_class, tmp_path):
    def call(data):
        given = (convnet, tb.objectives.OneVsRest(), data, by_class)
        return tb.rtl(*given, sparsity=0.5, out=tmp_path / "run", **OPTIONS)

    call(images)
    with pytest.raises(RunError, match=f"another .*`{word}`"):
        call(dataclasses.replace(images, **change))


def test_a_network_of_its_own_is_asked_at_the_output_of_its_subset(convnet, images, by_class):
    given = (convnet, tb.objectives.OneVsRest(), images, by_class)
    (found,) = tb.find("imp_per_subset", *given, sparsity=0.5, **OPTIONS)
    x = images.inputs("test", torch.arange(10))
    for k, model in enumerate(found.models):
        expected = (model.eval()(x, ticket=by_class.names[k])[:, k] >= 0).long()
        for ticket in (None, by_class.names[k]):
            assert torch.equal(model.predict(x, ticket).answer_B, expected)
    (single,) = tb.find("imp", *given, sparsity=0.5, **OPTIONS)
    assert torch.equal(single.tickets.predict(x).answer_B, single.tickets.eval()(x).argmax(1))


def test_what_cannot_be_done_is_said_before_anything_is_trained(convnet, images, by_class, calls):
    half = tb.partition.by_rule(images, lambda split: {"few": split.y == 0})
    train_alone = tb.partition.Partition(by_class.names, {"train": by_class.members["train"]})
    for method, partition, words in (
        ("imp", half, "nothing to tell apart"),
        ("rtl", train_alone, "says nothing of the validation and test split"),
    ):
        with pytest.raises(PartitionError, match=words):
            tb.find(method, convnet, tb.objectives.OneVsRest(), images, partition, **OPTIONS)
    given = (images, by_class)
    with pytest.raises(UsageError, match=r"method rigl: callback .* granularity=weight"):
        tb.find("rigl", convnet, tb.objectives.OneVsRest(), *given, **OPTIONS, granularity="channel")
    averaging = torch.nn.Sequential(torch.nn.InstanceNorm2d(1, track_running_stats=True), convnet)
    with pytest.raises(UsageError, match="0 is an InstanceNorm2d with track_running_stats"):
        tb.find("rtl", averaging, tb.objectives.OneVsRest(), *given, **OPTIONS)
    assert calls == {"find_tickets": 0, "train_jointly": 0}


def test_a_number_gives_tickets_of_exactly_that_sparsity(rtl, by_class, convnet, images):
    before = copy.deepcopy(convnet.state_dict())
    tickets = rtl(0.5)
    assert isinstance(tickets, tb.TicketModel)
    assert tickets.masks.counts == dict.fromkeys(by_class.names, 126)
    assert not any(m.training for m in tickets.modules())
    assert tickets(images.test.x, ticket="top").shape == (len(images.test), 3)
    assert all(torch.equal(t, before[n]) for n, t in convnet.state_dict().items())


def test_several_sparsities_give_nested_tickets_by_sparsity(rtl):
    found = rtl([0.75, 0.25])
    assert list(found) == [0.25, 0.75]
    assert found[0.75].masks <= found[0.25].masks
    assert [set(t.masks.counts.values()) for t in found.values()] == [{189}, {63}]


def test_one_sparsity_in_a_list_gives_a_dictionary(rtl):
    assert list(rtl([0.5])) == [0.5]


def test_the_seed_decides(rtl):
    one, again, other = rtl(seed=0), rtl(seed=0), rtl(seed=1)
    assert equal(one, again)
    assert not equal(one, other)


def test_global_randomness_is_neither_read_nor_changed(rtl):
    torch.manual_seed(1)
    one, state = rtl(), torch.get_rng_state()
    assert torch.equal(state, torch.Generator().manual_seed(1).get_state())
    torch.manual_seed(2)
    assert equal(one, rtl())


def test_a_directory_is_not_computed_twice_and_gives_equal_tickets(rtl, calls, tmp_path):
    first = rtl([0.25, 0.5], out=tmp_path / "run")
    assert calls == {"find_tickets": 2, "train_jointly": 2}
    again = rtl([0.25, 0.5], out=tmp_path / "run")
    assert calls == {"find_tickets": 2, "train_jointly": 2}
    assert all(equal(first[s], again[s]) for s in (0.25, 0.5))
    memory = rtl([0.25, 0.5])
    assert all(equal(first[s], memory[s]) for s in (0.25, 0.5))


def test_an_interrupted_call_goes_on_where_it_was(rtl, calls, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "train_jointly", stop)
        with pytest.raises(KeyboardInterrupt):
            rtl(out=tmp_path / "run")
    assert calls == {"find_tickets": 1, "train_jointly": 0}
    tickets = rtl(out=tmp_path / "run")
    assert calls == {"find_tickets": 1, "train_jointly": 1}
    assert equal(tickets, rtl())


def test_the_ticket_file_of_a_directory_loads(rtl, tmp_path, convnet, images):
    tickets = rtl(out=tmp_path / "run")
    (file,) = (tmp_path / "run" / "tickets").iterdir()
    again, x = tb.load(file, convnet), images.test.x
    for name in tickets.names:
        assert torch.equal(again(x, ticket=name), tickets(x, ticket=name))


def test_another_call_into_the_same_directory_is_an_error(rtl, tmp_path):
    rtl(out=tmp_path / "run")
    for changes in ({"seed": 1}, {"T": 3}):
        with pytest.raises(RunError, match=r"was made with (an)?other "):
            rtl(out=tmp_path / "run", **changes)
    with pytest.raises(RunError, match=r"was made with (an)?other "):
        rtl([0.25, 0.5], out=tmp_path / "run")


def test_an_unknown_method_and_a_wrong_sparsity_are_errors(convnet, images, by_class, rtl):
    with pytest.raises(UsageError, match="no method 'rlt'; did you mean 'rtl'"):
        tb.find("rlt", convnet, tb.objectives.OneVsRest(), images, by_class, **OPTIONS)
    with pytest.raises(UsageError, match=r"in \[0, 1\): got 75"):
        rtl(75)


def test_find_gives_outcomes_with_metrics(convnet, images, by_class):
    (found,) = tb.find("imp", convnet, tb.objectives.OneVsRest(), images, by_class, sparsity=0.5, **OPTIONS)
    assert (found.method, found.sparsity, len(found.models)) == ("imp", 0.5, 1)
    assert found.models[0].names == ("all",)
    assert found["per_ticket"] == found["union"] == 126
    assert 0 <= found["auc"] <= 1
    assert found.of("precision", reading="paper") != found["precision"]
    assert found.tickets is found.models[0]
    assert repr(found).startswith("Outcome(imp at 0.5, models=1, balanced_accuracy=")
    assert f"auc={found['auc']:.4g}, " in repr(found)
    with pytest.raises(tb.TombolaError, match="no metric 'auk'; did you mean 'auc'"):
        found["auk"]


def test_networks_that_share_nothing_are_no_tickets_of_one_model(convnet, images, by_class):
    given = (convnet, tb.objectives.OneVsRest(), images, by_class)
    (found,) = tb.find("imp_per_subset", *given, sparsity=0.5, **OPTIONS)
    with pytest.raises(tb.TombolaError, match=f"imp_per_subset has {len(by_class)} networks"):
        found.tickets  # noqa: B018


def test_tickets_that_are_told_the_context_are_saved_and_loaded(convnet, images, tmp_path):
    by_site = tb.partition.by_column(images, "site")
    objective = tb.objectives.Classification()
    (found,) = tb.find(
        "imp_context", convnet, objective, images, by_site, sparsity=0.5, **OPTIONS, out=tmp_path / "run"
    )
    (model,) = found.models
    assert model.masks.counts == {"all": (252 + 16 * 4 * 9) // 2}  # 16 channels more in the first layer
    (file,) = (tmp_path / "run" / "tickets").iterdir()
    network = conditioned(convnet, 2, 16, torch.Generator())
    again = tb.load(file, network)
    x = with_context(images.test.x, torch.arange(len(images.test)) % 2)
    assert torch.equal(again(x), model(x))
    assert torch.equal(again.bake("all")(x), model(x))
    assert torch.equal(again.backbone.get_parameter("0.context"), model.backbone.get_parameter("0.context"))
    with pytest.raises(TicketFileError, match=r"tensor 0.context is .* in the file and absent"):
        tb.load(file, convnet)
    with pytest.raises(TicketFileError, match=r"tensor 0.context is torch.float32 \(2, 16\) in the file"):
        tb.load(file, conditioned(convnet, 3, 16, torch.Generator()))


def test_telling_what_is_asked_for_is_an_error_of_one_line(convnet, images, by_class):
    with pytest.raises(UsageError, match="OneVsRest asks for the subset") as caught:
        tb.find("imp_context", convnet, tb.objectives.OneVsRest(), images, by_class, **OPTIONS)
    assert "\n" not in str(caught.value)


def test_nan_in_the_data_never_reaches_training(images):
    x = images.train.x.clone()
    x[3] = float("nan")
    with pytest.raises(tb.TombolaError, match="number 3"):
        tb.Split(x, images.train.y)


def test_answers_to_what_is_unlike_the_training_data_are_not_sure(rtl, images, by_class):
    tickets = rtl()
    x = images.inputs("test", torch.arange(8))
    assert float(tickets.predict(1000 * x).confidence_B.min()) > 0.8  # the coupled probability, as documented
    tickets.router = tb.routing.PrototypeRouter().fit(tickets, images, by_class)
    found = tickets.predict(1000 * x)
    assert float(found.confidence_B.max()) < 0.2
    assert "unlike what was seen before" in found.why[0]
    assert found.probability_B.min() > 0.8


def test_one_ticket_that_is_not_there_is_named(rtl, images):
    with pytest.raises(UnknownTicket, match="'fox'"):
        rtl().predict(images.inputs("test", torch.arange(2)), ticket="fox")


def test_weights_that_are_not_in_scope_by_default_are_named(images, by_class):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.head = torch.nn.Parameter(torch.rand(36, 8)), torch.nn.Linear(8, 3)
            self.more = torch.nn.Linear(8, 8)

        def forward(self, x):
            return self.head(self.more(x.flatten(1) @ self.mix))

    with pytest.warns(UserWarning, match=r"mix \(288\) are not in scope"):
        tb.rtl(Own(), tb.objectives.OneVsRest(), images, by_class, sparsity=0.5, **OPTIONS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": 0.9999999}, "leaves none of 252 weights: at most 0.996"),
        ({"sparsity": "0.5"}, "a sparsity is a number"),
        ({"seed": "a"}, "seed must be of type Integral"),
        ({"search": {"lr": 1}}, "search is a TrainConfig"),
    ],
)
def test_what_makes_no_sense_is_one_clear_error(rtl, changes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        rtl(**changes, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_sparsity_of_numpy_can_be_written_down(rtl, tmp_path):
    assert rtl(np.float64(0.5), out=tmp_path / "run").masks.density == 0.5


def test_a_backbone_of_another_dtype_than_its_inputs(convnet, images, by_class):
    with pytest.raises(DataError, match=r"inputs are torch.float32, the backbone is torch.float64"):
        tb.rtl(convnet.double(), tb.objectives.OneVsRest(), images, by_class, **OPTIONS)


def wide(outputs=3):
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(36, 8), torch.nn.ReLU(), torch.nn.Linear(8, outputs)
    )


def test_an_objective_that_leaves_nothing_to_ask_is_doubted(images, by_class):
    sites = tb.partition.by_column(images, "site")
    with pytest.warns(UserWarning, match="every subset holds a single class") as conditioned:
        tb.rtl(wide(), tb.objectives.Classification(), images, by_class, **OPTIONS)
    assert conditioned[0].filename == __file__  # where the user called
    halves = tb.partition.by_rule(images, lambda data: {"low": data.y < 2, "high": data.y > 0})
    with pytest.warns(
        UserWarning, match=r"train.* to rule out those of the others; Classification\('subset'\)"
    ):
        tb.rtl(wide(), tb.objectives.Classification(), images, halves, **OPTIONS)
    with pytest.warns(UserWarning, match="OneVsRest does not use y") as conditioned:
        tb.find("rtl", wide(), tb.objectives.OneVsRest(), images, sites, **OPTIONS)
    assert conditioned[0].filename == __file__


def ask(backbone, data, partition, **options):
    return tb.rtl(backbone, tb.objectives.OneVsRest(), data, partition, **options)


def one_row():
    return torch.nn.Sequential(wide(1), torch.nn.Flatten(0), torch.nn.Unflatten(0, (1, -1)))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda d, p: tb.Data.of(d.train.x, d.train.y, [1] * len(d.train)), "columns are named"),
        (lambda d, p: ask(wide(), d, p, settings={"T": 1}), "tombola.Settings"),
        (lambda d, p: ask(torch.nn.DataParallel(wide()), d, p), "backbone.module"),
        (lambda d, p: ask(torch.nn.Sequential(wide(), torch.nn.LazyLinear(3)), d, p), "lazy layers"),
        (lambda d, p: ask(one_row(), d, p), "for 2 samples"),
        (lambda d, p: tb.scope(wide(), include=["3"]), "'3' names a module: .*'3.weight'"),
    ],
    ids=["columns", "settings", "parallel", "lazy", "shape", "module"],
)
def test_ordinary_mistakes_are_named_before_training(call, named, images, by_class):
    with pytest.raises(tb.TombolaError, match=named):
        call(images, by_class)


def test_a_folder_is_no_ticket_file(rtl, tmp_path):
    with pytest.raises(TicketFileError, match="is a folder"):
        rtl().save(tmp_path)


def test_a_ticket_file_says_the_shape_of_an_input(rtl, images):
    assert rtl().metadata["shape"] == [1, 6, 6]


def test_who_knows_the_subset_answers_with_its_classes(convnet, images):
    halves = tb.partition.by_rule(images, lambda split: {"low": split.y < 2, "high": split.y == 2})
    sites = tb.partition.by_rule(
        images, lambda split: {"a": (split.y < 2) & (split.x[:, 0, 0, 0] > 0), "b": split.x[:, 0, 0, 0] <= 0}
    )
    task = tb.objectives.Classification("subset")
    with pytest.raises(PartitionError, match="subset 'high' holds a single class"):
        tb.rtl(convnet, task, images, halves, **OPTIONS)
    (outcome,) = tb.find("imp_context", convnet, task, images, sites, **OPTIONS)
    network = outcome.models[0]
    assert network.metadata["classes"] == {"a": [0, 1], "b": [0, 1, 2]}
    x = with_context(images.test.x, torch.zeros(len(images.test)))
    with torch.no_grad():
        network.backbone[9].bias[2] = 1e3  # would be the answer everywhere
    assert network.predict(x).answer_B.max() < 2
    x[:, -1] = 1
    assert network.predict(x).answer_B.tolist() == [2] * len(x)
    tickets = tb.rtl(convnet, task, images, sites, **OPTIONS)
    assert tickets.metadata["classes"] == network.metadata["classes"]
