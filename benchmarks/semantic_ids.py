"""The same generator trained on semantic IDs of every method: what they cost, and how well it recommends with them.

`python -m benchmarks.semantic_ids --data completejourney --data data/beauty --work runs`. A row is one data set, one
method and one seed, of codes, weights and batches alike (FAMAE alone is trained once, with seed 0). A row that is there
is not run again, and an unfinished training goes on where it was saved. What is compared is the retriever alone (Steps
1 and 2): Step 3 ranks candidates that semantic IDs have found, and would hide some of the difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.environment import place
from oneranker import weights
from oneranker.config import OneRankerConfig, preset
from oneranker.data.dataset import Dataset, catalogue_items
from oneranker.data.metrics import first_requests
from oneranker.data.prepare import load_dataset
from oneranker.data.schema import SCHEMA_FILE
from oneranker.evaluate import SPLITS, chosen_users, metric_row
from oneranker.rankings import model_rankings
from oneranker.semantic_ids.famae import FamaeSettings
from oneranker.semantic_ids.famae_metrics import Evaluation
from oneranker.semantic_ids.from_dataset import fit_from_dataset
from oneranker.semantic_ids.gaoq import Indexing
from oneranker.semantic_ids.quality import prefix_counts, reconstruction_errors
from oneranker.semantic_ids.semantic_ids import NOTES_FILE, SemanticIds, fit
from oneranker.semantic_ids.settings import IdSettings, Method
from oneranker.train import folder_sha256, train
from oneranker.training.batches import BatchSettings
from oneranker.training.fit import FitSettings
from oneranker.training.preparation import read_prepared

logger = logging.getLogger(__name__)
RESULTS = Path(__file__).resolve().parent / "results" / "semantic-ids.jsonl"
PARTS, METRICS = ("new_items", "all_items"), ("hr@10", "ndcg@10")
CHOICES = ("method", "codes", "anchors", "seed")  # what rows differ in that share data, budget and FAMAE
BASELINE = {"method": Method.RQ_KMEANS.value, "codes": None, "anchors": IdSettings().anchors.value}
PACKAGES = ("oneranker", "torch", "numpy", "scikit-learn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row: everything that decides its numbers, besides the code."""

    data: str
    method: str
    codes: int | None  # of each level of rq-kmeans and rq-kmeans-plus, instead of the model's
    anchors: str  # of gaoq and resid
    seed: int
    until: str  # last split that is learned from; the test split is measured
    users: int | None  # of the test split, evenly spread; None: all
    preset: str
    history: int  # S at most
    windows: int  # histories in a batch
    steps: int
    parts: list[str]  # new_items: what the user had before is left out; all_items
    famae: dict[str, int]  # width, steps and history of FAMAE; read by resid alone


def run(case: Case, work: Path, root: Path) -> dict[str, Any]:
    """Build the codes, train, measure; what lies finished in `work` for the very same case is used."""
    dataset = load_dataset(case.data, root)
    config = _config(case)
    ids = build_codes(case, work, root)
    work = work / _key(case)
    settings = FitSettings(steps=case.steps, joint_steps=0, seed=case.seed, batch=BatchSettings(windows=case.windows))
    checkpoint = work / "checkpoints" / _name(case)
    record = train(
        case.data, checkpoint, config, settings,
        root=root, until=case.until, households=None, semantic_ids=work / "ids" / _name(case),
    )  # fmt: skip
    return {
        **asdict(case),
        "widths": list(ids.widths),
        "prefixes": list(prefix_counts(ids.codes)),
        "embedding_width": ids.embeddings.shape[1],
        "relative_error": [round(error, 4) for error in reconstruction_errors(ids.paths, ids.points)],
        "seconds": {key: round(value, 1) for key, value in ids.seconds.items()}
        | {"training": round(record["report"]["seconds"], 1)},
        "famae_metrics": None if ids.famae is None else asdict(_kept(ids.famae.evaluations)),
        **_measured(checkpoint, dataset, case),
    }


