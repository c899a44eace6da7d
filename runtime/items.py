"""The item index as a server holds it: tables mapped from its file, and items looked up by id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BundleError
from runtime.id_lookup import IdLookup
from runtime.item_checks import check_tables
from runtime.item_header import REWRITE, TABLES_FILE, ItemIndexHeader
from runtime.mapped_tables import WrongHashError, map_tables


class ItemIndex:
    """One catalogue: its semantic IDs, tables, ids and names; item row = leaf rank in the trie. Read-only.

    The tables are the file's own pages, so it must not be written to meanwhile; replacing the folder is safe.

    Shapes: tables as in TABLE_SPECS, item_fields int32 [N, Fi], listed bool [N]
    """

    def __init__(self, folder: Path, header: ItemIndexHeader, tables: dict[str, NDArray[Any]]) -> None:
        self.folder = folder
        self.header = header
        self.tables = tables
        self._lookup = IdLookup(tables["id_bytes"], tables["id_offsets"])

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
            tables = map_tables(path, header.version)
        except WrongHashError as error:
            raise BundleError(
                f"{path}: got sha256 {error.found[:12]}…, expected {header.version[:12]}… (index.json). The file was "
                f"changed or cut after it was written. {REWRITE}"
            ) from error
        except (OSError, ValueError) as error:
            raise BundleError(f"{path}: got {error}, expected a safetensors file. {REWRITE}") from error
        check_tables(tables, header, where=str(path))
        index = cls(folder, header, tables)
        if (distinct := index._lookup.distinct()) != header.items:
            raise BundleError(f"{path}: got {distinct} different ids, expected {header.items}. {REWRITE}")
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
        return self.tables["item_listed"].view(np.bool_)

    def rows(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Look items up; an id that is not in the catalogue gives -1.

        Shapes: item_ids [n] -> int64 [n]
        """
        return self._lookup.rows(item_ids)

    def id(self, row: int) -> str:
        return self._lookup.text(self._checked(row)).decode()

    def name(self, row: int) -> str:
        row = self._checked(row)
        begin, end = self.tables["name_offsets"][row : row + 2]
        return bytes(self.tables["name_bytes"][begin:end]).decode()

    def default_eligible(self) -> NDArray[np.int32]:
        """Count the listed items below each row: the row of `item_eligible` for requests without a filter.

        Shapes: int32 [N+1]
        """
        counts = self.eligible_counts(self.listed)
        counts.flags.writeable = False
        return counts

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
