"""A report on semantic IDs: what their codes use, say and share, as JSON, as a table and as plots."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oneranker.data.dataset import Dataset
from oneranker.data.prepared_folder import prepared_folder
from oneranker.errors import DataError
from oneranker.semantic_ids import quality
from oneranker.semantic_ids.centres import Floats
from oneranker.semantic_ids.code_paths import CodePaths
from oneranker.semantic_ids.dataset_quality import dataset_quality
from oneranker.semantic_ids.gaoq_tree import GaoqTree
from oneranker.semantic_ids.report_plots import PLOTS, write_plots
from oneranker.semantic_ids.semantic_ids import SemanticIds
from oneranker.semantic_ids.settings import Method

SCHEMA_VERSION = 1
REPORT_FILE, TABLE_FILE = "report.json", "report.md"
FILES = (REPORT_FILE, TABLE_FILE, *PLOTS)


def report(ids: SemanticIds, dataset: Dataset | None = None) -> dict[str, Any]:
    """Measure semantic IDs; the answer is ready for JSON, without NaN.

    Every measure is defined in oneranker/semantic_ids/quality.py. Errors are of `points`, what the codebooks see; where
    that is not the embedding (RQ-KMeans+), `embedding_error` compares the decoded codes with the embeddings.
    "nearest_codes" says what unique paths cost RQ-KMeans and RQ-KMeans+: collisions of the nearest codes per depth,
    share of items off the nearest code per level and on any; None for trees, whose codes are not chosen by distance.
    With a data set, "dataset" says how the codes fit its users (oneranker/semantic_ids/dataset_quality.py).

    Raises:
        DataError: the data set has no item with codes, or no catalogue.
    """
    points, paths = ids.points, ids.paths
    sizes = _prefix_sizes(ids.codes)
    per_level = zip(
        quality.level_use(paths, ids.widths),
        quality.prefix_counts(ids.codes),
        quality.reconstruction_errors(paths, points),
        quality.explained_variance(paths, points),
        quality.code_coherence(paths, points),
        strict=True,
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "method": ids.settings.method.value,
        "settings": ids.settings.to_dict(),
        "items": len(ids.item_ids),
        "widths": list(ids.widths),
        "embedding_width": ids.embeddings.shape[1],
        "seconds": dict(ids.seconds),
        "levels": [
            asdict(use)
            | {
                "utilisation": use.used / use.codes,
                "prefixes": prefixes,
                "reconstruction_error": error,
                "explained_variance": explained,
                "code_coherence": coherence,
            }
            for use, prefixes, error, explained, coherence in per_level
        ],
        "collisions": quality.collisions(ids.codes),
        "largest_leaf": sizes[-2][-1][0],
        "nearest_codes": None if isinstance(ids.quantiser, GaoqTree) else _nearest_codes(paths, points),
        "embedding_error": _embedding_error(ids) if ids.settings.method is Method.RQ_KMEANS_PLUS else None,
        "code_counts": [_code_counts(ids.codes[:, level], width) for level, width in enumerate(ids.widths)],
        "prefix_sizes": sizes,
        "dataset": None if dataset is None else dataset_quality(ids, dataset),
    }


def table(report: dict[str, Any]) -> str:
    """Write a report as text: facts, then a row for each level; Markdown that is also aligned in a terminal."""
    columns = {
        "level": [str(level + 1) for level in range(len(report["levels"]))],
        "codes": [f"{level['codes']:,}" for level in report["levels"]],
        "used": [f"{level['used']:,}" for level in report["levels"]],
        "used, %": [f"{100 * level['utilisation']:.1f}" for level in report["levels"]],
        "bits": [f"{level['entropy_bits']:.3f}" for level in report["levels"]],
        "Gini": [f"{level['gini']:.4f}" for level in report["levels"]],
        "prefixes": [f"{level['prefixes']:,}" for level in report["levels"]],
        "error": [f"{level['reconstruction_error']:.4f}" for level in report["levels"]],
        "explained": [f"{level['explained_variance']:.4f}" for level in report["levels"]],
        "coherence": [f"{level['code_coherence']:.4f}" for level in report["levels"]],
    }
    meaning = [
        "- bits: entropy of a level's codes; Gini: 0 = used codes hold equally many items",
        "- error: squared distance to the sum of the codes so far, over that to the mean of all items",
        "- explained: share of what the parents leave open that the code alone, under any parent, explains",
        "- coherence: mean cosine of two items that share the code under different parents (level 1: of any two), each "
        "minus its parent's mean",
    ]
    if report["nearest_codes"]:
        columns["collisions"] = [f"{count:,}" for count in report["nearest_codes"]["collisions"]]
        columns["moved, %"] = [f"{100 * share:.1f}" for share in report["nearest_codes"]["codes_moved"]]
        meaning += [
            "- collisions: items whose nearest codes so far are those of an earlier item, before paths are made unique",
            "- moved: share of items with another code than the nearest one, given their codes above",
        ]
    if report["dataset"]:
        overlap, together = report["dataset"]["history_target"], report["dataset"]["cooccurrence"]
        columns["overlap"] = [f"{share:.4f}" for share in overlap["overlap"]]
        columns["recall"] = [f"{share:.4f}" for share in together["prefix_recall"]]
        meaning += [
            f"- overlap: share of history items with their target's code; {overlap['targets']:,} targets, "
            f"{overlap['pairs_counted']:,} of {overlap['pairs']:,} pairs",
            f"- recall: share of the {together['top']} items most chosen together (in one {together['within']}) that "
            f"have the same codes so far; {together['items']:,} items",
        ]
    parts = [f"# Semantic IDs by {report['method']}", *_facts(report)], _aligned(columns), meaning
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def write_report(ids: SemanticIds, folder: Path, dataset: Dataset | None = None) -> dict[str, Any]:
    """Write report.json, report.md and plots; whole or not at all. A folder that holds exactly these is replaced.

    Raises:
        DataError: the folder holds anything else or cannot be written; what `report` refuses.
    """
    if folder.is_dir() and (found := {path.name for path in folder.iterdir()}) and found != set(FILES):
        raise DataError(
            f"{folder}: got a folder with {sorted(found)[:5]}, expected a new or empty one, or one with exactly "
            f"{list(FILES)}. Choose another folder, or remove it yourself."
        )
    made = report(ids, dataset)
    try:
        with prepared_folder(folder, made, REPORT_FILE) as fresh:
            write_plots(made, fresh)
            pictures = "".join(f"\n![{title}]({file})\n" for file, title in PLOTS.items())
            (fresh / TABLE_FILE).write_text(table(made) + pictures, encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{folder}: got {type(error).__name__}: {error}, expected a folder that can be written. Choose another "
            "one, or make room."
        ) from error
    return made


def _facts(report: dict[str, Any]) -> list[str]:
    widths, data = report["widths"], report["dataset"]
    facts = [
        "",
        f"- {report['items']:,} items, embeddings of width {report['embedding_width']}, levels of {widths} codes",
        f"- {report['collisions']:,} items whose path another one has; at most {report['largest_leaf']:,} items under "
        f"one prefix of {len(widths) - 1} codes",
    ]
    if report["nearest_codes"]:
        moved, shared = report["nearest_codes"]["paths_moved"], report["nearest_codes"]["collisions"][-1]
        facts.append(
            f"- by nearest codes alone {100 * shared / report['items']:.1f} % of items would share the path of an "
            f"earlier one; {100 * moved:.1f} % have another path than the nearest codes"
        )
    if report["embedding_error"] is not None:
        facts.append(f"- error in the space of the embeddings, after decoding: {report['embedding_error']:.4f}")
    if report["seconds"]:
        facts.append("- seconds: " + ", ".join(f"{name} {took:.1f}" for name, took in report["seconds"].items()))
    if data:
        facts.append(
            f"- data set {data['name']}: {data['catalogue_items']:,} items in the catalogue, "
            f"{data['items_without_codes']:,} of them without codes; {data['codes_outside_catalogue']:,} items with "
            "codes are not in it"
        )
    return facts


def _aligned(columns: dict[str, list[str]]) -> list[str]:
    wide = [max(map(len, (name, *cells))) for name, cells in columns.items()]
    rows = [tuple(columns), *zip(*columns.values(), strict=True)]
    lines = ["| " + " | ".join(c.rjust(w) for c, w in zip(row, wide, strict=True)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (w + 1) + ":" for w in wide) + "|", *lines[1:]]


def _nearest_codes(paths: CodePaths, points: Floats) -> dict[str, Any]:
    nearest = quality.nearest_paths(paths, points)
    return {
        "collisions": [len(nearest) - prefixes for prefixes in quality.prefix_counts(nearest)],
        "codes_moved": list(quality.codes_moved(paths, points)),
        "paths_moved": float((nearest != paths.codes).any(axis=1).mean()),
    }


def _embedding_error(ids: SemanticIds) -> float:
    """The last reconstruction error where every item is a code of its own that stands for what its codes decode to."""
    own = CodePaths(codes=np.arange(len(ids.item_ids), dtype=np.int32)[:, None], codebooks=ids.reconstruct()[None])
    return quality.reconstruction_errors(own, ids.embeddings)[-1]


def _code_counts(codes: NDArray[np.integer], width: int) -> list[int]:
    """How many items each code has, most first, with zeros for codes that none has."""
    return sorted(np.bincount(codes, minlength=width).tolist(), reverse=True)


def _prefix_sizes(codes: NDArray[np.integer]) -> list[list[list[int]]]:
    """Per depth 0 .. L, how many prefixes have how many items: [items, prefixes] by size."""
    sizes = []
    for depth in range(codes.shape[1] + 1):
        items = np.unique(codes[:, :depth], axis=0, return_counts=True)[1] if depth else np.array([len(codes)])
        sizes.append(np.stack(np.unique(items, return_counts=True), axis=1).tolist())
    return sizes
