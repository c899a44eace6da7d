"""Every user's history as one stream of tokens, with the requests to learn from and what followed each of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from oneranker.data.dataset import Dataset
from oneranker.tokens import NO_ITEM, UNKNOWN_ITEM, ItemLookup, Tokenizer, newest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Streams:
    """All the trainer and the evaluator need; Q requests, one per group, m targets. A request's targets are a set.

    Shapes: token_fields int32 [n, F], token_kind int32 [n], token_time int64 [n], user_offset int64 [U+1],
        request_token int64 [Q] (its X in the stream), request_user int32 [Q], request_time int64 [Q],
        request_split int8 [Q] (0 train, 1 valid, 2 test), target_offset int64 [Q+1],
        target_item int32 [m] (row of the index, -1 = not in it), target_key int32 [m] (number of the item among all,
        also of those not in the index), target_value float32 [m], target_stage uint8 [m, stages]
    """

    token_fields: np.ndarray
    token_kind: np.ndarray
    token_time: np.ndarray
    user_offset: np.ndarray
    user_ids: list[str]
    request_token: np.ndarray
    request_user: np.ndarray
    request_time: np.ndarray
    request_split: np.ndarray
    target_offset: np.ndarray
    target_item: np.ndarray
    target_key: np.ndarray
    target_value: np.ndarray
    target_stage: np.ndarray

    def window(self, request: int, max_history: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the tokenizer would make of this request: fields, kind, time of U and the newest tokens up to its X.

        Shapes: -> int32 [s, F], int32 [s], int64 [s], s <= max_history
        """
        start = self.user_offset[self.request_user[request]]
        kept = start + newest(int(self.request_token[request] - start) + 1, max_history)
        time = self.token_time[kept]
        time[0] = time[1]
        return self.token_fields[kept], self.token_kind[kept], time

    def targets(self, request: int) -> slice:
        """Where the request's targets stand."""
        return slice(int(self.target_offset[request]), int(self.target_offset[request + 1]))


def build_streams(dataset: Dataset, tokenizer: Tokenizer, items: ItemLookup) -> Streams:
    """Tokens and targets of every user; items not in the lookup become unknown items, which is counted."""
    tables, events = dataset.tables, dataset.tables.events
    row_of_key = np.append(items.rows(tables.item_ids), NO_ITEM)
    item = row_of_key[events.item]
    dataset.report.counted.pop(OUTSIDE, None)
    dataset.report.count(OUTSIDE, int((item == UNKNOWN_ITEM).sum()))
    stream = tokenizer.assemble(
        user_columns=tables.user_columns,
        users=len(tables.user_ids),
        group_user=events.group_user,
        group_time=events.group_time,
        group_content=events.group_content,
        context_columns=events.context,
        event_group=events.group,
        event_item=item,
        event_columns=events.columns,
        items=items,
    )
    asked = np.flatnonzero(~events.group_content)
    offset, key, value, stage = _targets(dataset, asked)
    return Streams(
        token_fields=stream.token_fields,
        token_kind=stream.token_kind,
        token_time=stream.token_time,
        user_offset=stream.user_offset,
        user_ids=tables.user_ids,
        request_token=stream.group_token[asked],
        request_user=events.group_user[asked].astype(np.int32),
        request_time=events.group_time[asked],
        request_split=events.group_split[asked],
        target_offset=offset,
        target_item=row_of_key[key].astype(np.int32),
        target_key=key.astype(np.int32),
        target_value=value,
        target_stage=stage,
    )


OUTSIDE = "events of items that are not in the index"


def _targets(dataset: Dataset, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Items of each request; an item that stands twice in one group is one target: values add up, stages join."""
    events = dataset.tables.events
    used = ~events.group_content[events.group]
    request = np.searchsorted(asked, events.group[used])
    key, value, stage = events.item[used], events.value[used], events.stages[used]
    pair = request * len(dataset.tables.item_ids) + key
    distinct, first, inverse = np.unique(pair, return_index=True, return_inverse=True)
    if len(distinct) < len(pair):
        inverse = inverse.reshape(-1)
        value = np.bincount(inverse, weights=value, minlength=len(distinct)).astype(np.float32)
        joined = np.zeros((len(distinct), stage.shape[1]), dtype=np.uint8)
        np.maximum.at(joined, inverse, stage)
        request, key, stage = request[first], key[first], joined
    return np.searchsorted(request, np.arange(len(asked) + 1)), key, value, stage
