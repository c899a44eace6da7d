"""Prices of clusters at which nearly the same number of points find each cluster the cheapest.

The transport problem min Σ_i cost[i, a_i] with equal cluster sizes has one price per cluster as its dual (auctions:
Bertsekas 1988; semi-discrete optimal transport: Kitagawa, Mérigot, Thibert 2019). The dual is concave and not smooth;
here it is smoothed, first by a softmax on a sample (Sinkhorn's column step), then between each point's two cheapest
clusters, where its Hessian is a Laplacian of k clusters and a Newton step costs one look at the cost matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oneranker.semantic_ids.centres import Floats, row_slices

Integers = NDArray[np.int64]
Doubles = NDArray[np.float64]

_AT_ONCE = 1 << 20  # cells of the cost matrix that one step looks at: they stay in the processor's cache
_SAMPLE = 2048  # points of the first, coarse prices, or this many times a cluster:
_SAMPLE_PER_CLUSTER = 8
_COOLINGS, _SOFT_STEPS = 6, 4
_FAR_OFF = 0.1  # share of misplaced points beyond which old prices are no help
_FINE_SAMPLE = 8  # beyond this many samples, Newton starts on one point of so many
_MOST_STEPS, _MOST_FAILURES = 30, 4  # of Newton
_LONGEST_STEP = 4.0  # in units of the temperature
_GOOD_ENOUGH = 4e-3  # share of the points that may still be in the wrong cluster; an exact repair moves them
_GOOD_ENOUGH_PER_CLUSTER = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """What every point sees at given prices.

    Shapes: first, second int64 [N], gap float32 [N] (by how much the second is dearer); value: of the dual
    """

    first: Integers
    second: Integers
    gap: Floats
    value: float
    misplaced: int  # points that must move until every cluster has floor(N/k) or ceil(N/k)


def near_prices(cost: Floats, prices: Doubles | None) -> tuple[Doubles, Integers]:
    """Find prices at which few points are misplaced, and the cheapest cluster of each point at these prices.

    `prices` are those of a similar problem, where there was one.

    Shapes: cost float32 [N, k], N >= k >= 2, prices float64 [k] -> float64 [k], int64 [N]
    """
    N, k = cost.shape
    sample = max(_SAMPLE, _SAMPLE_PER_CLUSTER * k)
    thinned = cost[:: max(1, N // sample)]
    if prices is None or _offers(thinned, prices).misplaced > _FAR_OFF * len(thinned):
        prices = _soft_prices(thinned)
    if 4 * _FINE_SAMPLE * sample <= N:
        prices, _ = _newton(cost[::_FINE_SAMPLE], prices)
    return _newton(cost, prices)


def _soft_prices(cost: Floats) -> Doubles:
    """Let every point choose by a softmax of temperature T, and let T fall: float64 [k]."""
    N, k = cost.shape
    prices = np.zeros(k)
    spread = float(np.sqrt(np.square(cost - cost.mean(axis=1, keepdims=True)).mean(dtype=np.float64)))
    for cooling in range(_COOLINGS if spread > 0 else 0):
        T = spread * 0.5 ** (cooling + 1)
        for _ in range(_SOFT_STEPS):
            share = cost + prices.astype(np.float32)
            share = np.exp((share.min(axis=1, keepdims=True) - share) / np.float32(T))
            share /= share.sum(axis=1, keepdims=True)
            load = share.sum(axis=0, dtype=np.float64) * (k / N)  # 1: the cluster holds what it should
            prices += T * np.log(np.maximum(load, 0.02))
            if np.abs(load - 1).max() < 0.1:
                break
    return prices - prices.mean()


def _newton(cost: Floats, prices: Doubles) -> tuple[Doubles, Integers]:
    """Climb the dual; a step that fails lowers the temperature, one that was cut short raises it.

    On the way up the number of misplaced points may rise for a while: the prices with the fewest are kept.
    """
    N, k = cost.shape
    goal = max(_GOOD_ENOUGH * N, _GOOD_ENOUGH_PER_CLUSTER * k)
    offers, failures = _offers(cost, prices), 0
    T = float(np.quantile(offers.gap, min(1.0, 2 * offers.misplaced / N))) / 2
    best, fewest = (prices, offers.first), offers.misplaced
    for _ in range(_MOST_STEPS):
        if offers.misplaced <= goal or failures == _MOST_FAILURES or T <= 0:
            break
        wanted = _step(offers, k, T)
        trial = prices + np.clip(wanted, -_LONGEST_STEP * T, _LONGEST_STEP * T)
        answer = _offers(cost, trial)
        if answer.misplaced < fewest:
            best, fewest = (trial, answer.first), answer.misplaced
        if answer.value > offers.value:
            prices, offers = trial, answer
            T *= 1.5 if np.abs(wanted).max() > _LONGEST_STEP * T else 1.0
        else:
            failures += 1
            T *= 0.3
    return best


def _step(offers: Offers, k: int, T: float) -> Doubles:
    """Solve Laplacian · step = load - target; a point with two near offers is shared between them."""
    share = 1 / (1 + np.exp(np.minimum(offers.gap / T, 60.0), dtype=np.float64))  # of a point that is in its second
    load = np.bincount(offers.first, 1 - share, k) + np.bincount(offers.second, share, k)
    border = np.bincount(offers.first * k + offers.second, share * (1 - share) / T, k * k).reshape(k, k)
    laplacian = -(border + border.T)
    degree = -laplacian.sum(axis=1)
    laplacian[np.diag_indices(k)] += degree + 1e-3 * degree.mean() + 1e-12
    step: Doubles = np.linalg.solve(laplacian, load - len(share) / k)
    return step - step.mean()


def _offers(cost: Floats, prices: Doubles) -> Offers:
    """Look at the whole cost matrix once; ties go to the lower cluster."""
    N, k = cost.shape
    first, second, gap = np.empty(N, np.int64), np.empty(N, np.int64), np.empty(N, np.float32)
    added, total = prices.astype(np.float32), 0.0
    for rows in row_slices(N, k, _AT_ONCE):
        offers = cost[rows] + added
        row = np.arange(len(offers))
        first[rows] = best = offers.argmin(axis=1)
        least = offers[row, best]
        offers[row, best] = np.inf
        second[rows] = next_best = offers.argmin(axis=1)
        gap[rows] = offers[row, next_best] - least
        total += float(least.sum(dtype=np.float64))
    size, floor = np.bincount(first, minlength=k), N // k
    above = np.maximum(size - floor - bool(N % k), 0).sum()
    below = np.maximum(floor - size, 0).sum()
    value = total - N / k * float(prices.sum())
    return Offers(first=first, second=second, gap=gap, value=value, misplaced=int(max(above, below)))
