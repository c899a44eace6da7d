"""Paths of codes and the vectors that codes stand for: what every quantiser gives, whatever it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from oneranker.errors import DataError
from oneranker.semantic_ids.centres import Floats, cluster_means


@dataclass(frozen=True, slots=True, kw_only=True)
class CodePaths:
    """One path of L codes per item, and what each code stands for.

    Shapes: codes int32 [N, L], codebooks float32 [L, V, D]
    """

    codes: NDArray[np.int32]
    codebooks: Floats

    def reconstruct(self, codes: NDArray[np.integer] | None = None) -> Floats:
        """Sum the code embeddings along each path; a path may also be a prefix of l <= L codes.

        Shapes: codes int [n, l] (default: all items) -> float32 [n, D]
        """
        codes = self.codes if codes is None else codes
        total = np.zeros((len(codes), self.codebooks.shape[2]), np.float32)
        for level in range(codes.shape[1]):
            total += self.codebooks[level, codes[:, level]]
        return total

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"codes": self.codes, "codebooks": self.codebooks}, path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            DataError: the file is missing, damaged, or holds something else.
        """
        try:
            tables = load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: got {error}, expected semantic IDs (safetensors). Fit them again.") from error
        found = {name: (table.dtype.name, table.ndim) for name, table in tables.items()}
        if found != {"codes": ("int32", 2), "codebooks": ("float32", 3)}:
            raise DataError(
                f"{path}: got {found}, expected codes int32 [N, L] and codebooks float32 [L, V, D]. Fit them again."
            )
        codes, codebooks = tables["codes"], tables["codebooks"]
        fits = codes.shape[1] == codebooks.shape[0] and codes.size and codebooks.size
        if not fits or codes.min() < 0 or codes.max() >= codebooks.shape[1]:
            raise DataError(
                f"{path}: codes {list(codes.shape)} do not fit codebooks {list(codebooks.shape)}, expected L codes "
                "within 0 .. V-1 per item. Fit them again."
            )
        return cls(codes=codes, codebooks=codebooks)


def prefix_numbers(prefixes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Number the different prefixes; those of no codes are all the same.

    Shapes: prefixes int [N, l] -> int64 [N]
    """
    if not prefixes.shape[1]:
        return np.zeros(len(prefixes), np.int64)
    return np.unique(prefixes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def mean_codebooks(points: Floats, codes: NDArray[np.integer], width: int) -> Floats:
    """Give every code the mean of what the levels above leave of its items; 0 to codes that no item has.

    So codes of any origin get their meaning in the space of any embeddings.

    Shapes: points float32 [N, D], codes int [N, L] -> float32 [L, width, D]
    """
    books = np.zeros((codes.shape[1], width, points.shape[1]), np.float32)
    left = points.copy()
    for level, book in enumerate(books):
        used, which = np.unique(codes[:, level], return_inverse=True)
        book[used] = cluster_means(left, which.reshape(-1), len(used))
        left -= book[codes[:, level]]
    return books