def _key(case: Case) -> str:
    """Names what all methods and seeds share: their choices, and the content of the data."""
    shared = {key: value for key, value in asdict(case).items() if key not in CHOICES}
    text = json.dumps([shared, folder_sha256(Path(case.data), SCHEMA_FILE)], sort_keys=True)
    return f"{Path(case.data).name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _kept(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The evaluation of the weights that FAMAE kept: the best one, the first of equals."""
    return max(evaluations, key=lambda each: each.score())


def _name(case: Case) -> str:
    """Of one row's folders among those of `_key`."""
    return f"{case.method}-{case.codes or 'model'}-{case.anchors}-{case.seed}"


def _config(case: Case) -> OneRankerConfig:
    return replace(preset(case.preset), max_history=case.history)


def build_codes(case: Case, work: Path, root: Path) -> SemanticIds:
    """Codes of all items, and the seconds that they took when they were built."""
    config, folders = _config(case), work / _key(case) / "ids"
    learned = replace(case, method=Method.RESID.value, codes=None, anchors=Indexing.ORTHOGONAL.value, seed=0)
    folder, first = folders / _name(case), folders / _name(learned)
    if (folder / NOTES_FILE).exists():
        return SemanticIds.load(folder)
    wanted = IdSettings(
        method=Method(case.method), levels=config.code_levels, codes=case.codes or config.codes,
        anchors=Indexing(case.anchors), seed=case.seed,
    )  # fmt: skip
    if case.method == Method.RESID.value and (first / NOTES_FILE).exists():
        known = SemanticIds.load(first)  # FAMAE is trained once for all seeds
        took = known.seconds["embedding"]
        ids = fit(known.embeddings, wanted, item_ids=known.item_ids, famae=known.famae, seconds=took)
    else:
        famae = FamaeSettings(
            width=case.famae["width"], max_steps=case.famae["steps"], history=case.famae["history"], seed=0
        )
        dataset = load_dataset(case.data, root)
        ids = fit_from_dataset(dataset, catalogue_items(dataset), wanted, width=config.width, famae=famae)
    ids.save(folder)
    return ids


def _measured(checkpoint: Path, dataset: Dataset, case: Case) -> dict[str, Any]:
    model = weights.load(checkpoint)
    prepared = read_prepared(dataset, model.config, checkpoint)
    requests = first_requests(prepared.streams, SPLITS["test"], chosen_users(prepared, case.users))
    out: dict[str, Any] = {"requests": len(requests.request)}
    for part in case.parts:
        new_only = part == "new_items"
        found = model_rankings(model, prepared.catalogue, prepared.streams, requests, new_only=new_only)
        row = metric_row("retriever", list(found["candidate_logp"]), requests, new_only)
        out[part] = {key: round(row[key], 5) for key in row if key.startswith(("hr@", "ndcg@"))}
    return out


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a line per data set, method and budget: means over seeds, and half the distance of the extremes.

    "against" is the difference in HR@10 of new items to RQ-KMeans with the same seed: mean, lowest and highest.
    """
    titles = ["data", "steps", "method", "codes of the levels", "seeds", "new items HR@10", "NDCG@10", "against"]
    titles += ["all items HR@10", "NDCG@10", "embedding, s", "codes, s"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for mine in _groups(rows):
        first = mine[0]
        peers = {row["seed"]: row for row in rows if _alike(row) == _alike(first | BASELINE)}
        cells = [_spread([row[part][metric] for row in mine if part in row]) for part in PARTS for metric in METRICS]
        cells.insert(len(METRICS), _against([row for row in mine if row["seed"] in peers], peers))
        took = [f"{np.mean([row['seconds'][part] for row in mine]):.0f}" for part in ("embedding", "quantisation")]
        widths = " × ".join(map(str, first["widths"]))
        method = first["method"] + ("" if first["anchors"] == BASELINE["anchors"] else f", {first['anchors']} anchors")
        words = [Path(first["data"]).name, str(first["steps"]), method, widths, str(len(mine))]
        lines.append("| " + " | ".join([*words, *cells, *took]) + " |")
    return "\n".join(lines)


def _alike(row: dict[str, Any]) -> str:
    """What rows of one line of the table share: all of Case but the seed."""
    return json.dumps({each.name: row[each.name] for each in fields(Case) if each.name != "seed"}, sort_keys=True)


def _groups(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    lines: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault(_alike(row), {})[row["seed"]] = row  # of one seed run twice, the last
    return [list(seeds.values()) for seeds in lines.values()]


def _against(mine: Sequence[dict[str, Any]], peers: dict[int, dict[str, Any]]) -> str:
    part, metric = PARTS[0], METRICS[0]
    gains = [row[part][metric] - peers[row["seed"]][part][metric] for row in mine if part in row]
    if not gains or all(mine[0][key] == value for key, value in BASELINE.items()):
        return ""
    return f"{np.mean(gains):+.4f} ({min(gains):+.4f} to {max(gains):+.4f})"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{np.mean(values):.4f} ± {(max(values) - min(values)) / 2:.4f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, a JSON line per row into the file of results, the table of the whole file on stdout."""
    words = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    torch.set_num_threads(words.threads)
    threadpool_limits(words.threads)  # of BLAS and of scikit-learn
    rows = _read(words.out)
    command = sys.argv[1:] if argv is None else argv
    for case in _cases(words):
        if any({key: row[key] for key in asdict(case)} == asdict(case) for row in rows):
            continue
        if words.codes_only:
            build_codes(case, words.work, words.data_root)
            continue
        where = place("benchmarks.semantic_ids", command, words.threads, PACKAGES)
        rows.append(where | run(case, words.work, words.data_root))
        words.out.parent.mkdir(parents=True, exist_ok=True)
        with words.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    sys.stdout.write(table(rows) + "\n")
    return 0


