"""Columns of events in their roles: item or content, stages and value of the chain, train, valid or test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from oneranker.data.schema import Schema
from oneranker.data.table_files import ids_of, numbers_of
from oneranker.errors import DataError

TRAIN, VALID, TEST = range(3)


def content_rows(schema: Schema, frame: Any, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are content events, and which have an action where one is needed.

    Shapes: -> bool [n], bool [n]
    Raises: DataError for an action that the schema does not list.
    """
    nothing, everything = np.zeros(len(frame), dtype=bool), np.ones(len(frame), dtype=bool)
    if not schema.actions:
        return nothing, everything
    name = str(schema.events.action)
    action, actions = ids_of(frame[name])
    if unknown := [found for found in actions if found not in schema.actions]:
        raise DataError(
            f"{path}: column '{name}' holds {unknown[:5]}, expected only {sorted(schema.actions)}. "
            "Add the action to `actions` in schema.toml as 'item' or 'content'."
        )
    is_content = np.array([schema.actions[found] == "content" for found in actions] + [False], dtype=bool)
    return is_content[action], action >= 0


def stage_columns(schema: Schema, frame: Any, content: np.ndarray, where: str) -> np.ndarray:
    """The 0/1 stages of the chain, 0 for content events.

    Shapes: content bool [n] -> uint8 [n, stages]
    Raises: DataError for other values, or for a stage without the one before it where the chain is nested.
    """
    stages = np.zeros((len(frame), len(schema.chain.stages)), dtype=np.uint8)
    for i, name in enumerate(schema.chain.stages):
        numbers = np.where(content, 0, numbers_of(frame[name], f"{where} '{name}'"))
        if not np.isin(numbers, (0, 1)).all():
            bad = numbers[~np.isin(numbers, (0, 1))][0]
            raise DataError(f"{where} '{name}': got {bad}, expected a stage that is 0 or 1. Correct the column.")
        stages[:, i] = numbers
        if i and schema.chain.nested and (broken := int((stages[:, i] > stages[:, i - 1]).sum())):
            raise DataError(
                f"{where} '{name}': {broken} rows reach it without '{schema.chain.stages[i - 1]}', expected each stage "
                "to imply the one before. Correct the rows, or set chain.nested = false."
            )
    return stages


def value_column(schema: Schema, frame: Any, content: np.ndarray, where: str) -> np.ndarray:
    """What each event was worth; 1 where the schema names no value, so that shares of value are shares of items.

    Shapes: content bool [n] -> float32 [n]
    Raises: DataError for an item event without a value, or a negative one.
    """
    name = schema.chain.value
    if name is None:
        return np.where(content, 0, 1).astype(np.float32)
    value = np.where(content, 0, numbers_of(frame[name], f"{where} '{name}'"))
    if not np.isfinite(value).all() or (value < 0).any():
        bad = value[~(np.isfinite(value) & (value >= 0))]
        raise DataError(
            f"{where} '{name}': got {bad[0]} ({len(bad)} such rows), expected a value >= 0 for every item event. "
            "Correct or remove these rows."
        )
    return value.astype(np.float32)


def group_splits(schema: Schema, user: np.ndarray, time: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Train, valid or test, per group; a user with fewer than three groups is all train under leave-one-out.

    Shapes: user, time int64 [G], content bool [G] -> int8 [G]
    """
    if schema.split.by == "time":
        edges = (schema.split.train_until, schema.split.valid_until)
        return np.searchsorted(edges, time, side="right").astype(np.int8)
    split = np.zeros(len(user), dtype=np.int8)
    rows = np.flatnonzero(~content)
    owner = user[rows]
    end = np.searchsorted(owner, owner, side="right")
    from_end = end - np.arange(len(rows))
    enough = end - np.searchsorted(owner, owner) >= 3
    split[rows[enough & (from_end == 1)]] = TEST
    split[rows[enough & (from_end == 2)]] = VALID
    return split
