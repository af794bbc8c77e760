"""Fine-tunes of one network as tickets of one file, and tickets of the change of a network."""

import copy
import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tombola as tb
from tombola._utils.errors import TicketFileError, TombolaError, UsageError
from tombola.cli import main as cli
from tombola.lab.launch import Order
from tombola.masks.reference import from_reference, plain, references

PROGRAM = """
import torch
from torch import nn

def base():
    torch.manual_seed(0)
    first = nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU()
    return nn.Sequential(*first, nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 3))
"""
METHODS = ("tall", "emr", "ties", "dare", "dare_ties", "mean", "sum")


def base():
    names = {}
    exec(PROGRAM, names)
    return names["base"]()


def tuned(seed, size=0.05, share=0.3):
    """The base with a share of its weights changed."""
    net, g = base(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p += size * torch.randn(p.shape, generator=g) * (torch.rand(p.shape, generator=g) < share)
        net[1].running_mean += torch.rand(32, generator=g)
    return net.eval()


def kept_of(tickets):
    return {name: known["kept"] for name, known in tickets.metadata["merged"].items()}


def inputs(n=50):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("method", METHODS)
def test_a_ticket_is_the_base_with_its_share_of_the_change_and_all_that_is_its_own(method, tmp_path):
    nets = {f"task {k}": tuned(k) for k in range(3)}
    tickets = tb.merge(base(), nets, method)
    tickets.save(tmp_path / "merged.tickets")
    loaded = tb.load(tmp_path / "merged.tickets", base())
    for name, net in nets.items():
        baked = tickets.bake(name)
        assert list(baked.state_dict()) == list(net.state_dict())
        for own in ("0.bias", "1.weight", "1.running_mean", "5.weight", "5.bias"):
            assert torch.equal(baked.state_dict()[own], net.state_dict()[own])
        for model in (tickets, loaded, baked.eval()):
            said = model(inputs()) if model is baked else model(inputs(), ticket=name)
            assert torch.equal(said, baked(inputs()))
    kept = kept_of(tickets)
    least, most = (0.4, 1) if method in ("tall", "emr") else (-6, 0.3)
    assert all(least < value <= most for value in kept.values())


def test_masks_keep_more_of_the_fine_tunes_than_one_network_does():
    nets = {f"task {k}": tuned(k) for k in range(6)}
    kept = {m: min(kept_of(tb.merge(base(), nets, m)).values()) for m in METHODS}
    assert kept["emr"] > kept["tall"] + 0.2 > max(kept["ties"], kept["mean"]) + 0.2


@pytest.mark.parametrize("seed", range(3))
def test_fine_tunes_that_changed_different_weights_come_back_to_the_bit(seed):
    start, nets = base(), {}
    for k in range(3):
        net, g = base(), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in (net[0].weight, net[3].weight):
                mine = torch.randint(3, weight.shape, generator=g) == k
                weight += 2**-4 * mine  # a power of two: sums are exact
        nets[f"task {k}"] = net
    tickets = tb.merge(start, nets)
    for name, net in nets.items():
        for one, other in zip(tickets.bake(name).parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert all(value > 0.999 for value in kept_of(tickets).values())


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_networks_of_transformers_are_merged(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    small = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    if kind == "bert":
        config = transformers.BertConfig(**small, intermediate_size=64, num_labels=3)
        start = transformers.BertForSequenceClassification(config).eval()
    else:  # linear layers without biases, an output layer that is the embedding
        config = transformers.LlamaConfig(**small, intermediate_size=64, tie_word_embeddings=True)
        start = transformers.LlamaForCausalLM(config).eval()
    nets = {f"task {k}": copy.deepcopy(start) for k in range(2)}
    with torch.no_grad():
        for net in nets.values():
            for p in net.parameters():
                p += 0.02 * torch.randn_like(p)
    tickets, x = tb.merge(start, nets), {"input_ids": torch.randint(100, (2, 7))}
    assert len(tickets.scope.names) == (6 * 2 + (kind == "bert") if kind == "bert" else 7 * 2)
    tickets.save(tmp_path / "merged.tickets", like=x)
    loaded = tb.load(tmp_path / "merged.tickets", start)
    for name in tickets.names:
        baked = tickets.bake(name)
        assert baked.state_dict().keys() == start.state_dict().keys()
        for model in (tickets, loaded):
            with torch.no_grad():
                said = model(x, ticket=name).logits
                torch.testing.assert_close(said, baked(**x).logits, rtol=1e-4, atol=1e-5)
    if kind == "llama":
        assert tickets.bake("task 1").generate(**x, max_new_tokens=3).shape == (2, 10)


def test_what_does_not_belong_to_the_base_is_named(tmp_path):
    net, other = tuned(1), nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 24))
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    wide = base()
    wide[5] = nn.Linear(24, 5)
    for tunes, words in (
        ({"a": net}, "at least two"),
        ({"a": net, "b": other}, "checkpoint 'b' has no 5.weight"),
        ({"a": net, "b": wide}, r"checkpoint 'b' has 5.weight of shape \(5, 24\), the base \(3, 24\)"),
        ({"a": net, "b": tmp_path / "none.pt"}, "checkpoint 'b': there is no file"),
        ({"a": net, "b": tmp_path / "bad.safetensors"}, "checkpoint 'b': .* cannot be read"),
    ):
        with pytest.raises(TombolaError, match=words):
            tb.merge(base(), tunes)
    with pytest.raises(UsageError, match="tall, emr, ties, dare, dare_ties, mean, sum"):
        tb.merge(base(), {"a": net, "b": net}, "product")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_what_is_kept_is_true_in_every_dtype(method, dtype):
    start, nets = base().to(dtype), {f"task {k}": tuned(k, size=3e-4).to(dtype) for k in range(3)}
    tickets = tb.merge(start, nets, method)
    for name, share in kept_of(tickets).items():
        baked, parts = tickets.bake(name), []
        for layer in (0, 3):
            first, one, made = (net[layer].weight.double() for net in (start, nets[name], baked))
            parts.append((((one - made) ** 2).sum(), ((one - first) ** 2).sum()))
        away, whole = (sum(float(part[i]) for part in parts) for i in range(2))
        assert share == pytest.approx(1 - (away / whole) ** 0.5, abs=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_tasks_of_which_nothing_is_elected_and_weights_that_nobody_changed(method):
    up, down, same = base(), base(), base()
    with torch.no_grad():
        for net, far in ((up, 0.1), (down, -0.05)):
            net[0].weight += far
    tickets = tb.merge(base(), {"up": up, "too": copy.deepcopy(up), "down": down, "same": same}, method)
    for name in tickets.names:
        assert bool(tickets(inputs(), ticket=name).isfinite().all())
    assert not bool(tickets.scope.unflatten(tickets.owned_N)["3.parametrizations.weight.original"].any())
    assert kept_of(tickets)["up"] > (0.4 if method in ("tall", "emr") else -6 if "dare" in method else 0)


def test_a_checkpoint_that_is_more_or_less_or_broken_is_named():
    odd, net = tuned(1), tuned(2)
    odd[0].weight.data[0, 0] = torch.nan
    more = {**net.state_dict(), "6.weight": torch.ones(2)}
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    tied[1].weight = tied[0].weight
    untied = copy.deepcopy(tied)
    untied[1].weight = nn.Parameter(untied[1].weight + 1)
    for start, other, words in (
        (base(), odd, "checkpoint 'b': 0.weight holds NaN"),
        (base(), more, "has 6.weight, which the base has not"),
        (base(), 3, "is a network, its state_dict or a file: got int"),
        (base(), {"state_dict": net.state_dict()}, "pass what it has under 'state_dict'"),
        (tied, untied, "has weights of their own in 0.weight, 1.weight, which the base ties"),
    ):
        good = copy.deepcopy(start)
        with pytest.raises(TombolaError, match=words):
            tb.merge(start, {"a": good, "b": other}, include=["0.*"] if start is not tied else ["2.*"])
    with pytest.raises(UsageError, match="the name of a task is a string, one line"):
        tb.merge(base(), {1: net, "b": net})
    with pytest.raises(UsageError, match=r"merge baked ones \(tickets.bake\)"):
        tb.merge(tb.merge(base(), {"a": net, "b": net}).backbone, {"a": net, "b": net})
    with pytest.raises(TombolaError, match="everything is excluded"):
        tb.merge(base(), {"a": net, "b": net}, exclude=["*"])


def test_names_of_wrappers_are_read():
    net = tuned(1)
    wrapped = {f"module.{name}": t for name, t in net.state_dict().items()}
    tickets = tb.merge(torch.compile(base()), {"a": wrapped, "b": torch.compile(tuned(2))})
    assert torch.equal(tickets.bake("a")[5].weight, net[5].weight)


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        sys.exit(cli.main([*map(str, arguments)]))
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


def test_the_command_reads_files_and_says_what_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "merging_nets.py").write_text(PROGRAM)
    save_file(tuned(1).state_dict(), "a.safetensors")
    torch.save(tuned(2).state_dict(), "b.pt")
    command = (
        "merge",
        "both.tickets",
        "a=a.safetensors",
        "b=b.pt",
        "--backbone",
        "merging_nets:base",
        "--force",
    )
    code, out, err = call(capsys, *command, "--json")
    assert code == 0, err
    assert [row["task"] for row in json.loads(out)] == ["a", "b"]
    code, out, _ = call(capsys, *command)
    assert "bytes beside the base" in out.replace("\n", " ")
    net = ("--backbone", "merging_nets:base")
    code, _, err = call(capsys, "export", "both.tickets", "--ticket", "a", "--out", "a.pt", *net)
    assert code == 0, err
    assert torch.load("a.pt", weights_only=True).keys() == base().state_dict().keys()
    code, out, _ = call(capsys, "inspect", "both.tickets", "--json")
    assert [*json.loads(out)["layers"]["a"]] == ["0.weight", "3.weight"]
    code, _, err = call(capsys, "forget", "both.tickets", "b", "--save", "one.tickets", *net)
    assert code == 0, err
    assert tb.load("one.tickets", base()).metadata["merged"].keys() == {"a"}
    tickets = tb.load("both.tickets", base())
    assert torch.equal(tickets.bake("a")[5].weight, tuned(1)[5].weight)
    far = {name: t + 9 * t.std() if t.is_floating_point() else t for name, t in tuned(2).state_dict().items()}
    save_file(far, "far.safetensors")
    code, _, err = call(capsys, "merge", "far.tickets", "a=a.safetensors", "b=far.safetensors", *command[4:])
    assert code == 0, err
    assert "tombola: checkpoint 'b' is" in err
    assert "UserWarning" not in err
    for wrong, words in (
        ((*command[:3], "b"), "TASK=FILE"),
        ((*command[:3], "a=b.pt"), "two of 'a'"),
    ):
        code, _, err = call(capsys, *wrong, *command[4:])
        assert code != 0
        assert words in err
    sys.modules.pop("merging_nets", None)


# -- tickets of the change -----------------------------------------------------------------------------------


def found(**changes):
    g = torch.Generator().manual_seed(0)
    x, site = torch.randn(300, 6, generator=g), torch.arange(300) % 2
    y = x[:, :3].argmax(1) ^ site
    data = tb.Data.of(x, y.clamp(max=2), {"site": site.numpy()}, validation=0.2, test=0.2)
    how = {"sparsity": 0.7, "T": 5, "steps": 10, "parallel": "no", "reference": "theta0", **changes}
    sites = tb.partition.by_column(data, "site")
    return tb.rtl(base(), tb.objectives.Classification(), data, sites, **how), data


@pytest.mark.parametrize("score", ["magnitude", "movement", "taylor:2", "snip:2"])
def test_what_a_ticket_does_not_keep_is_as_it_was_in_the_given_network(score, tmp_path):
    tickets, _ = found(score=score)
    start = base()
    for name in tickets.names:
        baked = tickets.bake(name)
        masks = tickets.scope.unflatten(tickets[name])
        for layer in (0, 3):
            (mask,) = (m for n, m in masks.items() if n.startswith(f"{layer}."))
            same = baked[layer].weight == start[layer].weight
            assert bool(same[~mask].all())
            assert float(same[mask].float().mean()) < 0.2
        assert type(baked[0]) is nn.Linear
    tickets.save(tmp_path / "a.tickets")
    content = (tmp_path / "a.tickets").read_bytes()
    assert start[0].weight.detach().numpy().tobytes()[:64] not in content  # the base is not stored
    loaded = tb.load(tmp_path / "a.tickets", base())
    for name in tickets.names:
        assert torch.equal(loaded(inputs(), ticket=name), tickets(inputs(), ticket=name))
    with pytest.raises(TicketFileError, match="changes of another network than the given one"):
        tb.load(tmp_path / "a.tickets", tuned(1))


def test_tickets_of_a_change_grow_are_forgotten_and_copied():
    tickets, data = found()
    before = {name: tickets(inputs(), ticket=name) for name in tickets.names}
    grown = tickets.grow(
        "new", tb.Data(data.train, data.validation, data.test), tb.objectives.Classification()
    )
    left = copy.deepcopy(grown).forget(tickets.names[0])
    for name in left.names[:1]:
        assert torch.equal(left(inputs(), ticket=name), before[name])
    assert references(left.backbone).keys() == {"0.weight", "3.weight"}


def test_merged_files_take_tickets_for_new_tasks(tmp_path):
    tickets = tb.merge(base(), {f"task {k}": tuned(k) for k in range(2)})
    tickets.save(tmp_path / "two.tickets")
    _, data = found(T=1, steps=1)
    alone = tb.Data(data.train, data.validation, data.test)
    how = {"sparsity": 0.7, "T": 40, "steps": 80, "train": tb.TrainConfig(lr=0.01, batch_size=32)}
    for start in (tickets, tb.load(tmp_path / "two.tickets", base())):
        one = start.grow("new", alone, tb.objectives.Classification(), **how)
        two = one.forget("task 0").grow("newer", alone, tb.objectives.Classification(), **how)
        for name in ("new", "newer"):
            right = two(alone.train.x, ticket=name).argmax(1) == alone.train.y
            assert float(right.float().mean()) > 0.55
        assert torch.equal(two(inputs(), ticket="task 1"), tickets(inputs(), ticket="task 1"))


def test_a_ticket_for_a_new_task_starts_from_what_is_pretrained():
    start = base()
    with torch.no_grad():
        start[1].weight += 1
        start[1].bias += 0.7
    nets = {}
    for k in range(2):
        nets[f"task {k}"] = copy.deepcopy(start)
        with torch.no_grad():
            for p in nets[f"task {k}"].parameters():
                p += 0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(k))
    _, data = found(T=1, steps=1)
    alone = tb.Data(data.train, data.validation, data.test)
    tickets = tb.merge(start, nets)
    for _ in range(2):  # also where another one has been grown before
        tickets = tickets.grow(f"new {len(tickets)}", alone, tb.objectives.Classification(), T=1, steps=1)
        own = tickets.private_state(tickets.names[-1])
        assert float((own["1.weight"] - start[1].weight).abs().max()) < 0.1
        assert float((own["5.weight"] - start[5].weight).abs().max()) < 0.1


