"""The retriever against plain loops: Eq. 4 term by term, a trie of Python dicts, exhaustive and dense search."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from assertions import World, assert_close, tiny_world
from torch import Tensor

from oneranker.catalogue import Catalogue, index_tensors
from oneranker.config import DualChannel, RetrieverMode
from oneranker.model import OneRanker
from oneranker.retriever import NOTHING, union

D, A, INTERESTS, VALUES = 32, 7, 5, 3
Found = tuple[int, float, int]  # item row, log-probability, head


class NaiveRetriever:
    """Path probabilities from Eq. 4 and 6-7 in float64, one number at a time; nothing shared with the package."""

    def __init__(self, model: OneRanker, catalogue: Catalogue) -> None:
        self.config, self.catalogue = model.config, catalogue
        self.weights = {name: w.double().numpy() for name, w in model.retriever.state_dict().items()}
        self.paths = [tuple(row) for row in catalogue.codes.tolist()]
        self.known: dict[tuple[int, ...], list[tuple[np.ndarray, float]]] = {}

    def cosines(self, vector: np.ndarray) -> np.ndarray:
        """Cosine with every anchor, one by one."""
        anchors = self.catalogue.anchors.astype(np.float64)
        return np.array([vector @ a / math.sqrt((vector @ vector) * (a @ a)) for a in anchors])

    def conditioning(self, prefix: tuple[int, ...]) -> np.ndarray:
        """G_l of the codes before."""
        if not prefix or not self.config.prefix_conditioned:
            return np.zeros(D)
        name, table = f"scorer.prefix.{len(prefix) - 1}", self.weights["scorer.code_embedding"]
        x = sum(table[level, code] for level, code in enumerate(prefix))
        x = self.weights[f"{name}.0.weight"] @ x + self.weights[f"{name}.0.bias"]
        x = np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x])
        return self.weights[f"{name}.2.weight"] @ x + self.weights[f"{name}.2.bias"]

    def item_sides(self, prefix: tuple[int, ...]) -> list[tuple[np.ndarray, float]]:
        """[e_c ; cos(recon(p, c), anchors)] and G(p)·e_c for every code c; kept, it hangs on no user."""
        if prefix not in self.known:
            books, conditioning = self.catalogue.codebooks.astype(np.float64), self.conditioning(prefix)
            recon = sum((books[i, code] for i, code in enumerate(prefix)), np.zeros(D))
            sides = []
            for code in range(self.config.codes):
                e_code = self.weights["scorer.code_embedding"][len(prefix), code]
                second = self.cosines(recon + books[len(prefix), code]) if self.config.anchors else np.zeros(0)
                sides.append((np.concatenate([e_code, second]), float(conditioning @ e_code)))
            self.known[prefix] = sides
        return self.known[prefix]

    def logits(self, embedding: np.ndarray, prefix: tuple[int, ...]) -> np.ndarray:
        """[e_task ; s_target]·[e_c ; cos(recon(p, c), anchors)] + G(p)·e_c for every code c."""
        return np.array([embedding @ item + extra for item, extra in self.item_sides(prefix)])

    def step(self, tokens: list[np.ndarray], prefix: tuple[int, ...]) -> np.ndarray:
        """Log-softmax over V; several tokens of one head are averaged as LOGITS."""
        logits = sum(self.logits(token, prefix) for token in tokens) / len(tokens)
        return logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())

    def path(self, tokens: list[np.ndarray], path: tuple[int, ...]) -> float:
        return sum(self.step(tokens, path[:level])[code] for level, code in enumerate(path))

    def beams(self, tokens: list[np.ndarray], eligible: Iterable[int]) -> list[tuple[int, float]]:
        """The W best paths level by level over a trie of dicts that holds eligible items only."""
        root: dict[int, Any] = {}
        for row in eligible:
            node = root
            for code in self.paths[row]:
                node = node.setdefault(code, {})
        alive: list[tuple[float, tuple[int, ...], dict[int, Any]]] = [(0.0, (), root)]
        for _ in range(self.config.code_levels):
            grown = []
            for logp, prefix, node in alive:
                if node:
                    step = self.step(tokens, prefix)
                    grown += [(logp + step[code], (*prefix, code), child) for code, child in node.items()]
            alive = sorted(grown, key=lambda beam: -beam[0])[: self.config.beams]
        return [(self.paths.index(prefix), logp) for logp, prefix, _ in alive]

    def heads(self, user_embedding: Tensor) -> list[list[np.ndarray]]:
        tokens = list(user_embedding.double().numpy())
        return [*([token] for token in tokens[:INTERESTS]), tokens[INTERESTS:]]

    def answer(self, user_embedding: Tensor, eligible: Iterable[int], exhaustive: bool = False) -> list[Found]:
        """The union of the heads' beams for one request [T, D+A], best first, cut to C."""
        best: dict[int, tuple[float, int]] = {}
        rows = list(eligible)
        for head, tokens in enumerate(self.heads(user_embedding)):
            found = (
                [(row, self.path(tokens, self.paths[row])) for row in rows] if exhaustive else self.beams(tokens, rows)
            )
            for row, logp in found:
                best[row] = max(best.get(row, (-math.inf, -1)), (logp, head))
        order = sorted(best, key=lambda row: -best[row][0])[: self.config.candidates]
        return [(row, *best[row]) for row in order]


