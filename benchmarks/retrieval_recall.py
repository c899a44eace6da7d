"""What the beams found in a served index, compared with the exhaustive search over it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from benchmarks.exhaustive_search import CodeTables, best_candidates, recall
from benchmarks.retrieval_serving import ANSWERS
from oneranker import weights
from runtime.item_header import TABLES_FILE, ItemIndexHeader
from runtime.mapped_tables import map_tables

FIRST = 10


def of_served(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """The recall of what was served from the index in `folder`, whose answers lie beside it.

    Returns:
        The fields of a row that are known from it.
    """
    model, config = weights.load(checkpoint), weights.read_config(checkpoint)
    tables = map_tables(folder / TABLES_FILE, ItemIndexHeader.read(folder).version)
    answers = load_file(folder.with_name(ANSWERS))
    begin = time.perf_counter()
    with torch.inference_mode():
        best = best_candidates(
            model.retriever.scorer,
            torch.from_numpy(answers["user_embedding"]),
            config.interest_tokens,
            CodeTables(*(torch.from_numpy(tables[name].copy()) for name in ("codes", "codebooks", "anchors"))),
            config.beams,
            config.candidates,
        )
    seconds = time.perf_counter() - begin
    found = [row[row >= 0].astype(np.int64) for row in answers["candidate_items"]]
    return {
        "users": len(found),
        "recall_at_c": recall(found, best, config.candidates),
        "recall_at_10": recall(found, best, FIRST),
        "recall_s": seconds,
    }
