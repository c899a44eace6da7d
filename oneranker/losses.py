"""Training losses: MTP (Eq. 6-7), BPR (Eq. 8), distributional consistency (Eq. 10) and their sum (Eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def mtp_loss(logits: list[Tensor], codes: Tensor, weight: Tensor) -> Tensor:
    """Eq. 6: sum over heads and levels of the mean negative log-likelihood of the target codes (softmax over V, Eq. 7).

    A head's mean is weighted: 0 leaves a target out, the value head's weights are its value weights (E11).

    Shapes: L logits fp32 [B, M, K, V], codes int64 [B, M, K, L], weight fp32 [B, M, K] -> scalar
    """
    nll = -sum(
        (F.log_softmax(level, dim=-1).gather(-1, codes[..., i : i + 1]).squeeze(-1) for i, level in enumerate(logits)),
        start=torch.zeros_like(weight),
    )  # [B, M, K]
    total = weight.sum(dim=(0, 2))
    return ((nll * weight).sum(dim=(0, 2)) / total.clamp(min=1e-6)).sum()


def value_weights(value: Tensor, present: Tensor, clip: float = 5.0) -> Tensor:
    """Weights for the value head: value over its batch mean, clipped; in expectation sampling in proportion to value.

    Shapes: value fp32 [...], present bool [...] -> fp32 [...] (0 where absent)
    """
    mean = (value * present).sum() / present.sum().clamp(min=1)
    return (value / mean.clamp(min=1e-6)).clamp(0.0, clip) * present


def bpr_loss(scores: Tensor, value: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 8: mean of -log σ(s_i - s_j) over a request's pairs with y_i > y_j (ties skipped, E26), then over requests.

    Shapes: scores, value fp32 [B, C], present bool [B, C] -> scalar loss, scalar share of pairs in the right order
    """
    pair = (value[:, :, None] > value[:, None, :]) & present[:, :, None] & present[:, None, :]  # [B, C, C]
    difference = scores[:, :, None] - scores[:, None, :]
    pairs = pair.sum(dim=(1, 2))
    loss = torch.where(pair, F.softplus(-difference), 0.0).sum(dim=(1, 2)) / pairs.clamp(min=1)
    right = ((difference > 0) & pair).sum() / pairs.sum().clamp(min=1)
    return loss.sum() / (pairs > 0).sum().clamp(min=1), right


def dc_loss(
    path_logp: Tensor, scores: Tensor, present: Tensor, temperature: float = 1.0, reference_logp: Tensor | None = None
) -> Tensor:
    """Eq. 10: cross-entropy of the generator over the candidate set against softmax of the ranker's scores.

    The teacher is stop-gradient (E30); its scores are standardised within the set, since BPR fixes differences only up
    to scale (E31). `reference_logp` multiplies the target by π_ref, which makes Eq. 10 the optimum of Eq. 9 (E29).

    Shapes: path_logp, scores fp32 [B, C], present bool [B, C] -> scalar
    """
    target = standardised(scores.detach(), present) / temperature
    if reference_logp is not None:
        target = target + reference_logp.detach()
    probability = torch.where(present, target, -torch.inf).softmax(dim=-1)
    log_policy = torch.where(present, path_logp, -torch.inf).log_softmax(dim=-1)
    return -torch.where(present, probability * log_policy.masked_fill(~present, 0.0), 0.0).sum(-1).mean()


def standardised(scores: Tensor, present: Tensor) -> Tensor:
    """Scores with mean 0 and standard deviation 1 within each request's candidates.

    Shapes: scores fp32 [B, C], present bool [B, C] -> fp32 [B, C] (0 where absent)
    """
    count = present.sum(-1, keepdim=True).clamp(min=1)
    mean = torch.where(present, scores, 0.0).sum(-1, keepdim=True) / count
    centred = torch.where(present, scores - mean, 0.0)
    return centred / ((centred * centred).sum(-1, keepdim=True) / count).sqrt().clamp(min=1e-6)


@dataclass
class ConsistencyWarmup:
    """γ of Eq. 5: zero until the ranker orders pairs better than random, then linear to its full value (E31)."""

    gamma: float
    steps: int
    better_than: float = 0.55  # share of pairs in order, smoothed
    right: float = 0.5
    started: int = -1

    def at(self, step: int, share_right: float) -> float:
        """The weight for this step, having seen the share of pairs the ranker put in order."""
        self.right += 0.05 * (share_right - self.right)
        if self.started < 0 and self.right > self.better_than:
            self.started = step
        if self.started < 0:
            return 0.0
        return self.gamma * min(1.0, (step - self.started) / max(self.steps, 1))
