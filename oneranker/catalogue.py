"""The item side: what is known of every item, in trie order, and the tables the model's stages read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from oneranker.config import OneRankerConfig, RetrieverMode
from oneranker.errors import CheckpointError
from oneranker.model import OneRanker
from oneranker.ranker import item_vectors
from oneranker.trie import Trie, lexicographic_order

ITEM_CHUNK = 65_536


@dataclass(frozen=True)
class Catalogue:
    """N items in lexicographic order of their codes, so an item's row is its leaf's rank in the trie.

    Shapes: codes int32 [N, L], codebooks fp32 [L, V, D], anchors fp32 [A, D], item_fields int32 [N, Fi],
        listed bool [N] (False: known in histories, never recommended)
    """

    ids: list[str]
    names: list[str]
    codes: NDArray[np.int32]
    codebooks: NDArray[np.float32]
    anchors: NDArray[np.float32]
    item_fields: NDArray[np.int32]
    listed: NDArray[np.bool_]

    @classmethod
    def sorted(
        cls,
        *,
        ids: Sequence[str],
        names: Sequence[str],
        codes: NDArray[np.int32],
        codebooks: NDArray[np.float32],
        anchors: NDArray[np.float32],
        item_fields: NDArray[np.int32],
        listed: NDArray[np.bool_] | None = None,
    ) -> Self:
        """A catalogue from rows in any order."""
        order = lexicographic_order(codes)
        return cls(
            ids=[ids[i] for i in order],
            names=[names[i] for i in order],
            codes=np.ascontiguousarray(codes[order], dtype=np.int32),
            codebooks=codebooks,
            anchors=anchors,
            item_fields=np.ascontiguousarray(item_fields[order], dtype=np.int32),
            listed=np.ones(len(order), dtype=bool) if listed is None else listed[order],
        )

    def only(self, keep: NDArray[np.bool_]) -> Self:
        """The same code space with fewer items."""
        rows = np.flatnonzero(keep)
        return replace(
            self,
            ids=[self.ids[i] for i in rows],
            names=[self.names[i] for i in rows],
            codes=self.codes[rows],
            item_fields=self.item_fields[rows],
            listed=self.listed[rows],
        )

    def reconstruction(self) -> NDArray[np.float32]:
        """Sum of the centroids along each item's path.

        Shapes: -> fp32 [N, D]
        """
        return np.sum([self.codebooks[level][self.codes[:, level]] for level in range(self.codes.shape[1])], axis=0)

    def save(self, path: Path) -> None:
        tensors: dict[str, NDArray[Any]] = {
            "codes": self.codes, "codebooks": self.codebooks, "anchors": self.anchors,
            "item_fields": self.item_fields, "listed": self.listed.astype(np.uint8),
        }  # fmt: skip
        temporary = path.with_suffix(".partial")
        save_file(tensors, temporary, metadata={"ids": json.dumps(self.ids), "names": json.dumps(self.names)})
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises: CheckpointError when the file is missing or damaged."""
        try:
            with safe_open(path, framework="np") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                texts = file.metadata()
            listed = tensors.pop("listed").astype(bool)
            return cls(ids=json.loads(texts["ids"]), names=json.loads(texts["names"]), listed=listed, **tensors)
        except Exception as error:
            raise CheckpointError(
                f"{path}: not a readable catalogue ({error}); expected the file that training writes; train again"
            ) from error


def index_tensors(
    model: OneRanker, catalogue: Catalogue, eligible: NDArray[np.bool_] | None = None
) -> dict[str, Tensor]:
    """The tables of the retriever and the ranker for one catalogue, under the model's current weights.

    Shapes: eligible bool [R, N] or None (row 0 = listed) -> codebooks x [L, V, D], anchors x [A, D], trie_* int32 [P],
        item_table x [N, D], item_eligible int32 [R, N+1] running counts; item_vectors x [N, D+A] in dense mode
    """
    index = retrieval_tables(catalogue, model.dtype)
    rows = catalogue.listed[None] if eligible is None else eligible
    index["item_eligible"] = torch.from_numpy(running_counts(rows))
    fields = torch.from_numpy(catalogue.item_fields).split(ITEM_CHUNK)  # [N, Fi, D] at once would be gigabytes
    index["item_table"] = torch.cat([model.item_table(rows.long()) for rows in fields])
    if model.config.retriever is RetrieverMode.DENSE:
        reconstruction = torch.from_numpy(catalogue.reconstruction())
        index["item_vectors"] = item_vectors(index["item_table"], reconstruction, index["anchors"])
    return index


def retrieval_tables(catalogue: Catalogue, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the retriever reads of a catalogue, whatever the weights.

    Shapes: -> trie_* int32 [P], codebooks x [L, V, D], anchors x [A, D]
    """
    tables = {name: torch.from_numpy(table) for name, table in Trie.from_codes(catalogue.codes).tables().items()}
    tables["codebooks"] = torch.from_numpy(catalogue.codebooks).to(dtype)
    return tables | {"anchors": torch.from_numpy(catalogue.anchors).to(dtype)}


def running_counts(eligible: NDArray[np.bool_]) -> NDArray[np.int32]:
    """How many eligible items stand before each row; any range of rows is then judged by two numbers.

    Shapes: bool [R, N] -> int32 [R, N+1]
    """
    counts = np.zeros((eligible.shape[0], eligible.shape[1] + 1), dtype=np.int32)
    np.cumsum(eligible, axis=1, out=counts[:, 1:])
    return counts


def check_catalogue(config: OneRankerConfig, catalogue: Catalogue) -> None:
    """Raises: CheckpointError when a catalogue's code space is not the model's."""
    expected = (config.code_levels, config.codes, config.width)
    if catalogue.codebooks.shape != expected or catalogue.anchors.shape != (config.anchors, config.width):
        raise CheckpointError(
            f"catalogue: codebooks {catalogue.codebooks.shape}, anchors {catalogue.anchors.shape}; expected "
            f"[L, V, D] = {expected} and [A, D] = {(config.anchors, config.width)}; fit semantic IDs for this model"
        )
