"""A run folder and ticket files of the version before the rooms: read, gone on with, and computed again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import tombola as tb
from tombola.cli import main as cli
from tombola.methods import pipeline
from tombola.runs.log import read_config, read_records

OLD = Path(__file__).parent / "data" / "old_run"


def given():
    """What the old run was made from."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(120, 6, generator=g), torch.arange(120) % 3
    x[torch.arange(120), y] += 2
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    data = tb.Data.of(x, y, validation=0.2, test=0.2)
    return net, tb.objectives.OneVsRest(), data, tb.partition.by_label(data, names=["cat", "dog", "fox"])


def find(method, out):
    config = tb.TrainConfig(lr=0.01, batch_size=16, lr_schedule="cosine")
    how = {"T": 4, "steps": 6, "rewind": 2, "search": config, "train": config, "parallel": "no"}
    return tb.find(method, *given(), sparsity=[0.5, 0.75], out=out, **how)


@pytest.fixture
def old(tmp_path):
    return Path(shutil.copytree(OLD, tmp_path / "run"))


def test_it_is_not_computed_again(old, monkeypatch):
    for stage in ("find_tickets", "train_jointly"):
        monkeypatch.setattr(pipeline, stage, lambda *_, **__: pytest.fail("computed again"))
    for method in read_config(OLD)["methods"]:
        for outcome in find(method, old):
            kept = {m["metric"]: m["value"] for m in read_records(OLD) if _of(m, method, outcome.sparsity)}
            assert outcome["auc"] == kept["auc"]
            stored = tb.load(OLD / "tickets" / f"{method}-{outcome.sparsity}.tickets", given()[0])
            assert stored.masks == outcome.tickets.masks


def _of(row, method, sparsity):
    found = row.get("method"), row.get("sparsity"), row.get("reading"), row.get("ticket")
    return row["event"] == "metric" and found == (method, sparsity, "like_for_like", None)


def test_another_method_goes_on_in_it(old):
    (low, high) = find("same_mask", old)
    single = tb.load(OLD / "tickets" / "imp-0.75.tickets", given()[0]).masks
    assert all(torch.equal(high.tickets.masks[name], single.masks_KN[0]) for name in high.tickets.names)
    assert low.sparsity == 0.5


def test_this_version_finds_the_same_tickets(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for method in read_config(OLD)["methods"]:
            for outcome in find(method, tmp_path / "new"):
                old = tb.load(OLD / "tickets" / f"{method}-{outcome.sparsity}.tickets", given()[0])
                assert old.masks == outcome.tickets.masks
                for name in old.names:
                    ours, theirs = (t.bake(name).state_dict() for t in (outcome.tickets, old))
                    for key, value in theirs.items():
                        torch.testing.assert_close(
                            ours[key], value, rtol=2e-2, atol=2e-2
                        )  # of Adam: where a gradient is nearly 0, rounding has its sign
    finally:
        torch.set_num_threads(threads)


def test_its_tables_are_read(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["compare", str(OLD), "--json"])
    assert not end.value.code
    rows = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in rows} == {"rtl", "imp", "twin"}
