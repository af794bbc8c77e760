"""One network, many winning tickets.

Tombola finds several specialised sparse subnetworks inside one dense PyTorch network, one per subset
of heterogeneous data, and trains them together on shared weights (Routing the Lottery, arXiv
2601.22141).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tombola import objectives, pruning
    from tombola._utils import errors
    from tombola._utils.errors import TombolaError
    from tombola.api import find, rtl
    from tombola.data import corruptions, partition
    from tombola.data.dataset import Data, Split
    from tombola.masks.layout import Layout
    from tombola.masks.maskset import MaskSet
    from tombola.masks.prunable import scope
    from tombola.optim import masked
    from tombola.pruning import schedules
    from tombola.pruning import scores as scoring
    from tombola.settings import Recipe, Settings, TrainConfig
    from tombola.tickets import calibration, export, interop, routing
    from tombola.tickets.cache import WeightCache
    from tombola.tickets.model import TicketModel, load

__version__ = "0.1.0"

# Where each public name lives. Imported when first asked for: torch takes seconds, `--help` should not.
_NAMES = {
    "Data": "data.dataset",
    "Layout": "masks.layout",
    "MaskSet": "masks.maskset",
    "Recipe": "settings",
    "TrainConfig": "settings",
    "Settings": "settings",
    "Split": "data.dataset",
    "TicketModel": "tickets.model",
    "TombolaError": "_utils.errors",
    "WeightCache": "tickets.cache",
    "find": "api",
    "load": "tickets.model",
    "masked": "optim",
    "rtl": "api",
    "scope": "masks.prunable",
}
_MODULES = {
    "calibration": "tickets.calibration",
    "corruptions": "data.corruptions",
    "errors": "_utils.errors",
    "export": "tickets.export",
    "interop": "tickets.interop",
    "objectives": "objectives",
    "partition": "data.partition",
    "pruning": "pruning",
    "routing": "tickets.routing",
    "schedules": "pruning.schedules",
    "scoring": "pruning.scores",
}
__all__ = [
    "Data",
    "Layout",
    "MaskSet",
    "Recipe",
    "Settings",
    "Split",
    "TicketModel",
    "TombolaError",
    "TrainConfig",
    "WeightCache",
    "calibration",
    "corruptions",
    "errors",
    "export",
    "find",
    "interop",
    "load",
    "masked",
    "objectives",
    "partition",
    "pruning",
    "routing",
    "rtl",
    "schedules",
    "scope",
    "scoring",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        found = getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    elif name in _MODULES:
        found = import_module(f"{__name__}.{_MODULES[name]}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__})
