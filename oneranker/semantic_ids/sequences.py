"""From a data set's training part to what FAMAE learns from: item sequences and the fields of each item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oneranker.data.dataset import CatalogueItems, Dataset, train_baskets
from oneranker.data.schema import ColumnSpec
from oneranker.errors import DataError
from oneranker.semantic_ids.famae import ITEM_ID
from oneranker.semantic_ids.famae_batches import Sequences
from oneranker.token_fields import LIST_SEPARATOR
from oneranker.tokens import column_of, text_of


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSequences:
    """Arguments of fit_famae: sequences over catalogue rows, a column per field, and which columns are numbers.

    Shapes: columns [N] each
    """

    sequences: Sequences
    columns: dict[str, NDArray[Any]]
    types: dict[str, str]


def training_sequences(dataset: Dataset, catalogue: CatalogueItems) -> TrainingSequences:
    """Read item events of the training part, and the fields of each item of the catalogue.

    Items outside the catalogue are left out of the sequences. Where events come in groups (baskets), the group goes
    along: order inside it means nothing.
    """
    user, group, row = train_baskets(dataset, catalogue)  # in stream order: by user, then time
    content = dataset.schema.content
    first = np.append(np.flatnonzero(np.diff(user, prepend=-1)), len(user))
    return TrainingSequences(
        sequences=Sequences(first.astype(np.int64), row, group if dataset.schema.events.group else None),
        columns=famae_columns(content, catalogue),
        types={spec.name: "number" for spec in content if spec.type == "number"},
    )


def famae_columns(content: Sequence[ColumnSpec], items: CatalogueItems) -> dict[str, NDArray[Any]]:
    """The item's id and its content as FAMAE takes them: fields with one value per item (resid.md 1.1).

    A number becomes quantile buckets (by fit_famae). A list becomes as many fields as it has slots, its first value in
    the first, as "tags 1", "tags 2"; one that is too short leaves the last ones empty. A content column that is itself
    called item_id stands for the item's identity.

    Shapes: -> [N] each

    Raises:
        DataError: two columns would make a field of one name.
    """
    columns: dict[str, NDArray[Any]] = {ITEM_ID: column_of(items.ids)}
    names = {spec.name for spec in content if spec.type != "list"}
    for spec in content:
        values = items.columns[spec.name]
        if spec.type != "list":
            columns[spec.name] = values
            continue
        parts = [[each.strip() for each in text_of(value).split(LIST_SEPARATOR)] for value in values.tolist()]
        for slot in range(spec.slots):
            name = f"{spec.name} {slot + 1}"
            if name in columns or name in names:
                raise DataError(
                    f"content: the list '{spec.name}' makes a field '{name}', which is a column too, expected other "
                    "names; rename one of them in schema.toml"
                )
            columns[name] = column_of([(row + [""] * spec.slots)[slot] for row in parts])
    return columns
