"""Files that commands write: one that is there is replaced where that is asked for, and else left alone."""

import sys
from pathlib import Path

import pytest
from torch import nn

import tombola
from tombola.cli import main as cli
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.tickets.model import TicketModel


def call(capsys, *arguments):
    """Status and error of a command."""
    with pytest.raises(SystemExit) as stop:
        sys.exit(cli.main([*map(str, arguments)]))
    return stop.value.code or 0, capsys.readouterr().err


WRITING = {  # commands that write where they are told to: what would be replaced
    ("export", "{tickets}", "--ticket", "a", "-o", "out.safetensors"): "out.safetensors",
    ("export", "{tickets}", "--all", "--format", "pt", "-o", "out"): "out/a%2Fb.pt",
    ("share", "{tickets}", "out"): "out/tickets.safetensors",
    ("merge", "out.tickets", "a=a.pt", "b=b.pt", "--backbone", "no:net"): "out.tickets",
    ("oneshot", "net", "out.tickets", "a=a.txt"): "out.tickets",
    ("grow", "{tickets}", "--name", "c", "--data", "c.csv", "--save", "out.tickets"): "out.tickets",
    ("route", "{tickets}", "--data", "c.csv", "--save", "out.tickets"): "out.tickets",
    ("forget", "{tickets}", "a", "--save", "out.tickets"): "out.tickets",
    ("report", "runs", "-o", "out.html"): "out.html",
    ("enhance", "talk.wav", "--tickets", "{tickets}", "-o", "out.wav"): "out.wav",
    ("semantics", "runs", "--figure", "out.png"): "out.png",
    ("semantics", "runs", "--keep", "out.txt"): "out.txt",
    ("route", "runs", "--keep", "out.txt"): "out.txt",
    ("calibrate", "runs", "--keep", "out.txt"): "out.txt",
}


@pytest.fixture
def two_tickets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = nn.Linear(4, 2)
    TicketModel(net, MaskSet.dense(scope(net), ["a", "a/b"])).save("two.tickets")
    return "two.tickets"


@pytest.mark.parametrize("command", WRITING, ids=" ".join)
def test_a_file_that_is_there_is_not_replaced_unless_asked_to(command, two_tickets, capsys):
    there = Path(WRITING[command])
    there.parent.mkdir(exist_ok=True)
    there.write_text("mine")
    given = [word.format(tickets=two_tickets) for word in command]
    code, err = call(capsys, *given)
    assert code
    assert f"{there} is there already" in err
    assert ("--force replaces it" in err) != ("--keep" in command)
    assert there.read_text() == "mine"
    if "--keep" not in command:
        assert "is there already" not in call(capsys, *given, "--force")[1]
    if command[0] in ("export", "share"):
        assert there.read_bytes() != b"mine"


def test_what_a_command_reads_it_never_replaces(two_tickets, capsys):
    content = Path(two_tickets).read_bytes()
    for given in (
        ["export", two_tickets, "--ticket", "a", "-o", two_tickets, "--format", "pt"],
        ["merge", two_tickets, f"a={two_tickets}", "b=b.pt", "--backbone", "no:net"],
    ):
        code, err = call(capsys, *given, "--force")
        assert code
        assert f"{two_tickets} is what is read here" in err
        assert Path(two_tickets).read_bytes() == content


def test_a_file_that_is_changed_is_no_place_to_save_to(two_tickets, capsys):
    content = Path(two_tickets).read_bytes()
    Path("c.csv").write_text("x\n1\n")
    Path("link.tickets").symlink_to(two_tickets)
    for given in (
        ["forget", two_tickets, "a"],
        ["grow", two_tickets, "--name", "c", "--data", "c.csv"],
        ["route", two_tickets, "--data", "c.csv"],
    ):
        for save in (two_tickets, "link.tickets"):  # nor by another name
            code, err = call(capsys, *given, "--save", save, "--force")
            assert (code, "leave --save out to change it" in err) == (2, True)
        if "--data" in given:
            assert "c.csv is what is read here" in call(capsys, *given, "--save", "c.csv", "--force")[1]
    given = ["merge", "c.csv", "a=a.pt", "b=b.pt", "--backbone", "no:net", "--data", "a=c.csv", "b=b.csv"]
    assert "c.csv is what is read here" in call(capsys, *given, "--force")[1]
    assert Path(two_tickets).read_bytes() == content
    assert Path("c.csv").read_text() == "x\n1\n"


def test_what_a_command_wrote_itself_it_writes_again(tmp_path, monkeypatch, capsys):
    from tombola.lab.report.html import is_report, render

    (tmp_path / "report.html").write_text(render([]))
    (tmp_path / "rows.json").write_text("[]")
    assert is_report(tmp_path / "report.html")
    for command in (
        ["report", tmp_path, "-o", tmp_path / "report.html"],
        ["route", tmp_path, "--keep", tmp_path / "rows.json"],
    ):
        assert "is there already" not in call(capsys, *command)[1]


def test_every_command_that_takes_force_is_among_those():
    taking = {n for names in cli.COMMANDS.values() for n in names if "force: Flag" in source(n)}
    assert taking == {command[0] for command in WRITING} - {"calibrate"}


def source(command):
    return (Path(tombola.__file__).parent / "cli" / f"{command}.py").read_text()
