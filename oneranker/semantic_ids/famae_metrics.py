"""Metrics 1 and 2 of a FAMAE model: what its history says of an item, and what an item's other fields say of it."""

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
    """What validation said after a number of steps; NaN where a metric is not defined."""

    step: int
    loss: float  # of training, mean since the evaluation before
    metric1: float  # R@k of the item, all its fields masked
    metric2: float  # R@k of item_id, only it masked
    rows: int

    def score(self) -> float:
        """One number for early stopping: the geometric mean, each metric half a hit better than it was.

        A gain of 1 % counts alike in either metric, though metric 2 is ten times larger; half a hit keeps a metric
        that is still zero from hiding the other. ReSID watches both and does not say how they are combined [inferred].
        """
        half = 0.5 / max(self.rows, 1)
        known = [metric + half for metric in (self.metric1, self.metric2) if not math.isnan(metric)]
        return math.prod(known) ** (1 / len(known)) if known else math.nan


def evaluate(
    model: Famae, codes: Tensor, windows: NDArray[np.int64], candidates: NDArray[np.int64], item_field: int, at: int
) -> tuple[float, float]:
    """Metrics 1 and 2 (resid.md 1.8), ranked over all candidates; ties count against the target.

    Metric 1 ranks items by cos(h_T, sum of the item's field rows), the reading of ReSID's `fusion_feature` [inferred];
    metric 2 ranks the values of field `item_field` (-1: there is none, metric 2 is NaN).

    Shapes: codes int64 [N+1, J] (the last row is padding), windows int64 [v, T], candidates int64 [c] (items that
        training has seen)
    """
    if not len(windows):
        return math.nan, math.nan
    hits = np.zeros(2)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        fused = model.item_rows(codes[candidates])
        place = np.full(len(codes), -1)
        place[candidates] = np.arange(len(candidates))
        step = max(1, _SCORES_AT_ONCE // len(candidates))
        for begin in range(0, len(windows), step):
            rows = torch.from_numpy(windows[begin : begin + step])  # -1, padding, reads the last row of codes
            target = torch.from_numpy(place[windows[begin : begin + step, -1]])
            everything = torch.ones((len(rows), codes.shape[1]), dtype=torch.bool)
            hits[0] += recalled(model(codes[rows], rows >= 0, everything), fused, target, at)
            if item_field >= 0:
                only = torch.zeros_like(everything)
                only[:, item_field] = True
                hidden, wanted = model(codes[rows], rows >= 0, only), codes[rows[:, -1], item_field] - 1
                hits[1] += recalled(hidden, model.value_rows(item_field), wanted, at)
    model.train(was_training)
    recall = hits / len(windows)
    return float(recall[0]), float(recall[1]) if item_field >= 0 else math.nan


def recalled(hidden: Tensor, rows: Tensor, target: Tensor, at: int) -> int:
    """Count the targets among the `at` best rows by cosine; a target of -1 is not known and never found.

    Shapes: hidden [B, D], rows [V, D], target int64 [B]
    """
    scores = hidden @ F.normalize(rows, dim=-1).T
    own = scores.gather(1, target.clamp(min=0)[:, None])
    return int((((scores >= own).sum(dim=1) <= at) & (target >= 0)).sum())
