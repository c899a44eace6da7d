"""Input at the edge of what makes sense, through the interface: a clear error, or the documented answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fitted_ids import SETTINGS, D, drawn
from small_market import write_market

from oneranker.data.dataset import Dataset, catalogue_items
from oneranker.errors import DataError
from oneranker.semantic_ids import IdSettings, Method, SemanticIds, fit, from_dataset
from oneranker.semantic_ids.famae import FamaeSettings
from oneranker.semantic_ids.from_dataset import cooccurrence_embeddings, fit_from_dataset
from oneranker.semantic_ids.item_embeddings import item_embeddings
from oneranker.semantic_ids.sequences import famae_columns

FROM_EMBEDDINGS = [Method.RQ_KMEANS, Method.RQ_KMEANS_PLUS, Method.GAOQ]
SMALL = FamaeSettings(width=8, heads=2, layers=1, history=4, max_steps=2)
WHOLE = 64  # more than the market has items: nothing is cut off, and cosines do not depend on any basis
by_method = pytest.mark.parametrize("method", FROM_EMBEDDINGS, ids=lambda method: method.value)


def paths(ids: SemanticIds) -> set[tuple[int, ...]]:
    return {tuple(path) for path in ids.codes.tolist()}


def from_market(folder: Path, method: Method) -> SemanticIds:
    dataset = Dataset.read(folder)
    settings = SETTINGS[method]
    if settings.branching:
        settings = replace(settings, branching=(2, 2), spare_leaves=2)
    return fit_from_dataset(dataset, catalogue_items(dataset), settings, width=8, famae=SMALL)


@by_method
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_of_nan_or_infinity_are_named(method: Method, value: float) -> None:
    points = drawn()
    points[[7, 30], 3] = value
    with pytest.raises(DataError, match=r"2 rows hold NaN or infinity, first row 7, expected finite.*drop these items"):
        fit(points, SETTINGS[method])


@by_method
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_numbers_too_large_for_squared_distances_are_refused_and_large_ones_are_not(method: Method) -> None:
    points = drawn() / np.abs(drawn()).max()
    ids = fit(points * np.float32(2.0**48), SETTINGS[method])
    assert len(paths(ids)) == 40
    assert len(paths(ids.assign(["one more"], ids.embeddings[:1]))) == 41
    with pytest.raises(DataError, match=r"semantic IDs: 40 rows hold numbers beyond .*, first row 0.*Scale the embed"):
        fit(points * np.float32(1e20) + np.float32(1e19), SETTINGS[method])


@by_method
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_equal_embeddings_get_different_codes(method: Method) -> None:
    for points in (np.repeat(drawn(4), 10, axis=0), np.ones((40, D)), np.zeros((40, D))):
        ids = fit(points, SETTINGS[method])
        assert len(paths(ids)) == 40
        assert np.isfinite(ids.reconstruct()).all()
        assert len(paths(ids.assign(["one more"], points[:1]))) == 41


def test_fewer_items_than_codes_is_a_sparse_tree_with_rq_kmeans() -> None:
    for method in (Method.RQ_KMEANS, Method.RQ_KMEANS_PLUS):
        for items in (1, 2, 3):
            ids = fit(drawn(items), SETTINGS[method])
            assert ids.widths == (5, 5, 5)
            assert len(paths(ids)) == items
            assert np.isfinite(ids.codebooks).all()


def test_fewer_items_than_clusters_is_refused_with_gaoq_unless_it_may_choose() -> None:
    with pytest.raises(DataError, match=r"2 points for 3 clusters.*Ask for fewer clusters"):
        fit(drawn(2), SETTINGS[Method.GAOQ])
    for items in (1, 2, 3):
        assert len(paths(fit(drawn(items), IdSettings(method=Method.GAOQ)))) == items


def test_a_level_wider_than_65536_is_refused() -> None:
    for method in Method:
        with pytest.raises(ValueError, match="codes=65537, expected 1 to 65536"):
            IdSettings(method=method, codes=65_537)
    wide = IdSettings(method=Method.GAOQ, levels=2, branching=(65_537,))
    with pytest.raises(DataError, match=r"levels of \[65537, 1\] codes, expected at most 65536.*Use more levels"):
        fit(drawn(), wide)
    many = np.zeros((65_537, 1), np.float32)
    with pytest.raises(DataError, match=r"levels of \[1, 65537\] codes, expected at most 65536.*Use more levels"):
        fit(many, IdSettings(method=Method.GAOQ, levels=2, branching=(1,)))


def test_a_tree_too_wide_for_its_anchors_is_refused_before_embeddings_are_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    width = from_market(write_market(tmp_path / "learned"), Method.RESID).embeddings.shape[1]
    monkeypatch.setattr(from_dataset, "fit_famae", lambda *_: pytest.fail("FAMAE was trained"))
    dataset = Dataset.read(write_market(tmp_path / "market"))
    settings = IdSettings(method=Method.RESID, branching=(1, 1), spare_leaves=width)
    with pytest.raises(DataError, match=rf"\[1, 1, {width + 12}\] codes, expected at most {width} .*--anchors fitted"):
        fit_from_dataset(dataset, catalogue_items(dataset), settings, width=8, famae=SMALL)


@pytest.mark.parametrize("method", list(Method), ids=lambda method: method.value)
def test_a_field_of_one_value_or_of_none_says_nothing_and_breaks_nothing(method: Method, tmp_path: Path) -> None:
    ids = from_market(write_market(tmp_path / "market", sort=["same"] * 12, tags=[""] * 12), method)
    assert len(paths(ids)) == len(ids.item_ids) == 12
    assert np.isfinite(ids.embeddings).all()
    if ids.famae is not None:
        names = [field.name for field in ids.famae.fields]
        rows = ids.embeddings.reshape(12, len(names), SMALL.width)
        for name in ("sort", "tags 1"):
            assert len(np.unique(rows[:, names.index(name)], axis=0)) == 1


def test_a_column_called_like_the_slot_of_a_list_is_named_and_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = write_market(tmp_path / "market", **{"tags 1": ["x"] * 12})
    schema = (folder / "schema.toml").read_text()
    (folder / "schema.toml").write_text(schema.replace("content = { ", 'content = { "tags 1" = "category", '))
    with pytest.raises(DataError, match=r"content: the list 'tags' makes a field 'tags 1', which is a column.*rename"):
        from_market(folder, Method.RESID)


def test_a_value_that_training_never_saw_is_the_mean_of_its_field(tmp_path: Path) -> None:
    ids = from_market(write_market(tmp_path / "market"), Method.RESID)
    assert ids.famae is not None
    sorts = ["s0", "s1", "s2"] * 4
    later = Dataset.read(write_market(tmp_path / "later", listed=14, sort=[*sorts, "unheard of", ""]))
    items = catalogue_items(later)
    new = items.take(np.array([items.ids.index("12"), items.ids.index("13")]))
    found = ids.famae.embed(famae_columns(later.schema.content, new)).reshape(2, -1, SMALL.width)
    names = [field.name for field in ids.famae.fields]
    known = ids.embeddings.reshape(12, len(names), SMALL.width)
    for name in ("item_id", "sort"):
        at = names.index(name)
        mean = np.unique(known[:, at], axis=0).mean(axis=0)  # of the values, however many items have them
        np.testing.assert_allclose(found[:, at], np.stack([mean, mean]), atol=1e-6)
    grown = ids.assign(new.ids, found.reshape(2, -1))
    np.testing.assert_array_equal(grown.codes[:12], ids.codes)
    assert len(paths(grown)) == 14


@pytest.mark.parametrize("grouped", [True, False])
def test_chosen_together_means_in_one_visit_or_without_visits_by_one_person(grouped: bool, tmp_path: Path) -> None:
    folder = write_market(tmp_path / "market")
    if not grouped:
        schema = folder / "schema.toml"
        schema.write_text(schema.read_text().replace(', group = "visit"', ""))
    dataset = Dataset.read(folder)
    items = catalogue_items(dataset)
    found = cooccurrence_embeddings(dataset, items, WHOLE, seed=3)
    log = pd.read_csv(folder / "log.csv", dtype={"ware": str}).sort_values(["person", "second"], kind="stable")
    log = log[(log.second < 80) & log.ware.isin(items.ids)]
    wares = pd.read_csv(folder / "wares.csv", dtype={"ware": str}).set_index("ware").loc[items.ids]
    weight = wares.weight.to_numpy()
    quantiles = np.unique(np.quantile(weight, np.arange(1, 16) / 16))
    content = {
        "sort": wares.sort.to_numpy(object),
        "weight": np.array([int((quantiles <= each).sum()) for each in weight]),
        "tags": wares.tags.fillna("").to_numpy(object),
    }

    def together(column: str) -> np.ndarray:
        group, row = log[column].to_numpy(), np.array([items.ids.index(ware) for ware in log.ware])
        return item_embeddings(len(items.ids), WHOLE, content=content, group_id=group, item_row=row, seed=3)

    np.testing.assert_allclose(cosines(found), cosines(together("visit" if grouped else "person")), atol=1e-4)
    assert np.abs(cosines(found) - cosines(together("person" if grouped else "visit"))).max() > 0.1


def cosines(points: np.ndarray) -> np.ndarray:
    return points @ points.T
