"""`python -m oneranker.train`: tables in, a checkpoint folder out."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from oneranker import weights
from oneranker.config import PRESETS, OneRankerConfig, RetrieverMode, preset
from oneranker.data.prepare import load_dataset
from oneranker.data.schema import SCHEMA_FILE
from oneranker.errors import CheckpointError, DataError
from oneranker.model import OneRanker
from oneranker.semantic_ids.semantic_ids import NOTES_FILE
from oneranker.semantic_ids.settings import Method
from oneranker.tokens import TokenError
from oneranker.training.batches import BatchSampler
from oneranker.training.fit import RESUME_FILE, FitSettings, fit
from oneranker.training.preparation import IdSource, Prepared, prepare_training
from oneranker.training.step import ItemSide
from oneranker.training.warm_start import warm_start

RUN_FILE, RECORD_FILE = "run.json", "training.json"  # what was asked, before step 1; what came of it, last
SPLITS = ("train", "valid")
DEFAULT = FitSettings()
log = logging.getLogger("oneranker.train")


def train(
    data: str,
    out: Path,
    config: OneRankerConfig,
    settings: FitSettings,
    *,
    root: Path,
    until: str,
    households: int | None,
    semantic_ids: IdSource = Method.RQ_KMEANS,
) -> dict[str, Any]:
    """Prepare, train and save; a finished run is not repeated, an unfinished one goes on.

    Raises: DataError, CheckpointError, TokenError, ValueError: each says where, what was there, what was expected.
    """
    wanted = asked_for(data, config, settings, until, households, semantic_ids)
    if finished := finished_run(out, wanted):
        return finished
    dataset = load_dataset(data, root, households)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / RUN_FILE).exists():  # whatever else lies there was fitted for something else
        for name in (weights.TOKENIZER_FILE, weights.CATALOGUE_FILE, RESUME_FILE):
            (out / name).unlink(missing_ok=True)
    prepared = prepare_training(dataset, config, out, settings.seed, semantic_ids)
    weights.write_text(out / RUN_FILE, json.dumps(wanted, indent=1))
    model = new_model(prepared, settings.seed)
    weights.write_text(out / weights.CONFIG_FILE, prepared.config.to_json())
    items = ItemSide(prepared.catalogue)
    sampler = BatchSampler(
        prepared.streams,
        prepared.config,
        settings.batch,
        items=len(prepared.catalogue.ids),
        until=SPLITS.index(until),
        seed=settings.seed,
    )
    log.info("training on %d requests, %d items", len(sampler.requests), len(prepared.catalogue.ids))
    report = fit(model, sampler, items, settings, out)
    weights.save(model, out)
    record = wanted | {
        "data": data,
        "reused": False,
        "heads": head_targets(prepared, dataset.schema.chain.stages),
        "data_report": asdict(dataset.report),
        "report": asdict(report),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    weights.write_text(out / RECORD_FILE, json.dumps(record, indent=1))
    (out / RESUME_FILE).unlink(missing_ok=True)  # three times the weights, and nothing is left to resume
    return record


def asked_for(
    data: str,
    config: OneRankerConfig,
    settings: FitSettings,
    until: str,
    households: int | None,
    semantic_ids: IdSource,
) -> dict[str, Any]:
    """What decides whether a run is the same one; a folder counts by its content."""
    content = folder_sha256(Path(data), SCHEMA_FILE)
    return {
        "data": data if content is None else "a folder, by its content",
        "data_sha256": content,
        "until": until,
        "households": households,
        "semantic_ids": semantic_ids.value
        if isinstance(semantic_ids, Method)
        else folder_sha256(semantic_ids, NOTES_FILE),
        "settings": asdict(settings),
        "model": json.loads(config.to_json()),
    }


def finished_run(out: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The record of the run in a folder, None while it has not ended.

    Raises: CheckpointError when the folder belongs to another run, or what lies there cannot be read.
    """
    try:
        begun = json.loads((out / RUN_FILE).read_text(encoding="utf-8")) if (out / RUN_FILE).exists() else None
        record = json.loads((out / RECORD_FILE).read_text(encoding="utf-8")) if (out / RECORD_FILE).exists() else None
    except ValueError as error:
        raise CheckpointError(f"{out}: record not readable ({error}), expected JSON; remove the folder") from error
    if begun is None:
        return None
    begun.setdefault("semantic_ids", Method.RQ_KMEANS.value)  # 0.2 had no other
    changed = sorted(key for key, value in wanted.items() if begun.get(key) != json.loads(json.dumps(value)))
    if changed:
        raise CheckpointError(
            f"{out}: holds a run with other {', '.join(changed)}, expected the same; use another --out"
        )
    if record is not None and not (out / weights.WEIGHTS_FILE).exists():
        raise CheckpointError(f"{out}: a finished run without {weights.WEIGHTS_FILE}, expected it; remove the folder")
    if record is not None:
        log.info("%s: this run has ended before; its checkpoint is reused", out)
    return record and record | {"reused": True}


