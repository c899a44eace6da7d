"""The retriever's own scores over every item of a catalogue, none pruned: what a beam search is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from oneranker.enhancer import retrieval_heads
from oneranker.retriever import PathScorer

Rows = NDArray[np.int64]

_LOGITS_AT_ONCE = 1 << 23


@dataclass(frozen=True, slots=True)
class CodeTables:
    """A catalogue's paths and the space they lie in.

    Shapes: codes int64 [N, L], sorted and distinct, codebooks fp32 [L, V, D], anchors fp32 [A, D]
    """

    codes: Tensor
    codebooks: Tensor
    anchors: Tensor


def best_per_head(scorer: PathScorer, heads: Tensor, tables: CodeTables, keep: int) -> tuple[Tensor, Tensor]:
    """The best items of every head by the log-probability of their whole path, every item scored.

    An item's score is the sum over levels of log_softmax(logits over V)[its code], the logits those of `PathScorer`
    (Eq. 6-7). Items that share a prefix share its logits, so they are computed once for each prefix.

    Shapes: heads [X, D+A] -> items int64 [X, keep], logp fp32 [X, keep], descending; short of items: -1 and -inf
    """
    firsts = _first_rows(tables.codes)
    above = torch.zeros(len(heads), 1)  # log-probability of the nodes of a depth
    for level in range(tables.codes.shape[1] - 1):
        above = torch.cat([logp for _, logp in _children(scorer, heads, tables, firsts, level, above)], dim=1)
    best = torch.full((len(heads), keep), -torch.inf)
    item = torch.full((len(heads), keep), -1)
    for begin, logp in _children(scorer, heads, tables, firsts, tables.codes.shape[1] - 1, above):
        rows = torch.arange(begin, begin + logp.shape[1]).expand_as(logp)
        best, at = torch.cat([best, logp], dim=1).topk(keep, dim=1)
        item = torch.cat([item, rows], dim=1).gather(1, at)
    return item, best


def best_candidates(
    scorer: PathScorer, user_embedding: Tensor, interest_tokens: int, tables: CodeTables, beams: int, candidates: int
) -> list[Rows]:
    """The union of every head's best `beams` items, cut to the best `candidates`: the retriever without pruning.

    Shapes: user_embedding [U, T, D+A] -> U times int64 [at most C], best first
    """
    heads = retrieval_heads(user_embedding, interest_tokens)  # [U, M, D+A]
    items, logp = best_per_head(scorer, heads.flatten(0, 1), tables, beams)
    shape = (*heads.shape[:2], beams)
    return [
        _merged(item.flatten().numpy(), score.flatten().numpy(), candidates)
        for item, score in zip(items.reshape(shape), logp.reshape(shape), strict=True)
    ]


def recall(found: Sequence[Rows], best: Sequence[Rows], at: int) -> float:
    """The mean share of the `at` best items that stand among the first `at` of what was found."""
    shares = [
        len(np.intersect1d(one[:at], other[:at])) / len(other[:at]) for one, other in zip(found, best, strict=True)
    ]
    return float(np.mean(shares))


def _merged(items: Rows, logp: NDArray[np.float32], candidates: int) -> Rows:
    order = np.argsort(-logp, kind="stable")
    items = items[order][logp[order] > -np.inf]
    _, first = np.unique(items, return_index=True)
    merged: Rows = items[np.sort(first)][:candidates]
    return merged


def _first_rows(codes: Tensor) -> list[Tensor]:
    """The first row of each node, depth by depth, and N behind them: int64 [nodes of the depth + 1]."""
    count, levels = codes.shape
    new = torch.zeros(count, dtype=torch.bool)
    new[0] = True
    firsts = [torch.tensor([0, count])]
    for level in range(levels):
        new[1:] |= codes[1:, level] != codes[:-1, level]
        firsts.append(torch.cat([new.nonzero()[:, 0], torch.tensor([count])]))
    return firsts


def _children(
    scorer: PathScorer, heads: Tensor, tables: CodeTables, firsts: list[Tensor], level: int, above: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """Log-probabilities of the nodes of depth level + 1, some parents at a time: number of the first node, [X, nodes].

    Shapes: above fp32 [X, nodes of depth `level`]
    """
    e_task, w = scorer.direction(heads[:, None], tables.anchors)  # [X, 1, D]
    parents, children = firsts[level], firsts[level + 1]
    V = tables.codebooks.shape[1]
    step = max(1, _LOGITS_AT_ONCE // (len(heads) * V))
    for begin in range(0, len(parents) - 1, step):
        cuts = parents[begin : begin + step + 1]
        path = tables.codes[cuts[:-1], :level]  # [K, level]
        prefix, recon = (
            sum((table[below][path[:, below]] for below in range(level)), torch.zeros(len(path), table.shape[-1]))
            for table in (scorer.code_embedding, tables.codebooks)
        )
        logits = scorer(level, e_task, prefix[None], recon[None], tables.codebooks[level], w)
        logp = F.log_softmax(logits, dim=-1) + above[:, begin : begin + step, None]  # [X, K, V]
        first, last = torch.searchsorted(children, cuts[[0, -1]]).tolist()
        rows = children[first:last]
        parent = torch.searchsorted(cuts, rows, right=True) - 1
        yield first, logp.flatten(1)[:, parent * V + tables.codes[rows, level]]
