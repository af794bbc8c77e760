"""One-shot tickets of a network that does not fit into memory: block by block, weights read from disk.

K domains go through in one sweep. Of a decoder layer its weights are there, of each domain its states and
what its score sums over the inputs of a layer: a vector (Wanda), or a matrix (SparseGPT). Masks are packed
and weights written as they are made. Wanda leaves weights as they are, so K tickets share them: one file.
SparseGPT corrects them for each domain, so each of its tickets is a network of its own: K files.

Shape letters: K domains, S blocks of text, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tombola._utils.errors import PruningError, UsageError, unknown
from tombola._utils.io import Spooled, check_target, file_name, write
from tombola._utils.validation import check_name
from tombola.masks.bits import packed, unpacked
from tombola.pruning.blockwise import LAYER_SCORES, LayerScore
from tombola.pruning.schedules import kept
from tombola.pruning.shares import shares
from tombola.tickets import files
from tombola.tickets.blocks import Blocks
from tombola.tickets.writer import TicketWriter


@torch.no_grad()
def oneshot(
    folder: Path | str,
    tokens: Mapping[str, Tensor],
    out: Path | str,
    *,
    sparsity: float,
    score: str = "wanda",
    inputs: Literal["pruned", "dense"] = "pruned",
) -> list[Path]:
    """Tickets of a causal language model on disk, one per domain, without training; the files written.

    The scope is the linear layers of its decoder layers. ``tombola.load(file, network)`` reads the tickets.

    Args:
        folder: ``config.json`` and safetensors, as ``save_pretrained`` of `transformers` writes them.
        tokens: by domain, what scores are measured on: int64 ``[S, L]``, one L for all. One domain of all
            texts together gives one mask for all.
        out: the ticket file; the folder of K files, DOMAIN.tickets, where weights are corrected.
        sparsity: share of the weights in scope that is removed; the same in every layer, and with ``wanda``
            and ``magnitude`` in every row.
        score: ``wanda`` (arXiv 2306.11695), ``sparsegpt`` (arXiv 2301.00774) or ``magnitude``.
        inputs: a layer's inputs come from layers that are ``pruned`` already, as both papers have it, or
            from those of the ``dense`` network, as searches with ``score="wanda"`` have it.

    Raises:
        UsageError: a score or a sparsity that there is not.
        DataError: tokens of another shape or vocabulary.
        TombolaError: no such network, or files that lack a weight of it.
        MissingExtra: `transformers` or `accelerate` is not installed.
    """
    if score not in LAYER_SCORES:
        raise UsageError(unknown("score", score, LAYER_SCORES))
    if inputs not in ("pruned", "dense"):
        raise UsageError(f"inputs are pruned or dense: got {inputs!r}")
    how, network, names = LAYER_SCORES[score], Blocks(folder), tuple(tokens)
    network.check(tokens)
    keep = shares(network.scope.sizes, kept(network.scope.size, sparsity))
    quotas, out = dict(zip(network.scope.names, keep, strict=True)), Path(out)
    for name in names:
        check_name(name, "text")
    groups = {out / f"{file_name(name)}.tickets": (name,) for name in names} if how.corrects else {out: names}
    for file in groups:
        check_target(file)
    states = network.begin(tokens)
    with ExitStack() as stack:
        writers = [stack.enter_context(TicketWriter(len(of), file.parent)) for file, of in groups.items()]
        for i in range(len(network)):
            _block(network, i, states, how, quotas, writers, inputs == "pruned")
        label = f"oneshot-{score}-{sparsity:g}"
        for writer, (file, of) in zip(writers, groups.items(), strict=True):
            write(file, *_contents(network, writer, of, label))
    return list(groups)


def _block(
    network: Blocks,
    i: int,
    states: dict[str, Tensor],
    how: LayerScore,
    quotas: Mapping[str, int],
    writers: Sequence[TicketWriter],
    pruned: bool,
) -> None:
    """Cut one decoder layer for all domains, and take their states through it; nothing of it stays."""
    layer = network.layer(i)
    linear = {f"{network.prefix}.{i}.{name}.weight": m for name, m in network.linear(layer).items()}
    masks: dict[str, list[Tensor]] = {name: [] for name in linear}
    for k, domain in enumerate(states):
        sums, after = _measured(i, layer, network, states[domain], how)
        for (name, module), found in zip(linear.items(), sums, strict=True):
            try:
                mask, weight = how.cut(module.weight, found, quotas[name])
            except PruningError as error:
                raise PruningError(f"{domain!r}, {name}: {error}") from None
            module.weight.data = weight.mul_(mask)
            if how.corrects:
                writers[k].add(weight.to(network.dtype).flatten(), mask.flatten()[None])
            else:
                masks[name].append(packed(mask.flatten()))
        del sums
        states[domain] = network.through(i, layer, states[domain]) if pruned else after
        for name, module in linear.items() if k + 1 < len(states) else ():
            module.weight.data.copy_(network.stored(name))
    for name in () if how.corrects else linear:
        weight = network.stored(name).flatten()
        writers[0].add(weight, unpacked(torch.stack(masks.pop(name)), len(weight)))


def _measured(
    i: int, layer: nn.Module, network: Blocks, states: Tensor, how: LayerScore
) -> tuple[list[Tensor], Tensor]:
    """The sums over the inputs of every linear layer of a block, and the states after it.

    Layers that read one input, as those of queries, keys and values do, share its sums.
    """
    linear = network.linear(layer)
    sums: dict[str, Tensor] = {}
    leader: dict[str, str] = {}
    now: list[Any] = [None, ""]

    def look(name: str, x: Tensor) -> None:
        first = leader.setdefault(name, now[1] if now[0] is x else name)
        now[:] = x, first
        if first == name:
            found = how.sums(x.flatten(0, -2))
            sums[name] = sums[name].add_(found) if name in sums else found

    def hook(name: str) -> Any:
        return lambda _, args: look(name, args[0])

    hooks = [module.register_forward_pre_hook(hook(name)) for name, module in linear.items()]
    after = network.through(i, layer, states, lambda: now.__setitem__(0, None))
    for one in hooks:
        one.remove()
    return [sums[leader[name]] for name in linear], after


def _contents(
    network: Blocks, writer: TicketWriter, names: Sequence[str], label: str
) -> tuple[dict[str, Spooled], dict[str, Any]]:
    """Tensors and header of a ticket file; what is not in scope is read from the network's own files."""
    shell, scope = network.shell, network.scope
    first = {name for name, _ in shell.named_parameters()}
    tied = {name for name, _ in shell.named_parameters(remove_duplicate=False)} - first
    rest = {n: t for n, t in shell.state_dict().items() if n not in tied and n not in scope.names}

    def spooled(name: str, like: Tensor) -> Spooled:
        return Spooled.of(like.dtype, tuple(like.shape), lambda: network.value(name, like).to(like.dtype))

    tensors = writer.tensors() | {f"rest.{n}": spooled(n, t) for n, t in rest.items()}
    header = {
        "format": 1,
        "names": list(names),
        "scope": {"names": scope.names, "shapes": scope.shapes},
        "architecture": files.architecture(shell),
        "facts": {"label": label, "answer": "value", "output": "logits"},
    }
    return tensors, header
