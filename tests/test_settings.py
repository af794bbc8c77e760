"""Settings: written down, read back, changed, and refused by name when they make no sense."""

import math

import numpy as np
import pytest
import torch
import yaml

import tombola as tb
from tombola._utils.errors import OptimizerError, UsageError
from tombola.lab.experiments import EXPERIMENTS
from tombola.runs.directory import Run

CHANGED = tb.Settings(
    sparsity=(0.1, 0.9),
    schedule="fixed_count:7",
    T=3,
    steps=4,
    rewind=5,
    rewinding="fine_tune",
    first="snip:2",
    callback="early_bird:0.1:5",
    nested=False,
    search=tb.TrainConfig("SGD", 0.1, 32, "step:0.5,0.75", {"momentum": 0.9}, 0.1),
    train=tb.TrainConfig("AdamW", 0.2, 64, options={"weight_decay": 0.1, "betas": [0.8, 0.99]}),
    score="snip:3",
    selection="layer",
    form="simultaneous",
    normalization="per_ticket",
    private=("head.*",),
    statistics=6,
    include=("a", "b"),
    exclude=("c",),
)


@pytest.mark.parametrize("settings", [tb.Settings(), CHANGED], ids=["default", "changed"])
def test_settings_come_back_from_yaml_as_they_were(settings):
    stored = yaml.safe_load(yaml.safe_dump(settings.plain()))
    assert stored == settings.plain()
    assert tb.Settings.from_plain(stored) == settings


def test_settings_of_every_preset_come_back_from_yaml_as_they_were():
    for experiment in EXPERIMENTS.values():
        for preset in experiment.presets.values():
            stored = yaml.safe_load(yaml.safe_dump(preset.settings.plain()))
            assert tb.Settings.from_plain(stored) == preset.settings


def test_a_run_goes_on_whatever_kinds_of_numbers_its_settings_were_given_in(tmp_path):
    config = tb.TrainConfig(lr=np.float64(0.1), options={"betas": (0.9, np.float32(0.5))})
    settings = tb.Settings(tuple(np.linspace(0.25, 0.75, 3)), T=np.int64(3), search=config)
    for _ in range(2):
        Run(tmp_path, {"settings": settings.plain(), "methods": ["rtl"]}).close()
    assert tb.Settings.from_plain(yaml.safe_load((tmp_path / "config.yaml").read_text())["settings"]).T == 3


BAD = [
    ({"sparsity": (1.0,)}, "1.0"),
    ({"sparsity": (0.5, 1.5)}, "1.5"),
    ({"sparsity": (-0.1,)}, "-0.1"),
    ({"sparsity": (float("nan"),)}, "nan"),
    ({"sparsity": ()}, "sparsity"),
    ({"sparsity": (0.5, 0.5)}, "sparsity"),
    ({"schedule": "cubic"}, "cubic"),
    ({"T": -1}, "T "),
    ({"steps": -1}, "steps"),
    ({"rewind": -2}, "rewind"),
    ({"statistics": 0}, "statistics"),
    ({"selection": "column"}, "column"),
    ({"rewinding": "all"}, "all"),
    ({"nested": 2}, "nested"),
    ({"first": "snipp"}, "did you mean 'snip'"),
    ({"first": "movement"}, "comes before any"),
    ({"callback": "early_bird"}, "early_bird:THRESHOLD:PATIENCE"),
    ({"callback": "early_bird:0.1:5", "T": 0}, "T must be at least 1"),
    ({"callback": "set:0.3:10"}, "first=random"),
    ({"callback": "set:0.3:10", "first": "random", "nested": False, "granularity": "channel"}, "granularity"),
    ({"score": "magnitud"}, "did you mean 'magnitude'"),
    ({"score": "movement", "T": 0}, "T must be at least 1"),
    ({"form": "both"}, "both"),
    ({"normalization": "per_ticked"}, "per_ticket"),
]


@pytest.mark.parametrize(("change", "named"), BAD, ids=str)
def test_every_bad_setting_is_a_usage_error_that_names_it(change, named):
    with pytest.raises(UsageError) as caught:
        tb.Settings(**change)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"score": None}, "score is text"),
        ({"schedule": 5}, "schedule is text"),
        ({"callback": 3}, "callback is text"),
        ({"granularity": 4}, "granularity is text"),
        ({"sparsity": 0.5}, "sparsity is a tuple"),
        ({"sparsity": ("0.5",)}, "a sparsity is a number"),
        ({"search": {"lr": 1}}, "search is a TrainConfig"),
        ({"nested": 1}, "nested is True or False"),
        ({"T": True}, "T is a whole number"),
    ],
)
def test_a_field_of_another_kind_is_named(given, named):
    with pytest.raises(UsageError, match=named):
        tb.Settings(**given)


