"""schema.toml: which column of which table plays which role; nothing is guessed from names."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Self

from oneranker.errors import DataError
from oneranker.token_fields import FIELD_TYPES, LIST_SLOTS, NUMBER_BUCKETS
from oneranker.tokens import RESERVED_EVENT_KEYS, RESERVED_USER_KEYS

SCHEMA_FILE = "schema.toml"
SCHEMA_VERSION = 1
TIME_UNITS = ("seconds", "datetime", "order")
SPLITS = ("time", "leave_one_out")
TOP_KEYS = (
    *("name", "events", "context", "event", "items", "content", "display", "users", "features"),
    *("actions", "chain", "split", "catalogue"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSpec:
    """One declared column and how its values become rows of the embedding table."""

    name: str
    type: str
    slots: int = LIST_SLOTS
    buckets: int = NUMBER_BUCKETS


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsSpec:
    """The events table; without `time` the order of rows is the order, without `group` every event stands alone."""

    file: str
    user: str
    item: str
    time: str | None = None
    time_unit: str = "order"
    group: str | None = None
    action: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """A table of items or users and the column that names them."""

    file: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSpec:
    """0/1 columns of events in order, and what an event was worth."""

    stages: tuple[str, ...] = ()
    nested: bool = False
    value: str | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSpec:
    """By time: train < train_until <= valid < valid_until <= test (seconds); or the last two groups of each user."""

    by: str = "leave_one_out"
    train_until: int = 0
    valid_until: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """A whole schema.toml, checked."""

    folder: Path
    name: str
    events: EventsSpec
    context: tuple[ColumnSpec, ...] = ()
    event: tuple[ColumnSpec, ...] = ()
    items: TableSpec | None = None
    content: tuple[ColumnSpec, ...] = ()
    display: tuple[str, ...] = ()
    users: TableSpec | None = None
    features: tuple[ColumnSpec, ...] = ()
    actions: Mapping[str, str]
    chain: ChainSpec = ChainSpec()
    split: SplitSpec = SplitSpec()
    min_users: int = 1

    @property
    def uses_time(self) -> bool:
        """Whether times are real, so that hour, weekday and gaps mean something."""
        return self.events.time_unit != "order"

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read and check folder/schema.toml.

        Raises: DataError naming the file, the key, what was expected and what to do.
        """
        path = folder / SCHEMA_FILE
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}), expected a schema that names the tables. "
                "Write one, or prepare a known set with `python -m oneranker.data prepare NAME --out FOLDER`."
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not TOML ({error}), expected key = value lines. Correct that line.") from error
        return _schema(cls, folder, raw, str(path))


def _schema(cls: type[Schema], folder: Path, raw: dict[str, Any], where: str) -> Any:
    version = raw.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{where}: schema_version is {version!r}, expected {SCHEMA_VERSION}. "
            f"Put `schema_version = {SCHEMA_VERSION}` on its first line, or use the release that knows the other."
        )
    _check_keys(raw, where, list(TOP_KEYS), required=["events"])
    name = raw.get("name", folder.name)
    events = _events(raw["events"], f"{where}: events")
    tables: dict[str, Any] = {
        key: TableSpec(**_take(raw[key], f"{where}: {key}", {"file": str, "key": str}, required=["file", "key"]))
        for key in ("items", "users")
        if key in raw
    }
    for table, key in (("items", "content"), ("items", "display"), ("users", "features")):
        if raw.get(key) and table not in tables:
            raise DataError(
                f"{where}: '{key}' is given without '{table}', expected the table of its columns. "
                f"Add {table} = {{ file = ..., key = ... }} or remove '{key}'."
            )
    columns: dict[str, Any] = {
        key: _columns(raw.get(key, {}), f"{where}: {key}", reserved)
        for key, reserved in (
            ("context", RESERVED_EVENT_KEYS),
            ("event", RESERVED_EVENT_KEYS),
            ("content", set()),
            ("features", RESERVED_USER_KEYS),
        )
    }
    if both := {c.name for c in columns["context"]} & {c.name for c in columns["event"]}:
        raise DataError(
            f"{where}: column {sorted(both)} is in 'context' and in 'event', expected one. Remove the other."
        )
    catalogue = _take(raw.get("catalogue", {}), f"{where}: catalogue", {"min_users": int})
    if catalogue.get("min_users", 1) < 0:
        raise DataError(f"{where}: catalogue.min_users is {catalogue['min_users']}, expected 0 or more. Raise it.")
    return cls(
        folder=folder,
        name=str(name),
        events=events,
        **tables,
        **columns,
        display=_names(raw.get("display", []), f"{where}: display"),
        actions=_actions(raw.get("actions", {}), f"{where}: actions", events),
        chain=_chain(raw.get("chain", {}), f"{where}: chain"),
        split=_split(raw.get("split", {}), f"{where}: split", events),
        **catalogue,
    )


