"""From scores to a mask: exact counts, within and across layers, weight by weight or in groups.

``shares.py`` says how many weights each layer keeps, ``granularity.py`` what is kept or pruned together,
``selection.py`` keeps the highest scores and puts all of it together in `prune`. But for rows no step sorts
weights: thresholds are found by quickselect, O(N) on average.

Which layers take part is a matter of the scope, not of the selection. The first layer stays dense if it
is excluded; the last one, which is left out by default, takes part if it is named:

>>> from torch import nn
>>> from tombola.masks.prunable import scope
>>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
>>> scope(net, exclude=["0.*"]).names  # first and last layer dense
('1.weight',)
>>> scope(net, include=["*.weight"]).names  # all layers, first and last too
('0.weight', '1.weight', '2.weight')
"""

from tombola.pruning.granularity import Granularity, transposed
from tombola.pruning.selection import SELECTIONS, Selection, check_collapse, keep_top, keep_whole, prune
from tombola.pruning.shares import apportion, shares

__all__ = [
    "SELECTIONS",
    "Granularity",
    "Selection",
    "apportion",
    "check_collapse",
    "keep_top",
    "keep_whole",
    "prune",
    "shares",
    "transposed",
]
