"""Settings in one word: what is written is read back, and what is not understood says what to write."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tombola as tb
from tombola import settings as courses
from tombola._utils.errors import UsageError
from tombola.pruning import granularity, scores
from tombola.pruning import schedules as s
from tombola.training.callbacks import rules

counts = st.integers(1, 10**6)
inside = st.floats(0, 1, exclude_min=True, exclude_max=True)
reading = [score for score in scores.CRITERIA.values() if score.batches]
KINDS = {
    "schedule": (
        s.parse,
        st.one_of(
            st.just(s.OneShot()),
            st.builds(s.Fraction, inside),
            *(st.builds(kind, counts) for kind in (s.FixedCount, s.Cubic, s.Geometric)),
            st.lists(st.floats(0, 0.999), min_size=1).map(lambda values: s.explicit(*values)),
        ),
    ),
    "score": (
        scores.parse,
        st.sampled_from([*scores.CRITERIA.values()])
        | st.builds(lambda score, n: replace(score, batches=n), st.sampled_from(reading), counts),
    ),
    "callback": (
        rules.parse,
        st.builds(rules.EarlyBird, st.just(1.0) | inside, counts, st.none() | counts)
        | st.builds(rules.SET, inside, counts)
        | st.builds(rules.RigL, inside, counts)
        | st.builds(rules.Learned, inside, st.sampled_from(["free", "frozen"])),
    ),
    "granularity": (
        granularity.parse,
        st.sampled_from([granularity.Weight(), granularity.Channel()])
        | st.builds(granularity.Block, counts, counts)
        | st.builds(
            lambda keep, more, along: granularity.Pattern(keep, keep + more, along),
            counts,
            counts,
            st.sampled_from(["row", "input", "output"]),
        ),
    ),
    "lr_schedule": (
        courses.parse_lr_schedule,
        st.sampled_from([courses.Constant(), courses.Cosine()])
        | st.sets(inside, min_size=1).map(lambda shares: courses.Step(tuple(sorted(shares)))),
    ),
}


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
def test_what_is_written_is_read_back(name, data):
    parse, kinds = KINDS[name]
    made = data.draw(kinds)
    assert parse(str(made)) == made == parse(made)
    assert str(parse(str(made))) == str(made)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("schedule", t) for t in ("one_shot", "fraction:0.2", "fixed_count:300", "cubic:5", "geometric:5")),
        *(("schedule", t) for t in ("explicit:0.1,0.4", "explicit:0.1", "fraction:1e-05")),
        *(("score", t) for t in ("magnitude", "snip", "snip:5")),
        *(("callback", t) for t in ("early_bird:0.1:5", "early_bird:1:5:20", "set:0.3:10", "rigl:0.3:100")),
        *(("callback", t) for t in ("learned:0.1", "learned:0.01:frozen")),
        *(("granularity", t) for t in ("weight", "channel", "block:4x1", "2:4", "2:4/input")),
        *(("lr_schedule", t) for t in ("constant", "cosine", "step:0.5,0.75")),
    ],
)
def test_settings_take_the_word_or_what_it_stands_for_and_keep_the_word(name, text):
    parse, _ = KINDS[name]
    assert str(parse(text)) == text
    if name == "lr_schedule":
        assert tb.TrainConfig(lr_schedule=parse(text)) == tb.TrainConfig(lr_schedule=text)
        return
    moving = {"first": "random", "nested": False} if text.startswith(("set", "rigl")) else {}
    settings = tb.Settings(**{name: parse(text)}, **moving)
    assert settings == tb.Settings(**{name: text}, **moving)
    assert settings.plain()[name] == text
    assert tb.Settings.from_plain(settings.plain()) == settings


@pytest.mark.parametrize(
    ("name", "texts", "message"),
    [
        (
            "schedule",
            ["", "fraction", "fraction:", "fraction:a", "fraction:0.1,0.2", "fixed_count:2.5", "one_shot:3"],
            r"write one_shot, fraction:P, fixed_count:N, cubic:N, geometric:N or explicit:S1,S2,...$",
        ),
        (
            "schedule",
            ["explicit:", "explicit:0.1,,0.2", "explicit:0.1;0.2", "cubic", "cubic:2.5", "Fraction:0.2"],
            r"write one_shot, .* geometric:N or explicit:S1,S2,...$",
        ),
        ("schedule", ["fraction:2", "fraction:nan"], r"p must lie in \(0, 1\): got"),
        ("schedule", ["fixed_count:0", "cubic:0", "geometric:-1"], "at least 1: got"),
        ("schedule", ["explicit:0.5,1.5"], "got 1.5"),
        ("score", ["snipp"], "did you mean 'snip'.*; write magnitude, random, snip"),
        ("score", ["", "snip:", "snip:x", "magnitude:3"], r"write magnitude, random, snip\[:BATCHES\]"),
        ("score", ["snip:0", "snip:-1"], "snip reads at least 1 batch: got"),
        ("callback", ["early_bird", "early_bird:1"], r"write early_bird:THRESHOLD:PATIENCE\[:EVERY\], set:"),
        ("callback", ["rigl:0.3:x", "rigl", "set:0.1"], r"or learned:LR\[:WEIGHTS\]$"),
        ("callback", ["early_bird:0:5"], r"a distance in \(0, 1\]: got 0"),
        ("callback", ["early_bird:0.1:0", "early_bird:0.1:5:0"], "every are at least 1"),
        ("callback", ["set:1.5:10", "rigl:0.5:0"], r"the share is in \(0, 1\)"),
        ("callback", ["learned:0", "learned:0.1:fixed"], "positive, weights are free or frozen: got"),
        (
            "granularity",
            ["", "filter", "block:2", "2.0:4"],
            r"write weight, channel, block:ROWSxCOLUMNS or KEEP:OF\[/ALONG\]$",
        ),
        ("granularity", ["4:2", "0:4", "2:2", "2:4/kernel"], "0 < N < M, along row, input or output"),
        ("granularity", ["block:0x2"], "at least one row and column: got 0x2"),
        ("lr_schedule", ["linear", "step:", "step:a"], "write constant, cosine or step:S1,S2,...$"),
        ("lr_schedule", ["step:0.5,0.2", "step:0.5,1"], "between 0 and 1 and rise: got"),
    ],
)
def test_what_is_not_understood_or_makes_no_sense_is_named(name, texts, message):
    parse, _ = KINDS[name]
    for text in texts:
        with pytest.raises(UsageError, match=message) as caught:
            parse(text)
        assert f"{name} {text!r}" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_belongs_to_another_setting_is_refused():
    with pytest.raises(UsageError, match="schedule 'channel' is not understood"):
        tb.Settings(schedule=granularity.Channel())
    with pytest.raises(UsageError, match="T is a whole number"):
        tb.Settings(T=s.FixedCount(3))
