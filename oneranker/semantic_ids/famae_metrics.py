"""Metrics 1 and 2 of a FAMAE model: what history says of the next item, and what that item's other fields add."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from oneranker.semantic_ids.famae_model import Famae

_SCORES_AT_ONCE = 1 << 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What validation said after a number of steps; NaN where nothing could be measured."""

    step: int
    loss: float  # of training, mean since the evaluation before
    metric1: float  # R@k of item_id, all fields masked
    metric2: float  # R@k of item_id, only it masked
    rows: int

    def score(self) -> float:
        """One number for early stopping: the geometric mean, each metric half a hit better than it was.

        A gain of 1 % counts alike in either metric, though metric 2 is ten times larger; half a hit keeps a metric
        that is still zero from hiding the other. ReSID watches both and does not say how they are combined [inferred].
        """
        half = 0.5 / max(self.rows, 1)
        return math.sqrt((self.metric1 + half) * (self.metric2 + half))


def evaluate(model: Famae, codes: Tensor, windows: NDArray[np.int64], item_field: int, at: int) -> tuple[float, float]:
    """Metrics 1 and 2 (resid.md 1.8): R@`at` of the target's item_id over its full vocabulary, ties against it.

    Both rank by the training logit; metric 1 hides all fields of the target, metric 2 item_id alone. Metric 1 could
    also rank items by cos(h_T, sum of all their field rows), as the name of ReSID's `fusion_feature` suggests; but
    there the fields with the longest rows decide: 0.002 instead of 0.027 on completejourney after 80 steps [inferred].

    Shapes: codes int64 [N+1, J] (the last row is padding), windows int64 [v, T]; item_field -1: there is none
    """
    if not len(windows) or item_field < 0:
        return math.nan, math.nan
    hits = np.zeros(2)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        values = model.value_rows(item_field)
        step = max(1, _SCORES_AT_ONCE // len(values))
        for begin in range(0, len(windows), step):
            rows = torch.from_numpy(windows[begin : begin + step])  # -1, padding, reads the last row of codes
            wanted = codes[rows[:, -1], item_field] - 1
            everything = torch.ones((len(rows), codes.shape[1]), dtype=torch.bool)
            alone = torch.zeros_like(everything)
            alone[:, item_field] = True
            for metric, masked in enumerate((everything, alone)):
                hits[metric] += recalled(model(codes[rows], rows >= 0, masked), values, wanted, at)
    model.train(was_training)
    metric1, metric2 = (hits / len(windows)).tolist()
    return metric1, metric2


def recalled(hidden: Tensor, rows: Tensor, target: Tensor, at: int) -> int:
    """Count the targets among the `at` best rows by cosine; a target of -1 is not known and never found.

    Shapes: hidden [B, D], rows [V, D], target int64 [B]
    """
    scores = hidden @ F.normalize(rows, dim=-1).T
    own = scores.gather(1, target.clamp(min=0)[:, None])
    return int((((scores >= own).sum(dim=1) <= at) & (target >= 0)).sum())
