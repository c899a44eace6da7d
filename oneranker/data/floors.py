"""Simple rules a model has to beat: popularity, what follows the last basket (bigram), personal frequency.

Ties fall to the more popular item, then to the lower row. Each rule knows the user's own history up to the request, and
of all users the requests of splits up to `until` (0 train, 1 validation), at most those before the split that is asked;
None is all of these. Give what a model has learned from, to compare it with rules that know no more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from oneranker.data.metrics import EvaluationRequests
from oneranker.data.streams import Streams

Floor = Callable[..., list[np.ndarray]]


def popularity(
    streams: Streams,
    requests: EvaluationRequests,
    items: int,
    k: int = 10,
    *,
    new_only: bool = False,
    until: int | None = None,
) -> list[np.ndarray]:
    """The items of most requests of the counted splits, the same for everybody.

    Shapes: -> R rankings int64 [k]
    """
    order = np.argsort(-_counts(streams, _counted(streams, requests, until), items), kind="stable")
    return [_fill(order[:0], order, past, k, new_only) for past in requests.history_row]


def personal(
    streams: Streams,
    requests: EvaluationRequests,
    items: int,
    k: int = 10,
    *,
    new_only: bool = False,
    until: int | None = None,
) -> list[np.ndarray]:
    """The items the user took most often before, then popular ones.

    Shapes: -> R rankings int64 [k]
    """
    counts = _counts(streams, _counted(streams, requests, until), items)
    order = np.argsort(-counts, kind="stable")
    start = np.searchsorted(streams.request_user, streams.request_user[requests.request])
    rankings = []
    for request, begin, past in zip(requests.request.tolist(), start.tolist(), requests.history_row, strict=True):
        taken = streams.target_item[streams.target_offset[begin] : streams.target_offset[request]]
        rows, times = np.unique(taken[taken >= 0], return_counts=True)
        own = rows[np.lexsort((rows, -counts[rows], -times))]
        rankings.append(_fill(own, order, past, k, new_only))
    return rankings


def bigram(
    streams: Streams,
    requests: EvaluationRequests,
    items: int,
    k: int = 10,
    *,
    new_only: bool = False,
    until: int | None = None,
) -> list[np.ndarray]:
    """Every item of the user's last basket votes for what was in the baskets that followed a basket with it.

    Shapes: -> R rankings int64 [k]
    """
    counted = _counted(streams, requests, until)
    counts = _counts(streams, counted, items)
    order = np.argsort(-counts, kind="stable")
    votes = _Followers(streams, counted, items)
    rankings = []
    for request, past in zip(requests.request.tolist(), requests.history_row, strict=True):
        first = request == 0 or streams.request_user[request - 1] != streams.request_user[request]
        last = streams.target_item[streams.targets(request - 1)] if not first else order[:0]
        score = votes.score(np.unique(last[last >= 0]))
        enough = min(k + len(past) * new_only, items)  # sorting all that have a vote would take most of the time
        rows = np.flatnonzero(score >= max(1, np.partition(score, items - enough)[items - enough]))
        own = rows[np.lexsort((rows, -counts[rows], -score[rows]))]
        rankings.append(_fill(own, order, past, k, new_only))
    return rankings


FLOORS: dict[str, Floor] = {"popularity": popularity, "bigram": bigram, "personal": personal}


class _Followers:
    """Counts of item -> item of the user's next request, made for one item when it is first asked for.

    A table of all pairs would be hundreds of MiB for baskets; most items are never in a last basket.
    """

    def __init__(self, streams: Streams, counted: np.ndarray, items: int) -> None:
        self._streams, self._items = streams, items
        same_user = streams.request_user[1:] == streams.request_user[:-1]
        followed = np.append(same_user & counted[1:] & counted[:-1], False)
        length = np.diff(streams.target_offset)
        request = np.repeat(np.arange(len(length)), length)
        used = followed[request] & (streams.target_item >= 0)
        by_item = np.argsort(streams.target_item[used], kind="stable")
        self._request = request[used][by_item] + 1  # the request that followed
        self._begin = np.searchsorted(streams.target_item[used][by_item], np.arange(items + 1))
        self._known: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def score(self, last: np.ndarray) -> np.ndarray:
        """Sum of the votes. Shapes: last int [b] -> int64 [items]."""
        total = np.zeros(self._items, dtype=np.int64)
        for item in last.tolist():
            if item not in self._known:
                self._known[item] = self._count(item)
            rows, counts = self._known[item]
            total[rows] += counts
        return total

    def _count(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        following = self._request[self._begin[item] : self._begin[item + 1]]
        offset = self._streams.target_offset
        length = offset[following + 1] - offset[following]
        place = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        target = self._streams.target_item[np.repeat(offset[following], length) + place]
        counts = np.bincount(target[target >= 0], minlength=self._items)
        rows = np.flatnonzero(counts)
        return rows.astype(np.int32), counts[rows].astype(np.int32)


def _counted(streams: Streams, requests: EvaluationRequests, until: int | None) -> np.ndarray:
    """What a rule may count over all users: splits up to `until`, in any case before the one that is asked."""
    asked = streams.request_split[requests.request]
    before = int(asked.min()) - 1 if asked.size else -1
    return np.asarray(streams.request_split <= (before if until is None else min(until, before)))


def _counts(streams: Streams, counted: np.ndarray, items: int) -> np.ndarray:
    used = np.repeat(counted, np.diff(streams.target_offset)) & (streams.target_item >= 0)
    return np.bincount(streams.target_item[used], minlength=items)


def _fill(own: np.ndarray, order: np.ndarray, past: np.ndarray, k: int, new_only: bool) -> np.ndarray:
    """The rule's own items first, then the popular ones, without repeats; without the history when asked so."""
    if new_only:
        own = own[~np.isin(own, past)]
    own = own[:k]
    banned = np.concatenate((own, past)) if new_only else own
    more = order[: k + len(banned)]
    return np.concatenate((own, more[~np.isin(more, banned)]))[:k].astype(np.int64)
