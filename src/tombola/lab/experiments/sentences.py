"""Four tasks of sentence classification on one pretrained encoder, a ticket and an output layer each.

mr (movie reviews, positive or negative), subj (subjective or objective), trec (what a question asks for, six
classes) and cr (product reviews, positive or negative) on MiniLM. Tickets are masks of the change of the
pretrained weights; norms, biases and output layers are a ticket's own. More tasks are pairs of these: which
of two classes of trec a question is of, from which of two sources a sentence comes.

Shape letters: S samples of a split, L tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from tombola._utils.errors import DataError, UsageError, needs
from tombola._utils.rng import generator as random_generator
from tombola.data.dataset import Data, Split
from tombola.data.partition import by_column
from tombola.lab.experiments.experiment import OF_THE_CHANGE, Experiment, Preset, preset_settings
from tombola.lab.experiments.pacs import stratified
from tombola.lab.experiments.texts import columns_of
from tombola.lab.models import sentences as models
from tombola.lab.models.sentences import EXTRA, SentenceEncoder, TinyEncoder
from tombola.objectives import Classification

TASKS = ("mr", "subj", "trec", "cr")
PAIRS: dict[str, tuple[tuple[str, int | None], tuple[str, int | None]]] = {  # class 0 and class 1 of a task
    "description_entity": (("trec", 1), ("trec", 2)),
    "mr_cr": (("mr", None), ("cr", None)),
    "human_location": (("trec", 3), ("trec", 4)),
    "subj_trec": (("subj", None), ("trec", None)),
    "entity_number": (("trec", 2), ("trec", 5)),
    "mr_subj": (("mr", None), ("subj", None)),
    "description_human": (("trec", 1), ("trec", 3)),
    "cr_trec": (("cr", None), ("trec", None)),
    "location_number": (("trec", 4), ("trec", 5)),
    "subj_cr": (("subj", None), ("cr", None)),
    "entity_human": (("trec", 2), ("trec", 3)),
    "mr_trec": (("mr", None), ("trec", None)),
}
CLASSES = 6  # outputs, as many as the task with the most classes has
LENGTH = 40  # tokens; a tenth of the sentences is longer, and cut
VALIDATION = 0.1
STAND_IN = "made-up-sentences"
Tokenise = Callable[[Sequence[str]], Tensor]  # texts to token numbers [S, L], 0 where one has ended
OWN = ("classifier.*", "*bias")  # beside norms


def load(source: str | None, augment: bool, K: int = len(TASKS)) -> Data | Mapping[str, Data]:
    """Sentences of the first K tasks from a folder with ``train*.parquet`` and ``test*.parquet``, tokenised.

    Columns ``text``, ``task`` and ``label``, numbered within the task. A tenth of every class of every task
    validates. Without a source, made-up sentences stand in, as an item.
    """
    if augment:
        raise UsageError("sentences has no augmentation: a word more or less is another sentence")
    tokenise = word_pieces() if models.weights() or source else hashed_words
    if source is None:
        train, test = (paired(made_up(name), K) for name in ("train", "test"))
        return {STAND_IN: _divided(train, test, tokenise)}
    train, test = (paired(_table(Path(source).expanduser(), name), K) for name in ("train", "test"))
    return _divided(train, test, tokenise)


Sentences = tuple[Sequence[str], Sequence[str], Sequence[int]]  # texts, tasks, labels


def _divided(train: Sentences, test: Sentences, tokenise: Tokenise) -> Data:
    rest, tested = _split(train, tokenise), _split(test, tokenise)
    _, cells = np.unique([f"{t} {y}" for t, y in zip(train[1], train[2], strict=True)], return_inverse=True)
    kept, held = stratified(torch.from_numpy(cells), VALIDATION, random_generator(0, "sentences"))
    return Data(rest.take(kept), rest.take(held), tested)


def _split(found: Sentences, tokenise: Tokenise) -> Split:
    texts, tasks, labels = found
    return Split(tokenise(texts), torch.tensor(labels), {"task": np.array(tasks)})


def _table(folder: Path, split: str) -> Sentences:
    texts, tasks, labels = columns_of(folder, split, ("text", "task", "label"))
    if other := sorted({*map(str, tasks)} - {*TASKS}):
        raise DataError(f"{folder}: {split} has task {other[0]!r}; the tasks are {', '.join(TASKS)}")
    return texts, tasks, labels


def paired(found: Sentences, K: int) -> Sentences:
    """The sentences of the first K tasks; those of a pair are there once more, under its name.

    >>> paired((["film", "phone", "who"], ["mr", "cr", "trec"], [1, 0, 4]), 7)[1:]
    (['mr', 'cr', 'trec', 'mr_cr', 'mr_cr', 'human_location'], [1, 0, 4, 0, 1, 1])
    """
    names = [*TASKS, *PAIRS][:K]
    rows = [row for row in zip(*found, strict=True) if row[1] in names]
    for name in names[len(TASKS) :]:
        for text, task, y in zip(*found, strict=True):
            classes = [c for c, kind in enumerate(PAIRS[name]) if kind in ((task, y), (task, None))]
            rows += [(text, name, c) for c in classes]
    texts, tasks, labels = map(list, zip(*rows, strict=True))
    return texts, tasks, labels


# -- tokens ------------------------------------------------------------------------------------------------


def word_pieces() -> Tokenise:
    """The tokenizer of MiniLM, cut to `LENGTH`."""
    folder = models.needed()
    with needs(EXTRA, "MiniLM"):
        from transformers import AutoTokenizer
    tokenizer = models.quietly(AutoTokenizer.from_pretrained, folder)

    def tokenise(texts: Sequence[str]) -> Tensor:
        made = tokenizer(list(texts), padding="max_length", truncation=True, max_length=LENGTH)
        return torch.tensor(made["input_ids"])

    return tokenise


def hashed_words(texts: Sequence[str]) -> Tensor:
    """Words by their hash, cut to `LENGTH`: needs no vocabulary.

    >>> hashed_words(["one word", "word"])[:, :3].tolist()
    [[1644, 1616, 0], [1616, 0, 0]]
    """
    ids_SL = torch.zeros(len(texts), LENGTH, dtype=torch.int64)
    for row, text in zip(ids_SL, texts, strict=True):
        numbers = [1 + crc32(word.encode()) % (TinyEncoder.WORDS - 1) for word in text.split()[:LENGTH]]
        row[: len(numbers)] = torch.tensor(numbers)
    return ids_SL


# -- the stand-in --------------------------------------------------------------------------------------------

_THINGS = {
    "mr": ["film", "plot", "actor", "scene", "ending", "story"],
    "cr": ["phone", "camera", "player", "battery", "screen", "menu"],
}
_JUDGED = (
    ["dull", "weak", "slow", "poor", "ugly", "broken"],
    ["fine", "strong", "quick", "good", "lovely", "solid"],
)
_ASKED = ("what does {} stand for", "what is a {}", "what kind of {} is it", "who made the {}")
_ASKED_MORE = ("where is the {}", "how many {} are there")


def made_up(split: str, count: int = 300) -> Sentences:
    """So many sentences of each task, of a small grammar, in random order.

    >>> texts, tasks, labels = made_up("train", 2)
    >>> len(texts), sorted(set(tasks))
    (8, ['cr', 'mr', 'subj', 'trec'])
    """
    draw, rows = random.Random(f"sentences {split}"), []
    things = [*_THINGS["mr"], *_THINGS["cr"]]
    for i in range(count):
        for task, own in _THINGS.items():
            judged = f"the {draw.choice(own)} is {draw.choice(_JUDGED[i % 2])} and {draw.choice(own)}"
            rows.append((judged, task, i % 2))
        said = ("i think the {} is {}", "the {} was found {} in {}")[i % 2]
        words = draw.choice(things), draw.choice(_JUDGED[draw.randrange(2)]), draw.choice(things)
        rows.append((said.format(*words), "subj", i % 2))
        asked = (*_ASKED, *_ASKED_MORE)[i % CLASSES]
        rows.append((asked.format(draw.choice(things)), "trec", i % CLASSES))
    draw.shuffle(rows)
    texts, tasks, labels = zip(*rows, strict=True)
    return texts, tasks, labels


# -- the experiment ------------------------------------------------------------------------------------------


def backbone(generator: torch.Generator | None = None) -> nn.Module:
    """MiniLM where its weights are installed, and a tiny random encoder where they are not."""
    return (SentenceEncoder if models.weights() else TinyEncoder)(CLASSES, generator)


QUICK = preset_settings(3e-4, 3e-4, 16, T=40, steps=60, private=OWN, **OF_THE_CHANGE)
BEST = preset_settings(3e-4, 3e-4, 32, T=150, steps=350, private=OWN, **OF_THE_CHANGE)
DATA = (
    "24,955 sentences to train on, 5,378 to test: --data FOLDER (Parquet: text, task, label), with the "
    f"extra {EXTRA}; without --data {STAND_IN} of a small grammar stand in, and without the extra a tiny "
    "random encoder"
)


def sentences(K: int = len(TASKS), name: str = "sentences") -> Experiment:
    """The experiment with the first K tasks, from 2 to 16.

    >>> sentences(6).partition(sentences(6).load(None, False)["made-up-sentences"]).names[3:]
    ('cr', 'description_entity', 'mr_cr')
    """
    tasks = [*TASKS, *PAIRS][:K]
    if not 2 <= K <= len(TASKS) + len(PAIRS):
        raise UsageError(f"K is a number of tasks, from 2 to {len(TASKS) + len(PAIRS)}: got {K}")
    return Experiment(
        name=name,
        summary=f"tasks of sentences on pretrained MiniLM, masks of the change, a ticket each (K = {K})",
        data=DATA,
        load=partial(load, K=K),
        backbone=backbone,  # 10,616,832 prunable weights
        partition=partial(by_column, column="task", names={task: task for task in tasks}),
        objective=Classification("subset"),
        presets={
            "quick": Preset(QUICK, "100 steps of 16 sentences a task, search included"),
            "best": Preset(BEST, "500 steps of 32 sentences a task: a night on two cores for all rivals"),
        },
        stand_in="made-up sentences",
        told=False,  # of token numbers
    )


SENTENCES = sentences()
SENTENCES_2, SENTENCES_8, SENTENCES_16 = (sentences(K, f"sentences_{K}") for K in (2, 8, 16))
