"""Floors and metrics against slow loops that follow their sentences."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oneranker.data.dataset import Dataset
from oneranker.data.event_roles import TEST, TRAIN, VALID
from oneranker.data.floors import FLOORS
from oneranker.data.metrics import EvaluationRequests, evaluate, first_requests
from oneranker.data.streams import Streams, build_streams

Build = Callable[[Dataset], tuple[Any, ...]]


@pytest.fixture
def world(shop_folder: Callable[..., Path], build: Build) -> tuple[Streams, int]:
    dataset = Dataset.read(shop_folder())
    tokenizer, items, catalogue = build(dataset)
    return build_streams(dataset, tokenizer, items), len(catalogue.ids)


def _rows(streams: Streams, request: int) -> list[int]:
    return [row for row in streams.target_item[streams.targets(request)].tolist() if row >= 0]


def _oracle(name: str, streams: Streams, request: int, counted: range, new_only: bool, items: int) -> list[int]:
    before = [q for q in range(len(streams.request_token)) if streams.request_split[q] in counted]
    popular = Counter(row for q in before for row in _rows(streams, q))
    user = streams.request_user[request]
    past = [q for q in range(request) if streams.request_user[q] == user]
    score: Counter[int] = Counter()
    if name == "personal":
        score.update(row for q in past for row in _rows(streams, q))
    if name == "bigram" and past:
        for a, b in pairwise(before):
            if b == a + 1 and streams.request_user[a] == streams.request_user[b]:
                shared = set(_rows(streams, a)) & set(_rows(streams, past[-1]))
                for row in _rows(streams, b):
                    score[row] += len(shared)
    owned = {row for q in past for row in _rows(streams, q)} if new_only else set()
    ranked = sorted(range(items), key=lambda row: (-score[row], -popular[row], row))
    return [row for row in ranked if row not in owned][:10]


@pytest.mark.parametrize(
    ("split", "until", "counted"),
    [
        (VALID, None, range(VALID)),
        (TEST, None, range(TEST)),
        (TEST, TRAIN, range(TRAIN + 1)),  # the protocol of published numbers: nothing is learned from validation
        (VALID, TEST, range(VALID)),  # never from what is asked
    ],
)
@pytest.mark.parametrize("new_only", [False, True])
@pytest.mark.parametrize("name", list(FLOORS))
def test_a_floor_ranks_as_its_sentence_says(
    world: tuple[Streams, int], name: str, new_only: bool, split: int, until: int | None, counted: range
) -> None:
    streams, items = world
    requests = first_requests(streams, split)
    rankings = FLOORS[name](streams, requests, items, new_only=new_only, until=until)
    for request, ranking in zip(requests.request.tolist(), rankings, strict=True):
        assert ranking.tolist() == _oracle(name, streams, request, counted, new_only, items)


def test_the_first_request_of_the_split_is_asked_with_all_before_as_history(world: tuple[Streams, int]) -> None:
    streams, _ = world
    requests = first_requests(streams, TEST)
    users = streams.request_user[requests.request].tolist()
    assert users == sorted(set(streams.request_user[streams.request_split == TEST].tolist()))
    for i, request in enumerate(requests.request.tolist()):
        past = [q for q in range(request) if streams.request_user[q] == users[i]]
        assert all(streams.request_split[q] < TEST for q in past)
        assert requests.history_row[i].tolist() == sorted({row for q in past for row in _rows(streams, q)})
        seen = {key for q in past for key in streams.target_key[streams.targets(q)].tolist()}
        keys = streams.target_key[streams.targets(request)].tolist()
        assert requests.target_new[i].tolist() == [key not in seen for key in keys]
    some = first_requests(streams, TEST, np.array(users[1:3]))
    assert some.request.tolist() == requests.request[1:3].tolist()


@pytest.mark.parametrize("new_only", [False, True])
def test_metrics_agree_with_a_loop(new_only: bool) -> None:
    rng = np.random.default_rng(7)
    k, R = 4, 40
    targets = [rng.choice(12, size=rng.integers(1, 8), replace=False) - 1 for _ in range(R)]  # -1: not in the index
    values = [np.round(rng.random(len(t)) * 9, 2) for t in targets]
    new = [rng.random(len(t)) < 0.5 for t in targets]
    history = [np.sort(rng.choice(11, size=rng.integers(0, 6), replace=False)) for _ in range(R)]
    rankings = [np.append(rng.permutation(11)[: rng.integers(0, 11)], -1) for _ in range(R)]
    requests = EvaluationRequests(np.arange(R), targets, values, new, history)
    got = evaluate(rankings, requests, k, new_only=new_only)
    hit, recall, ndcg, value = [], [], [], []
    for i in range(R):
        wanted = {int(t): v for t, v, n in zip(targets[i], values[i], new[i], strict=True) if n or not new_only}
        if not wanted:
            continue
        shown = [int(r) for r in rankings[i] if r >= 0 and not (new_only and r in history[i])][:k]
        hits = [rank for rank, row in enumerate(shown) if row in wanted]
        hit.append(bool(hits))
        recall.append(len(hits) / min(k, len(wanted)))
        best = sum(1 / math.log2(rank + 2) for rank in range(min(k, len(wanted))))
        ndcg.append(sum(1 / math.log2(rank + 2) for rank in hits) / best)
        value.append(sum(wanted[shown[rank]] for rank in hits) / sum(wanted.values()))
    assert got.requests == len(hit) < R + (not new_only)
    expected = [np.mean(column) for column in (hit, recall, ndcg, value)]
    assert np.allclose([got.hit_rate, got.recall, got.ndcg, got.value_recall], expected, rtol=1e-12)


def test_a_perfect_ranking_scores_one_and_no_request_scores_nothing() -> None:
    one = EvaluationRequests(np.zeros(1), [np.array([3, 1])], [np.array([2.0, 0])], [np.ones(2, bool)], [np.array([])])
    assert evaluate([np.array([1, 3, 0])], one, 2).ndcg == 1.0
    assert evaluate([np.array([1, 3, 0])], one, 2).value_recall == 1.0
    none = EvaluationRequests(np.zeros(0), [], [], [], [])
    assert evaluate([], none).requests == 0


def test_rankings_that_do_not_fit_are_refused() -> None:
    one = EvaluationRequests(np.zeros(1), [np.array([3])], [np.array([2.0])], [np.array([True])], [np.array([])])
    with pytest.raises(ValueError, match="2 rankings for 1 requests, expected one each"):
        evaluate([np.array([3])] * 2, one)
    with pytest.raises(ValueError, match="ranking 0 names an item twice"):
        evaluate([np.array([3, 3])], one)
