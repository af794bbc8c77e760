"""With which status commands end: 2 where they have to be written otherwise, 1 where something else fails."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import tombola as tb
from tombola.cli import main as cli

NET = ("--backbone", "nets:network")
WRONG = [  # as they are written
    "inspekt two.tickets",
    "inspect",
    "inspect two.tickets --wheels 4",
    "predict two.tickets",
    "predict two.tickets x.npy --ticket c",
    "predict two.tickets x.npy",  # which ticket?
    "predict two.tickets x.csv --ticket-column town",
    "predict two.tickets x.npy --ticket a --ticket-column b",
    "predict two.tickets x.npy --ticket a --tokenizer x",
    "export two.tickets --ticket c -o c.pt",
    "export two.tickets -o c.pt",
    "export two.tickets --ticket a --all -o c.pt",
    "export two.tickets --ticket a -o x.npy --format pt",  # it is there
    "forget two.tickets c",
    "forget two.tickets a --save two.tickets",
    "grow two.tickets --name a --data x.csv --target y",
    "grow two.tickets --name c --data x.csv",
    "grow two.tickets --name c --data x.csv --target z",
    "grow two.tickets --name c --data x.csv --target y --policy some",
    "grow two.tickets --name c --data x.csv --target y --sparsity 2",
    "grow two.tickets --name c --data x.csv --target y --set train.optimizer=Adagard",
    "merge out.tickets a.pt",
    "merge out.tickets a=a.pt a=b.pt",
    "merge out.tickets a=a.pt",
    "merge out.tickets a=a.pt b=b.pt --method men",
    "oneshot net out.tickets",
    "oneshot net out.tickets a",
    "export two.tickets --ticket a -o c --format peft",  # no change of a network
    "run --model net --data x.csv --text t --target y --subset s --length 0",
    "serve",
    "serve two.tickets --samples 0",
    "run digit",
    "run digits --method rtll",
    "run digits --method rtl --set T=x",
    "run digits --method rtl --set include=[nowhere]",
    "run digits --method rtl --set head=nowhere",
    "run digits --device gpu9",
    "sweep digits --set T=1,1",
    "plan digit",
    "discover digit",
    "discover digits --k 99",
    "affinity",
    "affinity digits --seed 0 0",
    "advise digits --minutes 0",
    "continual tenants --rival groww",
    "adapt digits --rival lora",
    "compare",
    "calibrate . --scaling plat",
    "route . --router gate --set mix=3",
    "route . --set mix=1",
    "collapse . --points 0",
    "watch . --every 0",
    "report . -o page.txt",
]
ELSEWHERE = [  # what they are about is not there, or not as it should be
    "inspect none.tickets",
    "inspect broken.tickets",
    "inspect .",
    "predict none.tickets x.npy",
    "predict two.tickets none.npy --ticket a",
    "predict two.tickets nan.npy --ticket a",
    "predict two.tickets x.txt --ticket a",
    "export none.tickets --ticket a -o a.pt",
    "export two.tickets --ticket a -o x.txt/a.pt",
    "forget none.tickets a",
    "grow none.tickets --name c --data x.csv --target y",
    "grow two.tickets --name c --data none.csv --target y",
    "grow two.tickets --name c --data short.csv --target y",
    "grow two.tickets --name c --data x.csv --target y --save x.txt/out.tickets",
    "share none.tickets out",
    "merge out.tickets a=none.pt b=none.pt",
    "oneshot none out.tickets a=a.txt",
    "serve none.tickets",
    "serve two.tickets --allow none",
    "serve two.tickets --token-file none",
    "run cifar10 --data none",
    "affinity --gains none.json",
    "affinity digits --steps 0 --seed 0 --advice none",
    "resume none",
    "compare none",
    "report none",
    "route none",
    "calibrate none",
    "collapse none",
    "draw none",
    "stream none",
    "semantics none",
    "enhance none.wav --tickets none.tickets",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tickets of three classes, and files around them."""
    here = tmp_path_factory.mktemp("mistakes")
    (here / "nets.py").write_text("from torch import nn\n\nnetwork = nn.Linear(2, 3)\n")
    net = nn.Linear(2, 3)
    masks = tb.MaskSet.dense(tb.scope(net, include=["weight"]), ["a", "b"])
    facts = {"objective": "Classification", "answer": "class"}
    facts["input"] = {"stored": {"tensor": [2], "dtype": "float32", "range": None}, "features": ["u", "v"]}
    tb.TicketModel(net, masks, metadata=facts).save(here / "two.tickets", like=torch.rand(4, 2))
    (here / "broken.tickets").write_bytes(b"x" * 100)
    table = pd.DataFrame({"u": np.arange(60.0), "v": np.arange(60.0), "y": np.arange(60) % 3})
    table.to_csv(here / "x.csv", index=False)
    table.drop(columns="v").to_csv(here / "short.csv", index=False)
    np.save(here / "x.npy", np.ones((2, 2)))
    np.save(here / "nan.npy", np.full((2, 2), np.nan))
    (here / "x.txt").write_text("a\n")
    return here


def status(capsys, folder, monkeypatch, words):
    monkeypatch.chdir(folder)
    arguments = words.split()
    if arguments[0] in ("predict", "grow", "forget", "merge", "serve"):
        arguments += NET
    with pytest.raises(SystemExit) as stop:
        sys.exit(cli.main(arguments))
    out, err = capsys.readouterr()
    assert not out
    assert err.splitlines()[-1].startswith("tombola: ")
    assert "Traceback" not in err
    return stop.value.code, err


@pytest.mark.parametrize("words", WRONG)
def test_a_command_that_has_to_be_written_otherwise_ends_with_2(words, folder, capsys, monkeypatch):
    code, said = status(capsys, folder, monkeypatch, words)
    assert code == 2, said


@pytest.mark.parametrize("words", ELSEWHERE)
def test_a_command_that_fails_for_another_reason_ends_with_1(words, folder, capsys, monkeypatch):
    code, said = status(capsys, folder, monkeypatch, words)
    assert code == 1, said
