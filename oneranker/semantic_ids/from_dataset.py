"""Semantic IDs of a data set's catalogue: embeddings by the method's own encoder, then codes."""

from __future__ import annotations

import time
from typing import Any

from numpy.typing import NDArray

from oneranker.data.dataset import CatalogueItems, Dataset, chosen_in_one
from oneranker.semantic_ids.centres import Floats
from oneranker.semantic_ids.famae import FamaeSettings, fit_famae
from oneranker.semantic_ids.gaoq import level_widths
from oneranker.semantic_ids.item_embeddings import item_embeddings
from oneranker.semantic_ids.semantic_ids import SemanticIds, fit
from oneranker.semantic_ids.sequences import training_sequences
from oneranker.semantic_ids.settings import IdSettings, Method
from oneranker.tokens import Field, column_of, text_of


def fit_from_dataset(
    dataset: Dataset, items: CatalogueItems, settings: IdSettings, *, width: int, famae: FamaeSettings | None = None
) -> SemanticIds:
    """Embed the items by what users of the training part did with them, and give them codes.

    Method resid learns its embeddings with FAMAE, whose settings say how wide each field is; the others take
    co-occurrence and content, reduced to `width` (item_embeddings).

    Raises:
        DataError: what does not fit; each says what.
    """
    start = time.perf_counter()
    if settings.method is not Method.RESID:
        embeddings = cooccurrence_embeddings(dataset, items, width, settings.seed)
        return fit(embeddings, settings, item_ids=items.ids, seconds=time.perf_counter() - start)
    made, famae = training_sequences(dataset, items), famae or FamaeSettings(seed=settings.seed)
    level_widths(len(items.ids), famae.width * len(made.columns), settings.gaoq())  # refuse before learning
    learned = fit_famae(made.sequences, made.columns, famae, made.types)
    return fit(learned.embeddings, settings, item_ids=items.ids, famae=learned, seconds=time.perf_counter() - start)


def cooccurrence_embeddings(dataset: Dataset, items: CatalogueItems, width: int, seed: int) -> Floats:
    """One half from what was chosen together in the training part, one half from content; numbers as buckets.

    Shapes: -> float32 [N, width]
    """
    group, row = chosen_in_one(dataset, items)
    content: dict[str, NDArray[Any]] = {}
    for spec in dataset.schema.content:
        values = items.columns[spec.name]
        if spec.type == "number":
            content[spec.name] = Field.fit(spec.name, "number", values, buckets=spec.buckets).encode(values)[:, 0]
        else:
            content[spec.name] = column_of([text_of(value) for value in values.tolist()])
    return item_embeddings(len(items.ids), width, content=content, group_id=group, item_row=row, seed=seed)