@pytest.mark.parametrize("method", ["rtl", "imp", "one_shot", "movement", "fine_tuning"])
def test_weights_are_named_as_ever_under_every_method(method):
    _, data = found(T=1, steps=1)
    given = base(), tb.objectives.Classification(), data, tb.partition.by_column(data, "site")
    how = {"reference": "theta0", "T": 1, "steps": 1, "parallel": "no", "exclude": ["3.*"]}
    for include in ([], ["*.weight"]):
        more = {"include": include, "exclude": ["3.*", "1.*", "5.*"]} if include else {}
        (outcome,) = tb.find(method, *given, sparsity=0.5, **{**how, **more})
        assert outcome.tickets.scope.names == ("0.parametrizations.weight.original",)


def test_a_run_of_all_methods_leaves_out_those_that_do_not_go():
    order = Order.of("digits", changes=["reference=theta0"], source=None)
    assert "theta0_magnitude" not in order.methods
    assert "rtl" in order.methods
    with pytest.raises(UsageError, match="theta0_magnitude does not go with reference=theta0"):
        Order.of("digits", changes=["reference=theta0"], source=None, methods=["theta0_magnitude"])


def test_one_seed_gives_one_result_and_workers_give_the_same():
    first, second, workers = found()[0], found()[0], found(parallel="workers")[0]
    assert all(torch.equal(first[n], second[n]) for n in first.names)
    assert all(torch.equal(first[n], workers[n]) for n in first.names)


