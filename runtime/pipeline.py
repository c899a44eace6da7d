"""Pipeline: loads a bundle and answers requests by chaining its stages over shared memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from oneranker.tokens import Tokenizer, Tokens
from runtime.buffers import Copies
from runtime.bundle import check_item_fields, open_bundle
from runtime.errors import FeedError, UsageError
from runtime.forward import Forward
from runtime.item_tables import ItemFilter, ItemTables, check_same_family
from runtime.items import ItemIndex
from runtime.manifest import Manifest
from runtime.masks import Masks
from runtime.recommendation import Candidates, Recommendation, best_items
from runtime.requests import EncodedRequest, encode_requests
from runtime.stage import Array, Stage
from runtime.timing import Timing

logger = logging.getLogger(__name__)


class Pipeline:
    """One loaded bundle. Not thread-safe: one Pipeline, one thread; a process may hold several.

    `recommend` answers raw requests. Callers who bring their own candidates call `generate`, `enhance` and `rank`;
    each step works on the batch of the last `generate`. `swap_items` may be called from any thread. Every array that is
    handed out is a fresh copy, never overwritten later.
    """

    def __init__(
        self, manifest: Manifest, stages: Mapping[str, Stage], tokenizer: Tokenizer, masks: Masks, index: ItemIndex
    ) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self._forward = Forward(manifest, stages, masks)
        self._items = self._forward.tables(index)
        self._busy = threading.Lock()
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
    ) -> Self:
        """Open a bundle; `items` replaces its item index, `threads` is per stage (None: all cores).

        Raises:
            BundleError: If any file is missing, cut short, edited, or does not fit the others.
            DeviceError: If the engine or the device is not here; nothing is replaced silently.
        """
        parts = open_bundle(bundle, engine=engine, device=device, threads=threads, items=items)
        return cls(parts.manifest, parts.stages, parts.tokenizer, parts.masks, parts.index)

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
            self._forward.generate([request.tokens for request in encoded])
            self._forward.enhance()
            candidates = self._forward.retrieve(items, [request.item_filter for request in encoded])
            scores = self._forward.rank(items)
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
            return self._forward.chain.read("user_embedding")

    def retrieve(self, filters: Sequence[ItemFilter] | None = None) -> Candidates:
        """Find the best C items of the index for each request of the batch."""
        with self._entered():
            return self._forward.retrieve(self._items, filters)

    def rank(
        self, candidates: Sequence[Sequence[str | int]] | Array | None = None, features: Array | None = None
    ) -> Array:
        """Score the caller's candidates, ids or rows of the index; without any, those of the last `retrieve`.

        Shapes: candidates [B][1..C], features x [B, C, K] if the model reads them -> float32 [B, C], padding -1e30

        Raises:
            RequestError: If a list is empty, too long, or names an item that the index does not have.
        """
        with self._entered():
            return self._forward.rank(self._items, candidates, features)

    def read(self, name: str) -> Array:
        """A fresh copy of any tensor that travels between the stages, as it was last written."""
        with self._entered():
            return self._forward.chain.read(name)

    def swap_items(self, folder: str | Path) -> None:
        """Serve another item index of the same code space from the next call on; a call in flight keeps the old one.

        Raises:
            BundleError: If the folder is damaged or does not fit the model; the old index keeps serving.
        """
        if self._closed:
            raise UsageError("pipeline: used after close(). Load the bundle again.")
        index = ItemIndex.read(folder)
        check_same_family(index, self._items.index)
        check_item_fields(index, self.tokenizer)
        self._items = self._forward.tables(index)  # one assignment: a call sees the old tables or the new, whole

    def close(self) -> None:
        """Free the sessions and the buffers; any later call but this one is an error."""
        if not self._closed:
            with self._entered():
                self._closed = True
                self._forward.chain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """Refuse a second thread and a closed pipeline."""
        if not self._busy.acquire(blocking=False):
            raise UsageError(
                f"pipeline: thread {threading.current_thread().name!r} called while another call is running, expected "
                "one thread. Load one Pipeline per thread, or put a lock around this one."
            )
        try:
            if self._closed:
                raise UsageError("pipeline: used after close(). Load the bundle again.")
            yield
        finally:
            self._busy.release()

    def _encode(self, requests: Sequence[Mapping[str, Any]], items: ItemTables) -> list[EncodedRequest]:
        with self.timing.span("tokens"):
            encoded = encode_requests(requests, self.tokenizer, items.index, self.max_history)
        if not self._told_dropped and (dropped := max((one.tokens.dropped for one in encoded), default=0)):
            self._told_dropped = True
            logger.warning(
                "a history has %d tokens more than S=%d; the oldest are dropped, here and from now on without a word",
                dropped,
                self.max_history,
            )
        return encoded
