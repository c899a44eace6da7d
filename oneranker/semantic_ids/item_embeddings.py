"""Item embeddings without a trained encoder: what is chosen together, and what attributes say."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd

from oneranker.errors import DataError
from oneranker.semantic_ids.centres import Floats

logger = logging.getLogger(__name__)
_LONGEST_GROUP = 128  # longer groups are cut into runs of this many events, so that cost stays linear in events
_SMOOTHING = 0.75  # exponent on item counts in the PMI; keeps rare pairs from winning by being rare
_SVD_ROUNDS = 4


def item_embeddings(
    items: int,
    width: int,
    *,
    content: Mapping[str, ArrayLike] | None = None,
    group_id: NDArray[np.integer] | None = None,
    item_row: NDArray[np.integer] | None = None,
    seed: int = 0,
) -> Floats:
    """Embed each item: one half from items chosen together, one half from attributes; what is not given costs no half.

    Give training groups only. Events of one group stand in any place, in time order among themselves; rows of -1
    (unknown items) are skipped. A content value "" or None is missing, "a|b" is two values, numbers should come as
    buckets. An item about which a half knows nothing is zero there.

    Shapes: content columns [N] each, group_id int64 [n], item_row int64 [n] -> float32 [N, D]

    Raises:
        DataError: lengths do not fit, or rows are outside 0 .. N-1.
    """
    if items < 1 or width < 1:
        raise DataError(
            f"item embeddings: got {items} items of width {width}, expected both >= 1. Check the catalogue."
        )
    if (group_id is None) != (item_row is None):
        given, absent = ("item_row", "group_id") if group_id is None else ("group_id", "item_row")
        raise DataError(f"item embeddings: got {given} without {absent}, expected both or neither. Give both columns.")
    start = time.perf_counter()
    halves = []
    if group_id is not None and item_row is not None:
        halves.append(chosen_together(items, group_id, item_row))
    if content:
        halves.append(_attributes(items, content))
    halves = [half for half in halves if half.nnz]
    if not halves:
        logger.warning("item embeddings: no attributes and no item chosen together; semantic IDs will be arbitrary")
        drawn = np.random.default_rng(seed).normal(size=(items, width))
        return normalize(drawn).astype(np.float32)
    widths = [width] if len(halves) == 1 else [width - width // 2, width // 2]
    parts = [_reduce(half, size, seed) for half, size in zip(halves, widths, strict=True)]
    logger.info("item embeddings: %d items, width %d, %.1f s", items, width, time.perf_counter() - start)
    return np.concatenate(parts, axis=1) / np.float32(np.sqrt(len(parts)))


def chosen_together(items: int, group_id: NDArray[np.integer], item_row: NDArray[np.integer]) -> sparse.csr_matrix:
    """Measure positive pointwise mutual information of item pairs within a group; a group of k items weighs k, not k².

    Shapes: group_id int64 [n], item_row int64 [n] -> sparse float32 [N, N], symmetric, zero diagonal

    Raises:
        DataError: lengths do not fit, or rows are outside -1 .. N-1.
    """
    if group_id.ndim != 1 or group_id.shape != item_row.shape:
        raise DataError(
            f"item embeddings: group_id is {list(group_id.shape)} and item_row {list(item_row.shape)}, "
            "expected two columns of the same length. Give one pair per event."
        )
    if len(item_row) and (item_row.min() < -1 or item_row.max() >= items):
        raise DataError(
            f"item embeddings: item_row spans {item_row.min()} .. {item_row.max()}, expected -1 .. {items - 1}. "
            "Use rows of this catalogue."
        )
    known = item_row >= 0
    run = _runs(group_id[known])
    ones = np.ones(len(run), np.float32)
    bought = sparse.csr_matrix((ones, (run, item_row[known])), shape=(int(run.max(initial=-1)) + 1, items))
    bought.data[:] = 1  # a line twice in a basket is one item
    others = np.maximum(np.diff(bought.indptr) - 1, 1).astype(np.float32)
    weighed = sparse.diags_array(1 / others) @ bought
    pairs = (weighed.T @ bought).tocoo()  # [N, N]
    off = pairs.row != pairs.col
    row, column, weight = pairs.row[off], pairs.col[off], pairs.data[off].astype(np.float64)
    share = np.bincount(row, weight, minlength=items) ** _SMOOTHING
    share /= max(share.sum(), 1e-30)
    information = np.log(weight / max(weight.sum(), 1e-30) / np.maximum(share[row] * share[column], 1e-30))
    told = information > 0
    kept = information[told].astype(np.float32), (row[told], column[told])
    return sparse.csr_matrix(kept, shape=(items, items))


def _runs(group_id: NDArray[np.integer]) -> NDArray[np.int64]:
    """Number the groups 0, 1, ... and start a new number after every _LONGEST_GROUP events of a group."""
    if not len(group_id):
        return np.zeros(0, np.int64)
    order = np.argsort(group_id, kind="stable")
    ordered = group_id[order]
    opens = np.append(True, ordered[1:] != ordered[:-1])
    place = np.arange(len(ordered))
    within = place - np.maximum.accumulate(np.where(opens, place, 0))
    run = np.empty(len(ordered), np.int64)
    run[order] = np.cumsum(opens | (within % _LONGEST_GROUP == 0)) - 1
    return run


def _attributes(items: int, content: Mapping[str, ArrayLike]) -> sparse.csr_matrix:
    """One column per value, each weighed by how much it tells (log N / count): sparse float32 [N, values]."""
    blocks = []
    for name, column in content.items():
        values = np.asarray(["" if value is None else str(value) for value in np.asarray(column, object)])
        if values.shape != (items,):
            raise DataError(
                f"item embeddings: content column {name!r} is {list(values.shape)}, expected [{items}], one value per "
                "item. Give columns in the order of the item rows."
            )
        different, which = np.unique(values, return_inverse=True)
        parts = [[part for part in text.split("|") if part] for text in different.tolist()]
        number = {part: i for i, part in enumerate(sorted({part for each in parts for part in each}))}
        if not number:
            continue
        cells = [(i, number[part]) for i, each in enumerate(parts) for part in each]
        at = np.array(cells, np.int64).T
        table = sparse.csr_matrix((np.ones(len(cells), np.float32), at), shape=(len(different), len(number)))
        hot = table[which]
        count = np.asarray(hot.sum(axis=0)).ravel()
        told = np.log((items + 1) / count).astype(np.float32)
        blocks.append(hot @ sparse.diags_array(told))
    return sparse.csr_matrix(sparse.hstack(blocks)) if blocks else sparse.csr_matrix((items, 1), dtype=np.float32)


def _reduce(matrix: sparse.csr_matrix, width: int, seed: int) -> Floats:
    """Reduce to `width` columns, rows scaled to norm 1 (unknown items stay 0): float32 [N, width]."""
    out = np.zeros((matrix.shape[0], width), np.float32)
    if not width:
        return out
    rank = min(width, *matrix.shape)
    if matrix.shape[1] == 1:
        out[:, :1] = matrix.toarray()
    else:
        directions, strength, _ = randomized_svd(matrix, rank, n_iter=_SVD_ROUNDS, random_state=seed)
        strength[strength < 1e-5 * strength[0]] = 0  # rounding, which the square root would blow up
        out[:, :rank] = directions * np.sqrt(strength)  # the root: no direction dominates
    return normalize(out).astype(np.float32)
