"""RQ-KMeans: one leaf per item, the same codes every time, and codes that mean something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from oneranker.errors import DataError
from oneranker.semantic_ids import unique_leaves
from oneranker.semantic_ids.centres import nearest
from oneranker.semantic_ids.code_paths import CodePaths
from oneranker.semantic_ids.quality import codes_moved, reconstruction_errors
from oneranker.semantic_ids.rq_kmeans import add_items, fit_rq_kmeans
from oneranker.trie import Trie, lexicographic_order


def clustered(items: int, width: int = 6, clusters: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(clusters, width))[rng.integers(0, clusters, items)] + 0.1 * rng.normal(size=(items, width))


def paths(ids: CodePaths) -> list[tuple[int, ...]]:
    return [tuple(row) for row in ids.codes.tolist()]


CASES = {
    "plenty of room": (clustered(50), 3, 16),
    "every path is used": (clustered(27), 3, 3),
    "every path is used, two codes": (clustered(16), 4, 2),
    "one level, full": (clustered(9), 1, 9),
    "one item": (clustered(1), 3, 4),
    "one item, one path": (clustered(1), 1, 1),
    "fewer items than codes": (clustered(5), 3, 32),
    "more than V equal items": (np.ones((20, 4)), 3, 4),
    "all items are zero": (np.zeros((10, 4)), 2, 4),
    "two crowds": (np.repeat(clustered(2, seed=4), [30, 2], axis=0), 3, 4),
    "paths beyond int64": (clustered(40), 8, 2048),
}


@pytest.mark.parametrize("case", CASES)
def test_every_item_has_its_own_leaf_within_the_codes(case: str) -> None:
    points, levels, codes = CASES[case]
    ids = fit_rq_kmeans(points, levels, codes)
    assert (ids.codes.dtype, ids.codes.shape) == (np.int32, (len(points), levels))
    assert (ids.codebooks.dtype, ids.codebooks.shape) == (np.float32, (levels, codes, points.shape[1]))
    assert len(set(paths(ids))) == len(points)
    assert all(0 <= code < codes for path in paths(ids) for code in path)
    assert np.isfinite(ids.codebooks).all()
    Trie.from_codes(ids.codes[lexicographic_order(ids.codes)])


@pytest.mark.parametrize("case", CASES)
def test_no_two_codes_of_a_level_mean_the_same(case: str) -> None:
    ids = fit_rq_kmeans(*CASES[case])
    for level, codebook in enumerate(ids.codebooks):
        assert len(np.unique(codebook, axis=0)) == len(codebook), f"level {level}"


def test_the_same_seed_gives_the_same_bytes() -> None:
    points = clustered(200, clusters=20)
    first, second = fit_rq_kmeans(points, 3, 8, seed=5), fit_rq_kmeans(points, 3, 8, seed=5)
    np.testing.assert_array_equal(first.codes, second.codes)
    np.testing.assert_array_equal(first.codebooks, second.codebooks)


def test_a_crowd_larger_than_v_overflows_into_other_prefixes() -> None:
    crowd = np.zeros((9, 2)) + np.arange(9)[:, None] * 1e-3  # V=4: one prefix of length L-1 holds 4 of them
    ids = fit_rq_kmeans(np.concatenate([crowd, [[5.0, 5.0]]]), 2, 4)
    _, in_prefix = np.unique(ids.codes[:, :-1], axis=0, return_counts=True)
    assert in_prefix.max() <= 4
    assert len(set(paths(ids))) == 10


def test_an_item_alone_under_its_prefix_keeps_its_nearest_code_on_every_level() -> None:
    points = clustered(60, clusters=12).astype(np.float32)
    ids = fit_rq_kmeans(points, 3, 16)
    residual = points.copy()
    for level in range(3):
        distance = ((residual[:, None] - ids.codebooks[level]) ** 2).sum(axis=2)
        alone = [
            paths(ids)[i][:level] not in [p[:level] for j, p in enumerate(paths(ids)) if j != i] for i in range(60)
        ]
        if level < 2:  # room on these levels is far above 60 items
            np.testing.assert_array_equal(ids.codes[:, level], distance.argmin(axis=1))
        else:
            np.testing.assert_array_equal(ids.codes[alone, level], distance.argmin(axis=1)[alone])
        residual -= ids.codebooks[level][ids.codes[:, level]]


def test_near_items_share_their_first_code_and_far_items_do_not() -> None:
    centres = np.eye(4) * 10
    crowd = np.arange(40) % 4
    points = centres[crowd] + 0.1 * np.random.default_rng(0).normal(size=(40, 4))
    first = fit_rq_kmeans(points, 3, 4).codes[:, 0]
    assert len({(int(c), int(f)) for c, f in zip(crowd, first, strict=True)}) == 4


def test_reconstruction_is_the_sum_along_the_path() -> None:
    ids = fit_rq_kmeans(clustered(30), 3, 8)
    by_hand = [sum(ids.codebooks[level, code] for level, code in enumerate(path)) for path in paths(ids)]
    np.testing.assert_allclose(ids.reconstruct(), by_hand, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(ids.reconstruct(ids.codes[:, :1]), ids.codebooks[0, ids.codes[:, 0]])


def test_each_level_brings_the_reconstruction_nearer() -> None:
    points = clustered(300, clusters=30)
    errors = reconstruction_errors(fit_rq_kmeans(points, 3, 16), points)
    assert 1 > errors[0] > errors[1] > errors[2]


def test_last_codes_that_moved_are_those_that_a_loop_counts() -> None:
    points = clustered(60, clusters=3).astype(np.float32)
    ids = fit_rq_kmeans(points, 2, 8)
    moved = 0
    for point, (first, last) in zip(points, paths(ids), strict=True):
        rest = point - ids.codebooks[0, first]
        moved += int(np.argmin([((rest - c) ** 2).sum() for c in ids.codebooks[1]]) != last)
    assert codes_moved(ids, points)[1] == pytest.approx(moved / 60)
    assert 0 < moved < 60


def test_new_items_join_without_moving_an_old_one() -> None:
    points = clustered(60)
    known = fit_rq_kmeans(points[:40], 3, 4)
    joined = add_items(known, points[40:])
    np.testing.assert_array_equal(joined.codes[:40], known.codes)
    np.testing.assert_array_equal(joined.codebooks, known.codebooks)
    assert len(set(paths(joined))) == 60


def test_new_items_fill_the_very_last_path() -> None:
    points = clustered(27)
    joined = add_items(fit_rq_kmeans(points[:20], 3, 3), points[20:])
    assert len(set(paths(joined))) == 27
    with pytest.raises(DataError, match=r"got 28 items, expected at most .* = 27 paths"):
        add_items(joined, points[:1])


def test_known_items_are_not_compared_with_codes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def counted(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        compared.append(len(points))
        return nearest(points, centres)

    known = fit_rq_kmeans(clustered(60), 3, 4)
    monkeypatch.setattr(unique_leaves, "nearest", counted)
    add_items(known, clustered(2))
    assert compared == [2, 2, 2]


def test_an_items_own_twin_lands_beside_it() -> None:
    points = clustered(30, clusters=10)
    known = fit_rq_kmeans(points, 3, 8)
    twin = add_items(known, points[4:5]).codes[-1]
    np.testing.assert_array_equal(twin[:2], known.codes[4, :2])


def test_codes_come_back_from_disk(tmp_path: Path) -> None:
    ids = fit_rq_kmeans(clustered(20), 2, 6)
    ids.write(tmp_path / "new" / "semantic_ids.safetensors")
    again = CodePaths.read(tmp_path / "new" / "semantic_ids.safetensors")
    np.testing.assert_array_equal(again.codes, ids.codes)
    np.testing.assert_array_equal(again.codebooks, ids.codebooks)


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("codes", lambda t: t.astype(np.int64), r"got .*int64.*expected codes int32 \[N, L\].*Fit them again"),
        ("codes", lambda t: t + 100, r"codes \[20, 2\] do not fit codebooks \[2, 6, 6\]"),
        ("codes", lambda t: np.ascontiguousarray(t[:, :1]), r"codes \[20, 1\] do not fit"),
        ("extra", lambda t: t, "got .*extra"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str, edit: object, words: str) -> None:
    path = tmp_path / "ids.safetensors"
    fit_rq_kmeans(clustered(20), 2, 6).write(path)
    tables = load_file(path)
    assert callable(edit)
    save_file(tables | {name: edit(tables.get(name, tables["codes"]))}, path)
    with pytest.raises(DataError, match=words):
        CodePaths.read(path)


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.safetensors: got .*expected .*Fit"):
        CodePaths.read(tmp_path / "gone.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x01\x02")
    with pytest.raises(DataError, match=r"cut\.safetensors: got .*expected .*Fit"):
        CodePaths.read(tmp_path / "cut.safetensors")


def test_more_items_than_paths_is_refused() -> None:
    with pytest.raises(DataError, match=r"got 9 items, expected at most V\*\*L = 2\*\*3 = 8 paths.*Raise"):
        fit_rq_kmeans(clustered(9), 3, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused_with_the_row(value: float) -> None:
    points = clustered(10)
    points[7, 2] = value
    with pytest.raises(DataError, match=r"1 rows hold NaN or infinity, first row 7, expected finite.*drop"):
        fit_rq_kmeans(points, 2, 4)


@pytest.mark.parametrize(("levels", "codes"), [(0, 4), (2, 0)])
def test_no_levels_or_no_codes_is_refused(levels: int, codes: int) -> None:
    with pytest.raises(DataError, match=f"got L={levels}, V={codes}, expected both >= 1"):
        fit_rq_kmeans(clustered(3), levels, codes)


def test_new_items_of_another_width_are_refused() -> None:
    with pytest.raises(DataError, match=r"new embeddings are \[1, 5\], expected width 6"):
        add_items(fit_rq_kmeans(clustered(9), 2, 4), np.zeros((1, 5)))
