"""What ten tickets cost on disk, and how long saving and loading take."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import interleave
from benchmarks.row import Row, milliseconds, ratio
from benchmarks.setting import ghostnet, mean_jaccard, tickets
from tombola._utils import io
from tombola.masks.codec import decode, encode
from tombola.tickets.model import TicketModel, load


def ticket_file(full: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return _measure(Path(folder), 50 if full else 4)


def _measure(folder: Path, repeats: int) -> list[Row]:
    model, backbone = tickets(), ghostnet()
    path = folder / "ten.tickets"
    baked = {name: model.bake(name) for name in model.names}
    checkpoints = {name: folder / f"{name}.pt" for name in model.names}

    def save_checkpoints() -> None:
        for name, module in baked.items():
            torch.save(module.state_dict(), checkpoints[name])

    def load_checkpoints() -> None:
        for checkpoint in checkpoints.values():
            backbone.load_state_dict(torch.load(checkpoint, weights_only=True))

    sides = {
        "save": lambda: model.save(path),
        "save_checkpoints": save_checkpoints,
        "load": lambda: load(path, backbone),
        "load_checkpoints": load_checkpoints,
    }
    times = interleave(sides, repeats)
    rows = _sizes(model, path, sum(p.stat().st_size for p in checkpoints.values()))
    for name in ("save", "load"):
        other = f"{name}_checkpoints"
        against = f"{name} ten dense checkpoints with torch"
        note = f"{against}: {milliseconds(times.median(other))}"
        low, high = times.spread(name)
        rows += [
            Row(f"{name}_ms", times.median(name) * 1e3, "ms", note, None, (low * 1e3, high * 1e3)),
            ratio(f"{name}_vs_checkpoints", times, name, other, against),
        ]
    return rows


def _sizes(model: TicketModel, path: Path, checkpoints: int) -> list[Row]:
    count = model.masks_KN.numel()
    file = path.stat().st_size
    tensors, _ = io.read(path)
    masks = sum(t.numel() * t.element_size() for n, t in tensors.items() if n.startswith("mask"))
    entropy = joint_entropy(model.masks_KN) / len(model.names)
    alike = f"10 tickets on GhostNet at 50%, mean Jaccard {mean_jaccard(model.masks):.3f}"
    dense = f"{checkpoints / count:.3g} bytes in ten dense float32 checkpoints"
    name = "ticket_file_bytes_per_weight_and_ticket"
    return [
        Row(name, file / count, "bytes", f"{dense}; {alike}"),
        Row(f"{name}_masks", masks / count, "bytes", "0.125 bytes: one bit per weight and ticket"),
        Row("mask_bits", 8 * masks / count, "bits", f"per weight and ticket; {alike}"),
        Row("mask_bits_vs_entropy", 8 * masks / count / entropy, "×", "empirical joint entropy", 1.1),
        Row("ticket_file_vs_checkpoints", file / checkpoints, "×", f"ten dense checkpoints; {alike}"),
        Row("ticket_file_vs_one_network", file / _bytes(ghostnet()), "×", "tensors of one dense network"),
    ]


def joint_entropy(masks_KN: Tensor) -> float:
    """Of the patterns of K bits, in bits per weight."""
    _, counts = np.unique(np.packbits(masks_KN.numpy(), axis=0).T, axis=0, return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum())


def decoding(full: bool) -> list[Row]:
    """Seconds per 50 million weights (K · N), against the second that is wanted."""
    masks = tickets().masks_KN.repeat(1, 32 if full else 8)
    coded = encode(masks)
    times = interleave({"decode": lambda: decode(coded, *masks.shape)}, 5, warmup=1)
    value = times.median("decode") * 5e7 / masks.numel()
    return [Row("mask_decoding", value, "s", "a second per 50M weights, all ten tickets", 1.0)]


def _bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())
