"""Semantic-ID paths for every head by trie-constrained beam search, or the dense retriever over item vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneranker.config import OneRankerConfig, RetrieverMode
from oneranker.enhancer import retrieval_heads
from oneranker.layers import take, unit

NOTHING = -1e30  # log-probability of a path that is not there; never -inf, so no engine makes a NaN of it


class PathScorer(nn.Module):
    """Logits over the V codes of a level, given the user and the codes before it (Eq. 4, 6-7; E6-E8).

    score(c | p) = (e_task + G_l(p))·e_c + s_target·cos(recon(p, c), anchors). The second sum equals w·unit(recon)
    with w = Σ_a s_a unit(anchor_a), so no [.., V, A] tensor is ever made.

    Shapes: code_embedding [L, V, D], codebooks [L, V, D], anchors [A, D]
    """

    def __init__(self, config: OneRankerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.code_embedding = nn.Parameter(torch.empty(config.code_levels, config.codes, width).normal_(std=0.1))
        self.prefix = nn.ModuleList(  # G_1 .. G_{L-1}; G_0 has no prefix to read
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(config.code_levels - 1)
        )

    def forward(self, level: int, user: Tensor, prefix: Tensor, recon: Tensor, codebook: Tensor, w: Tensor) -> Tensor:
        """Logits of one level.

        Shapes: user e_task [.., K, D], prefix sum of code embeddings [.., K, D], recon [.., K, D] fp32,
            codebook [V, D], w fp32 [.., K, D] (broadcast over K) -> fp32 [.., K, V]
        """
        if level and self.config.prefix_conditioned:
            user = user + self.prefix[level - 1](prefix)
        logits = (user @ self.code_embedding[level].T).float()
        if not self.config.anchors:
            return logits
        book = codebook.float().T  # [D, V]
        length = (recon * recon).sum(-1, keepdim=True) + 2 * recon @ book + (book * book).sum(0)  # |recon + c|^2
        along = (w * recon).sum(-1, keepdim=True) + w @ book
        return logits + along * torch.rsqrt(length.clamp(min=1e-12))

    def direction(self, heads: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Split user embeddings into e_task and the direction w that the target channel prefers.

        Shapes: heads [.., D+A], anchors [A, D] -> e_task [.., D], w fp32 [.., D]
        """
        e_task, s_target = heads[..., : self.config.width], heads[..., self.config.width :]
        return e_task, (s_target.float() @ unit(anchors) if self.config.anchors else e_task.float())

    def path_logits(self, heads: Tensor, codes: Tensor, codebooks: Tensor, anchors: Tensor) -> list[Tensor]:
        """Teacher-forced logits of every level for given paths (training, DC).

        Shapes: heads [.., D+A], codes int64 [.., K, L] -> L tensors fp32 [.., K, V]
        """
        e_task, w = self.direction(heads.unsqueeze(-2), anchors)  # [.., 1, D]
        prefix, recon = torch.zeros_like(e_task), torch.zeros_like(w)  # [.., 1, D], then [.., K, D]
        out = []
        for level in range(self.config.code_levels):
            logits = self(level, e_task, prefix, recon, codebooks[level], w)  # level 0 is one row for all K paths
            out.append(logits.expand(*codes.shape[:-1], -1))
            prefix = prefix + self.code_embedding[level][codes[..., level]]
            recon = recon + codebooks[level].float()[codes[..., level]]
        return out


