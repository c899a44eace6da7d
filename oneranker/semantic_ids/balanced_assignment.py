"""Points to clusters of equal size at the least total cost: near prices first, then an exact repair.

At given prices every point is in its cheapest cluster, which is the optimum for the sizes that come out. The points too
many then move along shortest paths on the graph of the k clusters to where there are too few, which keeps the optimum
(successive shortest paths with potentials: Ahuja, Magnanti, Orlin, "Network Flows", 1993, §9.7). The graph has k + 1
nodes however many points there are, so the cost is that of looking at the cost matrix a few times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from oneranker.semantic_ids.centres import Floats
from oneranker.semantic_ids.cluster_prices import Doubles, Integers, near_prices


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The cheapest labels with equal sizes, and prices to start the next, similar problem from.

    Shapes: labels int64 [N], prices float64 [k]
    """

    labels: Integers
    prices: Doubles


def assign_balanced(cost: Floats, prices: Doubles | None = None) -> Assignment:
    """Choose labels of least total cost, exactly N mod k clusters holding ceil(N/k) points, the others floor(N/k).

    `prices` only say where to start; the total does not depend on them (but for the rounding of float32), the choice
    among equally cheap answers may.

    Shapes: cost float32 [N, k] with N >= k, finite; prices float64 [k]
    """
    N, k = cost.shape
    if k == 1:
        return Assignment(labels=np.zeros(N, np.int64), prices=np.zeros(1))
    repair = _Repair(cost, *near_prices(cost, prices))
    while repair.excess.any():
        repair.move_along_shortest_paths()
    return Assignment(labels=repair.labels, prices=repair.prices[:-1])


class _Repair:
    """The graph of clusters: edge a -> j is the cheapest move of one point of a to j, its length cost[j] - cost[a].

    The last node is "spare": through it the right to hold ceil(N/k) instead of floor(N/k) changes hands, at no cost. An
    edge's reduced length (plus the price of its end, less that of its start) is never negative.
    """

    def __init__(self, cost: Floats, prices: Doubles, labels: Integers) -> None:
        N, k = cost.shape
        self.cost, self.labels, self.k = cost, labels, k
        size = np.bincount(labels, minlength=k)
        self.members = np.split(np.argsort(labels, kind="stable"), np.cumsum(size)[:-1])
        dearest = np.argsort(-prices, kind="stable")
        self.ceil = np.zeros(k, bool)
        self.ceil[dearest[: N % k]] = True  # complementary slackness: whom most want may hold one more
        spare = prices[dearest[N % k - 1 : N % k + 1]].mean() if N % k else 0.0
        self.prices = np.append(prices, spare)
        self.excess = size - N // k - self.ceil
        self.length = np.full((k + 1, k + 1), np.inf)
        self.mover = np.full((k, k), -1)  # the point that an edge would move
        for cluster in range(k):
            self._renew(cluster, np.arange(k))
        self._renew_spare()
        self.starts = np.arange(k + 2) * (k + 1)
        self.ends = np.tile(np.arange(k + 1), k + 1)

    def move_along_shortest_paths(self) -> None:
        """Find the shortest path to each cluster with too few, and use as many as have no cluster in common."""
        k = self.k
        reduced = np.maximum(self.length + self.prices - self.prices[:, None], 0.0)
        graph = csr_array((reduced.ravel(), self.ends, self.starts), shape=(k + 1, k + 1))
        sources = np.flatnonzero(self.excess > 0)
        distance, before, _ = dijkstra(graph, indices=sources, min_only=True, return_predecessors=True)
        short = np.flatnonzero(self.excess < 0)
        short = short[np.argsort(distance[short], kind="stable")]
        self.prices -= np.minimum(distance, distance[short[-1]])  # now every edge of the paths has reduced length 0
        used: set[int] = set()
        for node in short.tolist():
            path = [node]
            while before[path[-1]] >= 0:
                path.append(int(before[path[-1]]))
            if used.isdisjoint(path):
                used.update(path)
                self._move(path[::-1])
        self._renew_spare()

    def _move(self, path: Sequence[int]) -> None:
        """Move one point along the path, or as many as are equally cheap on each of its edges."""
        edges = list(pairwise(path))
        leaving = {a: self._cheapest(a, b) for a, b in edges if self.k not in (a, b)}
        amount = min(int(self.excess[path[0]]), -int(self.excess[path[-1]]), *map(len, leaving.values()))
        amount = 1 if self.k in path else amount
        for a, b in edges:
            if a == self.k:
                self.ceil[b] = False
            elif b == self.k:
                self.ceil[a] = True
            else:
                leaving[a] = leaving[a][:amount]
                self.labels[leaving[a]] = b
        for a, b in edges:
            if a in leaving:
                self._leave(a, leaving[a])
                self._join(b, leaving[a])
        self.excess[path[0]] -= amount
        self.excess[path[-1]] += amount

    def _cheapest(self, a: int, b: int) -> Integers:
        members = self.members[a]
        move = self.cost[members, b] - self.cost[members, a]
        return np.sort(members[move <= self.length[a, b]])

    def _leave(self, cluster: int, points: Integers) -> None:
        members = self.members[cluster]
        one, mover = len(points) == 1, self.mover[cluster]
        self.members[cluster] = members[members != points[0] if one else ~np.isin(members, points)]
        self._renew(cluster, np.flatnonzero(mover == points[0] if one else np.isin(mover, points)))

    def _join(self, cluster: int, points: Integers) -> None:
        self.members[cluster] = np.append(self.members[cluster], points)
        self._compare(cluster, points, np.arange(self.k))

    def _renew(self, cluster: int, ends: Integers) -> None:
        self.length[cluster, ends] = np.inf
        self.mover[cluster, ends] = -1
        if len(self.members[cluster]):
            self._compare(cluster, self.members[cluster], ends)

    def _compare(self, cluster: int, points: Integers, ends: Integers) -> None:
        """Let points bid for the edges from their cluster to `ends`."""
        rows = self.cost[points] if len(ends) == self.k else self.cost[points[:, None], ends]
        move = rows - self.cost[points, cluster, None]  # [n, ends]
        best = move.argmin(axis=0)
        least = move[best, np.arange(len(ends))]
        better = (least < self.length[cluster, ends]) & (ends != cluster)
        self.length[cluster, ends[better]] = least[better]
        self.mover[cluster, ends[better]] = points[best[better]]

    def _renew_spare(self) -> None:
        self.length[: self.k, self.k] = np.where(self.ceil, np.inf, 0.0)
        self.length[self.k, : self.k] = np.where(self.ceil, 0.0, np.inf)
