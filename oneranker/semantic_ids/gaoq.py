"""GAOQ: balanced hierarchical clustering whose codes mean the same under every parent (ReSID; resid.md §2).

Level 1 is balanced K-means and its labels. On every level between, each prefix is split by balanced K-means, and its
children are matched to the anchors of the level. On the last level the items of a prefix are matched themselves, so
that no two items share a path. Nothing is learnt, and L, the branching factors and the embeddings are the caller's.

Of the paper, what its text leaves open follows the ports named there [port]: g_l = b_l, g_L = the largest group, a
prefix's only item gets code 0. Unlike the port, codes that no child was matched to keep their number, and are unused.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from oneranker.errors import DataError
from oneranker.semantic_ids.balanced_kmeans import MOST_CLUSTERS, BalancedKMeansSettings, fit_balanced_kmeans
from oneranker.semantic_ids.centres import Floats, check_points, cluster_means
from oneranker.semantic_ids.code_anchors import fitted_anchors, match, orthogonal_anchors
from oneranker.semantic_ids.code_paths import CodePaths, mean_codebooks
from oneranker.semantic_ids.gaoq_tree import GaoqTree

logger = logging.getLogger(__name__)

Integers = NDArray[np.int64]
WIDEST_LEVEL = 1 << 16
_ITEMS_PER_LEAF_PREFIX = 15  # App. G of the paper: 10 to 20 times fewer prefixes than items (resid.md §2.4)


class Indexing(Enum):
    """What decides the number of a child."""

    ORTHOGONAL = "orthogonal"  # random orthonormal anchors, as in the paper
    FITTED = "fitted"  # anchors fitted to the residual directions
    LOCAL = "local"  # no anchors: the clustering's own numbers, the baseline Q2 of the paper


@dataclass(frozen=True, slots=True, kw_only=True)
class GaoqSettings:
    """The tree's shape and how its codes are numbered."""

    levels: int = 3
    branching: tuple[int, ...] | None = None  # of all levels but the last, whose width follows; None: `rule_of_thumb`
    indexing: Indexing = Indexing.ORTHOGONAL
    codes: int | None = None  # the most that a level may have; None: 65,536
    spare_leaves: int = 0  # last codes beyond the largest group: room for items that come later
    kmeans: BalancedKMeansSettings = field(default_factory=BalancedKMeansSettings)
    seed: int = 0  # of the anchors

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise ValueError(f"GAOQ: levels={self.levels}, expected at least 2")
        if self.branching is not None and (len(self.branching) != self.levels - 1 or min(self.branching) < 1):
            raise ValueError(
                f"GAOQ: branching={self.branching}, expected {self.levels - 1} factors >= 1, one for each level but "
                f"the last of levels={self.levels}"
            )
        if self.codes is not None and self.codes < 1:
            raise ValueError(f"GAOQ: codes={self.codes}, expected at least 1; raise it")
        if self.spare_leaves < 0:
            raise ValueError(f"GAOQ: spare_leaves={self.spare_leaves}, expected >= 0")


def rule_of_thumb(items: int, levels: int, most: int, spare_leaves: int = 0) -> tuple[int, ...]:
    """Choose equal branching factors whose product is about a 15th of the items (resid.md §2.4: 10 to 20 times fewer).

    No factor exceeds `most`; where the last level would, the factors are larger, as far as `most` allows.
    """
    root = 1 / (levels - 1)
    each = round((items / _ITEMS_PER_LEAF_PREFIX) ** root)
    least = math.ceil((items / max(1, most - spare_leaves)) ** root)
    return (max(1, min(max(each, least), most, items, MOST_CLUSTERS)),) * (levels - 1)


