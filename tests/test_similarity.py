"""Chance-corrected overlap of masks."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tombola import masks as masks_module
from tombola.analysis.similarity import kappa
from tombola.layout import Layout
from tombola.masks import MaskSet

SCOPE = Layout(("a", "b", "c"), ((40, 10), (20, 10), (100,)))


def masks(seed, K, densities=(0.5, 0.2, 0.8)):
    g = torch.Generator().manual_seed(seed)
    rows = [
        torch.cat([torch.rand(n, generator=g) < d for n, d in zip(SCOPE.sizes, densities, strict=True)])
        for _ in range(K)
    ]
    return MaskSet(SCOPE, {str(k): row for k, row in enumerate(rows)})


def brute_force(a, b):
    above = most = 0.0
    for one, two in zip(a.split(SCOPE.sizes), b.split(SCOPE.sizes), strict=True):
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
    both = masks(0, 30, (0.8, 0.8, 0.8)).jaccard()
    assert float(both[~torch.eye(30, dtype=torch.bool)].mean()) == pytest.approx(0.8 / 1.2, abs=0.02)


def test_kappa_is_one_for_nested_masks():
    a = masks(0, 1)
    inner = a.masks_KN[0] & (torch.rand(SCOPE.size) < 0.5)
    found = kappa(a, MaskSet(SCOPE, {"inner": inner, "same": a.masks_KN[0]}))
    torch.testing.assert_close(found, torch.ones(1, 2, dtype=torch.float64))


def test_kappa_is_symmetric():
    a, b = masks(0, 4), masks(1, 3)
    torch.testing.assert_close(kappa(a, b), kappa(b, a).T)


def test_kappa_is_negative_for_complements():
    a = masks(0, 1, (0.5, 0.5, 0.5))
    assert float(kappa(a, MaskSet(SCOPE, {"rest": ~a.masks_KN[0]}))) < -0.8


def test_kappa_is_nan_where_chance_leaves_no_room():
    full = MaskSet.dense(SCOPE, ["full"])
    assert bool(kappa(full, masks(0, 1)).isnan())


class Largest(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that was computed."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.bytes = max(self.bytes, out.numel() * out.element_size())
        return out


def test_kappa_counts_in_blocks_whatever_the_size_of_a_layer(monkeypatch):
    a, b = masks(0, 3), masks(1, 2)
    expected = kappa(a, b)
    monkeypatch.setattr(masks_module, "_CHUNK", 32)
    with Largest() as largest:
        assert torch.equal(kappa(a, b), expected)
    assert largest.bytes <= max(3 * 32 * 4, a.masks_KN.numel())  # float32 blocks, the masks themselves
