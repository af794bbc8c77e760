"""Settings that a method does not take: named, and refused where they would change nothing."""

import pytest

from tombola._utils.errors import UsageError
from tombola.cli.main import main
from tombola.cli.options import overridden
from tombola.settings import Settings

TINY = ["--set", "T=1", "steps=2", "statistics=1", "--sparsity", "0.5"]


def test_a_setting_that_one_method_does_not_take_is_named_with_it():
    changes = ["rewinding=learning_rate", "steps=9"]
    found = overridden(["imp", "fine_tuning"], Settings().changed(changes), changes)
    assert found == ["rewinding=learning_rate is not for fine_tuning, which has rewinding=fine_tune"]


def test_a_setting_that_no_method_takes_is_refused():
    changes = ["T=9"]
    with pytest.raises(UsageError, match=r"T=9 would change nothing: snip has T=0, grasp has T=0"):
        overridden(["snip", "grasp"], Settings().changed(changes), changes)


def test_what_agrees_is_no_matter():
    changes = ["schedule=one_shot", "nested=false", "T=0"]
    assert not overridden(["snip", "one_shot", "rtl"], Settings().changed(changes[:2]), changes[:2])
    assert not overridden(["grasp"], Settings().changed(changes), changes)
    assert not overridden(["rtl", "imp", "dense"], Settings(T=9), ["T=9", "train.lr=0.1"])


def test_the_command_line_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["run", "digits", "--method", "snip", *TINY, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "--set T=1 would change nothing: snip has T=0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stopped:
        main(["run", "digits", "--method", "snip", "imp", *TINY, "--out", str(tmp_path)])
    assert not stopped.value.code
    assert "T=1 is not for snip, which has T=0" in capsys.readouterr().err
