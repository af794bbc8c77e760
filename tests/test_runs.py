"""A run directory: what it holds, whom it refuses, and how long things took."""

import json
import os

import pytest
import torch
import yaml

from tombola._utils import io
from tombola._utils.errors import RunError, TicketFileError
from tombola.runs import log as records
from tombola.runs.directory import Run
from tombola.settings import Settings

CONFIG = {"seed": 0, "settings": {"T": 1, "search": {"lr": 0.1}}, "methods": ["rtl"], "inputs": "some"}


def compute(value=1):
    def stage_of(stage):
        stage.record(event="metric", value=value)
        return {"t": torch.full((2,), float(value))}, {"value": value}

    return stage_of


def fill(path, *names, config=CONFIG):
    with Run(path, config) as run:
        return [run.get_or_compute(name, compute(i)) for i, name in enumerate(names)]


def test_a_run_explains_itself(tmp_path):
    fill(tmp_path, "a", "b")
    assert records.read_config(tmp_path) == CONFIG
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == CONFIG
    environment = records.read_environment(tmp_path)
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert list(records.read_records(tmp_path)) == [
        {"stage": "a", "event": "metric", "value": 0},
        {"stage": "b", "event": "metric", "value": 1},
    ]
    assert {file.name for file in (tmp_path / "stages").iterdir()} == {"a.safetensors", "b.safetensors"}
    assert set(records.read_timings(tmp_path)) == {"a", "b"}


def test_results_come_back_from_disk(tmp_path):
    fill(tmp_path, "a")
    with Run(tmp_path, CONFIG) as run:
        assert run.metadata("a") == {"value": 0}
        assert run.metadata("b") is None
        tensors, _ = run.get_or_compute("a", compute(9))
    assert torch.equal(tensors["t"], torch.zeros(2))


def test_a_run_is_opened_without_its_tensors_and_holds_none(tmp_path, monkeypatch):
    fill(tmp_path, "a", "b")
    monkeypatch.setattr(io, "digest", lambda _: pytest.fail("tensors are read"))
    with Run(tmp_path, CONFIG) as run:
        assert run.finished() == {"a": {"value": 0}, "b": {"value": 1}}
        monkeypatch.undo()
        run.get_or_compute("a", compute(9))
        assert not run.results


def test_a_result_that_was_altered_is_named_when_it_is_asked_for(tmp_path):
    fill(tmp_path, "a")
    file = tmp_path / "stages" / "a.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with (
        Run(tmp_path, CONFIG) as run,
        pytest.raises(
            TicketFileError, match=r"altered since .* delete it, and the run computes this stage again"
        ),
    ):
        run.get_or_compute("a", compute())


def test_stages_and_tickets_of_subsets_named_like_paths_stay_in_their_folders(tmp_path):
    name = "train-x-0.5-../n/a"
    fill(tmp_path, "a", name)
    with Run(tmp_path, CONFIG) as run:
        assert run.metadata(name) == {"value": 1}
        assert run.file(f"{name}.tickets").parent == tmp_path / "tickets"
    assert len(list((tmp_path / "stages").iterdir())) == 2
    assert len(list(records.read_records(tmp_path))) == 2


def test_methods_may_grow_and_never_shrink(tmp_path):
    for methods in (["rtl"], ["imp"], ["rtl"]):
        fill(tmp_path, config={**CONFIG, "methods": methods})
    assert records.read_config(tmp_path)["methods"] == ["rtl", "imp"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "another seed: 0 there, 1 here"),
        ({"settings": {"T": 2, "search": {"lr": 0.1}}}, "other settings: T: 1 there, 2 here"),
        ({"settings": {"T": 1, "search": {"lr": 0.2}}}, "settings: search: lr: 0.1 there, 0.2 here"),
        ({"data": "x"}, "made with other data"),
        ({"theta0": "x"}, "torch.manual_seed"),
        ({"inputs": "x"}, "made with another `prepare`"),
    ],
    ids=["seed", "setting", "recipe", "data", "theta0", "inputs"],
)
def test_another_config_is_refused_and_the_difference_named(change, message, tmp_path):
    fill(tmp_path, "a")
    before = (tmp_path / "config.yaml").read_bytes()
    with pytest.raises(RunError, match=message):
        fill(tmp_path, config={**CONFIG, **change})
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_data_may_move_to_another_folder(tmp_path):
    for source in ("old", "new"):
        fill(tmp_path, config={**CONFIG, "source": source})
    assert records.read_config(tmp_path)["source"] == "new"


