"""RQ-KMeans: K-means on residuals, level after level, with one leaf per item."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from oneranker.errors import DataError
from oneranker.semantic_ids.centres import Floats, check_points, fit_centres, nearest, root_mean_square_norm
from oneranker.semantic_ids.unique_leaves import place

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticIds:
    """One path of L codes per item, and what each code stands for.

    Shapes: codes int32 [N, L], codebooks float32 [L, V, D]
    """

    codes: NDArray[np.int32]
    codebooks: Floats

    def reconstruct(self, codes: NDArray[np.integer] | None = None) -> Floats:
        """Sum the code embeddings along each path; a path may also be a prefix of l <= L codes.

        Shapes: codes int [n, l] (default: all items) -> float32 [n, D]
        """
        codes = self.codes if codes is None else codes
        total = np.zeros((len(codes), self.codebooks.shape[2]), np.float32)
        for level in range(codes.shape[1]):
            total += self.codebooks[level, codes[:, level]]
        return total

    def report(self, embeddings: NDArray[np.floating]) -> dict[str, object]:
        """Say how good the codes are for the embeddings that they were fitted on.

        utilisation: share of the V codes in use, per level; relative_error: squared error over the variance, per
        level; last_code_moved: share of items whose last code is not the nearest one, so that leaves stay unique.

        Shapes: embeddings [N, D]
        """
        points = check_points(embeddings, "semantic IDs")
        items, levels = self.codes.shape
        variance = float(((points - points.mean(axis=0)) ** 2).sum(axis=1).mean())
        errors = [
            float(((points - self.reconstruct(self.codes[:, :depth])) ** 2).sum(axis=1).mean())
            for depth in range(1, levels + 1)
        ]
        before_last = points - self.reconstruct(self.codes[:, :-1])
        moved = nearest(before_last, self.codebooks[-1])[0] != self.codes[:, -1]
        _, in_prefix = np.unique(self.codes[:, :-1], axis=0, return_counts=True)
        V = self.codebooks.shape[1]
        return {
            "items": items,
            "levels": levels,
            "codes": V,
            "utilisation": [len(np.unique(self.codes[:, level])) / V for level in range(levels)],
            "mean_squared_error": errors[-1],
            "relative_error": [error / variance if variance else 0.0 for error in errors],
            "last_code_moved": float(moved.mean()),
            "prefixes": len(in_prefix),
            "largest_prefix": int(in_prefix.max()),
        }

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"codes": self.codes, "codebooks": self.codebooks}, path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            DataError: the file is missing, damaged, or holds something else.
        """
        try:
            tables = load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: got {error}, expected semantic IDs (safetensors). Fit them again.") from error
        found = {name: (table.dtype.name, table.ndim) for name, table in tables.items()}
        if found != {"codes": ("int32", 2), "codebooks": ("float32", 3)}:
            raise DataError(
                f"{path}: got {found}, expected codes int32 [N, L] and codebooks float32 [L, V, D]. Fit them again."
            )
        codes, codebooks = tables["codes"], tables["codebooks"]
        fits = codes.shape[1] == codebooks.shape[0] and codes.size and codebooks.size
        if not fits or codes.min() < 0 or codes.max() >= codebooks.shape[1]:
            raise DataError(
                f"{path}: codes {list(codes.shape)} do not fit codebooks {list(codebooks.shape)}, expected L codes "
                "within 0 .. V-1 per item. Fit them again."
            )
        return cls(codes=codes, codebooks=codebooks)


def fit_rq_kmeans(embeddings: NDArray[np.floating], levels: int, codes: int, seed: int = 0) -> SemanticIds:
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
    return SemanticIds(codes=paths.astype(np.int32), codebooks=codebooks)


def add_items(known: SemanticIds, embeddings: NDArray[np.floating]) -> SemanticIds:
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
    return SemanticIds(codes=paths.astype(np.int32), codebooks=known.codebooks)


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
