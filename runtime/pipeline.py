"""Pipeline: loads a bundle and answers requests by chaining its stages over shared memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from oneranker.tokens import Tokenizer, Tokens
from runtime.buffers import Copies
from runtime.bundle import check_item_fields, open_bundle
from runtime.device import GraphCounts
from runtime.errors import FeedError, UsageError
from runtime.forward import Forward
from runtime.item_tables import ItemFilter, ItemTables, check_same_family
from runtime.items import ItemIndex
from runtime.manifest import Manifest
from runtime.masks import Masks
from runtime.recommendation import Candidates, Recommendation, best_items
from runtime.requests import EncodedRequest, encode_requests
from runtime.serving import Serving
from runtime.stage import Array, Stage
from runtime.timing import Timing
from runtime.turns import Turns

logger = logging.getLogger(__name__)


class Pipeline:
    """One loaded bundle on one device. Not thread-safe; a process may hold several, each on a stream of its own.

    `recommend` answers raw requests. Callers who bring their own candidates call `generate`, `enhance` and `rank`;
    each step works on the batch of the last `generate`, which a `recommend` or `warm_up` makes the pipeline forget.
    Every array that is handed out is a fresh copy, never overwritten later.

    Threads: one call at a time, from whichever thread; a second one meanwhile is a UsageError. `swap_items` alone may
    be called at any time: it prepares in its own thread and takes its turn between two calls.
    """

    def __init__(
        self,
        manifest: Manifest,
        stages: Mapping[str, Stage],
        tokenizer: Tokenizer,
        masks: Masks,
        index: ItemIndex,
        serving: Serving | None = None,
    ) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self._serving = serving or Serving()
        self._memory = self._serving.memory
        self._forward = Forward(manifest, stages, masks, self._memory)
        self._items = self._forward.tables(index)
        self._items.settle()
        self._turns = Turns()
        self._closed = False
        self._told_dropped = False

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        engine: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        items: str | Path | None = None,
        cuda_graphs: bool = True,
        kernels: str | Path | None = None,
    ) -> Self:
        """Open a bundle.

        Args:
            bundle: The folder that `python -m export.build` wrote.
            engine: "onnxruntime", "tensorrt", "tensorrt_rtx", or "auto": the bundle's plans where a device takes them.
            device: "cpu", "cuda", "cuda:1", ..., or "auto": where the engine runs.
            threads: Of ONNX Runtime on the CPU, per stage; None: all cores.
            items: Another item index than the bundle's own.
            cuda_graphs: Whether stages on a device are captured into CUDA graphs.
            kernels: liboneranker_kernels.so, which `make cpp` builds: fused attention for fp32 graphs on the CPU.

        Raises:
            BundleError: If any file is missing, cut short, edited, or does not fit the others.
            DeviceError: If the engine or the device is not here; nothing is replaced silently.
        """
        parts = open_bundle(
            bundle, engine=engine, device=device, threads=threads, items=items, cuda_graphs=cuda_graphs, kernels=kernels
        )
        with ExitStack() as undo:
            undo.callback(parts.serving.memory.close)
            for stage in parts.stages.values():
                undo.callback(stage.close)
            pipeline = cls(parts.manifest, parts.stages, parts.tokenizer, parts.masks, parts.index, parts.serving)
            undo.pop_all()
        return pipeline

    @property
    def engine(self) -> str:
        """The engine that serves: "onnxruntime", "tensorrt" or "tensorrt_rtx"."""
        return self._serving.engine

    @property
    def device(self) -> str:
        """Where it serves: "cpu", or a device with its name, such as "cuda:0 (NVIDIA H200)"."""
        return self._serving.device

    @property
    def index_version(self) -> str:
        return self._items.index.version

    @property
    def max_batch(self) -> int:
        """B of the profile: the most requests that one call takes."""
        return self._forward.max_batch

    @property
    def max_history(self) -> int:
        """S of the profile: the most tokens that a request keeps."""
        return self._forward.max_history

    @property
    def max_candidates(self) -> int:
        """C of the profile: the most candidates that `rank` takes for a request."""
        return self._forward.max_candidates

    @property
    def copies(self) -> Copies:
        """What was copied so far, by tensor name: a snapshot."""
        return self._forward.chain.copies.snapshot()

    @property
    def graphs(self) -> GraphCounts:
        """What became of every run on a device so far, by stage, profile and sizes: a snapshot."""
        return self._forward.chain.graphs

    @property
    def timing(self) -> Timing:
        """Per-stage spans; set its `enabled` to collect them."""
        return self._forward.chain.timing

    def recommend(self, requests: Sequence[Mapping[str, Any]], top_k: int = 10) -> list[Recommendation]:
        """Answer raw requests, one Recommendation each: at most `top_k` items (and at most C), best first.

        Raises:
            RequestError: At the first malformed request, with its position.
            FeedError: If there are more requests than B of the profile, or `top_k` is below 1.
        """
        with self._entered():
            if top_k < 1:
                raise FeedError(f"top_k={top_k}, expected at least 1. Ask for as many items as you show.")
            if not requests:
                return []
            items = self._items
            encoded = self._encode(requests, items)
            with self._forward.own_batch():
                self._forward.generate([request.tokens for request in encoded])
                self._forward.enhance()
                self._forward.retrieve(items, [request.item_filter for request in encoded])
                self._forward.rank(items)
                candidates, scores = self._forward.answers()
            with self.timing.span("answers"):
                return [
                    Recommendation(
                        items=best_items(items.index, candidates, scores, position, top_k),
                        unknown_items=request.tokens.unknown_items,
                        dropped=request.tokens.dropped,
                        index_version=items.index.version,
                        unknown_filter_ids=request.unknown_filter_ids,
                    )
                    for position, request in enumerate(encoded)
                ]

    def warm_up(
        self,
        batch_sizes: Sequence[int] | None = None,
        history_lengths: Sequence[int] | None = None,
        candidate_counts: Sequence[int] = (),
    ) -> None:
        """Run made-up batches before the first request: on a device, until each of these sizes has its CUDA graph.

        Without sizes it runs every number of requests and every padded history; `candidate_counts` are of callers who
        bring their own. What it costs is one run on the CPU, two on a device, for each pair of sizes.

        Raises:
            FeedError: If a size is outside of the profile.
        """
        with self._entered():
            self._forward.warm_up(self._items, batch_sizes, history_lengths, candidate_counts)

    def encode(self, requests: Sequence[Mapping[str, Any]]) -> list[EncodedRequest]:
        """Turn raw requests into tokens for `generate` and filters for `retrieve`.

        Raises:
            RequestError: At the first malformed request, with its position.
        """
        with self._entered():
            return self._encode(requests, self._items)

    def generate(self, batch: Sequence[Tokens]) -> None:
        """Read the histories of a batch: its keys and values then lie in the buffers that the next stages read.

        Raises:
            RequestError: If one of them does not fit the model.
            FeedError: If there are none, or more than B of the profile.
        """
        with self._entered():
            self._forward.generate(batch)

    def enhance(self) -> Array:
        """Run the enhancer on the batch.

        Shapes: -> user_embedding x [B, T, D+A]
        """
        with self._entered():
            self._forward.enhance()
            return self._forward.chain.read("user_embedding")[0]

    def retrieve(self, filters: Sequence[ItemFilter] | None = None) -> Candidates:
        """Find the best C items of the index for each request of the batch."""
        with self._entered():
            self._forward.retrieve(self._items, filters)
            return self._forward.candidates()

    def rank(
        self, candidates: Sequence[Sequence[str | int]] | Array | None = None, features: Array | None = None
    ) -> Array:
        """Score the caller's candidates, ids or rows of the index; without any, those of the last `retrieve`.

        Shapes: candidates [B][1..C], features x [B, C, K] if the model reads them -> float32 [B, C], padding -1e30

        Raises:
            RequestError: If a list is empty, too long, or names an item that the index does not have.
        """
        with self._entered():
            self._forward.rank(self._items, candidates, features)
            return self._forward.scores()

    def read(self, name: str) -> Array:
        """A fresh copy of any tensor that travels between the stages, as it was last written."""
        with self._entered():
            return self._forward.chain.read(name)[0]

    def swap_items(self, folder: str | Path) -> None:
        """Serve another item index of the same code space from the next call on; a call in flight keeps the old one.

        On a device both lie there for a moment, then the old one is freed.

        Raises:
            BundleError: If the folder is damaged or does not fit the model; the old index keeps serving.
            DeviceError: If the device has no room for both; the old index keeps serving.
        """
        self._check_open()
        index = ItemIndex.read(folder)
        check_same_family(index, self._items.index)
        check_item_fields(index, self.tokenizer)
        new = self._forward.tables(index)
        with self._turns.of_swap():
            self._check_open()
            self._memory.activate()
            new.settle()
            old, self._items = self._items, new  # a call sees the old tables or the new, whole
            old.release()

    def close(self) -> None:
        """Free the engines and all memory; any later call but this one is an error."""
        if not self._closed:
            with self._entered(), ExitStack() as last:
                self._closed = True
                last.callback(self._forward.chain.close)
                last.callback(self._items.release)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """Refuse a second thread and a closed pipeline."""
        with self._turns.of_call():
            self._check_open()
            self._memory.activate()
            yield

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("pipeline: used after close(). Load the bundle again.")

    def _encode(self, requests: Sequence[Mapping[str, Any]], items: ItemTables) -> list[EncodedRequest]:
        with self.timing.span("tokens"):
            encoded = encode_requests(requests, self.tokenizer, items.index, self.max_history)
        if not self._told_dropped and (dropped := max((one.tokens.dropped for one in encoded), default=0)):
            self._told_dropped = True
            told = "a history has %d tokens more than S=%d; the oldest are dropped, here and from now on without a word"
            logger.warning(told, dropped, self.max_history)
        return encoded
