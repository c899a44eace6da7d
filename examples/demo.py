"""`make demo`: real purchases to a trained, exported, verified and timed recommender, one command at a time.

Every step is a command you could type yourself; it is printed before it runs. What an earlier run left is reused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.table import table
from oneranker import evaluate, weights
from oneranker.data.prepare import load_dataset
from oneranker.data.requests import request_json

DATA = "completejourney"
log = logging.getLogger("demo")


def command(*words: str) -> str:
    """Run one of the project's commands; its progress goes to stderr, its stdout comes back.

    Raises: SystemExit with the command's own exit code when it fails.
    """
    line = f"python -m {' '.join(words)}"
    log.info("\n$ %s", line)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        log.error("demo: `%s` ended with exit code %d; its message stands above", line, done.returncode)
        raise SystemExit(done.returncode)
    log.info("  done in %.1f s", time.perf_counter() - start)
    return done.stdout


def kept(path: Path, key: str, *words: str) -> dict[str, Any]:
    """A command's JSON answer, kept in `path` and used again while `key` (what it depends on) stays the same."""
    key = hashlib.sha256(" ".join((key, *words)).encode()).hexdigest()
    if path.exists():
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if before["key"] == key:
            log.info("\n$ python -m %s\n  reused: %s", " ".join(words), path)
            return dict(before["answer"])
    answer = json.loads(command(*words).strip().splitlines()[-1])
    weights.write_text(path, json.dumps({"key": key, "command": " ".join(words), "answer": answer}))
    return dict(answer)


def file_key(*paths: Path) -> str:
    """A hash over files."""
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest()


def household_requests(root: Path, wanted: int) -> list[dict[str, Any]]:
    """Raw requests of real households at their first visit of the test weeks: known attributes, a middling history."""
    dataset = load_dataset(DATA, root)
    events, tables = dataset.tables.events, dataset.tables
    until = dataset.schema.split.valid_until
    known = tables.user_columns["age"]
    requests: list[dict[str, Any]] = []
    for row, user in enumerate(tables.user_ids):
        groups = events.group_time[events.group_user == row]
        if 20 <= len(groups) <= 60 and groups[-1] >= until and isinstance(known[row], str):
            requests.append(request_json(dataset, user, until))
        if len(requests) == wanted:
            break
    return requests


def show_recommendations(bundle: Path, requests: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the raw requests and let the runtime's own command answer them."""
    path.write_text("".join(json.dumps(request) + "\n" for request in requests), encoding="utf-8")
    sys.stdout.write(command("runtime.recommend", "--bundle", str(bundle), "--requests", str(path), "--top-k", "10"))
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate, export, recommend, time."""
    parser = argparse.ArgumentParser("python -m examples.demo")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything the demo makes")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    root, checkpoint, bundle = out / "data", out / "checkpoint", out / "bundle"
    start = time.perf_counter()

    words = ("--data", DATA, "--data-root", str(root), "--preset", "demo", "--out", str(checkpoint))
    train = json.loads(command("oneranker.train", *words))
    log.info("  checkpoint %s%s", checkpoint, ", reused" if train["reused"] else "")
    trained = file_key(checkpoint / weights.WEIGHTS_FILE, checkpoint / weights.CATALOGUE_FILE)
    quality = kept(
        out / "quality.json", trained,
        "oneranker.evaluate", "--checkpoint", str(checkpoint), "--data-root", str(root), "--json",
    )  # fmt: skip
    words = ("--checkpoint", str(checkpoint), "--engine", "none", "--out", str(bundle))
    build = json.loads(command("export.build", "--stage", "all", *words))
    reused = [name for name, stage in build["stages"].items() if stage["reused"]]
    log.info("  bundle %s, stages reused: %s", bundle, ", ".join(reused) or "none")
    show_recommendations(bundle, household_requests(root, 3), out / "requests.jsonl")
    sys.stdout.write("\nQuality, test weeks 49-53, one request per household, history before it\n\n")
    sys.stdout.write(evaluate.table(quality))
    latency = kept(
        out / "latency.json", file_key(bundle / "manifest.json"),
        "benchmarks.latency", "--bundle", str(bundle), "--checkpoint", str(checkpoint),
        "--requests", str(out / "requests.jsonl"),
    )  # fmt: skip
    sys.stdout.write("Latency\n\n" + table(latency))
    log.info("demo: %.0f s in all; everything lies in %s/", time.perf_counter() - start, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
