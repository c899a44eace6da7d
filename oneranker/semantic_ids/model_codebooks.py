"""Codebooks of a model's own width, whatever width the embeddings had that the codes were fitted on."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from oneranker.errors import DataError
from oneranker.semantic_ids.centres import Floats, root_mean_square_norm
from oneranker.semantic_ids.code_paths import mean_codebooks
from oneranker.semantic_ids.semantic_ids import SemanticIds


def model_codebooks(ids: SemanticIds, levels: int, codes: int, width: int) -> Floats:
    """The IDs' own codebooks where the width is the same; otherwise codebooks in a space of that width.

    That space is spanned by the principal components of the embeddings, scaled to a root mean square norm of 1; a code
    stands for the mean of what the levels above it leave of its items. Codes that no item has are 0 there, as are those
    beyond the IDs' own.

    Shapes: -> float32 [levels, codes, width]

    Raises:
        DataError: the IDs have another number of levels, or more codes on one of them.
    """
    if len(ids.widths) != levels or max(ids.widths) > codes:
        raise DataError(
            f"semantic IDs: levels of {list(ids.widths)} codes, expected {levels} levels of at most {codes}, those of "
            "the model. Build them with other levels and branching factors, or choose another model."
        )
    if ids.codebooks.shape[2] == width:
        unused = codes - ids.codebooks.shape[1]
        return np.pad(ids.codebooks, ((0, 0), (0, unused), (0, 0)))
    points = ids.points
    space = np.zeros((len(points), width), np.float32)
    if (points != points[0]).any():  # equal points have no components, and all codes are 0
        found = PCA(min(width, *points.shape), svd_solver="covariance_eigh").fit_transform(points)
        space[:, : found.shape[1]] = found / root_mean_square_norm(found)
    return mean_codebooks(space, ids.codes, codes)
