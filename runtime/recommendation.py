"""What a pipeline answers with, and how scores become a ranked list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import OneRankerError
from runtime.items import ItemIndex


@dataclass(frozen=True, slots=True)
class RankedItem:
    """One recommended item: the ranker's score, the generator's log-probability and the head that proposed it."""

    id: str
    name: str
    score: float
    logp: float
    head: int
    row: int


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer to one request, best item first."""

    items: list[RankedItem]
    unknown_items: int  # events of items that the index does not know
    dropped: int  # oldest history tokens that did not fit
    index_version: str
    unknown_filter_ids: int = 0  # ids of "eligible" and "excluded" that the index does not know


@dataclass(frozen=True, slots=True)
class Candidates:
    """What the retriever found, best first; the tail beyond `count` is padding (items -1, logp -1e30, head -1).

    Shapes: items int32 [B, C], logp float32 [B, C], head int32 [B, C], count int32 [B]
    """

    items: npt.NDArray[np.int32]
    logp: npt.NDArray[np.float32]
    head: npt.NDArray[np.int32]
    count: npt.NDArray[np.int32]


def best_items(
    index: ItemIndex, candidates: Candidates, scores: npt.NDArray[Any], request: int, top_k: int
) -> list[RankedItem]:
    """The `top_k` candidates of one request by score; equal scores keep the retriever's order.

    Shapes: scores float32 [B, C]

    Raises:
        OneRankerError: If a score is not a finite number.
    """
    count = int(candidates.count[request])
    own = scores[request, :count]
    if not np.isfinite(own).all():
        raise OneRankerError(
            f"ranker: score {int(np.flatnonzero(~np.isfinite(own))[0])} of request {request} is not a finite number, "
            "expected one for every candidate. Rebuild the bundle with --precision fp32 and check the weights."
        )
    best = np.argsort(-own, kind="stable")[:top_k]
    rows, logp, head = (part[request, best].tolist() for part in (candidates.items, candidates.logp, candidates.head))
    return [
        RankedItem(id=index.id(row), name=index.name(row), score=score, logp=path, head=by, row=row)
        for row, score, path, by in zip(rows, own[best].tolist(), logp, head, strict=True)
    ]