def users(count: int, seed: int = 0, tokens: int = INTERESTS + VALUES, width: int = D + A) -> Tensor:
    return torch.randn(count, tokens, width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def retrieve(world: World, embeddings: Tensor, eligible: np.ndarray | None = None, rows: Any = None) -> dict[str, Any]:
    index = index_tensors(world.model, world.catalogue, eligible)
    index["eligible_row"] = torch.tensor([0] * len(embeddings) if rows is None else rows, dtype=torch.int32)
    return world.model.retriever(embeddings.to(world.model.dtype), index)


def assert_answers(out: dict[str, Tensor], expected: list[list[Found]], candidates: int) -> None:
    for request, found in enumerate(expected):
        count = len(found)
        assert out["candidate_count"][request] == count, f"request {request}"
        assert out["candidate_items"][request].tolist() == [f[0] for f in found] + [-1] * (candidates - count)
        assert out["candidate_head"][request].tolist() == [f[2] for f in found] + [-1] * (candidates - count)
        logp = torch.tensor([f[1] for f in found] + [NOTHING] * (candidates - count), dtype=torch.float32)
        assert_close(out["candidate_logp"][request, :count], logp[:count], 2e-5)
        assert torch.equal(out["candidate_logp"][request, count:], logp[count:])


CASES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "diag channel": {"dual_channel": DualChannel.DIAG},
    "codes without prefix": {"prefix_conditioned": False},
    "without anchors": {"anchors": 0},
    "one level": {"code_levels": 1, "items": 8},
    "two levels, every node full": {"code_levels": 2, "items": 121},
    "one beam": {"beams": 1},
    "more candidates than paths": {"beams": 2, "candidates": 40},
    "one candidate": {"candidates": 1},
    "one item": {"items": 1},
    "fewer codes than beams": {"codes": 4, "items": 60},
}


@pytest.mark.parametrize("case", CASES)
def test_answer_is_the_dict_tries_beam_search(case: str) -> None:
    world = tiny_world(**({"items": 60} | CASES[case]))
    embeddings = users(3, width=D + world.config.anchors)
    naive = NaiveRetriever(world.model, world.catalogue)
    every = range(len(world.catalogue.ids))
    expected = [naive.answer(embedding, every) for embedding in embeddings]
    assert_answers(retrieve(world, embeddings), expected, world.config.candidates)


def test_with_a_beam_for_every_path_it_is_exhaustive_search() -> None:
    world = tiny_world(items=30, beams=30, candidates=30)
    naive, embeddings = NaiveRetriever(world.model, world.catalogue), users(2, seed=1)
    expected = [naive.answer(embedding, range(30), exhaustive=True) for embedding in embeddings]
    assert_answers(retrieve(world, embeddings), expected, 30)


