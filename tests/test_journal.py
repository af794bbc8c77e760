"""The journal in memory: every stage once."""

import torch

from tombola.runs.cache import StageCache


def test_a_stage_is_computed_once_and_its_result_kept():
    cache, calls = StageCache(), []

    def compute(checkpoint):
        calls.append(checkpoint)
        checkpoint.record(event="x", value=len(calls))
        checkpoint.save(dict, {})
        checkpoint.advance(1, 1)
        assert checkpoint.load() is None
        return {"t": torch.ones(2)}, {"n": len(calls)}

    first, second = cache.get_or_compute("a", compute), cache.get_or_compute("a", compute)
    assert first is second
    assert first[1] == {"n": 1}
    assert cache.rows == [{"event": "x", "value": 1}]
    assert cache.seconds["a"] >= 0


def test_stages_of_other_names_are_other_stages():
    cache = StageCache()
    for name in "ab":
        cache.get_or_compute(name, lambda checkpoint, name=name: ({}, {"name": name}))
    assert [cache.metadata(name) for name in "abc"] == [{"name": "a"}, {"name": "b"}, None]


def test_a_stage_that_fails_is_not_done():
    cache = StageCache()
    for error in (ValueError, KeyError):
        try:
            cache.get_or_compute("a", lambda checkpoint, error=error: (_ for _ in ()).throw(error("no")))
        except error:
            continue
        raise AssertionError("the error was swallowed")
    assert cache.metadata("a") is None
    assert cache.get_or_compute("a", lambda checkpoint: ({}, {}))[1] == {}


def test_nothing_is_written():
    assert StageCache().file("x.tickets") is None


def test_listeners_are_told_of_records_and_progress():
    told = []
    cache = StageCache(
        progress=lambda *what: told.append(what), on_record=lambda stage, row: told.append((stage, row))
    )

    def compute(checkpoint):
        checkpoint.record(event="x")
        checkpoint.advance(1, 2)
        return {}, {}

    cache.get_or_compute("a", compute)
    assert told == [("a", {"event": "x"}), ("a", 1, 2)]