def test_a_refused_run_is_free_for_the_next_one(tmp_path):
    fill(tmp_path, "a")
    with pytest.raises(RunError) as caught:
        fill(tmp_path, config={**CONFIG, "seed": 1})
    fill(tmp_path, "b")
    assert caught.value.__traceback__ is not None  # which holds the frames of the refused one


def test_a_second_writer_is_told_the_first_ones_pid(tmp_path):
    with (
        Run(tmp_path, CONFIG),
        pytest.raises(RunError, match=rf"pid {os.getpid()}\): wait for it"),
    ):
        Run(tmp_path, CONFIG)
    fill(tmp_path, "a")


def test_folders_of_something_else_are_refused_and_hidden_files_are_not(tmp_path):
    (tmp_path / ".gitignore").write_text("x")
    fill(tmp_path, "a")
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("x")
    with pytest.raises(RunError, match="not empty and no run"):
        fill(other)
    assert (tmp_path / ".gitignore").read_text() == "x"


def test_temporary_files_of_a_killed_process_are_removed(tmp_path):
    fill(tmp_path, "a")
    left = [tmp_path / ".config.yaml.0a1b", tmp_path / "stages" / ".a.safetensors.0a1b"]
    for file in left:
        file.write_text("half")
    fill(tmp_path, "a")
    assert not any(file.exists() for file in left)


@pytest.mark.parametrize(
    "content", ["[1, 2]", "a: [", "\x00\x01", ""], ids=["list", "cut", "binary", "empty"]
)
def test_a_config_that_cannot_be_read_is_one_line(content, tmp_path):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(RunError, match=r"config\.yaml .*restore it or delete the run"):
        records.read_config(tmp_path)


def test_a_folder_without_config_is_no_run(tmp_path):
    with pytest.raises(RunError, match="is no run"):
        records.read_config(tmp_path)


def test_a_stage_that_was_interrupted_has_no_time(tmp_path):
    def dies(stage):
        stage.save(lambda: {"t": torch.ones(1)}, {"step": 1})
        raise KeyboardInterrupt

    def goes_on(stage):
        assert stage.load()[1] == {"step": 1}
        return {}, {}

    with Run(tmp_path, CONFIG, save_seconds=0) as run, pytest.raises(KeyboardInterrupt):
        run.get_or_compute("a", dies)
    with Run(tmp_path, CONFIG) as run:
        run.get_or_compute("a", goes_on)
        run.get_or_compute("b", compute())
    timings = records.read_timings(tmp_path)
    assert timings["a"] is None
    assert timings["b"] >= 0


def test_states_are_saved_no_more_often_than_asked_and_not_even_made(tmp_path):
    def unwanted():
        raise AssertionError("a state was made that nobody saves")

    def stage_of(stage):
        for step in range(3):
            stage.save(unwanted, {"step": step})
        return {}, {"saved": (tmp_path / "stages" / "current.safetensors").exists()}

    with Run(tmp_path, CONFIG, save_seconds=60) as run:
        assert run.get_or_compute("a", stage_of)[1] == {"saved": False}


def test_a_state_counts_the_bytes_of_records_that_it_stands_for(tmp_path):
    fill(tmp_path, "a", "b")
    sizes = [io.read(tmp_path / "stages" / f"{n}.safetensors")[1]["records_bytes"] for n in "ab"]
    lines = (tmp_path / "records.jsonl").read_bytes().splitlines(keepends=True)
    assert sizes == [len(lines[0]), len(lines[0] + lines[1])]


