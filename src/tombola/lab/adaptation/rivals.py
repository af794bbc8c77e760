"""Ways to have K tasks on one pretrained network, each as a composition of parts that are there.

Whoever has a network, or an adapter, for each task trains it alone (Algorithm 2 of one ticket that keeps
everything); the others are methods of `tombola.methods.table` under settings of their own, growth, or a merge
of the fine-tunes. None has a loop of its own, and all have the same number of steps per task.

Shape letters: K tasks.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tombola._utils import batch, io
from tombola._utils.errors import RunError
from tombola._utils.replica import copied
from tombola.lab.adaptation import adapters
from tombola.lab.adaptation.adapters import Adapter
from tombola.lab.continual.rivals import Arrivals, Models, grown, multi_head
from tombola.lab.evaluation import own_changes
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.masks.reference import original
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import trained
from tombola.runs.cache import StageCache
from tombola.settings import Settings
from tombola.tickets.files import architecture
from tombola.tickets.finish import finish
from tombola.tickets.merging import Method, merge
from tombola.tickets.model import TicketModel
from tombola.training.joint import train_jointly

BEFORE = "before"  # of the metadata: seconds that kept fine-tunes took when they were trained
TRAINED = "trained"  # of the metadata of a network of its own: bytes of what was trained
# Masks of the weights themselves: half of them stay.
PRUNED: dict[str, Any] = {"reference": "zero", "sparsity": (0.5,)}
LEARNED: dict[str, Any] = {
    "reference": "zero",
    "sparsity": (0.1,),
    "callback": "learned:0.03:frozen",
    "rewinding": "learning_rate",
    "nested": False,
}


@dataclass(frozen=True)
class Rival:
    """A composition.

    Attributes:
        summary: one line.
        run: from the tasks, and a folder for what others go on from, to the models of each.
        source: where it comes from.
        rate: what learning rates are multiplied by.
        train_rate: what that of joint training is multiplied by besides.
        changes: settings that make it what it is.
    """

    summary: str
    run: Callable[[Arrivals, Path], Models]
    source: str = ""
    rate: float = 1.0
    train_rate: float = 1.0
    changes: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, base: Settings) -> Settings:
        """The settings under which it runs."""
        search = replace(base.search, lr=base.search.lr * self.rate)
        train = replace(base.train, lr=base.train.lr * self.rate * self.train_rate)
        return replace(base, search=search, train=train, **self.changes)

    def models(self, arrivals: Arrivals, folder: Path) -> Models:
        """The models of all tasks, in as many steps per task as the given settings take."""
        changed = replace(arrivals, settings=self.settings(arrivals.settings))
        changed.__dict__["steps"] = arrivals.steps
        return self.run(changed, folder)


def apart(arrivals: Arrivals, folder: Path, adapter: Adapter = adapters.whole) -> Models:  # noqa: ARG001
    """A network for each task, of which the adapter says what is trained."""
    return {name: _tuned(arrivals, name, adapter) for name in arrivals.names}


def _tuned(arrivals: Arrivals, name: str, adapter: Adapter) -> TicketModel:
    """The network of a task: everything that requires gradients is trained, nothing is pruned."""
    a, head = arrivals, arrivals.pipeline.head
    assert head is not None
    names = [original(each) for each in a.pipeline.f.scope.names]
    network = adapter(copied(a.backbone), names, head.weight)
    # The output layer stands for the scope, which cannot be empty.
    alone: dict[str, Any] = {
        "include": (head.weight,),
        "private": (),
        "normalization": "shared",
        "sparsity": (0.0,),
    }
    settings = replace(a.settings, reference="zero", callback="", **alone)
    p = Pipeline(network, a.objective, a.data, a.partition, settings, a.seed, StageCache("no"))
    problem, masks = p.problem("own", settings.train), MaskSet.dense(p.f.scope, a.partition.names)
    k = masks.names.index(name)
    theta = train_jointly(problem, p.theta0, masks, a.steps, tickets=[k])
    return finish(problem, theta, masks, [k], settings, {TRAINED: _size(adapters.stored(network))})


def _size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of a file of these tensors."""
    return len(save({name: t.contiguous() for name, t in tensors.items()}))


