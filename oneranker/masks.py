"""Every attention mask of the model: boolean, True = may read; turned additive once, outside the layers."""

from __future__ import annotations

import torch
from torch import Tensor

from oneranker.config import TaskMask

BLOCKED = -1e4  # additive value of "may not read": exp and SiLU of (score - 1e4) are exactly 0, and fp16 holds it


def additive(mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The form a graph boundary wants: 0 where True, -1e4 where False, any shape."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, BLOCKED)


def causal(length: int) -> Tensor:
    """A history token reads itself and what came before it.

    Shapes: -> bool [1, 1, S, S]

        S=4     k1 k2 k3 k4
            q1   1  .  .  .
            q2   1  1  .  .
            q3   1  1  1  .
            q4   1  1  1  1
    """
    return torch.ones(length, length, dtype=torch.bool).tril()[None, None]


def history(lengths: Tensor, padded: int) -> Tensor:
    """Real history tokens stand first, pads behind them are read by nobody; an empty row keeps its first cell.

    Shapes: lengths int [B] -> bool [B, 1, 1, S]

        S=5             k1 k2 k3 k4 k5
            length 3     1  1  1  .  .
            length 0     1  .  .  .  .   <- a row with nothing to read would be undefined after softmax
    """
    return (torch.arange(padded, device=lengths.device) < lengths.clamp(min=1)[:, None])[:, None, None]


def tasks(task_tokens: int, anchors: int, kind: TaskMask = TaskMask.HETEROGENEOUS) -> Tensor:
    """Step 2's self-attention: tasks causal, tasks and fake items open both ways, a fake item sees no other (3.2.3).

    Shapes: -> bool [1, 1, T+A, T+A]

        T=3, A=2        t1 t2 t3 f1 f2
                    t1   1  .  .  1  1
                    t2   1  1  .  1  1
                    t3   1  1  1  1  1
                    f1   1  1  1  1  .   <- strict: f1 reads itself only, so no later task reaches an earlier one (E13)
                    f2   1  1  1  .  1   <- the diagonal stays open (E14)
    """
    total = task_tokens + anchors
    if kind is TaskMask.OPEN:
        return torch.ones(1, 1, total, total, dtype=torch.bool)
    mask = torch.eye(total, dtype=torch.bool)
    mask[:task_tokens, :task_tokens] = causal(task_tokens)[0, 0]
    mask[:task_tokens, task_tokens:] = True
    mask[task_tokens:, :task_tokens] = kind is TaskMask.HETEROGENEOUS
    return mask[None, None]


def candidates(count: int) -> Tensor:
    """Step 3's self-attention: a candidate sees the ranking token and itself, the ranking token only itself (E22).

    Shapes: -> bool [1, 1, 1+C, 1+C]

        C=3     Tr c1 c2 c3
            Tr   1  .  .  .
            c1   1  1  .  .
            c2   1  .  1  .
            c3   1  .  .  1
    """
    mask = torch.eye(1 + count, dtype=torch.bool)
    mask[:, 0] = True
    return mask[None, None]
