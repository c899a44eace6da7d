"""One forward pass: the stages in order over one batch, each step checked against what has been run before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from oneranker.tokens import Tokens
from runtime.chain import Chain
from runtime.errors import FeedError, UsageError
from runtime.item_tables import ELIGIBLE, ItemFilter, ItemTables
from runtime.items import ItemIndex
from runtime.manifest import STAGES, Manifest
from runtime.masks import Masks, fill_history_mask
from runtime.memory import Memory
from runtime.recommendation import Candidates
from runtime.requests import (
    SMALLEST_CANDIDATES,
    SMALLEST_HISTORY,
    bucket,
    buckets,
    candidate_rows,
    check_tokens,
    empty_tokens,
    fill_tokens,
)
from runtime.stage import Array, Stage

FEATURES = "candidate_features"
CANDIDATES = ("candidate_items", "candidate_logp", "candidate_head", "candidate_count")  # as in Candidates


class Forward:
    """Owns the chain and knows which batch lies in its buffers; trusts its caller to be one thread."""

    def __init__(self, manifest: Manifest, stages: Mapping[str, Stage], masks: Masks, memory: Memory) -> None:
        self._profile = manifest.profile
        self.max_batch, self.max_history, self.max_candidates = (manifest.profile[letter][2] for letter in "BSC")
        sizes = {**manifest.letters, "B": self.max_batch, "S": self.max_history, "C": self.max_candidates}
        inputs = {spec.name: spec for stage in stages.values() for spec in stage.inputs}
        outputs = {spec.name: spec for stage in stages.values() for spec in stage.outputs}
        self.fields = inputs["token_fields"].sized(sizes)[2]  # F
        self.retrieved = outputs["candidate_items"].sized(sizes | {"C": manifest.letters.get("C", sizes["C"])})[1]  # C
        self._features = inputs.get(FEATURES)
        self.chain = Chain(stages, masks, sizes | {"C": max(sizes["C"], self.retrieved)}, memory)
        self._sizes: dict[str, int] = {}  # B and S of the batch in the buffers
        self._done: set[str] = set()  # stages that have run on it
        self._candidates_of: ItemTables | None = None  # whose rows the retriever left in candidate_items
        self._filtered = False  # whether eligible_row holds anything but zeros
        self._ranked = 0  # how many columns of the scores are not padding

    def tables(self, index: ItemIndex) -> ItemTables:
        """The tensors of an item index as this chain reads them; not settled yet."""
        return ItemTables(index, self.chain.item_specs(), self.max_batch, self.chain.memory)

    def generate(self, batch: Sequence[Tokens]) -> None:
        """Stage tokens and history mask, the only things that travel per request, and run the generator."""
        least = self._profile["B"][0]
        if not least <= len(batch) <= self.max_batch:
            raise FeedError(
                f"generator: batch of {len(batch)} requests, expected {least} .. {self.max_batch}, the profile's B. "
                "Split the batch, or rebuild with a larger B in --max-shapes."
            )
        check_tokens(batch, self.fields, self.max_history)
        lengths = [len(tokens.token_kind) for tokens in batch]
        B, S = len(batch), bucket(max(lengths), max(SMALLEST_HISTORY, self._profile["S"][0]), self.max_history)
        self._candidates_of = None
        self._sizes = {"B": B, "S": S}
        staging = self.chain.staging
        fields = staging("token_fields", (B, S, self.fields))
        fill_tokens(batch, fields, staging("token_kind", (B, S)), staging("token_time", (B, S)))
        fill_history_mask(lengths, staging("history_mask", (B, 1, 1, S)))
        self._run("generator")

    def enhance(self) -> None:
        self._need("enhancer")
        self._run("enhancer")

    def retrieve(self, tables: ItemTables, filters: Sequence[ItemFilter] | None) -> None:
        """Run the retriever under the given filters, None for the index's default everywhere."""
        self._need("retriever")
        B = self._sizes["B"]
        if filters is not None and len(filters) != B:
            raise FeedError(f"retriever: got {len(filters)} filters, expected {B}. Give one for each request.")
        rows = tables.fill_filters(filters) if filters is not None else [0] * B
        if any(rows):
            self.chain.copies.host_to_stage[ELIGIBLE] += 1
        if self._filtered or any(rows):
            self.chain.staging("eligible_row", (self.max_batch,))[:] = np.pad(rows, (0, self.max_batch - B))
        self._filtered = any(rows)
        R = 1 + B if self._filtered else 1  # two sizes, not one for each number of filters
        self._run("retriever", {"C": self.retrieved, "R": R}, tables)
        self._candidates_of = tables

    def rank(
        self,
        tables: ItemTables,
        candidates: Sequence[Sequence[str | int]] | Array | None = None,
        features: Array | None = None,
    ) -> None:
        """Score the caller's candidates, or the retriever's where they lie.

        Shapes: candidates [B][1..C] or None, features x [B, C, K] or None
        """
        self._need("ranker")
        if candidates is None:
            if self._candidates_of is not tables:
                raise UsageError("ranker: there are no candidates of the served index; call retrieve() or pass some.")
            C = padded = self.retrieved
        else:
            rows = candidate_rows(candidates, tables.index, self._sizes["B"], self.max_candidates)
            C = rows.shape[1]
            padded = bucket(C, max(SMALLEST_CANDIDATES, self._profile["C"][0]), self.max_candidates)
            self._candidates_of = None  # its rows are overwritten here
            buffer = self.chain.staging("candidate_items", (self._sizes["B"], padded))
            buffer[:, :C], buffer[:, C:] = rows, -1
        self._stage_features(features, C, padded)
        self._run("ranker", {"C": padded}, tables)
        self._ranked = C

    def candidates(self) -> Candidates:
        """What the retriever has found."""
        return Candidates(*self.chain.read(*CANDIDATES))

    def scores(self) -> Array:
        """What the ranker has said.

        Shapes: -> float32 [B, C]
        """
        (scores,) = self.chain.read("scores")
        return np.ascontiguousarray(scores[:, : self._ranked])

    def answers(self) -> tuple[Candidates, Array]:
        """The retriever's candidates and their scores, with one wait for the device.

        Shapes: -> candidates of C, scores float32 [B, C]
        """
        *candidates, scores = self.chain.read(*CANDIDATES, "scores")
        return Candidates(*candidates), scores

    def warm_up(
        self,
        tables: ItemTables,
        batch_sizes: Sequence[int] | None,
        history_lengths: Sequence[int] | None,
        candidate_counts: Sequence[int],
    ) -> None:
        """Run made-up batches of these sizes, twice on a device: plain, then captured; they are forgotten after."""
        least, smallest = self._profile["B"][0], max(SMALLEST_HISTORY, self._profile["S"][0])
        rounds = 1 if self.chain.memory.device is None else 2
        with self.own_batch():
            for B in batch_sizes or range(least, self.max_batch + 1):
                for S in history_lengths or buckets(smallest, self.max_history):
                    batch = [empty_tokens(S, self.fields)] * B
                    for _ in range(rounds):
                        self.generate(batch)
                        self.enhance()
                        self.retrieve(tables, [ItemFilter(without=np.array([], np.int64))] * B)
                        self.retrieve(tables, None)
                        self.rank(tables, features=self._no_features(B, self.retrieved))
                        for count in candidate_counts:
                            self.rank(tables, [[0] * count] * B, self._no_features(B, count))
                        self.answers()

    @contextmanager
    def own_batch(self) -> Iterator[None]:
        """Of a call with a batch of its own: at its end, however it comes, no caller's step may go on with it."""
        try:
            yield
        finally:
            self._done.clear()
            self._candidates_of = None

    def _no_features(self, B: int, C: int) -> Array | None:
        spec = self._features
        return None if spec is None else np.zeros(spec.sized({"B": B, "C": C}), spec.numpy_dtype)

    def _stage_features(self, features: Array | None, C: int, padded: int) -> None:
        if self._features is None and features is None:
            return
        spec, B = self._features, self._sizes["B"]
        if spec is None or features is None:
            has, expected = ("no", "none") if spec is None else ("its own", f"{spec.dtype} [B, C, K]")
            raise FeedError(
                f"ranker: this model has {has} {FEATURES}, got {'none' if features is None else 'some'}, expected "
                f"{expected}. Call rank(candidates, features) accordingly."
            )
        shape = spec.sized({"B": B, "C": C})
        if features.shape != shape or features.dtype.kind != "f" or not np.isfinite(features).all():
            raise FeedError(
                f"ranker: {FEATURES} is {features.dtype} {list(features.shape)}, expected finite {spec.dtype} "
                f"{list(shape)}. Give one row for each candidate, in their order."
            )
        buffer = self.chain.staging(FEATURES, spec.sized({"B": B, "C": padded}))
        buffer[:, :C], buffer[:, C:] = features, 0

    def _need(self, stage: str) -> None:
        """Check the order of calls: the ranker needs the enhancer, not the retriever."""
        needed = {"enhancer": "generator", "retriever": "enhancer", "ranker": "enhancer"}[stage]
        if needed not in self._done:
            call = {"generator": "generate(batch)", "enhancer": "enhance()"}[needed]
            raise UsageError(f"{stage}: the {needed} has not run on this batch, expected it first. Call {call}.")

    def _run(self, stage: str, sizes: Mapping[str, int] | None = None, tables: ItemTables | None = None) -> None:
        self._done.difference_update(STAGES[STAGES.index(stage) :])
        self.chain.run(stage, {**self._sizes, **(sizes or {})}, tables)
        self._done.add(stage)
