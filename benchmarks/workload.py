"""One case's work on disk: the same raw requests and the same tokens for every backend's process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors.numpy import load_file, save_file

from oneranker.tokens import Tokens
from runtime.item_tables import ItemFilter
from runtime.manifest import Manifest
from runtime.requests import EncodedRequest, bucket

JOB_FILE, REQUESTS_FILE, TOKENS_FILE = "job.json", "requests.json", "tokens.safetensors"
TOKEN_ARRAYS = ("token_fields", "token_kind", "token_time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one backend's process is told, besides the requests."""

    bundle: str
    checkpoint: str | None
    batch: int
    iterations: int
    warmup: int
    threads: int
    device: str  # "cpu" or "cuda:N"
    smallest_history: int  # S is padded as the runtime pads it: to powers of two from here on
    largest_history: int
    folder: str = ""  # of this job: what one round compiles, the next one finds here
    kernels: str | None = None  # library of kernels for the CPU
    duration: float = 0.0  # seconds of timing at least
    utilisation: float = 0.0  # open loop: share of the closed loop's rate at which requests arrive; 0 for none


@dataclass(frozen=True, slots=True)
class Workload:
    """A job with its requests in batches of B, raw and as tokens; position i of both is the same request."""

    job: Job
    raw: list[list[dict[str, Any]]]
    encoded: list[list[EncodedRequest]]

    def padded(self, position: int) -> int:
        """S of a batch: what the runtime pads its histories to."""
        longest = max(len(request.tokens.token_kind) for request in self.encoded[position])
        return bucket(longest, self.job.smallest_history, self.job.largest_history)

    @property
    def precision(self) -> str:
        """Of the bundle."""
        return Manifest.read(self.job.bundle).precision

    def write(self, folder: Path) -> None:
        job = replace(self.job, folder=str(folder))
        (folder / JOB_FILE).write_text(json.dumps(asdict(job)), encoding="utf-8")
        (folder / REQUESTS_FILE).write_text(json.dumps(self.raw), encoding="utf-8")
        save_file(dict(_arrays(self.encoded)), folder / TOKENS_FILE)

    @classmethod
    def read(cls, folder: Path) -> Self:
        job = Job(**json.loads((folder / JOB_FILE).read_text(encoding="utf-8")))
        raw = json.loads((folder / REQUESTS_FILE).read_text(encoding="utf-8"))
        arrays = load_file(folder / TOKENS_FILE)
        encoded = [[_request(arrays, f"{i}.{j}") for j in range(len(batch))] for i, batch in enumerate(raw)]
        return cls(job, raw, encoded)


def in_batches(requests: Sequence[dict[str, Any]], batch: int) -> list[list[dict[str, Any]]]:
    """Full batches only: the last one is filled up from the start."""
    rounded = -(-len(requests) // batch) * batch
    whole = [requests[i % len(requests)] for i in range(rounded)]
    return [whole[begin : begin + batch] for begin in range(0, rounded, batch)]


def _arrays(encoded: Sequence[Sequence[EncodedRequest]]) -> list[tuple[str, np.ndarray[Any, Any]]]:
    """Every array of every request, named <batch>.<request>.<array>."""
    named = []
    for i, batch in enumerate(encoded):
        for j, request in enumerate(batch):
            parts = {name: getattr(request.tokens, name) for name in TOKEN_ARRAYS}
            parts |= {"only": request.item_filter.only, "without": request.item_filter.without}
            named += [
                (f"{i}.{j}.{name}", np.ascontiguousarray(part)) for name, part in parts.items() if part is not None
            ]
    return named


def _request(arrays: dict[str, np.ndarray[Any, Any]], name: str) -> EncodedRequest:
    fields, kind, time = (arrays[f"{name}.{part}"] for part in TOKEN_ARRAYS)
    item_filter = ItemFilter(arrays.get(f"{name}.only"), arrays.get(f"{name}.without"))
    return EncodedRequest(Tokens(fields, kind, time, 0, 0), item_filter, 0)
