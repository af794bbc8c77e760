"""Several tasks on one pretrained network: adapters, fine-tunes, merging and tickets, and what they store."""

import copy
import importlib.util
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

import tombola as tb
from tombola._utils import io
from tombola._utils.errors import RunError, TicketFileError, UsageError
from tombola._utils.replica import copied
from tombola._utils.rng import generator
from tombola.cli import main as cli
from tombola.lab.adaptation import adapters
from tombola.lab.adaptation.evaluate import carried_out, place, rows, stored, summary, tables, with_behind
from tombola.lab.adaptation.figure import figure, pareto
from tombola.lab.adaptation.rivals import RIVALS
from tombola.lab.continual.rivals import Arrivals
from tombola.lab.experiments.sentences import SENTENCES
from tombola.lab.models import sentences as models
from tombola.lab.models.sentences import TinyEncoder
from tombola.lab.report.page import put_tables
from tombola.lab.report.rows import over_seeds
from tombola.tickets.merging import merge
from tombola.training.trainer import Problem

PEFT = importlib.util.find_spec("peft") is not None
WITH_PEFT = ("ia3", "lora_r4", "lora_r16", "shira")
needs_peft = pytest.mark.skipif(not PEFT, reason="peft is not installed (extra pretrained)")
PLAIN = [name for name in RIVALS if name not in WITH_PEFT]


@pytest.fixture(scope="module")
def arrivals():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "weights", lambda: None)  # the tiny encoder, whatever is installed
        yield tiny()