def fine_tuned(arrivals: Arrivals, folder: Path) -> tuple[dict[str, dict[str, Tensor]], float]:
    """The full fine-tune of each task, as it was kept or as it is made now; seconds that kept ones once took.

    A file is named by the task and by all that its training depends on, so that any number of tasks share it.
    """
    found, before, a = {}, 0.0, arrivals
    start = [io.digest(a.backbone.state_dict()), architecture(a.backbone)]
    for name in a.names:
        task, config = a.task(name), a.settings.plain()["train"]
        data, few = io.digest(task.train.fingerprint()), torch.arange(min(8, len(task.train)))
        inputs = io.digest({f"x{at}": t for at, t in batch.tensors(task.inputs("train", few)).items()})
        seen = [inputs, task.augment is not None]  # what the network is given of them
        made_of = json.dumps(
            [start, data, seen, config, a.steps, a.seed, a.objective.of(a.data, a.partition).choices()],
            sort_keys=True,
        )
        file = folder / f"{name}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.safetensors"
        began = time.perf_counter()
        if file.is_file():
            try:
                with safe_open(file, "pt") as kept:
                    found[name] = {n: kept.get_tensor(n) for n in kept.keys()}  # noqa: SIM118
                    before += float((kept.metadata() or {}).get("seconds", 0))
            except (SafetensorError, OSError):
                raise RunError(f"{file} is damaged: delete it, and it is trained again") from None
            continue
        state = _tuned(arrivals, name, adapters.whole).bake(name).state_dict()
        found[name] = {n: t.contiguous() for n, t in state.items()}
        taken = str(time.perf_counter() - began)
        io.write_bytes(file, save(found[name], {"seconds": taken}))
    return found, before


def full(arrivals: Arrivals, folder: Path) -> Models:
    """A full fine-tune of each task, kept for those that merge them."""
    names = [name for name, p in arrivals.backbone.named_parameters() if p.requires_grad]
    models = {}
    states, before = fine_tuned(arrivals, folder)
    for name, state in states.items():
        network = copied(arrivals.backbone)
        network.load_state_dict(state)
        masks = MaskSet.dense(scope(network), [name])
        metadata = {TRAINED: _size({n: state[n] for n in names}), BEFORE: before}
        models[name] = TicketModel(network, masks, metadata=metadata).eval()
    return models


def merged(arrivals: Arrivals, folder: Path, method: Method, chosen: bool = False) -> Models:
    """The fine-tunes as the tickets of one file, without data, or λ and scales chosen on validation data."""
    (tunes, before), a = fine_tuned(arrivals, folder), arrivals
    given: dict[str, Any] = {"data": {name: a.task(name) for name in a.names}, "objective": a.objective}
    tickets = merge(a.backbone, tunes, method, **(given if chosen else {}))
    tickets.metadata[BEFORE] = before
    return dict.fromkeys(tickets.names, tickets)


