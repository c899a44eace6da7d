"""One Python backend that answers one JSON command a line, as benchmarks/cpp/turns.cpp does for C++.

`python -m benchmarks.turn_worker runtime-python|pytorch-eager`, started by benchmarks.cpp_vs_python.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.measure import Laps, garbage_collector_off, peak_memory_mib
from benchmarks.row import EAGER
from benchmarks.workload import Job, Workload, in_batches
from runtime import Manifest, Pipeline
from runtime.bundle import open_bundle
from runtime.errors import OneRankerError
from runtime.recommendation import Candidates, Recommendation, best_items
from runtime.requests import SMALLEST_HISTORY, encode_requests

PYTHON = "runtime-python"
Request = Mapping[str, Any]


class Server(Protocol):
    """What answers raw requests."""

    def recommend(self, requests: Sequence[Request], top_k: int) -> list[Recommendation]: ...
    def encode(self, requests: Sequence[Request]) -> Any: ...


class EagerServer:
    """Raw requests to named items in eager PyTorch: the project's tokenizer before it, its best items after it."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        from benchmarks.torch_backend import TorchBackend

        bundle = Path(job["bundle"])
        opened = open_bundle(bundle, engine="onnxruntime", device="cpu", threads=1)
        low, _, self._high = opened.manifest.profile["S"]
        self._tokenizer, self._index = opened.tokenizer, opened.index
        self._workload = Workload(
            Job(
                bundle=str(bundle), checkpoint=job["checkpoint"], batch=job["batch"], iterations=0, warmup=0,
                threads=job["threads"], device="cpu", smallest_history=max(SMALLEST_HISTORY, low),
                largest_history=self._high,
            ),
            [[]],
            [[]],
        )  # fmt: skip
        self._backend = TorchBackend(self._workload)

    def encode(self, requests: Sequence[Request]) -> Any:
        return encode_requests(requests, self._tokenizer, self._index, self._high)

    def recommend(self, requests: Sequence[Request], top_k: int) -> list[Recommendation]:
        encoded = self._workload.encoded[0] = self.encode(requests)
        self._backend.chain(0, Laps())
        found = self._backend.outputs()
        candidates = Candidates(*(found[f"candidate_{part}"] for part in ("items", "logp", "head", "count")))
        return [
            Recommendation(
                items=best_items(self._index, candidates, found["scores"], position, top_k),
                unknown_items=one.tokens.unknown_items,
                dropped=one.tokens.dropped,
                index_version=self._index.version,
            )
            for position, one in enumerate(encoded)
        ]


class Turns:
    """Batches of requests, raw and as text, and what answers them."""

    def __init__(self, name: str, job: Mapping[str, Any]) -> None:
        self._job = job
        self._top_k: int = job["top_k"]
        texts = [line for line in Path(job["requests"]).read_text(encoding="utf-8").splitlines() if line]
        self.raw = in_batches([json.loads(text) for text in texts], job["batch"])
        wrapped = [{"text": text} for text in texts]
        self._texts = [[one["text"] for one in batch] for batch in in_batches(wrapped, job["batch"])]
        self._server: Server = EagerServer(job) if name == EAGER else self._pipeline()
        self._pipelines: list[Pipeline] = []  # of the closed loop
        self._next: dict[str, int] = {}  # each kind of work goes through the requests on its own
        self._samples("recommend", len(self.raw))  # every shape once
        self._next.clear()

    def do(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one command."""
        if command["work"] == "answers":
            answers = [one for batch in self.raw for one in self._server.recommend(batch, self._top_k)]
            return {"answers": [[[item.id, item.score] for item in one.items] for one in answers]}
        if command["work"] == "workers":
            return self._workers(command["seconds"])
        if command["work"] == "peak":
            return {"peak_memory_mib": peak_memory_mib()}
        with garbage_collector_off():
            return {"samples_ms": self._samples(command["work"], command["iterations"])}

    def _pipeline(self) -> Pipeline:
        job = self._job
        return Pipeline.load(job["bundle"], engine="onnxruntime", device="cpu", threads=job["threads"])

    def _samples(self, work: str, iterations: int) -> list[float]:
        does: dict[str, Callable[[int], Any]] = {
            "recommend": lambda i: self._server.recommend(self.raw[i], self._top_k),
            "tokens": lambda i: self._server.encode(self.raw[i]),
            "json": lambda i: self._server.recommend([json.loads(text) for text in self._texts[i]], self._top_k),
        }
        samples = []
        for _ in range(iterations):
            at = self._next.get(work, 0)
            self._next[work] = (at + 1) % len(self.raw)
            begin = time.perf_counter()
            does[work](at)
            samples.append((time.perf_counter() - begin) * 1e3)
        return samples

    def _workers(self, seconds: float) -> dict[str, Any]:
        """Threads with a pipeline each, in a closed loop."""
        pipelines = self._pipelines
        while len(pipelines) < self._job["workers"]:
            pipelines.append(self._pipeline())
            for batch in self.raw:
                pipelines[-1].recommend(batch, self._top_k)
        done = [0] * len(pipelines)
        begin = time.perf_counter()

        def serve(worker: int) -> None:
            at = worker
            while time.perf_counter() - begin < seconds:
                pipelines[worker].recommend(self.raw[at % len(self.raw)], self._top_k)
                done[worker] += self._job["batch"]
                at += 1

        threads = [threading.Thread(target=serve, args=(worker,)) for worker in range(len(pipelines))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"requests": sum(done), "seconds": time.perf_counter() - begin}


def main(argv: list[str]) -> int:
    """Read the job, then commands, until the input ends."""
    try:
        job = json.loads(sys.stdin.readline())
        Manifest.read(job["bundle"])
        turns = Turns(argv[0], job)
        sys.stdout.write(json.dumps({"ready": sum(map(len, turns.raw))}) + "\n")
        sys.stdout.flush()
        for line in sys.stdin:
            sys.stdout.write(json.dumps(turns.do(json.loads(line))) + "\n")
            sys.stdout.flush()
    except OneRankerError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
