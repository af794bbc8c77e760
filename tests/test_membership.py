"""Tickets that leave, change their names, or come from another file."""

import warnings

import pytest
import torch
from test_growth import TASK, answers, founders, inputs, new_data, samples, weights
from torch import nn

import tombola as tb
from tombola._utils.errors import MaskError, TombolaError, UnknownTicket, UsageError
from tombola.tickets.membership import acting, merge_files, merged


@pytest.fixture
def three():
    return founders().grow("west", new_data(), TASK, policy="free")


def test_what_only_one_ticket_owned_is_gone_and_the_others_answer_as_before(three, tmp_path):
    said, only = answers(three, three.names), three["north"] & ~(three["south"] | three["west"])
    assert int(three["north"].sum()) - int(only.sum()) == three.shared_with("north") > 0
    theta = weights(three)[only]
    left = three.forget("north")
    assert left.names == ("south", "west")
    assert not weights(left)[only].any()
    assert all(
        float(t.std(correction=0)) == 0 for t in _unread(left)
    )  # nor is there what was trained when all shared it
    for name, output in answers(left, left.names).items():
        assert torch.equal(output, said[name])
    for name, output in answers(three, three.names).items():  # who holds the old ones has them as they were
        assert torch.equal(output, said[name])
    left.save(tmp_path / "left.tickets")
    content = (tmp_path / "left.tickets").read_bytes()
    assert b"north" not in content
    assert not any(value.numpy().tobytes() in content for value in theta if value)
    again = tb.load(tmp_path / "left.tickets", three.backbone)
    assert acting(again, left.names) == acting(left, left.names)


def _unread(tickets):
    """Tensors of the backbone of which every ticket has its own."""
    held = {**dict(tickets.backbone.named_parameters()), **dict(tickets.backbone.named_buffers())}
    return [held[name] for name in (*tickets.private.names, *tickets.statistics.names)]


def test_objects_that_share_a_backbone_keep_their_tickets(three):
    said, part, other = (
        answers(three, three.names),
        three.select(["north", "west"]),
        three.rename("north", "up"),
    )
    part.forget("north")
    other.forget("up")
    three.forget("west")
    for tickets in (three, part):
        for name, output in answers(tickets, tickets.names).items():
            assert torch.equal(output, said[name])
    assert torch.equal(answers(other, ["up"])["up"], said["north"])


