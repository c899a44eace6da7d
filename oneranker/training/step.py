"""The joint loss of one training batch (Eq. 5): Steps 1 to 3 in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from oneranker import masks
from oneranker.enhancer import retrieval_heads
from oneranker.losses import ConsistencyWarmup, bpr_loss, dc_loss, mtp_loss, value_weights
from oneranker.model import OneRanker
from oneranker.training.batches import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """α, β, γ, τ of Eq. 5 and 10 (E31); γ = 0 is Table 2 "w/o DC Loss"."""

    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 0.1
    gamma_warmup_steps: int = 200
    temperature: float = 1.0


@dataclass(frozen=True)
class ItemSide:
    """What the losses need of every item.

    Shapes: codes int64 [N, L], item_fields int64 [N, Fi], codebooks fp32 [L, V, D]
    """

    codes: Tensor
    item_fields: Tensor
    codebooks: Tensor


def joint_loss(
    model: OneRanker, batch: Batch, items: ItemSide, settings: LossSettings, warmup: ConsistencyWarmup, step: int
) -> tuple[Tensor, dict[str, float]]:
    """Eq. 5 for one batch, and its parts for the record.

    DC scores whole paths of every candidate, the dearest term; one request per window carries it.
    """
    out, history_mask = encode_requests(model, batch)
    heads = retrieval_heads(out["user_embedding"], model.config.interest_tokens)  # [Q, M, D+A]
    scorer, anchors = model.retriever.scorer, model.enhancer.anchors
    codes = items.codes[batch.target_items]  # [Q, M, K, L]
    weight = batch.target_weight.clone()
    weight[:, -1] = value_weights(weight[:, -1], weight[:, -1] > 0)
    mtp = mtp_loss(scorer.path_logits(heads, codes, items.codebooks, anchors), codes, weight)

    scores = rank_candidates(model, batch, items, out, history_mask)
    rank, right = bpr_loss(scores, batch.candidate_value, batch.candidate_present)
    gamma = warmup.at(step, float(right))
    loss = settings.alpha * mtp + settings.beta * rank
    parts = {"mtp": mtp.item(), "rank": rank.item(), "right": right.item(), "gamma": gamma}
    if gamma > 0:
        last = slice(None, None, len(batch.position) // len(batch.history_length))  # each window's last request
        codes = items.codes[batch.candidate_items[last]]
        path_logp = path_log_probability(model, heads[last, -1:], codes, items.codebooks)
        dc = dc_loss(path_logp, scores[last], batch.candidate_present[last], settings.temperature)
        loss = loss + gamma * dc
        parts["dc"] = dc.item()
    return loss, parts | {"loss": loss.item()}


def encode_requests(model: OneRanker, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Steps 1 and 2 for every request of the batch: a window is encoded once, each request reads its own past only.

    Shapes: -> the generator's and enhancer's dicts with Q rows, history_mask [Q, 1, 1, S]
    """
    S = batch.token_kind.shape[1]
    window_mask = model.additive(masks.history(batch.history_length, S))
    causal_mask = model.additive(masks.causal(S))
    out = model.generator(batch.token_fields, batch.token_kind, batch.token_time, causal_mask, window_mask)
    per_window = len(batch.position) // len(batch.history_length)
    del out["history_hidden"]  # nothing reads it but the keys and values already made of it
    out = {name: tensor.repeat_interleave(per_window, dim=0) for name, tensor in out.items()}
    history_mask = model.additive(masks.history(batch.position, S))
    return out | model.enhance(out, history_mask), history_mask


def rank_candidates(
    model: OneRanker, batch: Batch, items: ItemSide, out: dict[str, Tensor], history_mask: Tensor
) -> Tensor:
    """Step 3 over the batch's candidates, only their rows of the item table computed.

    Shapes: -> fp32 [Q, C]
    """
    if model.config.ranker_detached:
        out = {name: tensor.detach() for name, tensor in out.items()}
    Q, C = batch.candidate_items.shape
    table = model.item_table(items.item_fields[batch.candidate_items.reshape(-1)])
    rows = torch.arange(Q * C, device=table.device).reshape(Q, C)
    return model.rank(torch.where(batch.candidate_present, rows, -1), table, out, history_mask)


def path_log_probability(model: OneRanker, heads: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """Σ_l log P(code_l | ...) of whole paths under one head (E28).

    Shapes: heads [Q, 1, D+A], codes int64 [Q, C, L] -> fp32 [Q, C]
    """
    logits = model.retriever.scorer.path_logits(heads, codes[:, None], codebooks, model.enhancer.anchors)
    steps = [
        F.log_softmax(level, dim=-1).gather(-1, codes[:, None, :, i : i + 1]).squeeze(-1)
        for i, level in enumerate(logits)
    ]
    return torch.stack(steps).sum(0).squeeze(1)
