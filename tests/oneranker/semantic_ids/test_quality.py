from __future__ import annotations

from itertools import combinations
from math import log2

import numpy as np
import pytest
from numpy.typing import NDArray

from oneranker.errors import DataError
from oneranker.semantic_ids.code_paths import CodePaths
from oneranker.semantic_ids.quality import (
    code_coherence,
    code_overlap,
    codes_moved,
    collisions,
    explained_variance,
    level_use,
    nearest_paths,
    prefix_counts,
    prefix_recall,
    reconstruction_errors,
)

N, L, V, D = 40, 3, 5, 4


def drawn(seed: int = 0) -> tuple[CodePaths, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, (2, V - 1, V), size=(N, L)).astype(np.int32)
    books = rng.normal(size=(L, V, D)).astype(np.float32)
    return CodePaths(codes=codes, codebooks=books), rng.normal(size=(N, D)).astype(np.float32)


def minus_parent(codes: NDArray[np.int32], points: NDArray[np.float32], level: int) -> NDArray[np.float64]:
    left = np.empty(points.shape)
    for i in range(len(points)):
        family = [j for j in range(len(points)) if tuple(codes[j, :level]) == tuple(codes[i, :level])]
        left[i] = points[i] - points[family].astype(np.float64).mean(axis=0)
    return left


def nearest_code(left: NDArray[np.float32], book: NDArray[np.float32]) -> int:
    return min(range(V), key=lambda code: float(((left - book[code]).astype(np.float64) ** 2).sum()))


def test_use_of_a_level_is_counted_code_by_code() -> None:
    ids, _ = drawn()
    for level, use in enumerate(level_use(ids, (2, V, V))):
        count = [int((ids.codes[:, level] == code).sum()) for code in range(V)]
        count = [number for number in count if number]
        assert use.codes == (2, V, V)[level]
        assert use.used == len(count)
        assert use.entropy_bits == pytest.approx(-sum(n / N * log2(n / N) for n in count))
        differences = sum(abs(one - other) for one in count for other in count)
        assert use.gini == pytest.approx(differences / (2 * len(count) * N))
    assert [use.codes for use in level_use(ids)] == [V] * L


def test_even_use_has_full_entropy_and_gini_0() -> None:
    codes = np.repeat(np.arange(8, dtype=np.int32), 3)[:, None]
    (use,) = level_use(CodePaths(codes=codes, codebooks=np.zeros((1, 8, 1), np.float32)))
    assert (use.entropy_bits, use.gini) == (3.0, 0.0)


def test_one_code_has_no_entropy_and_no_sign() -> None:
    (use,) = level_use(CodePaths(codes=np.zeros((4, 1), np.int32), codebooks=np.zeros((1, 8, 1), np.float32)))
    assert (use.used, f"{use.entropy_bits:.3f}") == (1, "0.000")


def test_collisions_and_prefixes_are_counted_as_sets() -> None:
    ids, _ = drawn()
    paths = [tuple(path) for path in ids.codes.tolist()]
    assert collisions(ids.codes) == N - len(set(paths)) > 0
    assert prefix_counts(ids.codes) == tuple(len({path[:depth] for path in paths}) for depth in (1, 2, 3))


def test_reconstruction_error_is_that_of_the_summed_codes() -> None:
    ids, points = drawn()
    around = sum(float(((point - points.mean(axis=0)) ** 2).sum()) for point in points)
    for depth, error in enumerate(reconstruction_errors(ids, points), start=1):
        total = 0.0
        for path, point in zip(ids.codes, points, strict=True):
            total += float(((point - sum(ids.codebooks[level, path[level]] for level in range(depth))) ** 2).sum())
        assert error == pytest.approx(total / around, rel=1e-4)


def test_explained_variance_compares_with_the_mean_of_each_code() -> None:
    ids, points = drawn()
    for level, share in enumerate(explained_variance(ids, points)):
        left = minus_parent(ids.codes, points, level)
        within = 0.0
        for code in set(ids.codes[:, level].tolist()):
            members = left[ids.codes[:, level] == code]
            within += float(((members - members.mean(axis=0)) ** 2).sum())
        assert share == pytest.approx(1 - within / float((left**2).sum()), abs=1e-5)


def test_nearest_paths_and_moved_codes_are_those_of_a_loop_over_items() -> None:
    ids, points = drawn()
    moved = np.zeros((N, L))
    for item, (point, path) in enumerate(zip(points, ids.codes, strict=True)):
        free, own = point, point
        for level, book in enumerate(ids.codebooks):
            code = nearest_code(free, book)
            assert nearest_paths(ids, points)[item, level] == code
            moved[item, level] = nearest_code(own, book) != path[level]
            free, own = free - book[code], own - book[path[level]]
    assert codes_moved(ids, points) == pytest.approx(moved.mean(axis=0))
    np.testing.assert_array_equal(points, drawn()[1])


def test_codes_numbered_at_random_share_no_direction_and_explain_one_part_in_as_many_as_there_are_parents() -> None:
    rng = np.random.default_rng(0)
    for parents in (2, 4, 8):
        child = 10 * rng.normal(size=(parents, 16, 32))
        points = np.repeat(child.reshape(-1, 32), 4, axis=0) + rng.normal(size=(parents * 64, 32))
        first = np.repeat(np.arange(parents), 64)
        number = np.repeat(np.concatenate([rng.permutation(16) for _ in range(parents)]), 4)
        books = np.zeros((2, 16, 32), np.float32)
        ids = CodePaths(codes=np.stack([first, number], axis=1).astype(np.int32), codebooks=books)
        assert abs(code_coherence(ids, points)[1]) < 0.06
        assert explained_variance(ids, points)[1] == pytest.approx(1 / parents, rel=0.15)


