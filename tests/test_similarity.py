"""Overlap of masks, raw and corrected for chance."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tombola._utils.errors import MaskError
from tombola.masks import maskset
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import compare, depths, kappa, mean_over_pairs

SCOPE = Layout(("a", "b", "c"), ((40, 10), (20, 10), (100,)))
SMALL = Layout(("a", "b", "c"), ((4,), (4,), (2,)))


def masks(seed, K, densities=(0.5, 0.2, 0.8), scope=SCOPE):
    g = torch.Generator().manual_seed(seed)
    rows = [
        torch.cat([torch.rand(n, generator=g) < d for n, d in zip(scope.sizes, densities, strict=True)])
        for _ in range(K)
    ]
    return MaskSet(scope, {str(k): row for k, row in enumerate(rows)})


def brute_force(a, b, scope=SCOPE):
    above = most = 0.0
    for one, two in zip(a.split(scope.sizes), b.split(scope.sizes), strict=True):
        one, two = one.tolist(), two.tolist()
        overlap = sum(x and y for x, y in zip(one, two, strict=True))
        expected = sum(one) * sum(two) / len(one)
        above += overlap - expected
        most += min(sum(one), sum(two)) - expected
    return above / most


def test_kappa_equals_brute_force():
    a, b = masks(0, 3), masks(1, 2, (0.3, 0.6, 0.5))
    found = kappa(a, b)
    assert found.shape == (3, 2)
    assert found.dtype == torch.float64
    for i in range(3):
        for j in range(2):
            assert float(found[i, j]) == pytest.approx(brute_force(a.masks_KN[i], b.masks_KN[j]))


def test_kappa_is_zero_on_average_for_independent_masks_of_any_layer_profile():
    for densities in ((0.5, 0.2, 0.8), (0.9, 0.9, 0.05), (0.1, 0.1, 0.1)):
        found = kappa(masks(0, 60, densities), masks(1, 60, densities))
        assert abs(float(found.mean())) < 0.01
        assert float(found.abs().max()) < 0.35


def test_raw_jaccard_is_not_zero_for_independent_masks():
    both = masks(0, 30, (0.8, 0.8, 0.8))
    assert mean_over_pairs(compare(both).jaccard()) == pytest.approx(0.8 / 1.2, abs=0.02)


def test_jaccard_is_that_of_the_mask_set_in_one_set_and_over_two():
    a, b = masks(0, 4), masks(1, 3)
    torch.testing.assert_close(compare(a).jaccard(), a.jaccard())
    both = MaskSet(SCOPE, {f"{s}{n}": m[n] for s, m in (("a", a), ("b", b)) for n in m})
    torch.testing.assert_close(compare(a, b).jaccard(), both.jaccard()[:4, 4:])


def test_kappa_is_one_for_nested_masks():
    a = masks(0, 1)
    inner = a.masks_KN[0] & (torch.rand(SCOPE.size, generator=torch.Generator().manual_seed(2)) < 0.5)
    found = kappa(a, MaskSet(SCOPE, {"inner": inner, "same": a.masks_KN[0]}))
    torch.testing.assert_close(found, torch.ones(1, 2, dtype=torch.float64))


def test_kappa_is_symmetric():
    a, b = masks(0, 4), masks(1, 3)
    torch.testing.assert_close(kappa(a, b), kappa(b, a).T)


def test_kappa_is_negative_for_complements():
    a = masks(0, 1, (0.5, 0.5, 0.5))
    assert float(kappa(a, MaskSet(SCOPE, {"rest": ~a.masks_KN[0]}))) < -0.8


def test_a_set_against_its_copy_is_a_set_against_itself():
    a = masks(0, 5)
    again = MaskSet(SCOPE, {name: a[name] for name in a})
    for one, two in zip(vars(compare(a)).values(), vars(compare(a, again)).values(), strict=True):
        assert one == two if isinstance(one, tuple) else torch.equal(one, two)


def test_the_counts_by_hand():
    found = compare(
        MaskSet(SMALL, {"one": torch.tensor([1, 1, 0, 0, 1, 1, 1, 0, 1, 0])}),
        MaskSet(SMALL, {"two": torch.tensor([1, 0, 1, 0, 1, 1, 0, 0, 0, 1])}),
    )
    assert found.a_KL.tolist() == [[2, 3, 1]]
    assert found.b_JL.tolist() == [[2, 2, 1]]
    assert found.both_KJL.tolist() == [[[1, 2, 0]]]
    # E = 1, 1.5, .5; I − E = 0, .5, −.5; min − E = 1, .5, .5
    assert float(found.kappa()) == 0.0
    layers = {name: float(found.only([name]).kappa()) for name in found.layers}
    assert layers == {"a": 0.0, "b": 1.0, "c": -1.0}
    assert float(found.jaccard()) == 3 / (6 + 5 - 3)
    assert float(found.only(["a", "b"]).kappa()) == 0.5 / 1.5
    assert {d: part.layers for d, part in found.by_depth().items()} == {
        "shallow": ("a",),
        "middle": ("b",),
        "deep": ("c",),
    }


@pytest.mark.parametrize(
    ("count", "thirds"), [(3, (1, 1, 1)), (5, (2, 2, 1)), (7, (3, 2, 2)), (9, (3, 3, 3))]
)
def test_thirds_differ_by_at_most_one_layer_and_keep_the_order(count, thirds):
    layers = [f"layer{i}" for i in range(count)]
    found = depths(layers)
    assert tuple(map(len, found.values())) == thirds
    assert [layer for third in found.values() for layer in third] == layers


def test_kappa_is_nan_where_chance_leaves_no_room():
    full = MaskSet.dense(SCOPE, ["full"])
    assert bool(kappa(full, masks(0, 1)).isnan())


def test_a_layer_that_is_full_or_empty_in_one_mask_does_not_count():
    one, two = torch.tensor([1, 1, 0, 0, 1, 1, 1, 1, 1, 0]), torch.tensor([1, 0, 1, 0, 1, 0, 0, 0, 1, 0])
    found = compare(MaskSet(SMALL, {"one": one}), MaskSet(SMALL, {"two": two}))
    assert bool(found.only(["b"]).kappa().isnan())
    assert float(found.kappa()) == float(found.only(["a", "c"]).kappa()) == 0.5 / 1.5


def test_means_leave_out_pairs_that_are_not_defined():
    assert mean_over_pairs(torch.tensor([[1.0, 0.5], [torch.nan, 1.0]])) == 0.5
    assert mean_over_pairs(torch.full((2, 2), torch.nan)) != mean_over_pairs(torch.ones(2, 2))
    with pytest.raises(MaskError, match="square"):
        mean_over_pairs(torch.ones(2, 3))


def test_what_cannot_be_compared_is_refused():
    a = masks(0, 2)
    with pytest.raises(MaskError, match="same scope"):
        compare(a, masks(0, 2, scope=SMALL))
    with pytest.raises(MaskError, match="at least three layers"):
        depths(["a", "b"])
    with pytest.raises(MaskError, match="no layer 'd'"):
        compare(a).only(["d"])
    with pytest.raises(MaskError, match="at least one layer"):
        compare(a).only([])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_kappa_is_at_most_one_symmetric_and_blind_to_complements(seed, densities):
    a = masks(seed, 3, densities, SMALL)
    found = kappa(a, a)
    assert bool((found.isnan() | (found <= 1 + 1e-12)).all())
    torch.testing.assert_close(found, found.T, equal_nan=True)
    pruned = MaskSet.stacked(SMALL, a.names, ~a.masks_KN)
    torch.testing.assert_close(kappa(pruned, pruned), found, equal_nan=True)
    diagonal = found.diagonal()
    assert bool((diagonal.isnan() | (diagonal - 1).abs().lt(1e-12)).all())


class Largest(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that was computed."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.bytes = max(self.bytes, out.numel() * out.element_size())
        return out


def test_counting_goes_in_blocks_whatever_the_size_of_a_layer(monkeypatch):
    a, b = masks(0, 3), masks(1, 2)
    expected = kappa(a, b)
    monkeypatch.setattr(maskset, "_WIDEST", 32)
    with Largest() as largest:
        assert torch.equal(kappa(a, b), expected)
    assert largest.bytes <= max(5 * 32 * 4, a.masks_KN.numel())  # float32 blocks, the masks themselves
