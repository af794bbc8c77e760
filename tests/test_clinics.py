"""Clinics that share a network: an eleventh comes, the third leaves, on the command line."""

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import tombola as tb
from tombola._utils import io
from tombola.cli import main as cli
from tombola.tickets.card import About, card_of
from tombola.tickets.membership import acting

CLINICS = [f"clinic {k}" for k in range(1, 4)]
COLUMNS = [f"value {c}" for c in range(6)]
PROGRAM = """
from torch import nn

def network():
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 3))

def broken():
    raise RuntimeError("no")
"""


def table(clinic, size=240):
    """Three diagnoses, which every clinic sees in columns of an order of its own."""
    rng = np.random.default_rng(clinic)
    y = np.arange(size) % 3
    x = 0.6 * rng.standard_normal((size, 6)) + 2 * np.eye(3, 6)[y][:, rng.permutation(6)]
    frame = pd.DataFrame(50 + 10 * x, columns=COLUMNS)
    return frame.assign(diagnosis=np.array(["cold", "flu", "none"])[y], clinic=f"clinic {clinic}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    frame = pd.concat([table(k) for k in range(1, 4)])
    data = tb.Data.from_table(frame, target="diagnosis", context="clinic", standardize=True)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 3))
    how = {"sparsity": 0.8, "T": 15, "steps": 80, "train": tb.TrainConfig(lr=0.01, batch_size=32)}
    task, parts = tb.objectives.Classification(), tb.partition.by_column(data, "clinic")
    tb.rtl(net, task, data, parts, parallel="no", progress=False, **how).save("clinics.tickets")
    table(11).drop(columns="clinic").to_csv("eleventh.csv", index=False)
    yield tmp_path
    sys.modules.pop("nets", None)


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        sys.exit(cli.main([*map(str, arguments)]))
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


GROW = ("grow", "clinics.tickets", "--name", "clinic 11", "--data", "eleventh.csv", "--target", "diagnosis")
NET = ("--backbone", "nets:network")


def loaded():
    return tb.load("clinics.tickets", nn.Sequential(*_layers()))


def _layers():
    return nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 3)


def test_an_eleventh_comes_and_the_third_leaves(folder, capsys):
    before = loaded()
    code, out, err = call(capsys, *GROW, *NET, "--policy", "free", "--json")
    assert code == 0, err
    made = json.loads(out)
    assert made["accuracy"] > 0.85
    assert made["own"] == made["kept"] == int(before["clinic 1"].sum())
    assert made["bytes"] == Path("clinics.tickets").stat().st_size > made["bytes_before"]
    assert "weights are owned by no ticket" in err
    four = loaded()
    assert four.names == (*CLINICS, "clinic 11")
    assert acting(four, CLINICS) == acting(before, CLINICS)
    noted = (
        "tombola grow clinics.tickets --name 'clinic 11' --data eleventh.csv --target diagnosis --policy free"
    )
    assert four.metadata["grown"]["clinic 11"]["command"] == f"{noted} --backbone nets:network"
    assert f"{noted} --backbone nets:network\n```" in card_of("clinics.tickets", About())
    answers = four.predict(
        four.prepare(torch.from_numpy(table(11)[COLUMNS].to_numpy(np.float32))), "clinic 11"
    )
    assert np.mean(np.array(answers.answers) == table(11)["diagnosis"]) > 0.85

    code, out, err = call(capsys, "forget", "clinics.tickets", "clinic 3", *NET)
    assert code == 0, err
    assert "clinics.tickets: without clinic 3;" in out
    assert "of its weights are kept by others as well, and stay" in out
    assert "what was trained together with it" in out
    left = loaded()
    assert left.names == ("clinic 1", "clinic 2", "clinic 11")
    assert acting(left, left.names) == acting(four, left.names)
    assert b"clinic 3" not in Path("clinics.tickets").read_bytes()

    code, out, _ = call(capsys, "forget", "clinics.tickets", "clinic 11", *NET)
    assert "none of its weights is kept by another ticket: nothing of its data is left in any" in out
    code, out, _ = call(capsys, *GROW, *NET, "--save", "other.tickets")
    assert code == 0
    assert loaded().names == ("clinic 1", "clinic 2")
    assert tb.load("other.tickets", nn.Sequential(*_layers())).names == ("clinic 1", "clinic 2", "clinic 11")


