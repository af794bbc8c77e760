"""What a plain optimiser does to tickets that arrived before: gradients are masked, moments are not.

Ten tenants of digits, each with a tenth of the weights for itself, trained in turn by one optimiser.
``python -m benchmarks.moments [SEED ...]`` prints a Markdown table for docs/results/continual.md.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

import tombola as tb
from tombola._utils.rng import generator
from tombola._utils.statistics import interval
from tombola.lab.experiments.tenants import tenants

K, STEPS, BATCH = 10, 500, 32
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "SGD, momentum 0.9": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
}
Measured = tuple[float, float, float]  # accuracy when each was new, at the end; share of weights that moved


def arrivals(seed: int, make: Callable[..., torch.optim.Optimizer], masked: bool) -> Measured:
    """Train K tickets of disjoint masks in turn."""
    world = tenants(K=K)
    data = world.load(None, False)
    assert isinstance(data, tb.Data)
    net = world.backbone(generator(seed, "theta0"))
    layout = tb.Layout.of({n: p for n, p in net.named_parameters() if p.ndim > 1 and "classifier" not in n})
    owner_N = torch.randperm(layout.size, generator=generator(seed, "owners")) % K
    heads = {n: p.detach() for n, p in net.named_parameters() if "classifier" in n or p.ndim == 1}
    partition = world.partition(data)
    names = list(partition.names)
    masks = tb.MaskSet(layout, {name: owner_N == k for k, name in enumerate(names)})
    tickets = tb.TicketModel(net, masks, dict.fromkeys(names, heads))
    optimizer = make(tickets.parameters())
    if masked:
        optimizer = tb.masked(optimizer, tickets)
    new, before = [], tickets.state_dict()
    for k, name in enumerate(names):
        mine = partition.members["train"][:, k].nonzero()[:, 0]
        draw = np.random.default_rng((seed, k))
        for _ in range(STEPS):
            rows = mine[draw.integers(len(mine), size=BATCH)]
            optimizer.zero_grad()
            with tickets.use(name):
                loss = nn.functional.cross_entropy(tickets(data.train.x[rows]), data.train.y[rows])
                loss.backward()
                if masked:
                    optimizer.step()
            if not masked:
                optimizer.step()
        new.append(accuracy(tickets, data, partition, k))
        if k == 0:
            before = {n: t.clone() for n, t in tickets.state_dict().items()}
    after = tickets.state_dict()
    moved = [((before[f"backbone.{n}"] != after[f"backbone.{n}"]) & m).sum() for n, m in _first(tickets)]
    share = float(sum(moved) / masks.counts[names[0]])
    return (
        float(np.mean(new)),
        float(np.mean([accuracy(tickets, data, partition, k) for k in range(K)])),
        share,
    )


def _first(tickets: tb.TicketModel) -> list[tuple[str, Tensor]]:
    return list(tickets.scope.unflatten(tickets[tickets.names[0]]).items())


def accuracy(tickets: tb.TicketModel, data: tb.Data, partition: tb.partition.Partition, k: int) -> float:
    """Of one tenant, on the test split."""
    rows = partition.members["test"][:, k].nonzero()[:, 0]
    with torch.no_grad():
        right = tickets(data.test.x[rows], ticket=partition.names[k]).argmax(1) == data.test.y[rows]
    return float(right.float().mean())


def main(seeds: list[int]) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", ".* steps the weights of a TicketModel", UserWarning)
    print("| optimiser | moments | accuracy when new | at the end | weights of the first that moved |")
    print("| --- | --- | ---: | ---: | ---: |")
    for name, make in OPTIMIZERS.items():
        for masked, words in ((True, "masked (`tb.masked`)"), (False, "not masked")):
            found = np.array([arrivals(seed, make, masked) for seed in seeds])
            cells = [f"{v.mean():.3f} ± {interval([*v]) or 0:.3f}" for v in found.T[:2]]
            print(f"| {name} | {words} | {' | '.join(cells)} | {found[:, 2].mean():.0%} |", flush=True)


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