def test_methods_about_initial_weights_and_learned_masks_are_refused():
    with pytest.raises(UsageError, match="the change begins at zero"):
        found(callback="learned:0.1")
    _, data = found()
    sites = tb.partition.by_column(data, "site")
    for method in ("theta0_magnitude", "reinit", "imp_context"):
        with pytest.raises(UsageError, match="choose reference=zero"):
            tb.find(
                method, base(), tb.objectives.Classification(), data, sites, reference="theta0", T=1, steps=1
            )
    with pytest.raises(UsageError, match="reference is zero or theta0"):
        found(reference="pretrained")


def test_a_network_without_a_reference_is_left_as_it_is():
    net = base()
    assert references(net) == {}
    assert plain(net) is net
    shared = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    shared[1].weight = shared[0].weight
    with pytest.raises(TombolaError, match="shared by layers"):
        from_reference(shared, ["0.weight"])


class Inside(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x):
        return self.module(x)


def test_names_of_a_wrapper_go_and_those_of_the_network_stay(tmp_path):
    base = Inside()
    tuned = copy.deepcopy(base)
    for p in tuned.parameters():
        p.data += 0.1 * torch.randn_like(p)
    tb.merge(base, {"a": tuned, "b": base.state_dict()})
    file = tmp_path / "wrapped.safetensors"
    save_file(tuned.state_dict(), file)  # as a wrapper of the inner network would
    right = tb.merge(base.module, {"a": tuned.module, "b": base.module}).state_dict()
    for held in (tuned.state_dict(), file):
        found = tb.merge(base.module, {"a": held, "b": base.module}).state_dict()
        assert all(torch.equal(t, found[name]) for name, t in right.items())
