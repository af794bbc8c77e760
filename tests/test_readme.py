"""The program of README runs, and its tickets are ahead of one mask by as much as it says."""

from pathlib import Path

import pytest
import torch

import tombola as tb

README = Path(__file__).parent.parent / "README.md"


def test_its_program_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    found = {}
    exec(README.read_text().split("```python\n")[1].split("```")[0], found)
    right = float(capsys.readouterr().out.split()[0])
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    one = tb.find(
        "imp", net, *(found[name] for name in ("task", "data", "clinics")), sparsity=0.8, T=60, steps=300
    )
    assert right == pytest.approx(0.92, abs=0.02)
    assert one[0]["accuracy"] == pytest.approx(0.84, abs=0.02)
    assert tb.load("clinics.tickets", net).names == ("0", "1", "2", "3", "4")