def test_what_the_file_held_before_is_overwritten(folder, capsys):
    with Path("clinics.tickets").open("rb") as old:
        assert call(capsys, "forget", "clinics.tickets", "clinic 3", *NET)[0] == 0
        assert not any(old.read())
    assert len(loaded()) == 2


def test_a_file_with_other_names_keeps_its_content_there_and_its_mode(folder, capsys):
    Path("store").mkdir()
    Path("clinics.tickets").rename("store/real.tickets")
    Path("clinics.tickets").symlink_to("store/real.tickets")
    os.link("store/real.tickets", "hard")
    Path("store/real.tickets").chmod(0o600)
    content = Path("hard").read_bytes()
    code, out, _ = call(capsys, "forget", "clinics.tickets", "clinic 3", *NET)
    assert code == 0
    assert "has other names (hard links), under which the old content is left" in out
    assert Path("hard").read_bytes() == content
    assert Path("clinics.tickets").is_symlink()
    assert Path("store/real.tickets").stat().st_mode & 0o777 == 0o600
    assert len(loaded()) == 2


def test_targets_are_judged_in_the_units_of_the_file(folder, capsys):
    def prices(shift):
        frame = table(shift)
        return frame.assign(diagnosis=1000.0 * (frame["value 0"] - 50) + 5000 * shift)

    frame = pd.concat([prices(1), prices(2)])
    data = tb.Data.from_table(frame, target="diagnosis", context="clinic", standardize=True)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 1))
    task, parts = tb.objectives.Regression(), tb.partition.by_column(data, "clinic")
    how = {"sparsity": 0.5, "T": 15, "steps": 150, "train": tb.TrainConfig(lr=0.01, batch_size=32)}
    tb.rtl(net, task, data, parts, parallel="no", progress=False, **how).save("clinics.tickets")
    (folder / "nets.py").write_text(PROGRAM.replace("nn.Linear(24, 3)", "nn.Linear(24, 1)"))
    prices(3).drop(columns="clinic").to_csv("eleventh.csv", index=False)
    code, out, err = call(capsys, *GROW, *NET, "--json")
    assert code == 0, err
    assert json.loads(out)["r2"] > 0.8


