"""What routing costs: processor time beside that of a ticket's own pass."""

from __future__ import annotations

import time

import torch

from tombola.data.dataset import Data
from tombola.tickets.model import TicketModel
from tombola.tickets.routing import Router

BATCHES = (1, 64)


@torch.no_grad()
def latency(made: Router, tickets: TicketModel, data: Data, repeats: int = 7) -> dict[str, float]:
    """Milliseconds of processor time of routing and of a ticket's pass, for 1 sample and a batch; medians."""
    found = {}
    for size in BATCHES:
        x = data.inputs("test", torch.arange(min(size, len(data.test))))
        jobs = {
            "route": lambda x=x: made.route(tickets, x),
            "ticket": lambda x=x: tickets(x, ticket=tickets.names[0]),
        }
        for name, job in jobs.items():
            spent = []
            for _ in range(repeats):
                begin = time.process_time()  # not that of other programs on the machine
                job()
                spent.append(time.process_time() - begin)
            found[f"ms_{name}_{size}"] = 1e3 * sorted(spent)[repeats // 2]
    return found
