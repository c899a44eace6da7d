"""The item index folder: what is in it, how it is checked, and how items are looked up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

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
_REBUILD = "Write the item index again."


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
            raise BundleError(f"{path}: got {error}, expected a readable JSON header. {_REBUILD}") from error
        if not isinstance(raw, dict) or raw.get("schema_version") != SCHEMA_VERSION:
            found = raw.get("schema_version") if isinstance(raw, dict) else type(raw).__name__
            raise BundleError(
                f"{path}: got schema {found}, expected schema {SCHEMA_VERSION}. {_REBUILD[:-1]} "
                "or install the runtime of that release."
            )
        kinds = {field.name: str if field.type == "str" else int for field in fields(cls)}
        if raw.keys() != kinds.keys():
            raise BundleError(f"{path}: got the keys {sorted(raw)}, expected {sorted(kinds)}. {_REBUILD}")
        for key, kind in kinds.items():
            if type(raw[key]) is not kind or (kind is int and raw[key] < 1):
                expected = "a string" if kind is str else "an integer >= 1"
                raise BundleError(f"{path}: got {key}={raw[key]!r}, expected {expected}. {_REBUILD}")
        return cls(**raw)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


class ItemIndex:
    """One catalogue: its semantic IDs, tables, ids and names; item row = leaf rank in the trie. Read-only.

    Shapes: tables as in TABLE_SPECS, item_fields int32 [N, Fi], listed bool [N]
    """

    def __init__(self, folder: Path, header: ItemIndexHeader, tables: dict[str, NDArray[Any]]) -> None:
        self.folder = folder
        self.header = header
        self.tables = tables
        self._ids = _texts(tables["id_bytes"], tables["id_offsets"])
        self._row_of_id = {item_id: row for row, item_id in enumerate(self._ids)}
        self._default_eligible = self.eligible_counts(self.listed)
        self._default_eligible.flags.writeable = False

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read and check an item index folder.

        Raises:
            BundleError: a file is missing, damaged, edited, or does not fit the header.
        """
        folder = Path(folder)
        header = ItemIndexHeader.read(folder)
        path = folder / TABLES_FILE
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != header.version:
                raise BundleError(
                    f"{path}: got sha256 {found[:12]}…, expected {header.version[:12]}… (index.json). The file was "
                    f"changed or cut after it was written. {_REBUILD}"
                )
            tables: dict[str, NDArray[Any]] = load_file(path)
        except (OSError, SafetensorError) as error:
            raise BundleError(f"{path}: got {error}, expected a safetensors file. {_REBUILD}") from error
        check_tables(tables, header, where=str(path))
        for table in tables.values():
            table.flags.writeable = False
        index = cls(folder, header, tables)
        if len(index._row_of_id) != header.items:
            raise BundleError(f"{path}: got {len(index._row_of_id)} different ids, expected {header.items}. {_REBUILD}")
        return index

    def __len__(self) -> int:
        return self.header.items

    @property
    def version(self) -> str:
        return self.header.version

    @property
    def code_space(self) -> str:
        return self.header.code_space

    @property
    def item_fields(self) -> NDArray[np.int32]:
        return self.tables["item_fields"]

    @property
    def listed(self) -> NDArray[np.bool_]:
        return self.tables["item_listed"].astype(np.bool_)

    def rows(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Look items up; an id that is not in the catalogue gives -1.

        Shapes: item_ids [n] -> int64 [n]
        """
        return np.fromiter((self._row_of_id.get(i, -1) for i in item_ids), np.int64, len(item_ids))

    def id(self, row: int) -> str:
        return self._ids[self._checked(row)]

    def name(self, row: int) -> str:
        row = self._checked(row)
        begin, end = self.tables["name_offsets"][row : row + 2]
        return bytes(self.tables["name_bytes"][begin:end]).decode()

    def default_eligible(self) -> NDArray[np.int32]:
        """Count the listed items below each row: the row of `item_eligible` for requests without a filter.

        Shapes: int32 [N+1]
        """
        return self._default_eligible

    def eligible_counts(self, mask: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Turn a mask into running counts: out[i] = eligible items among the rows < i.

        Shapes: mask bool [N] -> int32 [N+1]
        """
        if mask.shape != (len(self),) or mask.dtype != np.bool_:
            raise ValueError(
                f"eligible_counts: mask is {mask.dtype} {list(mask.shape)}, expected bool [{len(self)}]. "
                "Give one flag per item row of this index."
            )
        counts = np.zeros(len(self) + 1, np.int32)
        np.cumsum(mask, out=counts[1:])
        return counts

    def _checked(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise IndexError(f"item index: got row {row}, expected 0 .. {len(self) - 1}. Rows of -1 are padding.")
        return int(row)


def code_space_of(codebooks: NDArray[np.float32], anchors: NDArray[np.float32]) -> str:
    """Name a code space by its numbers: two indexes with the same name can serve the same trained model.

    Shapes: codebooks float32 [L, V, D], anchors float32 [A, D]
    """
    digest = hashlib.sha256()
    for table in (codebooks, anchors):
        digest.update(np.ascontiguousarray(table, "<f4").tobytes())
    return digest.hexdigest()


def check_tables(tables: dict[str, NDArray[Any]], header: ItemIndexHeader, *, where: str) -> None:
    """Check names, dtypes, shapes and the facts that the retriever and the ranker rely on.

    Raises:
        BundleError: something does not fit.
    """
    required = TABLE_SPECS.keys() - OPTIONAL_TABLES
    if not required <= tables.keys() <= TABLE_SPECS.keys():
        raise BundleError(
            f"{where}: got the tables {sorted(tables)}, expected {sorted(required)} and at most "
            f"{sorted(OPTIONAL_TABLES)} more. {_REBUILD}"
        )
    n, d, a = header.items, header.width, header.anchors
    bound = {
        "N": n,
        "L": header.levels,
        "V": header.codes,
        "D": d,
        "A": a,
        "P": header.nodes,
        "N+1": n + 1,
        "D+A": d + a,
    }
    for name, table in tables.items():
        dtype, letters = TABLE_SPECS[name]
        fits = table.ndim == len(letters) and all(
            bound.setdefault(letter, size) == size for letter, size in zip(letters, table.shape, strict=True)
        )
        if table.dtype != dtype or not fits:
            raise BundleError(
                f"{where}: '{name}' is {table.dtype} {list(table.shape)}, expected {dtype} [{', '.join(letters)}] "
                f"(bound so far: {', '.join(f'{k}={v}' for k, v in bound.items())}). {_REBUILD}"
            )
    if (found := code_space_of(tables["codebooks"], tables["anchors"])) != header.code_space:
        raise BundleError(
            f"{where}: codebooks and anchors have code space {found[:12]}…, expected {header.code_space[:12]}… "
            f"(index.json). {_REBUILD}"
        )
    for fact, holds in _facts(tables, header):
        if not holds:
            raise BundleError(f"{where}: got tables that break a rule, expected {fact}. {_REBUILD}")


def _facts(tables: dict[str, NDArray[Any]], header: ItemIndexHeader) -> list[tuple[str, bool]]:
    """List what shapes cannot say, in words and as found."""
    codes = tables["codes"]
    facts = [
        ("codes within 0 .. V-1", bool(codes.min() >= 0 and codes.max() < header.codes)),
        ("item_listed of 0 and 1", bool(tables["item_listed"].max() <= 1)),
        ("a trie that spells the rows of codes, level by level", _trie_spells(codes, tables)),
    ]
    for kind in ("id", "name"):
        data, offsets = tables[f"{kind}_bytes"], tables[f"{kind}_offsets"]
        cut = offsets[0] == 0 and bool((np.diff(offsets) >= 0).all()) and offsets[-1] == len(data)
        facts.append((f"{kind}_offsets that rise from 0 to the end of {kind}_bytes", cut))
        facts.append((f"{kind}_bytes of UTF-8 text, cut between characters", cut and _is_text(data, offsets)))
    return facts


def _trie_spells(codes: NDArray[np.int32], tables: dict[str, NDArray[Any]]) -> bool:
    """Walk the trie depth by depth: nodes tile the items, children tile the next depth, codes are the items' codes."""
    code, children_begin, children_end, items_begin, items_end = (tables[name] for name in TRIE_TABLES)
    nodes = slice(0, 1)
    for depth in range(codes.shape[1] + 1):
        begin, end = items_begin[nodes], items_end[nodes]
        if not _tiles(begin, end, 0, len(codes)):
            return False
        if depth and not np.array_equal(np.repeat(code[nodes], end - begin), codes[:, depth - 1]):
            return False
        below, stop = children_begin[nodes], children_end[nodes]
        if depth == codes.shape[1]:
            return nodes.stop == len(code) and not below.any() and not stop.any() and len(begin) == len(codes)
        if stop[-1] > len(code) or not _tiles(below, stop, nodes.stop, int(stop[-1])):
            return False
        nodes = slice(nodes.stop, int(stop[-1]))
        rises = np.diff(code[nodes]) > 0
        rises[below[1:] - nodes.start - 1] = True  # between the last child of one node and the first of the next
        if not rises.all() or not np.array_equal(items_begin[below], begin):
            return False
    return False


def _tiles(begin: NDArray[np.int32], end: NDArray[np.int32], start: int, stop: int) -> bool:
    joined = begin[0] == start and end[-1] == stop and np.array_equal(begin[1:], end[:-1])
    return bool(joined and (begin < end).all())


def _is_text(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> bool:
    try:
        data.tobytes().decode()
    except UnicodeDecodeError:
        return False
    firsts = data[offsets[offsets < len(data)]]
    return not bool((firsts & 0xC0 == 0x80).any())  # 10xxxxxx continues a character


def _texts(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> list[str]:
    raw, cuts = data.tobytes(), offsets.tolist()
    return [raw[begin:end].decode() for begin, end in pairwise(cuts)]