def tiny() -> Arrivals:
    (data,) = SENTENCES.load(None, False).values()
    settings = replace(SENTENCES.presets["quick"].settings, T=3, steps=5)
    given = SENTENCES.objective, data, SENTENCES.partition(data), settings, 0, (0, 1, 2, 3)
    return Arrivals(TinyEncoder(6, generator(0, "theta0")), *given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adapt")


@pytest.mark.parametrize("rival", [*PLAIN, *(pytest.param(name, marks=needs_peft) for name in WITH_PEFT)])
def test_every_rival_has_a_quality_for_every_task_and_counts_its_bytes(rival, arrivals, folder):
    found = carried_out(rival, arrivals, folder)
    assert found["names"] == ["mr", "subj", "trec", "cr"]
    assert all(0 < value <= 1 for value in found["quality"])
    values = summary(found)
    assert values["accuracy"] == pytest.approx(sum(found["quality"]) / 4)
    whole = sum(t.numel() * t.element_size() for t in arrivals.backbone.state_dict().values())
    assert values["bytes_total"] > values["bytes_per_task"] > 0
    assert values["bytes_total"] < 5 * whole + 20_000
    assert values["latency"] > 0


@pytest.mark.parametrize("rival", [*PLAIN, *(pytest.param(name, marks=needs_peft) for name in WITH_PEFT)])
def test_every_rival_takes_as_many_steps(rival, arrivals, tmp_path, monkeypatch):
    steps, plain = [], Problem.gradient

    def counted(self, *given):
        steps.append(1)
        return plain(self, *given)

    monkeypatch.setattr(Problem, "gradient", counted)
    RIVALS[rival].models(arrivals, tmp_path)
    assert arrivals.steps == 3 + 5
    assert len(steps) == 4 * arrivals.steps


def trained(before: nn.Module, after: nn.Module) -> set[str]:
    """The tensors that differ, by name."""
    now = after.state_dict()
    return {
        name for name, t in before.state_dict().items() if name not in now or not torch.equal(t, now[name])
    }


def test_who_trains_a_part_moves_nothing_else(arrivals, folder):
    moved = {
        name: trained(arrivals.backbone, RIVALS[name].models(arrivals, folder)["mr"].bake("mr"))
        for name in ("frozen_head", "bitfit", "full_fine_tune")
    }
    head = {"classifier.weight", "classifier.bias"}
    assert moved["frozen_head"] == head
    assert moved["bitfit"] == head | {"layers.0.bias", "layers.2.bias"}
    assert moved["full_fine_tune"] == moved["bitfit"] | {"layers.0.weight", "layers.2.weight"}


@needs_peft
@pytest.mark.parametrize("rival", WITH_PEFT)
def test_adapters_leave_the_base_as_it_was_and_store_themselves_alone(rival, arrivals, folder):
    models = RIVALS[rival].models(arrivals, folder)
    state = models["trec"].bake("trec").state_dict()
    for name, t in arrivals.backbone.state_dict().items():
        if not name.startswith("classifier"):
            layer, _, last = name.rpartition(".")
            there = state.get(name, state.get(f"{layer}.base_layer.{last}"))
            assert torch.equal(there, t), name
    kept = adapters.stored(models["trec"].backbone)
    assert {"classifier.weight", "classifier.bias"} < kept.keys()
    assert not any("base_layer" in name for name in kept)
    assert stored(models, arrivals.backbone)["bytes_per_task"] == len(
        save({n: t.contiguous() for n, t in kept.items()})
    )


@needs_peft
def test_lora_has_the_numbers_of_its_rank():
    network = adapters.lora(TinyEncoder(6), ["layers.0.weight", "layers.2.weight"], "classifier.weight", r=4)
    own = {n: p.numel() for n, p in network.named_parameters() if p.requires_grad and "classifier" not in n}
    assert sum(own.values()) == 4 * (32 + 64) + 4 * (64 + 64)


def test_fine_tunes_are_kept_and_merged_without_training_them_again(arrivals, tmp_path, monkeypatch):
    full = RIVALS["full_fine_tune"].models(arrivals, tmp_path)
    assert sorted(file.name.split("-")[0] for file in tmp_path.iterdir()) == ["cr", "mr", "subj", "trec"]
    monkeypatch.setattr(Problem, "gradient", None)  # nothing may train from here on
    merged = RIVALS["merge_tall"].models(arrivals, tmp_path)
    right = merge(arrivals.backbone, {name: model.bake(name) for name, model in full.items()}, "tall")
    for name in right.names:
        assert not trained(right.bake(name), merged[name].bake(name))
    chosen = RIVALS["merge_tall_chosen"].models(arrivals, tmp_path)["mr"].metadata["merged"]
    for name in right.names:
        held, n = arrivals.task(name).validation, len(torch.unique(arrivals.task(name).train.y))
        answers = merged[name].bake(name)(held.x)[:, :n].argmax(1)
        assert chosen[name]["validation"] >= (answers == held.y).double().mean()


def test_differences_are_paired_by_seed_and_tables_have_every_task():
    def one(rival, seed, quality):
        sizes = dict.fromkeys(("bytes_per_task", "bytes_total", "seconds", "latency"), 1e6)
        head = {"rival": rival, "names": ["a", "b"], "seed": seed, "sparsity": 0.9, "metric": "accuracy"}
        return {**head, "quality": quality, **sizes}

    made = rows(
        [
            one("full_fine_tune", 0, [0.9, 0.7]),
            one("full_fine_tune", 1, [0.8, 0.8]),
            one("rtl_theta0", 1, [0.7, 0.7]),
        ],
        "sentences",
        "quick",
    )
    behind = [row for row in made if row["metric"] == "behind"]
    assert [(row["method"], row["values"]) for row in behind] == [("rtl_theta0", {"1": pytest.approx(0.1)})]
    quality, by_task = tables(made)
    assert quality.header[:5] == ["rival", "sparsity", "seeds", "accuracy", "behind full fine-tunes"]
    assert by_task.header == ["rival", "sparsity", "seeds", "a", "b"]


def test_seeds_that_come_later_join_those_of_the_page(tmp_path):
    head = {"experiment": "sentences", "preset": "quick", "method": "rtl_theta0", "sparsity": 0.9}
    page = tmp_path / "page.md"
    for values in ({"0": 0.5, "1": 0.75}, {"1": 0.5}, {"2": 0.5}):
        put_tables(page, place(), [over_seeds(head | {"metric": "accuracy"}, values)], tables)
    (row,) = json.loads((tmp_path / "page.json").read_text())
    assert row["values"] == {"0": 0.5, "1": 0.5, "2": 0.5}  # of equal seeds the later one
    tuned = head | {"method": "full_fine_tune", "sparsity": 0.0, "metric": "accuracy"}
    put_tables(page, place(), [over_seeds(tuned, {"1": 0.75, "2": 0.5, "3": 1.0})], tables)
    quality, tickets, behind = json.loads((tmp_path / "page.json").read_text())
    assert [row["method"] for row in (quality, tickets, behind)] == ["full_fine_tune", *["rtl_theta0"] * 2]
    assert behind["metric"] == "behind"  # in the seeds of both, though they came in two calls
    assert behind["values"] == {"1": 0.25, "2": 0.0}
    assert (row["seeds"], row["mean"], row["ci95"]) == (3, 0.5, 0.0)


def test_sparser_tickets_move_their_weights_further():
    base = tb.Settings(search=tb.TrainConfig(lr=1e-3), train=tb.TrainConfig(lr=1e-3))
    made = RIVALS["rtl_theta0_97"].settings(base)
    assert (made.sparsity, made.search.lr, made.train.lr) == ((0.97,), 1e-3, pytest.approx(3e-3))


# -- what is stored of a base network ------------------------------------------------------------------------


def tickets_of_the_change() -> tuple[nn.Module, tb.TicketModel]:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Embedding(500, 6), nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2))
    base[0].requires_grad_(False)
    x = torch.randint(0, 500, (200, 2))
    data = tb.Data.of(x, x[:, 0] % 2, {"site": torch.arange(200) % 2})
    how = {"sparsity": 0.5, "reference": "theta0", "T": 2, "steps": 2, "private": ["4.*"], "parallel": "no"}
    sites = tb.partition.by_column(data, "site")
    return base, tb.rtl(base, tb.objectives.Classification(), data, sites, progress=False, **how)