@pytest.mark.parametrize("seed", range(3))
def test_every_request_is_answered_under_its_own_eligibility_row(seed: int) -> None:
    world, generator = tiny_world(items=60), np.random.default_rng(seed)
    share = np.array([1.0, 0.5, 0.1, 0.03])[:, None]
    eligible = generator.random((4, 60)) < share
    rows = generator.permutation([0, 1, 2, 3, 3, 1])
    naive, embeddings = NaiveRetriever(world.model, world.catalogue), users(6, seed)
    allowed = [np.flatnonzero(eligible[row]).tolist() for row in rows]
    expected = [naive.answer(embedding, items) for embedding, items in zip(embeddings, allowed, strict=True)]
    assert_answers(retrieve(world, embeddings, eligible, rows), expected, world.config.candidates)


@pytest.mark.parametrize("mode", list(RetrieverMode))
@pytest.mark.parametrize("seed", range(4))
def test_every_item_returned_exists_is_eligible_and_stands_once_best_first(seed: int, mode: RetrieverMode) -> None:
    world, generator = tiny_world(items=40, retriever=mode), np.random.default_rng(seed)
    eligible = generator.random((3, 40)) < 0.2
    out = retrieve(world, users(3, seed), eligible, [0, 1, 2])
    for request in range(3):
        count = int(out["candidate_count"][request])
        items, logp = out["candidate_items"][request].tolist(), out["candidate_logp"][request]
        assert 0 < count == len(set(items[:count])) <= eligible[request].sum()
        assert all(eligible[request, item] for item in items[:count])
        assert items[count:] == [-1] * (13 - count)
        assert (logp[:count] > -1e4).all(), "no path that is not there"
        assert (logp[:-1] >= logp[1:]).all()


@pytest.mark.parametrize("mode", list(RetrieverMode))
def test_nothing_eligible_is_an_empty_answer_beside_a_full_one(mode: RetrieverMode) -> None:
    world = tiny_world(items=40, retriever=mode)
    out = retrieve(world, users(2), np.array([[False] * 40, [True] * 40]), [0, 1])
    assert out["candidate_count"].tolist() == [0, 13]
    assert out["candidate_items"][0].tolist() == out["candidate_head"][0].tolist() == [-1] * 13
    assert torch.equal(out["candidate_logp"][0], torch.full((13,), NOTHING))


def test_two_eligible_items_are_both_found_though_the_beams_are_nine() -> None:
    world, eligible = tiny_world(items=200), np.zeros((1, 200), dtype=bool)
    eligible[0, [3, 170]] = True
    out = retrieve(world, users(4), eligible)
    assert out["candidate_count"].tolist() == [2] * 4
    assert all(sorted(items[:2].tolist()) == [3, 170] for items in out["candidate_items"])


def test_dense_answer_is_brute_force_eq_4() -> None:
    world = tiny_world(items=40, retriever=RetrieverMode.DENSE, beams=4)
    embeddings, eligible = users(3) * 0.3, np.random.default_rng(0).random((2, 40)) < 0.6
    rows = [0, 1, 0]
    naive = NaiveRetriever(world.model, world.catalogue)
    table = index_tensors(world.model, world.catalogue)["item_table"].detach().double().numpy()
    recon = [sum(world.catalogue.codebooks[i, c].astype(np.float64) for i, c in enumerate(p)) for p in naive.paths]
    vectors = [np.concatenate([e_item, naive.cosines(r)]) for e_item, r in zip(table, recon, strict=True)]
    expected = []
    for embedding, row in zip(embeddings, rows, strict=True):
        best: dict[int, tuple[float, int]] = {}
        for head, tokens in enumerate(naive.heads(embedding)):
            scores = np.array([np.mean([token @ vector for token in tokens]) for vector in vectors])
            logp = scores - scores.max() - math.log(np.exp(scores - scores.max()).sum())
            for item in sorted(np.flatnonzero(eligible[row]), key=lambda i: -logp[i])[:4]:
                best[int(item)] = max(best.get(int(item), (-math.inf, -1)), (float(logp[item]), head))
        order = sorted(best, key=lambda item: -best[item][0])[:13]
        expected.append([(item, *best[item]) for item in order])
    assert_answers(retrieve(world, embeddings, eligible, rows), expected, 13)


