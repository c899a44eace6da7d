"""Reads one request (a JSON object) into columns, refusing what it does not understand (numpy only)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from oneranker.token_fields import TIME_ROWS, TokenError, column_of, name_of

if TYPE_CHECKING:
    from oneranker.tokens import Tokenizer

REQUEST_KEYS = {"user", "now", "context", "events", "eligible", "excluded"}  # the last two are for the retriever
EVENT_KINDS = ("item", "content")
MAX_SECONDS = 2**62
RESERVED_EVENT_KEYS = {"item", "time", "group", "action", "kind"}
RESERVED_USER_KEYS = {"id"}
MAX_ROWS = 2**31 - 1  # rows of the embedding table are int32
MAX_FIELDS = 2**16  # of one token


@dataclass(frozen=True, slots=True)
class RequestColumns:
    """One request, a value per event; `label` numbers the groups, equal numbers belong together.

    Shapes: item_ids [n], time int64 [n], label int64 [n], content bool [n]
    """

    events: Sequence[Mapping[str, Any]]
    item_ids: list[str]  # "" where a content event names no item
    time: np.ndarray
    label: np.ndarray
    content: np.ndarray
    now: int
    context: Mapping[str, Any]
    user: Mapping[str, Any]

    def event_columns(self, names: Sequence[str], order: np.ndarray) -> dict[str, np.ndarray]:
        """Values of the named keys in the given order, None where an event lacks one."""
        return {name: column_of([self.events[i].get(name) for i in order.tolist()]) for name in names}


def check_declared(tokenizer: Tokenizer, offsets: Mapping[str, int], rows: int) -> None:
    """Refuse fields and actions that no request could use, and tables that no int32 could count.

    Raises: TokenError naming them.
    """
    if odd := [f"{action!r}: {kind!r}" for action, kind in tokenizer.actions.items() if kind not in EVENT_KINDS]:
        raise TokenError(f"tokenizer: actions {odd}, expected one of {EVENT_KINDS} for each. Correct the schema.")
    sections = {"content": tokenizer.content, "event": tokenizer.event}
    sections |= {"context": tokenizer.context, "user": tokenizer.user}
    taken = {"event": RESERVED_EVENT_KEYS - {"action"}, "context": RESERVED_EVENT_KEYS, "user": RESERVED_USER_KEYS}
    for section, reserved in taken.items():
        if both := reserved & {entry.name for entry in sections[section]}:
            raise TokenError(
                f"tokenizer: {section} declares {sorted(both)}, which the request format takes. Rename the column."
            )
    fields = sum(map(len, sections.values())) + len(TIME_ROWS) * tokenizer.uses_time
    if len(offsets) != fields:
        raise TokenError(f"tokenizer: {fields} fields, {len(offsets)} of them with different names. Rename one.")
    if rows > MAX_ROWS or tokenizer.fields > MAX_FIELDS:
        raise TokenError(
            f"tokenizer: {rows} rows and {tokenizer.fields} fields, expected at most {MAX_ROWS} and {MAX_FIELDS}. "
            "Declare fewer values or slots."
        )


def read_request(request: Mapping[str, Any], tokenizer: Tokenizer) -> RequestColumns:
    """Check a request and turn its events into columns, in the order given.

    Raises: TokenError naming the place, what was there, what was expected and what to do.
    """
    request = _object(request, "request", REQUEST_KEYS)
    user = _object(request.get("user"), "request.user", RESERVED_USER_KEYS | {f.name for f in tokenizer.user})
    context_names = {f.name for f in tokenizer.context}
    context = _object(request.get("context"), "request.context", context_names)
    events = request.get("events")
    events = [] if events is None else events
    if not isinstance(events, list | tuple):
        raise TokenError(
            f"request.events: got {type(events).__name__}, expected a list of objects, oldest first. "
            "Send [] for a user without history."
        )
    allowed = {"item", "kind"} | context_names | {f.name for f in tokenizer.event}
    allowed |= ({"time"} if tokenizer.uses_time else set()) | ({"group"} if tokenizer.uses_group else set())
    allowed |= {"action"} if tokenizer.actions else set()
    checked = [
        event if type(event) is dict and event.keys() <= allowed else _object(event, f"request.events[{i}]", allowed)
        for i, event in enumerate(events)
    ]
    name_of(user.get("id"), "request.user.id")
    item_ids = _names(checked, "item")
    content = _content(checked, item_ids, tokenizer.actions)
    time, now = _times(request, checked, tokenizer.uses_time)
    return RequestColumns(
        events=checked,
        item_ids=item_ids,
        time=time,
        label=_labels(checked, content),
        content=np.array(content, dtype=bool),
        now=now,
        context=context,
        user=user,
    )


def _object(value: Any, where: str, allowed: set[str]) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TokenError(f"{where}: got {type(value).__name__}, expected an object. Send {{}} where nothing is known.")
    if unknown := [str(key) for key in value if key not in allowed]:
        raise TokenError(
            f"{where}: unknown key {', '.join(map(repr, sorted(unknown)))}, expected only {sorted(allowed)}. "
            "Leave it out, or train with a schema that declares it."
        )
    return value


def _names(events: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """What each event names by this key, "" for nothing."""
    values = [event.get(key) for event in events]
    return [
        value if type(value) is str else "" if value is None else name_of(value, f"request.events[{i}].{key}")
        for i, value in enumerate(values)
    ]


def _content(events: Sequence[Mapping[str, Any]], item_ids: Sequence[str], actions: Mapping[str, str]) -> list[bool]:
    """Which events are content: by their own 'kind', else by their action, else those that name no item are errors."""
    content = []
    own, action = _names(events, "kind"), _names(events, "action")
    for i, (event, item) in enumerate(zip(events, item_ids, strict=True)):
        kind = own[i] or actions.get(action[i]) or "item"
        if kind not in EVENT_KINDS:
            raise TokenError(
                f"request.events[{i}].kind: got {kind!r}, expected one of {EVENT_KINDS}. "
                "Leave it out to follow the event's action."
            )
        if kind == "item" and not item:
            raise TokenError(
                f"request.events[{i}]: an item event without 'item' (keys {sorted(event)}), expected an item id. "
                'Name the item, or mark the event with "kind": "content".'
            )
        content.append(kind == "content")
    return content


def _times(request: Mapping[str, Any], events: Sequence[Mapping[str, Any]], uses_time: bool) -> tuple[np.ndarray, int]:
    if not uses_time:
        if request.get("now") is not None:
            raise TokenError(
                f"request.now: got {request['now']!r}, expected none: this tokenizer was fitted on data without times. "
                "Leave 'now' out."
            )
        return np.arange(len(events), dtype=np.int64), len(events)
    times: list[Any] = [event.get("time") for event in events]
    if not set(map(type, times)) <= {int} or (times and not 0 <= min(times) <= max(times) < MAX_SECONDS):
        times = [_seconds(time, f"request.events[{i}].time") for i, time in enumerate(times)]
    now = _seconds(request.get("now"), "request.now")
    time = np.array(times, dtype=np.int64)
    if (back := np.flatnonzero(np.diff(time) < 0)).size:
        i = int(back[0]) + 1
        raise TokenError(
            f"request.events[{i}].time: {times[i]} comes after {times[i - 1]}, expected events oldest first. "
            "Sort the events by time."
        )
    if times and now < times[-1]:
        raise TokenError(
            f"request.now: {now} is before the last event ({times[-1]}), expected a later or equal time. "
            "Leave future events out."
        )
    return time, now


def _seconds(value: Any, where: str) -> int:
    whole = isinstance(value, int | np.integer) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not 0 <= value < MAX_SECONDS:
        raise TokenError(f"{where}: got {value!r}, expected seconds since 1970 as an integer >= 0. Convert the time.")
    return int(value)


def _labels(events: Sequence[Mapping[str, Any]], content: Sequence[bool]) -> np.ndarray:
    """Equal group names share a number; an event without a group, or a content event, stands alone."""
    numbers: dict[str | int, int] = {}
    names = enumerate(zip(_names(events, "group"), content, strict=True))
    labels = [numbers.setdefault(i if alone else name or i, len(numbers)) for i, (name, alone) in names]
    return np.array(labels, dtype=np.int64)