def _cases(words: argparse.Namespace) -> Iterator[Case]:
    famae = {"width": words.famae_width, "steps": words.famae_steps, "history": words.famae_history}
    methods = words.method or [each.value for each in Method]
    for seed, data, method in product(range(words.seeds), words.data, methods):
        yield Case(
            data=data, method=method, codes=words.codes, anchors=words.anchors, seed=seed, until=words.until,
            users=words.users, preset=words.preset, history=words.history, windows=words.windows, steps=words.steps,
            parts=words.part or list(PARTS), famae=famae,
        )  # fmt: skip


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _parser() -> argparse.ArgumentParser:
    famae = FamaeSettings()
    parser = argparse.ArgumentParser(
        "python -m benchmarks.semantic_ids", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", action="append", required=True, help="data set or folder; repeat")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="where known data sets are prepared")
    parser.add_argument(
        "--method", action="append", choices=[each.value for each in Method], help="default: all; repeat"
    )
    parser.add_argument("--codes", type=int, help="of each level of rq-kmeans, rq-kmeans-plus (default: the model's)")
    parser.add_argument("--anchors", choices=[each.value for each in Indexing], default=IdSettings().anchors.value)
    parser.add_argument("--codes-only", action="store_true", help="build codes, so that nothing else runs meanwhile")
    parser.add_argument("--seeds", type=int, default=3, help="0, 1, ...")
    parser.add_argument("--until", choices=("train", "valid"), default="valid", help="last split to learn from")
    parser.add_argument("--users", type=int, help="of the test split, evenly spread (default: all)")
    parser.add_argument("--preset", default="demo", help="architecture")
    parser.add_argument("--history", type=int, default=256, help="tokens of history at most")
    parser.add_argument("--windows", type=int, default=16, help="histories in a batch")
    parser.add_argument("--part", action="append", choices=PARTS, help="what is measured; repeat; none: both")
    parser.add_argument("--steps", type=int, default=400, help="optimisation steps")
    parser.add_argument("--famae-width", type=int, default=famae.width, help="of each field")
    parser.add_argument("--famae-steps", type=int, default=famae.max_steps, help="most batches")
    parser.add_argument("--famae-history", type=int, default=famae.history, help="items before the target")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, BLAS and scikit-learn")
    parser.add_argument("--work", type=Path, required=True, help="folder for codes and checkpoints")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file that rows are added to")
    return parser


if __name__ == "__main__":
    sys.exit(main())
