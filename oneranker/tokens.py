"""Raw events to tokens: the code that makes training streams is the code that reads a request at serving (numpy only).

One user's stream, oldest first:  [U] [X I I] [C] [X I] ... [X]   <- the last X is the request that is asked for
U user attributes, X context of one group (basket, page), I its items, C a content event. Every token is F rows of one
embedding table (0 = absent), a kind and a time; a group's tokens all carry the time of its first event.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from oneranker.token_fields import (
    TIME_ROWS,
    Columns,
    Field,
    TokenError,
    check_keys,
    check_types,
    column_of,
    display_name,
    name_of,
    text_of,
    time_columns,
)
from oneranker.token_request import RESERVED_EVENT_KEYS, RESERVED_USER_KEYS, check_declared, read_request
from oneranker.token_stream import (
    CONTENT,
    CONTEXT,
    ITEM,
    NO_ITEM,
    PAD,
    UNKNOWN_ITEM,
    USER,
    ItemLookup,
    SimpleItemLookup,
    Tokens,
    TokenStream,
    group_events,
    newest,
)

__all__ = [
    "CONTENT", "CONTEXT", "ITEM", "NO_ITEM", "PAD", "RESERVED_EVENT_KEYS", "RESERVED_USER_KEYS", "SCHEMA_VERSION",
    "UNKNOWN_ITEM", "USER", "Columns", "Field", "ItemLookup", "SimpleItemLookup", "TokenError", "TokenStream",
    "Tokenizer", "Tokens", "column_of", "display_name", "group_events", "name_of", "newest", "text_of",
]  # fmt: skip

SCHEMA_VERSION = 1
SECTIONS = ("content", "event", "context", "user")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenizer:
    """Fitted fields and their places in the embedding table; frozen, saved as tokenizer.json.

    Rows of the table: 0 absent, then L x V codes, "unknown item", then every field in the order content, event,
    context, user, then hour, day of week and gap where events have times.
    """

    levels: int  # L
    codes: int  # V
    content: tuple[Field, ...] = ()
    event: tuple[Field, ...] = ()
    context: tuple[Field, ...] = ()
    user: tuple[Field, ...] = ()
    actions: Mapping[str, str] = field(default_factory=dict)  # action -> "item" or "content"
    uses_time: bool = True
    uses_group: bool = True
    offsets: Mapping[str, int] = field(init=False, repr=False, compare=False)
    vocabulary: int = field(init=False, compare=False)  # all rows, row 0 included

    def __post_init__(self) -> None:
        if self.levels < 1 or self.codes < 1:
            raise TokenError(
                f"tokenizer: levels={self.levels}, codes={self.codes}, expected both at least 1. "
                "Take them from the semantic IDs."
            )
        offsets: dict[str, int] = {}
        row = self.levels * self.codes + 1  # the unknown item is row L*V + 1; a field's local rows start at 1
        for section in SECTIONS:
            for entry in getattr(self, section):
                offsets[f"{section}.{entry.name}"] = row
                row += entry.rows
        for name, rows in TIME_ROWS.items() if self.uses_time else ():
            offsets[f"time.{name}"] = row
            row += rows
        check_declared(self, offsets, row + 1)
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "vocabulary", row + 1)

    @property
    def fields(self) -> int:
        """F: the widest kind of token."""
        context = _width(self.context) + len(TIME_ROWS) * self.uses_time
        return max(self.item_field_count + _width(self.event), context, _width(self.user))

    @property
    def item_field_count(self) -> int:
        """Fi: codes and content columns of an item."""
        return self.levels + _width(self.content)

    def item_fields(self, codes: np.ndarray, columns: Columns) -> np.ndarray:
        """What an item's tokens say of it, one row per item.

        Shapes: codes int [N, L], columns [N] each -> int32 [N, Fi]
        Raises: TokenError when the codes are not [N, L] in 0..V-1.
        """
        if codes.ndim != 2 or codes.shape[1] != self.levels or (codes.size and codes.min() < 0):
            raise TokenError(
                f"item codes: got shape {list(codes.shape)}, expected [N, {self.levels}], all >= 0. Refit."
            )
        if codes.size and codes.max() >= self.codes:
            raise TokenError(
                f"item codes: largest is {codes.max()}, expected below V={self.codes}. Refit the tokenizer."
            )
        level_row = 1 + np.arange(self.levels) * self.codes
        return np.hstack(((codes + level_row).astype(np.int32), self._encode("content", columns, len(codes))))

    def encode_columns(self, kind: int, columns: Columns, rows: int) -> np.ndarray:
        """Declared columns of one kind of token; absent columns count as unknown. Codes of items are not set here.

        Shapes: columns [n] each -> int32 [n, F]
        """
        section, start = {USER: ("user", 0), CONTEXT: ("context", 0)}.get(kind, ("event", self.item_field_count))
        encoded = self._encode(section, columns, rows)
        out = np.zeros((rows, self.fields), dtype=np.int32)
        out[:, start : start + encoded.shape[1]] = encoded
        return out

    def assemble(
        self,
        *,
        user_columns: Columns,
        users: int,
        group_user: np.ndarray,
        group_time: np.ndarray,
        group_content: np.ndarray,
        context_columns: Columns,
        event_group: np.ndarray,
        event_item: np.ndarray,
        event_columns: Columns,
        items: ItemLookup,
    ) -> TokenStream:
        """Tokens of users whose events are sorted by (user, group); a group without events is a request to answer.

        Shapes: group_user, group_time int64, group_content bool [G]; context_columns [groups that are not content];
            event_group, event_item int64 [n]; event_columns [n]; user_columns [U]
        """
        if items.item_fields.shape[1:] != (self.item_field_count,):
            raise TokenError(
                f"item_fields: got shape {list(items.item_fields.shape)}, expected [N, {self.item_field_count}]. "
                "Use the item index that was built with this tokenizer."
            )
        has_context = ~group_content
        block = np.bincount(event_group, minlength=len(group_user)) + has_context
        user_length = 1 + np.bincount(group_user, weights=block, minlength=users).astype(np.int64)
        user_offset = np.concatenate(([0], np.cumsum(user_length)))
        group_token = np.cumsum(block) - block + group_user + 1  # + the U tokens so far
        first_event = np.searchsorted(event_group, np.arange(len(group_user)))
        event_token = (group_token + has_context - first_event)[event_group] + np.arange(len(event_group))
        context_token = group_token[has_context]
        total = int(user_offset[-1])

        fields = np.zeros((total, self.fields), dtype=np.int32)
        fields[user_offset[:-1]] = self.encode_columns(USER, user_columns, users)
        fields[context_token] = self._context(context_columns, group_user[has_context], group_time[has_context])
        fields[event_token] = self._events(event_columns, event_item, items)
        kind = np.full(total, CONTEXT, dtype=np.int32)
        kind[user_offset[:-1]] = USER
        kind[event_token] = np.where(group_content[event_group], CONTENT, ITEM)
        time = np.zeros(total, dtype=np.int64)
        time[context_token] = group_time[has_context]
        time[event_token] = group_time[event_group]
        follows = np.minimum(user_offset[:-1] + 1, total - 1)
        time[user_offset[:-1]] = np.where(user_length > 1, time[follows], 0)
        return TokenStream(fields, kind, time, user_offset, group_token)

    def encode(self, request: Mapping[str, Any], items: ItemLookup, max_history: int) -> Tokens:
        """Tokens of one request: U, then the newest of the history, then the request's X.

        Raises: TokenError for a request that breaks the format; the message says where and what to send instead.
        """
        columns = read_request(request, self)
        order, event_group, first = group_events(
            columns.label, columns.time if self.uses_time else np.arange(len(columns.label))
        )
        ordered = order.tolist()
        item_ids = [columns.item_ids[i] for i in ordered]
        rows = np.where([item == "" for item in item_ids], NO_ITEM, items.rows(item_ids))
        content = np.append(columns.content[order[first]], False)
        context = columns.event_columns([f.name for f in self.context], order[first][~content[:-1]])
        groups = len(content)
        time = np.append(columns.time[order[first]], columns.now) if self.uses_time else np.arange(groups)
        stream = self.assemble(
            user_columns={name: column_of([value]) for name, value in columns.user.items()},
            users=1,
            group_user=np.zeros(groups, dtype=np.int64),
            group_time=time,
            group_content=content,
            context_columns={k: column_of([*v.tolist(), columns.context.get(k)]) for k, v in context.items()},
            event_group=event_group,
            event_item=rows,
            event_columns=columns.event_columns([f.name for f in self.event], order),
            items=items,
        )
        total = len(stream.token_kind)
        kept = newest(total, max_history)
        token_time = stream.token_time[kept]
        token_time[0] = token_time[1]
        unknown = int((rows == UNKNOWN_ITEM).sum())
        return Tokens(stream.token_fields[kept], stream.token_kind[kept], token_time, unknown, total - len(kept))

    def to_dict(self) -> dict[str, Any]:
        """The content of tokenizer.json."""
        return {
            "schema_version": SCHEMA_VERSION,
            "levels": self.levels,
            "codes": self.codes,
            "uses_time": self.uses_time,
            "uses_group": self.uses_group,
            "actions": dict(self.actions),
        } | {section: [entry.to_dict() for entry in getattr(self, section)] for section in SECTIONS}

    @classmethod
    def from_dict(cls, raw: Any, where: str = "tokenizer") -> Self:
        """Build it from `to_dict`.

        Raises: TokenError for another schema version, unknown or missing keys.
        """
        plain_keys = ("levels", "codes", "uses_time", "uses_group", "actions")
        check_keys(raw, {"schema_version", *plain_keys, *SECTIONS}, SCHEMA_VERSION, where)
        check_types(raw, {"levels": (int,), "codes": (int,), "uses_time": (bool,), "uses_group": (bool,)}, where)
        check_types(raw, {"actions": (dict,)} | dict.fromkeys(SECTIONS, (list,)), where)
        plain = {key: raw[key] for key in plain_keys}
        fields: dict[str, Any] = {
            s: tuple(Field.from_dict(entry, f"{where}: {s}") for entry in raw[s]) for s in SECTIONS
        }
        return cls(**plain, **fields)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, where: str = "tokenizer") -> Self:
        try:
            raw = json.loads(text)
        except json.JSONDecodeError as error:
            raise TokenError(f"{where}: not JSON ({error}), expected a tokenizer. Build the bundle again.") from error
        return cls.from_dict(raw, where)

    def write(self, path: Path) -> None:
        path.write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read tokenizer.json.

        Raises: TokenError for a file that is missing or not a tokenizer of this schema.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenError(f"{path}: cannot be read ({error}), expected a tokenizer. Was it copied whole?") from error
        return cls.from_json(text, str(path))

    def _encode(self, section: str, columns: Columns, rows: int) -> np.ndarray:
        parts = [np.zeros((rows, 0), dtype=np.int32)]
        for entry in getattr(self, section):
            column = columns.get(entry.name)
            local = entry.encode(column if column is not None else np.full(rows, None, dtype=object))
            parts.append(np.where(local > 0, local + self.offsets[f"{section}.{entry.name}"], 0).astype(np.int32))
        return np.hstack(parts)

    def _context(self, columns: Columns, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        out = self.encode_columns(CONTEXT, columns, len(user))
        if self.uses_time:
            same_user = np.diff(user, prepend=-1) == 0
            previous = np.where(same_user, np.roll(time, 1), -1)
            start = _width(self.context)
            offsets = np.array([self.offsets[f"time.{name}"] for name in TIME_ROWS])
            out[:, start : start + len(TIME_ROWS)] = time_columns(time, previous) + offsets
        return out

    def _events(self, columns: Columns, item: np.ndarray, items: ItemLookup) -> np.ndarray:
        out = self.encode_columns(ITEM, columns, len(item))
        known = item >= 0
        out[known, : self.item_field_count] = items.item_fields[item[known]]
        out[item == UNKNOWN_ITEM, 0] = self.levels * self.codes + 1
        return out


def _width(fields: Sequence[Field]) -> int:
    return sum(entry.slots for entry in fields)
