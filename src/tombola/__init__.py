"""One network, many winning tickets.

Tombola finds several specialised sparse subnetworks inside one dense PyTorch network, one per subset
of heterogeneous data, and trains them together on shared weights (Routing the Lottery, arXiv
2601.22141).
"""

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
