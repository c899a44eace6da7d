"""How good rankings are against sets of targets: hit rate, recall, NDCG and recalled value, for all and for new items.

Protocol: one request per user, the user's first of the split; everything before it is history. A target that is not in
the index cannot be ranked, but counts in the denominators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oneranker.data.streams import Streams


@dataclass(frozen=True, slots=True)
class EvaluationRequests:
    """R requests to answer and what followed them.

    Shapes: request int64 [R]; per request target_row (-1 = not in the index), target_value, target_new (never in the
        user's history) [targets], history_row (distinct rows of the index before the request) [h]
    """

    request: np.ndarray
    target_row: list[np.ndarray]
    target_value: list[np.ndarray]
    target_new: list[np.ndarray]
    history_row: list[np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingMetrics:
    """Means over the requests that have a target."""

    k: int
    requests: int
    hit_rate: float
    recall: float  # hits / min(k, targets)
    ndcg: float
    value_recall: float  # value of the hits / value of all targets


def first_requests(streams: Streams, split: int, users: np.ndarray | None = None) -> EvaluationRequests:
    """Each user's first request of the split; `users` restricts to some users.

    Shapes: users int [u]
    """
    asked = np.flatnonzero(streams.request_split == split)
    owner, first = np.unique(streams.request_user[asked], return_index=True)
    chosen = asked[first if users is None else first[np.isin(owner, users)]]
    start = np.searchsorted(streams.request_user, streams.request_user[chosen])
    result = EvaluationRequests(chosen, [], [], [], [])
    for request, begin in zip(chosen.tolist(), start.tolist(), strict=True):
        now = streams.targets(request)
        past = slice(int(streams.target_offset[begin]), now.start)
        rows = np.unique(streams.target_item[past])
        result.target_row.append(streams.target_item[now])
        result.target_value.append(streams.target_value[now])
        result.target_new.append(~np.isin(streams.target_key[now], streams.target_key[past]))
        result.history_row.append(rows[rows >= 0])
    return result


def evaluate(
    rankings: Sequence[np.ndarray], requests: EvaluationRequests, k: int = 10, *, new_only: bool = False
) -> RankingMetrics:
    """Score one ranking per request; rows of the index, best first, -1 as padding.

    With `new_only` the user's history leaves the ranking and the targets, and requests without a new target are
    skipped; such rankings should be made without the history, or be long enough to lose it.

    Shapes: rankings int [any] each
    Raises: ValueError when there is not one ranking per request, or an item stands twice in one.
    """
    if len(rankings) != len(requests.request):
        raise ValueError(f"evaluate: {len(rankings)} rankings for {len(requests.request)} requests, expected one each.")
    discount = 1 / np.log2(np.arange(2, k + 2))
    rows: list[tuple[float, float, float, float]] = []
    for i, ranking in enumerate(rankings):
        target, value = requests.target_row[i], requests.target_value[i]
        ranked = ranking[ranking >= 0]
        if len(np.unique(ranked)) != len(ranked):
            raise ValueError(f"evaluate: ranking {i} names an item twice, expected every item once. Mask duplicates.")
        if new_only:
            target, value = target[requests.target_new[i]], value[requests.target_new[i]]
            ranked = ranked[~np.isin(ranked, requests.history_row[i])]
        if target.size:
            rows.append(_score(ranked[:k], target, value, discount))
    means = np.mean(rows, axis=0).tolist() if rows else [0.0] * 4
    return RankingMetrics(
        k=k, requests=len(rows), hit_rate=means[0], recall=means[1], ndcg=means[2], value_recall=means[3]
    )


def _score(
    ranked: np.ndarray, target: np.ndarray, value: np.ndarray, discount: np.ndarray
) -> tuple[float, float, float, float]:
    hit = np.isin(ranked, target)
    hits, reachable = float(hit.sum()), min(len(discount), len(target))
    total = float(value.sum())
    recalled = float(value[np.isin(target, ranked)].sum()) / total if total > 0 else 0.0
    gain = float(discount[: len(ranked)][hit].sum())
    return float(hits > 0), hits / reachable, gain / float(discount[:reachable].sum()), recalled
