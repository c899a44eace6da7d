"""RQ-KMeans: K-means on residuals, level after level, with one leaf per item."""

from __future__ import annotations

import logging
import time

import numpy as np
from numpy.typing import NDArray

from oneranker.errors import DataError
from oneranker.semantic_ids.centres import check_points, fit_centres, root_mean_square_norm
from oneranker.semantic_ids.code_paths import CodePaths
from oneranker.semantic_ids.unique_leaves import place

logger = logging.getLogger(__name__)


def fit_rq_kmeans(embeddings: NDArray[np.floating], levels: int, codes: int, seed: int = 0) -> CodePaths:
    """Fit the codebooks and give every item its own path; the same input and seed give the same codes.

    Shapes: embeddings [N, D], levels L, codes V -> codes int32 [N, L], codebooks float32 [L, V, D]

    Raises:
        DataError: an embedding is not finite, or there are more items than paths.
    """
    points = check_points(embeddings, "semantic IDs")
    _check_room(len(points), levels, codes)
    size = root_mean_square_norm(points)
    codebooks = np.empty((levels, codes, points.shape[1]), np.float32)
    paths = np.empty((len(points), levels), np.int64)
    residual = points
    for level in range(levels):
        start = time.perf_counter()
        codebooks[level] = fit_centres(residual, codes, seed + level, size=size)
        paths[:, level] = place(residual, _parents(paths[:, :level]), codebooks[level], codes ** (levels - 1 - level))
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
    residual = np.concatenate([known.reconstruct(), new])
    for level in range(levels):
        taken, parent = paths[:, level], _parents(paths[:, :level])
        paths[:, level] = place(residual, parent, known.codebooks[level], codes ** (levels - 1 - level), taken)
        residual[items:] -= known.codebooks[level, paths[items:, level]]
    return CodePaths(codes=paths.astype(np.int32), codebooks=known.codebooks)


def _parents(prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the different prefixes: int [N, l] -> int64 [N]."""
    if not prefixes.shape[1]:
        return np.zeros(len(prefixes), np.int64)
    return np.unique(prefixes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _check_room(items: int, levels: int, codes: int) -> None:
    if levels < 1 or codes < 1:
        raise DataError(f"semantic IDs: got L={levels}, V={codes}, expected both >= 1. Change levels or codes.")
    if items > codes**levels:
        raise DataError(
            f"semantic IDs: got {items} items, expected at most V**L = {codes}**{levels} = {codes**levels} paths. "
            "Raise the codes per level or the levels."
        )