def test_networks_in_another_memory_format_lose_and_gain_tickets():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2)
    )
    net = net.to(memory_format=torch.channels_last)
    x, y = torch.rand(60, 3, 8, 8), torch.arange(60) % 2
    data = tb.Data.of(x, y, {"site": (torch.arange(60) // 2 % 2).numpy()}, validation=0.2, test=0.2)
    sites = tb.partition.by_column(data, "site")
    two = tb.rtl(net, TASK, data, sites, sparsity=0.7, T=1, steps=1, parallel="no")
    three = two.grow("west", tb.Data.of(x, y, validation=0.2, test=0.2), TASK, T=2, steps=1)
    left = three.forget("0")
    with torch.no_grad():
        assert torch.equal(left(x, ticket="1"), two(x, ticket="1"))


def test_a_ticket_grown_free_leaves_nothing_in_weights_of_others(three):
    assert three.shared_with("west") == 0
    left = three.forget("west")
    assert acting(left, left.names) == acting(founders(), left.names)


def test_who_leaves_makes_room_for_who_comes(three):
    before = three.free
    left = three.forget("west")
    assert left.free == before + int(left["north"].sum())
    again = left.grow("west", new_data(), TASK, policy="free")
    assert bool(weights(again)[again["west"]].any())
    assert again.metadata["grown"].keys() == {"west"}


def test_a_weight_that_a_later_ticket_reads_stays():
    one = founders().grow("west", new_data(), TASK, policy="free")
    two = one.grow("reader", new_data(), TASK, policy="reuse")
    read = two["reader"] & two["west"] & ~two["north"] & ~two["south"]
    assert bool(read.any())
    said = answers(two, ["reader"])["reader"]
    left = two.forget("west")
    assert bool(weights(left)[read].all())
    assert torch.equal(answers(left, ["reader"])["reader"], said)


def test_of_what_was_fitted_a_tickets_own_share_goes(three):
    data = new_data()
    split = tb.partition.by_rule(data, lambda s: dict.fromkeys(three.names, torch.ones(len(s)) > 0))
    three.calibration = tb.calibration.Calibration().fit(three, data, split)
    three.router = tb.routing.ContextRouter({1: "north", 2: "south", 3: "west"})
    temperatures = three.calibration.tensors["temperature_K"]
    left = three.forget("north")
    assert torch.equal(left.calibration.tensors["temperature_K"], temperatures[1:])
    assert left.router.options["pairs"] == [[2, "south"], [3, "west"]]
    assert left(inputs(), context=3).shape == (20, 3)


def test_a_table_of_contexts_of_which_nothing_is_left_is_left_out(three):
    three.router = tb.routing.ContextRouter({1: "north"})
    with pytest.warns(UserWarning, match="fitted with 'north' and is left out") as said:
        assert three.forget("north").router is None
    assert said[0].filename == __file__


def test_what_was_fitted_together_is_left_out_and_said():
    three = founders().grow("west", new_data(), TASK, policy="reuse")
    data = new_data()
    split = tb.partition.by_rule(
        data, lambda s: {name: torch.arange(len(s)) % 3 == k for k, name in enumerate(three.names)}
    )
    three.router = tb.routing.router("prototype").fit(three, data, split)
    with pytest.warns(UserWarning, match="the router was fitted with 'north' and is left out"):
        assert three.forget("north").router is None


def _sites():
    """The data of the founders, and who is of which site."""
    x, y = (torch.cat(pair) for pair in zip(samples(), samples(shift=2), strict=True))
    data = tb.Data.of(x, y, {"site": (torch.arange(300) // 150).numpy()}, validation=0.2, test=0.3)
    return data, tb.partition.by_column(data, "site", ["north", "south"])


def test_a_ticket_that_was_grown_takes_its_prototypes_along_and_no_others(tmp_path):
    two, (data, sites) = founders(), _sites()
    two.router = tb.routing.PrototypeRouter(prototypes=2).fit(two, data, sites)
    before = two.route(inputs())
    far, y = samples(shift=3)[0] + 20, samples()[1]
    three = two.grow("west", tb.Data.of(far, y), TASK)
    four = three.grow("east", tb.Data.of(far - 40, y), TASK)
    four.save(tmp_path / "four.tickets")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        left = tb.load(tmp_path / "four.tickets", four.backbone).forget("west")
        alone = left.forget("east")
    assert left.router.names == ("north", "south", "east")
    assert set(left.route(far - 40).names) == {"east"}
    for name, t in left.router.tensors.items():
        mine = two.grow("east", tb.Data.of(far - 40, y), TASK).router.tensors[name]
        torch.testing.assert_close(t, mine, atol=1e-4, rtol=1e-4)
    assert alone.router.tensors.keys() == two.router.tensors.keys()
    assert all(torch.equal(t, two.router.tensors[name]) for name, t in alone.router.tensors.items())
    assert torch.equal(alone.route(inputs()).scores_BK, before.scores_BK)
    with pytest.warns(UserWarning, match="the router was fitted with 'north' and is left out"):
        assert left.forget("north").router is None


def test_a_map_stays_where_the_ticket_that_leaves_has_no_place(three):
    three.router = tb.routing.ContextRouter.from_map([[0, 2], [2, 0]], three.names)
    x = torch.tensor([[-1.0, -1, 0, 0, 0, 0], [1.0, -1, 0, 0, 0, 0]])
    left = three.forget("south")
    assert left.route(x).names == ["north", "west"]
    with pytest.warns(UserWarning, match="the router was fitted with 'north' and is left out"):
        assert left.forget("north").router is None
    base = founders()
    base.router = tb.routing.ContextRouter.from_map([[0, 1], [1, 0]], base.names)
    again = base.grow("west", new_data(), TASK).forget("west")
    assert again.route(x).names == ["north", "south"]


def test_tables_and_temperatures_are_after_growth_and_leaving_as_they_were():
    base, data = founders(), new_data()
    split = tb.partition.by_rule(
        data, lambda s: {name: torch.arange(len(s)) % 2 == k for k, name in enumerate(base.names)}
    )
    base.router = tb.routing.ContextRouter({1: "north", 2: "south"})
    base.calibration = tb.calibration.Calibration().fit(base, data, split)
    again = base.grow("west", data, TASK).forget("west")
    assert again.router.options == base.router.options
    known, mine = base.calibration.tensors["temperature_K"], again.calibration.tensors["temperature_K"]
    assert torch.equal(mine, known)


def test_a_renamed_ticket_answers_as_before_with_all_that_was_fitted(three):
    three.router = tb.routing.ContextRouter({1: "north", 2: "south", 3: "west"})
    said = answers(three, ["west"])["west"]
    now = three.rename("west", "east")
    assert now.names == ("north", "south", "east")
    assert torch.equal(answers(now, ["east"])["east"], said)
    assert torch.equal(now(inputs(), context=3), said)
    assert now.metadata["grown"].keys() == {"east"}
    fewer = founders().grow("west", new_data(classes=2), TASK).rename("north", "up")
    assert fewer.metadata["classes"] == {"up": [0, 1, 2], "south": [0, 1, 2], "west": [0, 1]}


def test_names_that_cannot_be_are_refused(three):
    for old, new, kind in (
        ("nobody", "x", UnknownTicket),
        ("west", "north", UsageError),
        ("west", 3, UsageError),
    ):
        with pytest.raises(kind):
            three.rename(old, new)
    with pytest.raises(UnknownTicket):
        three.forget("nobody")
    with pytest.raises(UsageError, match="the last ticket"):
        three.select(["west"]).forget("west")


def test_files_that_grew_apart_come_together(tmp_path):
    base = founders()
    base.save(tmp_path / "base.tickets")
    west, east = (tb.load(tmp_path / "base.tickets", base.backbone) for _ in range(2))
    west = west.grow("west", new_data(), TASK, policy="frozen")
    east = east.grow("east", new_data(shift=4), TASK, policy="free")
    west.save(tmp_path / "west.tickets")
    east.save(tmp_path / "east.tickets")
    both = merge_files([tmp_path / "west.tickets", tmp_path / "east.tickets"], base.backbone)
    assert both.names == ("north", "south", "west", "east")
    for model in (west, east):
        for name, output in answers(model, model.names).items():
            assert torch.equal(answers(both, [name])[name], output)
    assert merged(west, base).names == west.names
    assert both.metadata["grown"].keys() == {"west", "east"}


def test_files_prepared_in_different_ways_do_not_come_together(tmp_path):
    base, two = founders(), founders()
    two.metadata["input"] = {
        **two.metadata["input"],
        "prepare": [{"step": "scale", "factor": 2.0, "shift": 0.0}],
    }
    with pytest.raises(MaskError, match="prepared in different ways"):
        merged(base, two.rename("north", "a").rename("south", "b"))
    for given in ([], "a.tickets"):
        with pytest.raises(UsageError, match="takes a list of files"):
            merge_files(given, base.backbone)


def test_what_cannot_come_together_is_said():
    base = founders()
    west = base.grow("west", new_data(), TASK, policy="free")
    east = base.grow("east", new_data(shift=4), TASK, policy="free")
    with pytest.raises(MaskError, match=r"\d+ weights that tickets of both keep differ"):
        merged(west, east)
    with pytest.raises(MaskError, match="both have a ticket 'west', and they differ"):
        merged(west, base.grow("west", new_data(shift=5), TASK, policy="frozen"))
    with pytest.raises(TombolaError, match=r"weights that tickets of both keep differ|both have a ticket"):
        merged(west, founders("SGD").rename("north", "a").rename("south", "b"))
