"""The joint loss of one training batch (Eq. 5): Steps 1 to 3 in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from oneranker import masks
from oneranker.catalogue import Catalogue, retrieval_tables
from oneranker.config import RetrieverMode
from oneranker.enhancer import retrieval_heads
from oneranker.losses import ConsistencyWarmup, bpr_loss, dc_loss, mtp_loss, value_weights
from oneranker.model import OneRanker
from oneranker.ranker import item_vectors
from oneranker.training.batches import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """α, β, γ, τ of Eq. 5 and 10 (E31); γ = 0 is Table 2 "w/o DC Loss"."""

    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 0.1
    gamma_warmup_steps: int = 200
    temperature: float = 1.0


class ItemSide:
    """What the losses need of every item.

    Shapes: codes int64 [N, L], item_fields int64 [N, Fi], reconstruction fp32 [N, D], tables: the retriever's, fp32
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.codes = torch.from_numpy(catalogue.codes).long()
        self.item_fields = torch.from_numpy(catalogue.item_fields).long()
        self.reconstruction = torch.from_numpy(catalogue.reconstruction())
        self.tables = retrieval_tables(catalogue, torch.float32)

    def vectors(self, model: OneRanker) -> Tensor:
        """Eq. 3 for every item under the current weights (dense mode).

        Shapes: -> [N, D+A]
        """
        return item_vectors(model.item_table(self.item_fields), self.reconstruction, self.tables["anchors"])


def joint_loss(
    model: OneRanker, batch: Batch, items: ItemSide, settings: LossSettings, warmup: ConsistencyWarmup, step: int
) -> tuple[Tensor, dict[str, float]]:
    """Eq. 5 for one batch, and its parts for the record; β = γ = 0 is Steps 1 and 2 alone."""
    out, ranked = encode_requests(model, batch)
    vectors = items.vectors(model) if model.config.retriever is RetrieverMode.DENSE else None
    mtp = generation_loss(model, batch, items, out["user_embedding"], vectors)
    if settings.beta == settings.gamma == 0:
        return settings.alpha * mtp, {"mtp": mtp.item(), "loss": settings.alpha * mtp.item()}
    rank = RankedLists(model, batch, items, ranked, vectors)
    gamma = warmup.at(step, rank.share_right)
    loss = settings.alpha * mtp + settings.beta * rank.loss
    parts = {"mtp": mtp.item(), "rank": rank.loss.item(), "right": rank.share_right, "gamma": gamma}
    if gamma > 0:
        head = retrieval_heads(ranked["user_embedding"], model.config.interest_tokens)[:, -1:]  # the value head (E28)
        log_policy = item_log_probability(model, head, rank.candidates.clamp(min=0), items, vectors)
        dc = dc_loss(log_policy, rank.scores, rank.candidates >= 0, settings.temperature)
        loss = loss + gamma * dc
        parts["dc"] = dc.item()
    return loss, parts | {"loss": loss.item()}


class RankedLists:
    """What Step 3 makes of the candidates that Step 2 retrieves now, and Eq. 8 over them.

    Shapes: candidates int64 [G, C] (-1 pads), scores fp32 [G, C], loss scalar
    """

    def __init__(
        self, model: OneRanker, batch: Batch, items: ItemSide, ranked: dict[str, Tensor], vectors: Tensor | None
    ) -> None:
        self.candidates = retrieve_candidates(model, batch, items, ranked["user_embedding"], vectors)
        self.scores = rank_candidates(model, self.candidates, items, ranked)
        value = candidate_value(self.candidates, batch)
        self.loss, right = bpr_loss(self.scores, value, self.candidates >= 0)
        self.share_right = right.item()


def generation_loss(
    model: OneRanker, batch: Batch, items: ItemSide, user_embedding: Tensor, vectors: Tensor | None
) -> Tensor:
    """Eq. 6-7 over heads and levels; over the items themselves where `vectors` are given (dense mode, E6).

    Shapes: user_embedding [Q, T, D+A], vectors [N, D+A] -> scalar
    """
    heads = retrieval_heads(user_embedding, model.config.interest_tokens)  # [Q, M, D+A]
    weight = batch.target_weight.clone()
    weight[:, -1] = value_weights(weight[:, -1], weight[:, -1] > 0)
    if vectors is not None:
        every = (heads @ vectors.T).float()[:, :, None].expand(-1, -1, weight.shape[2], -1)  # [Q, M, K, N]
        return mtp_loss([every], batch.target_items[..., None], weight)
    codes = items.codes[batch.target_items]  # [Q, M, K, L]
    logits = model.retriever.scorer.path_logits(heads, codes, items.tables["codebooks"], model.enhancer.anchors)
    return mtp_loss(logits, codes, weight)


