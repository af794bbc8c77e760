"""tombola semantics: similarity from records and ticket files, meanings, groups, the page and its chapter."""

import json
import math

import numpy as np
import pytest
import torch
import yaml

from tombola import TicketModel, scope
from tombola._utils.errors import DataError, RunError, UsageError
from tombola.cli.main import main
from tombola.lab.analysis.semantics import Named, power
from tombola.lab.experiments.cifar100 import CLUSTERS, NAMES, SUPERCLASSES
from tombola.lab.report.html import page
from tombola.lab.report.semantics import groups, meaning, states
from tombola.masks.maskset import MaskSet
from tombola.settings import Settings

TICKETS = ["airplane", "automobile", "ship", "truck", "cat", "dog", "deer", "horse"]
KIND = [0, 0, 0, 0, 1, 1, 1, 1]
NEAR = np.eye(8) * 0.5 + 0.1 + 0.4 * (np.array(KIND)[:, None] == np.array(KIND))


def similarity(aligned, seed=0, names=TICKETS):
    g = np.random.default_rng(seed)
    noise = g.normal(size=(len(names), len(names))) * 0.02
    values = (NEAR if aligned else 0.5) + noise + noise.T
    np.fill_diagonal(values, 1.0)
    return values


def write_run(path, seed=0, tickets=TICKETS, sources=("own", "twin", "shuffled")):
    path.mkdir(parents=True)
    config = {"experiment": None, "seed": seed, "settings": Settings().plain(), "methods": []}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    records = [
        {"event": "prune", "stage": "search-own-0.5", "round": 0, "ticket": t, "kept": 1} for t in tickets
    ]
    for i, source in enumerate(sources):
        for r, density in enumerate((0.75, 0.5)):
            for depth in ("all", "shallow", "deep"):
                values = similarity(source != "shuffled" and depth != "shallow", 10 * seed + i)
                row = {"event": "similarity", "kind": "kappa", "depth": depth, "density": density, "round": r}
                records.append({**row, "stage": f"search-{source}-0.5", "matrix": values.tolist()})
    (path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
    return path


@pytest.fixture
def runs(tmp_path):
    return [write_run(tmp_path / "g" / f"seed{seed}", seed) for seed in range(2)]


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "names.csv"
    lines = [",".join(["class", *TICKETS])]
    lines += [",".join([name, *map(str, row)]) for name, row in zip(TICKETS, NEAR, strict=True)]
    file.write_text("\n".join(lines))
    return file


def call(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code in (0, None)


def test_alignment_is_found_in_tickets_and_twins_and_not_in_a_shuffled_partition(
    runs, table, tmp_path, capsys, monkeypatch
):
    page_file, kept, figure = tmp_path / "s.md", runs[0].parent / "semantics.json", tmp_path / "f.svg"
    page_file.write_text("<!-- tables: g -->\n<!-- end of tables: g -->\n")
    options = ("--names", table, "--permutations", 39, "--json")
    call("semantics", runs[0].parent, *options, "--write", page_file, "--keep", kept, "--figure", figure)
    content = json.loads(capsys.readouterr().out)
    assert json.loads(kept.read_text()) == content
    rho = {(r["source"], r["depth"], r["removed"]): r for r in content["rows"]}
    assert {r["seeds"] for r in content["rows"]} == {2}
    for removed in (0.25, 0.5):
        for source in ("own", "twin"):
            assert rho[source, "deep", removed]["rho"] > 0.7
            assert rho[source, "deep", removed]["p"] <= 0.1  # 1 order in 35 gives the same two kinds
            assert abs(rho[source, "shallow", removed]["rho"]) < 0.5
        assert abs(rho["shuffled", "deep", removed]["rho"]) < 0.5
    ami = {(r["source"], r["depth"], r["removed"]): r["ami"] for r in content["groups"]}
    assert ami["own", "all", 0.5] == pytest.approx(1)
    assert ami["shuffled", "all", 0.5] < 0.5
    assert content["power"]["0.6"] > content["power"]["0.2"]
    assert "| the tickets | deep | 50.0% | 2 |" in page_file.read_text()
    assert figure.read_text().count("<svg") == 1
    text = page(runs)
    assert "Do tickets of related subsets look alike?" in text
    assert "over 28 pairs of 8 names" in text
    kept.write_text(json.dumps({**content, "experiment": "another"}))
    assert "Do tickets of related subsets look alike?" not in page(runs)
    kept.write_text("{")
    assert "Do tickets of related subsets look alike?" not in page(runs)


def test_ticket_files_are_read_where_no_similarity_was_recorded(tmp_path, convnet, random_masks):
    run = write_run(tmp_path / "run", sources=())
    names = TICKETS[:3]
    masks = random_masks(scope(convnet), names, 0.5)
    TicketModel(convnet, masks).save(run / "tickets" / "rtl-0.5.tickets")
    same = MaskSet(masks.scope, dict.fromkeys(names, masks.masks_KN[0]))
    TicketModel(convnet, same).save(run / "tickets" / "theta0_magnitude-0.5.tickets")
    (run / "tickets" / "twin-0.5.tickets").write_bytes(b"torn")
    unread = []
    ((_, found),) = states([run], "jaccard", unread).items()
    assert [(s.source, s.depth) for s in found] == [("own", "all"), ("theta0", "all")]
    assert np.allclose(found[0].similarity.values_KK, masks.jaccard().numpy())
    assert found[1].mean == 1
    assert len(unread) == 1
    assert "twin-0.5.tickets" in unread[0]


def test_a_run_without_records_joins_the_mean_of_those_with_them(tmp_path, convnet):
    recorded = write_run(tmp_path / "g" / "seed0", 0, sources=("own",))
    older = write_run(tmp_path / "g" / "seed1", 1, sources=())
    layout = scope(convnet)
    half = MaskSet(layout, {name: torch.arange(layout.size) % 2 == i % 2 for i, name in enumerate(TICKETS)})
    TicketModel(convnet, half).save(older / "tickets" / "rtl-0.5.tickets")
    ((_, found),) = states([recorded, older], "kappa").items()
    (whole,) = [s for s in found if (s.depth, s.removed) == ("all", 0.5)]
    assert (whole.seeds, whole.round) == (2, 1)


def test_runs_without_pairs_and_several_experiments_are_refused(tmp_path, runs, table, capsys):
    with pytest.raises(RunError, match="three tickets or more"):
        states([write_run(tmp_path / "none", sources=())])
    write_run(tmp_path / "other")
    with pytest.raises(SystemExit) as stopped:
        main(["semantics", str(tmp_path), "--names", str(table)])
    assert stopped.value.code == 2
    assert "several experiments" in capsys.readouterr().err


def test_superclasses_and_clusters_mean_what_their_classes_mean(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(100, 8))
    np.save(tmp_path / "v.npy", vectors)
    fine, _ = meaning(NAMES, str(tmp_path / "v.npy"))
    merged, what = meaning(list(SUPERCLASSES), str(tmp_path / "v.npy"))
    assert what == "the cosine of name embeddings"
    one, two = SUPERCLASSES["fish"].split(), SUPERCLASSES["trees"].split()
    by_hand = fine.values_KK[np.ix_([NAMES.index(n) for n in one], [NAMES.index(n) for n in two])].mean()
    places = [merged.names.index(n) for n in ("fish", "trees")]
    assert merged.values_KK[places[0], places[1]] == pytest.approx(by_hand)
    assert meaning(list(CLUSTERS), str(tmp_path / "v.npy"))[0].names == tuple(CLUSTERS)
    with pytest.raises(UsageError, match="no similarity is given for a"):
        meaning(["a", "b", "c"], str(tmp_path / "v.npy"))
    np.save(tmp_path / "u.npy", vectors[:4])
    with pytest.raises(DataError, match="one vector for each of 3 tickets"):
        meaning(["a", "b", "c"], str(tmp_path / "u.npy"))
    with pytest.raises((DataError, UsageError), match="cannot be read"):
        meaning(["a", "b", "c"], str(tmp_path / "w.npy"))
    with pytest.raises(UsageError, match="no meaning of names 'wordnte'"):
        meaning(["a", "b", "c"], "wordnte")


def test_known_groups(tmp_path):
    found, _ = groups(NAMES)
    assert found["trout"] == "fish"
    clusters, _ = groups(list(SUPERCLASSES))
    assert clusters["vehicles_1"] == "vehicles"
    assert clusters["non-insect_invertebrates"] == "reptiles and insects"  # three of its five classes
    assert groups(["left", "right"]) == ({}, "")
    (tmp_path / "g.json").write_text(json.dumps({"left": 1, "right": 2}))
    assert groups(["left"], tmp_path / "g.json")[0] == {"left": "1", "right": "2"}
    with pytest.raises(DataError, match="name to group"):
        groups(["left"], tmp_path / "absent.json")


def test_power_rises_with_the_correlation_and_is_the_level_where_there_is_none():
    near = Named.of(TICKETS, NEAR + similarity(False) * 0.1)
    none, some, much = (power(near, rho, trials=60, permutations=99) for rho in (0.0, 0.4, 0.8))
    assert none < 0.15 < some < much
    assert not math.isnan(much)
    with pytest.raises(UsageError, match="between -1 and 1"):
        power(near, 1.0)


def test_runs_that_only_train_differently_after_the_search_are_of_one_kind(runs):
    settings = yaml.safe_load((runs[1] / "config.yaml").read_text())
    settings |= {"experiment": "digits", "preset": "quick"}
    for path, changes in zip(runs, ({}, {"steps": 2, "shares": "size"}), strict=True):
        plain = {**settings, "settings": {**settings["settings"], **changes}}
        (path / "config.yaml").write_text(yaml.safe_dump(plain))
    (found,) = states(runs).values()
    assert {state.seeds for state in found} == {2}
    other = {**settings, "settings": {**settings["settings"], "T": 3}}
    (runs[1] / "config.yaml").write_text(yaml.safe_dump(other))
    assert len(states(runs)) == 2