def test_classes_have_the_numbers_by_which_the_file_knows_their_names(folder, capsys):
    two = table(11)
    two[two["diagnosis"] != "cold"].drop(columns="clinic").to_csv("eleventh.csv", index=False)
    code, out, _ = call(capsys, *GROW, *NET, "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] > 0.85  # judged by the same numbers
    grown = loaded()
    assert grown.metadata["class_names"] == ["cold", "flu", "none"]
    assert grown.metadata["classes"]["clinic 11"] == [1, 2]
    rows = grown.prepare(torch.from_numpy(two[COLUMNS].to_numpy(np.float32)))
    found = grown.predict(rows, "clinic 11")
    assert {*found.answers} == {"flu", "none"}
    assert {*found.answer_B.tolist()} == {1, 2}


def test_a_class_that_the_file_does_not_know_is_named(folder, capsys):
    rows = table(11).drop(columns="clinic")
    rows.loc[:30, "diagnosis"] = " flu"
    rows.to_csv("eleventh.csv", index=False)
    code, _, err = call(capsys, *GROW, *NET)
    assert code
    assert "the class ' flu', and the network has outputs for cold, flu, none" in err.replace("\n", " ")
    rows[rows["diagnosis"] == "flu"].to_csv("eleventh.csv", index=False)
    assert "hold the class 'flu' alone" in call(capsys, *GROW, *NET)[2].replace("\n", " ")


@pytest.mark.parametrize(
    ("status", "arguments", "words"),
    [
        (2, (*GROW[:3], "clinic 1", *GROW[4:], *NET), "there is a ticket 'clinic 1' already"),
        (2, GROW, "does not say which network its tickets belong to: give --backbone MODULE:NAME"),
        (2, (*GROW[:-2], *NET), "eleventh.csv is a table: say with --target which column is asked for"),
        (2, (*GROW[:-1], "cough", *NET), "cough"),
        (1, (*GROW[:5], "nobody.csv", *GROW[6:], *NET), "nobody.csv"),
        (1, (*GROW[:5], "nets.py", *GROW[6:], *NET), "nets.py is no table"),
        (2, (*GROW, *NET, "--policy", "some"), "policy 'some'"),
        (1, (*GROW, *NET, "--sparsity", "0", "--policy", "free"), "weights are asked for"),
        (2, (*GROW, *NET, "--objective", "Guessing"), "which objective? 'Guessing' is none that ships"),
        (2, (*GROW, *NET, "--set", "lr=1"), "lr belongs to a group"),
        (2, (*GROW, *NET, "--set", "include=[a]"), "grow takes no include"),
        (
            2,
            (*GROW, *NET, "--set", "callback=rigl:0.3:10"),
            "grow moves no masks by set or rigl|first=random",
        ),
        (1, (*GROW, *NET, "--save", "."), "is a folder"),
        (1, (*GROW, *NET, "--save", "eleventh.csv/n.tickets"), "cannot be written"),
        (2, (*GROW, *NET, "--sparsity", "0.99999"), "leaves none of 960 weights"),
        (2, (*GROW, "--backbone", "nets"), "write MODULE:NAME"),
        (2, (*GROW, "--backbone", "nets:broken"), "--backbone nets:broken raises RuntimeError (no)"),
        (1, ("grow", "none.tickets", *GROW[2:], *NET), "none.tickets cannot be changed"),
        (
            2,
            ("forget", "clinics.tickets", "clinic 9", *NET),
            "no ticket 'clinic 9'|unknown ticket 'clinic 9'",
        ),
    ],
)
def test_mistakes_get_one_line_and_lose_nothing(status, arguments, words, folder, capsys):
    content = Path("clinics.tickets").read_bytes()
    code, out, err = call(capsys, *arguments)
    assert code == status, err
    assert not out
    assert any(word in err.replace("\n", " ") for word in words.split("|")), err
    assert "Traceback" not in err
    assert Path("clinics.tickets").read_bytes() == content


def test_two_processes_that_change_one_file_get_one_clear_error(folder, capsys):
    with io.changing(Path("clinics.tickets")):
        assert loaded().names == tuple(CLINICS)  # who reads is not hindered
        for arguments in ((*GROW, *NET), ("forget", "clinics.tickets", "clinic 3", *NET)):
            code, _, err = call(capsys, *arguments)
            assert code != 0
            assert "clinics.tickets is being changed by another process: wait for it" in err.replace(
                "\n", " "
            )
    assert call(capsys, *GROW, *NET)[0] == 0


def _killed(arguments, moment, replacing):
    """Run a command that dies without a word before or after the file is replaced."""
    plain = Path.replace

    def replace(self, target):
        if moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        made = plain(self, target)
        os.kill(os.getpid(), signal.SIGKILL)
        return made

    Path.replace = replace
    cli.main([*map(str, arguments)])


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    "arguments", [(*GROW, *NET, "--threads", "1"), ("forget", "clinics.tickets", "clinic 3", *NET)]
)
def test_killed_at_any_moment_the_file_is_the_old_or_the_new_one(arguments, moment, folder):
    content = Path("clinics.tickets").read_bytes()
    torch.set_num_threads(1)
    child = multiprocessing.get_context("fork").Process(target=_killed, args=(arguments, moment, None))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    if moment == "before":
        assert Path("clinics.tickets").read_bytes() == content
    assert len(loaded()) == (3 if moment == "before" else 4 if arguments[0] == "grow" else 2)
