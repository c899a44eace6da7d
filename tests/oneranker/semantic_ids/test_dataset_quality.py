"""How codes fit a data set's users, against its tables read line by line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from oneranker.data.dataset import Dataset
from oneranker.errors import DataError
from oneranker.semantic_ids import IdSettings, Method, SemanticIds, fit
from oneranker.semantic_ids.dataset_quality import dataset_quality, history_pairs
from oneranker.semantic_ids.report import report, table, write_report

WARES, LISTED, PEOPLE = 40, 36, 12
SCHEMA = """
schema_version = 1
name = "market"
events = { file = "log.csv", user = "person", item = "ware", time = "second", group = "visit" }
items = { file = "wares.csv", key = "ware" }
split = { by = "time", train_until = 60, valid_until = 90 }
"""


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """Four wares have no row; people often take a ware that they took before."""
    rng = np.random.default_rng(0)
    lines = pd.DataFrame({"person": rng.integers(0, PEOPLE, 900), "second": rng.integers(0, 34, 900) * 3})
    lines["ware"] = (lines["person"] * 3 + rng.integers(0, 15, 900)) % WARES
    lines["visit"] = lines["person"] * 1000 + lines["second"]
    lines.to_csv(tmp_path / "log.csv", index=False)
    pd.DataFrame({"ware": range(LISTED)}).to_csv(tmp_path / "wares.csv", index=False)
    (tmp_path / "schema.toml").write_text(SCHEMA)
    return tmp_path


def some_ids(method: Method = Method.RQ_KMEANS) -> SemanticIds:
    """IDs of wares 5 .. 38 in another order: five of the catalogue are missing, three are too many."""
    names = [str(ware) for ware in np.random.default_rng(1).permutation(np.arange(5, 39))]
    points = np.random.default_rng(2).normal(size=(len(names), 8)).astype(np.float32)
    trees = method is Method.GAOQ
    settings = IdSettings(method=method, branching=(3, 4)) if trees else IdSettings(method=method, codes=4)
    return fit(points, settings, item_ids=names)


def coded_log(folder: Path) -> pd.DataFrame:
    log = pd.read_csv(folder / "log.csv")
    log["coded"] = log.ware.between(5, LISTED - 1)  # in the catalogue and with codes
    return log


def loop_pairs(log: pd.DataFrame) -> list[tuple[int, int]]:
    pairs = []
    for _, mine in log.groupby("person"):
        asked = mine[(mine.second >= 60) & (mine.second < 90)].second.min()
        history = set(mine[(mine.second < asked) & mine.coded].ware)
        pairs += [(i, j) for j in set(mine[(mine.second == asked) & mine.coded].ware) for i in history]
    return pairs


def loop_neighbours(log: pd.DataFrame, within: list[str]) -> dict[int, dict[int, float]]:
    """Positive pointwise mutual information, pair by pair."""
    weight: Counter[tuple[int, int]] = Counter()
    for _, basket in log[(log.second < 60) & log.coded].groupby(within):
        wares = set(basket.ware)
        for i in wares:
            for j in wares - {i}:
                weight[i, j] += 1 / (len(wares) - 1)
    total = sum(weight.values())
    share = {i: sum(w for (a, _), w in weight.items() if a == i) ** 0.75 for i, _ in weight}
    whole = sum(share.values())
    found: dict[int, dict[int, float]] = {}
    for (i, j), w in weight.items():
        information = np.log(w / total / (share[i] / whole * share[j] / whole))
        if information > 1e-6:
            found.setdefault(i, {})[j] = information
    return found


@pytest.mark.parametrize("method", [Method.RQ_KMEANS, Method.GAOQ], ids=lambda m: m.value)
def test_overlap_is_counted_over_targets_and_what_came_before_them(market: Path, method: Method) -> None:
    ids = some_ids(method)
    code = {int(item): path for item, path in zip(ids.item_ids, ids.codes.tolist(), strict=True)}
    pairs = loop_pairs(coded_log(market))
    found = dataset_quality(ids, Dataset.read(market))
    assert (found["name"], found["catalogue_items"]) == ("market", LISTED)
    assert (found["items_without_codes"], found["codes_outside_catalogue"]) == (5, 3)
    overlap = found["history_target"]
    assert overlap["pairs"] == overlap["pairs_counted"] == len(pairs) > 100
    for level in range(3):
        assert overlap["overlap"][level] == pytest.approx(np.mean([code[i][level] == code[j][level] for i, j in pairs]))


@pytest.mark.parametrize("grouped", [True, False], ids=["visits", "people"])
def test_recall_is_that_of_the_neighbours_most_chosen_together(market: Path, grouped: bool) -> None:
    if not grouped:
        path = market / "schema.toml"
        path.write_text(path.read_text().replace(', group = "visit"', ""))
    ids = some_ids()
    code = {int(item): path for item, path in zip(ids.item_ids, ids.codes.tolist(), strict=True)}
    row = {int(item): row for row, item in enumerate(ids.item_ids)}
    shares = []
    near = loop_neighbours(coded_log(market), ["person", "second"] if grouped else ["person"])
    for i, others in near.items():
        best = sorted(others, key=lambda j: (-np.float32(others[j]), row[j]))[:20]
        shares.append(np.mean([[code[j][:depth] == code[i][:depth] for depth in (1, 2, 3)] for j in best], axis=0))
    found = dataset_quality(ids, Dataset.read(market))["cooccurrence"]
    assert (found["within"], found["items"], found["top"]) == ("group" if grouped else "user", len(near), 20)
    np.testing.assert_allclose(found["prefix_recall"], np.mean(shares, axis=0))
    assert 0 < found["prefix_recall"][0] < 1


def test_of_many_pairs_a_fixed_sample_is_counted(market: Path) -> None:
    dataset = Dataset.read(market)
    rows = np.append([int(item) if int(item) < LISTED else -1 for item in dataset.tables.item_ids], -1)
    history, target, row, pairs = history_pairs(dataset, rows)
    every = set(zip(row.tolist(), history.tolist(), strict=True))
    assert len(every) == len(history) == pairs
    some, same_target, some_row, same_pairs = history_pairs(dataset, rows, most=pairs // 2)
    assert (len(some), same_pairs) == (pairs // 2, pairs)
    np.testing.assert_array_equal(same_target, target)
    drawn = set(zip(some_row.tolist(), some.tolist(), strict=True))
    assert drawn <= every
    assert len(drawn) > pairs / 3  # drawn from all over: 1 - exp(-1/2) of them
    assert {pair[0] for pair in drawn} == {pair[0] for pair in every}
    np.testing.assert_array_equal(history_pairs(dataset, rows, most=pairs // 2)[0], some)


def test_without_a_validation_part_nothing_is_counted(market: Path) -> None:
    path = market / "schema.toml"
    path.write_text(
        path.read_text().replace("train_until = 60, valid_until = 90", "train_until = 58, valid_until = 60")
    )
    found = dataset_quality(some_ids(), Dataset.read(market))["history_target"]
    assert found == {"targets": 0, "pairs": 0, "pairs_counted": 0, "overlap": [0.0] * 3}


def test_ids_of_other_items_are_refused(market: Path, tmp_path: Path) -> None:
    ids = fit(np.eye(4, dtype=np.float32), IdSettings(codes=4), item_ids=["a", "b", "c", "d"])
    with pytest.raises(DataError, match=r"none of 36 catalogue items, such as \['0', .* has semantic IDs; .* 4 items"):
        write_report(ids, tmp_path / "out", Dataset.read(market))
    assert not (tmp_path / "out").exists()


def test_the_report_and_its_table_tell_the_data_set(market: Path, tmp_path: Path) -> None:
    ids, dataset = some_ids(), Dataset.read(market)
    made = write_report(ids, tmp_path / "out", dataset)
    assert made["dataset"] == dataset_quality(ids, dataset) == report(ids, dataset)["dataset"]
    assert {key: value for key, value in made.items() if key != "dataset"} == {
        key: value for key, value in report(ids).items() if key != "dataset"
    }
    lines = [line for line in table(made).splitlines() if line.startswith("|")]
    names, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert names[-2:] == ["overlap", "recall"]
    overlap, recall = made["dataset"]["history_target"]["overlap"], made["dataset"]["cooccurrence"]["prefix_recall"]
    np.testing.assert_allclose([float(row[-2]) for row in rows], overlap, atol=6e-5)
    np.testing.assert_allclose([float(row[-1]) for row in rows], recall, atol=6e-5)
    assert "5 of them without codes; 3 items with codes are not in it" in table(made)
