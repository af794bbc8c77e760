"""One network, many winning tickets.

Tombola finds several specialised sparse subnetworks inside one dense PyTorch network, one per subset
of heterogeneous data, and trains them together on shared weights (Routing the Lottery, arXiv
2601.22141).
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tombola import corruptions, interop, objectives, partition, pruning, routing, schedules, scoring
    from tombola.api import find, rtl
    from tombola.data import Data, Split
    from tombola.errors import TombolaError
    from tombola.layout import Layout
    from tombola.masks import MaskSet
    from tombola.optim import masked
    from tombola.problem import Recipe
    from tombola.scope import scope
    from tombola.settings import Settings
    from tombola.tickets import TicketModel, load
    from tombola.weight_cache import WeightCache

__version__ = "0.1.0"
__all__ = [
    "Data",
    "Layout",
    "MaskSet",
    "Recipe",
    "Settings",
    "Split",
    "TicketModel",
    "TombolaError",
    "WeightCache",
    "corruptions",
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

# Where names live that are no modules themselves.
_HOMES = {
    "find": "api",
    "rtl": "api",
    "Data": "data",
    "Split": "data",
    "TombolaError": "errors",
    "Layout": "layout",
    "MaskSet": "masks",
    "masked": "optim",
    "Recipe": "problem",
    "scope": "scope",
    "Settings": "settings",
    "TicketModel": "tickets",
    "load": "tickets",
    "WeightCache": "weight_cache",
}


class _Package(ModuleType):
    """Imports what it offers when that is first asked for: torch takes seconds, `--help` should not."""

    def __getattr__(self, name: str) -> Any:
        home = f"{self.__name__}.{_HOMES.get(name, name)}"
        try:
            module = import_module(home) if not name.startswith("_") else None
        except ModuleNotFoundError as error:
            if error.name != home:
                raise
            module = None
        if module is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        found = getattr(module, name) if name in _HOMES else module
        super().__setattr__(name, found)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing `tombola.scope` would put the module where the function of that name is offered.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*(name for name in super().__dir__() if name.startswith("__")), *__all__})


sys.modules[__name__].__class__ = _Package
