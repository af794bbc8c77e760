"""K named subsets of the data."""

import numpy as np
import pytest
import torch

import tombola as tb
from tombola._utils.errors import PartitionError
from tombola.data.dataset import Data
from tombola.data.partition import Partition, by_column, by_label, by_rule


@pytest.fixture
def data():
    y = torch.arange(240) % 4
    site = np.array(["café", "street", "train"])[(torch.arange(240) // 4 % 3).numpy()]
    return Data.of(torch.rand(240, 2), y, {"site": site, "level": np.arange(240) % 5 / 2})


def test_by_label_without_names_takes_the_values(data):
    found = by_label(data)
    assert found.names == ("0", "1", "2", "3")
    for split in ("train", "validation", "test"):
        expected = data.split(split).y[:, None] == torch.arange(4)
        assert torch.equal(found.members[split], expected)


def test_by_label_with_a_sequence_of_names(data):
    found = by_label(data, ["a", "b", "c", "d"])
    assert found.names == ("a", "b", "c", "d")
    assert found.sizes() == {n: int((data.train.y == i).sum()) for i, n in enumerate("abcd")}
    assert found.sizes("test") == {n: int((data.test.y == i).sum()) for i, n in enumerate("abcd")}
    assert len(found) == 4


def test_by_column_of_strings(data):
    found = by_column(data, "site")
    assert found.names == ("café", "street", "train")
    expected = torch.from_numpy(data.test.column("site") == "street")
    assert torch.equal(found.members["test"][:, 1], expected)


def test_a_mapping_names_values_and_leaves_others_out(data):
    found = by_column(data, "site", {"train": "rail", "café": "indoor"})
    assert found.names == ("rail", "indoor")
    street = torch.from_numpy(data.train.column("site") == "street")
    assert not found.members["train"][street].any()
    assert bool((found.members["train"][~street].sum(1) == 1).all())


@pytest.mark.parametrize(
    "names", [{0: "even", 1: "odd", 2: "even", 3: "odd"}, ["even", "odd", "even", "odd"]]
)
def test_values_of_the_same_name_make_up_one_subset(data, names):
    found = by_label(data, names)
    assert found.names == ("even", "odd")
    assert torch.equal(found.members["train"][:, 0], data.train.y % 2 == 0)


def test_too_few_names_is_an_error_that_counts(data):
    with pytest.raises(PartitionError, match="'y' has values from 0 to 3, but there are 2 names"):
        by_label(data, ["a", "b"])


def test_too_many_names_leave_an_empty_subset(data):
    with pytest.raises(PartitionError, match="subset 'e', 'f' is empty in the train split"):
        by_label(data, ["a", "b", "c", "d", "e", "f"])


def test_a_sequence_of_names_needs_integers(data):
    for column in ("site", "level"):
        with pytest.raises(PartitionError, match=f"column '{column}' is not integer.*value: name"):
            by_column(data, column, ["a", "b", "c"])


def test_a_value_that_never_occurs_is_an_empty_subset(data):
    with pytest.raises(PartitionError, match="subset 'sea' is empty in the train split"):
        by_column(data, "site", {"train": "rail", "ship": "sea"})


def test_an_empty_subset_names_itself_and_its_split(data):
    members = {
        s: torch.ones(len(data.split(s)), 2, dtype=torch.bool) for s in ("train", "validation", "test")
    }
    members["validation"][:, 1] = False
    with pytest.raises(PartitionError, match="subset 'b' is empty in the validation split"):
        Partition(("a", "b"), members)


def test_names_must_be_there_and_distinct():
    two = {"train": torch.ones(3, 2, dtype=torch.bool)}
    with pytest.raises(PartitionError, match="at least one subset"):
        Partition((), {})
    with pytest.raises(PartitionError, match="distinct: a, a"):
        Partition(("a", "a"), two)
    with pytest.raises(PartitionError, match=r"torch.bool and \(samples, 1\) are needed"):
        Partition(("a",), two)
    with pytest.raises(PartitionError, match=r"dtype torch.int64"):
        Partition(("a", "b"), {"train": two["train"].long()})


def test_subsets_by_rule_may_overlap(data):
    found = by_rule(data, lambda split: {"low": split.y < 2, "odd": split.y % 2 == 1})
    assert found.names == ("low", "odd")
    both = found.members["test"].all(1)
    assert torch.equal(both, data.test.y == 1)


def test_a_rule_must_name_the_same_subsets_everywhere(data):
    sizes = iter("abc")
    with pytest.raises(PartitionError, match=r"in validation, .* in train"):
        by_rule(data, lambda split: {next(sizes): split.y >= 0})


def test_whole_holds_every_sample_of_every_subset(data):
    found = by_label(data, {0: "a", 3: "b"}).whole()
    assert found.names == ("all",)
    assert torch.equal(found.members["train"][:, 0], (data.train.y == 0) | (data.train.y == 3))


def test_shuffled_keeps_sizes_and_changes_membership_in_train_only(data):
    original = by_label(data)
    g = torch.Generator().manual_seed(0)
    shuffled = original.shuffled(g)
    assert shuffled.sizes() == original.sizes()
    assert shuffled.names == original.names
    moved = (shuffled.members["train"] != original.members["train"]).any(1).double().mean()
    assert 0.6 < float(moved) < 0.9  # three of four by chance
    for split in ("validation", "test"):
        assert torch.equal(shuffled.members[split], original.members[split])
    again = original.shuffled(torch.Generator().manual_seed(0))
    assert torch.equal(again.members["train"], shuffled.members["train"])


@pytest.mark.parametrize("names", [[1, 2, 3, 4], {0: "a", 1: None}])
def test_names_must_be_strings(data, names):
    with pytest.raises(PartitionError, match="subset names must be strings: got"):
        by_label(data, names)


def test_names_from_numpy_become_plain_strings(data):
    assert {type(name) for name in by_label(data, np.array(["a", "b", "c", "d"])).names} == {str}


@pytest.mark.parametrize("found", [[], {}, None])
def test_a_rule_must_return_named_subsets(data, found):
    with pytest.raises(PartitionError, match=r"must return a mapping \{name: booleans\}, not empty: got"):
        by_rule(data, lambda split: found)


@pytest.mark.parametrize("rule", [lambda s: s.y, lambda s: (s.y > 0).any(), lambda s: s.y[:, None] > 0])
def test_a_rule_must_give_one_boolean_per_sample(data, rule):
    with pytest.raises(PartitionError, match=r"torch.bool \(168,\): subset 'a' got .* in train"):
        by_rule(data, lambda split: {"a": rule(split)})


def test_continuous_values_are_counted_not_listed():
    data = Data.of(torch.rand(200, 2), torch.rand(200))
    with pytest.raises(PartitionError, match=r"'y' has 200 different values.*validation.*\(20\).*by_rule"):
        by_label(data)


def test_many_empty_subsets_are_counted_and_a_larger_share_is_the_remedy(data):
    with pytest.raises(PartitionError, match=r"'8' and 15 more is empty in the train split.*larger shares"):
        by_label(data, [str(i) for i in range(24)])


def test_missing_values_in_a_column_of_strings_are_an_error():
    site = np.array(["a", float("nan")] * 20, dtype=object)
    data = Data.of(torch.rand(40, 2), torch.zeros(40), {"site": site})
    with pytest.raises(PartitionError, match=r"column 'site' mixes kinds of values .*float.*one kind"):
        by_column(data, "site")


@pytest.mark.parametrize("names", ["cat", {"cat", "dog"}])
def test_names_without_an_order_are_an_error(data, names):
    with pytest.raises(PartitionError, match=f"names must be a list or .*: got {type(names).__name__}"):
        by_label(data, names)


def test_a_partition_of_other_data_or_of_another_shuffle_is_refused(convnet, images):
    x, y = torch.rand(180, 1, 6, 6), torch.arange(180) % 3
    data, shuffled = Data.of(x, y), Data.of(x, y, seed=9)
    partition = by_label(data)
    options = {"sparsity": 0.5, "T": 1, "steps": 1}
    for other in (partition, partition.whole(), by_label(data, names={0: "a", 1: "b"})):
        with pytest.raises(PartitionError, match="from other data, or from another order of their samples"):
            tb.rtl(convnet, tb.objectives.Classification(), shuffled, other, **options)
    relabelled = Data.of(x, (y + 1) % 3)  # the same samples in the same order
    tb.rtl(convnet, tb.objectives.Classification(), relabelled, partition, **options)
    by_hand = Partition(partition.names, partition.members)  # nobody knows of what
    tb.rtl(convnet, tb.objectives.Classification(), shuffled, by_hand, **options)


def test_missing_values_in_a_column_of_numbers_are_named():
    values = np.arange(30) % 2 + 0.5
    values[[3, 4]] = np.nan
    data = Data.of(torch.rand(30, 2), torch.arange(30) % 2, columns={"site": values})
    with pytest.raises(PartitionError, match=r"column 'site' has no value \(NaN\) in 2 samples"):
        by_column(data, "site")
    assert by_column(data, "site", names={0.5: "a", 1.5: "b"}).names == ("a", "b")
