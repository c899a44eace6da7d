"""Files of item sequences as the S3-Rec repository keeps them (Amazon Beauty and others), as a schema folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from oneranker.data.prepared_folder import prepared_folder
from oneranker.data.schema import SCHEMA_FILE
from oneranker.data.tables import DataReport
from oneranker.errors import DataError

ADAPTER = {"adapter": "s3rec", "adapter_version": 1}
ID = re.compile(rb"[1-9][0-9]{0,17}")  # fits int64
MOST_SLOTS = 8  # attributes of an item that become fields of its token, and of FAMAE; co-occurrence takes all
FEWEST_EVENTS = 3  # one each to learn from, to validate and to test

SCHEMA = """\
schema_version = 1
events    = {{ file = "events.parquet", user = "user_id", item = "item_id" }}
items     = {{ file = "items.parquet", key = "item_id" }}
{content}split     = {{ by = "leave_one_out" }}
catalogue = {{ min_users = 0 }}  # every item of the sequences, also one that is seen in a test event only
"""
CONTENT = 'content   = {{ attributes = {{ type = "list", slots = {slots} }} }}\n'


def write_s3rec(out: Path, sequences: Path, attributes: Path | None = None) -> DataReport:
    """Write the schema folder: a user's last event is test, the one before validation, the rest training.

    The files have no times and none are made up: the schema names no time column, so the order of the rows is the
    order, and the model sees how many events lie between two of them, never how long a sequence will become. Every
    item of the sequences is in the catalogue, as published rankings have it, also when only a test event names it:
    such an item has its attributes, and no event to learn from. Users with fewer than 3 events are training only.

    Source: the file format of github.com/RUCAIBox/CIKM2020-S3Rec. `sequences` holds a user a line, `user item item
    ...`, in time order; `attributes` is JSON, {"item": [attribute ids]}. Ids are whole numbers from 1 on.

    Raises: DataError naming file and line, or the item, for whatever cannot be used.
    """
    text = _read(sequences, "lines `user item item ...`")
    histories = _histories(text, sequences)
    account: dict[str, Any] = {**ADAPTER, "sequences": sequences.name, "sequences_sha256": _sha256(text)}
    lengths = [len(items) for items in histories.values()]
    events = pd.DataFrame(
        {
            "user_id": np.repeat(np.array(list(histories), dtype=np.int64), lengths),
            "item_id": np.concatenate([np.array(items, dtype=np.int64) for items in histories.values()]),
        }
    )
    items, content = pd.DataFrame({"item_id": np.unique(events["item_id"])}), ""
    report = DataReport(events_read=len(events), events_kept=len(events), users=len(histories), items=len(items))
    report.groups = len(events)
    short = sum(length < FEWEST_EVENTS for length in lengths)
    report.count(f"s3rec: users with fewer than {FEWEST_EVENTS} events, training only", short)
    if attributes is not None:
        text = _read(attributes, 'JSON, {"item": [attribute ids]}')
        account |= {"attributes": attributes.name, "attributes_sha256": _sha256(text)}
        listed = _attributes(text, attributes)
        items["attributes"], slots = _column(items["item_id"].tolist(), listed, report)
        content = CONTENT.format(slots=slots)
    with prepared_folder(out, account) as folder:
        events.to_parquet(folder / "events.parquet", index=False)
        items.to_parquet(folder / "items.parquet", index=False)
        (folder / SCHEMA_FILE).write_text(SCHEMA.format(content=content), encoding="utf-8")
        account |= {"dropped": report.dropped, "counted": report.counted}
    return report


def _read(path: Path, expected: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}), expected {expected}. Correct the path, or put the file there."
        ) from error


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _histories(text: bytes, path: Path) -> dict[int, list[int]]:
    """Items of each user, both in the order of the file."""
    line_of: dict[int, int] = {}
    histories: dict[int, list[int]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        tokens = line.split()
        if bad := [token.decode(errors="replace") for token in tokens if not ID.fullmatch(token)]:
            raise DataError(
                f"{path}: line {number} holds {bad[0]!r} ({len(bad)} such tokens), expected ids, whole numbers from 1 "
                "on. Correct the line, or number users and items."
            )
        if len(tokens) < 2:
            raise DataError(
                f"{path}: line {number} is {line.decode()!r}, expected a user and at least one item. Remove the line."
            )
        user, *items = map(int, tokens)
        if user in line_of:
            raise DataError(
                f"{path}: line {number} is of user {user}, as line {line_of[user]} is, expected one line per user. "
                "Join the lines in time order."
            )
        line_of[user], histories[user] = number, items
    if not histories:
        raise DataError(f"{path}: 0 lines, expected lines `user item item ...`. Check how the file was written.")
    return histories


def _attributes(text: bytes, path: Path) -> dict[int, list[int]]:
    """Attribute ids of each item of the file."""
    try:
        raw = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f'{path}: not JSON ({error}), expected {{"item": [attribute ids]}}. Correct the file.'
        ) from error
    if not isinstance(raw, dict):
        raise DataError(
            f'{path}: got a {type(raw).__name__}, expected an object {{"item": [attribute ids]}}. Correct the file.'
        )
    for item, values in raw.items():
        right = isinstance(values, list) and all(type(value) is int for value in values)
        if not (right and ID.fullmatch(item.encode(errors="replace"))):
            raise DataError(
                f"{path}: got {json.dumps({item: values})[:80]}, expected an item's id, a whole number from 1 on, and "
                "a list of whole numbers. Correct the entry."
            )
    return {int(item): values for item, values in raw.items()}


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand once; json itself would keep the last and say nothing."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def _column(items: Sequence[int], listed: Mapping[int, Sequence[int]], report: DataReport) -> tuple[list[Any], int]:
    """The items' attributes as lists of the schema, None where there are none, and how many of them become fields."""
    found = [listed.get(item, ()) for item in items]
    longest = max(map(len, found))
    report.drop("s3rec: attributes of items that no sequence names", len(set(listed) - set(items)))
    report.count("s3rec: items without attributes", sum(not values for values in found))
    cut = sum(len(values) > MOST_SLOTS for values in found)
    report.count(f"s3rec: items with more than {MOST_SLOTS} attributes, tokens hold the first {MOST_SLOTS}", cut)
    return ["|".join(map(str, values)) or None for values in found], min(max(longest, 1), MOST_SLOTS)
