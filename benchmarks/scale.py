"""Tickets of large language models: time, memory and bytes, ``python -m benchmarks.scale WHAT``.

Not part of ``python -m benchmarks``: it takes hours and gigabytes of disk. A line of JSON for each
measurement, each in a process of its own, so that peaks of memory are its own. Networks are random Llamas in
bfloat16 in a folder; `llama` writes them a layer at a time. Seconds are processor time of one thread.
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import tombola as tb
from tombola._utils.memory import high_water
from tombola.data.dataset import Stream
from tombola.lab.experiments.text_domains import TEXT_DOMAINS
from tombola.masks.codec import encode
from tombola.methods.pipeline import predict
from tombola.tickets.files import opened

SHAPES = {  # layers, width, inner, heads, heads of keys and values, vocabulary
    "135M": (30, 576, 1536, 9, 3, 49_152),
    "1.1B": (22, 2048, 5632, 32, 4, 32_000),
    "3B": (28, 3072, 8192, 24, 8, 128_256),
    "7B": (32, 4096, 11_008, 32, 32, 32_000),
}


def llama(folder: Path, name: str, layers: int | None = None, vocabulary: int | None = None) -> None:
    """A random network in a folder, a file for each layer, unless it is there."""
    from transformers import LlamaConfig

    count, width, inner, heads, kv, tokens = SHAPES[name]
    if (folder / "config.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers or count,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        vocab_size=vocabulary or tokens,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).mul_(shape[-1] ** -0.5).bfloat16()

    one = torch.ones(width, dtype=torch.bfloat16)
    save_file(
        {"model.embed_tokens.weight": random(config.vocab_size, width), "model.norm.weight": one},
        folder / "outer.safetensors",
    )
    small = width // heads * kv
    for i in range(config.num_hidden_layers):
        shapes = {
            **{f"self_attn.{n}_proj": (width, width) for n in "qo"},
            **{f"self_attn.{n}_proj": (small, width) for n in "kv"},
            **{f"mlp.{n}_proj": (inner, width) for n in ("gate", "up")},
            "mlp.down_proj": (width, inner),
        }
        layer = {f"model.layers.{i}.{n}.weight": random(*shape) for n, shape in shapes.items()}
        norms = ("input_layernorm", "post_attention_layernorm")
        layer |= {f"model.layers.{i}.{n}.weight": one.clone() for n in norms}
        save_file(layer, folder / f"layer{i:02}.safetensors")
    config.save_pretrained(folder)


def streamed(
    folder: str, K: str, S: str, L: str, score: str = "wanda", inputs: str = "pruned"
) -> dict[str, object]:
    """Masks of K domains of S blocks of L random tokens each, from a folder."""
    import accelerate  # noqa: F401
    from transformers import LlamaForCausalLM  # noqa: F401 (what importing takes is not the network's)

    config = json.loads((Path(folder) / "config.json").read_text())
    generator = torch.Generator().manual_seed(1)
    size = int(S), int(L)
    tokens = {
        f"d{k}": torch.randint(0, config["vocab_size"], size, generator=generator) for k in range(int(K))
    }
    before, out = high_water(), Path(folder) / "out.tickets"
    begun, wall = time.process_time(), time.perf_counter()
    files = tb.oneshot(folder, tokens, out, sparsity=0.6, score=score, inputs=inputs)
    found = {"seconds": time.process_time() - begun, "wall": time.perf_counter() - wall}
    layer = sum(p.numel() for p in _layer(config))
    row = {
        "network": Path(folder).name,
        "layers": config["num_hidden_layers"],
        "weights_in_a_layer": layer,
        "K": int(K),
        "S": int(S),
        "L": int(L),
        "score": score,
        "inputs": inputs,
        **found,
        "peak_bytes": high_water(),
        "peak_bytes_before": before,
        "file_bytes": sum(file.stat().st_size for file in files),
    }
    for file in files:
        file.unlink()
    return row


def _layer(config: dict[str, int]) -> list[torch.Tensor]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    small = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = [(width, width)] * 2 + [(small, width)] * 2 + [(inner, width)] * 3
    return [torch.empty(shape, device="meta") for shape in shapes]


def coded(folder: str, file: str) -> dict[str, object]:
    """Bits of a mask and weight under the codings of a ticket file."""
    masks = opened(file)[2]
    row: dict[str, object] = {"network": Path(folder).name, "K": len(masks), "N": masks.scope.size}
    for coding in ("plain", "chain"):
        begun = time.process_time()
        size = sum(t.numel() * t.element_size() for t in encode(masks.masks_KN, coding).values())
        row |= {coding: 8 * size / masks.masks_KN.numel(), f"{coding}_seconds": time.process_time() - begun}
    others = ~torch.eye(len(masks), dtype=torch.bool)
    return row | {
        "jaccard": float(masks.jaccard()[others].mean()),
        "union": float(masks.union().float().mean()),
    }


def switch(file: str, folder: str, rounds: str = "15") -> dict[str, object]:
    """Writing another ticket into the memory that a pass reads, over passes over the weights.

    ``copy`` reads the flat weights and writes them elsewhere; ``product`` multiplies by the mask on the way.
    Both write into memory that is there: a new vector of this size takes several times as long to get.
    """
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tickets = tb.load(file, net)
    weights_N, mask_N = (t.detach() for t in tickets.state(tickets.names[0])[:2])
    turn, there_N = itertools.cycle(range(len(tickets))), torch.zeros_like(weights_N)
    workspace = tickets.passes.ready(tickets, 0)
    parts = [workspace.replica.tree.tensors[name] for name in tickets.scope.names]
    sides: dict[str, Callable[[], object]] = {
        "switch": lambda: workspace.load(tickets, next(turn), parts),
        "copy": lambda: there_N.copy_(weights_N),
        "product": lambda: torch.mul(weights_N, mask_N, out=there_N),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    with torch.no_grad():
        for _ in range(int(rounds) + 2):
            for name, call in sides.items():
                begun = time.process_time()
                call()
                times[name].append(time.process_time() - begun)
    median = {f"{name}_seconds": sorted(each[2:])[len(each[2:]) // 2] for name, each in times.items()}
    return {
        "network": Path(folder).name,
        "K": len(tickets),
        "N": tickets.scope.size,
        **median,
        "switch_over_copy": median["switch_seconds"] / median["copy_seconds"],
        "switch_over_product": median["switch_seconds"] / median["product_seconds"],
        "peak_bytes": high_water(),
        "mask_bytes_in_memory": tickets.bits_KM.numel(),
    }


@torch.no_grad()
def judged(folder: str, data: str, seed: str, sparsity: str, score: str, inputs: str) -> dict[str, object]:
    """Loss of masks found from disk, each domain's and the pooled one, on the blocks that a run would read.

    ``folder`` holds SmolLM2-135M (`save_pretrained`), ``data`` the texts of `text_domains`.
    """
    world = TEXT_DOMAINS
    loaded = world.load(data, False)
    assert isinstance(loaded, tb.Data)
    partition, objective = world.partition(loaded), world.objective
    views = [(name, partition, objective, k, 1) for k, name in enumerate(partition.names)]
    views += [("pooled", partition.whole(), objective.single(partition), 0, len(partition))]
    tokens = {}
    for name, of, task, k, count in views:
        key = int(seed), "", "score", 0, of.names[k]
        stream = Stream(lambda g, of=of, task=task, k=k: task.epoch(of, k, g), 16, *key)
        tokens[name] = loaded.train.x[torch.cat([stream[i] for i in range(count)])]
    begun, out = time.process_time(), Path(folder) / f"judged-{score}-{inputs}-{seed}"
    files = tb.oneshot(folder, tokens, out, sparsity=float(sparsity), score=score, inputs=inputs)
    row: dict[str, object] = {
        "seed": int(seed),
        "sparsity": float(sparsity),
        "score": score,
        "inputs": inputs,
    }
    row |= {"seconds": time.process_time() - begun, "file_bytes": sum(f.stat().st_size for f in files)}
    base, found = world.backbone(torch.Generator()), dict[str, dict[str, float]](own={}, pooled={})
    test = partition.members["test"]
    how: dict[str, Any] = {"rows": objective.rows, "read": objective.read, "judged": objective.judged}
    for file in files:
        tickets = tb.load(file, base)
        for name in tickets.names:
            net, kind = tickets.bake(name).eval(), "pooled" if name == "pooled" else "own"
            for domain in partition.names if kind == "pooled" else [name]:
                at = test[:, partition.names.index(domain)].nonzero()[:, 0]
                found[kind][domain] = float(predict(net, loaded, "test", at, **how).double().nanmean())
        del tickets
        file.unlink()
    return row | found


WAYS: dict[str, Callable[..., dict[str, object]]] = {
    "streamed": streamed,
    "coded": coded,
    "switch": switch,
    "judged": judged,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    what, *arguments = sys.argv[1:] or [""]
    if what not in ("llama", *WAYS):
        print(
            __doc__,
            *(f"{name}: {inspect.signature(way)}" for name, way in {"llama": llama, **WAYS}.items()),
            sep="\n",
        )
    elif what == "llama":
        llama(Path(arguments[0]), arguments[1], *map(int, arguments[2:]))
    else:
        print(json.dumps({"what": what, **WAYS[what](*arguments)}))
