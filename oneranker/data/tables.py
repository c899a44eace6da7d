"""Reads the tables of a schema into sorted, grouped arrays; every row left out is counted by reason.

Order: events are sorted by (user, time, row of the file), stably; a group stands where its first event stands.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from oneranker.data.event_roles import content_rows, group_splits, stage_columns, value_column
from oneranker.data.schema import ColumnSpec, Schema, TableSpec
from oneranker.data.table_files import ids_of, numbers_of, read_columns, seconds_of, values_of
from oneranker.errors import DataError
from oneranker.tokens import group_events

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class DataReport:
    """What was read, what was left out and why, and what is used although something is missing."""

    events_read: int = 0
    events_kept: int = 0
    users: int = 0
    items: int = 0
    groups: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> rows left out
    counted: dict[str, int] = field(default_factory=dict)  # what -> rows kept that lack something

    def drop(self, reason: str, rows: int) -> None:
        """Count rows that are left out."""
        if rows:
            self.dropped[reason] = self.dropped.get(reason, 0) + int(rows)
            logger.info("left out %s rows: %s", f"{rows:,}", reason)

    def count(self, what: str, rows: int) -> None:
        """Count rows that are kept as unknown."""
        if rows:
            self.counted[what] = self.counted.get(what, 0) + int(rows)
            logger.info("kept %s rows: %s", f"{rows:,}", what)


@dataclass(frozen=True, slots=True)
class EventTable:
    """Events in stream order, and their groups; X = groups that are not content.

    Shapes: item int64 [n] (-1 = names none), group int64 [n], stages uint8 [n, stages], value float32 [n],
        columns [n]; group_user, group_time int64, group_content bool, group_split int8 [G]; context [X]
    """

    item: np.ndarray
    group: np.ndarray
    stages: np.ndarray
    value: np.ndarray
    columns: dict[str, np.ndarray]
    group_user: np.ndarray
    group_time: np.ndarray
    group_content: np.ndarray
    group_split: np.ndarray
    context: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything a schema names, numbered: items with a row come first, then those that only events name.

    Shapes: item_columns [item_rows], user_columns [U]
    """

    user_ids: list[str]
    user_columns: dict[str, np.ndarray]
    item_ids: list[str]
    item_rows: int
    item_columns: dict[str, np.ndarray]
    events: EventTable


def read_tables(schema: Schema, report: DataReport) -> Tables:
    """Read what the schema names and nothing else.

    Raises: DataError naming file and column for whatever cannot be used.
    """
    item_ids, item_columns = _side_table(schema, schema.items, schema.content, schema.display, report)
    rows = _EventRows.read(schema, report)
    place = {item: i for i, item in enumerate(item_ids)}
    declared = len(item_ids)
    numbers = np.array([place.setdefault(item, len(place)) for item in rows.item_ids] + [-1], dtype=np.int64)
    item = numbers[rows.item]
    if schema.items is not None:
        report.count("events of items that have no row in the items table", int((item >= declared).sum()))
    user_ids, user_columns = _side_table(schema, schema.users, schema.features, (), report)
    row_of = {user: i for i, user in enumerate(user_ids)}
    taken = np.array([row_of.get(user, -1) for user in rows.user_ids], dtype=np.int64)
    if schema.users is not None:
        report.count("users that have no row in the users table", int((taken < 0).sum()))
    tables = Tables(
        user_ids=rows.user_ids,
        user_columns={name: _take_or_none(values, taken) for name, values in user_columns.items()},
        item_ids=list(place),
        item_rows=declared if schema.items else len(place),
        item_columns=item_columns,
        events=rows.events(schema, item),
    )
    report.users, report.items = len(tables.user_ids), len(tables.item_ids)
    report.events_kept, report.groups = len(item), int((~tables.events.group_content).sum())
    return tables


