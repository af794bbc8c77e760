"""``tombola oneshot``: tickets of a language model on disk, a text each, without training."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tombola._utils.errors import DataError, UsageError, needs
from tombola._utils.io import file_name
from tombola.cli.options import Flag, by_name, new, use_threads
from tombola.cli.terminal import show
from tombola.lab.report.tables import Table, whole
from tombola.tickets import oneshot as streamed
from tombola.tickets.blocks import EXTRA
from tombola.tickets.files import opened


def oneshot(
    network: Path,
    out: Path,
    /,
    *texts: str,
    sparsity: float = 0.5,
    score: str = "wanda",
    inputs: Literal["pruned", "dense"] = "pruned",
    blocks: int = 16,
    length: int = 256,
    threads: int | None = None,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Find tickets of a language model on disk, one per text, without training, a block at a time.

    Example: tombola oneshot smollm2 domains.tickets law=law.txt drama=drama.txt --sparsity 0.6

    Args:
        network: A folder with config.json, safetensors and a tokenizer, as save_pretrained of transformers
            writes it.
        out: The ticket file; with sparsegpt the folder of one file per text.
        texts: NAME=FILE for each text to measure scores on; one of everything gives one mask for all.
        sparsity: Share of the weights of the linear layers that is removed.
        score: wanda and magnitude leave the weights as they are, so tickets share them; sparsegpt corrects
            them.
        inputs: Inputs of a layer come from layers that are pruned already, or from the dense network.
        blocks: Blocks of each text, evenly spread.
        length: Tokens of a block.
        threads: Threads; all cores by default.
        force: Replace a file that is there already.
        json: Print rows for machines.
    """
    use_threads(threads)
    if blocks < 1 or length < 2:
        raise UsageError(f"--blocks is at least 1, --length at least 2: got {blocks} and {length}")
    given = {name: Path(path) for name, path in by_name(texts, "a text", "NAME=FILE").items()}
    if not given:
        raise UsageError("oneshot needs a text at least, as NAME=FILE")
    new(
        out,
        *(out / f"{file_name(name)}.tickets" for name in given),
        force=force,
        read=[*given.values(), *network.expanduser().glob("*.safetensors")],
    )
    with needs(EXTRA, "a network on disk"):
        from transformers import AutoConfig, AutoTokenizer
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(network, local_files_only=True)
    except (OSError, ValueError):
        what = "has no tokenizer: save it there with save_pretrained"
        there = (Path(network) / "config.json").is_file()
        raise DataError(
            f"{network} {what if there else 'is no folder of a network: it has no config.json'}"
        ) from None
    config = AutoConfig.from_pretrained(network, local_files_only=True)
    known = getattr(config, "max_position_embeddings", length)
    if length > known:
        raise UsageError(f"--length {length}: this network knows {known} tokens at most")
    tokens = {name: spread(_read(path, tokenizer), blocks, length, path) for name, path in given.items()}
    begun = time.perf_counter()
    files = streamed.oneshot(network, tokens, out, sparsity=sparsity, score=score, inputs=inputs)
    seconds = time.perf_counter() - begun
    rows: list[dict[str, Any]] = [
        {"ticket": name, "weights": count, "file": str(file), "bytes": file.stat().st_size}
        for file in files
        for name, count in opened(file)[2].counts.items()
    ]
    body = [[r["ticket"], whole(r["weights"]), r["file"], whole(r["bytes"])] for r in rows]
    show([Table(f"{seconds:.0f} seconds", ["ticket", "weights", "file", "bytes"], body)], rows, json)


def _read(path: Path, tokenizer: Any) -> Tensor:
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as text ({error})") from None
    return torch.tensor(
        tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.int64
    )


def spread(ids: Tensor, blocks: int, length: int, path: Path) -> Tensor:
    """So many blocks of a text, evenly spread, ``[blocks, length]``.

    >>> spread(torch.arange(13), 2, 3, Path("x.txt")).tolist()
    [[0, 1, 2], [9, 10, 11]]
    """
    every = ids.unfold(0, length, length) if len(ids) >= length else ids.new_empty(0, length)
    if len(every) < blocks:
        raise DataError(
            f"{path} has {len(every)} blocks of {length} tokens, {blocks} are asked for: give more text, or "
            "fewer --blocks"
        )
    return every[torch.linspace(0, len(every) - 1, blocks).round().long()]