@pytest.mark.parametrize("deleted", ["a", "b", "ab", "c", "bc", "abc"])
def test_a_stage_whose_file_was_deleted_is_recorded_once(deleted, tmp_path):
    fill(tmp_path, *"abc")
    whole = (tmp_path / "records.jsonl").read_bytes()
    for name in deleted:
        (tmp_path / "stages" / f"{name}.safetensors").unlink()
    fill(tmp_path, *"abc")
    assert (tmp_path / "records.jsonl").read_bytes() == whole
    fill(tmp_path, *"abcd")  # and the run goes on
    assert len(list(records.read_records(tmp_path))) == 4


def test_a_deleted_stage_that_is_interrupted_when_it_is_computed_again_is_recorded_once_too(tmp_path):
    def long(dies):
        def stage_of(stage):
            first = stage.load()[1]["step"] if stage.load() else 0
            for step in range(first, 4):
                stage.record(event="metric", value=step)
                stage.save(lambda: {"t": torch.ones(1)}, {"step": step + 1})
                if step == dies:
                    raise KeyboardInterrupt
            return {}, {}

        return stage_of

    def go(dies):
        with Run(tmp_path, CONFIG, save_seconds=0) as run:
            run.get_or_compute("a", long(dies))
            run.get_or_compute("b", compute())

    with pytest.raises(KeyboardInterrupt):
        go(dies=1)
    go(dies=None)
    whole = (tmp_path / "records.jsonl").read_bytes()
    assert len(whole.splitlines()) == 5
    (tmp_path / "stages" / "a.safetensors").unlink()
    with pytest.raises(KeyboardInterrupt):
        go(dies=2)
    go(dies=None)
    assert (tmp_path / "records.jsonl").read_bytes() == whole


def test_progress_is_told(tmp_path):
    conditioned = []
    with Run(tmp_path, CONFIG, lambda *words: conditioned.append(words)) as run:
        run.get_or_compute("a", lambda stage: (stage.advance(1, 2), ({}, {}))[1])
    assert conditioned == [("a", 1, 2)]


def test_timings_and_environment_may_be_absent(tmp_path):
    assert records.read_timings(tmp_path) == {}
    assert records.read_environment(tmp_path) == {}


def test_the_environment_is_json(tmp_path):
    fill(tmp_path)
    written = json.loads((tmp_path / "environment.json").read_text())
    assert written.keys() == {*records.environment(), "parallel", "device"}


def test_a_run_from_before_a_setting_existed_goes_on_with_its_default(tmp_path):
    settings = Settings().plain()
    old = {name: value for name, value in settings.items() if name != "score"}
    with Run(tmp_path / "run", {"seed": 0, "settings": old}):
        pass
    with Run(tmp_path / "run", {"seed": 0, "settings": settings}) as run:
        assert run.config["settings"]["score"] == "magnitude"
    with pytest.raises(RunError, match="other settings: score: 'magnitude' there, 'snip' here"):
        Run(tmp_path / "run", {"seed": 0, "settings": {**settings, "score": "snip"}})


def test_what_a_killed_process_left_of_a_file_is_removed_by_the_next_and_nothing_else(tmp_path):
    page = tmp_path / "report [1].html"
    names = [f".{page.name}.0a1b2c3d", f".{page.name}.ffffffff", f".{page.name}.backup1", ".other.0a1b2c3d"]
    left, living, own, other = (tmp_path / name for name in names)
    for file in (left, living, own, other):
        file.write_text("half")
    for file in (left, own, other):
        os.utime(file, (0, 0))
    io.write_bytes(page, b"whole")
    assert page.read_bytes() == b"whole"
    assert [file.exists() for file in (left, living, own, other)] == [False, True, True, True]
