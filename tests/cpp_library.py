"""The C++ runtime through its C ABI, in this very process: what Python's runtime is compared with."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from runtime.errors import BundleError, DeviceError, FeedError, OneRankerError, RequestError, UsageError

ROOT = Path(__file__).resolve().parents[1]
BUILD = Path(os.environ.get("ONERANKER_CPP_BUILD", ROOT / "build/cpp/release"))
KERNELS_FILE = BUILD / "liboneranker_kernels.so"
ERRORS = {1: OneRankerError, 2: UsageError, 3: BundleError, 5: DeviceError, 6: FeedError}  # 7 has a position


class Failure(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int32), ("position", ctypes.c_int64), ("message", ctypes.c_char * 1024)]


class Options(ctypes.Structure):
    _fields_ = [
        ("engine", ctypes.c_char_p),
        ("device", ctypes.c_char_p),
        ("items", ctypes.c_char_p),
        ("threads", ctypes.c_int32),
        ("kernels", ctypes.c_char_p),
    ]


class Limits(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("max_batch", "max_history", "max_candidates", "fields")]


class Item(ctypes.Structure):
    _fields_ = [
        ("id", ctypes.c_void_p),
        ("id_size", ctypes.c_size_t),
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_size_t),
        ("score", ctypes.c_float),
        ("logp", ctypes.c_float),
        ("head", ctypes.c_int32),
        ("row", ctypes.c_int32),
    ]


class Summary(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_int32),
        ("unknown_items", ctypes.c_int64),
        ("dropped", ctypes.c_int64),
        ("unknown_filter_ids", ctypes.c_int64),
        ("index_version", ctypes.c_char * 65),
    ]


@dataclass(frozen=True)
class Answer:
    """As runtime.recommendation.Recommendation, items as tuples of its fields."""

    items: list[tuple[str, str, float, float, int, int]]
    unknown_items: int
    dropped: int
    unknown_filter_ids: int
    index_version: str


def library() -> ctypes.CDLL:
    """The library that `make cpp` built; tests that ask for it are marked `cpp`."""
    return ctypes.CDLL(str(BUILD / "liboneranker.so"))


class CppPipeline:
    """A model with one pipeline; raises the Python runtime's own errors, so that one test can hold for both."""

    def __init__(self, bundle: Path, threads: int = 1, items: Path | None = None, **words: str) -> None:
        self._library = library()
        self._model, self._pipeline = ctypes.c_void_p(), ctypes.c_void_p()
        options = Options(
            engine=words["engine"].encode() if "engine" in words else None,
            device=words["device"].encode() if "device" in words else None,
            items=str(items).encode() if items else None,
            threads=threads,
        )
        self._call("model_load", str(bundle).encode(), ctypes.byref(options), ctypes.byref(self._model))
        self._call("pipeline_create", self._model, ctypes.byref(self._pipeline))
        self.limits = Limits()
        self._call("model_limits", self._model, ctypes.byref(self.limits))

    @classmethod
    def load(cls, bundle: Path, **words: Any) -> Self:
        """As Pipeline.load."""
        return cls(bundle, **words)

    @property
    def index_version(self) -> str:
        version = ctypes.create_string_buffer(65)
        self._call("model_index_version", self._model, version)
        return version.value.decode()

    def swap_items(self, folder: Path) -> None:
        self._call("model_swap_items", self._model, str(folder).encode())

    def recommend(self, requests: Sequence[Mapping[str, Any]], top_k: int = 10) -> list[Answer]:
        """As Pipeline.recommend, each request sent as JSON text."""
        handles = [self._request(request) for request in requests]
        try:
            count = len(handles)
            summaries = (Summary * max(count, 1))()
            items = (Item * max(count * top_k, 1))()
            pointers = (ctypes.c_void_p * max(count, 1))(*handles)
            self._call(
                "recommend", self._pipeline, pointers, ctypes.c_size_t(count), ctypes.c_int32(top_k), summaries, items
            )
            return [self._answer(summaries[i], items[i * top_k : (i + 1) * top_k]) for i in range(count)]
        finally:
            for handle in handles:
                self._library.oneranker_request_close(handle)

    def encode(self, request: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
        """token_fields [s, F], token_kind [s], token_time [s], unknown items, dropped tokens."""
        S, F = self.limits.max_history, self.limits.fields
        fields, kind, time = np.empty((S, F), np.int32), np.empty(S, np.int32), np.empty(S, np.int64)
        length, summary = ctypes.c_int64(), Summary()
        handle = self._request(request)
        try:
            arrays = [array.ctypes.data_as(ctypes.c_void_p) for array in (fields, kind, time)]
            self._call("encode", self._pipeline, handle, *arrays, ctypes.byref(length), ctypes.byref(summary))
        finally:
            self._library.oneranker_request_close(handle)
        s = length.value
        return fields[:s], kind[:s], time[:s], summary.unknown_items, summary.dropped

    def rank(self, request: Mapping[str, Any], ids: Sequence[str]) -> np.ndarray:
        """Scores of one request's own candidates."""
        handle = self._request(request)
        scores = np.empty(max(len(ids), 1), np.float32)
        texts = (ctypes.c_char_p * max(len(ids), 1))(*[item.encode() for item in ids])
        try:
            self._call(
                "rank", self._pipeline, handle, texts, ctypes.c_size_t(len(ids)),
                scores.ctypes.data_as(ctypes.c_void_p),
            )  # fmt: skip
        finally:
            self._library.oneranker_request_close(handle)
        return scores[: len(ids)]

    def close(self) -> None:
        self._library.oneranker_pipeline_close(self._pipeline)
        self._library.oneranker_model_close(self._model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, request: Mapping[str, Any]) -> ctypes.c_void_p:
        text = json.dumps(request).encode()
        handle = ctypes.c_void_p()
        self._call("request_from_json", text, ctypes.c_size_t(len(text)), ctypes.byref(handle))
        return handle

    def _call(self, name: str, *arguments: object) -> None:
        failure = Failure()
        status = getattr(self._library, f"oneranker_{name}")(*arguments, ctypes.byref(failure))
        assert status == failure.status or status == 0
        if status == 7:
            message = failure.message.decode()
            raise RequestError(failure.position, message.removeprefix(f"request {failure.position}: "))
        if status:
            raise ERRORS[status](failure.message.decode())

    @staticmethod
    def _answer(summary: Summary, items: Sequence[Item]) -> Answer:
        def text(address: int, size: int) -> str:
            return ctypes.string_at(address, size).decode() if size else ""

        return Answer(
            [
                (text(i.id, i.id_size), text(i.name, i.name_size), i.score, i.logp, i.head, i.row)
                for i in items[: summary.count]
            ],
            summary.unknown_items,
            summary.dropped,
            summary.unknown_filter_ids,
            summary.index_version.decode(),
        )
