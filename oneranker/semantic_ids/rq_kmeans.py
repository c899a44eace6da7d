"""RQ-KMeans: K-means on residuals, level after level, with one leaf per item."""

from __future__ import annotations

import logging
import time

import numpy as np
from numpy.typing import NDArray

from oneranker.errors import DataError
from oneranker.semantic_ids.centres import check_points, fit_centres, root_mean_square_norm
from oneranker.semantic_ids.code_paths import CodePaths, prefix_numbers
from oneranker.semantic_ids.unique_leaves import place

logger = logging.getLogger(__name__)
_LEAST_SPREAD = 1e-3  # of the norm: where items are nearly equal, codes still differ by more than float32's rounding


def fit_rq_kmeans(embeddings: NDArray[np.floating], levels: int, codes: int, seed: int = 0) -> CodePaths:
    """Fit the codebooks and give every item its own path; the same input and seed give the same codes.

    Shapes: embeddings [N, D], levels L, codes V -> codes int32 [N, L], codebooks float32 [L, V, D]

    Raises:
        DataError: an embedding is not finite, or there are more items than paths.
    """
    points = check_points(embeddings, "semantic IDs")
    _check_room(len(points), levels, codes)
    spread = root_mean_square_norm(points - points.mean(axis=0, dtype=np.float64).astype(np.float32))
    size = max(spread, _LEAST_SPREAD * root_mean_square_norm(points))
    codebooks = np.empty((levels, codes, points.shape[1]), np.float32)
    paths = np.empty((len(points), levels), np.int64)
    residual = points
    for level in range(levels):
        start = time.perf_counter()
        codebooks[level] = fit_centres(residual, codes, seed + level, size=size)
        parent = prefix_numbers(paths[:, :level])
        paths[:, level] = place(residual, parent, codebooks[level], codes ** (levels - 1 - level))
        residual = residual - codebooks[level, paths[:, level]]
        logger.info("semantic IDs: level %d of %d, %.1f s", level + 1, levels, time.perf_counter() - start)
    return CodePaths(codes=paths.astype(np.int32), codebooks=codebooks)


def add_items(known: CodePaths, embeddings: NDArray[np.floating]) -> CodePaths:
    """Give new items paths in an existing code space; no known item changes its path.

    Shapes: embeddings [n, D] of the new items -> codes int32 [N+n, L], known items first

    Raises:
        DataError: an embedding is not finite or of another width, or no path is left.
    """
    new = check_points(embeddings, "semantic IDs")
    levels, codes, width = known.codebooks.shape
    if new.shape[1] != width:
        raise DataError(
            f"semantic IDs: new embeddings are {list(new.shape)}, expected width {width}, that of the codebooks. "
            "Embed new items in the same space."
        )
    items = len(known.codes)
    _check_room(items + len(new), levels, codes)
    paths = np.concatenate([known.codes, np.full((len(new), levels), -1)]).astype(np.int64)
    residual = new
    for level in range(levels):
        parent = prefix_numbers(paths[:, :level])
        standing = parent[:items] * codes + known.codes[:, level]
        code = place(residual, parent[items:], known.codebooks[level], codes ** (levels - 1 - level), standing)
        paths[items:, level] = code
        residual = residual - known.codebooks[level, code]
    return CodePaths(codes=paths.astype(np.int32), codebooks=known.codebooks)


def _check_room(items: int, levels: int, codes: int) -> None:
    if levels < 1 or codes < 1:
        raise DataError(f"semantic IDs: got L={levels}, V={codes}, expected both >= 1. Change levels or codes.")
    if items > codes**levels:
        raise DataError(
            f"semantic IDs: got {items} items, expected at most V**L = {codes}**{levels} = {codes**levels} paths. "
            "Raise the codes per level or the levels."
        )