def test_a_number_as_yaml_does_not_write_it():
    assert tb.Settings().changed(["train.lr=1e-4"]).train.lr == 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 7}, "even and at least 2: got 7"),
        ({"batch_size": 0}, "even and at least 2: got 0"),
        ({"lr_schedule": "linear"}, "lr_schedule 'linear' is not understood"),
        ({"lr_schedule": "step:0.5,1"}, "between 0 and 1"),
        ({"warmup": 1.0}, "warmup is a share"),
        ({"warmup": -0.1}, "warmup is a share"),
        ({"precision": "float16"}, "precision is float32 or bfloat16: got 'float16'"),
        ({"lr": 0}, "must be positive: got 0"),
        ({"lr": float("nan")}, "must be positive: got nan"),
        ({"optimizer": "Adma"}, "no optimiser 'Adma'"),
        ({"optimizer": "lr_scheduler"}, "no optimiser 'lr_scheduler'"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_an_error(options, message):
    with pytest.raises(UsageError, match=message):
        tb.TrainConfig(**options)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (tb.TrainConfig("SGD", options={"momentun": 0.9}), "SGD: .*momentun"),
        (tb.TrainConfig("Adam", options={"betas": [2, 0.9]}), "Adam: "),
        (tb.TrainConfig("LBFGS"), "LBFGS"),
    ],
    ids=["unknown option", "impossible option", "whole tensors"],
)
def test_an_optimiser_that_cannot_be_is_named_when_it_is_built(config, named):
    with pytest.raises(OptimizerError, match=named):
        config.build([torch.zeros(2, requires_grad=True)])


def test_the_learning_rate_is_constant_or_falls_as_a_cosine_to_zero():
    assert {tb.TrainConfig(lr=0.3).rate(t, 10) for t in range(10)} == {0.3}
    cosine = tb.TrainConfig(lr=0.3, lr_schedule="cosine")
    assert [cosine.rate(t, 10) for t in (0, 5, 10)] == pytest.approx([0.3, 0.15, 0.0])
    assert cosine.rate(2, 8) == pytest.approx(0.15 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize("lr_schedule", ["constant", "cosine", "step:0.3,0.5,0.9"])
@pytest.mark.parametrize("warmup", [0.0, 0.2])
@pytest.mark.parametrize("steps", [1, 2, 20, 57])
def test_every_course_is_that_of_torchs_schedulers(lr_schedule, warmup, steps):
    rising = round(warmup * steps)
    optimizer, shared = torch.optim.SGD([torch.zeros(1)], lr=0.3), steps - rising
    schedulers = torch.optim.lr_scheduler
    falls = [round(share * shared) for share in (0.3, 0.5, 0.9)]
    course = {
        "constant": lambda: schedulers.ConstantLR(optimizer, 1.0),
        "cosine": lambda: schedulers.CosineAnnealingLR(optimizer, shared),
        "step:0.3,0.5,0.9": lambda: schedulers.MultiStepLR(optimizer, falls, 0.1),
    }[lr_schedule]()
    if rising:
        optimizer.param_groups[0]["lr"] = 0.3
        course = {
            "constant": lambda: schedulers.ConstantLR(optimizer, 1.0),
            "cosine": lambda: schedulers.CosineAnnealingLR(optimizer, shared),
            "step:0.3,0.5,0.9": lambda: schedulers.MultiStepLR(optimizer, falls, 0.1),
        }[lr_schedule]()
        rise = schedulers.LinearLR(optimizer, 1 / (rising + 1), 1.0, rising)
        course = schedulers.SequentialLR(optimizer, [rise, course], [rising])
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        course.step()
    config = tb.TrainConfig(lr=0.3, lr_schedule=lr_schedule, warmup=warmup)
    if falls[0] == 0 and lr_schedule.startswith("step"):
        return  # torch's MultiStepLR does not look at step 0
    assert [config.rate(t, steps) for t in range(steps)] == pytest.approx(rates, abs=1e-12)


def test_changes_reach_settings_and_recipes_and_nothing_else():
    changed = tb.Settings().changed(["T=7", "train.lr=0.01", "sparsity=[0.5]", "search.optimizer=SGD"])
    assert (changed.T, changed.train.lr, changed.sparsity, changed.search.optimizer) == (
        7,
        0.01,
        (0.5,),
        "SGD",
    )
    assert tb.Settings().changed(["sparsity=0.5", "private=0.bias"]).private == ("0.bias",)
    back = changed.changed(["T=100", "train.lr=0.001", "sparsity=[0.25,0.5,0.75]", "search.optimizer=Adam"])
    assert back == tb.Settings()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("lr=1", "lr"),
        ("T", "T"),
        ("train=3", "train"),
        ("step=3", "did you mean 'steps'"),
        ("T=abc", "T is a whole number"),
        ("sparsity=[", "sparsity"),
        ("sparsity=half", "a sparsity is a number"),
        ("score=3", "score is text, such as .magnitude.: got 3"),
        ("score=snip:x", "score 'snip:x' is not understood"),
        ("train.lr=nan", "lr must be positive: got nan"),
        ("train.lr=inf", "lr must be positive: got inf"),
        ("search=3", "search is a group: set search.optimizer, search.lr"),
        ("train.lr_schedule=linear", "linear"),
        ("steps=-1", "steps"),
    ],
)
def test_a_change_that_makes_no_sense_is_a_usage_error(change, named):
    with pytest.raises(UsageError, match=named):
        tb.Settings().changed([change])


def test_a_run_that_is_older_than_a_setting_of_a_recipe_goes_on():
    from tombola.runs.log import difference

    new = {"settings": tb.Settings().plain()}
    old = yaml.safe_load(yaml.safe_dump(new))
    for name in ("search", "train"):
        del old["settings"][name]["warmup"]
    del old["settings"]["rewinding"]
    assert difference(old, new) is None
    assert "warmup" in difference(old, {"settings": tb.Settings(train=tb.TrainConfig(warmup=0.1)).plain()})
