"""The tickets of a round, run one after the other, in worker processes, or as one batch."""

from tombola.training.parallel.choose import Mapper, MapTickets, Parallel, mapper, settled

__all__ = ["MapTickets", "Mapper", "Parallel", "mapper", "settled"]
