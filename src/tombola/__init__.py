"""One network, many winning tickets.

Tombola finds several specialised sparse subnetworks inside one dense PyTorch network, one per subset
of heterogeneous data, and trains them together on shared weights (Routing the Lottery, arXiv
2601.22141).
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from tombola._utils.version import VERSION

if TYPE_CHECKING:
    from tombola import methods, objectives, pruning
    from tombola._utils import errors
    from tombola._utils.errors import TombolaError
    from tombola.analysis.advise import advise
    from tombola.analysis.affinity import affinity
    from tombola.analysis.discover import discover
    from tombola.analysis.reassign import reassign
    from tombola.api import find, rtl
    from tombola.data import corruptions, partition, prepare
    from tombola.data.dataset import Data, Split
    from tombola.lab import experiments as experiments
    from tombola.lab.report.curves import curves as curves
    from tombola.lab.results import results as results
    from tombola.masks.layout import Layout
    from tombola.masks.maskset import MaskSet
    from tombola.masks.prunable import scope
    from tombola.optim import masked
    from tombola.pruning import schedules
    from tombola.pruning import scores as scoring
    from tombola.settings import Recipe, Settings, TrainConfig
    from tombola.tickets import calibration, export, interop, routing
    from tombola.tickets.cache import WeightCache
    from tombola.tickets.membership import merge_files
    from tombola.tickets.merging import merge
    from tombola.tickets.model import TicketModel, load
    from tombola.tickets.oneshot import oneshot
    from tombola.training.pretrained import from_pretrained

__version__ = VERSION

# Where each public name lives, MODULE:NAME, or a whole MODULE:. Imported when first asked for: torch takes
# seconds, `--help` should not.
_PLACES = {
    "Data": "data.dataset:Data",
    "Layout": "masks.layout:Layout",
    "MaskSet": "masks.maskset:MaskSet",
    "Recipe": "settings:Recipe",
    "Settings": "settings:Settings",
    "Split": "data.dataset:Split",
    "TicketModel": "tickets.model:TicketModel",
    "TombolaError": "_utils.errors:TombolaError",
    "TrainConfig": "settings:TrainConfig",
    "WeightCache": "tickets.cache:WeightCache",
    "advise": "analysis.advise:advise",
    "affinity": "analysis.affinity:affinity",
    "calibration": "tickets.calibration:",
    "corruptions": "data.corruptions:",
    "curves": "lab.report.curves:curves",
    "discover": "analysis.discover:discover",
    "errors": "_utils.errors:",
    "experiments": "lab.experiments:",
    "export": "tickets.export:",
    "find": "api:find",
    "from_pretrained": "training.pretrained:from_pretrained",
    "interop": "tickets.interop:",
    "load": "tickets.model:load",
    "merge": "tickets.merging:merge",
    "merge_files": "tickets.membership:merge_files",
    "masked": "optim:masked",
    "methods": "methods:",
    "objectives": "objectives:",
    "oneshot": "tickets.oneshot:oneshot",
    "partition": "data.partition:",
    "prepare": "data.prepare:",
    "pruning": "pruning:",
    "reassign": "analysis.reassign:reassign",
    "results": "lab.results:results",
    "routing": "tickets.routing:",
    "rtl": "api:rtl",
    "schedules": "pruning.schedules:",
    "scope": "masks.prunable:scope",
    "scoring": "pruning.scores:",
}
# What belongs to the extra `lab` is not in `import *`, which works without it.
__all__ = ["Data", "Layout", "MaskSet", "Recipe", "Settings", "Split", "TicketModel", "TombolaError"]
__all__ += [
    "TrainConfig",
    "WeightCache",
    "advise",
    "affinity",
    "calibration",
    "corruptions",
    "discover",
    "errors",
]
__all__ += [
    "export",
    "find",
    "from_pretrained",
    "interop",
    "load",
    "masked",
    "merge",
    "merge_files",
    "methods",
    "objectives",
    "oneshot",
    "partition",
    "pruning",
]
__all__ += ["prepare", "reassign", "routing", "rtl", "schedules", "scope", "scoring"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = resolve_name(f"{__name__}.{_PLACES[name]}")
    return found


def __dir__() -> list[str]:
    return sorted({*(name for name in globals() if name.startswith("__")), *_PLACES})
