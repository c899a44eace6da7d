"""Small semantic IDs of every method, and what a folder holds, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oneranker.semantic_ids import IdSettings, Method, SemanticIds, fit
from oneranker.semantic_ids.famae import FamaeSettings, fit_famae
from oneranker.semantic_ids.famae_batches import Sequences
from oneranker.semantic_ids.famae_embeddings import FamaeEmbeddings

N, D = 40, 8
SETTINGS = {
    Method.RQ_KMEANS: IdSettings(method=Method.RQ_KMEANS, codes=5),
    Method.RQ_KMEANS_PLUS: IdSettings(method=Method.RQ_KMEANS_PLUS, codes=5, refine_steps=20),
    Method.GAOQ: IdSettings(method=Method.GAOQ, branching=(3, 4)),
    Method.RESID: IdSettings(method=Method.RESID, branching=(3, 4)),
}


QUICK = {  # words of the command for a dozen items
    "rq-kmeans": ["--codes", "4"],
    "rq-kmeans-plus": ["--codes", "4", "--refine-steps", "3"],
    "gaoq": ["--branching", "2,2", "--spare-leaves", "2"],
    "resid": ["--branching", "2,2", "--spare-leaves", "2", "--famae-steps", "2", "--famae-width", "8"],
}


def drawn(items: int = N, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(6, D))[rng.integers(0, 6, items)] + 0.3 * rng.normal(size=(items, D))).astype(np.float32)


def learned(seed: int = 0) -> FamaeEmbeddings:
    """FAMAE of two fields, sort s0 .. s4 one of them."""
    rows = np.random.default_rng(seed).integers(0, N, 200)
    columns = {
        "item_id": np.array([str(row) for row in range(N)], object),
        "sort": np.array([f"s{row % 5}" for row in range(N)], object),
    }
    settings = FamaeSettings(width=D // 2, heads=2, layers=1, max_steps=2, seed=seed)
    return fit_famae(Sequences(np.arange(0, 201, 20), rows, None), columns, settings)


def fitted(method: Method, seed: int = 0) -> SemanticIds:
    if method is not Method.RESID:
        return fit(drawn(seed=seed), SETTINGS[method])
    famae = learned(seed)
    return fit(famae.embeddings, SETTINGS[method], famae=famae, seconds=1.5)


def files_below(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
