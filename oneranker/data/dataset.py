"""A data set in memory: its schema and tables, the items worth an index row, and the tokenizer fitted on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from oneranker.data.event_roles import TEST, TRAIN
from oneranker.data.schema import ColumnSpec, Schema
from oneranker.data.tables import DataReport, Tables, read_tables
from oneranker.errors import DataError
from oneranker.tokens import Field, Tokenizer, display_name


@dataclass(frozen=True, slots=True)
class Dataset:
    """Tables read by a schema, and the account of what was read."""

    schema: Schema
    tables: Tables
    report: DataReport

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the folder that holds schema.toml.

        Raises: DataError naming file and column for whatever cannot be used.
        """
        schema, report = Schema.read(folder), DataReport()
        return cls(schema, read_tables(schema, report), report)


@dataclass(frozen=True, slots=True)
class CatalogueItems:
    """Items that get a row of the index, with what they were worth before the test part.

    Shapes: columns [N], users int64 [N] (different users), popularity int64 [N] (events)
    """

    ids: list[str]
    names: list[str]
    columns: Mapping[str, np.ndarray]
    users: np.ndarray
    popularity: np.ndarray

    def take(self, order: np.ndarray) -> CatalogueItems:
        """The same items in another order, such as that of the index.

        Shapes: order int64 [N]
        """
        rows = order.tolist()
        columns = {name: values[order] for name, values in self.columns.items()}
        ids, names = [self.ids[i] for i in rows], [self.names[i] for i in rows]
        return CatalogueItems(ids, names, columns, self.users[order], self.popularity[order])


def catalogue_items(dataset: Dataset) -> CatalogueItems:
    """Items of the items table used by at least catalogue.min_users users before the test part.

    All other items stay events of unknown items.

    Raises: DataError when no item is left.
    """
    tables, events = dataset.tables, dataset.tables.events
    item, user = _before_test(dataset)
    total = len(tables.item_ids)
    pairs = np.unique(item * len(tables.user_ids) + user)
    users = np.bincount(pairs // len(tables.user_ids), minlength=total)
    popularity = np.bincount(item, minlength=total)
    kept = np.flatnonzero(users[: tables.item_rows] >= dataset.schema.min_users)
    if kept.size == 0:
        raise DataError(
            f"{dataset.schema.folder}: 0 of {tables.item_rows} items have {dataset.schema.min_users} users in "
            f"{len(events.group_user)} groups, expected at least one. Lower catalogue.min_users or read more users."
        )
    columns = {name: values[kept] for name, values in tables.item_columns.items()}
    ids = [tables.item_ids[i] for i in kept.tolist()]
    shown = [columns[name].tolist() for name in dataset.schema.display]
    names = [display_name(row) for row in zip(*shown, strict=True)] if shown else list(ids)
    names = [name or item_id for name, item_id in zip(names, ids, strict=True)]
    return CatalogueItems(ids, names, columns, users[kept], popularity[kept])


def train_baskets(dataset: Dataset, catalogue: CatalogueItems) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Item events of the training part as (user, group, catalogue row), in stream order; for item embeddings.

    Shapes: -> int64 [n], int64 [n], int64 [n]
    """
    tables, events = dataset.tables, dataset.tables.events
    place = {item: row for row, item in enumerate(catalogue.ids)}
    row = np.array([place.get(item, -1) for item in tables.item_ids] + [-1], dtype=np.int64)[events.item]
    used = (row >= 0) & (events.group_split == TRAIN)[events.group] & ~events.group_content[events.group]
    return events.group_user[events.group[used]], events.group[used], row[used]


def chosen_in_one(dataset: Dataset, catalogue: CatalogueItems) -> tuple[np.ndarray, np.ndarray]:
    """What counts as chosen together in the training part: a group; in data without groups, all that a user had.

    Shapes: -> number of the group or user int64 [n], catalogue row int64 [n]
    """
    user, group, row = train_baskets(dataset, catalogue)
    return (user if dataset.schema.events.group is None else group), row


def fit_tokenizer(dataset: Dataset, levels: int, codes: int, catalogue: CatalogueItems) -> Tokenizer:
    """Learn values and bucket edges: of events before the test part, of the catalogue's items, of all users."""
    schema, tables, events = dataset.schema, dataset.tables, dataset.tables.events
    seen = (events.group_split < TEST)[events.group]
    requests = (events.group_split < TEST)[~events.group_content]
    event = list(schema.event)
    if schema.events.action:
        event.insert(0, ColumnSpec(name="action", type="category"))
    return Tokenizer(
        levels=levels,
        codes=codes,
        content=tuple(_fit(spec, catalogue.columns[spec.name]) for spec in schema.content),
        event=tuple(_fit(spec, events.columns[spec.name][seen]) for spec in event),
        context=tuple(_fit(spec, events.context[spec.name][requests]) for spec in schema.context),
        user=tuple(_fit(spec, tables.user_columns[spec.name]) for spec in schema.features),
        actions=dict(schema.actions),
        uses_time=schema.uses_time,
        uses_group=schema.events.group is not None,
    )


def _fit(spec: ColumnSpec, values: np.ndarray) -> Field:
    return Field.fit(spec.name, spec.type, values, slots=spec.slots, buckets=spec.buckets)


def _before_test(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    events = dataset.tables.events
    group = events.group
    used = ((events.group_split < TEST) & ~events.group_content)[group]
    return events.item[used], events.group_user[group[used]]
