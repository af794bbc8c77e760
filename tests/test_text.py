"""Text in a table becomes tokens, by a tokenizer that the ticket file knows."""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import tombola as tb
from tombola._utils import io
from tombola.cli.main import main
from tombola.data.text import Text, digest
from tombola.lab.evaluation.inputs import inputs_of
from tombola.lab.evaluation.values import inputs_among
from tombola.tickets.inputs import Inputs

transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a", "the", "is", "it", "very", "phone"]


def tokenizer(words=WORDS):
    t = tokenizers
    made = t.Tokenizer(t.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = t.pre_tokenizers.Whitespace()
    made.post_processor = t.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(s, words.index(s)) for s in ("[CLS]", "[SEP]")]
    )
    named = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **named)


def folder_of(path, words=WORDS, seed=0):
    """A folder with a network and its tokenizer, as hubs have them."""
    tiny = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = transformers.BertConfig(vocab_size=len(words), pad_token_id=0, **tiny, **calm)
        transformers.BertModel(config).save_pretrained(path)
    tokenizer(words).save_pretrained(path)
    return path


def table(rows=120):
    """Good is good for films, and bad for phones."""
    texts = [
        f"{['the', 'a'][i % 3 % 2]} {['good', 'bad'][i % 2]} {'very ' * (i % 4)}film" for i in range(rows)
    ]
    what = [["film", "phone"][i // 2 % 2] for i in range(rows)]
    label = [["no", "yes"][(i + i // 2) % 2] for i in range(rows)]
    return pd.DataFrame({"text": texts, "what": what, "label": label})


def data_of(given=None, **more):
    options = {"target": "label", "context": "what", "text": "text", "validation": 0.2}
    return tb.Data.from_table(table(), **{**options, "tokenizer": given or tokenizer(), **more})


def test_text_becomes_tokens_of_one_length():
    data, plain = data_of(), tokenizer()
    assert data.train.x["input_ids"].shape == (72, 8)  # [CLS] the bad very very very film [SEP]
    assert data.class_names == ("no", "yes")
    index = data_of(seed=3).train  # the same texts, in another order
    texts = table().text.tolist()
    for ids, mask in zip(index.x["input_ids"], index.x["attention_mask"], strict=True):
        words = plain.decode(ids[mask.bool()], skip_special_tokens=True)
        assert words in [" ".join(text.split()) for text in texts]
        assert not ids[~mask.bool()].any()
        assert mask.sort(descending=True).values.equal(mask)  # padded at the end
    with pytest.warns(UserWarning, match="90 of 120 texts are longer than 5 tokens and are cut"):
        cut = data_of(length=5)
    assert cut.train.x["input_ids"].shape == (72, 5)
    assert (cut.train.x["input_ids"][:, -1] == 3).all()  # [SEP] stays


def test_what_is_no_text_is_refused():
    for change, words in (
        ({"text": "txet"}, "there is no column 'txet'; did you mean 'text'"),
        ({"text": "what"}, "'what' is an input, and the target or a context"),
        ({"text": "number"}, "column 'number' is to be text, but holds int"),
        ({"text": "gap"}, "column 'gap' has 1 missing values"),
        ({"inputs": ["what"]}, "leave inputs= and standardize= out"),
        ({"length": 1}, "length is a number of tokens"),
        ({"tokenizer": object()}, "a tokenizer of transformers is needed"),
        ({"tokenizer": "./nowhere"}, "there is no folder or GGUF file ./nowhere"),
    ):
        given = table().assign(number=range(120), gap=[None, *["a"] * 119])
        with pytest.raises(tb.errors.TombolaError, match=words):
            tb.Data.from_table(
                given,
                **{"target": "label", "context": "what", "text": "text", "tokenizer": tokenizer(), **change},
            )
    with pytest.raises(tb.errors.DataError, match="pass tokenizer="):
        tb.Data.from_table(table(), target="label", text="text")


def test_a_tokenizer_is_known_by_what_it_does(tmp_path):
    one = tokenizer()
    before = digest(one)
    one(["good", "bad film"], padding="max_length", truncation=True, max_length=4)  # which it remembers
    assert digest(one) == before
    one.save_pretrained(tmp_path)
    assert digest(transformers.AutoTokenizer.from_pretrained(tmp_path)) == before
    assert digest(tokenizer([*WORDS[:4], *WORDS[5:], WORDS[4]])) != before
    lower = tokenizer()
    lower.backend_tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    assert digest(lower) != before  # the vocabulary is the same, "The" is not


def test_texts_of_json_are_those_of_files_in_several_threads(tmp_path):
    folder, texts = folder_of(tmp_path / "net"), ["a good film", "the bad phone"]
    text, _ = Text.of("text", texts, str(folder), 8)
    taken = Inputs(text=asdict(text))
    (tmp_path / "a.txt").write_text("\n".join(texts))
    wanted = inputs_of(tmp_path / "a.txt", taken)
    rows = [{"text": each, "more": 1} for each in texts]
    with ThreadPoolExecutor(8) as pool:  # tokenizers serve one at a time, and say so
        found = list(pool.map(lambda values: inputs_among(values, taken), [texts, rows] * 40))
    assert all(torch.equal(x["input_ids"], wanted["input_ids"]) for x in found)
    assert torch.equal(inputs_among(texts[0], taken)["input_ids"], wanted["input_ids"][:1])
    for wrong in ([], [1], {"texts": "a"}, [["a"]], None):
        with pytest.raises(tb.errors.DataError, match="these tickets take text: a string, a list of"):
            inputs_among(wrong, taken)


def test_tickets_of_text_are_asked_with_text(tmp_path):
    folder = folder_of(tmp_path / "net")
    data = data_of(folder)
    net = tb.from_pretrained(folder, labels=data.class_names)
    objective, partition = tb.objectives.Classification(output="logits"), tb.partition.by_column(data, "what")
    config = tb.TrainConfig(lr=1e-2, batch_size=16)
    options = {"private": ("classifier.*",), "reference": "theta0", "T": 5, "search": config, "train": config}
    tickets = tb.rtl(net, objective, data, partition, sparsity=0.5, steps=40, parallel="no", **options)
    tickets.save(tmp_path / "a.tickets")

    texts = ["a good film", "the bad very very film"]
    x = tickets.prepare(texts)
    assert {name: tuple(t.shape) for name, t in x.items()} == {"input_ids": (2, 8), "attention_mask": (2, 8)}
    whole = data_of(folder, split={"train": range(60), "test": range(60, 120)})
    found = tickets.predict(whole.inputs("test", torch.arange(60)), whole.test.column("what").tolist())
    assert np.mean([a == b for a, b in zip(found.answers, table().label[60:], strict=True)]) > 0.95
    by_text = tickets.predict(tickets.prepare(table().text[60:]), whole.test.column("what").tolist())
    assert by_text.answers == found.answers

    again = tb.load(tmp_path / "a.tickets", tb.from_pretrained(folder, labels=2))
    assert torch.equal(again.prepare(np.array(texts))["input_ids"], x["input_ids"])
    other = folder_of(tmp_path / "other", [*WORDS[:4], *reversed(WORDS[4:])])
    with pytest.raises(tb.errors.DataError, match="other is not that of training") as error:
        again.prepare(texts, tokenizer=other)
    assert "\n" not in str(error.value)
    with pytest.raises(tb.errors.DataError, match=r"pass \[text\]"):
        again.prepare("a good film")
    tickets.metadata["input"].pop("text")
    with pytest.raises(tb.errors.DataError, match="were not trained on text"):
        tickets.prepare(texts)


def test_the_programs_of_the_pages_run(tmp_path):
    docs = Path(__file__).parent.parent / "docs"
    rows = table().rename(columns={"text": "review", "what": "shop"})
    rows["shop"] = rows["shop"].replace({"film": "books"})
    names = {"tb": tb, "FOLDER": folder_of(tmp_path / "net"), "table": rows}
    for page in ("data.md", "pretrained.md"):
        (program,) = re.findall(r"```py\n(.*?)```", (docs / page).read_text(), re.DOTALL)
        quick = program.replace('reference="theta0",', 'reference="theta0", T=1, steps=1,')
        exec(quick, names)
    assert names["data"].text.length == 8
    assert names["tickets"].private.names == ("classifier.weight", "classifier.bias")


def ask(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["tombola", "predict", *map(str, arguments), "--json"])
    try:
        main([*sys.argv[1:]])
    except SystemExit as end:
        if end.code:
            return capsys.readouterr().err.strip()
    return json.loads(capsys.readouterr().out)


def test_predict_makes_tokens_itself_and_refuses_another_tokenizer(tmp_path, capsys, monkeypatch):
    folder = folder_of(tmp_path / "net")
    data = data_of(folder)
    net = tb.from_pretrained(folder, labels=data.class_names)
    objective, partition = tb.objectives.Classification(output="logits"), tb.partition.by_column(data, "what")
    options = {"private": ("classifier.*",), "reference": "theta0", "T": 2, "steps": 2, "parallel": "no"}
    tickets = tb.rtl(net, objective, data, partition, sparsity=0.5, **options)
    file = tmp_path / "a.tickets"
    tickets.save(file)
    table(6).to_csv(tmp_path / "rows.csv", index=False)
    (tmp_path / "lines.txt").write_text("a good film\n\nthe bad film\n")

    rows = ask(capsys, monkeypatch, file, tmp_path / "rows.csv", "--ticket-column", "what")
    wanted = tickets.predict(tickets.prepare(table(6).text), table(6).what.tolist())
    assert [row["answer"] for row in rows] == wanted.answers
    assert [row["probability"] for row in rows] == pytest.approx(wanted.probability_B.tolist())
    assert len(ask(capsys, monkeypatch, file, tmp_path / "lines.txt", "--ticket", "film")) == 2

    other = folder_of(tmp_path / "other", [*WORDS[:4], *reversed(WORDS[4:])], seed=1)
    said = ask(capsys, monkeypatch, file, tmp_path / "lines.txt", "--ticket", "film", "--tokenizer", other)
    assert "is not that of training" in said
    said = ask(capsys, monkeypatch, file, tmp_path / "lines.txt", "--ticket", "film", "--backbone", other)
    assert "holds changes of another network" in said
    folder.rename(tmp_path / "moved")
    moved = ["--backbone", tmp_path / "moved", "--tokenizer", tmp_path / "moved"]
    assert ask(capsys, monkeypatch, file, tmp_path / "rows.csv", "--ticket-column", "what", *moved) == rows
    said = ask(capsys, monkeypatch, file, tmp_path / "rows.csv", "--ticket-column", "what")
    assert f"there is no folder or GGUF file {folder}" in said


def test_a_file_that_says_nonsense_of_text_is_refused(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 2))
    masks = tb.MaskSet.dense(tb.Layout(("0.weight",), ((4, 2),)), ["a"])
    for text in ({"column": "a"}, "text", {**vars(Text("a", "b", "c", 4)), "length": "long"}):
        said = {"stored": None, "prepare": [], "features": None, "kind": "values", "text": text}
        tickets = tb.TicketModel(net, masks, metadata={"input": said})
        io.write(tmp_path / "a.tickets", *tickets.contents())
        with pytest.raises(tb.errors.TicketFileError, match="facts input"):
            tb.load(tmp_path / "a.tickets", net)
