"""The page of real runs, made in seconds: one ticket, a hundred, a round that was killed, no run."""

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from test_html_report import charts, words
from torch import nn

import tombola as tb
from tombola._utils.errors import RunError
from tombola.cli.main import main
from tombola.lab.report.html import page, write_report
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import run_method, sparsities_of
from tombola.runs.cache import StageCache
from tombola.runs.directory import Run

FORKED = multiprocessing.get_context("fork")  # a child that is killed for real, started in milliseconds
RECIPE = tb.TrainConfig(lr=0.05, batch_size=8)
TWO = tb.Settings((0.3, 0.6), "fraction:0.3", T=2, steps=4, statistics=1, search=RECIPE, train=RECIPE)
ONCE = tb.Settings((0.6,), "one_shot", T=1, steps=1, statistics=1, search=RECIPE, train=RECIPE)


def make_run(path, K=3, methods=("rtl", "imp", "dense"), whole=False, settings=TWO, progress=None, each=40):
    """A run of K classes of random points; with ``whole`` one ticket for all of them."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    y = torch.arange(each * K) % K
    x = torch.randn(len(y), 8, generator=g) + 3 * torch.randn(K, 8, generator=g)[y]
    data = tb.Data.of(x, y, validation=0.25, test=0.25)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, K))
    if whole:
        partition = tb.partition.by_rule(data, lambda split: {"all": split.y >= 0})
        objective = tb.objectives.Classification()
    else:
        partition = tb.partition.by_label(data, [f"class {k}" for k in range(K)])
        objective = tb.objectives.OneVsRest()
    pipeline = Pipeline(network, objective, data, partition, settings, 0, StageCache())
    config = {"experiment": None, "seed": 0, "settings": settings.plain(), **pipeline.origin}
    with Run(path, {**config, "methods": list(methods)}, progress, save_seconds=0.0) as run:
        pipeline.cache = run
        for method in methods:
            for sparsity in sparsities_of(pipeline, method):
                run_method(pipeline, method, sparsity)
    return path


def killed(path):
    """As `make_run`, but the process kills itself in the second round of the search."""

    def progress(stage, done, total):
        if (stage, done) == ("search-own-0.6", 2):
            os.kill(os.getpid(), signal.SIGKILL)

    make_run(path, progress=progress)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("one") / "seed0", whole=True, methods=("rtl",))


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    """With the chapter on what the names of tickets mean."""
    path = tmp_path_factory.mktemp("hundred") / "seed0"
    run = make_run(path, K=100, methods=("rtl",), settings=ONCE, each=20)
    names = [f"class {k}" for k in range(100)]
    near = np.exp(-abs(np.subtract.outer(np.arange(100), np.arange(100))) / 20)
    lines = [
        ",".join(["", *names]),
        *(",".join([n, *map(str, row)]) for n, row in zip(names, near, strict=True)),
    ]
    (run.parent / "near.csv").write_text("\n".join(lines))
    command = ["semantics", run, "--names", run.parent / "near.csv", "--permutations", 19]
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, command), "--keep", str(run / "semantics.json"), "--json"])
    assert not stopped.value.code
    return run


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    run = tmp_path_factory.mktemp("crashed") / "seed0"
    child = FORKED.Process(target=killed, args=(run,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    return run


def test_one_ticket(one):
    found = words(page([one]))
    assert "There is no second method to compare with." in found
    assert "With one ticket there is no pair." in found
    assert "Missing" not in found


def test_a_hundred_tickets(hundred):
    text = page([hundred])
    assert len(text) < 3_000_000
    frame = tb.results(hundred).query("method == 'rtl' and metric == 'auc' and ticket != ''")
    drawn = charts(text)
    dotted = {row["ticket"]: row["mean"] for row in drawn["AUC, like for like, 60% removed"]}
    assert dotted == frame.set_index("ticket").value.to_dict()
    assert len(dotted) == 100
    assert len(drawn["kappa"]) == 100 * 100
    found = words(text)
    assert "over 4950 pairs of 100 names" in found
    assert "Missing" not in found


def test_a_crashed_round(crashed):
    found = words(page([crashed]))
    assert "seed 0 is not finished: " in found
    assert "rtl at 60%" in found
    assert "is missing. The program of your own that made it goes on" in found
    make_run(crashed)  # goes on
    assert "Missing" not in words(page([crashed]))


def test_no_run(tmp_path):
    with pytest.raises(RunError, match="is no run and holds none"):
        write_report([tmp_path], tmp_path / "x.html")
    (tmp_path / "config.yaml").write_text("model: of another program\n")
    (tmp_path / "records.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match="is no run and holds none"):
        write_report([tmp_path], tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


# -- a browser --------------------------------------------------------------------------------------------

# Once all charts are drawn: what fits, what is drawn, and what is asked for elsewhere.
WIDE = "document.documentElement.scrollWidth"
EMPTY = (
    "[...document.querySelectorAll('.canvas')].filter(each => !each.querySelector('svg path, canvas')).length"
)


@pytest.fixture
def opened(browser, tmp_path):
    """A page in a browser, with all that its console says."""

    def open(runs, width=1280, scheme="light", **options):
        write_report(runs, tmp_path / "x.html")
        tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme, **options)
        said: list[str] = []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: said.append(request.url) if "http" in request.url else None)
        tab.goto((tmp_path / "x.html").as_uri())
        return tab, said

    return open


@pytest.mark.parametrize(
    ("name", "width", "scheme"), [("one", 390, "dark"), ("hundred", 1280, "light"), ("crashed", 390, "light")]
)
def test_a_browser_draws_all_of_it_and_asks_for_nothing(name, width, scheme, request, opened):
    tab, said = opened([request.getfixturevalue(name)], width, scheme)
    tab.wait_for_selector("html[data-drawn]")
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    tab.wait_for_function(f"{EMPTY} === 0")
    assert tab.evaluate(WIDE) == width
    assert tab.locator(".canvas").count() >= 4
    assert said == []
    for control in tab.locator("select").all():  # with the keyboard
        before = control.input_value()
        control.press("ArrowUp")
        assert control.input_value() != before


def test_a_page_of_two_worlds_has_no_barrier_that_axe_knows(one, crashed, opened):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    tab, _ = opened([one, crashed])
    tab.wait_for_selector("html[data-drawn]")
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        found = axe.Axe().run(tab)
        assert found.violations_count == 0, found.generate_report()


def test_a_page_can_be_read_without_a_script(crashed, opened):
    tab, _ = opened([crashed], java_script_enabled=False)
    tab.locator("summary", has_text="In numbers").first.press("Enter")
    assert tab.locator("figure table").first.is_visible()
    assert tab.locator(".lead").first.is_visible()
