"""The journal in memory: every stage once."""

import torch

from tombola.runs.cache import Journal


def test_a_stage_is_computed_once_and_its_result_kept():
    journal, calls = Journal(), []

    def compute(stage):
        calls.append(stage)
        stage.record(event="x", value=len(calls))
        stage.save(dict, {})
        stage.advance(1, 1)
        assert stage.load() is None
        return {"t": torch.ones(2)}, {"n": len(calls)}

    first, second = journal.once("a", compute), journal.once("a", compute)
    assert first is second
    assert first[1] == {"n": 1}
    assert journal.rows == [{"event": "x", "value": 1}]
    assert journal.seconds["a"] >= 0


def test_stages_of_other_names_are_other_stages():
    journal = Journal()
    for name in "ab":
        journal.once(name, lambda stage, name=name: ({}, {"name": name}))
    assert [journal.facts(name) for name in "abc"] == [{"name": "a"}, {"name": "b"}, None]


def test_a_stage_that_fails_is_not_done():
    journal = Journal()
    for error in (ValueError, KeyError):
        try:
            journal.once("a", lambda stage, error=error: (_ for _ in ()).throw(error("no")))
        except error:
            continue
        raise AssertionError("the error was swallowed")
    assert journal.facts("a") is None
    assert journal.once("a", lambda stage: ({}, {}))[1] == {}


def test_nothing_is_written():
    assert Journal().file("x.tickets") is None
