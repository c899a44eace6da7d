"""The request a real user would have sent at some moment, in the JSON form that serving takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from oneranker.data.dataset import Dataset
from oneranker.errors import DataError


def request_json(dataset: Dataset, user: str, until: int | None = None) -> dict[str, Any]:
    """The user's first request at or after `until` (None: after everything): its context, and all that came before it.

    `until` is in the events' unit: seconds, or the place in the user's order where events have no time.

    Raises: DataError for a user who has no events.
    """
    tables, events, schema = dataset.tables, dataset.tables.events, dataset.schema
    place = int(np.searchsorted(np.array(tables.user_ids), user))
    if place == len(tables.user_ids) or tables.user_ids[place] != user:
        raise DataError(
            f"{schema.folder / schema.events.file}: no events of user {user!r}, expected one of {len(tables.user_ids)} "
            f"users such as {tables.user_ids[0]!r}. Choose a user of this data set."
        )
    begin, end = np.searchsorted(events.group_user, [place, place + 1]).tolist()
    asks = ~events.group_content[begin:end]
    later = asks & (events.group_time[begin:end] >= (np.inf if until is None else until))
    stop = begin + int(later.argmax()) if later.any() else end
    if not later.any() and until is not None:
        stop = begin + int(np.searchsorted(events.group_time[begin:end], until, side="right"))
    rows = range(*np.searchsorted(events.group, [begin, stop]).tolist())
    request: dict[str, Any] = {"user": {"id": user} | _row(tables.user_columns, place)}
    if schema.uses_time:
        last = int(events.group_time[stop - 1]) if stop > begin else 0
        request["now"] = int(events.group_time[stop]) if later.any() else max(last, until or 0)
    context_row = np.cumsum(~events.group_content) - 1
    request["context"] = _row(events.context, int(context_row[stop])) if later.any() else {}
    request["events"] = [_event(dataset, row, context_row) for row in rows]
    return request


def requests_of_test(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """One request of every user who asks in the test part, in the order of the users, with all that came before it.

    By time it is the user's first at or after `valid_until`; leaving one out, it is the user's last.
    """
    tables, events, split = dataset.tables, dataset.tables.events, dataset.schema.split
    begins = np.searchsorted(events.group_user, np.arange(len(tables.user_ids) + 1))
    for user, begin, end in zip(tables.user_ids, begins[:-1], begins[1:], strict=True):
        asked = events.group_time[begin:end][~events.group_content[begin:end]]
        if len(asked) and (split.by != "time" or asked[-1] >= split.valid_until):
            yield request_json(dataset, user, split.valid_until if split.by == "time" else int(asked[-1]))


def _event(dataset: Dataset, row: int, context_row: np.ndarray) -> dict[str, Any]:
    schema, events = dataset.schema, dataset.tables.events
    group = int(events.group[row])
    event: dict[str, Any] = {}
    if events.item[row] >= 0:
        event["item"] = dataset.tables.item_ids[int(events.item[row])]
    if schema.uses_time:
        event["time"] = int(events.group_time[group])
    if not events.group_content[group]:
        if schema.events.group is not None:
            event["group"] = str(group - int(np.searchsorted(events.group_user, events.group_user[group])))
        event |= _row(events.context, int(context_row[group]))
    return event | _row(events.columns, row)


def _row(columns: dict[str, np.ndarray], row: int) -> dict[str, Any]:
    """Values of one row as JSON takes them; missing ones are left out."""
    values = {name: column[row] for name, column in columns.items()}
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    return {name: value for name, value in plain.items() if value is not None and value == value}
