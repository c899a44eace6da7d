from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from oneranker.errors import DataError
from oneranker.semantic_ids import balanced_kmeans
from oneranker.semantic_ids.balanced_assignment import assign_balanced
from oneranker.semantic_ids.balanced_kmeans import BalancedKMeansSettings, fit_balanced_kmeans
from oneranker.semantic_ids.centres import cluster_means

ONE_START = BalancedKMeansSettings(n_init=1)


def blobs(items: int, width: int = 6, spread: float = 0.3, seed: int = 0) -> NDArray[np.float32]:
    """Seven clusters of different sizes."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(7, width))
    which = rng.choice(7, items, p=np.arange(1, 8) / 28)
    return (centres[which] + spread * rng.normal(size=(items, width))).astype(np.float32)


def least_total(cost: NDArray[np.float32]) -> float:
    """Every cluster is a column per place; the places that must be filled cost so much less that they are."""
    N, k = cost.shape
    bonus = 1e3 * (1 + np.abs(cost).max())
    must, may = np.tile(cost.astype(np.float64) - bonus, N // k), cost.astype(np.float64)
    columns = np.hstack([must, may]) if N % k else must
    rows, places = linear_sum_assignment(columns)
    return float(cost[rows, places % k].sum(dtype=np.float64))


def total(cost: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    return float(cost[np.arange(len(cost)), labels].sum(dtype=np.float64))


def assert_balanced(labels: NDArray[np.int64], clusters: int) -> None:
    floor, more = divmod(len(labels), clusters)
    sizes = np.bincount(labels, minlength=clusters)
    assert sorted(sizes.tolist()) == [floor] * (clusters - more) + [floor + 1] * more


@pytest.mark.parametrize("kind", ["drawn", "ties", "equal rows", "one cluster is best for all", "far off zero"])
def test_the_assignment_to_fixed_centres_is_the_cheapest_one_with_equal_sizes(kind: str) -> None:
    rng = np.random.default_rng(len(kind))
    for _ in range(40):
        k = int(rng.integers(2, 9))
        N = int(rng.integers(k, 70))
        cost = rng.normal(size=(N, k)).astype(np.float32)
        if kind == "ties":
            cost = np.round(cost)
        elif kind == "equal rows":
            cost = np.tile(cost[:1], (N, 1))
        elif kind == "one cluster is best for all":
            cost[:, 0] -= 10
        elif kind == "far off zero":
            cost += 100 * rng.normal(size=k).astype(np.float32)
        labels = assign_balanced(cost).labels
        assert_balanced(labels, k)
        assert total(cost, labels) == pytest.approx(least_total(cost), abs=2e-6 * N * float(np.abs(cost).max()))


def test_the_cost_of_an_assignment_does_not_depend_on_the_prices_that_it_starts_from() -> None:
    points = blobs(500, 8)
    cost = ((points[:, None] - points[None, :12]) ** 2).sum(axis=2)
    expected = total(cost, assign_balanced(cost).labels)
    for seed in range(5):
        prices = 3 * np.random.default_rng(seed).normal(size=12)
        assert total(cost, assign_balanced(cost, prices).labels) == pytest.approx(expected, rel=1e-6)


def test_many_points_are_assigned_at_no_more_than_a_local_search_could_save() -> None:
    """Swapping two points, or moving one to where there is room, is the cheapest test of an optimum."""
    points = blobs(4000, 8)
    cost = ((points[:, None] - points[None, :16]) ** 2).sum(axis=2)
    labels = assign_balanced(cost).labels
    assert_balanced(labels, 16)
    move = cost - cost[np.arange(len(cost)), labels, None]
    cheapest = np.stack([move[labels == a].min(axis=0) for a in range(16)])
    assert (cheapest + cheapest.T).min() > -1e-4
    assert (cheapest[:, :, None] + cheapest[None] + cheapest.T[:, None, :]).min() > -1e-4  # three in a ring


@pytest.mark.parametrize(
    ("items", "clusters"),
    [(1, 1), (5, 1), (5, 5), (6, 5), (9, 5), (10, 5), (31, 30), (59, 30), (100, 7), (997, 64), (2000, 13)],
)
def test_every_cluster_has_floor_or_ceil_points(items: int, clusters: int) -> None:
    found = fit_balanced_kmeans(blobs(items), clusters, ONE_START)
    assert_balanced(found.labels, clusters)


def test_centres_are_means_and_the_objective_is_the_sum_of_squared_distances() -> None:
    points = blobs(200)
    found = fit_balanced_kmeans(points, 9)
    expected = 0.0
    for cluster in range(9):
        members = points[found.labels == cluster].astype(np.float64)
        np.testing.assert_allclose(found.centres[cluster], members.mean(axis=0), atol=1e-5)
        expected += float(((members - members.mean(axis=0)) ** 2).sum())
    assert found.objective == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(cluster_means(points, found.labels, 9), found.centres, atol=1e-6)


def test_the_seed_decides_and_equal_seeds_give_equal_labels() -> None:
    points = blobs(300, spread=1.0)
    one, again = (fit_balanced_kmeans(points, 12, ONE_START) for _ in range(2))
    np.testing.assert_array_equal(one.labels, again.labels)
    other = fit_balanced_kmeans(points, 12, BalancedKMeansSettings(n_init=1, seed=1))
    assert not np.array_equal(one.labels, other.labels)


def test_the_order_of_rows_does_not_change_the_clusters() -> None:
    points = blobs(400, spread=1.0)
    order = np.random.default_rng(1).permutation(400)
    one, other = fit_balanced_kmeans(points, 11, ONE_START), fit_balanced_kmeans(points[order], 11, ONE_START)
    assert other.objective == pytest.approx(one.objective, rel=1e-5)


def test_more_starts_are_never_worse() -> None:
    points = blobs(300, spread=1.0)
    ends = [fit_balanced_kmeans(points, 12, BalancedKMeansSettings(n_init=n)).objective for n in (1, 2, 5)]
    assert ends[0] >= ends[1] >= ends[2]


def test_neither_the_size_nor_the_place_of_the_points_matters() -> None:
    points = blobs(300)
    one = fit_balanced_kmeans(points, 8)
    for moved in (points * np.float32(1e-12), points * np.float32(1e12), points + 50):
        assert fit_balanced_kmeans(moved, 8).objective / moved.var() == pytest.approx(
            one.objective / points.var(), rel=1e-2
        ), moved[0]


def test_clusters_that_are_balanced_are_found() -> None:
    centres = 10 * np.eye(8, dtype=np.float32)
    points = np.repeat(centres, 25, axis=0) + np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    labels = fit_balanced_kmeans(points, 8).labels
    assert len(np.unique(labels.reshape(8, 25)[:, 0])) == 8
    assert (labels.reshape(8, 25) == labels.reshape(8, 25)[:, :1]).all()


@pytest.mark.parametrize("different", [1, 2, 5])
def test_equal_points_are_shared_among_clusters(different: int) -> None:
    points = np.repeat(blobs(different), 60 // different, axis=0)
    found = fit_balanced_kmeans(points, 8, ONE_START)
    assert_balanced(found.labels, 8)
    assert np.isfinite(found.centres).all()


def test_many_points_start_from_a_clustered_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    points = blobs(3000, spread=0.5)
    whole = fit_balanced_kmeans(points, 10)
    monkeypatch.setattr(balanced_kmeans, "_SEEDING_SAMPLE", 400)
    found = fit_balanced_kmeans(points, 10)
    assert_balanced(found.labels, 10)
    assert found.objective < 1.05 * whole.objective


def test_input_that_cannot_be_clustered_is_named() -> None:
    points = blobs(10)
    with pytest.raises(DataError, match=r"10 points for 11 clusters.*Ask for fewer"):
        fit_balanced_kmeans(points, 11)
    with pytest.raises(DataError, match="10 points for 0 clusters"):
        fit_balanced_kmeans(points, 0)
    points[3, 1] = np.nan
    with pytest.raises(DataError, match="first row 3"):
        fit_balanced_kmeans(points, 2)
    with pytest.raises(DataError, match="2 GiB"):
        fit_balanced_kmeans(np.zeros((50_000, 1)), 20_000)


def test_more_clusters_than_their_cube_allows_are_refused_unless_they_are_single_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(balanced_kmeans, "MOST_CLUSTERS", 10)
    assert_balanced(fit_balanced_kmeans(blobs(30), 10, ONE_START).labels, 10)
    with pytest.raises(DataError, match=r"30 points x 11 clusters.*at most 10 clusters.*one level more"):
        fit_balanced_kmeans(blobs(30), 11, ONE_START)
    assert_balanced(fit_balanced_kmeans(blobs(30), 30, ONE_START).labels, 30)


@pytest.mark.parametrize(("items", "clusters"), [(151_411, 128), (485_218, 512)])
def test_the_sizes_of_real_catalogues_are_allowed(items: int, clusters: int) -> None:
    assert clusters <= balanced_kmeans.MOST_CLUSTERS
    assert items * clusters <= balanced_kmeans.MOST_DISTANCES


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"n_init": 0}, {"max_iter": 0}, {"tolerance": -1.0}, {"tolerance": float("nan")}):
        with pytest.raises(ValueError, match="expected n_init"):
            BalancedKMeansSettings(**wrong)  # type: ignore[arg-type]
