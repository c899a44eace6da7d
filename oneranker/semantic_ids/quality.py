"""How good semantic IDs are: what their codes use, say and share. Measures only; nothing is fitted or drawn here.

The measures are those that the ReSID paper and its auditors report (resid.md §4), with their definitions made exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oneranker.errors import DataError
from oneranker.semantic_ids.centres import Floats, check_points, cluster_sums, nearest
from oneranker.semantic_ids.code_paths import CodePaths, prefix_numbers

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelUse:
    """How evenly one level uses its codes."""

    codes: int  # the level's width: all codes that it could use
    used: int
    entropy_bits: float  # of the code of an item drawn at random; log2(used) when all used codes hold equally many
    gini: float  # over the used codes: 0 = all equal


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """History and target: the share of history items that carry their target's code at one level."""

    shares: tuple[float, ...]  # per level
    pairs: int  # (history item, target) pairs that were counted


def level_use(ids: CodePaths, widths: tuple[int, ...] | None = None) -> tuple[LevelUse, ...]:
    """Count how every level uses its codes; `widths` are the levels' own where they are not all V."""
    levels = ids.codes.shape[1]
    widths = widths or (ids.codebooks.shape[1],) * levels
    return tuple(_use(ids.codes[:, level], width) for level, width in zip(range(levels), widths, strict=True))


def collisions(codes: NDArray[np.integer]) -> int:
    """Count items that share their whole path with an earlier one: N - different paths; 0 when all are unique.

    Shapes: codes int [N, L]
    """
    return len(codes) - len(np.unique(codes, axis=0))


def prefix_counts(codes: NDArray[np.integer]) -> tuple[int, ...]:
    """Count the different prefixes of each depth 1 .. L.

    Shapes: codes int [N, L]
    """
    return tuple(len(np.unique(codes[:, :depth], axis=0)) for depth in range(1, codes.shape[1] + 1))


def nearest_paths(ids: CodePaths, embeddings: NDArray[np.floating]) -> Integers:
    """Give every item its nearest code, level after level, as if items could share paths.

    `collisions` of these paths is the number that RQ-VAE and RQ-KMeans are reported with; `prefix_counts` has it per
    depth. It says nothing of a tree, whose codes are matched to anchors and not chosen by distance.

    Shapes: embeddings [N, D] -> int64 [N, L]

    Raises:
        DataError: embeddings are not finite, or not one for each item, as wide as the codebooks.
    """
    left = _points(ids, embeddings).copy()
    paths = np.empty(ids.codes.shape, np.int64)
    for level, book in enumerate(ids.codebooks):
        paths[:, level] = nearest(left, book)[0]
        left -= book[paths[:, level]]
    return paths


def codes_moved(ids: CodePaths, embeddings: NDArray[np.floating]) -> tuple[float, ...]:
    """Measure, per level, the share of items whose code is not the nearest, given their own codes above.

    This is what unique paths cost where the rule is the nearest code; see `nearest_paths` for trees.

    Shapes: embeddings [N, D]

    Raises:
        DataError: embeddings are not finite, or not one for each item, as wide as the codebooks.
    """
    left = _points(ids, embeddings).copy()
    shares = []
    for level, book in enumerate(ids.codebooks):
        shares.append(float((nearest(left, book)[0] != ids.codes[:, level]).mean()))
        left -= book[ids.codes[:, level]]
    return tuple(shares)


def reconstruction_errors(ids: CodePaths, embeddings: NDArray[np.floating]) -> tuple[float, ...]:
    """Measure, per depth, the mean squared error over the mean squared distance to the mean embedding: 0 is perfect.

    Shapes: embeddings [N, D]
    """
    points = _points(ids, embeddings)
    left, variance = points.copy(), _sum_of_squares(points - points.mean(axis=0))
    errors = []
    for level in range(ids.codes.shape[1]):
        left -= ids.codebooks[level, ids.codes[:, level]]
        errors.append(_ratio(_sum_of_squares(left), variance))
    return tuple(errors)


