"""Splits that are disjoint and complete, and endless batches."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from tombola._utils.errors import DataError
from tombola.data.dataset import Data, Split, Stream, with_context
from tombola.data.partition import Partition


def permutation(size):
    return lambda g: torch.randperm(size, generator=g)


def test_a_repr_is_a_line_that_counts_whatever_the_size():
    data = Data.of(torch.rand(1000, 3, 4), torch.arange(1000), {"site": ["a"] * 1000})
    assert repr(data) == "Data(train=700, validation=100, test=200 samples, x=float32[3, 4], y=int64[])"
    assert repr(data.test) == "Split(200 samples, x=float32[3, 4], y=int64[], columns=['site'])"
    members = {"test": torch.ones(7, 12, dtype=torch.bool)}
    assert repr(Partition(tuple("abcdefghijkl"), members)).endswith("i=7, j=7 and 2 more)")


# -- splits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_are_disjoint_and_complete_and_rows_stay_together(seed):
    x = torch.arange(97)
    data = Data.of(x, 2 * x, {"name": [f"s{i}" for i in range(97)]}, validation=0.2, test=0.3, seed=seed)
    parts = [data.train, data.validation, data.test]
    assert [len(p) for p in parts] == [49, 19, 29]
    assert sorted(torch.cat([p.x for p in parts]).tolist()) == list(range(97))
    for part in parts:
        assert torch.equal(part.y, 2 * part.x)
        assert part.column("name").tolist() == [f"s{i}" for i in part.x.tolist()]
        assert torch.equal(torch.from_numpy(part.column("y")), part.y)


def test_the_seed_decides_the_split():
    x = torch.arange(50)
    first, again, other = (Data.of(x, x, seed=seed).test.x for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("fractions", [(0.0, 0.2), (0.2, 0.0), (0.5, 0.5), (0.9, 0.4)])
def test_a_split_without_samples_is_an_error(fractions):
    with pytest.raises(DataError, match=r"20 samples cannot be split.*at least one sample"):
        Data.of(torch.rand(20, 2), torch.zeros(20), validation=fractions[0], test=fractions[1])


def test_no_samples_is_an_error():
    with pytest.raises(DataError, match="no samples"):
        Data.of(torch.rand(0, 2), torch.zeros(0))


def test_lengths_that_differ_name_the_column():
    with pytest.raises(DataError, match=r"x has 20 samples, but \{'y': 19\}"):
        Data.of(torch.rand(20, 2), torch.zeros(19))
    with pytest.raises(DataError, match=r"\{'site': 3\}: one value per sample"):
        Data.of(torch.rand(20, 2), torch.zeros(20), {"site": ["a", "b", "c"]})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["x", "y"])
def test_nan_and_infinite_values_name_the_tensor_and_the_first_sample(name, bad):
    values = {"x": torch.rand(20, 3), "y": torch.rand(20)}
    values[name].view(20, -1)[7, -1] = bad
    values[name].view(20, -1)[9, 0] = bad
    with pytest.raises(DataError, match=rf"^{name} holds NaN or infinite.* 2 of 20 samples .*number 7"):
        Split(values["x"], values["y"])


def test_integer_inputs_are_fine():
    assert len(Split(torch.zeros(3, 2, dtype=torch.uint8), torch.arange(3))) == 3


def test_unknown_column_and_split_name_what_there_is(images):
    with pytest.raises(DataError, match=r"no column 'sites'; did you mean 'site'. Known: y, site"):
        images.train.column("sites")
    with pytest.raises(DataError, match="no split 'tests'; did you mean 'test'"):
        images.split("tests")


def test_from_dataset_reads_pairs_in_order():
    rows = [(np.full((2, 2), i, dtype=np.float32), i % 3) for i in range(30)]
    data = Data.from_dataset(rows, seed=1)
    direct = Data.of(np.stack([a for a, _ in rows]), [b for _, b in rows], seed=1)
    for split in ("train", "validation", "test"):
        assert torch.equal(data.split(split).x, direct.split(split).x)
        assert torch.equal(data.split(split).y, direct.split(split).y)
    assert data.train.x.dtype == torch.float32


def test_from_dataset_takes_a_torch_dataset_and_refuses_an_empty_one():
    data = Data.from_dataset(torch.utils.data.TensorDataset(torch.rand(20, 2), torch.arange(20)))
    assert len(data.train) == 14
    with pytest.raises(DataError, match="no samples"):
        Data.from_dataset([])


def test_tuning_never_sees_the_test_split():
    x = torch.arange(100)
    data = Data.of(x, x, validation=0.21)
    tuned = data.tuning()
    assert torch.equal(tuned.train.x, data.train.x)
    assert torch.equal(torch.cat([tuned.validation.x, tuned.test.x]), data.validation.x)
    assert not set(tuned.test.x.tolist()) & set(data.test.x.tolist())


def test_inputs_are_augmented_as_stored_and_then_prepared():
    def augment(x, g):
        assert x.dtype == torch.uint8
        return x + torch.randint(1, 3, x.shape, generator=g, dtype=torch.uint8)

    def prepare(x):
        return x.float() / 10

    x = torch.full((20, 2), 10, dtype=torch.uint8)
    data = Data.of(x, torch.zeros(20), prepare=prepare, augment=augment)
    index = torch.arange(4)
    assert torch.equal(data.inputs("train", index), torch.ones(4, 2))
    first, again = (data.inputs("train", index, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert bool((first > 1).all())


@pytest.mark.parametrize("labels", [["cat", "dog"] * 10, np.array(["cat", "dog"] * 10)])
def test_labels_that_are_strings_are_sent_to_columns(labels):
    with pytest.raises(DataError, match=r"^y holds .*not numbers: put strings into columns=.*by_column"):
        Data.of(torch.rand(20, 2), labels)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, np.ndarray.tolist])
def test_double_precision_becomes_the_default_dtype_and_integers_stay(kind):
    data = Data.of(kind(np.random.rand(20, 2)), kind(np.random.rand(20)))
    assert (data.train.x.dtype, data.train.y.dtype) == (torch.float32, torch.float32)
    assert Data.of(kind(np.arange(20)), np.arange(20)).train.x.dtype == torch.int64


def test_ragged_samples_are_an_error():
    with pytest.raises(DataError, match="x cannot become one tensor; all samples need the same shape"):
        Data.of([[1.0, 2.0], [1.0]], [0, 1])
    with pytest.raises(DataError, match=r"x of sample 0 has shape \(2,\), of sample 1 \(3,\): crop or pad"):
        Data.from_dataset([(torch.rand(2), 0), (torch.rand(3), 1)])


@pytest.mark.parametrize("wrap", [iter, torch.utils.data.DataLoader])
def test_from_dataset_refuses_what_cannot_be_indexed(wrap):
    with pytest.raises(DataError, match=r"needs len\(dataset\) and dataset\[i\], which \w+ lacks"):
        Data.from_dataset(wrap([(torch.rand(2), 0)] * 20))


@pytest.mark.parametrize("sample", [torch.rand(2), (1, 2, 3)])
def test_from_dataset_needs_pairs(sample):
    with pytest.raises(DataError, match=r"to be a pair \(x, y\)"):
        Data.from_dataset([sample] * 20)


def test_a_column_of_several_values_per_sample_is_an_error_where_one_is_needed():
    data = Data.of(torch.rand(20, 2), torch.eye(2)[torch.arange(20) % 2])
    with pytest.raises(DataError, match=r"y has shape \(14, 2\), but subsets need one value.*argmax"):
        data.train.column("y")


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 7), (4, 3, 5, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_number_of_the_context_is_one_more_channel(shape, dtype):
    x, context = torch.rand(shape, dtype=dtype), torch.tensor([2, 0, 1, 2])
    found = with_context(x, context)
    assert found.shape == (4, 4, *shape[2:])
    assert found.dtype == dtype
    assert torch.equal(found[:, :3], x)
    for i, number in enumerate([2.0, 0.0, 1.0, 2.0]):
        assert bool((found[i, 3] == number).all())


def test_inputs_are_told_their_contexts_after_they_are_prepared():
    def augment(x, g):
        return x + 1

    x = torch.full((20, 2, 3), 9, dtype=torch.uint8)
    data = Data.of(x, torch.zeros(20), prepare=lambda x: x.float() / 10, augment=augment)
    contexts = {split: torch.arange(len(data.split(split))) % 3 for split in ("train", "validation", "test")}
    conditioned = dataclasses.replace(data, contexts=contexts)
    index = torch.tensor([3, 1, 2])
    assert data.inputs("test", index).shape == (3, 2, 3)
    found = conditioned.inputs("test", index)
    assert torch.equal(found[:, :2], data.inputs("test", index))
    assert torch.equal(found[:, 2], torch.tensor([0.0, 1.0, 2.0])[:, None].expand(3, 3))
    augmented = conditioned.inputs("train", index, torch.Generator())
    assert bool((augmented[:, :2] == 1).all())
    assert torch.equal(augmented[:, 2], found[:, 2])  # numbers are not augmented


# -- streams ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "batch"), [(10, 4), (12, 4), (3, 8), (1, 5), (7, 7)])
def test_every_batch_is_full_and_random_access_equals_sequential_access(size, batch):
    one, two = (Stream(permutation(size), batch, 0, "a") for _ in range(2))
    sequential = [one[i] for i in range(12)]
    assert all(len(b) == batch for b in sequential)
    for i in (11, 0, 5, 4, 7, 11, 1):
        assert torch.equal(two[i], sequential[i])


@pytest.mark.parametrize(("size", "batch"), [(10, 4), (12, 4), (3, 8), (7, 7)])
def test_each_epoch_is_a_permutation_and_epochs_differ(size, batch):
    stream = Stream(permutation(size), batch, 0, "a")
    flat = torch.cat([stream[i] for i in range(size * 3)])
    epochs = flat[: len(flat) // size * size].view(-1, size)
    assert all(sorted(epoch.tolist()) == list(range(size)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) > 1


def test_a_small_subset_repeats_cyclically():
    stream = Stream(permutation(5), 4, 0, "small")
    for steps in (5, 10, 15):  # whole epochs: every sample as often as every other
        counts = Counter(torch.cat([stream[i] for i in range(steps)]).tolist())
        assert set(counts.values()) == {4 * steps // 5}


def test_another_key_is_another_order():
    keys = [(0, "a"), (1, "a"), (0, "b"), (0, "", "a"), (0, "a", 1)]
    orders = {tuple(Stream(permutation(20), 20, *key)[0].tolist()) for key in keys}
    assert len(orders) == len(keys)
