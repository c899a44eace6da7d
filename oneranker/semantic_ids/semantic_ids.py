"""Semantic IDs by any method behind one interface: fit, assign to new items, save, load."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from oneranker.data.prepared_folder import prepared_folder
from oneranker.errors import DataError
from oneranker.semantic_ids.centres import Floats, check_points
from oneranker.semantic_ids.code_paths import CodePaths
from oneranker.semantic_ids.famae_embeddings import FamaeEmbeddings
from oneranker.semantic_ids.gaoq import fit_gaoq
from oneranker.semantic_ids.gaoq_tree import GaoqTree, assign_gaoq
from oneranker.semantic_ids.rq_kmeans import add_items, fit_rq_kmeans
from oneranker.semantic_ids.rq_kmeans_plus import RqKmeansPlus, fit_rq_kmeans_plus
from oneranker.semantic_ids.settings import DEFAULT_CODES, IdSettings, Method
from oneranker.trie import Trie, lexicographic_order

SCHEMA_VERSION = 1
NOTES_FILE, CODES_FILE, EMBEDDINGS_FILE = "semantic_ids.json", "codes.parquet", "embeddings.safetensors"
PATHS_FILE, FAMAE_FOLDER = "semantic_ids.safetensors", "famae"
Quantiser = CodePaths | RqKmeansPlus | GaoqTree


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SemanticIds:
    """A path of L codes for each of N items, no two alike, and what gives paths to items that come later.

    Shapes: embeddings float32 [N, D], those that the codes were fitted on
    """

    item_ids: tuple[str, ...]
    embeddings: Floats
    quantiser: Quantiser
    settings: IdSettings
    famae: FamaeEmbeddings | None = None  # with method resid: where the embeddings come from
    seconds: Mapping[str, float] = field(default_factory=dict)  # "embedding", "quantisation": what they took

    @property
    def paths(self) -> CodePaths:
        return self.quantiser if isinstance(self.quantiser, CodePaths) else self.quantiser.ids

    @property
    def codes(self) -> NDArray[np.int32]:
        """From 0 on in each level.

        Shapes: -> int32 [N, L]
        """
        return self.paths.codes

    @property
    def codebooks(self) -> Floats:
        """What each code stands for: in the space of `points`, V the widest level.

        Shapes: -> float32 [L, V, D]
        """
        return self.paths.codebooks

    @property
    def widths(self) -> tuple[int, ...]:
        """How many codes each level has."""
        if isinstance(self.quantiser, GaoqTree):
            return self.quantiser.widths
        return (self.codebooks.shape[1],) * self.codebooks.shape[0]

    @property
    def points(self) -> Floats:
        """The embeddings as the codebooks see them: RQ-KMeans+ encodes them first.

        Shapes: -> float32 [N, D]
        """
        if isinstance(self.quantiser, RqKmeansPlus):
            return self.quantiser.encode(self.embeddings)
        return self.embeddings

    def reconstruct(self) -> Floats:
        """Estimate the embeddings from the codes alone.

        Shapes: -> float32 [N, D]
        """
        total = self.paths.reconstruct()
        return self.quantiser.decode(total) if isinstance(self.quantiser, RqKmeansPlus) else total

    def trie(self) -> tuple[Trie, NDArray[np.int64]]:
        """The prefix tree, and the items in the order of its leaves.

        Shapes: -> trie, int64 [N]
        """
        order = lexicographic_order(self.codes)
        return Trie.from_codes(self.codes[order]), order

    def assign(self, item_ids: Sequence[str], embeddings: NDArray[np.floating]) -> SemanticIds:
        """Give new items paths; no item known before changes its own. New items come after the known ones.

        With method resid, embed the new items by `famae.embed`.

        Shapes: embeddings [n, D]

        Raises:
            DataError: an item is known already or named twice, lengths differ, a number is not finite, the width is
                another, or no path is left.
        """
        names = (*self.item_ids, *item_ids)
        points = check_points(embeddings, "semantic IDs")
        _check_names(names, len(self.item_ids) + len(points))
        quantiser: Quantiser
        if isinstance(self.quantiser, GaoqTree):
            quantiser = assign_gaoq(self.quantiser, points)
        elif isinstance(self.quantiser, RqKmeansPlus):
            quantiser = replace(self.quantiser, ids=self.quantiser.add_items(points))
        else:
            quantiser = add_items(self.quantiser, points)
        return replace(self, item_ids=names, embeddings=np.concatenate([self.embeddings, points]), quantiser=quantiser)

    def save(self, folder: Path | str) -> None:
        """Write the folder whole or not at all; one that `save` wrote before is replaced.

        Raises:
            DataError: the folder holds something else.
        """
        notes: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "settings": self.settings.to_dict(),
            "items": len(self.item_ids),
            "widths": list(self.widths),
            "embedding_width": self.embeddings.shape[1],
            "seconds": dict(self.seconds),
        }
        with prepared_folder(Path(folder), notes, NOTES_FILE) as fresh:
            if isinstance(self.quantiser, RqKmeansPlus):
                self.quantiser.write(fresh)
            else:
                self.quantiser.write(fresh / PATHS_FILE)
            save_file({"embeddings": self.embeddings}, fresh / EMBEDDINGS_FILE)
            table = {f"code_{level + 1}": self.codes[:, level] for level in range(self.codes.shape[1])}
            pd.DataFrame({"item_id": list(self.item_ids), **table}).to_parquet(fresh / CODES_FILE, index=False)
            if self.famae is not None:
                self.famae.write(fresh / FAMAE_FOLDER)
            files = sorted(path for path in fresh.rglob("*") if path.is_file())
            notes["sha256"] = {path.relative_to(fresh).as_posix(): _sha256(path) for path in files}

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: a file is missing, damaged, or of another `save`.
        """
        folder = Path(folder)
        notes = _read_notes(folder)
        settings: IdSettings = notes["settings"]
        quantiser: Quantiser
        if settings.method is Method.RQ_KMEANS:
            quantiser = CodePaths.read(folder / PATHS_FILE)
        elif settings.method is Method.RQ_KMEANS_PLUS:
            quantiser = RqKmeansPlus.read(folder)
        else:
            quantiser = GaoqTree.read(folder / PATHS_FILE)
        return cls(
            item_ids=tuple(pd.read_parquet(folder / CODES_FILE, columns=["item_id"])["item_id"]),
            embeddings=load_file(folder / EMBEDDINGS_FILE)["embeddings"],
            quantiser=quantiser,
            settings=settings,
            famae=FamaeEmbeddings.read(folder / FAMAE_FOLDER) if settings.method is Method.RESID else None,
            seconds=notes["seconds"],
        )