def changes_alone(arrivals: Arrivals, folder: Path, form: str) -> Models:
    """The change of each fine-tune by itself: its signs, or its largest entries in the bytes of TALL."""
    (tunes, before), base = fine_tuned(arrivals, folder), arrivals.backbone
    if form == "signs":
        made = own_changes.bitdelta(base, tunes)
    else:
        made = own_changes.largest(base, tunes, at_most=io.size(*merge(base, tunes).contents()))
    metadata = {TRAINED: made.bytes // len(made.networks), BEFORE: before}
    models = {}
    for name, network in made.networks.items():
        masks = MaskSet.dense(scope(network), [name])
        models[name] = TicketModel(network, masks, metadata=dict(metadata)).eval()
        models[name].requires_grad_(False)  # nothing stands in the place of the base
    return models


def together(arrivals: Arrivals, folder: Path, method: str) -> Models:  # noqa: ARG001
    """A method of `tombola.methods.table` on all tasks."""
    models = trained(arrivals.pipeline, method, arrivals.settings.sparsity[0])
    return {name: model for model in models for name in model.names}


def all_heads(arrivals: Arrivals, folder: Path) -> Models:  # noqa: ARG001
    """One dense network for all tasks, whose output layers are their own."""
    (models,) = multi_head(arrivals)
    return models


def one_by_one(arrivals: Arrivals, folder: Path) -> Models:  # noqa: ARG001
    """Tickets of the change, each grown without the data of those before."""
    *_, models = grown(arrivals, callback="", score="movement")
    return models


MERGED = "from the fine-tunes, without data: "
# Rates, beside that of full fine-tunes, are near the best of one to three on validation data of `sentences`.
RIVALS: dict[str, Rival] = {
    "frozen_head": Rival(
        "an output layer for each task on features that stay",
        partial(apart, adapter=adapters.head_alone),
        rate=30,
    ),
    "bitfit": Rival(
        "biases, norms and an output layer for each task",
        partial(apart, adapter=adapters.biases),
        "BitFit, Ben Zaken et al., arXiv 2106.10199",
        rate=10,
    ),
    "ia3": Rival(
        "a scale of every output of a layer, for each task",
        partial(apart, adapter=adapters.ia3),
        "IA³, Liu et al., arXiv 2205.05638",
        rate=30,
    ),
    "lora_r4": Rival(
        "a change of rank 4 for each task",
        partial(apart, adapter=partial(adapters.lora, r=4)),
        "LoRA, Hu et al., arXiv 2106.09685",
        rate=3,
    ),
    "lora_r16": Rival(
        "a change of rank 16 for each task",
        partial(apart, adapter=partial(adapters.lora, r=16)),
        "LoRA, Hu et al., arXiv 2106.09685",
        rate=3,
    ),
    "shira": Rival(
        "a change at random places for each task, as many numbers as LoRA of rank 16",
        partial(apart, adapter=partial(adapters.shira, r=16)),
        "SHiRA, Bhardwaj et al., arXiv 2406.13175",
        rate=3,
    ),
    "full_fine_tune": Rival("a network for each task", full),
    "multi_task": Rival("one dense network for all tasks together, an output layer each", all_heads),
    "merge_mean": Rival(MERGED + "the mean", partial(merged, method="mean"), "arXiv 2203.05482"),
    "merge_ties": Rival(MERGED + "TIES", partial(merged, method="ties"), "arXiv 2306.01708"),
    "merge_tall": Rival(
        MERGED + "a mask each of the sum", partial(merged, method="tall"), "TALL-masks, arXiv 2405.07813"
    ),
    "merge_tall_chosen": Rival(
        "the same, λ and scale of each task chosen on its validation data",
        partial(merged, method="tall", chosen=True),
        "TALL-masks, arXiv 2405.07813",
    ),
    "merge_emr": Rival(
        MERGED + "a mask each of the elected change", partial(merged, method="emr"), "EMR, arXiv 2405.17461"
    ),
    "merge_dare": Rival(MERGED + "DARE", partial(merged, method="dare"), "arXiv 2311.03099"),
    "bitdelta": Rival(
        "the signs of each fine-tune's change",
        partial(changes_alone, form="signs"),
        "BitDelta, arXiv 2402.10193",
    ),
    "own_change": Rival(
        "the largest entries of each fine-tune's change, in the bytes of merge_tall",
        partial(changes_alone, form="largest"),
    ),
    "imp": Rival(
        "one pruned network for all tasks, an output layer each",
        partial(together, method="same_mask"),
        changes=PRUNED,
    ),
    "rtl": Rival(
        "tickets of the weights", partial(together, method="rtl"), "arXiv 2601.22141", changes=PRUNED
    ),
    "rtl_theta0": Rival("tickets of the change, trained together", partial(together, method="rtl")),
    "rtl_theta0_97": Rival(
        "the same with 97% of the change left out, and few weights moved further",
        partial(together, method="rtl"),
        train_rate=3,
        changes={"sparsity": (0.97,)},
    ),
    "lt_sft": Rival(
        "a sparse change for each task, nothing shared",
        partial(together, method="imp_per_subset"),
        "LT-SFT, ACL 2022",
    ),
    "grow": Rival("tickets of the change, one after another", one_by_one),
    "learned": Rival(
        "a learned mask for each task over pretrained weights that never move",
        partial(together, method="rtl"),
        "Piggyback, arXiv 1801.06519",
        changes=LEARNED,
    ),
}
SPARSE = (
    "imp",
    "rtl",
    "rtl_theta0",
    "rtl_theta0_97",
    "lt_sft",
    "grow",
    "learned",
)  # to whom a sparsity says something
NEED_PEFT = {"ia3", "lora_r4", "lora_r16", "shira"}