def test_a_file_holds_nothing_of_the_base_and_is_read_on_it(tmp_path):
    base, tickets = tickets_of_the_change()
    size = tickets.save(tmp_path / "two.tickets")
    tensors, header = io.read(tmp_path / "two.tickets")
    assert "rest.0.weight" not in tensors
    assert header["format"] == 4
    assert size < 12_000 == 500 * 6 * 4
    again, x = tb.load(tmp_path / "two.tickets", base), torch.randint(0, 500, (50, 2))
    for name in tickets.names:
        assert torch.equal(again(x, ticket=name), tickets(x, ticket=name))
        assert torch.equal(again.bake(name)[0].weight, base[0].weight)
    again.save(tmp_path / "again.tickets")
    assert (tmp_path / "again.tickets").read_bytes() == (tmp_path / "two.tickets").read_bytes()


@pytest.mark.parametrize("where", ["0.weight", "2.weight"])
def test_another_base_is_refused_wherever_it_differs(where, tmp_path):
    base, tickets = tickets_of_the_change()
    tickets.save(tmp_path / "two.tickets")
    other = copied(base)
    with torch.no_grad():
        other.get_parameter(where)[0, 0] += 1e-3
    with pytest.raises(TicketFileError, match="changes of another network"):
        tb.load(tmp_path / "two.tickets", other)


def test_what_was_trained_beside_the_scope_is_stored(tmp_path):
    base, _ = tickets_of_the_change()
    base[0].requires_grad_(True)  # the embedding is a remainder that all tickets train
    x = torch.randint(0, 500, (200, 2))
    data = tb.Data.of(x, x[:, 0] % 2, {"site": torch.arange(200) % 2})
    how = {"sparsity": 0.5, "reference": "theta0", "T": 2, "steps": 2, "parallel": "no"}
    sites = tb.partition.by_column(data, "site")
    tickets = tb.rtl(base, tb.objectives.Classification(), data, sites, progress=False, **how)
    tickets.save(tmp_path / "two.tickets")
    assert "rest.0.weight" in io.read(tmp_path / "two.tickets")[0]
    assert torch.equal(tb.load(tmp_path / "two.tickets", base)(x, ticket="0"), tickets(x, ticket="0"))


class Padded(nn.Conv2d):
    """A convolution that is made in a way of its own, as those of packages are."""

    def __init__(self, inputs, outputs, kernel, side, groups=1):
        assert side > 0
        super().__init__(inputs, outputs, kernel, groups=groups)


