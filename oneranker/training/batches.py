"""Random training batches out of token streams: windows, request positions in them, targets and candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oneranker.config import OneRankerConfig
from oneranker.data.streams import Streams
from oneranker.padding import pad_windows

MOST_POPULAR = 1000  # items that count as popular


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """How much of what a batch holds."""

    windows: int = 16  # histories encoded at once (B)
    positions: int = 8  # requests asked per history (P); each gives one enhancer and ranker row
    targets: int = 4  # target items sampled per head
    positives: int = 6  # bought items among the ranker's candidates (E25)
    past: int = 12  # candidates from the user's own history, as they dominate the beams when serving
    popular: int = 8  # candidates among the most popular items
    uniform: int = 6  # candidates sampled uniformly

    @property
    def candidates(self) -> int:
        return self.positives + self.past + self.popular + self.uniform


REQUEST_TENSORS = (
    "position", "target_items", "target_weight", "candidate_items", "candidate_value", "candidate_present",
)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """One step's input; Q = windows x positions requests.

    Shapes: token_fields int32 [B, S, F], token_kind int32 [B, S], token_time int64 [B, S], history_length int64 [B],
        position int64 [Q] tokens each request may read; target_items int64 [Q, M, K], target_weight fp32 [Q, M, K]
        (value head: the value itself); candidate_items int64 [Q, C], candidate_value fp32 [Q, C],
        candidate_present bool [Q, C]
    """

    token_fields: Tensor
    token_kind: Tensor
    token_time: Tensor
    history_length: Tensor
    position: Tensor
    target_items: Tensor
    target_weight: Tensor
    candidate_items: Tensor
    candidate_value: Tensor
    candidate_present: Tensor


class BatchSampler:
    """Draws batches; the n-th batch depends on (seed, n) alone, so a resumed run sees what an unbroken one would have.

    Head j < number of stages is asked for the request's items of stage j; further interest heads for the items of the
    next, second next … request (E12, baskets are sets); the value head for the request's items weighted by value (E11).
    """

    def __init__(
        self, streams: Streams, config: OneRankerConfig, settings: BatchSettings, *, items: int, until: int, seed: int
    ) -> None:
        """Requests of splits <= `until` (0 train, 1 validation) are used."""
        self.streams, self.config, self.settings, self.seed, self.items = streams, config, settings, seed, items
        known = np.concatenate(([0], np.cumsum(streams.target_item >= 0)))
        has_target = known[streams.target_offset[1:]] > known[streams.target_offset[:-1]]
        first_request = np.searchsorted(streams.request_user, np.arange(len(streams.user_offset) - 1))
        self.first_request = first_request
        age = np.arange(len(streams.request_user)) - first_request[streams.request_user]
        self.usable = (streams.request_split <= until) & has_target & (age > 0)
        self.requests = np.flatnonzero(self.usable)
        if not len(self.requests):
            raise ValueError(
                "training: 0 requests with a history and a known item before the split date, expected some; "
                "check the split dates in schema.toml and catalogue.min_users"
            )
        allowed = np.repeat(streams.request_split <= until, np.diff(streams.target_offset))
        seen = streams.target_item[allowed & (streams.target_item >= 0)]
        self.popular = np.argsort(-np.bincount(seen, minlength=items), kind="stable")[:MOST_POPULAR]
        self.last_request = np.searchsorted(streams.request_user, np.arange(len(streams.user_offset) - 1), "right")
        self.until = until

    def batch(self, number: int) -> Batch:
        """The batch of a step."""
        random = np.random.default_rng([self.seed, number])
        B, P, S = self.settings.windows, self.settings.positions, self.config.max_history
        position, requests = np.zeros((B, P), dtype=np.int64), np.zeros((B, P), dtype=np.int64)
        windows = []
        for row, end in enumerate(random.choice(self.requests, size=B)):
            windows.append(self.streams.window(int(end), S))
            length = len(windows[row][1])
            requests[row] = self._requests_inside(int(end), length, random)
            last = self.streams.request_token[end]
            position[row] = self.streams.request_token[requests[row]] - last + length  # tokens up to its X
        flat = requests.reshape(-1)
        targets, weight = self._targets(flat, random)
        items, value, present = self._candidates(flat, random)
        rest = (position.reshape(-1), targets, weight, items, value, present)
        return Batch(**pad_windows(windows, S), **dict(zip(REQUEST_TENSORS, map(torch.from_numpy, rest), strict=True)))

    def _requests_inside(self, end: int, length: int, random: np.random.Generator) -> NDArray[np.int64]:
        """The window's last request and P-1 others of its newer three quarters (few have history in the oldest)."""
        tokens = self.streams.request_token
        first = np.searchsorted(tokens, tokens[end] - 3 * (length - 1) // 4)
        inside = np.arange(first, end + 1)
        inside = inside[self.usable[first : end + 1]]
        others = random.choice(inside, size=self.settings.positions - 1)
        return np.concatenate(([end], others))

    def _targets(
        self, requests: NDArray[np.int64], random: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Items and weights per head.

        Shapes: requests int64 [Q] -> int64 [Q, M, K], fp32 [Q, M, K]
        """
        streams, M, K = self.streams, self.config.retrieval_heads, self.settings.targets
        items = np.zeros((len(requests), M, K), dtype=np.int64)
        weight = np.zeros((len(requests), M, K), dtype=np.float32)
        stages = streams.target_stage.shape[1]
        for row, request in enumerate(requests):
            user = streams.request_user[request]
            for head in range(M):
                ahead = max(0, head - stages + 1) if head < M - 1 else 0
                wanted = request + ahead
                if wanted >= self.last_request[user] or streams.request_split[wanted] > self.until:
                    continue
                lines = np.arange(streams.target_offset[wanted], streams.target_offset[wanted + 1])
                lines = lines[streams.target_item[lines] >= 0]
                if head < min(stages, M - 1):
                    lines = lines[streams.target_stage[lines, head] > 0]
                lines = random.permutation(lines)[:K]
                items[row, head, : len(lines)] = streams.target_item[lines]
                weight[row, head, : len(lines)] = streams.target_value[lines] if head == M - 1 else 1.0
        return items, weight

    def _candidates(
        self, requests: NDArray[np.int64], random: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
        """Bought, own past, popular and uniform items, each once per request; value 0 but for what was bought.

        What was not bought is drawn evenly from each kind: drawing by frequency would teach the ranker to divide by it.

        Shapes: requests int64 [Q] -> int64 [Q, C], fp32 [Q, C], bool [Q, C]
        """
        streams, settings, Q = self.streams, self.settings, len(requests)
        items = np.full((Q, settings.candidates), -1, dtype=np.int64)
        value = np.zeros((Q, settings.candidates), dtype=np.float32)
        items[:, settings.positives + settings.past :] = np.concatenate(
            (
                random.choice(self.popular, size=(Q, settings.popular)),
                random.integers(0, self.items, size=(Q, settings.uniform)),
            ),
            axis=1,
        )
        for row, request in enumerate(requests):
            lines = np.arange(streams.target_offset[request], streams.target_offset[request + 1])
            lines = random.permutation(lines[streams.target_item[lines] >= 0])
            bought = streams.target_item[lines]
            chosen = lines[: settings.positives]
            items[row, : len(chosen)] = streams.target_item[chosen]
            value[row, : len(chosen)] = np.maximum(streams.target_value[chosen], 1e-3)  # bought beats not bought
            start = streams.target_offset[self.first_request[streams.request_user[request]]]
            past = random.permutation(np.unique(streams.target_item[start : streams.target_offset[request]]))
            past = past[: settings.past]
            items[row, settings.positives : settings.positives + len(past)] = past
            rest = items[row, settings.positives :]
            rest[np.isin(rest, bought)] = -1
        present = (items >= 0) & first_occurrence(items)
        return np.where(present, items, 0), value * present, present


def first_occurrence(items: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True where a row shows a number for the first time.

    Shapes: int64 [Q, C] -> bool [Q, C]
    """
    order = np.argsort(items, axis=1, kind="stable")
    ranked = np.take_along_axis(items, order, axis=1)
    fresh = np.ones_like(ranked, dtype=bool)
    fresh[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    out = np.empty_like(fresh)
    np.put_along_axis(out, order, fresh, axis=1)
    return out
