"""The most that was held counts, also of what is gone again, and nothing of before."""

import sys

import pytest
import torch

from tombola._utils.memory import Peak, high_water

CPU = torch.device("cpu")
MIB = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system cannot forget an older peak")
def test_a_peak_is_that_of_its_own_time():
    before = torch.ones(64 * MIB)  # 256 MiB, which the first peak knows and the second does not
    del before
    peak = Peak(CPU)
    held = torch.ones(16 * MIB)
    torch.ones(16 * MIB).sum()
    assert 120 * MIB < peak.bytes() < 160 * MIB
    again = Peak(CPU)
    assert again.bytes() < 32 * MIB
    assert high_water() > 64 * MIB
    del held


def test_a_system_that_cannot_forget_gives_no_number(monkeypatch, tmp_path):
    monkeypatch.setattr("tombola._utils.memory.PEAK", tmp_path / "missing" / "clear_refs")
    assert Peak(CPU).bytes() is None