def encode_requests(model: OneRanker, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Steps 1 and 2 for every request of the batch: a window is encoded once, each request reads its own past only.

    Shapes: -> the enhancer's dict with Q rows; what Step 3 reads and user_embedding with G rows, history_mask
        [G, 1, 1, S] among them
    """
    S = batch.token_kind.shape[1]
    window_mask = model.additive(masks.history(batch.history_length, S))
    causal_mask = model.additive(masks.causal(S))
    states = model.generator(batch.token_fields, batch.token_kind, batch.token_time, causal_mask, window_mask)
    per_window = len(batch.position) // len(batch.history_length)
    read = {name: t.repeat_interleave(per_window, dim=0) for name, t in states.items() if name.startswith("enhancer")}
    history_mask = model.additive(masks.history(batch.position, S))
    out = model.enhance(read, history_mask)
    window = batch.ranked // per_window
    ranked = {name: states[name][window] for name in ("ranker_key_history", "ranker_value_history")}
    ranked |= {name: tensor[batch.ranked] for name, tensor in out.items()}
    return out, ranked | {"history_mask": history_mask[batch.ranked]}


@torch.no_grad()
def retrieve_candidates(
    model: OneRanker, batch: Batch, items: ItemSide, user_embedding: Tensor, vectors: Tensor | None
) -> Tensor:
    """The candidates the model would be served with now (E25, docs/decisions/0004): the ranker learns on nothing else.

    Shapes: user_embedding [G, T, D+A] -> int64 [G, C], -1 pads
    """
    rows = torch.arange(len(batch.ranked), dtype=torch.int32)
    index = items.tables | {"item_eligible": batch.item_eligible, "eligible_row": rows}
    if vectors is not None:
        index["item_vectors"] = vectors
    return model.retriever(user_embedding, index)["candidate_items"].long()


def candidate_value(candidates: Tensor, batch: Batch) -> Tensor:
    """What each candidate turned out to be worth, 0 if it was not bought (E26).

    Shapes: candidates int64 [G, C] -> fp32 [G, C]
    """
    same = candidates[:, :, None] == batch.bought_items[:, None, :]
    same &= (batch.bought_items >= 0)[:, None, :]
    return (same * batch.bought_value[:, None, :]).sum(-1)


def rank_candidates(model: OneRanker, candidates: Tensor, items: ItemSide, ranked: dict[str, Tensor]) -> Tensor:
    """Step 3 over the candidates, only their rows of the item table computed.

    Shapes: candidates int64 [G, C] -> fp32 [G, C]
    """
    if model.config.ranker_detached:
        ranked = {name: tensor.detach() for name, tensor in ranked.items()}
    table = model.item_table(items.item_fields[candidates.clamp(min=0).reshape(-1)])
    rows = torch.arange(candidates.numel(), device=table.device).reshape(candidates.shape)
    return model.rank(torch.where(candidates >= 0, rows, -1), table, ranked, ranked["history_mask"])


def item_log_probability(
    model: OneRanker, heads: Tensor, candidates: Tensor, items: ItemSide, vectors: Tensor | None
) -> Tensor:
    """Log π(item | user) under one head: Σ_l log P(code_l | ...) of its path, or the softmax of Eq. 4 (E28).

    Shapes: heads [G, 1, D+A], candidates int64 [G, C] -> fp32 [G, C]
    """
    if vectors is not None:
        return F.log_softmax((heads[:, 0] @ vectors.T).float(), dim=-1).gather(-1, candidates)
    codes = items.codes[candidates][:, None]  # [G, 1, C, L]
    logits = model.retriever.scorer.path_logits(heads, codes, items.tables["codebooks"], model.enhancer.anchors)
    steps = [F.log_softmax(x, dim=-1).gather(-1, codes[..., i : i + 1]).squeeze(-1) for i, x in enumerate(logits)]
    return torch.stack(steps).sum(0).squeeze(1)