def _events(raw: Any, where: str) -> EventsSpec:
    names = ("file", "user", "item", "time", "time_unit", "group", "action")
    taken = _take(raw, where, dict.fromkeys(names, str), required=["file", "user", "item"])
    taken.setdefault("time_unit", "seconds" if "time" in taken else "order")
    if taken["time_unit"] not in TIME_UNITS or (taken["time_unit"] != "order" and "time" not in taken):
        raise DataError(
            f"{where}: time_unit is {taken['time_unit']!r} and time is {taken.get('time')!r}, expected one of "
            f"{TIME_UNITS}, and a time column unless it is 'order'. Name the column, or leave time_unit out."
        )
    return EventsSpec(**taken)


def _columns(raw: Any, where: str, reserved: set[str]) -> tuple[ColumnSpec, ...]:
    columns = []
    for name, value in _table(raw, where).items():
        options = {"type": value} if isinstance(value, str) else value
        spec = _take(options, f"{where}.{name}", {"type": str, "slots": int, "buckets": int}, required=["type"])
        if spec["type"] not in FIELD_TYPES or spec.get("slots", 1) < 1 or spec.get("buckets", 2) < 2:
            raise DataError(
                f"{where}.{name}: got {spec}, expected a type of {FIELD_TYPES}, slots >= 1, buckets >= 2. Correct it."
            )
        if name in reserved:
            raise DataError(
                f"{where}.{name}: the name is taken by the request format, expected none of {sorted(reserved)}. "
                "Rename the column."
            )
        columns.append(ColumnSpec(name=name, **spec))
    return tuple(columns)


def _actions(raw: Any, where: str, events: EventsSpec) -> dict[str, str]:
    actions = _table(raw, where)
    for name, kind in actions.items():
        if kind not in ("item", "content"):
            raise DataError(f"{where}.{name}: got {kind!r}, expected 'item' or 'content'. Choose what the event is.")
    if actions and events.action is None:
        raise DataError(
            f"{where}: {len(actions)} actions but events names no action column, expected events.action. Add it there."
        )
    return actions


def _chain(raw: Any, where: str) -> ChainSpec:
    taken = _take(raw, where, {"stages": list, "nested": bool, "value": str, "unit": str})
    return ChainSpec(**taken | {"stages": _names(taken.get("stages", []), f"{where}.stages")})


def _split(raw: Any, where: str, events: EventsSpec) -> SplitSpec:
    moment = (int, date)
    taken = _take(raw, where, {"by": str, "train_until": moment, "valid_until": moment})
    by = taken.pop("by", "leave_one_out")
    if by not in SPLITS or (by == "leave_one_out" and taken) or (by == "time" and len(taken) != 2):
        raise DataError(
            f"{where}: got by={by!r} with {sorted(taken)}, expected by='time' with train_until and valid_until, "
            "or by='leave_one_out' alone. Correct the split."
        )
    if by == "leave_one_out":
        return SplitSpec()
    if events.time_unit == "order":
        raise DataError(f"{where}: by='time' but the events have no time, expected 'leave_one_out'. Change the split.")
    until = {key: _epoch(value) for key, value in taken.items()}
    if not until["train_until"] <= until["valid_until"]:
        raise DataError(
            f"{where}: train_until {taken['train_until']} is after valid_until, expected before. Swap them."
        )
    return SplitSpec(by=by, **until)


def _epoch(moment: int | date) -> int:
    """Seconds since 1970; a date or time without a zone is UTC, as the tables' times are."""
    if isinstance(moment, int):
        return moment
    time = moment if isinstance(moment, datetime) else datetime(moment.year, moment.month, moment.day)
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())


def _names(raw: Any, where: str) -> tuple[str, ...]:
    if not isinstance(raw, list) or not all(isinstance(name, str) for name in raw) or len(set(raw)) != len(raw):
        raise DataError(f"{where}: got {raw!r}, expected a list of different column names. Correct the list.")
    return tuple(raw)


def _table(raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise DataError(f"{where}: got {raw!r}, expected a table {{ key = value }}. Correct the entry.")
    return raw


def _check_keys(raw: Mapping[str, Any], where: str, allowed: list[str], required: list[str]) -> None:
    if unknown := sorted(set(raw) - set(allowed)):
        raise DataError(f"{where}: unknown key {', '.join(map(repr, unknown))}, expected only {allowed}. Remove it.")
    if missing := [key for key in required if key not in raw]:
        raise DataError(f"{where}: missing {', '.join(map(repr, missing))}, expected {required} at least. Add it.")


def _take(raw: Any, where: str, types: Mapping[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    table = _table(raw, where)
    _check_keys(table, where, list(types), required or [])
    for key, value in table.items():
        kinds = types[key] if isinstance(types[key], tuple) else (types[key],)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise DataError(f"{where}.{key}: got {value!r}, expected {names}. Correct the value.")
    return dict(table)