def level_widths(items: int, embedding_width: int, settings: GaoqSettings) -> tuple[int, ...]:
    """Say how many codes each level of the tree of N items will have; all but the last are the branching factors.

    Shapes: -> [L]

    Raises:
        DataError: a level would have more than `codes`, or more than 65,536, or anchors must be orthogonal and a level
            from the second on would have more codes than the embeddings have dimensions.
    """
    most = min(settings.codes or WIDEST_LEVEL, WIDEST_LEVEL)
    anchors = embedding_width if settings.indexing is Indexing.ORTHOGONAL else WIDEST_LEVEL
    branching = settings.branching or rule_of_thumb(items, settings.levels, min(most, anchors), settings.spare_leaves)
    # groups differ by one item at most, so the largest follows from the numbers alone
    widths = (*branching, -(-items // math.prod(branching)) + settings.spare_leaves)
    if max(widths) > most:
        raise DataError(
            f"GAOQ: {items} items need levels of {list(widths)} codes, expected at most {most} in each. Use more levels"
            f"{', raise codes' if most < WIDEST_LEVEL else ''} or give branching factors that share items more evenly."
        )
    if max(widths[1:]) > anchors:
        raise DataError(
            f"GAOQ: {items} items need levels of {list(widths)} codes, expected at most {anchors} in each after the "
            f"first: embeddings of width {anchors} have no more orthogonal anchors. Use more levels, branching factors "
            "whose first is larger, wider embeddings, or anchors fitted (--anchors fitted)."
        )
    return widths


def fit_gaoq(embeddings: NDArray[np.floating], settings: GaoqSettings | None = None) -> GaoqTree:
    """Fit the tree and give every item its own path; the same input and seeds give the same codes.

    Codebooks live in the space of the embeddings: level 1 holds the centroids, level l the mean of what the levels
    above leave of the items with that code. Equal items get different last codes, in an order of no meaning.

    Shapes: embeddings [N, D] -> codes int32 [N, L], codebooks float32 [L, V, D], V the widest level

    Raises:
        DataError: a number is not finite, there are fewer items than level-1 clusters, a level would be too wide
            (`level_widths`), or a clustering too large (`fit_balanced_kmeans`).
    """
    settings = settings or GaoqSettings()
    points = check_points(embeddings, "GAOQ")
    widths = level_widths(len(points), points.shape[1], settings)
    first = fit_balanced_kmeans(points, widths[0], settings.kmeans)
    codes = first.labels[:, None].astype(np.int64)
    prefixes = [np.arange(widths[0])[:, None]]
    centroids, anchors = [first.centres], []
    for level, width in enumerate(widths[1:], start=2):
        start = time.perf_counter()
        last = level == settings.levels
        groups = _groups(prefixes[-1], codes)
        children = [np.arange(len(rows)) for rows in groups] if last else _split(points, groups, width, settings.kmeans)
        means = [_means(points[rows], of) for rows, of in zip(groups, children, strict=True)]
        directions = [mean - up for mean, up in zip(means, centroids[-1], strict=True)]
        anchors.append(_anchors(directions, width, [settings.seed, level], settings.indexing))
        numbers = [_numbers(each, anchors[-1], last=last) for each in directions]
        code = np.empty(len(points), np.int64)
        for rows, of, number in zip(groups, children, numbers, strict=True):
            code[rows] = number[of]
        if not last:
            prefixes.append(_grown(prefixes[-1], numbers))
            centroids.append(np.concatenate(means))
        codes = np.concatenate([codes, code[:, None]], axis=1)
        logger.info("GAOQ: level %d of %d, %.1f s", level, settings.levels, time.perf_counter() - start)
    ids = CodePaths(codes=codes.astype(np.int32), codebooks=mean_codebooks(points, codes, max(widths)))
    return GaoqTree(
        ids=ids,
        widths=widths,
        prefixes=tuple(each.astype(np.int32) for each in prefixes),
        centroids=tuple(centroids),
        anchors=tuple(anchors),
    )


def _groups(prefixes: Integers, codes: Integers) -> list[Integers]:
    """The rows of each prefix, in order of rows; every prefix has some."""
    table, prefix = np.unique(codes, axis=0, return_inverse=True)
    place = np.empty(len(prefixes), np.int64)
    place[np.lexsort(prefixes.T[::-1])] = np.arange(len(table))
    order = np.argsort(prefix.reshape(-1), kind="stable")
    opens = np.cumsum(np.bincount(prefix.reshape(-1)))[:-1]
    sorted_groups = np.split(order, opens)
    return [sorted_groups[at] for at in place.tolist()]


def _split(points: Floats, groups: list[Integers], most: int, kmeans: BalancedKMeansSettings) -> list[Integers]:
    """Cluster the items of each prefix; the seed is the same for each (resid.md §2.1). Labels of each group's rows."""
    return [fit_balanced_kmeans(points[rows], min(most, len(rows)), kmeans).labels for rows in groups]


def _means(points: Floats, labels: Integers) -> Floats:
    """The centroid of each child; where every child is one item, the item: float32 [n, D]."""
    count = int(labels.max()) + 1
    return points if count == len(points) else cluster_means(points, labels, count).astype(np.float32)


def _anchors(directions: list[Floats], count: int, seed: list[int], indexing: Indexing) -> Floats:
    """Anchors of one level: float32 [count, D]; none, [0, D], for local numbers."""
    width = directions[0].shape[1]
    if indexing is Indexing.LOCAL:
        return np.zeros((0, width), np.float32)
    if indexing is Indexing.FITTED:
        return fitted_anchors(directions, count, seed)
    return orthogonal_anchors(count, width, seed)


def _numbers(directions: Floats, anchors: Floats, *, last: bool) -> Integers:
    """Number the children of one prefix: int64 [n]."""
    if not len(anchors) or (last and len(directions) == 1):
        return np.arange(len(directions))
    return match(directions, anchors)


def _grown(prefixes: Integers, numbers: list[Integers]) -> Integers:
    """Append the children's codes to their parents' prefixes: int64 [P, l] -> int64 [P', l + 1]."""
    parents = np.repeat(prefixes, [len(each) for each in numbers], axis=0)
    return np.concatenate([parents, np.concatenate(numbers)[:, None]], axis=1)
