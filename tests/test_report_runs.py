"""The page of real runs, made in seconds: one ticket, a hundred, a round that was killed, no run."""

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from test_html_report import checked, tabled
from torch import nn

import tombola as tb
from tombola._utils.errors import RunError
from tombola.cli.main import main
from tombola.lab.report.blocks import Shelf
from tombola.lab.report.chapters import section
from tombola.lab.report.findings import gather
from tombola.lab.report.html import page, write_report
from tombola.lab.report.rows import rows
from tombola.lab.report.tables import share, tables
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import run_method, sparsities_of
from tombola.runs.cache import StageCache
from tombola.runs.directory import Run
from tombola.runs.log import read_records

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


def of_tickets(run, method, sparsity, metric):
    """Values by ticket, straight from the records."""
    return {
        row["ticket"]: row["value"]
        for row in read_records(run)
        if row["event"] == "metric"
        and row.get("ticket")
        and (row["method"], row["sparsity"], row["metric"]) == (method, sparsity, metric)
        and row.get("reading") != "paper"
    }


def shown(run):
    """The tables of its section, by title."""
    measured = rows([run])
    head = measured[0]["experiment"], measured[0].get("preset", "")
    return tabled(section(gather(head, [run]), measured, Shelf()))


def test_one_ticket(one):
    found = checked(page([one]))
    assert "There is no second method to compare with." in found
    assert "With one ticket there is no pair." in found
    value = of_tickets(one, "rtl", 0.6, "accuracy")["all"]
    like = next(t for title, t in shown(one).items() if title.startswith("Like for like"))
    row = next(line for line in like.body if line[:2] == ["rtl", "60%"])
    assert row[like.header.index("accuracy")] == share(value)
    assert "Missing" not in found


def test_a_hundred_tickets(hundred):
    text = page([hundred])
    found = checked(text)
    assert len(text) < 3_000_000
    assert "<image " in text
    values = of_tickets(hundred, "rtl", 0.6, "auc")
    assert len(values) == 100
    by_ticket = shown(hundred)["AUC, like for like, means over seeds"]
    line = next(line for line in by_ticket.body if line[:2] == ["rtl", "60%"])
    assert line[2:] == [share(values[name]) for name in by_ticket.header[2:]]
    assert "over 4950 pairs of 100 names" in found
    assert "Missing" not in found


def test_a_crashed_round(crashed):
    found = checked(page([crashed]))
    assert "seed 0 is not finished: " in found
    assert "rtl at 60%" in found
    assert "is missing. The program of your own that made it goes on" in found
    there = shown(crashed)
    assert all(there[table.title] == table for table in tables(rows([crashed])))
    make_run(crashed)  # goes on
    assert "Missing" not in checked(page([crashed]))


def test_no_run(tmp_path):
    with pytest.raises(RunError, match="is no run and holds none"):
        write_report([tmp_path], tmp_path / "x.html")
    (tmp_path / "config.yaml").write_text("model: of another program\n")
    (tmp_path / "records.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match="is no run and holds none"):
        write_report([tmp_path], tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


# -- a browser --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["one", "hundred", "crashed"])
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_a_browser_draws_all_of_it(name, width, scheme, request, tmp_path, browser):
    write_report([request.getfixturevalue(name)], tmp_path / "x.html")
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    errors, requests = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto((tmp_path / "x.html").as_uri())
    for folded in tab.locator("summary").all():
        folded.click()
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    drawn = tab.locator("figure > svg:visible")
    boxes = [drawn.nth(i).bounding_box() for i in range(drawn.count())]
    assert len(boxes) >= 5
    assert all(box["height"] > 40 and 0 <= box["x"] <= box["x"] + box["width"] <= width for box in boxes)
    slider = tab.locator(".slides input:visible")
    for i in range(slider.count()):
        before = slider.nth(i).get_attribute("aria-valuetext")
        slider.nth(i).press("ArrowRight")
        assert slider.nth(i).get_attribute("aria-valuetext") != before
    assert not errors
    assert all(url.startswith(("file:", "data:")) for url in requests)
