"""A data set's training part as item sequences, against its table read line by line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from oneranker.data.dataset import Dataset, catalogue_items
from oneranker.semantic_ids.famae import FamaeSettings, fit_famae
from oneranker.semantic_ids.sequences import training_sequences


def test_sequences_are_each_users_training_events_in_order(market: Path) -> None:
    dataset = Dataset.read(market)
    catalogue = catalogue_items(dataset)
    made = training_sequences(dataset, catalogue)
    log = pd.read_csv(market / "log.csv", dtype={"ware": str, "person": str}).sort_values("second", kind="stable")
    log = log[(log.second < 80) & log.ware.isin(catalogue.ids)]
    sequences = made.sequences
    bounds = zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True)
    found = [[catalogue.ids[row] for row in sequences.rows[begin:end]] for begin, end in bounds]
    expected = [mine.ware.tolist() for _, mine in log.groupby("person", sort=False)]
    assert sorted(found) == sorted(expected)
    assert len(found) == 7
    assert sequences.groups is not None
    assert len(np.unique(sequences.groups)) == log.groupby(["person", "second"]).ngroups


def test_fields_are_the_item_and_its_content_and_train(market: Path) -> None:
    dataset = Dataset.read(market)
    catalogue = catalogue_items(dataset)
    made = training_sequences(dataset, catalogue)
    assert list(made.columns) == ["item_id", "sort", "weight", "tags 1", "tags 2", "tags 3"]
    assert [made.columns[f"tags {slot}"].tolist()[:3] for slot in (1, 2, 3)] == [
        ["a", "b", ""],
        ["b", "", ""],
        [""] * 3,
    ]
    assert made.columns["item_id"].tolist() == catalogue.ids
    assert made.types == {"weight": "number"}
    settings = FamaeSettings(width=8, heads=2, layers=1, history=4, max_steps=2)
    done = fit_famae(made.sequences, made.columns, settings, made.types)
    assert done.embeddings.shape == (len(catalogue.ids), 6 * 8)
    tags = done.embeddings.reshape(-1, 6, 8)[:, 3]
    assert len(np.unique(tags, axis=0)) == 3  # a, b and none


def test_without_groups_the_order_of_events_stands(market: Path) -> None:
    path = market / "schema.toml"
    path.write_text(path.read_text().replace(', group = "visit"', ""))
    dataset = Dataset.read(market)
    assert training_sequences(dataset, catalogue_items(dataset)).sequences.groups is None