@needs_peft
def test_lora_takes_convolutions_that_are_matrices_and_shira_says_that_it_takes_none():
    layers = (Padded(3, 8, 1, side=4), Padded(8, 8, 3, side=4, groups=8), nn.Conv2d(8, 8, 1), nn.Flatten())
    net = nn.Sequential(*layers, nn.Linear(32, 3))
    scope, x = ["0.weight", "1.weight", "2.weight"], torch.randn(2, 3, 4, 4)
    right = net(x)
    changed = adapters.lora(copy.deepcopy(net), scope, "4.weight", r=2)
    torch.testing.assert_close(changed(x), right)
    trained = {name.split(".")[0] for name, p in changed.named_parameters() if p.requires_grad}
    assert trained == {"0", "2", "4"}
    with pytest.raises(UsageError, match="SHiRA changes matrices, and no layer in scope"):
        adapters.shira(net, scope, "4.weight", r=2)


def test_a_metric_of_which_less_is_better_is_compared_so():
    head = {"experiment": "mine", "preset": "quick", "sparsity": 0.0, "metric": "nats"}
    made = [
        over_seeds(head | {"method": name}, {"0": value})
        for name, value in (("full_fine_tune", 3.0), ("frozen_head", 4.0))
    ]
    (behind,) = [row for row in with_behind(made) if row["metric"] == "behind"]
    assert behind["mean"] == 1.0
    assert pareto({"small": (1.0, 4.0), "large": (2.0, 3.0), "worse": (3.0, 3.5)}, -1) == ["small", "large"]


def test_few_test_samples_are_enough_for_the_time_of_a_mixed_batch(arrivals, folder):
    two = torch.cat([m.nonzero()[:2, 0] for m in arrivals.partition.members["test"].T])
    data = replace(arrivals.data, test=arrivals.data.test.take(two))
    few = replace(arrivals, data=data, partition=SENTENCES.partition(data))
    assert carried_out("frozen_head", few, folder)["latency"] > 0


