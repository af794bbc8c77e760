"""Former names: read with one warning that says the new ones, wherever a user or an old run may have them."""

import warnings

import pytest
import yaml

import tombola as tb
from tombola._utils import renamed
from tombola._utils.errors import UsageError
from tombola.cli.main import main
from tombola.runs.directory import Run
from tombola.runs.log import read_config, read_environment

NEW = {"lr_schedule": "decay", "callback": "during"}


def former(settings):
    """The plain settings as an older version wrote them."""
    plain = {NEW.get(name, name): value for name, value in settings.plain().items()}
    for part in ("search", "train"):
        plain[part] = {NEW.get(name, name): value for name, value in plain[part].items()}
    return plain


SETTINGS = tb.Settings(callback="early_bird:0.1:5", train=tb.TrainConfig(lr_schedule="cosine"))


@pytest.fixture
def warned():
    """The one warning that was given; it points here."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield lambda: str(found[0].message) if len(found) == 1 else [str(w.message) for w in found]
    assert {w.category for w in found} == {renamed.Renamed}
    assert issubclass(renamed.Renamed, FutureWarning)


def test_settings_of_an_older_run(warned):
    assert tb.Settings.from_plain(former(SETTINGS)) == SETTINGS
    assert warned() == "during is now called callback; decay is now called lr_schedule"


def test_settings_and_recipes(warned):
    assert tb.Recipe(decay="cosine").lr_schedule == "cosine"
    assert warned() == "decay is now called lr_schedule"
    assert tb.Settings(during="early_bird:0.1:5").callback == "early_bird:0.1:5"


def test_a_change(warned):
    assert tb.Settings().changed(["train.decay=cosine"]).train.lr_schedule == "cosine"
    assert warned() == "decay is now called lr_schedule"


def test_arguments_of_a_call(warned, convnet, images, by_class):
    objective, few = tb.objectives.OneVsRest(), {"T": 20, "steps": 1, "statistics": 1}
    found = tb.rtl(
        convnet, objective, images, by_class, during="early_bird:0.1:5", at_once="no", sparsity=0.5, **few
    )
    assert found.masks.density == 0.5
    assert warned() == "during is now called callback; at_once is now called parallel"


def test_a_run_directory_goes_on_and_is_then_written_by_new_names(tmp_path, warned):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"settings": former(SETTINGS), "methods": []}))
    (tmp_path / "environment.json").write_text('{"at_once": "batched"}')
    assert read_environment(tmp_path) == {"parallel": "batched"}
    with Run(tmp_path, {"settings": SETTINGS.plain(), "methods": ["rtl"]}) as run:
        assert run.parallel == "batched"
    assert warned() == "during is now called callback; decay is now called lr_schedule"
    assert read_config(tmp_path)["settings"] == SETTINGS.plain()


def test_the_command_line_says_it_once_and_in_a_line(capsys, tmp_path):
    given = ["run", "digits", "--method", "dense", "--sparsity", "0.5", "--out", str(tmp_path), "--json"]
    few = ["--set", "steps=1", "statistics=1", "train.decay=constant", "search.decay=constant"]
    for last in (["--at-once", "no"], ["--at-once=no"]):
        with pytest.raises(SystemExit) as stopped:
            main([*given, *few, *last])
        assert not stopped.value.code
        lines = capsys.readouterr().err.splitlines()
        told = [line for line in lines if "is now called" in line]
        assert told == [
            "tombola: --at-once is now called --parallel",
            "tombola: decay is now called lr_schedule",
        ]


def test_both_names_are_refused():
    with pytest.raises(UsageError, match="decay is now called lr_schedule: give lr_schedule alone"):
        tb.Recipe(decay="cosine", lr_schedule="constant")


def test_what_is_gone_is_left_out(monkeypatch, warned):
    monkeypatch.setitem(renamed.RENAMED, "brake", None)
    assert tb.Settings.from_plain({**SETTINGS.plain(), "brake": ""}) == SETTINGS
    assert tb.Settings().changed(["brake=hard", "T=3"]).T == 3
    assert warned() == "there is no brake any more: it is left out"


def test_the_options_of_an_optimiser_keep_their_names():
    plain = {"train": {"options": {"decay": 0.1}}}
    assert renamed.renewed(plain) == plain


def test_both_names_at_once_and_a_setting_of_a_group_are_one_clear_error():
    with pytest.raises(UsageError, match="at_once is now called parallel: give parallel alone"):
        tb.rtl(None, None, None, None, at_once="no", parallel="workers")
    with pytest.warns(FutureWarning), pytest.raises(UsageError, match=r"set search\.lr_schedule or train\."):
        tb.Settings().changed(["decay=cosine"])
