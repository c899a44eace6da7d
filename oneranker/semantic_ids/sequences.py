"""From a data set's training part to what FAMAE learns from: item sequences and the fields of each item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oneranker.data.dataset import CatalogueItems, Dataset, train_baskets
from oneranker.semantic_ids.famae import ITEM_ID
from oneranker.semantic_ids.famae_batches import Sequences
from oneranker.tokens import column_of


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSequences:
    """Arguments of fit_famae: sequences over catalogue rows, a column per field, and which columns are numbers.

    Shapes: columns [N] each
    """

    sequences: Sequences
    columns: dict[str, NDArray[Any]]
    types: dict[str, str]


def training_sequences(dataset: Dataset, catalogue: CatalogueItems) -> TrainingSequences:
    """Read item events of the training part, and the item's id beside its content columns.

    Items outside the catalogue are left out of the sequences. Where events come in groups (baskets), the group goes
    along: order inside it means nothing. A number becomes quantile buckets (by fit_famae), a list counts as one value:
    FAMAE's fields are single-valued categories (resid.md 1.1). A content column that is itself called item_id stands
    for the item's identity.
    """
    user, group, row = train_baskets(dataset, catalogue)  # in stream order: by user, then time
    content = dataset.schema.content
    columns: dict[str, NDArray[Any]] = {ITEM_ID: column_of(catalogue.ids)}
    columns |= {spec.name: catalogue.columns[spec.name] for spec in content}
    first = np.append(np.flatnonzero(np.diff(user, prepend=-1)), len(user))
    return TrainingSequences(
        sequences=Sequences(first.astype(np.int64), row, group if dataset.schema.events.group else None),
        columns=columns,
        types={spec.name: "number" for spec in content if spec.type == "number"},
    )
