"""A file to which 200 tickets are added one by one: what growing, switching and routing cost by then."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

import tombola as tb
from benchmarks.measure import Side, interleave
from benchmarks.row import Row, milliseconds
from tombola.tickets.model import TicketModel

SIZES = (10, 50, 100, 200)
HOW: dict[str, Any] = {"T": 1, "steps": 1, "floor": 10}  # next to no training: the rest is measured
TASK = tb.objectives.Classification()


def growth(full: bool) -> list[Row]:
    """Row ``growth_200``: growing the 201st ticket over the 11th; a full run has one for each size."""
    data, by_size = _data(), dict[int, TicketModel]()
    tickets = _first(data)
    for k in range(1, SIZES[-1] + 1):
        if k in SIZES:
            by_size[k] = tickets.select(tickets.names)
            by_size[k].router = tb.routing.PrototypeRouter().fit(
                by_size[k], data, _apart(data, tickets.names)
            )
        tickets = tickets.grow(f"tenant {k}", data, TASK, **HOW)
    sides = {f"{what} {K}": side for K, t in by_size.items() for what, side in _sides(t, data).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the router of the others is left out
        times = interleave(sides, 5, warmup=1)
    rows = []
    for K, t in by_size.items():
        words = ", ".join(f"{what} {milliseconds(times.median(f'{what} {K}'))}" for what in _sides(t, data))
        held = t.bits_KM.numel() + t.private_KP.numel() * t.private_KP.element_size()
        note = f"K = {K}: {words}; file {_bytes(t):,} bytes, masks and private numbers {held:,} in memory"
        rows.append(Row(f"growth_k{K}", times.median(f"grow {K}"), "s", note))
    few, many = SIZES[0], SIZES[-1]
    note = f"growing a ticket beside {many} over beside {few}, hardly trained; linear would be {many // few}"
    large, small = f"grow {many}", f"grow {few}"
    ratio = Row("growth_200", times.ratio(large, small), "×", note, many / few, times.spread(large, small))
    return [ratio, *(rows if full else [])]


def _sides(tickets: TicketModel, data: tb.Data) -> dict[str, Side]:
    x, names = data.train.x[:64], [tickets.names[0], tickets.names[-1]]

    @torch.no_grad()
    def switch() -> None:
        for name in names:  # one ticket after another
            tickets(x, ticket=name)

    return {
        "grow": lambda: tickets.grow("new", data, TASK, **HOW),
        "switch": switch,
        "route": lambda: tickets.route(x),
    }


def _data() -> tb.Data:
    g = torch.Generator().manual_seed(0)
    return tb.Data.of(torch.rand(8000, 64, generator=g), torch.arange(8000) % 10)


def _first(data: tb.Data) -> TicketModel:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    one, how = _apart(data, ["tenant 0"]), {"parallel": "no", "progress": False, **HOW}
    return tb.rtl(net, TASK, data, one, sparsity=0.95, **how)


def _apart(data: tb.Data, names: tuple[str, ...] | list[str]) -> tb.partition.Partition:
    K = len(names)
    return tb.partition.by_rule(
        data, lambda split: {name: torch.arange(len(split)) % K == k for k, name in enumerate(names)}
    )


def _bytes(tickets: TicketModel) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return tickets.save(Path(folder) / "k.tickets")