def explained_variance(ids: CodePaths, embeddings: NDArray[np.floating]) -> tuple[float, ...]:
    """Measure how much a code alone says of what its parent leaves open, per level: 1 - within / total.

    What the parent leaves open is the embedding minus the mean of the items with the same prefix (on level 1, of all);
    "total" is its sum of squares, "within" what remains about the mean of the items that share the code, whatever their
    parent. Codes that mean the same under every parent explain as much as prefix and code together; codes numbered at
    random under each of P parents about 1/P of that, which is much where parents are few.

    Shapes: embeddings [N, D]
    """
    points = _points(ids, embeddings)
    answer = []
    for level in range(ids.codes.shape[1]):
        left = _minus_mean(points, prefix_numbers(ids.codes[:, :level]))
        sums, count = _sums(left, prefix_numbers(ids.codes[:, level : level + 1]))
        between = float((np.square(sums).sum(axis=1) / count).sum())
        answer.append(_ratio(between, _sum_of_squares(left)))
    return tuple(answer)


def code_coherence(ids: CodePaths, embeddings: NDArray[np.floating]) -> tuple[float, ...]:
    """Measure the mean cosine of two items that share a code under different parents, per level (resid.md §4, item 3).

    The cosine is between embeddings minus the mean of the items with the same prefix [inferred centring]; the mean runs
    over pairs of items with equal code and different prefixes [inferred], 0 where there is none. Level 1 has one
    parent: there it runs over all pairs of different items with equal code. An item at its parent's mean has cosine 0.
    Sums suffice: those of each code, squared, minus those of each code under each parent (on level 1, of each item).

    Shapes: embeddings [N, D]
    """
    points = _points(ids, embeddings)
    answer = []
    for level in range(ids.codes.shape[1]):
        left = _minus_mean(points, prefix_numbers(ids.codes[:, :level]))
        norm = np.linalg.norm(left, axis=1, keepdims=True)
        size = float(np.sqrt(np.square(points, dtype=np.float64).sum() / len(points)))
        left = np.where(norm > 1e-6 * size, left / np.maximum(norm, 1e-30), 0).astype(np.float32)
        own = prefix_numbers(ids.codes[:, : level + 1]) if level else np.arange(len(left))
        cosines, pairs = _cosines(left, prefix_numbers(ids.codes[:, level : level + 1]))
        own_cosines, own_pairs = _cosines(left, own)
        answer.append(_ratio(cosines - own_cosines, pairs - own_pairs))
    return tuple(answer)


def code_overlap(
    codes: NDArray[np.integer], history: NDArray[np.integer], target: NDArray[np.integer], row: NDArray[np.integer]
) -> Overlap:
    """Measure how often a history item carries its target's code at the same level (resid.md §4, Table 9).

    Shapes: codes int [N, L]; history int [n], the item of each history event; row int [n], which target it belongs to;
        target int [m], the item of each target. Items of -1 (unknown) are left out

    Raises:
        DataError: lengths do not fit, or an item or a target is outside its table.
    """
    if history.shape != row.shape or history.ndim != 1 or target.ndim != 1:
        raise DataError(
            f"code overlap: history is {list(history.shape)}, row {list(row.shape)}, target {list(target.shape)}, "
            "expected [n], [n], [m]. Give one row number per history event."
        )
    _check_items(codes, history, -1)
    _check_items(codes, target, -1)
    if len(row) and not 0 <= row.min() <= row.max() < len(target):
        raise DataError(
            f"code overlap: row spans {row.min()} .. {row.max()}, expected 0 .. {len(target) - 1}, the rows of the "
            "targets. Number the targets from 0."
        )
    known = (history >= 0) & (target[row] >= 0)
    same = codes[history[known]] == codes[target[row[known]]]
    shares = same.mean(axis=0).tolist() if len(same) else [0.0] * codes.shape[1]
    return Overlap(shares=tuple(shares), pairs=len(same))