def test_a_dense_catalogue_smaller_than_the_beam_is_returned_whole() -> None:
    world = tiny_world(items=3, retriever=RetrieverMode.DENSE)
    assert sorted(retrieve(world, users(1))["candidate_items"][0].tolist()) == [-1] * 10 + [0, 1, 2]


def test_a_request_alone_gets_the_answer_it_gets_in_a_batch() -> None:
    world, embeddings = tiny_world(items=60), users(5)
    together = retrieve(world, embeddings)
    for request in range(5):
        alone = retrieve(world, embeddings[request : request + 1])
        assert torch.equal(alone["candidate_items"][0], together["candidate_items"][request])
        assert_close(alone["candidate_logp"][0], together["candidate_logp"][request], 1e-5)


def test_value_logits_are_the_mean_of_the_value_tokens_logits() -> None:
    world = tiny_world(items=1)
    naive, embedding = NaiveRetriever(world.model, world.catalogue), users(1)[0]
    path = naive.paths[0]
    tokens = list(embedding.double().numpy())[INTERESTS:]
    mean = embedding[INTERESTS:].mean(0, keepdim=True)
    index = world.index
    with torch.no_grad():
        got = world.model.retriever.scorer.path_logits(
            mean, torch.tensor([[path]]), index["codebooks"], index["anchors"]
        )
    for level in range(3):
        expected = np.mean([naive.logits(token, path[:level]) for token in tokens], axis=0)
        assert_close(got[level][0, 0], torch.from_numpy(expected), 2e-5)


def test_teacher_forced_logits_are_eq_4_along_every_path_of_every_head() -> None:
    world = tiny_world(items=60)
    naive, embeddings = NaiveRetriever(world.model, world.catalogue), users(2, tokens=4)
    codes = torch.from_numpy(world.catalogue.codes[:24].reshape(2, 4, 3, 3)).long()  # [B, M, K, L]
    with torch.no_grad():
        got = world.model.retriever.scorer.path_logits(
            embeddings, codes, world.index["codebooks"], world.index["anchors"]
        )
    for request, head, path in np.ndindex(2, 4, 3):
        prefix = tuple(codes[request, head, path].tolist())
        for level in range(3):
            expected = naive.logits(embeddings[request, head].double().numpy(), prefix[:level])
            assert_close(got[level][request, head, path], torch.from_numpy(expected), 2e-5)


def test_without_prefix_conditioning_earlier_codes_matter_only_through_the_reconstruction() -> None:
    world = tiny_world(items=60, prefix_conditioned=False, anchors=0)
    codes = torch.tensor([[[1, 2, 3], [4, 5, 6]]])
    with torch.no_grad():
        got = world.model.retriever.scorer.path_logits(
            users(1, tokens=1, width=D)[0], codes, world.index["codebooks"], world.index["anchors"]
        )
    assert all(torch.equal(level[0, 0], level[0, 1]) for level in got)


@pytest.mark.parametrize("candidates", [1, 5, 12, 20])
@pytest.mark.parametrize("seed", range(3))
def test_union_keeps_an_items_best_occurrence(seed: int, candidates: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    items = torch.randint(0, 7, (2, 3, 4), generator=generator)
    logp = -torch.rand(2, 3, 4, generator=generator).where(torch.rand(2, 3, 4, generator=generator) < 0.7, -NOTHING)
    expected = []
    for request in range(2):
        best: dict[int, tuple[float, int]] = {}
        for head, beam in np.ndindex(3, 4):
            score = logp[request, head, beam].item()
            if score > NOTHING / 2:
                item = int(items[request, head, beam])
                best[item] = max(best.get(item, (-math.inf, -1)), (score, head))
        order = sorted(best, key=lambda item: -best[item][0])[:candidates]
        expected.append([(item, *best[item]) for item in order])
    assert_answers(union(items, logp, candidates), expected, candidates)