def test_coherence_is_the_mean_cosine_over_pairs_with_equal_code_under_different_parents() -> None:
    ids, points = drawn()
    for level, coherence in enumerate(code_coherence(ids, points)):
        left = minus_parent(ids.codes, points, level)
        cosines = []
        for i, j in combinations(range(N), 2):
            apart = level == 0 or tuple(ids.codes[i, :level]) != tuple(ids.codes[j, :level])
            if ids.codes[i, level] == ids.codes[j, level] and apart:
                size = np.linalg.norm(left[i]) * np.linalg.norm(left[j])
                cosines.append(float(left[i] @ left[j] / size) if size > 1e-9 else 0.0)
        assert coherence == pytest.approx(np.mean(cosines), abs=1e-5)


def test_coherence_of_one_direction_is_1_and_without_pairs_0() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32)
    points = np.array([[9, 1], [9, -1], [5, 3], [5, -3]], np.float32)
    ids = CodePaths(codes=codes, codebooks=np.zeros((2, 2, 2), np.float32))
    assert code_coherence(ids, points)[1] == pytest.approx(1)
    alone = CodePaths(codes=np.arange(4, dtype=np.int32)[:, None], codebooks=np.zeros((1, 4, 2), np.float32))
    assert code_coherence(alone, points) == (0.0,)
    one_parent = CodePaths(codes=np.array([[0, 0], [0, 0], [0, 1], [0, 1]], np.int32), codebooks=ids.codebooks)
    assert code_coherence(one_parent, points)[1] == 0.0


def test_overlap_counts_history_items_with_the_code_of_their_target() -> None:
    ids, _ = drawn()
    rng = np.random.default_rng(1)
    target = rng.integers(-1, N, 15)
    row, history = rng.integers(0, 15, 120), rng.integers(-1, N, 120)
    found = code_overlap(ids.codes, history, target, row)
    pairs = [(i, int(target[r])) for i, r in zip(history.tolist(), row.tolist(), strict=True)]
    pairs = [(i, j) for i, j in pairs if i >= 0 and j >= 0]
    assert found.pairs == len(pairs)
    for level in range(L):
        expected = np.mean([ids.codes[i, level] == ids.codes[j, level] for i, j in pairs])
        assert found.shares[level] == pytest.approx(expected)
    empty = np.zeros(0, np.int64)
    assert code_overlap(ids.codes, empty, empty, empty).shares == (0.0,) * L


@pytest.mark.parametrize("top", [1, 3, 100])
def test_prefix_recall_is_the_mean_share_of_the_strongest_neighbours(top: int) -> None:
    ids, _ = drawn()
    rng = np.random.default_rng(2)
    pairs = np.unique(rng.integers(0, N - 3, (200, 2)), axis=0)
    weight = rng.integers(1, 4, len(pairs)).astype(np.float64)
    shares: list[list[float]] = []
    for item in sorted({int(i) for i in pairs[:, 0]}):
        near = [(-w, int(j)) for (i, j), w in zip(pairs, weight, strict=True) if i == item]
        best = [j for _, j in sorted(near)[:top]]
        same = [[tuple(ids.codes[j, : d + 1]) == tuple(ids.codes[item, : d + 1]) for d in range(L)] for j in best]
        shares.append(np.mean(same, axis=0).tolist())
    np.testing.assert_allclose(prefix_recall(ids.codes, pairs, weight, top), np.mean(shares, axis=0))
    assert prefix_recall(ids.codes, pairs[:0], weight[:0]) == (0.0,) * L


def test_equal_embeddings_are_no_division_by_zero() -> None:
    ids, _ = drawn()
    same = np.ones((N, D), np.float32)
    assert explained_variance(ids, same) == (0.0,) * L
    assert code_coherence(ids, same) == (0.0,) * L
    assert np.isfinite(reconstruction_errors(ids, same)).all()


def test_what_does_not_belong_together_is_named() -> None:
    ids, points = drawn()
    ones = np.zeros(3, np.int64)
    for measure in (reconstruction_errors, explained_variance, code_coherence, nearest_paths, codes_moved):
        with pytest.raises(DataError, match=r"embeddings are \[39, 4\], expected \[40, 4\]"):
            measure(ids, points[1:])
    with pytest.raises(DataError, match="Give one row number"):
        code_overlap(ids.codes, ones, ones, ones[:2])
    with pytest.raises(DataError, match=r"items span 0 \.\. 40"):
        code_overlap(ids.codes, np.array([0, 1, N]), ones, ones)
    with pytest.raises(DataError, match=r"row spans 0 \.\. 3"):
        code_overlap(ids.codes, ones, ones, np.array([0, 2, 3]))
    with pytest.raises(DataError, match="top 0"):
        prefix_recall(ids.codes, np.zeros((2, 2), np.int64), np.ones(2), 0)
    with pytest.raises(DataError, match="items span -1"):
        prefix_recall(ids.codes, np.array([[0, -1]]), np.ones(1))
