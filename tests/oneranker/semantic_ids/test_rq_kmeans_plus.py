"""RQ-KMeans+: it starts as RQ-KMeans, to the bit, and what training then does and must not do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from oneranker.errors import DataError
from oneranker.semantic_ids.code_paths import CodePaths
from oneranker.semantic_ids.rq_kmeans import fit_rq_kmeans
from oneranker.semantic_ids.rq_kmeans_plus import (
    RqKmeansPlus,
    RqKmeansPlusSettings,
    _restart,
    _RqVae,
    fit_rq_kmeans_plus,
)

SHORT = RqKmeansPlusSettings(steps=60, batch_size=64, restart_every=20)


def clustered(items: int, width: int = 6, clusters: int = 5, seed: int = 0, size: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    at = rng.normal(size=(clusters, width))[rng.integers(0, clusters, items)]
    return (size * (at + 0.1 * rng.normal(size=(items, width)))).astype(np.float32)


def unique_paths(ids: CodePaths) -> int:
    return len(np.unique(ids.codes, axis=0))


def nearest_codes(ids: CodePaths, points: np.ndarray) -> np.ndarray:
    """The sum of codes as K-means chooses them, two items on one leaf or not."""
    residual = points.copy()
    for codebook in ids.codebooks:
        residual -= codebook[((residual[:, None] - codebook) ** 2).sum(axis=2).argmin(axis=1)]
    return points - residual


@pytest.fixture(scope="module")
def trained() -> RqKmeansPlus:
    return fit_rq_kmeans_plus(clustered(200), 3, 8, SHORT)


CASES = {
    "plenty of room": (clustered(50), 3, 16),
    "every path is used": (clustered(27), 3, 3),
    "one item": (clustered(1), 2, 4),
    "equal items": (np.ones((20, 4), np.float32), 3, 4),
    "all zero": (np.zeros((10, 4), np.float32), 2, 4),
    "large numbers": (clustered(40, size=3e5), 3, 8),
    "small numbers": (clustered(40, size=3e-5), 3, 8),
}


@pytest.mark.parametrize("case", CASES)
def test_without_steps_it_is_rq_kmeans(case: str) -> None:
    points, levels, codes = CASES[case]
    plain = fit_rq_kmeans(points, levels, codes, seed=3)
    plus = fit_rq_kmeans_plus(points, levels, codes, RqKmeansPlusSettings(steps=0, seed=3))
    np.testing.assert_array_equal(plus.ids.codes, plain.codes)
    np.testing.assert_array_equal(plus.ids.codebooks, plain.codebooks)
    np.testing.assert_array_equal(plus.encode(points), points)
    np.testing.assert_array_equal(plus.decode(plain.reconstruct()), plain.reconstruct())


@pytest.mark.parametrize("case", CASES)
def test_every_item_keeps_a_path_of_its_own_after_training(case: str) -> None:
    points, levels, codes = CASES[case]
    ids = fit_rq_kmeans_plus(points, levels, codes, SHORT).ids
    assert (ids.codes.dtype, ids.codes.shape) == (np.int32, (len(points), levels))
    assert (ids.codebooks.dtype, ids.codebooks.shape) == (np.float32, (levels, codes, points.shape[1]))
    assert unique_paths(ids) == len(points)
    assert np.isfinite(ids.codebooks).all()
    assert all(len(np.unique(codebook, axis=0)) == codes for codebook in ids.codebooks)


@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_training_brings_the_decoded_codes_nearer_to_the_embeddings(size: float) -> None:
    points = clustered(500, width=8, clusters=60, size=size)
    plus = fit_rq_kmeans_plus(
        points, 3, 16, dataclasses.replace(SHORT, steps=120, learning_rate=3e-3, batch_size=250, hidden=32)
    )
    before = fit_rq_kmeans(points, 3, 16)

    def error(found: np.ndarray) -> float:
        return float(((points - found) ** 2).sum(axis=1).mean())

    trained = plus.decode(nearest_codes(plus.ids, plus.encode(points)))
    assert error(trained) < 0.9 * error(nearest_codes(before, points))
    assert error(plus.decode(plus.ids.reconstruct())) < error(before.reconstruct())  # with unique leaves


def test_the_same_seed_gives_the_same_codes_and_leaves_the_callers_random_numbers(trained: RqKmeansPlus) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = fit_rq_kmeans_plus(clustered(200), 3, 8, SHORT)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(again.ids.codes, trained.ids.codes)
    np.testing.assert_array_equal(again.ids.codebooks, trained.ids.codebooks)
    other = fit_rq_kmeans_plus(clustered(200), 3, 8, dataclasses.replace(SHORT, seed=1))
    assert not np.array_equal(other.ids.codebooks, trained.ids.codebooks)


def test_paths_are_the_nearest_codes_of_the_latent_space_where_there_is_room(trained: RqKmeansPlus) -> None:
    residual = trained.encode(clustered(200))
    for level in range(2):  # room for 64 and 8 items per code: the first level is not full, the second may be
        distance = ((residual[:, None] - trained.ids.codebooks[level]) ** 2).sum(axis=2)
        nearest = distance.argmin(axis=1) == trained.ids.codes[:, level]
        assert nearest.mean() > (0.99 if level == 0 else 0.6)
        residual = residual - trained.ids.codebooks[level][trained.ids.codes[:, level]]


def test_encoder_and_decoder_are_x_plus_mlp_of_x(trained: RqKmeansPlus) -> None:
    points = clustered(9, seed=3)
    for weights, through in ((trained.encoder, trained.encode), (trained.decoder, trained.decode)):
        x = points / trained.scale
        inner = np.maximum(x @ weights["0.weight"].T + weights["0.bias"], 0)
        expected = trained.scale * (x + inner @ weights["2.weight"].T + weights["2.bias"])
        np.testing.assert_allclose(through(points), expected, rtol=1e-5, atol=1e-6)
        assert np.abs(through(points) - points).max() > 1e-3


def test_the_loss_is_the_rq_vaes_as_a_loop() -> None:
    rng = np.random.default_rng(0)
    codebooks, x = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
    loss, residuals, paths = _RqVae(codebooks, 4)(torch.from_numpy(x), 0.25)
    total = 0.0
    for i, row in enumerate(x):
        rest = row.copy()  # z = x at the start
        for level in range(2):
            np.testing.assert_allclose(residuals[level, i], rest, rtol=1e-5, atol=1e-6)
            squares = [float(((rest - code) ** 2).sum()) for code in codebooks[level]]
            assert paths[level, i] == int(np.argmin(squares))
            total += 1.25 * min(squares)
            rest = rest - codebooks[level][int(np.argmin(squares))]
        total += float((rest**2).sum())  # x - x', and x' is the sum of codes
    assert loss.item() == pytest.approx(total / 5, rel=1e-5)


def test_the_gradient_passes_straight_through_and_codes_learn_from_their_own_residuals_alone() -> None:
    rng = np.random.default_rng(0)
    codebooks, x = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
    model = _RqVae(codebooks, 4)
    loss, residuals, paths = model(torch.from_numpy(x), 0.25)
    loss.backward()
    expected = np.zeros_like(codebooks)
    to_z = np.zeros_like(x)
    for i in range(5):
        for level in range(2):
            gap = residuals[level, i].numpy() - codebooks[level, paths[level, i]]
            expected[level, paths[level, i]] -= 2 * gap / 5
            to_z[i] += 0.25 * 2 * gap / 5
        rest = residuals[1, i].numpy() - codebooks[1, paths[1, i]]
        to_z[i] -= 2 * rest / 5  # of ‖x - x'‖², as if the codes were z
    np.testing.assert_allclose(model.codebooks.grad, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.encoder.mlp[2].bias.grad, to_z.sum(axis=0), rtol=1e-4, atol=1e-5)


def test_dead_codes_move_to_residuals_and_living_ones_stay() -> None:
    codebooks = np.full((2, 4, 3), 100, np.float32)
    model = _RqVae(codebooks, 3)
    residuals = torch.randn(2, 7, 3)
    dead = np.array([[True, False, True, False], [False, False, False, True]])
    assert _restart(model, residuals, dead, np.random.default_rng(0)) == 3
    moved = model.codebooks.detach()
    assert (moved[~torch.from_numpy(dead)] == 100).all()
    for level, code in np.argwhere(dead):
        assert (moved[level, code] - residuals[level]).norm(dim=1).min() < 0.02


def test_training_restarts_the_codes_that_no_item_is_nearest_to(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.repeat(clustered(5, seed=9), 6, axis=0)
    asked: list[np.ndarray] = []
    monkeypatch.setattr(
        "oneranker.semantic_ids.rq_kmeans_plus._restart", lambda _model, _residuals, dead, _rng: asked.append(dead) or 0
    )
    still = RqKmeansPlusSettings(steps=7, batch_size=10, restart_every=1, learning_rate=1e-12, weight_decay=0)
    fit_rq_kmeans_plus(points, 3, 8, still)
    residual, dead = points, np.ones((3, 8), bool)
    for level, codebook in enumerate(fit_rq_kmeans(points, 3, 8).codebooks):
        nearest = ((residual[:, None] - codebook) ** 2).sum(axis=2).argmin(axis=1)
        dead[level, nearest] = False
        residual = residual - codebook[nearest]
    assert len(asked) == 2  # after each epoch of three steps, not after every step
    for each in asked:
        np.testing.assert_array_equal(each[0], dead[0])
    assert dead[0].sum() == 3


def test_new_items_join_without_moving_an_old_one(trained: RqKmeansPlus) -> None:
    joined = trained.add_items(clustered(200)[3:5] + 1e-4)
    np.testing.assert_array_equal(joined.codes[:200], trained.ids.codes)
    assert unique_paths(joined) == 202
    np.testing.assert_array_equal(joined.codes[200:, 0], trained.ids.codes[3:5, 0])


def test_it_comes_back_from_disk(trained: RqKmeansPlus, tmp_path: Path) -> None:
    trained.write(tmp_path / "ids")
    again = RqKmeansPlus.read(tmp_path / "ids")
    points = clustered(20, seed=4)
    np.testing.assert_array_equal(again.encode(points), trained.encode(points))
    np.testing.assert_array_equal(again.decode(points), trained.decode(points))
    np.testing.assert_array_equal(again.ids.codes, trained.ids.codes)


@pytest.mark.parametrize("name", ["encoder.2.bias", "decoder.0.weight", "scale"])
def test_a_file_of_something_else_is_refused(trained: RqKmeansPlus, tmp_path: Path, name: str) -> None:
    trained.write(tmp_path)
    path = tmp_path / "rq_vae.safetensors"
    tensors = load_file(path)
    save_file(tensors | {name: np.zeros(3, np.float32)}, path)
    with pytest.raises(DataError, match=r"rq_vae\.safetensors: got .*expected .*Fit it again"):
        RqKmeansPlus.read(tmp_path)
    path.write_bytes(b"no")
    with pytest.raises(DataError, match="Fit it again"):
        RqKmeansPlus.read(tmp_path)


def test_bad_embeddings_are_refused(trained: RqKmeansPlus) -> None:
    points = clustered(10)
    points[7, 2] = np.nan
    with pytest.raises(DataError, match="1 rows hold NaN or infinity, first row 7"):
        fit_rq_kmeans_plus(points, 2, 4, SHORT)
    with pytest.raises(DataError, match="got 10 items, expected at most"):
        fit_rq_kmeans_plus(clustered(10), 3, 2, SHORT)
    with pytest.raises(DataError, match=r"embeddings are \[1, 5\], expected width 6"):
        trained.encode(np.zeros((1, 5)))


@pytest.mark.parametrize("changes", [{"steps": -1}, {"batch_size": 0}, {"commitment": -0.1}, {"seed": 2**32}])
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))}={next(iter(changes.values()))}, expected"):
        RqKmeansPlusSettings(**changes)
