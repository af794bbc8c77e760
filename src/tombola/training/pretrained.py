"""Networks of `transformers` as backbones: one line from a folder, a GGUF file or a name on a hub."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tombola._utils import hub
from tombola._utils.errors import TombolaError, UsageError, unknown
from tombola._utils.rng import drawn_from

TASKS = {
    "text-classification": "AutoModelForSequenceClassification",
    "text-generation": "AutoModelForCausalLM",
    "image-classification": "AutoModelForImageClassification",
}
PLACES = ("revision", "subfolder")  # the options of transformers that are part of where a network is from


def from_pretrained(
    model: str | Path,
    task: str = "text-classification",
    labels: int | Sequence[str] | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    train_embeddings: bool = False,
    seed: int = 0,
    **options: Any,
) -> nn.Module:
    """A pretrained network of `transformers`, ready for ``tb.rtl(..., reference="theta0")``.

    It takes a dictionary (``input_ids``, ``attention_mask``; ``pixel_values`` of images) and returns outputs
    of which the objective reads the logits: ``tb.objectives.Classification(output="logits")``. Ticket files
    say where the network is from, so that `tombola predict` finds it.

    Args:
        model: a folder of ``config.json`` and safetensors, a GGUF file, or a name on a hub, which is read
            from the cache of this machine. Nothing is downloaded unless ``HF_HUB_OFFLINE=0`` is set.
        task: ``text-classification`` (an encoder or a language model with an output layer),
            ``text-generation`` (a causal language model) or ``image-classification``.
        labels: how many outputs, or their names; by default those of the checkpoint. An output layer of
            another size is drawn anew, as is one that the checkpoint lacks.
        dtype: of the weights, such as ``torch.bfloat16``; by default that of the checkpoint (GGUF: float32).
        train_embeddings: whether embeddings are trained. By default they stay as they are, and no ticket file
            holds them.
        seed: of a new output layer.
        options: further arguments of ``from_pretrained`` of `transformers`, such as ``revision``.

    Raises:
        MissingExtra: `transformers`, or what GGUF files need, is not installed.
        UsageError: no such folder, file or task, or labels that make no sense.
        TombolaError: a network that is not on this machine, or not one for this task.
    """
    if task not in TASKS:
        raise UsageError(unknown("task", task, TASKS))
    if isinstance(dtype, str) and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise UsageError(f"dtype is one of torch's, such as bfloat16: got {dtype!r}")
    if task == "text-generation" and labels is not None:
        raise UsageError("a network for text-generation has no labels: leave them out")
    kind, wanted = (getattr(torch, dtype) if isinstance(dtype, str) else dtype), _labels(labels)
    floats = torch.float32 if kind is None and "gguf_file" in hub.located(model)[1] else (kind or "auto")
    with drawn_from(seed, "output layer"):
        net, said = hub.loaded(
            TASKS[task],
            model,
            dtype=floats,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **wanted,
            **options,
        )
    _check_whole(net, said, model, task)
    _prepared(net, train_embeddings)
    own: dict[str, Any] = {"dtype": str(net.dtype).removeprefix("torch.")}
    if labels is not None:
        own["labels"] = labels if isinstance(labels, int) else list(labels)
    own |= {name: value for name, value in options.items() if name in PLACES}
    folder = Path(model).expanduser()
    where = str(folder.resolve()) if folder.exists() else str(model)
    net.pretrained_from = {"model": where, "task": task, "train_embeddings": train_embeddings, **own}
    return net


def again(known: Mapping[str, Any], model: str | Path | None = None) -> nn.Module:
    """The network that a file says its tickets belong to; whoever wrote it passes no other options on.

    Args:
        known: ``pretrained_from`` of the network, as `from_pretrained` has noted it.
        model: where the network lies by now, if it was moved.
    """
    taken = ("task", "labels", "dtype", "train_embeddings", *PLACES)
    return from_pretrained(model or known["model"], **{n: known[n] for n in taken if n in known})


def output_layers(net: Any) -> tuple[str, ...]:
    """Globs of the parameters that a network of `transformers` has on top of its encoder, such as
    ``classifier.*``; none of a language model that ties its output layer to its embeddings."""
    inside = {id(p) for p in getattr(net, net.base_model_prefix, net).parameters()}
    found = [name for name, p in net.named_parameters() if id(p) not in inside]
    return tuple(dict.fromkeys(f"{name.partition('.')[0]}.*" for name in found))


def heads_of(model: str | Path, task: str, labels: int) -> tuple[str, ...]:
    """The `output_layers` of a network, by its configuration alone: no weights are read."""
    config = hub.loaded("AutoConfig", model, num_labels=labels)
    with torch.device("meta"):
        return output_layers(hub.made(TASKS[task], model, config))


def _labels(labels: int | Sequence[str] | None) -> dict[str, Any]:
    """The arguments of `transformers` for these labels."""
    if labels is None:
        return {}
    if isinstance(labels, int) and not isinstance(labels, bool) and labels > 0:
        return {"num_labels": labels}
    if not isinstance(labels, Sequence) or isinstance(labels, str) or not labels:
        raise UsageError(f"labels are a number of outputs, or their names: got {labels!r}")
    names = [str(label) for label in labels]
    if len(set(names)) < len(names):
        raise UsageError("labels: each name is needed once")
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def _check_whole(net: Any, said: dict[str, Any], model: object, task: str) -> None:
    """Raise `TombolaError` where more is missing in a checkpoint than the output layer of a classifier."""
    tops = tuple(glob.removesuffix("*") for glob in output_layers(net))
    other = "" if task == "text-generation" else tops
    new = {*said["missing_keys"], *(each[0] for each in said.get("mismatched_keys", ()))}
    lacking = sorted(
        name for name in new if not (other and name.startswith(other)) and ".pooler." not in name
    )
    if lacking:
        raise TombolaError(
            f"{os.fspath(model)} is no network for {task}: its weights lack {lacking[0]}"  # type: ignore[call-overload]
            + (f" and {len(lacking) - 1} more" if len(lacking) > 1 else "")
        )


def _prepared(net: Any, train_embeddings: bool) -> None:
    """No caches in training, a token that pads, and embeddings that stay as they are."""
    config = net.config
    if hasattr(config, "use_cache"):
        config.use_cache = False  # `generate` has caches by its own settings
    if getattr(config, "pad_token_id", 0) is None:
        end = config.eos_token_id
        config.pad_token_id = end[0] if isinstance(end, list) else end
    for layer in net.modules():
        if isinstance(layer, nn.Embedding) and not train_embeddings:
            layer.requires_grad_(False)
    net.eval()
