"""The page of the service, in a browser: it answers, fits, can be used by keyboard, and asks nobody else."""

import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tombola as tb
from tombola.lab.evaluation.inputs import taken_by

pytest.importorskip("fastapi", reason="the extra serve is not installed")
uvicorn = pytest.importorskip("uvicorn")

from tombola.serve.app import PAGE, create_app, policy  # noqa: E402
from tombola.serve.registry import Registry  # noqa: E402


def pictures():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))


def rows():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))


def save(path, net, names, like, **metadata):
    layout = tb.scope(net, exclude=["*.bias"])
    masks = {name: torch.arange(layout.size) % (k + 2) > 0 for k, name in enumerate(names)}
    made = tb.TicketModel(net, tb.MaskSet(layout, masks), metadata=metadata)
    made.save(path, like=like)


@pytest.fixture
def address(tmp_path):
    """A service of pictures, one-vs-rest, and of rows of a table, at a port of its own."""
    save(
        tmp_path / "digits.tickets",
        pictures(),
        ("cat", "dog", "fox"),
        torch.rand(2, 1, 8, 8),
        answer="subset",
    )
    row = {"stored": {"tensor": [2], "dtype": "float32", "range": [0.0, 9.0]}, "features": ["area", "rooms"]}
    known = {"prepare": [], "kind": "values", **row}
    names = ("Oslo", "Bergen", "<b>&")
    save(tmp_path / "rows.tickets", rows(), names, torch.rand(2, 2), answer="class", input=known)
    nets = {"digits": pictures, "rows": rows}

    def read(path):
        from tombola._utils.io import read

        return tb.load(path, nets[path.stem]()), taken_by(path, read(path)[1]["facts"])

    registry = Registry({name: tmp_path / f"{name}.tickets" for name in nets}, read)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(create_app(registry), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def opened(address, browser):
    """The page in a window of this width; in the end nothing was complained of, and nobody else was asked."""
    faults = []

    def look(width, scheme="light"):
        tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        tab.on("console", lambda message: faults.append(message.text))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("request", lambda r: r.url.startswith((address, "blob:", "data:")) or faults.append(r.url))
        tab.goto(address)
        tab.wait_for_selector("#pairs tr")
        return tab

    yield SimpleNamespace(look=look)
    assert not faults


def said(tab):
    tab.wait_for_selector("#answer .value")
    return tab.inner_text("#answer .value")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_a_picture_is_answered_on_a_page_that_fits_and_keeps_the_rules(width, scheme, opened, tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.png")
    tab = opened.look(width, scheme)
    tab.set_input_files("#upload", tmp_path / "a.png")
    answer = said(tab)
    assert answer in ("cat", "dog", "fox")
    assert tab.locator("#every tr").count() == 3
    assert tab.locator("#every tr.chosen th").inner_text() == answer
    assert tab.locator("#picture").is_visible()
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    broken = axe.Axe().run(tab).response["violations"]
    assert not [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in broken]


def test_a_row_is_typed_and_asked_by_keyboard_alone(opened):
    tab = opened.look(390)
    tab.focus("#file")
    tab.keyboard.press("ArrowDown")  # the file of rows
    tab.wait_for_selector("#column-0")
    assert tab.locator("#ticket option").all_inner_texts() == ["Oslo", "Bergen", "<b>&"]
    tab.focus("#ticket")
    tab.keyboard.press("ArrowDown")
    tab.focus("#column-0")
    tab.keyboard.type("80.5")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#answer .fault")
    assert tab.inner_text("#answer") == "rooms is empty."
    assert tab.evaluate("document.activeElement.id") == "column-1"  # the place to go on
    tab.keyboard.type("3")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "go"
    tab.keyboard.press("Enter")
    x = torch.tensor([[80.5, 3.0]])
    assert said(tab) == str(int(rows_ticket("Bergen")(x).argmax()))
    assert tab.locator("#every tr.chosen th").inner_text() == "Bergen"


def rows_ticket(name):
    net = rows()
    layout = tb.scope(net, exclude=["*.bias"])
    k = ("Oslo", "Bergen", "<b>&").index(name)
    masks = tb.MaskSet(layout, {name: torch.arange(layout.size) % (k + 2) > 0})
    return tb.TicketModel(net, masks).bake(name)


def test_what_is_refused_is_said_on_the_page(opened, tmp_path):
    tab = opened.look(1280)
    (tmp_path / "a.doc").write_bytes(b"x")
    tab.set_input_files("#upload", tmp_path / "a.doc")
    assert tab.inner_text("#answer .fault") == "a.doc is of no kind that can be sent."


def test_the_page_names_no_other_address_and_its_policy_allows_its_own_script_alone():
    text = PAGE.read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert " onclick=" not in text
    assert " style=" not in text
    found = policy(text)
    assert found.startswith("default-src 'none'; style-src 'sha256-")
    assert policy(text.replace('"use strict"', '"use  strict"')) != found