def folder_sha256(folder: Path, marker: str) -> str | None:
    """Hash over the files of a folder, so that changed tables are another run; None where it has no file `marker`."""
    if not (folder / marker).is_file():
        return None
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()


def new_model(prepared: Prepared, seed: int) -> OneRanker:
    """Fresh weights around the catalogue's anchors and centroids."""
    model = weights.initialise(prepared.config, seed)
    model.enhancer.anchors.copy_(torch.from_numpy(prepared.catalogue.anchors))
    warm_start(model, torch.from_numpy(prepared.catalogue.codebooks))
    return model


def head_targets(prepared: Prepared, stages: Sequence[str]) -> list[str]:
    """What each retrieval head is trained to find (E12)."""
    interest = prepared.config.interest_tokens
    named = [f"items {stage} in this request" for stage in stages][:interest] or ["items of this request"]
    later = [f"items of the request {i + 1} later" for i in range(interest - len(named))]
    return [*named, *later, "items of this request, weighted by value"]


def parser() -> argparse.ArgumentParser:
    """The command's words; defaults come from FitSettings."""
    out = argparse.ArgumentParser("python -m oneranker.train", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    out.add_argument("--data", required=True, help="completejourney, ml-100k, or a folder with schema.toml")
    out.add_argument("--data-root", type=Path, default=Path("data"), help="where known data sets are prepared")
    out.add_argument("--households", type=int, help="completejourney only: that many households")
    out.add_argument("--preset", choices=sorted(PRESETS), default="demo", help="architecture")
    out.add_argument("--out", type=Path, required=True, help="checkpoint folder; an unfinished run in it goes on")
    out.add_argument(
        "--retriever", choices=[mode.value for mode in RetrieverMode], default="trie", help="retrieval mode"
    )
    out.add_argument(
        "--semantic-ids", type=id_source, default=Method.RQ_KMEANS.value, metavar="METHOD|FOLDER",
        help=f"{', '.join(method.value for method in Method)}, or a folder of `python -m oneranker.semantic_ids build`",
    )  # fmt: skip
    out.add_argument("--until", choices=SPLITS, default="valid", help="last split to learn from")
    out.add_argument("--steps", type=int, default=DEFAULT.steps, help="optimisation steps")
    out.add_argument("--joint-steps", type=int, help="of these, the last: Step 3 joins (default: 5/16)")
    out.add_argument("--learning-rate", type=float, default=DEFAULT.learning_rate, help="peak of the schedule")
    out.add_argument("--save-every", type=int, default=DEFAULT.save_every, help="steps between saved states")
    out.add_argument("--seed", type=int, default=DEFAULT.seed, help="of weights, batches and dropout")
    return out


def id_source(word: str) -> IdSource:
    """A method by its name, anything else a folder."""
    return Method(word) if word in {method.value for method in Method} else Path(word)


def main(argv: Sequence[str] | None = None) -> int:
    """Words in, one library call, exit code out; stdout is one JSON line."""
    words = parser()
    arguments = words.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    try:
        settings = replace(
            DEFAULT,
            steps=arguments.steps,
            joint_steps=arguments.steps * 5 // 16 if arguments.joint_steps is None else arguments.joint_steps,
            learning_rate=arguments.learning_rate,
            save_every=arguments.save_every,
            seed=arguments.seed,
        )
    except ValueError as error:
        words.error(str(error))
    config = replace(preset(arguments.preset), retriever=RetrieverMode(arguments.retriever))
    try:
        record = train(
            arguments.data, arguments.out, config, settings,
            root=arguments.data_root, until=arguments.until, households=arguments.households,
            semantic_ids=arguments.semantic_ids,
        )  # fmt: skip
    except (DataError, CheckpointError, TokenError) as error:
        log.error("%s", error)
        return 1
    except (OSError, SafetensorError) as error:
        log.error(
            "%s: could not be read or written (%s), expected tables to read and an --out to write with room; "
            "free space, or name other folders. What was saved before is whole.",
            getattr(error, "filename", None) or arguments.out,
            error,
        )
        return 1
    brief = {key: record["report"][key] for key in ("steps", "seconds", "items_per_s", "loss")}
    sys.stdout.write(json.dumps({"checkpoint": str(arguments.out), "reused": record["reused"]} | brief) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
