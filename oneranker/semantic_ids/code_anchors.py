"""Anchors that give a code the same meaning under every parent, and the Hungarian matching to them (resid.md §2.1-2.2).

One set per level. A parent's children (or a prefix's items) are matched to anchors one to one, so that the sum of the
cosines between their residual directions and their anchors is the largest there is; the anchor's number is the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from oneranker.errors import DataError
from oneranker.semantic_ids.centres import Floats

Integers = NDArray[np.int64]
_MOST_ROUNDS = 30
_LEAST_GAIN = 1e-4  # of the total cosine
_MOST_FAMILIES = 1024  # that anchors are fitted on; of more, every n-th
_DATA_STARTS = 2


def orthogonal_anchors(count: int, width: int, seed: int | Sequence[int]) -> Floats:
    """Draw orthonormal anchors that know nothing of the data: the thin QR of a Gaussian (resid.md §2.2).

    Shapes: -> float32 [count, width]

    Raises:
        DataError: more anchors than dimensions, which cannot be orthogonal.
    """
    if not 1 <= count <= width:
        raise DataError(
            f"GAOQ anchors: got {count} anchors of width {width}, expected 1 <= anchors <= width for orthogonal ones. "
            "Use wider embeddings, larger branching factors above this level, or fitted anchors."
        )
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, count)))
    signs = np.where(np.diag(r) < 0, -1.0, 1.0)  # QR leaves the signs open: the positive diagonal is the unique one
    return np.ascontiguousarray((q * signs).T, dtype=np.float32)


def fitted_anchors(families: Sequence[Floats], count: int, seed: int | Sequence[int]) -> Floats:
    """Fit anchors to families of directions: match every family, renew each anchor by its mean direction, and again.

    Both halves of a round raise the total cosine or leave it; a gain below a ten-thousandth is the end. The rounds
    start from orthogonal anchors (random unit ones where there are more than dimensions) and from the directions
    of the largest families; the best end is kept, so the total is never below that of the orthogonal anchors.

    They are not kept orthogonal: the children of real parents are not at right angles to each other, and an orthonormal
    set can follow at most `width` directions; what must differ is the codes, and the one-to-one matching sees to that.
    The step in between is therefore a mean, not a Procrustes rotation [inferred: the paper has random anchors only].

    Shapes: families of float32 [n_f, width], n_f <= count -> float32 [count, width], of norm 1
    """
    width = families[0].shape[1]
    units = [_unit(family) for family in families[:: -(-len(families) // _MOST_FAMILIES)]]
    largest = sorted(range(len(units)), key=lambda f: (-len(units[f]), f))[:_DATA_STARTS]
    base = _unit(np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32))
    if count <= width:
        base = orthogonal_anchors(count, width, seed)
    best, best_total = base, -np.inf
    for start in [base, *(np.concatenate([units[f], base[len(units[f]) :]]) for f in largest)]:
        anchors, total = _rounds(units, start)
        if total > best_total + 1e-9 * abs(total):
            best, best_total = anchors, total
    return best


def match(directions: Floats, anchors: Floats) -> Integers:
    """Give each direction its own anchor, at the largest sum of cosines; a direction of length 0 has cosine 0.

    Shapes: directions float32 [n, D], anchors float32 [g, D] of norm 1, n <= g -> int64 [n]
    """
    cosine = _unit(directions) @ anchors.T
    return np.asarray(linear_sum_assignment(cosine, maximize=True)[1], np.int64)


def _rounds(units: Sequence[Floats], anchors: Floats) -> tuple[Floats, float]:
    """Alternate until no code changes, or the total hardly does."""
    everything, bounds = np.concatenate(units), np.cumsum([0, *map(len, units)]).tolist()
    before = -np.inf
    for _ in range(_MOST_ROUNDS):
        cosine = everything @ anchors.T  # [n, g]
        families = [cosine[begin:end] for begin, end in pairwise(bounds)]
        codes = np.concatenate([linear_sum_assignment(family, maximize=True)[1] for family in families])
        total = float(cosine[np.arange(len(codes)), codes].sum(dtype=np.float64))
        if total - before <= _LEAST_GAIN * abs(total):
            break
        before, best = total, anchors
        order = np.argsort(codes, kind="stable")
        used, opens = np.unique(codes[order], return_index=True)
        mean = np.add.reduceat(everything[order], opens, axis=0)
        norm = np.linalg.norm(mean, axis=1)
        anchors = anchors.copy()  # one that is not used, or whose directions cancel, stays as it is
        anchors[used[norm > 1e-6]] = mean[norm > 1e-6] / norm[norm > 1e-6, None]
    return best, before


def _unit(directions: Floats) -> Floats:
    norm = np.linalg.norm(directions, axis=1, keepdims=True)
    return np.asarray(directions / np.where(norm > 0, norm, 1), np.float32)
