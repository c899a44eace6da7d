"""K-means centres that always come in the number asked for, however few different points there are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from oneranker.errors import DataError

Floats = NDArray[np.float32]
_MOST_FITTED = 1 << 16  # points that K-means looks at; of more, a seeded sample
_SPARE_SPREAD = 0.05  # of the points' size: spare centres are near a real one, and never equal to it
_DISTANCES_AT_ONCE = 1 << 24
_LARGEST = 2.0**50  # of an embedding's numbers: float32 holds squares up to 2**128, also summed over items and codes
_ROWS_AT_ONCE = 1 << 14


def fit_centres(points: Floats, count: int, seed: int, *, size: float | None = None) -> Floats:
    """Fit `count` centres; where there are fewer different points, the rest are seeded neighbours of fitted ones.

    `size` is the root mean square norm that counts as "one", by default that of the points.

    Shapes: points float32 [N, D] -> float32 [count, D]
    """
    rng = np.random.default_rng(seed)
    size = root_mean_square_norm(points) if size is None else size
    if len(points) > _MOST_FITTED:
        points = points[np.sort(rng.choice(len(points), _MOST_FITTED, replace=False))]
    grid = np.round((points - points[:1]) / (1e-5 * (size or 1.0)))  # what differs by rounding alone is the same point
    different = len(np.unique(grid, axis=0))
    fitted = min(count, different)
    if fitted == 1:
        centres = points.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
    else:
        centres = KMeans(fitted, n_init=1, max_iter=50, random_state=seed).fit(points).cluster_centers_
    spare = rng.normal(size=(count - fitted, points.shape[1]))
    spare *= _SPARE_SPREAD * (size or 1.0) / np.sqrt(points.shape[1])
    return np.concatenate([centres, centres[np.arange(count - fitted) % fitted] + spare]).astype(np.float32)


def squared_distances(points: Floats, centres: Floats) -> Floats:
    """Compute ‖x - c‖² of every pair; use it for few points, `nearest` for many.

    Distances are taken from the mean of the centres: far off zero, squares would hide the differences from float32.

    Shapes: points float32 [N, D], centres float32 [V, D] -> float32 [N, V]
    """
    middle = centres.mean(axis=0, dtype=np.float64).astype(np.float32)
    points, centres = points - middle, centres - middle
    squares = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)
    return np.maximum(squares - 2 * points @ centres.T, 0)


def nearest(points: Floats, centres: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Find the nearest centre of each point and the squared distance to it; ties go to the lower number.

    Shapes: points float32 [N, D], centres float32 [V, D] -> int64 [N], float32 [N]
    """
    code, distance = np.empty(len(points), np.int64), np.empty(len(points), np.float32)
    for rows in row_slices(len(points), max(centres.shape), _DISTANCES_AT_ONCE):
        squares = squared_distances(points[rows], centres)
        code[rows] = squares.argmin(axis=1)
        distance[rows] = squares[np.arange(len(squares)), code[rows]]
    return code, distance


def cluster_sums(points: Floats, labels: NDArray[np.int64], clusters: int) -> NDArray[np.float64]:
    """Sum the points of each cluster.

    Shapes: points float32 [N, D], labels int64 [N] -> float64 [k, D]
    """
    total = np.zeros((clusters, points.shape[1]))
    for begin in range(0, len(points), _ROWS_AT_ONCE):
        part = labels[begin : begin + _ROWS_AT_ONCE]
        order = np.argsort(part, kind="stable")
        opens = np.flatnonzero(np.append(True, np.diff(part[order]) > 0))
        rows = points[begin : begin + _ROWS_AT_ONCE][order]
        total[part[order][opens]] += np.add.reduceat(rows, opens, axis=0, dtype=np.float64)
    return total


def cluster_means(points: Floats, labels: NDArray[np.int64], clusters: int) -> NDArray[np.float64]:
    """Average the points of each cluster, none of which is empty.

    Shapes: points float32 [N, D], labels int64 [N] -> float64 [k, D]
    """
    return cluster_sums(points, labels, clusters) / np.bincount(labels, minlength=clusters)[:, None]


def root_mean_square_norm(points: Floats) -> float:
    """Measure how large points are: the root of their mean squared norm.

    Shapes: points float32 [N, D]
    """
    return float(np.sqrt((points.astype(np.float64) ** 2).sum(axis=1).mean()))


def check_points(points: NDArray[np.floating], where: str) -> Floats:
    """Return the points as float32 [N, D].

    Raises:
        DataError: there are none, or a number is not finite, or so large that distances would not be.
    """
    if points.ndim != 2 or 0 in points.shape:
        raise DataError(
            f"{where}: points are {list(points.shape)}, expected [N, D] with N, D >= 1. Give one row per item."
        )
    points = np.ascontiguousarray(points, np.float32)
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        raise DataError(
            f"{where}: {int(bad.sum())} rows hold NaN or infinity, first row {int(bad.argmax())}, "
            "expected finite embeddings. Fix or drop these items."
        )
    bad = np.maximum(points.max(axis=1), -points.min(axis=1)) > _LARGEST
    if bad.any():
        raise DataError(
            f"{where}: {int(bad.sum())} rows hold numbers beyond {_LARGEST:.3g}, first row {int(bad.argmax())}, "
            "expected embeddings whose squared distances are finite in float32. Scale the embeddings."
        )
    return points


def row_slices(rows: int, width: int, cells: int) -> Iterator[slice]:
    """Cut the rows of a table into slices of at most so many cells, and of one row at least."""
    step = max(1, cells // width)
    yield from (slice(begin, begin + step) for begin in range(0, rows, step))
