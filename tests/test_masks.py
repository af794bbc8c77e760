"""MaskSet: set algebra, counts, packing and digests against plain Python and NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tombola._utils.errors import MaskError, TombolaError, UnknownTicket
from tombola.masks.bits import packed, unpacked
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet


@st.composite
def bits(draw, sets=1):
    """A layout, ticket names, and ``sets`` boolean arrays ``[K, N]``."""
    shapes = draw(st.lists(st.lists(st.integers(1, 3), max_size=2).map(tuple), min_size=1, max_size=4))
    layout = Layout(tuple(f"layer{i}" for i in range(len(shapes))), tuple(shapes))
    K = draw(st.integers(1, 4))
    row = st.lists(st.booleans(), min_size=layout.size, max_size=layout.size)
    arrays = [np.array(draw(st.lists(row, min_size=K, max_size=K)), dtype=bool) for _ in range(sets)]
    return layout, [f"ticket{k}" for k in range(K)], *arrays


def build(layout, names, array_KN):
    return MaskSet(layout, {name: torch.from_numpy(row) for name, row in zip(names, array_KN, strict=True)})


def example():
    layout = Layout(("a", "b"), ((2, 2), (3,)))
    return MaskSet(
        layout,
        {
            "cat": torch.tensor([1, 1, 0, 0, 1, 0, 0]),
            "dog": torch.tensor([1, 0, 1, 0, 1, 1, 0]),
            "owl": torch.tensor([0, 0, 0, 0, 0, 0, 0]),
        },
    )


@settings(max_examples=60, deadline=None)
@given(bits(sets=2))
def test_algebra_agrees_with_numpy_and_leaves_its_operands_alone(drawn):
    layout, names, a, b = drawn
    A, B = build(layout, names, a.copy()), build(layout, names, b.copy())
    for result, wanted in ((A & B, a & b), (A | B, a | b), (A - B, a & ~b)):
        assert np.array_equal(result.masks_KN.numpy(), wanted)
        assert (result.names, result.scope) == (A.names, A.scope)
        result.masks_KN.logical_not_()  # the result is new: nothing below may change
    assert (A <= B) == bool((a <= b).all())
    assert (A >= B) == bool((a >= b).all())
    assert (A == B) == bool((a == b).all())
    assert np.array_equal(A.masks_KN.numpy(), a)
    assert np.array_equal(B.masks_KN.numpy(), b)


@settings(max_examples=60, deadline=None)
@given(bits(sets=2))
def test_laws_of_sets(drawn):
    layout, names, a, b = drawn
    A, B = build(layout, names, a), build(layout, names, b)
    assert A & A == A | A == A
    assert A & B == B & A <= A <= A | B == B | A
    assert (A - B) | (A & B) == A
    assert ((A - B) & B).union().sum() == 0


@settings(max_examples=60, deadline=None)
@given(bits(sets=2))
def test_a_packed_set_is_the_same_set(drawn):
    layout, names, a, b = drawn
    plain, other = build(layout, names, a), build(layout, names, b)

    def packed():
        return MaskSet.unpack(layout, names, plain.pack())

    for read in (
        lambda m: m.masks_KN,
        lambda m: torch.stack(list(m.rows())),
        lambda m: m[names[-1]],
        lambda m: m.union(),
        lambda m: m.core(),
        lambda m: m.counts_KL(),
        lambda m: m.overlaps(),
        lambda m: m.pack(),
        lambda m: m.select(names[::-1]).masks_KN,
        lambda m: m.replace(names[0], other[names[0]]).masks_KN,
        lambda m: (m & other).masks_KN,
    ):
        assert torch.equal(read(packed()), read(plain))
    assert packed() == plain
    assert plain == packed()
    assert (packed() == other) == (plain == other)
    assert (packed().counts, packed().digest()) == (plain.counts, plain.digest())


@settings(max_examples=60, deadline=None)
@given(bits())
def test_bits_are_unpacked_alike_by_numpy_and_by_torch(drawn):
    _, _, a = drawn
    bits_KM = packed(torch.from_numpy(a))
    assert np.array_equal(unpacked(bits_KM, a.shape[1]).numpy(), a)
    assert np.array_equal(torch.vmap(lambda bits_M: unpacked(bits_M, a.shape[1]))(bits_KM).numpy(), a)


@settings(max_examples=60, deadline=None)
@given(bits())
def test_union_core_and_counts_agree_with_sets(drawn):
    layout, names, a = drawn
    masks = build(layout, names, a)
    kept = [set(np.flatnonzero(row)) for row in a]
    assert set(np.flatnonzero(masks.union())) == set.union(*kept)
    assert set(np.flatnonzero(masks.core())) == set.intersection(*kept)
    assert masks.counts == {name: len(k) for name, k in zip(names, kept, strict=True)}
    assert masks.density == pytest.approx(a.mean())
    assert masks.densities() == {name: row.sum() / a.shape[1] for name, row in zip(names, a, strict=True)}
    per_layer = [[int(part.sum()) for part in np.split(row, layout.bounds[1:-1])] for row in a]
    assert masks.counts_KL().tolist() == per_layer
    for name, counts in zip(names, per_layer, strict=True):
        shares = zip(layout.names, counts, layout.sizes, strict=True)
        assert masks.layer_densities(name) == {layer: count / size for layer, count, size in shares}


@settings(max_examples=60, deadline=None)
@given(bits())
def test_overlaps_and_jaccard_agree_with_sets(drawn):
    layout, names, a = drawn
    masks = build(layout, names, a)
    kept = [set(np.flatnonzero(row)) for row in a]
    assert masks.overlaps().dtype == torch.int64
    assert masks.overlaps().tolist() == [[len(i & j) for j in kept] for i in kept]
    jaccard = [[len(i & j) / len(i | j) if i | j else 1.0 for j in kept] for i in kept]
    assert masks.jaccard().tolist() == jaccard


@settings(max_examples=60, deadline=None)
@given(bits())
def test_pack_and_unpack_are_inverse(drawn):
    layout, names, a = drawn
    masks = build(layout, names, a)
    packed = masks.pack()
    assert packed.dtype == torch.uint8
    assert packed.shape == (len(names), (layout.size + 7) // 8)
    assert np.array_equal(packed.numpy(), np.packbits(a, axis=1))
    back = MaskSet.unpack(layout, names, packed)
    assert back == masks
    assert back.masks_KN.dtype == torch.bool


@settings(max_examples=60, deadline=None)
@given(bits(sets=2))
def test_digest_and_hash_follow_equality(drawn):
    layout, names, a, b = drawn
    A, B = build(layout, names, a), build(layout, names, b)
    assert (A == B) == (A.digest() == B.digest())
    same = build(layout, names, a)
    assert same.digest() == A.digest()
    assert hash(same) == hash(A)
    assert len({A, same}) == 1


def test_the_digest_tells_names_layouts_and_padding_apart():
    ones = torch.ones(4)
    first = MaskSet(Layout(("w",), ((4,),)), {"cat": ones})
    others = [
        MaskSet(Layout(("w",), ((4,),)), {"dog": ones}),
        MaskSet(Layout(("v",), ((4,),)), {"cat": ones}),
        MaskSet(Layout(("w",), ((2, 2),)), {"cat": ones}),
        MaskSet(Layout(("w",), ((5,),)), {"cat": torch.tensor([1, 1, 1, 1, 0])}),
    ]
    assert len({m.digest() for m in [first, *others]}) == 5
    assert all(m != first for m in others)


def test_the_digest_does_not_change_between_versions():
    assert example().digest() == "069d2cda81296d2032221ba74906a92719f5af9c774c9ff7c43b09805bf4fb2b"


def test_equal_sets_have_equal_digests_however_the_shapes_are_spelt():
    plain = MaskSet(Layout(("w",), ((2, 2),)), {"cat": torch.ones(4)})
    spelt = MaskSet(Layout(("w",), (torch.zeros(2, 2).shape,)), {"cat": torch.ones(4)})
    assert plain == spelt
    assert hash(plain) == hash(spelt)


def test_a_mask_set_is_not_equal_to_something_else():
    assert example() != "masks"
    assert example() != example().select(["cat", "dog"])


def test_the_constructor_copies_its_input():
    mask_N = torch.ones(4, dtype=torch.bool)
    masks = MaskSet(Layout(("w",), ((4,),)), {"cat": mask_N})
    mask_N[0] = False
    assert masks["cat"].all()


def test_the_constructor_does_not_change_its_input():
    mask_N = torch.tensor([1, 0, 1, 0])
    MaskSet(Layout(("w",), ((4,),)), {"cat": mask_N}).masks_KN.logical_not_()
    assert mask_N.tolist() == [1, 0, 1, 0]
    assert mask_N.dtype == torch.int64


@pytest.mark.parametrize("K", [1, 2])
def test_union_and_core_are_new_tensors(K):
    masks = MaskSet.dense(Layout(("w",), ((4,),)), [f"ticket{k}" for k in range(K)])
    masks.union().zero_()
    masks.core().zero_()
    assert masks.density == 1


def test_stacked_takes_over_without_a_copy():
    masks_KN = torch.ones(2, 4, dtype=torch.bool)
    assert MaskSet.stacked(Layout(("w",), ((4,),)), ["a", "b"], masks_KN).masks_KN is masks_KN


def test_dense_keeps_everything():
    masks = MaskSet.dense(Layout(("w",), ((3, 2),)), ["a", "b"])
    assert masks.counts == {"a": 6, "b": 6}
    assert masks.density == 1


def test_layers_have_the_shapes_of_the_weights():
    layers = example().layers("dog")
    assert {name: m.tolist() for name, m in layers.items()} == {
        "a": [[True, False], [True, False]],
        "b": [True, True, False],
    }


def test_names_length_and_membership():
    masks = example()
    assert (len(masks), list(masks), masks.names) == (3, ["cat", "dog", "owl"], ("cat", "dog", "owl"))
    assert "cat" in masks
    assert "cow" not in masks
    assert masks.index("owl") == 2


def test_select_keeps_the_order_asked_for():
    masks = example()
    chosen = masks.select(["owl", "cat"])
    assert chosen.names == ("owl", "cat")
    assert torch.equal(chosen["cat"], masks["cat"])
    assert torch.equal(chosen["owl"], masks["owl"])
    chosen.masks_KN.fill_(True)
    assert masks == example()


@pytest.mark.parametrize("names", [[], ["cat", "cat"]])
def test_select_refuses_no_name_or_one_twice(names):
    with pytest.raises(MaskError, match="distinct and at least one"):
        example().select(names)


def test_replace_changes_one_ticket_in_a_new_set():
    masks, mask_N = example(), torch.tensor([0, 0, 0, 1, 0, 0, 1])
    new = masks.replace("dog", mask_N.bool())
    assert new["dog"].long().tolist() == mask_N.tolist()
    assert torch.equal(new["cat"], masks["cat"])
    assert torch.equal(new["owl"], masks["owl"])
    assert masks == example()


@pytest.mark.parametrize("shape", [(), (1,), (6,), (1, 7)])
def test_replace_refuses_another_shape_and_does_not_broadcast(shape):
    with pytest.raises(MaskError, match=r"'dog' has shape .* asks for \(7,\)"):
        example().replace("dog", torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize(
    "use",
    [
        lambda m: m["dgo"],
        lambda m: m.index("dgo"),
        lambda m: m.layers("dgo"),
        lambda m: m.layer_densities("dgo"),
        lambda m: m.select(["cat", "dgo"]),
        lambda m: m.replace("dgo", torch.ones(7)),
    ],
)
def test_an_unknown_ticket_lists_the_names(use):
    with pytest.raises(UnknownTicket, match=r"'dgo'; did you mean 'dog'\? Known: cat, dog, owl") as caught:
        use(example())
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, TombolaError)


@pytest.mark.parametrize("masks", [None, {}])
def test_a_set_without_masks_is_refused(masks):
    with pytest.raises(MaskError, match="at least one"):
        MaskSet(Layout(("w",), ((4,),)), masks)


@pytest.mark.parametrize("shape", [(), (3,), (5,), (2, 2), (1, 4)])
def test_a_mask_of_another_shape_is_refused_by_name(shape):
    good = torch.ones(4, dtype=torch.bool)
    with pytest.raises(MaskError, match=r"'bad' has shape .* asks for \(4,\)"):
        MaskSet(Layout(("w",), ((2, 2),)), {"good": good, "bad": torch.ones(shape, dtype=torch.bool)})


@pytest.mark.parametrize(
    "masks_KN",
    [
        torch.ones(2, 4),
        torch.ones(2, 4, dtype=torch.uint8),
        torch.ones(2, 5, dtype=torch.bool),
        torch.ones(3, 4, dtype=torch.bool),
        torch.ones(8, dtype=torch.bool),
    ],
)
def test_stacked_refuses_another_dtype_or_shape(masks_KN):
    with pytest.raises(MaskError, match=r"torch\.bool and \(2, 4\) are needed"):
        MaskSet.stacked(Layout(("w",), ((4,),)), ["a", "b"], masks_KN)


def test_stacked_refuses_duplicate_names_and_none():
    layout = Layout(("w",), ((4,),))
    with pytest.raises(MaskError, match="distinct"):
        MaskSet.stacked(layout, ["a", "a"], torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(MaskError, match="at least one"):
        MaskSet.dense(layout, [])


@pytest.mark.parametrize(
    "packed",
    [
        torch.zeros(3, 2, dtype=torch.uint8),
        torch.zeros(2, 1, dtype=torch.uint8),
        torch.zeros(3, 1, dtype=torch.int64),
        torch.zeros(3, dtype=torch.uint8),
    ],
)
def test_unpack_refuses_bytes_that_do_not_fit(packed):
    with pytest.raises(MaskError, match="do not hold 3 tickets of 7 weights"):
        MaskSet.unpack(example().scope, ["cat", "dog", "owl"], packed)


@pytest.mark.parametrize(
    "combine",
    [lambda a, b: a & b, lambda a, b: a | b, lambda a, b: a - b, lambda a, b: a <= b],
)
@pytest.mark.parametrize(
    "other",
    [
        MaskSet.dense(example().scope, ["cat", "dog", "cow"]),
        MaskSet.dense(example().scope, ["dog", "cat", "owl"]),
        MaskSet.dense(Layout(("a", "b"), ((4,), (3,))), ["cat", "dog", "owl"]),
    ],
)
def test_sets_of_other_tickets_or_scopes_cannot_be_combined(combine, other):
    with pytest.raises(MaskError, match="different tickets or scopes"):
        combine(example(), other)


def test_repr_says_what_is_in_the_set():
    assert repr(example()) == "MaskSet(3 tickets × 7 weights in 2 layers, density 0.333, union 5, core 0)"


def test_overlaps_are_exact_for_many_tickets_of_many_weights():
    K, N = 200, 300_000  # more weights than one block of the pairwise counts holds
    g = torch.Generator().manual_seed(0)
    masks_KN = torch.randint(0, 256, (K, N), generator=g, dtype=torch.uint8) < 200
    masks = MaskSet.stacked(Layout(("w",), ((N,),)), [f"t{k}" for k in range(K)], masks_KN)
    overlaps = masks.overlaps()
    rows = [0, 199]
    naive = [[int((masks_KN[i] & masks_KN[j]).sum()) for j in range(K)] for i in rows]
    assert overlaps[rows].tolist() == naive
    assert torch.equal(overlaps, overlaps.T)
    assert overlaps.diagonal().tolist() == masks_KN.sum(1).tolist()
