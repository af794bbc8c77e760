"""Which groups of classes deserve a ticket? ``python -m benchmarks.groups --data FOLDER --names FILE.npy``.

The 100 classes of CIFAR-100 in eight groups of at most 13: found by `tombola.discover`, at random, in the
order of the labels, by k-means of features, and of embeddings of names (float ``[100, D]``). Tickets answer
the class within their group, after a short training of a LeNet; beside them one mask that is trained alike
(`same_mask`), because groups differ in how hard their questions are. Writes ``docs/results/when.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from tombola import discover
from tombola._utils.rng import generator
from tombola._utils.statistics import interval
from tombola.analysis.reassign import assign
from tombola.data.dataset import Data
from tombola.data.partition import Partition, by_label
from tombola.lab.experiments.cifar100 import NAMES, load
from tombola.lab.experiments.experiment import preset_settings
from tombola.lab.models.lenet import LeNet
from tombola.lab.report.page import Place, put_tables
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table, mean_and_half, share
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import run_method
from tombola.objectives import Classification
from tombola.objectives.metrics import metric_info
from tombola.runs.cache import StageCache

K, MOST, SPARSITY = 8, 0.13, 0.8
SETTINGS = preset_settings(2e-3, 2e-3, 32, sparsity=(SPARSITY,), schedule="geometric:3", T=10, steps=80)
PAGE = Path(__file__).parent.parent / "docs" / "results" / "when.md"
PLACE = Place(
    "<!-- tables: made by `benchmarks.groups` -->", "<!-- end of tables -->", ("experiment", "preset")
)


def backbone(seed: int) -> LeNet:
    return LeNet(len(NAMES), generator(seed, "theta0"))


def discovered(data: Data, fine: Partition, seed: int) -> Partition:
    options = {"settings": SETTINGS, "seed": seed, "points": (0, 5)}
    return discover(backbone(seed), Classification(), data, fine, K=K, most=MOST, **options)


def at_random(_: Data, fine: Partition, seed: int) -> Partition:
    order = torch.randperm(len(fine), generator=generator(seed, "groups")).tolist()
    return fine.merged({str(k): order[k::K] for k in range(K)})


def in_order(_: Data, fine: Partition, __: int = 0) -> Partition:
    parts = np.array_split(np.arange(len(fine)), K)
    return fine.merged({str(k): part.tolist() for k, part in enumerate(parts)})


def by_means(vectors_CD: np.ndarray, fine: Partition, seed: int) -> Partition:
    """k-means of a vector for each class, with no more than the same share for each group."""
    from sklearn.cluster import KMeans

    means = KMeans(K, n_init=10, random_state=seed).fit(vectors_CD)
    cost_CK = torch.from_numpy(means.transform(vectors_CD)).square()
    groups = assign(cost_CK, list(fine.sizes("train").values()), MOST)
    return fine.merged({str(k): group for k, group in enumerate(groups)})


def by_features(data: Data, fine: Partition, seed: int) -> Partition:
    """Mean features of the classes in a dense network that was trained as long on all of them."""
    arguments = (
        backbone(seed),
        Classification(),
        data,
        in_order(data, fine),
        SETTINGS,
        seed,
        StageCache(),
    )
    network = run_method(Pipeline(*arguments), "dense", 0.0).tickets
    layers = network.bake(network.names[0]).eval().layers
    batches = torch.arange(len(data.train)).split(500)
    with torch.no_grad():
        features_SD = torch.cat([layers(x) for x in data.batches("train", batches)])  # type: ignore[operator]
    vectors = [features_SD[mine].mean(0) for mine in fine.members["train"].unbind(1)]
    return by_means(torch.stack(vectors).double().numpy(), fine, seed)


def measured(data: Data, partition: Partition, seed: int) -> dict[str, float]:
    """Accuracy of tickets and of one mask, within the groups, on the test split."""
    arguments = backbone(seed), Classification("subset"), data, partition, SETTINGS, seed, StageCache()
    pipeline = Pipeline(*arguments)
    return {name: run_method(pipeline, name, SPARSITY)["accuracy"] for name in ("rtl", "same_mask")}


def rows_of(name: str, found: list[Mapping[str, float]]) -> list[Row]:
    values = {(method, "accuracy"): [one[method] for one in found] for method in ("rtl", "same_mask")}
    values["rtl", "accuracy_lead_same"] = [one["rtl"] - one["same_mask"] for one in found]
    head = {"experiment": "cifar100_groups", "preset": name, "sparsity": SPARSITY, "reading": "like_for_like"}
    return [
        {
            **head,
            "method": method,
            "metric": metric,
            "mean": float(np.mean(each)),
            "ci95": interval(each),
            "seeds": len(each),
        }
        for (method, metric), each in values.items()
    ]


def tables(rows: list[Row]) -> list[Table]:
    """A line for each way to make groups."""
    cells = {
        (row["preset"], row["method"], row["metric"]): row
        for row in rows
        if row["experiment"] == "cifar100_groups"
    }
    body = [
        [
            name,
            mean_and_half(cells[name, "rtl", "accuracy"], share),
            mean_and_half(cells[name, "same_mask", "accuracy"], share),
            mean_and_half(cells[name, "rtl", "accuracy_lead_same"], metric_info("accuracy_lead").write),
        ]
        for name in dict.fromkeys(name for name, *_ in cells)
    ]
    title = (
        f"Classes of CIFAR-100 in {K} groups of at most 13: accuracy within the group, {SPARSITY:.0%} removed"
    )
    return [Table(title, ["groups", "tickets", "one mask", "tickets ahead"], body)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.groups", description=__doc__)
    parser.add_argument("--data", required=True, help="CIFAR-100, as tombola run cifar100 reads it")
    parser.add_argument("--names", type=Path, help="embeddings of the class names, .npy [100, D]")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load(arguments.data, False)
    assert isinstance(data, Data)
    fine = by_label(data, NAMES)
    ways: dict[str, Callable[[Data, Partition, int], Partition]] = {
        "random": at_random,
        "order of the labels": in_order,
        "k-means of features": by_features,
        "discover": discovered,
    }
    if arguments.names is not None:
        vectors = np.load(arguments.names)
        ways["k-means of names"] = lambda _, fine, seed: by_means(vectors, fine, seed)
    found: dict[str, list[Mapping[str, float]]] = {}
    for seed in arguments.seed:
        for name, way in ways.items():
            partition = way(data, fine, seed)
            found.setdefault(name, []).append(measured(data, partition, seed))
            sizes = sorted(size // (len(data.train) // len(fine)) for size in partition.sizes().values())
            print(seed, name, found[name][-1], sizes, flush=True)
        put_tables(PAGE, PLACE, [row for name, each in found.items() for row in rows_of(name, each)], tables)


if __name__ == "__main__":
    main()