class Retriever(nn.Module):
    """Best C items over all heads; every table of the catalogue is an argument.

    Shapes: user_embedding [B, T, D+A]; tables of `forward` -> dict of candidate_items int32 [B, C] (-1 pads),
        candidate_logp fp32 [B, C] descending, candidate_head int32 [B, C], candidate_count int32 [B]
    """

    def __init__(self, config: OneRankerConfig) -> None:
        super().__init__()
        self.config = config
        self.scorer = PathScorer(config)

    def forward(self, user_embedding: Tensor, index: dict[str, Tensor]) -> dict[str, Tensor]:
        heads = retrieval_heads(user_embedding, self.config.interest_tokens)  # [B, M, D+A]
        search = self._dense if self.config.retriever is RetrieverMode.DENSE else self._beam_search
        items, logp = search(heads, index)  # [B, M, W]
        return union(items, logp, self.config.candidates)

    def _beam_search(self, heads: Tensor, index: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """W best legal paths per head, all levels in one pass of fixed shapes (CSR trie, D.5).

        A child is legal if an eligible item lies below it: the running count of eligible items steps up between the
        child's first and last item. Scores stay true log-probabilities: no renormalisation over legal children.
        """
        B, M, _ = heads.shape
        V = self.config.codes
        e_task, w = self.scorer.direction(heads[:, :, None], index["anchors"])  # [B, M, 1, D]
        children = _Children(index, V, self.config.code_levels)
        node = torch.zeros(B, M, 1, dtype=torch.int64, device=heads.device)
        logp = torch.zeros(B, M, 1, device=heads.device)
        prefix = torch.zeros(B, M, 1, self.config.width, dtype=heads.dtype, device=heads.device)
        recon = torch.zeros(B, M, 1, self.config.width, device=heads.device)
        for level in range(self.config.code_levels):
            logits = self.scorer(level, e_task, prefix, recon, index["codebooks"][level], w)
            step = F.log_softmax(logits, dim=-1)  # [B, M, K, V]
            child, code, there = children.of(node, level)  # [B, M, K, V] each
            there = there & (logp > NOTHING)[..., None]
            score = torch.where(there, logp[..., None] + step.gather(-1, code), NOTHING).flatten(2)
            logp, best = score.topk(min(self.config.beams, score.shape[-1]), dim=-1)  # [B, M, W]
            node, code = child.flatten(2).gather(-1, best), code.flatten(2).gather(-1, best)
            parent = (best // V)[..., None].expand(-1, -1, -1, self.config.width)
            prefix = prefix.gather(2, parent) + self.scorer.code_embedding[level][code]
            recon = recon.gather(2, parent) + index["codebooks"][level].float()[code]
        return take(index["trie_items_begin"], node), logp

    def _dense(self, heads: Tensor, index: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Exact Eq. 4: softmax over every item vector [e_item ; cos(e_item, anchors)], best W eligible items per head.

        Shapes: heads [B, M, D+A], item_vectors x [N, D+A], item_eligible int32 [R, N+1] -> [B, M, W] twice
        """
        logp = F.log_softmax((heads @ index["item_vectors"].T).float(), dim=-1)  # [B, M, N]
        counts = index["item_eligible"].index_select(0, index["eligible_row"])  # [B, N+1]
        logp = torch.where((counts[:, 1:] > counts[:, :-1])[:, None], logp, NOTHING)
        spare = torch.full_like(logp[:, :, :1], NOTHING).expand(-1, -1, self.config.beams)
        best, item = torch.cat([logp, spare], dim=-1).topk(self.config.beams, dim=-1)  # a catalogue may be below W
        return item, best


class _Children:
    """The children of trie nodes, and which of them have an eligible item below: gathers whose number N cannot change.

    Siblings are neighbours, in the node table and in their items: V + 1 edges bound V children, and a child is open if
    the running count of eligible items steps up between its two edges. The last level's children are items themselves.
    """

    def __init__(self, index: dict[str, Tensor], codes: int, levels: int) -> None:
        self.index, self.levels = index, levels
        counts = index["item_eligible"]
        self.counts = counts.reshape(-1)
        self.row_start = index["eligible_row"].long()[:, None, None, None] * counts.shape[1]  # [B, 1, 1, 1]
        self.edges = torch.arange(codes + 1, device=counts.device)

    def of(self, node: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Child nodes, their codes, and whether such a child exists and is open.

        Shapes: node int64 [B, M, K] -> child int64, code int64, open bool [B, M, K, V]
        """
        index = self.index
        begin, end = take(index["trie_children_begin"], node), take(index["trie_children_end"], node)
        edge = begin[..., None] + self.edges  # [B, M, K, V+1]
        inside = edge < end[..., None]
        edge = torch.where(inside, edge, 0).long()
        first, last = take(index["trie_items_begin"], node)[..., None], take(index["trie_items_end"], node)[..., None]
        if level == self.levels - 1:
            items = torch.minimum(first + self.edges, last)
        else:
            items = torch.where(inside, take(index["trie_items_begin"], edge), last)
        counted = take(self.counts, self.row_start + items)
        child = edge[..., :-1]
        open_child = inside[..., :-1] & (counted[..., 1:] > counted[..., :-1])
        return child, take(index["trie_code"], child).long(), open_child


def union(items: Tensor, logp: Tensor, candidates: int) -> dict[str, Tensor]:
    """Merge the heads' beams: best first, an item's best occurrence only, cut to C, pads behind.

    Shapes: items int [B, M, W], logp fp32 [B, M, W] (NOTHING = no path) -> the dict of `Retriever`
    """
    W = items.shape[2]
    every = items.shape[1] * W
    best, order = logp.flatten(1).topk(every, dim=-1)  # [B, M*W], descending
    item = items.flatten(1).long().gather(1, order)
    earlier = torch.ones(every, every, dtype=torch.bool, device=items.device).tril(-1)
    seen = ((item[:, :, None] == item[:, None, :]) & earlier).any(-1)
    best = torch.where(seen, NOTHING, best)
    if every < candidates:
        spare = best.new_full((best.shape[0], candidates - every), NOTHING)  # joined: CUDA pads no integers
        none = torch.zeros_like(spare, dtype=item.dtype)
        best, item, order = (torch.cat(pair, 1) for pair in ((best, spare), (item, none), (order, none)))
    best, kept = best.topk(candidates, dim=-1)  # [B, C]
    there = best > NOTHING
    return {
        "candidate_items": torch.where(there, item.gather(1, kept), -1).to(torch.int32),
        "candidate_logp": best,
        "candidate_head": torch.where(there, order.gather(1, kept) // W, -1).to(torch.int32),
        "candidate_count": there.sum(-1).to(torch.int32),
    }
