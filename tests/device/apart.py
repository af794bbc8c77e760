"""The device of ``apart.cpp``, compiled and registered; or a real one, where TOMBOLA_TEST_DEVICE names it."""

import os
import types
from pathlib import Path

import torch


def device() -> torch.device:
    """Once per process: torch does not forget a device."""
    if name := os.environ.get("TOMBOLA_TEST_DEVICE"):
        return torch.device(name)
    from torch.utils.cpp_extension import load

    load("apart", [str(Path(__file__).with_name("apart.cpp"))], is_python_module=False, extra_cflags=["-O0"])
    module = types.ModuleType("torch.apart")
    module.is_available = lambda: True
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module._is_in_bad_fork = lambda: False
    module.manual_seed_all = lambda seed: None
    module.get_rng_state = lambda device=0: torch.get_rng_state()  # it draws from the CPU's generator
    module.set_rng_state = lambda state, device=0: None
    torch.utils.rename_privateuse1_backend("apart")
    torch._register_device_module("apart", module)
    return torch.device("apart:0")
