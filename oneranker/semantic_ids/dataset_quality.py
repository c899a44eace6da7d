"""How the codes of semantic IDs fit what users of a data set did: targets and their history, items chosen together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oneranker.data.dataset import CatalogueItems, Dataset, catalogue_items, chosen_in_one
from oneranker.data.event_roles import VALID
from oneranker.errors import DataError
from oneranker.semantic_ids.item_embeddings import chosen_together
from oneranker.semantic_ids.quality import Integers, code_overlap, prefix_recall
from oneranker.semantic_ids.semantic_ids import SemanticIds

TOP_NEIGHBOURS = 20
MOST_PAIRS = 1_000_000  # of more (history item, target) pairs, a sample of this size: shares within about 0.001
_SEED = 0


def dataset_quality(ids: SemanticIds, dataset: Dataset) -> dict[str, Any]:
    """Measure code overlap of history and target, and prefix recall of co-occurring items (resid.md §4).

    Items are matched by id; items without codes, and codes of items outside the catalogue, are counted and left out.

    Raises:
        DataError: no item of the catalogue has codes.
    """
    catalogue = catalogue_items(dataset)
    listed = set(catalogue.ids)
    row_of = {item: row for row, item in enumerate(ids.item_ids) if item in listed}
    if not row_of:
        raise DataError(
            f"{dataset.schema.folder}: none of {len(listed)} catalogue items, such as {catalogue.ids[:3]}, has "
            f"semantic IDs; they are of {len(ids.item_ids)} items such as {list(ids.item_ids[:3])}, expected "
            "IDs of the same items. Name the data set that they were fitted on."
        )
    return {
        "name": dataset.schema.name,
        "catalogue_items": len(listed),
        "items_without_codes": len(listed) - len(row_of),
        "codes_outside_catalogue": len(ids.item_ids) - len(row_of),
        "history_target": _history_target(ids.codes, dataset, row_of),
        "cooccurrence": _cooccurrence(ids.codes, dataset, catalogue, row_of),
    }


def _history_target(codes: NDArray[np.int32], dataset: Dataset, row_of: dict[str, int]) -> dict[str, Any]:
    history, target, row, pairs = history_pairs(dataset, _rows(dataset.tables.item_ids, row_of))
    overlap = code_overlap(codes, history, target, row)
    return {
        "targets": len(target),
        "pairs": pairs,
        "pairs_counted": overlap.pairs,
        "overlap": list(overlap.shares),
    }


def _cooccurrence(
    codes: NDArray[np.int32], dataset: Dataset, catalogue: CatalogueItems, row_of: dict[str, int]
) -> dict[str, Any]:
    group, row = chosen_in_one(dataset, catalogue)
    together = chosen_together(len(codes), group, _rows(catalogue.ids, row_of)[row]).tocoo()
    pairs = np.stack([together.row, together.col], axis=1).astype(np.int64)
    return {
        "within": "user" if dataset.schema.events.group is None else "group",
        "items": len(np.unique(pairs[:, 0])),
        "top": TOP_NEIGHBOURS,
        "prefix_recall": list(prefix_recall(codes, pairs, together.data, TOP_NEIGHBOURS)),
    }


def history_pairs(
    dataset: Dataset, row_of_item: Integers, most: int = MOST_PAIRS
) -> tuple[Integers, Integers, Integers, int]:
    """Pair the targets of each user's first request of the validation part with all different items before it.

    These are the evaluator's requests (oneranker/data/metrics.py). A target that stands in its history pairs with
    itself as well. Of more than `most` pairs, that many are drawn with replacement by a fixed seed.

    Shapes: row_of_item int64 [items + 1], -1 = none -> history item int64 [n], target item int64 [m], target of each
        history item int64 [n], number of all pairs
    """
    events = dataset.tables.events
    asked = np.flatnonzero((events.group_split == VALID) & ~events.group_content)
    owner, first = np.unique(events.group_user[asked], return_index=True)
    request_of = np.full(len(dataset.tables.user_ids), -1)  # a group; groups stand by user, then time
    request_of[owner] = asked[first]
    user, item = events.group_user[events.group], row_of_item[events.item]
    used = (item >= 0) & ~events.group_content[events.group]
    width = len(row_of_item)
    before = np.unique((user * width + item)[used & (events.group < request_of[user])])
    asked_for = np.unique((user * width + item)[used & (events.group == request_of[user])])
    begin = np.searchsorted(before // width, asked_for // width)
    size = np.searchsorted(before // width, asked_for // width, side="right") - begin
    end = np.cumsum(size)
    pairs = int(size.sum())
    chosen = np.arange(pairs)
    if pairs > most:
        chosen = np.random.default_rng(_SEED).integers(0, pairs, most)
    row = np.searchsorted(end, chosen, side="right")
    return before[begin[row] + chosen - (end - size)[row]] % width, asked_for % width, row, pairs


def _rows(item_ids: list[str], row_of: dict[str, int]) -> Integers:
    """Rows of the table of codes, -1 for items without; one more at the end, for events that name no item."""
    return np.array([*(row_of.get(item, -1) for item in item_ids), -1], dtype=np.int64)
