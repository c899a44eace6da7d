"""Anchors: the frozen K-means centres of the item space, which are the fake item tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from oneranker.semantic_ids.centres import Floats, check_points, fit_centres


def fit_anchors(reconstruction: NDArray[np.floating], anchors: int, seed: int = 0) -> Floats:
    """Fit A centres in the space that codes reconstruct (E5); none has norm zero, for they are read by their cosine.

    Shapes: reconstruction [N, D] -> float32 [A, D]

    Raises:
        DataError: there are no items, or a number is not finite.
    """
    points = check_points(reconstruction, "anchors")
    centres = fit_centres(points, anchors, seed)
    norm = np.linalg.norm(centres, axis=1)
    size = float(np.linalg.norm(points, axis=1).mean()) or 1.0
    vanished = norm < 1e-6 * size
    direction = np.random.default_rng(seed).normal(size=centres.shape)
    direction *= size / np.linalg.norm(direction, axis=1, keepdims=True)
    return np.where(vanished[:, None], direction, centres).astype(np.float32)
