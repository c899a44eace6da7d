"""The item index folder: its files, its tables, and the header that names them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from runtime.errors import BundleError

SCHEMA_VERSION = 1
HEADER_FILE = "index.json"
TABLES_FILE = "items.safetensors"
TRIE_TABLES = ("trie_code", "trie_children_begin", "trie_children_end", "trie_items_begin", "trie_items_end")
# Every table of items.safetensors; a letter not in the header (Fi, bytes) binds at its first use.
TABLE_SPECS: dict[str, tuple[str, tuple[str, ...]]] = {
    "codes": ("int32", ("N", "L")),
    "codebooks": ("float32", ("L", "V", "D")),
    "anchors": ("float32", ("A", "D")),
    **dict.fromkeys(TRIE_TABLES, ("int32", ("P",))),
    "item_table": ("float32", ("N", "D")),
    "item_vectors": ("float32", ("N", "D+A")),
    "item_fields": ("int32", ("N", "Fi")),
    "item_listed": ("uint8", ("N",)),
    "id_bytes": ("uint8", ("id bytes",)),
    "id_offsets": ("int64", ("N+1",)),
    "name_bytes": ("uint8", ("name bytes",)),
    "name_offsets": ("int64", ("N+1",)),
}
OPTIONAL_TABLES = frozenset({"item_vectors"})
REWRITE = "Write the item index again."


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemIndexHeader:
    """The content of index.json; `version` names these very bytes, `code_space` the codebooks and anchors."""

    schema_version: int
    version: str
    code_space: str
    items: int  # N
    levels: int  # L
    codes: int  # V
    width: int  # D
    anchors: int  # A
    nodes: int  # P

    @classmethod
    def read(cls, folder: Path) -> Self:
        path = folder / HEADER_FILE
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BundleError(f"{path}: got {error}, expected a readable JSON header. {REWRITE}") from error
        if not isinstance(raw, dict) or raw.get("schema_version") != SCHEMA_VERSION:
            found = raw.get("schema_version") if isinstance(raw, dict) else type(raw).__name__
            raise BundleError(
                f"{path}: got schema {found}, expected schema {SCHEMA_VERSION}. {REWRITE[:-1]} "
                "or install the runtime of that release."
            )
        kinds = {field.name: str if field.type == "str" else int for field in fields(cls)}
        if raw.keys() != kinds.keys():
            raise BundleError(f"{path}: got the keys {sorted(raw)}, expected {sorted(kinds)}. {REWRITE}")
        for key, kind in kinds.items():
            if type(raw[key]) is not kind or (kind is int and raw[key] < 1):
                expected = "a string" if kind is str else "an integer >= 1"
                raise BundleError(f"{path}: got {key}={raw[key]!r}, expected {expected}. {REWRITE}")
        return cls(**raw)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"