def fit(
    embeddings: NDArray[np.floating],
    settings: IdSettings | None = None,
    *,
    item_ids: Sequence[str] | None = None,
    famae: FamaeEmbeddings | None = None,
    seconds: float = 0.0,
) -> SemanticIds:
    """Give every item a path of codes of its own; the same embeddings and settings give the same codes.

    Items are named by their row numbers where no names are given. `famae` and the `seconds` that learning the
    embeddings took are kept beside the codes.

    Shapes: embeddings [N, D]

    Raises:
        DataError: a number is not finite, names are not one per row, there are more items than paths, or fewer items
            than clusters; method resid without famae.
    """
    settings = settings or IdSettings()
    points = check_points(embeddings, "semantic IDs")
    names = tuple(str(row) for row in range(len(points))) if item_ids is None else tuple(item_ids)
    _check_names(names, len(points))
    if (famae is not None) != (settings.method is Method.RESID):
        raise DataError(
            f"semantic IDs: method {settings.method.value} {'without' if famae is None else 'with'} famae, expected it "
            "with resid alone. Fit FAMAE first (fit_famae), or choose gaoq."
        )
    start = time.perf_counter()
    quantiser: Quantiser
    if settings.method is Method.RQ_KMEANS:
        quantiser = fit_rq_kmeans(points, settings.levels, settings.codes or DEFAULT_CODES, settings.seed)
    elif settings.method is Method.RQ_KMEANS_PLUS:
        quantiser = fit_rq_kmeans_plus(
            points, settings.levels, settings.codes or DEFAULT_CODES, settings.rq_kmeans_plus()
        )
    else:
        quantiser = fit_gaoq(points, settings.gaoq())
    took = {"embedding": seconds, "quantisation": time.perf_counter() - start}
    return SemanticIds(
        item_ids=names, embeddings=points, quantiser=quantiser, settings=settings, famae=famae, seconds=took
    )


def _check_names(names: Sequence[str], rows: int) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if len(names) != rows or repeated:
        raise DataError(
            f"semantic IDs: got {len(names)} item ids, {repeated[:3]} more than once, for {rows} embeddings, expected "
            "a different one for each. Correct the ids."
        )


def _read_notes(folder: Path) -> dict[str, Any]:
    """What the notes say, once every file that they name is the one that was written with them."""
    path = folder / NOTES_FILE
    if not path.is_file():
        raise DataError(
            f"{path}: got no such file, expected a folder of semantic IDs or, where a method may stand, one of "
            f"{', '.join(method.value for method in Method)}. Correct the name. Build what was lost again."
        )
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
        if (version := notes["schema_version"]) != SCHEMA_VERSION:
            raise DataError(
                f"{path}: got schema_version {version!r}, expected {SCHEMA_VERSION}. Build the semantic IDs again."
            )
        notes["settings"] = IdSettings.from_dict(notes["settings"])
        wanted = {folder / name: sha256 for name, sha256 in notes["sha256"].items()}
        notes["seconds"] = dict(notes["seconds"])
    except DataError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path}: got {type(error).__name__}: {error}, expected the notes that `save` writes. "
            "Build the semantic IDs again."
        ) from error
    for file, sha256 in wanted.items():
        found = _sha256(file) if file.is_file() else "no file"
        if found != sha256:
            raise DataError(
                f"{file}: got {found}, expected the file of SHA-256 {sha256} that was written with {NOTES_FILE}. "
                "Build the semantic IDs again."
            )
    return notes


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
