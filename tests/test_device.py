"""The library on another device than the CPU: ``tests/device`` in a process of its own.

A device that torch has learnt of stays known to the process, and changes what other tests do there.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "device"


@pytest.mark.skipif(
    not (shutil.which("c++") and shutil.which("ninja")), reason="the device is compiled by c++ and ninja"
)
def test_all_is_computed_where_the_network_is():
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short", str(HERE / "checks.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
