"""Layout: named tensors as slices of one flat vector."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tombola.masks.layout import Layout

shapes = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=5)


def layout_of(shapes):
    return Layout(tuple(f"t{i}" for i in range(len(shapes))), tuple(shapes))


@settings(max_examples=60, deadline=None)
@given(shapes)
def test_flatten_and_unflatten_are_inverse(shapes):
    layout = layout_of(shapes)
    tensors = {name: torch.rand(shape) for name, shape in zip(layout.names, shapes, strict=True)}
    flat_N = layout.flatten(tensors)
    back = layout.unflatten(flat_N)
    assert flat_N.shape == (layout.size,)
    assert list(back) == list(tensors)
    assert all(torch.equal(back[name], t) for name, t in tensors.items())
    assert torch.equal(layout.flatten(back), flat_N)


@settings(max_examples=60, deadline=None)
@given(shapes)
def test_sizes_bounds_and_views_agree(shapes):
    layout = layout_of(shapes)
    assert layout.sizes == tuple(torch.zeros(shape).numel() for shape in shapes)
    assert layout.bounds == tuple(sum(layout.sizes[:i]) for i in range(len(shapes) + 1))
    flat_N = torch.rand(layout.size)
    views = layout.unflatten(flat_N)
    for name, span in zip(layout.names, itertools.pairwise(layout.bounds), strict=True):
        assert torch.equal(flat_N[slice(*span)], views[name].reshape(-1))


def test_scalar_parameters_have_one_entry():
    layout = Layout.of({"scale": torch.tensor(2.0), "w": torch.zeros(3)})
    named = layout.unflatten(torch.tensor([2.0, 1.0, 1.0, 1.0]))
    assert layout.sizes == (1, 3)
    assert named["scale"].shape == ()
    assert named["scale"].item() == 2.0


def test_unflatten_gives_views():
    flat_N = torch.zeros(10)
    Layout(("a", "b"), ((2, 3), (4,))).unflatten(flat_N)["b"][1] = 7
    assert flat_N.tolist() == [0] * 7 + [7, 0, 0]


def test_flatten_copies_even_a_single_tensor():
    w = torch.zeros(4)
    Layout.of({"w": w}).flatten({"w": w})[0] = 1
    assert w.tolist() == [0, 0, 0, 0]


def test_flatten_ignores_other_names_and_follows_its_own_order():
    layout = Layout(("b", "a"), ((1,), (2,)))
    flat_N = layout.flatten({"a": torch.tensor([1.0, 2.0]), "x": torch.ones(9), "b": torch.tensor([3.0])})
    assert flat_N.tolist() == [3, 1, 2]


def test_unflatten_keeps_leading_dimensions():
    flat_KN = torch.arange(20).reshape(2, 10)
    named = Layout(("a", "b"), ((2, 3), (4,))).unflatten(flat_KN)
    assert named["a"].shape == (2, 2, 3)
    assert named["b"].tolist() == [[6, 7, 8, 9], [16, 17, 18, 19]]


def test_unflatten_refuses_a_vector_of_another_size():
    with pytest.raises(RuntimeError):
        Layout(("a",), ((3,),)).unflatten(torch.zeros(4))


def test_the_empty_layout():
    layout = Layout((), ())
    assert layout.size == 0
    assert layout.flatten({"a": torch.ones(3)}).shape == (0,)
    assert layout.unflatten(torch.zeros(0)) == {}


def test_gradients_flow_through_flatten():
    w = torch.ones(2, 2, requires_grad=True)
    (Layout.of({"w": w}).flatten({"w": w}) * torch.arange(4.0)).sum().backward()
    assert w.grad.tolist() == [[0, 1], [2, 3]]
