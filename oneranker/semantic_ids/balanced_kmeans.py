"""Balanced K-means: Lloyd's iterations in which every assignment is the cheapest one with equal cluster sizes.

The problem of k-means-constrained (Bradley, Bennett, Demiriz 2000) with size_min = floor(N/k), size_max = ceil(N/k),
which GAOQ asks for (resid.md §2.3). There every assignment is a min-cost flow with N·k arcs; here it is a search for k
prices (`balanced_assignment`), so that an iteration costs about one matrix product: linear in items.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import kmeans_plusplus

from oneranker.errors import DataError
from oneranker.semantic_ids.balanced_assignment import assign_balanced
from oneranker.semantic_ids.centres import Floats, check_points, cluster_means

logger = logging.getLogger(__name__)

Integers = NDArray[np.int64]
MOST_DISTANCES = 1 << 29  # N x k float32: 2 GiB
MOST_CLUSTERS = (
    1024  # about k**3 time and k x k tables; one start on 16,384 points: 512 take 14 s of a core, 1024 take 68
)
_SEEDING_SAMPLE = 1 << 15  # points that k-means++ looks at, or this many times a cluster:
_SEEDING_PER_CLUSTER = 16
_TURNS_TO_COMPARE = 2
_ROWS_AT_ONCE = 1 << 13


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancedKMeansSettings:
    """How hard to look."""

    n_init: int = 3  # starts; the best is kept. ReSID's value (resid.md §2.3)
    max_iter: int = 100
    tolerance: float = 1e-4  # a start ends when an iteration lowers the objective by less than this share of it
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_init < 1 or self.max_iter < 1 or not self.tolerance >= 0:
            raise ValueError(f"{self}: expected n_init >= 1, max_iter >= 1, tolerance >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancedClusters:
    """Clusters whose sizes differ by at most one: N mod k of them hold ceil(N/k) points, the others floor(N/k).

    Shapes: labels int64 [N], centres float32 [k, D], the mean of each cluster
    """

    labels: Integers
    centres: Floats
    objective: float  # Σ ‖x - centre‖²
    iterations: int  # of the start that was kept


def fit_balanced_kmeans(
    points: NDArray[np.floating], clusters: int, settings: BalancedKMeansSettings | None = None
) -> BalancedClusters:
    """Fit `clusters` clusters of equal size; the same points and seed give the same labels.

    The order of the rows does not matter to the objective, but for rounding and for points that are equal. Rounding
    may differ between numbers of BLAS threads, and then a tie may fall the other way.

    Shapes: points [N, D]

    Raises:
        DataError: a number is not finite, there are fewer points than clusters, or N x k or k x k is too much (but for
            one cluster, or one of each point, which need no distances).
    """
    settings = settings or BalancedKMeansSettings()
    points = check_points(points, "balanced K-means")
    N = len(points)
    _check_count(N, clusters)
    if clusters in (1, N):
        labels = np.zeros(N, np.int64) if clusters == 1 else np.arange(N)
        return _clusters(points, labels, clusters, 0)
    scaled = _scaled(points)
    best: _Found | None = None
    for start in range(settings.n_init):
        began = time.perf_counter()
        found = _lloyd(scaled, _seeds(scaled, clusters, settings, start), settings)
        logger.debug("balanced K-means: start %d, %d turns, %.2f s", start, found.turns, time.perf_counter() - began)
        if best is None or found.objective < best.objective:
            best = found
    assert best is not None, "n_init >= 1"
    return _clusters(points, best.labels, clusters, best.turns)


def _scaled(points: Floats) -> Floats:
    """Move the points to mean 0 and size 1, so that float32 serves whatever their units; one copy, no wider ones."""
    scaled = points - points.mean(axis=0, dtype=np.float64).astype(np.float32)
    scaled /= max(-scaled.min(), scaled.max()) or np.float32(1)
    size = np.sqrt(np.einsum("nd,nd->n", scaled, scaled).mean(dtype=np.float64))
    scaled /= np.float32(size or 1.0)
    return scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    objective: float  # of the scaled points
    labels: Integers
    centres: Floats
    turns: int


def _lloyd(scaled: Floats, centres: Floats, settings: BalancedKMeansSettings) -> _Found:
    """Assign and average in turn; the objective never rises."""
    N, k = len(scaled), len(centres)
    total = float(np.einsum("nd,nd->n", scaled, scaled).sum(dtype=np.float64))
    cost = np.empty((N, k), np.float32)
    prices, labels, objective = None, np.zeros(0, np.int64), np.inf
    turns, settled = 0, False
    while turns < settings.max_iter and not settled:
        turns += 1
        np.matmul(scaled, (-2 * centres).T, out=cost)
        cost += np.square(centres).sum(axis=1)
        answer = assign_balanced(cost, prices)
        means = cluster_means(scaled, answer.labels, k)
        size = np.bincount(answer.labels, minlength=k)
        before, objective = objective, total - float(size @ np.square(means).sum(axis=1))
        settled = np.array_equal(labels, answer.labels) or before - objective <= settings.tolerance * objective
        labels, prices, centres = answer.labels, answer.prices, means.astype(np.float32)
    return _Found(objective=objective, labels=labels, centres=centres, turns=turns)


def _seeds(scaled: Floats, clusters: int, settings: BalancedKMeansSettings, start: int) -> Floats:
    """Find starting centres on a sample that does not depend on the order of the rows.

    k-means++ finds far groups, however few their points; points drawn at random fall where the points are, which is
    where clusters of equal size must be (measured: 2 % better where groups differ in size). Both take a few turns, and
    the better goes on. Of many points, the sample is clustered first: most turns then cost what the sample costs.
    """
    rng = np.random.default_rng([settings.seed, start])
    direction = rng.normal(size=(scaled.shape[1],)).astype(np.float32)
    order = np.argsort(scaled @ direction, kind="stable")
    most = max(_SEEDING_SAMPLE, _SEEDING_PER_CLUSTER * clusters)
    if len(order) > most:
        order = order[np.sort(rng.choice(len(order), most, replace=False))]
    sample = scaled[order]
    drawn = sample[rng.choice(len(sample), clusters, replace=False)]
    wide = sample.astype(np.float64)  # else scikit-learn converts it once for every centre
    spread = kmeans_plusplus(wide, clusters, random_state=int(rng.integers(2**31)))[0]
    del wide
    few = replace(settings, max_iter=_TURNS_TO_COMPARE)
    ends = [_lloyd(sample, centres, few) for centres in (drawn, np.asarray(spread, np.float32))]
    better = min(ends, key=lambda end: end.objective)
    return _lloyd(sample, better.centres, settings).centres if len(scaled) >= 2 * most else better.centres


def _clusters(points: Floats, labels: Integers, clusters: int, iterations: int) -> BalancedClusters:
    centres = cluster_means(points, labels, clusters).astype(np.float32)
    objective = 0.0
    for begin in range(0, len(points), _ROWS_AT_ONCE):
        rows = slice(begin, begin + _ROWS_AT_ONCE)
        objective += float(np.square(points[rows] - centres[labels[rows]], dtype=np.float64).sum())
    return BalancedClusters(labels=labels, centres=centres, objective=objective, iterations=iterations)


def _check_count(points: int, clusters: int) -> None:
    if not 1 <= clusters <= points:
        raise DataError(
            f"balanced K-means: got {points} points for {clusters} clusters, expected 1 <= clusters <= points. "
            "Ask for fewer clusters."
        )
    if clusters in (1, points):
        return
    if clusters > MOST_CLUSTERS or points * clusters > MOST_DISTANCES:
        raise DataError(
            f"balanced K-means: {points} points x {clusters} clusters are {points * clusters} distances, expected at "
            f"most {MOST_DISTANCES} (2 GiB), and at most {MOST_CLUSTERS} clusters, whose cube is the time. Use fewer "
            "clusters and one level more."
        )
