"""Changes of a reference: what scores, pruning, files and pickling make of them."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import tombola as tb
from tombola.masks.reference import changed, from_reference, references, unchanged
from tombola.pruning.scores.wanda import squared_inputs


def base():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def find(net=None, **changes):
    g = torch.Generator().manual_seed(0)
    x, site = torch.randn(240, 6, generator=g), torch.arange(240) % 2
    data = tb.Data.of(x, (x[:, :2].argmax(1) + site) % 3, {"site": site}, validation=0.2)
    options = {"sparsity": 0.5, "T": 4, "steps": 6, "parallel": "no", "reference": "theta0", **changes}
    objective, partition = tb.objectives.Classification("subset"), tb.partition.by_column(data, "site")
    return tb.rtl(net or base(), objective, data, partition, **options)


def test_wanda_takes_what_meets_the_whole_weight_and_scores_the_change():
    net, x = from_reference(base(), ["0.weight", "2.weight"]), torch.randn(50, 6)
    net[2].parametrizations.weight.original.data.normal_()
    net[0].parametrizations.weight.original.data.normal_()
    seen, whole = {}, base()
    whole[0].weight.data.copy_(net[0].weight)
    whole[2].weight.data.copy_(net[2].weight)
    for i in (0, 2):
        whole[i].register_forward_pre_hook(lambda _, inputs, i=i: seen.update({i: inputs[0]}))
    with torch.no_grad():
        whole(x)
    layout = tb.Layout((changed("0.weight"), changed("2.weight")), ((16, 6), (12, 16)))
    found = layout.unflatten(squared_inputs(copy.deepcopy(net), layout, [x[:20], x[20:]]))
    for i, (name, shape) in zip((0, 2), zip(layout.names, layout.shapes, strict=True), strict=True):
        squares = seen[i].double().square().sum(0)
        torch.testing.assert_close(found[name], squares.expand(shape), rtol=1e-6, atol=0)
    tickets = find(score="wanda:2", selection="row")
    for mask in tickets.scope.unflatten(tickets["0"]).values():
        assert set(mask.sum(1).tolist()) <= {mask.shape[1] // 2, mask.shape[1] - mask.shape[1] // 2}


class Faint(nn.Sequential):
    """Its first layer gets next to nothing, so that it hardly moves and all of its change is pruned."""

    def forward(self, x):
        return super().forward(1e-6 * x)


def test_a_layer_without_a_change_is_no_collapse():
    net = Faint(*base())
    config = tb.TrainConfig(optimizer="SGD", lr=0.1)
    tickets = find(net, sparsity=0.9, search=config, train=config)
    assert not tickets.scope.unflatten(tickets["0"])[changed("0.weight")].any()
    assert torch.equal(tickets.bake("0")[0].weight, base()[0].weight)


def test_pickling_is_refused_in_one_line_and_copies_work():
    tickets = find()
    for save in (pickle.dumps, lambda net: torch.save(net, io.BytesIO())):
        with pytest.raises(tb.errors.TombolaError, match=r"cannot be pickled: save its tickets") as error:
            save(tickets)
        assert "\n" not in str(error.value)
    again, x = copy.deepcopy(tickets), torch.randn(5, 6)
    assert torch.equal(again(x, "1"), tickets(x, "1"))
    pickle.loads(pickle.dumps(tickets.bake("1")))


def test_what_is_not_trained_is_left_to_the_base_and_nothing_else(tmp_path):
    net = base()
    net[2].requires_grad_(False)
    tickets = find(net, exclude=["2.*"])
    assert [*unchanged(tickets.backbone)] == ["2.weight", "2.bias"]
    assert [*references(tickets.backbone)] == ["0.weight"]
    tickets.save(tmp_path / "a.tickets")
    loaded, x = tb.load(tmp_path / "a.tickets", net), torch.randn(5, 6)
    assert torch.equal(loaded(x, "1"), tickets(x, "1"))
    net[2].bias.data[3] += 1e-6
    with pytest.raises(tb.errors.TicketFileError, match="changes of another network"):
        tb.load(tmp_path / "a.tickets", net)
