"""Tickets that arrive later: what may move, what keeps its bits, what is refused."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tombola as tb
from tombola._utils.errors import TombolaError, UsageError
from tombola.pruning.schedules import kept
from tombola.tickets import growth
from tombola.tickets.growth import Policy
from tombola.tickets.membership import acting

POLICIES = ("free", "reuse", "all", "frozen")
every_policy = pytest.mark.parametrize("policy", POLICIES)
OPTIMIZERS = {
    "Adam": {"lr": 0.01},
    "AdamW": {"lr": 0.01, "options": {"weight_decay": 0.1}},
    "SGD": {"lr": 0.1, "options": {"momentum": 0.9, "weight_decay": 0.01}},
    "RMSprop": {"lr": 0.01, "options": {"momentum": 0.5}},
    "Adagrad": {"lr": 0.05},
    "Adadelta": {"lr": 5.0},
}
TASK = tb.objectives.Classification()


def samples(classes=3, shift=0, size=150):
    g = torch.Generator().manual_seed(shift)
    y = torch.arange(size) % classes
    x = 0.7 * torch.randn(size, 6, generator=g) + 2 * torch.eye(classes, 6).roll(shift, 1)[y]
    return x, y


def new_data(classes=3, shift=3, **options):
    return tb.Data.of(*samples(classes, shift), validation=0.2, test=0.3, **options)


def founders(optimizer="Adam", norm=True, **changes):
    """Two tickets whose inputs are shifted against each other."""
    (x, y), (x2, y2) = samples(), samples(shift=2)
    site = torch.arange(300) // 150
    columns = {"site": site.numpy()}
    data = tb.Data.of(torch.cat([x, x2]), torch.cat([y, y2]), columns, validation=0.2, test=0.3)
    config = tb.TrainConfig(optimizer=optimizer, batch_size=8, **OPTIMIZERS[optimizer])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(6, 16), *([nn.BatchNorm1d(16)] if norm else []), nn.ReLU(), nn.Linear(16, 12)]
        net = nn.Sequential(*layers, nn.ReLU(), nn.Linear(12, 3))
    chosen = {"T": 3, "steps": 5, "statistics": 2, "search": config, "train": config, "parallel": "no"}
    partition = tb.partition.by_column(data, "site", ["north", "south"])
    return tb.rtl(net, TASK, data, partition, sparsity=0.7, **{**chosen, **changes})


@pytest.fixture(scope="module")
def two():
    return founders()


def inputs(n=20, seed=9):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


def answers(tickets, names):
    with torch.no_grad():
        return {name: tickets(inputs(), ticket=name) for name in names}


def weights(tickets):
    return tickets.state(tickets.names[0])[0].detach().clone()


@every_policy
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_only_weights_that_nobody_owns_move(optimizer, policy):
    before = founders(optimizer)
    owned, theta, said = before.masks.union(), weights(before), answers(before, before.names)
    after = before.grow("west", new_data(), TASK, policy=policy)
    assert after.names == (*before.names, "west")
    assert torch.equal(weights(after)[owned], theta[owned])
    assert torch.equal(weights(before), theta)  # those one had stay as they were
    for name, output in answers(after, before.names).items():
        assert torch.equal(output, said[name])
    moved, mine = weights(after) != theta, after["west"]
    assert not bool((moved & ~mine).any())
    assert int(mine.sum()) == int(before["north"].sum()) + (int(owned.sum()) if policy == "all" else 0)
    if policy == "free":
        assert not bool((mine & owned).any())
        assert float(moved[mine].float().mean()) > 0.3  # all but what a dead unit leaves without a gradient
    elif policy == "frozen":
        assert not bool(moved.any())
    else:
        assert bool((mine & owned).any())
        assert policy == "reuse" or not bool((owned & ~mine).any())
        assert not bool((moved & owned).any())
        assert bool(moved.any())


@every_policy
@pytest.mark.parametrize("normalization", ["shared", "per_ticket_statistics", "per_ticket"])
def test_under_every_norm_policy_the_others_answer_as_before(normalization, policy, tmp_path):
    before = founders(normalization=normalization)
    said = answers(before, before.names)
    after = before.grow("west", new_data(), TASK, policy=policy)
    after.save(tmp_path / "three.tickets")
    loaded = tb.load(tmp_path / "three.tickets", before.backbone)
    for tickets in (after, loaded):
        for name, output in answers(tickets, before.names).items():
            assert torch.equal(output, said[name])
    assert torch.equal(answers(after, ["west"])["west"], answers(loaded, ["west"])["west"])


def test_a_grown_ticket_learns_its_data_also_on_a_file(two, tmp_path):
    two.save(tmp_path / "two.tickets")
    loaded, data = tb.load(tmp_path / "two.tickets", two.backbone), new_data()
    for policy in POLICIES:
        grown = loaded.grow("west", data, TASK, policy=policy, T=30, steps=60)
        right = grown(data.test.x, ticket="west").argmax(1) == data.test.y
        assert float(right.float().mean()) > (0.6 if policy == "frozen" else 0.8), policy
    assert float((loaded(data.test.x, ticket="north").argmax(1) == data.test.y).float().mean()) < 0.6


def test_one_seed_gives_one_ticket_and_another_another(two):
    first, second, other = (two.grow("west", new_data(), TASK, seed=seed) for seed in (0, 0, 1))
    assert acting(first, first.names) == acting(second, second.names) != acting(other, other.names)


def test_the_width_of_the_outputs_is_looked_at_once(two, monkeypatch):
    looked, width = [], growth._width

    def counted(*given):
        looked.append(width(*given))
        return looked[-1]

    monkeypatch.setattr(growth, "_width", counted)
    fewer = two.grow("west", new_data(classes=2), TASK)
    assert looked == [3]
    assert fewer.metadata["classes"] == {"north": [0, 1, 2], "south": [0, 1, 2], "west": [0, 1]}


def test_a_name_is_part_of_the_seed_so_that_two_tickets_share_no_draws(two, tmp_path):
    two.save(tmp_path / "two.tickets")
    file = tb.load(tmp_path / "two.tickets", two.backbone)
    west, again, east = (
        file.grow(name, new_data(), TASK, policy="free") for name in ("west", "west", "east")
    )
    assert torch.equal(west["west"], again["west"])
    assert not torch.equal(west["west"], east["east"])
    both = west.masks["west"] & east.masks["east"]  # weights that nobody had: drawn for either of them
    assert not bool((weights(west)[both] == weights(east)[both]).any())


def test_many_tickets_grow_one_after_another_until_nothing_is_free(two):
    tickets, keep = two, kept(two.scope.size, 0.9)
    for k in range(two.free // keep):
        before = tickets.free
        tickets = tickets.grow(f"new {k}", new_data(shift=k), TASK, policy="free", sparsity=0.9)
        assert tickets.free == before - keep
    with pytest.raises(TombolaError, match=f"{tickets.free} of {two.scope.size} are left"):
        tickets.grow("too many", new_data(), TASK, policy="free", sparsity=0.9)
    assert acting(tickets, two.names) == acting(two, two.names)
    tickets.grow("reader", new_data(), TASK, policy="reuse")  # which reads the others' weights


def test_growth_begins_where_the_layers_begin_where_a_file_holds_nothing(two, tmp_path):
    two.save(tmp_path / "two.tickets")
    loaded = tb.load(tmp_path / "two.tickets", two.backbone)
    assert not weights(loaded)[~loaded.masks.union()].any()
    grown = loaded.grow("west", new_data(), TASK, policy="free", T=0, steps=0, score="random", callback="")
    assert bool(weights(grown)[grown["west"]].all())


def test_fewer_and_other_classes_are_known_and_named(two):
    grown = two.grow("west", new_data(classes=2), TASK)
    assert grown.metadata["classes"] == {"north": [0, 1, 2], "south": [0, 1, 2], "west": [0, 1]}
    assert {*grown.predict(inputs(), "west").answers} <= {0, 1}
    named = two.grow("west", new_data(), TASK)
    assert "classes" not in named.metadata


def test_names_of_classes_are_those_of_each_ticket(two):
    data = new_data()
    grown = two.grow(
        "west", tb.Data(data.train, data.validation, data.test, class_names=("a", "b", "c")), TASK
    )
    assert {*grown.predict(inputs(), "west").answers} <= {"a", "b", "c"}
    assert {*grown.predict(inputs(), "north").answers} <= {0, 1, 2}


def test_regression_keeps_the_scale_of_the_file():
    x, y = samples()
    data = tb.Data.of(x, x[:, :1] * 100 + 7, {"site": y.numpy() % 2}, validation=0.2, test=0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, task = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1)), tb.objectives.Regression()
    partition = tb.partition.by_column(data, "site", ["north", "south"])
    two = tb.rtl(net, task, data, partition, sparsity=0.5, T=2, steps=2)
    new = tb.Data.of(x, x[:, 1:2] * 100 + 7, validation=0.2, test=0.3)
    three = two.grow("west", new, tb.objectives.Regression(), T=50, steps=400)
    assert three.metadata["scale"] == two.metadata["scale"]
    apart = (three.predict(new.test.x, "west").outputs - new.test.y).std() / new.test.y.std()
    assert float(apart) < 0.5
    assert task.scale is None


def test_objectives_stay_as_they_are_and_settings_say_how_many():
    x, y = samples()
    two, task = founders(), tb.objectives.Classification()
    before = dict(vars(task))
    grown = two.grow("west", new_data(), task, settings=tb.Settings(sparsity=(0.9,), T=2, steps=2))
    assert int(grown["west"].sum()) == kept(two.scope.size, 0.9)
    assert vars(task) == before
    one = tb.Data.of(x, torch.zeros_like(y), validation=0.2, test=0.3)
    with pytest.warns(UserWarning, match="hold the class 0 alone"):
        two.grow("west", one, TASK, T=1, steps=1)


def test_inputs_are_prepared_as_those_of_the_others():
    (x, y), site = samples(), torch.arange(150).numpy() // 2 % 2
    whole = tb.Data.of(x, y, {"site": site}, validation=0.2, test=0.3, prepare=tb.prepare.Scale(0.5))
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    two = tb.rtl(net, TASK, whole, tb.partition.by_column(whole, "site"), sparsity=0.5, T=2, steps=2)
    same = two.grow("west", new_data(), TASK), two.grow("west", new_data(prepare=tb.prepare.Scale(0.5)), TASK)
    assert acting(same[0], ["west"]) == acting(same[1], ["west"])
    with pytest.raises(UsageError, match=r"other steps or numbers \(scale\): leave prepare= out"):
        two.grow("west", new_data(prepare=tb.prepare.Scale(0.25)), TASK)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "north"}, "there is a ticket 'north' already"),
        ({"name": 3}, "the name of a ticket is a string, one line"),
        ({"policy": "none"}, "policy 'none'.*free, reuse, all, frozen"),
        ({"objective": tb.objectives.OneVsRest()}, "OneVsRest asks which subset.*data of all others"),
        ({"objective": tb.objectives.Regression()}, "found with Classification.*got Regression"),
        ({"objective": tb.objectives.Classification}, "call it: Classification"),
        ({"data": samples()}, "data must be of type Data"),
        (
            {"sparsity": 0.0, "policy": "free"},
            r"288 weights are asked for, \d+ of 288 are left that no ticket",
        ),
        ({"callback": "learned:0.1", "policy": "all"}, "no mask is learned"),
        (
            {"sparsity": 0.0, "policy": "all"},
            r"288 weights are asked for, \d+ of 288 are left that no ticket",
        ),
        ({"callback": "rigl:0.3:10", "first": "random", "nested": False}, "moves no masks by set or rigl"),
        ({"include": ["0.*"]}, "grow takes no include: the scope is that of the tickets"),
        ({"progress": False}, "grow takes no progress: the ticket is trained alone, here and now"),
        ({"sparsity": 0.9999}, "leaves none of 288 weights"),
        ({"lr": 0.1}, "lr belongs to a TrainConfig"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(change, words, two):
    given = {"name": "west", "data": new_data(), "objective": TASK, **change}
    with pytest.raises(TombolaError, match=words):
        two.grow(given.pop("name"), given.pop("data"), given.pop("objective"), **given)


def test_data_that_the_network_cannot_take_are_named(two):
    x, y = samples()
    with pytest.raises(TombolaError, match="cannot take the data"):
        two.grow("west", tb.Data.of(x[:, :4], y), TASK)
    with pytest.raises(TombolaError, match="3 outputs"):
        two.grow("west", tb.Data.of(x, torch.arange(150) % 5), TASK)


def by_turns(data, names):
    return tb.partition.by_rule(
        data, lambda s: {n: torch.arange(len(s)) % len(names) == k for k, n in enumerate(names)}
    )


@pytest.mark.parametrize("kind", ["gate", "score", "superposition"])
def test_a_router_that_needs_all_data_is_left_out_and_the_line_makes_it_again(two, kind):
    tickets, data = two.select(two.names), new_data()
    tickets.router = tb.routing.router(kind, limit=50).fit(tickets, data, by_turns(data, two.names))
    with pytest.warns(UserWarning, match="the router was fitted without 'west'") as said:
        grown = tickets.grow("west", data, TASK)
    assert grown.router is None
    again = str(said[0].message).split("tickets.router = ")[1].partition(", on data")[0]
    made = eval(again, {"tb": tb, "tickets": grown, "data": data, "partition": by_turns(data, grown.names)})
    assert (made.kind, made.options) == (kind, tickets.router.options)


@every_policy
@pytest.mark.parametrize("norm", [True, False])
def test_a_prototype_router_takes_the_new_ticket_in_and_moves_nothing_else(policy, norm, tmp_path):
    tickets = founders(norm=norm)
    x = torch.cat([samples()[0], samples(shift=2)[0]])
    data = tb.Data.of(x, torch.zeros(300), {"site": (torch.arange(300) // 150).numpy()})
    sites = tb.partition.by_column(data, "site", ["north", "south"])
    tickets.router = tb.routing.PrototypeRouter(prototypes=2).fit(tickets, data, sites)
    before = tickets.router.route(tickets, inputs())
    far = samples(shift=3)[0] + 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grown = tickets.grow("west", tb.Data.of(far, samples()[1]), TASK, policy=policy)
    after = grown.route(inputs())
    torch.testing.assert_close(after.scores_BK[:, :2].log_softmax(1), before.scores_BK, atol=1e-3, rtol=1e-3)
    assert set(grown.route(far).names) == {"west"}
    assert float(grown.route(far).familiarity_B.mean()) > 0.2
    grown.save(tmp_path / "three.tickets")
    again = tb.load(tmp_path / "three.tickets", tickets.backbone)
    torch.testing.assert_close(again.route(inputs()).scores_BK, after.scores_BK)
    assert set(again.rename("west", "east").grow("rest", new_data(), TASK).route(far).names) == {"east"}


def test_tables_and_temperatures_take_the_new_ticket_in(two):
    tickets, data = two.select(two.names), new_data()
    tickets.router = tb.routing.ContextRouter({1: "north", 2: "south"})
    tickets.calibration = tb.calibration.Calibration().fit(tickets, data, by_turns(data, two.names))
    grown = tickets.grow("west", data, TASK)
    assert grown.route(inputs(), context="west").names == ["west"] * 20
    assert grown.route(inputs(), context=2).names == ["south"] * 20
    temperatures = grown.calibration.tensors["temperature_K"]
    assert torch.equal(temperatures[:2], tickets.calibration.tensors["temperature_K"])
    whole = tb.partition.by_rule(data, lambda s: dict.fromkeys(grown.names, torch.ones(len(s)) > 0))
    assert float(
        tb.calibration.Calibration().fit(grown, data, whole).tensors["temperature_K"][2]
    ) == pytest.approx(float(temperatures[2]))


def test_what_too_few_data_cannot_extend_is_said_with_the_reason(two):
    tickets, data = two.select(two.names), new_data()
    tickets.router = tb.routing.PrototypeRouter(prototypes=30).fit(tickets, data, by_turns(data, two.names))
    few = tb.Data.of(*samples(size=30))
    with pytest.warns(UserWarning, match=r"30 prototypes of \d+ samples.*PrototypeRouter\(prototypes=30\)"):
        assert tickets.grow("west", few, TASK).router is None


def test_a_router_is_fitted_also_where_tickets_have_no_weight_in_common(two):
    grown = two.grow("west", new_data(), TASK, policy="free")
    assert not bool(grown.masks.core().any())
    data = new_data()
    thirds = tb.partition.by_rule(
        data, lambda s: {name: torch.arange(len(s)) % 3 == k for k, name in enumerate(grown.names)}
    )
    grown.router = tb.routing.PrototypeRouter().fit(grown, data, thirds)
    assert grown(inputs()).shape == (20, 3)


def test_many_threads_ask_the_others_while_a_ticket_grows(two):
    from threading import Event, Thread

    said, done, wrong = answers(two, two.names), Event(), []

    def ask():
        while not done.is_set():
            found = answers(two, two.names)
            wrong.extend(name for name in found if not torch.equal(found[name], said[name]))

    asking = [Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    two.grow("west", new_data(), TASK)
    done.set()
    for thread in asking:
        thread.join()
    assert not wrong


@settings(deadline=None)
@given(policy=st.sampled_from(POLICIES), sparsity=st.floats(0.75, 0.9), seed=st.integers(0, 5))
def test_counts_are_exact_and_the_others_keep_their_bits(two, policy, sparsity, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"T": 1, "steps": 1, "policy": policy, "sparsity": sparsity, "seed": seed, "floor": 1}
        grown = two.grow("west", new_data(shift=seed), TASK, **options)
    others = int(two.masks.union().sum()) if policy == "all" else 0
    assert int(grown["west"].sum()) == kept(two.scope.size, sparsity) + others
    assert acting(grown, two.names) == acting(two, two.names)


def test_the_policies_are_the_ones_that_are_documented():
    from typing import get_args

    assert get_args(Policy) == POLICIES
