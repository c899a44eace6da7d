"""`python -m oneranker.evaluate`: how good a checkpoint recommends, beside the simple rules it has to beat."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oneranker import weights
from oneranker.data.floors import FLOORS
from oneranker.data.metrics import EvaluationRequests, evaluate, first_requests
from oneranker.data.prepare import load_dataset
from oneranker.errors import CheckpointError, DataError
from oneranker.rankings import model_rankings
from oneranker.tokens import TokenError
from oneranker.train import RECORD_FILE
from oneranker.train import SPLITS as UNTIL
from oneranker.training.preparation import Prepared, read_prepared

CUTS = (1, 3, 5, 10, 15)
SPLITS = {"valid": 1, "test": 2}
MODEL_ROWS = {"scores": "OneRanker", "candidate_logp": "OneRanker, retriever only (no Step 3)"}
RULE_ROWS = {"popularity": "popularity", "bigram": "bigram (last basket)", "personal": "personal frequency"}
log = logging.getLogger("oneranker.evaluate")


def evaluate_checkpoint(
    checkpoint: Path, data: str | None, split: str, root: Path, users: int | None
) -> dict[str, Any]:
    """Rows of HR@k, NDCG@10, recall@10 and value-recall@10 over the full catalogue, for all items and for new ones.

    The simple rules count what the model has learned from: with --until train, the training part alone.

    Raises: CheckpointError, DataError, TokenError.
    """
    model = weights.load(checkpoint)
    record = read_record(checkpoint)
    if split == "valid" and record["until"] == "valid":
        raise CheckpointError(
            f"{checkpoint}: trained until 'valid', expected a checkpoint that has not seen that split; "
            "evaluate --split test, or train with --until train"
        )
    dataset = load_dataset(data or record["data"], root, record["households"])
    prepared = read_prepared(dataset, model.config, checkpoint)
    if not (prepared.streams.target_item >= 0).any():
        raise CheckpointError(
            f"{checkpoint}: none of the items of {dataset.schema.folder} is in its catalogue, expected the data set it "
            f"was trained on ({record['data']}) or a later state of it; leave --data out"
        )
    requests = first_requests(prepared.streams, SPLITS[split], chosen_users(prepared, users))
    if not len(requests.request):
        raise DataError(f"{record['data']}: 0 requests in split '{split}', expected some; move its split dates")
    unit = dataset.schema.chain.unit
    out: dict[str, Any] = {"checkpoint": str(checkpoint), "data": data or record["data"], "split": split, "unit": unit}
    for new_only, name in ((False, "all_items"), (True, "new_items")):
        rankings: dict[str, Sequence[NDArray[np.int64]]] = {}
        items = len(prepared.catalogue.ids)
        for rule, row in RULE_ROWS.items():
            rankings[row] = FLOORS[rule](
                prepared.streams, requests, items, max(CUTS), new_only=new_only, until=UNTIL.index(record["until"])
            )
        found = model_rankings(model, prepared.catalogue, prepared.streams, requests, new_only=new_only)
        rankings |= {row: list(found[tensor]) for tensor, row in MODEL_ROWS.items()}
        out[name] = [metric_row(row, ranked, requests, new_only) for row, ranked in rankings.items()]
    return out


def chosen_users(prepared: Prepared, users: int | None) -> NDArray[np.int64] | None:
    """Evenly spread users, or None for all."""
    total = len(prepared.streams.user_ids)
    return None if users is None or users >= total else np.linspace(0, total - 1, users).astype(np.int64)


def metric_row(
    name: str, rankings: Sequence[NDArray[np.int64]], requests: EvaluationRequests, new_only: bool
) -> dict[str, Any]:
    """One line of the table."""
    at = {k: evaluate(rankings, requests, k, new_only=new_only) for k in CUTS}
    row: dict[str, Any] = {"model": name, "requests": at[10].requests}
    row |= {f"hr@{k}": round(metrics.hit_rate, 4) for k, metrics in at.items()}
    ten = at[10]
    return row | {
        "ndcg@10": round(ten.ndcg, 4),
        "recall@10": round(ten.recall, 4),
        "value_recall@10": round(ten.value_recall, 4),
    }


def read_record(checkpoint: Path) -> dict[str, Any]:
    """What training wrote about the run.

    Raises: CheckpointError when the run has not ended.
    """
    path = checkpoint / RECORD_FILE
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not readable ({error}), expected the record of a finished run; train to the end"
        ) from error


def table(report: dict[str, Any]) -> str:
    """The report as text for people."""
    columns = [f"hr@{k}" for k in CUTS] + ["ndcg@10", "recall@10", "value_recall@10"]
    titles = ["HR@" + str(k) for k in CUTS] + ["NDCG@10", "recall@10", f"{report['unit'] or 'value'}-recall@10"]
    lines = []
    for part, title in (("all_items", "all items"), ("new_items", "items new to the user")):
        rows = report[part]
        lines.append(f"{title}: {rows[0]['requests']} requests, full catalogue, split {report['split']}")
        lines.append(f"{'':38}" + "".join(f"{text:>10}" if i < 7 else f"{text:>16}" for i, text in enumerate(titles)))
        for row in rows:
            cells = "".join(f"{row[c]:>10.3f}" if i < 7 else f"{row[c]:>16.3f}" for i, c in enumerate(columns))
            lines.append(f"{row['model']:38}" + cells)
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, one library call, exit code out."""
    parser = argparse.ArgumentParser(
        "python -m oneranker.evaluate", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder written by oneranker.train")
    parser.add_argument("--data", help="data set or folder; the checkpoint's own if left out")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="where known data sets are prepared")
    parser.add_argument("--split", choices=sorted(SPLITS), default="test", help="whose requests")
    parser.add_argument("--users", type=int, help="evaluate that many users, evenly spread")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of the table")
    arguments = parser.parse_args(argv)
    if arguments.users is not None and arguments.users < 1:
        parser.error(f"--users is {arguments.users}, expected at least 1")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    try:
        report = evaluate_checkpoint(
            arguments.checkpoint, arguments.data, arguments.split, arguments.data_root, arguments.users
        )
    except (CheckpointError, DataError, TokenError, OSError) as error:
        log.error("%s", error)
        return 1
    sys.stdout.write((json.dumps(report) if arguments.json else table(report)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