@dataclass(frozen=True, slots=True)
class _EventRows:
    """The events that can be used, in the order of the file."""

    frame: Any
    user: np.ndarray
    user_ids: list[str]
    item: np.ndarray
    item_ids: list[str]
    time: np.ndarray
    content: np.ndarray

    @classmethod
    def read(cls, schema: Schema, report: DataReport) -> _EventRows:
        spec, chain = schema.events, schema.chain
        path = schema.folder / spec.file
        roles = [name for name in (spec.user, spec.item, spec.time, spec.group, spec.action, chain.value) if name]
        declared = (*schema.context, *schema.event)
        numbers = [c.name for c in declared if c.type == "number"]
        numeric = {name for name in (spec.time, chain.value, *chain.stages, *numbers) if name}
        frame = read_columns(path, [*roles, *chain.stages, *(c.name for c in declared)], numeric)
        report.events_read = len(frame)
        for name in numbers:
            frame[name] = numbers_of(frame[name], f"{path}: column '{name}'")
        time, timed = np.arange(len(frame)), np.ones(len(frame), dtype=bool)
        if spec.time:
            time, timed = seconds_of(frame[spec.time], spec.time_unit, f"{path}: column '{spec.time}'")
        user, user_ids = ids_of(frame[spec.user])
        item, item_ids = ids_of(frame[spec.item])
        content, acted = content_rows(schema, frame, path)
        keep = np.ones(len(frame), dtype=bool)
        for reason, usable in (
            ("no user id", user >= 0),
            ("no time", timed),
            ("no action", acted),
            ("item event without an item id", content | (item >= 0)),
        ):
            report.drop(f"events: {reason}", int((keep & ~usable).sum()))
            keep &= usable
        if not keep.any():
            raise DataError(
                f"{path}: 0 of {len(frame)} rows can be used ({report.dropped}), expected events of users with items. "
                "Correct the roles in schema.toml."
            )
        if not keep.all():
            frame, user, item, time, content = frame[keep], user[keep], item[keep], time[keep], content[keep]
        user, user_ids = _renumber(user, user_ids)
        item, item_ids = _renumber(item, item_ids)
        return cls(frame, user, user_ids, item, item_ids, time, content)

    def events(self, schema: Schema, item: np.ndarray) -> EventTable:
        """Sort, group and split."""
        spec = schema.events
        order = np.lexsort((self.time, self.user))  # stable: ties keep the order of the file
        label = np.arange(len(order)) - len(order)  # alone, unless it has a group
        if spec.group:
            group, names = ids_of(self.frame[spec.group])
            named = (group >= 0) & ~self.content
            label = np.where(named, self.user * len(names) + group, label)
        moment = np.arange(len(order))
        if schema.uses_time:
            user, time = self.user[order], self.time[order]
            moment = np.cumsum((np.diff(user, prepend=user[:1]) != 0) | (np.diff(time, prepend=time[:1]) != 0))
        regroup, event_group, first = group_events(label[order], moment)
        order = order[regroup]
        head = order[first]
        user, content = self.user[head], self.content[head]
        start = np.searchsorted(user, user)
        time = self.time[head] if schema.uses_time else np.arange(len(head)) - start
        where = f"{schema.folder / spec.file}: column"
        names = [c.name for c in schema.event]
        columns = {name: values_of(self.frame[name])[order] for name in names}
        if spec.action:
            columns["action"] = values_of(self.frame[spec.action])[order]
        context = {c.name: values_of(self.frame[c.name].iloc[head[~content]]) for c in schema.context}
        return EventTable(
            item=item[order],
            group=event_group,
            stages=stage_columns(schema, self.frame, self.content, where)[order],
            value=value_column(schema, self.frame, self.content, where)[order],
            columns=columns,
            group_user=user,
            group_time=time,
            group_content=content,
            group_split=group_splits(schema, user, time, content),
            context=context,
        )


def _side_table(
    schema: Schema, table: TableSpec | None, columns: Sequence[ColumnSpec], display: Sequence[str], report: DataReport
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Ids and raw columns of the items or users table, rows without an id left out."""
    if table is None:
        return [], {}
    path = schema.folder / table.file
    names = [*(c.name for c in columns), *display]
    numeric = {c.name for c in columns if c.type == "number"} - {table.key}
    frame = read_columns(path, [table.key, *names], numeric)
    for name in numeric:
        frame[name] = numbers_of(frame[name], f"{path}: column '{name}'")
    codes, ids = ids_of(frame[table.key])
    keep = codes >= 0
    report.drop(f"{path.name}: no id", int((~keep).sum()))
    repeats = np.bincount(codes[keep], minlength=len(ids))
    if (repeats > 1).any():
        worst = int(repeats.argmax())
        raise DataError(
            f"{path}: id {ids[worst]!r} in column '{table.key}' stands {repeats[worst]} times "
            f"({int((repeats > 1).sum())} ids repeat), expected one row per id. Keep one row of each."
        )
    rows = np.flatnonzero(keep)
    return [ids[code] for code in codes[rows]], {name: values_of(frame[name])[rows] for name in dict.fromkeys(names)}


def _renumber(codes: np.ndarray, ids: list[str]) -> tuple[np.ndarray, list[str]]:
    """Forget ids that no row has any more."""
    used = np.zeros(len(ids) + 1, dtype=bool)
    used[codes] = True
    used[-1] = False
    number = np.append(np.cumsum(used[:-1]) - 1, -1)
    return number[codes], [text for text, seen in zip(ids, used.tolist()[:-1], strict=True) if seen]


def _take_or_none(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Values of these rows; row -1 gives None."""
    taken = values[np.maximum(rows, 0)].astype(object)
    taken[rows < 0] = None
    return taken
