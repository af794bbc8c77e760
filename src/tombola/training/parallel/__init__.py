"""The tickets of a round, run one after the other, in worker processes, as one batch, or over ranks."""

from tombola.training.parallel.choose import (
    BATCHES,
    OVER_RANKS,
    Mapper,
    MapTickets,
    Parallel,
    mapper,
    settled,
    world,
)

__all__ = ["BATCHES", "OVER_RANKS", "MapTickets", "Mapper", "Parallel", "mapper", "settled", "world"]