def test_fine_tunes_of_other_inputs_are_not_taken(arrivals, tmp_path):
    augmented = replace(arrivals, data=replace(arrivals.data, augment=lambda x, _: x))
    for each in (arrivals, augmented, arrivals):
        RIVALS["full_fine_tune"].models(each, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 * 4


# -- the command ---------------------------------------------------------------------------------------------


def call(capsys, *arguments):
    try:
        cli.main([str(a) for a in arguments])
        status = 0
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()


def test_the_command_compares_writes_a_page_and_does_nothing_twice(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(models, "weights", lambda: None)
    small = ("--set", "T=1", "steps=1", "--out", tmp_path, "--rival", "frozen_head", "rtl_theta0")
    status, out, _ = call(capsys, "adapt", "sentences", *small, "--write", tmp_path / "page.md")
    assert status == 0
    assert "MB per task" in out
    page, twin = (tmp_path / "page.md").read_text(), json.loads((tmp_path / "page.json").read_text())
    assert "rtl_theta0" in page
    (picture,) = (tmp_path / "pictures").iterdir()
    assert picture.name.startswith("page-sentences-quick-")
    assert "T=1" in picture.name
    assert picture.stat().st_size > 10_000
    assert {row["method"] for row in twin} == {"frozen_head", "rtl_theta0"}
    monkeypatch.setattr(Problem, "gradient", None)
    _, out, _ = call(capsys, "adapt", "sentences", *small, "--brief", "--write", tmp_path / "page.md")
    assert out.count("preset") == 1  # on the screen alone
    assert (tmp_path / "page.md").read_text() == page
    status, again, _ = call(capsys, "adapt", "sentences", *small, "--json")
    assert status == 0
    assert [row["mean"] for row in json.loads(again)] == [row["mean"] for row in twin]
    monkeypatch.undo()
    monkeypatch.setattr(models, "weights", lambda: None)
    fixed = (*small[:-2], "rtl_theta0_97")
    for sparsity in ("0.9", "0.97"):  # a rival of one sparsity is the same at another one
        status, _, _ = call(capsys, "adapt", "sentences", *fixed, "--sparsity", sparsity)
        assert status == 0
    _, _, err = call(capsys, "adapt", "sentences", *small[3:], "--set", "T=2", "steps=1")
    assert "was made with other settings or data" in err.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("sentences", "--rival", "lora"), "there is no rival 'lora'"),
        (("digits",), "the contexts of digits are its answers"),
        (("tenants", "--sparsity", "0.9"), "--set reference=theta0"),
        (("sentences", "--set", "schedule=fraction:0.5"), "--set schedule=one_shot"),
        (("sentences", "--set", "head=none"), "has none that is trained"),
        (("text_domains", "--set", "reference=theta0", "score=magnitude"), "has none that is trained"),
        (("sentences", "--sparsity", "0.5", "0.9"), "one sparsity of the change"),
        (("sentences", "--data", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_compared_is_one_line(arguments, named, tmp_path, capsys):
    status, _, err = call(capsys, "adapt", *arguments, "--out", tmp_path)
    assert status in (1, 2)
    assert named in " ".join(err.split()) or "minilm" in err  # without the extra that is said first
    assert len([line for line in err.splitlines() if "left out: they need peft" not in line]) == 1
    assert not list(Path(tmp_path).iterdir())


def test_seconds_are_those_of_the_fine_tunes_too_whenever_they_were_made(arrivals, tmp_path):
    first, again = (carried_out("merge_mean", arrivals, tmp_path)["seconds"] for _ in range(2))
    taken = []
    for file in tmp_path.iterdir():
        with safe_open(file, "pt") as kept:
            taken.append(float(kept.metadata()["seconds"]))
    assert first > sum(taken) > 0
    assert again > sum(taken)


def test_fine_tunes_of_a_network_that_computes_something_else_are_made_anew(arrivals, tmp_path):
    """Same tensors, another module between them: kept fine-tunes are of the other network."""
    RIVALS["full_fine_tune"].models(arrivals, tmp_path)
    kept = set(tmp_path.iterdir())
    other = copy.deepcopy(arrivals.backbone)
    other.add_module("between", torch.nn.Dropout(0.25))
    RIVALS["full_fine_tune"].models(replace(arrivals, backbone=other), tmp_path)
    assert len(set(tmp_path.iterdir()) - kept) == len(kept) > 0


def test_a_damaged_fine_tune_is_named(arrivals, tmp_path):
    RIVALS["full_fine_tune"].models(arrivals, tmp_path)
    next(tmp_path.glob("mr-*")).write_bytes(b"junk")
    with pytest.raises(RunError, match=r"mr-.*is damaged: delete it"):
        RIVALS["merge_mean"].models(arrivals, tmp_path)


@pytest.mark.parametrize("content", ["null", "[]", "{", '{"made_of": {}}'])
def test_a_damaged_result_is_named(content, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(models, "weights", lambda: None)
    command = ("adapt", "sentences", "--out", tmp_path, "--rival", "frozen_head", "--set", "T=1", "steps=1")
    assert call(capsys, *command)[0] == 0
    next(tmp_path.rglob("*.json")).write_text(content)
    status, _, err = call(capsys, *command)
    assert status == 1
    assert "is damaged: delete it" in " ".join(err.split())


def test_a_page_says_what_stood_in_and_what_was_changed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(models, "weights", lambda: None)
    page = ("--rival", "frozen_head", "--write", tmp_path / "page.md")
    for steps in (1, 2):
        call(
            capsys,
            "adapt",
            "sentences",
            "--out",
            tmp_path / f"r{steps}",
            *page,
            "--set",
            "T=1",
            f"steps={steps}",
        )
    presets = [row["preset"] for row in json.loads((tmp_path / "page.json").read_text())]
    assert {*presets} == {f"quick T=1 steps={n} (on made-up sentences)" for n in (1, 2)}


def test_a_rival_at_two_sparsities_is_two_points():
    head = {"experiment": "a", "preset": "b", "method": "rtl", "ci95": None}
    sizes = {"bytes_per_task": 1e6, "bytes_total": 2e6}
    made = [
        {**head, "sparsity": s, "metric": m, "mean": v}
        for s in (0.5, 0.9)
        for m, v in {"accuracy": 0.5, **sizes}.items()
    ]
    words = [text.get_text() for axes in figure(made, "a", "b").axes for text in axes.texts]
    assert words == ["rtl 50%", "rtl 90%"] * 2


def test_names_of_near_points_do_not_cover_each_other():
    head = {"experiment": "a", "preset": "b", "sparsity": 0.9, "ci95": None}
    made = [
        {**head, "method": f"merge_{i}", "metric": metric, "mean": value}
        for i in range(6)
        for metric, value in {
            "accuracy": 0.8 + i / 1e4,
            "bytes_per_task": 1e6 + i,
            "bytes_total": 2e6,
        }.items()
    ]
    for axes in figure(made, "a", "b").axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
