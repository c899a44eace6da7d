"""The tree that GAOQ fits: the items' paths and what is needed to give paths to new items without moving old ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from oneranker.errors import DataError
from oneranker.semantic_ids.centres import Floats, check_points, squared_distances
from oneranker.semantic_ids.code_anchors import match
from oneranker.semantic_ids.code_paths import CodePaths
from oneranker.semantic_ids.unique_leaves import nearest_with_room

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class GaoqTree:
    """Semantic IDs, the prefixes of every depth with their centroids, and the anchors of every level from the second.

    Anchors of a level that is numbered locally are [0, D].

    Shapes: prefixes[l] int32 [P_l, l + 1], centroids[l] float32 [P_l, D], l = 0 .. L-2; anchors[l] float32 [g, D], the
        anchors of level l + 2 in the paper's count
    """

    ids: CodePaths
    widths: tuple[int, ...]  # codes of each level
    prefixes: tuple[NDArray[np.int32], ...]
    centroids: tuple[Floats, ...]
    anchors: tuple[Floats, ...]

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tables = {"codes": self.ids.codes, "codebooks": self.ids.codebooks, "widths": np.array(self.widths, np.int64)}
        for name in ("prefixes", "centroids", "anchors"):
            tables |= {f"{name}.{level}": table for level, table in enumerate(getattr(self, name))}
        save_file({name: np.ascontiguousarray(table) for name, table in tables.items()}, path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            DataError: the file is missing, damaged, or holds something else.
        """
        try:
            tables = load_file(path)
            widths = tuple(tables["widths"].tolist())
            deep = range(len(widths) - 1)
            tree = cls(
                ids=CodePaths(codes=tables["codes"], codebooks=tables["codebooks"]),
                widths=widths,
                prefixes=tuple(tables[f"prefixes.{level}"] for level in deep),
                centroids=tuple(tables[f"centroids.{level}"] for level in deep),
                anchors=tuple(tables[f"anchors.{level}"] for level in deep),
            )
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise DataError(f"{path}: got {error}, expected a GAOQ tree (safetensors). Fit it again.") from error
        tree._check(path, len(tables))
        return tree

    def _check(self, path: Path, tables: int) -> None:
        codes, books, L = self.ids.codes, self.ids.codebooks, len(self.widths)
        fits = codes.ndim == 2 and books.ndim == 3 and codes.size and L >= 2 and tables == 3 * L
        fits = fits and codes.dtype == np.int32 and books.dtype == np.float32
        fits = fits and codes.shape[1] == L and books.shape[:2] == (L, max(self.widths))
        fits = fits and codes.min() >= 0 and bool((codes.max(axis=0) < self.widths).all())
        for level, (prefix, centroid, anchor) in enumerate(
            zip(self.prefixes, self.centroids, self.anchors, strict=True)
        ):
            fits = fits and prefix.shape == (len(prefix), level + 1) and centroid.shape == (len(prefix), books.shape[2])
            fits = fits and anchor.shape in ((self.widths[level + 1], books.shape[2]), (0, books.shape[2]))
        if not fits:
            raise DataError(
                f"{path}: got codes {list(codes.shape)}, codebooks {list(books.shape)} and widths {list(self.widths)} "
                "that do not fit each other, expected a GAOQ tree (safetensors). Fit it again."
            )


def assign_gaoq(known: GaoqTree, embeddings: NDArray[np.floating]) -> GaoqTree:
    """Give new items paths of the tree; no known item changes its path, and no prefix or code is added.

    Level by level an item goes to the nearest child that still has a free leaf below it; where more ask than there is
    room for, the nearest win and the others ask the next nearest. The items that come to one prefix are then matched to
    its free anchors, at the largest sum of cosines (local numbers: the lowest free ones, in order of rows). The last
    level's width is fixed: leave room with `spare_leaves` when fitting.

    Shapes: embeddings [n, D] of the new items -> codes int32 [N + n, L], known items first

    Raises:
        DataError: a number is not finite, the width is another, or there are more items than leaves.
    """
    new = check_points(embeddings, "GAOQ")
    codes, D, L = known.ids.codes, known.ids.codebooks.shape[2], len(known.widths)
    if new.shape[1] != D:
        raise DataError(
            f"GAOQ: new embeddings are {list(new.shape)}, expected width {D}, that of the codebooks. "
            "Embed new items in the same space."
        )
    leaves = len(known.prefixes[-1]) * known.widths[-1]
    if len(codes) + len(new) > leaves:
        raise DataError(
            f"GAOQ: got {len(new)} new items beside {len(codes)}, expected at most {leaves - len(codes)}: "
            f"{len(known.prefixes[-1])} prefixes x {known.widths[-1]} last codes are {leaves} leaves. "
            "Fit again with all items, or with more spare_leaves."
        )
    leaf = _leaf_of(known.prefixes[-1], codes)
    room = known.widths[-1] - np.bincount(leaf, minlength=len(known.prefixes[-1]))
    node = np.zeros(len(new), np.int64)  # the row of `prefixes` that an item has come to; before level 1, the root
    for level in range(L - 1):
        below = _leaf_of(known.prefixes[level], known.prefixes[-1])  # of each leaf prefix, its ancestor here
        free = np.bincount(below, room, len(known.prefixes[level])).astype(np.int64)
        up = known.prefixes[level][:, :-1]
        parent = _leaf_of(known.prefixes[level - 1], up) if level else np.zeros(len(up), np.int64)
        node = _descend(new, node, parent, known.centroids[level], free)
    last = _last_codes(known, new, node, leaf)
    paths = np.concatenate([known.prefixes[-1][node], last[:, None].astype(np.int32)], axis=1)
    return replace(known, ids=replace(known.ids, codes=np.concatenate([codes, paths])))


def _leaf_of(prefixes: NDArray[np.int32], codes: NDArray[np.int32]) -> Integers:
    """Find the row of `prefixes` [P, l] that each of `codes` [n, >= l] begins with: int64 [n]."""
    depth, n = prefixes.shape[1], len(prefixes)
    number = np.unique(np.concatenate([prefixes, codes[:, :depth]]), axis=0, return_inverse=True)[1].reshape(-1)
    row = np.empty(n, np.int64)
    row[number[:n]] = np.arange(n)
    return row[number[n:]]


def _descend(points: Floats, node: Integers, parent: Integers, centroids: Floats, free: Integers) -> Integers:
    """Let the items of each node choose among its children: rows of the next level's prefixes, int64 [n]."""
    below = np.empty_like(node)
    for at in np.unique(node).tolist():
        here, children = np.flatnonzero(node == at), np.flatnonzero(parent == at)
        distance = squared_distances(points[here], centroids[children])
        below[here] = children[nearest_with_room(distance, np.zeros_like(here), free[None, children])]
    return below


def _last_codes(known: GaoqTree, points: Floats, node: Integers, leaf: Integers) -> Integers:
    """Match the new items of each prefix to its free last codes: int64 [n]."""
    code, anchors = np.empty(len(points), np.int64), known.anchors[-1]
    for at in np.unique(node).tolist():
        here = np.flatnonzero(node == at)
        free = np.setdiff1d(np.arange(known.widths[-1]), known.ids.codes[leaf == at, -1])
        if not len(anchors):
            code[here] = free[: len(here)]
            continue
        code[here] = free[match(points[here] - known.centroids[-1][at], anchors[free])]
    return code
