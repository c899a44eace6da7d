"""What a trained model recommends for the requests of token streams: full catalogue, or without what the user had."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from oneranker.catalogue import Catalogue, index_tensors, running_counts
from oneranker.data.metrics import EvaluationRequests
from oneranker.data.streams import Streams
from oneranker.model import OneRanker
from oneranker.padding import pad_windows


@torch.inference_mode()
def model_rankings(
    model: OneRanker,
    catalogue: Catalogue,
    streams: Streams,
    requests: EvaluationRequests,
    *,
    new_only: bool,
    batch: int = 32,
) -> dict[str, NDArray[np.int64]]:
    """Items best first, by the ranker ("scores") and by the retriever alone ("candidate_logp"); -1 pads.

    Shapes: -> two int64 [R, C]
    """
    index = index_tensors(model, catalogue)
    out: dict[str, list[NDArray[np.int64]]] = {"scores": [], "candidate_logp": []}
    desc = "evaluate new items" if new_only else "evaluate all items"
    for start in tqdm(range(0, len(requests.request), batch), desc=desc, mininterval=2.0):
        rows = requests.request[start : start + batch]
        tokens = pad_windows([streams.window(int(r), model.config.max_history) for r in rows])
        answer = model(
            tokens, index | eligibility(catalogue, requests.history_row[start : start + batch], new_only=new_only)
        )
        for name, ranked in out.items():
            ranked.append(by_score(answer["candidate_items"], answer[name]))
    return {name: np.concatenate(ranked) for name, ranked in out.items()}


def eligibility(catalogue: Catalogue, past: Sequence[NDArray[np.int64]], *, new_only: bool) -> dict[str, Tensor]:
    """Running counts of eligible items, one row for all requests, or one each without the user's past items.

    Shapes: past item rows of B requests -> item_eligible int32 [R, N+1], eligible_row int32 [B]
    """
    eligible = np.repeat(catalogue.listed[None], len(past) if new_only else 1, axis=0)
    if new_only:
        for row, items in enumerate(past):
            eligible[row, items] = False
    of_request = np.arange(len(past)) if new_only else np.zeros(len(past))
    return {
        "item_eligible": torch.from_numpy(running_counts(eligible)),
        "eligible_row": torch.from_numpy(of_request.astype(np.int32)),
    }


def by_score(items: Tensor, scores: Tensor) -> NDArray[np.int64]:
    """Candidates in falling score, pads last.

    Shapes: items int [B, C], scores fp32 [B, C] -> int64 [B, C]
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return items.gather(1, order).numpy().astype(np.int64)
