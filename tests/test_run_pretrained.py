"""``tombola run --model``: a run of a pretrained network and a table, from options to answers."""

import json
import re
from html import unescape

import pandas as pd
import pytest
import torch
import yaml

import tombola as tb
from tests.test_text import folder_of, table
from tombola.cli.main import main
from tombola.lab.experiments.pretrained import labels_of, table_of

pytest.importorskip("transformers", reason="the package transformers is not installed")

FEW = ["--sparsity", "0.5", "--set", "T=3", "steps=6", "search.lr=0.01", "train.lr=0.01", "--parallel", "no"]
COLUMNS = ["--text", "text", "--target", "label", "--subset", "what"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "net")
    table().to_csv("reviews.csv", index=False)
    return tmp_path


def tombola(capsys, *arguments, ends=0):
    status = 0
    try:
        main([*map(str, arguments)])
    except SystemExit as end:
        status = end.code or 0
    said = capsys.readouterr()
    assert status == ends, said.err
    return said.err if ends else said.out


def run(capsys, *more, ends=0):
    return tombola(capsys, "run", "--model", "net", "--data", "reviews.csv", *COLUMNS, *FEW, *more, ends=ends)


def test_a_run_is_carried_out_resumed_reported_and_asked(here, capsys):
    first = json.loads(run(capsys, "--method", "rtl", "imp", "--json"))
    path = here / "runs" / "reviews-quick" / "seed0"
    config = yaml.safe_load((path / "config.yaml").read_text())
    assert config["experiment"] == "reviews"
    assert config["pretrained"]["model"] == str(here / "net")
    assert config["settings"]["reference"] == "theta0"
    assert config["settings"]["private"] == ["classifier.*"]
    assert {row["method"] for row in first} == {"rtl", "imp"}
    before = {file: file.read_bytes() for file in path.rglob("*") if file.suffix in (".jsonl", ".tickets")}
    assert json.loads(run(capsys, "--method", "rtl", "imp", "--json")) == first
    (path / "tickets" / "rtl-0.5.tickets").unlink()
    tombola(capsys, "resume", path, "--json")
    assert {file: file.read_bytes() for file in before} == before

    file = path / "tickets" / "rtl-0.5.tickets"
    net = tb.from_pretrained("net", labels=2, seed=9)
    tickets = tb.load(file, net)
    heads = [tickets.bake(name).classifier.weight for name in tickets]
    assert tickets.names == ("film", "phone")
    assert not torch.equal(*heads)
    layer = "bert.encoder.layer.0.output.dense.weight"
    same = (tickets.bake("film").get_parameter(layer) == net.get_parameter(layer)).float().mean()
    assert 0.2 < float(same) < 0.95
    assert f"pretrained: {here / 'net'}\n" in tombola(capsys, "inspect", file)
    table(8).to_parquet("rows.parquet")
    rows = json.loads(tombola(capsys, "predict", file, "rows.parquet", "--ticket-column", "what", "--json"))
    assert [row["ticket"] for row in rows] == table(8).what.tolist()
    assert {row["answer"] for row in rows} <= {"no", "yes"}
    tombola(capsys, "report", "runs", "-o", "page.html")
    page = unescape(re.sub("<[^>]+>", "", (here / "page.html").read_text()))
    again = f"tombola run reviews --model {here / 'net'} --task text-classification --text text"
    assert again in page
    tombola(capsys, "route", path, "--method", "rtl", "--router", "prototype", "--save", "routed")
    routed = here / "routed" / "seed0" / "rtl-0.5.tickets"
    assert len(json.loads(tombola(capsys, "predict", routed, "rows.parquet", "--json"))) == 8


def test_a_folder_of_tables_has_its_splits_in_their_names(here, capsys):
    (here / "parts").mkdir()
    whole = table()
    whole[:80].to_parquet("parts/train-0.parquet")
    whole[80:100].to_csv("parts/val.csv", index=False)
    whole[100:].to_parquet("parts/test.parquet")
    read, column = table_of("parts")
    assert read[column].value_counts().to_dict() == {"train": 80, "test": 20, "validation": 20}
    assert labels_of("parts", "label", "text") == ("no", "yes")
    assert labels_of(str(here / "reviews.csv"), "what", "text") == ("film", "phone")
    (here / "parts" / "test.parquet").unlink()
    with pytest.raises(tb.errors.DataError, match="begin with train and with test"):
        table_of("parts")


def test_a_column_of_splits_does_not_go_with_a_folder(here, capsys):
    given = ("--data", here, "--text", "text", "--target", "label", "--subset", "what", "--split", "part")
    assert "so leave it out" in tombola(capsys, "run", "--model", "net", *given, ends=2)


def test_numbers_are_classes_too(here):
    pd.DataFrame({"text": ["a", "b", "c"], "stars": [1, 5, 3]}).to_csv("stars.csv", index=False)
    assert labels_of("stars.csv", "stars", "text") == 6
    pd.DataFrame({"text": ["a", "b"], "stars": [1.5, 2.0]}).to_csv("stars.csv", index=False)
    with pytest.raises(tb.errors.DataError, match="classes are text, or numbers from 0"):
        labels_of("stars.csv", "stars", "text")


ELSEWHERE = ("there is no folder or GGUF file", "none.csv is no table")  # the command is right


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--model", "nowhere/net/here"], "there is no folder or GGUF file"),
        (["--task", "text-generation"], "has the task text-classification: text-generation goes through"),
        (["--task", "poetry"], "there is no task 'poetry'"),
        (["--data", "none.csv"], "none.csv is no table"),
        (["--text", "words"], "there is no column 'words'"),
        (["--target", "what"], "text, target and subset are three columns"),
        (["--dtype", "half16"], "dtype is one of torch's"),
        (["--augment"], "text has no augmentation"),
        (["--method", "imp_context"], "imp_context does not go with reference=theta0"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(here, capsys, more, words):
    plain = {
        "--model": "net",
        "--data": "reviews.csv",
        "--text": "text",
        "--target": "label",
        "--subset": "what",
    }
    given = dict(zip(more[::2], more[1::2], strict=False))
    options = [word for pair in ({**plain, **given}).items() for word in pair]
    options += [] if given else more
    with pytest.raises(SystemExit) as end:
        main(["run", *options, *FEW])
    said = capsys.readouterr().err
    assert end.value.code == (1 if words in ELSEWHERE else 2)
    assert words in said.splitlines()[-1]
    assert not (here / "runs").exists()


def test_options_without_a_model_are_refused(capsys):
    assert "run needs an experiment" in tombola(capsys, "run", ends=2)
    assert "--text goes with --model" in tombola(capsys, "run", "digits", "--text", "a", ends=2)
    columns = ["--model", "net", "--data", "digits.csv"]
    assert "--model needs --text COLUMN" in tombola(capsys, "run", *columns, ends=2)
    assert "is the name of an experiment" in tombola(capsys, "run", *columns, *COLUMNS, ends=2)