def prefix_recall(
    codes: NDArray[np.integer], pairs: NDArray[np.integer], weight: NDArray[np.floating], top: int = 10
) -> tuple[float, ...]:
    """Measure the share of an item's strongest co-occurring items that share its prefix, per depth (resid.md §4, D3).

    Every item with a neighbour counts the same: its share among its `top` heaviest neighbours (fewer where it has
    fewer; equal weights: the lower item first), averaged over items.

    Shapes: codes int [N, L]; pairs int [n, 2], item and neighbour, each direction on its own; weight [n]

    Raises:
        DataError: lengths do not fit, `top` < 1, or an item is outside the table.
    """
    if pairs.ndim != 2 or pairs.shape[1:] != (2,) or weight.shape != pairs.shape[:1] or top < 1:
        raise DataError(
            f"prefix recall: pairs are {list(pairs.shape)}, weight {list(weight.shape)}, top {top}, expected [n, 2], "
            "[n] and top >= 1. Give one weight per pair."
        )
    _check_items(codes, pairs, 0)
    order = np.lexsort((pairs[:, 1], -weight, pairs[:, 0]))
    item, neighbour = pairs[order].T
    opens = np.searchsorted(item, item)
    near = np.arange(len(item)) - opens < top
    item, neighbour = item[near], neighbour[near]
    _, which, count = np.unique(item, return_inverse=True, return_counts=True)
    if not len(count):
        return (0.0,) * codes.shape[1]
    shared = np.logical_and.accumulate(codes[item] == codes[neighbour], axis=1)  # [n, L]
    return tuple(
        float((np.bincount(which, shared[:, depth], len(count)) / count).mean()) for depth in range(codes.shape[1])
    )


def _use(codes: NDArray[np.integer], width: int) -> LevelUse:
    count = np.sort(np.unique(codes, return_counts=True)[1]).astype(np.float64)
    share = count / count.sum()
    n = len(count)
    gini = float(((2 * np.arange(1, n + 1) - n - 1) * count).sum() / (n * count.sum()))
    return LevelUse(codes=width, used=n, entropy_bits=float((share * np.log2(1 / share)).sum()), gini=gini)


def _points(ids: CodePaths, embeddings: NDArray[np.floating]) -> Floats:
    points = check_points(embeddings, "semantic-ID quality")
    expected = (len(ids.codes), ids.codebooks.shape[2])
    if points.shape != expected:
        raise DataError(
            f"semantic-ID quality: embeddings are {list(points.shape)}, expected {list(expected)}, one row for each "
            "item that has codes. Give the embeddings that the codes were fitted on."
        )
    return points


def _check_items(codes: NDArray[np.integer], items: NDArray[np.integer], least: int) -> None:
    if items.size and not least <= items.min() <= items.max() < len(codes):
        raise DataError(
            f"semantic-ID quality: items span {items.min()} .. {items.max()}, expected {least} .. {len(codes) - 1}. "
            "Use rows of the table of codes."
        )


def _sums(points: Floats, group: Integers) -> tuple[NDArray[np.float64], Integers]:
    """Sum the points of each group, and count them: float64 [G, D], int64 [G]."""
    count = np.bincount(group)
    return cluster_sums(points, group, len(count)), count


def _cosines(units: Floats, group: Integers) -> tuple[float, int]:
    """Sum u_i·u_j over all i, j of one group, i = j too, and count these pairs: Σ_ij u_i·u_j = ‖Σ u‖²."""
    sums, count = _sums(units, group)
    return float(np.vdot(sums, sums)), int(np.vdot(count, count))


def _minus_mean(points: Floats, group: Integers) -> Floats:
    sums, count = _sums(points, group)
    return points - (sums / count[:, None]).astype(np.float32)[group]


def _sum_of_squares(points: Floats) -> float:
    return float(np.einsum("nd,nd->n", points, points).sum(dtype=np.float64))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
