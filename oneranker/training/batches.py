"""Random training batches out of token streams: windows, request positions in them, and what followed each request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oneranker.catalogue import running_counts
from oneranker.config import OneRankerConfig
from oneranker.data.streams import Streams
from oneranker.errors import DataError
from oneranker.padding import pad_windows


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """How much of what a batch holds."""

    windows: int = 8  # histories encoded at once (B)
    positions: int = 8  # requests asked per history (P), each for targets of every head
    targets: int = 4  # target items sampled per head (K)
    ranked: int = 4  # of a window's requests, those whose candidates are retrieved and ranked

    def __post_init__(self) -> None:
        if not 1 <= self.ranked <= self.positions:
            raise ValueError(
                f"batch: ranked={self.ranked} of positions={self.positions}, expected 1 to positions; lower ranked"
            )


REQUEST_TENSORS = (
    "position", "target_items", "target_weight", "ranked", "bought_items", "bought_value", "item_eligible",
)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """One step's input; Q = windows x positions requests, G of them ranked.

    Shapes: token_fields int32 [B, S, F], token_kind int32 [B, S], token_time int64 [B, S], history_length int64 [B],
        position int64 [Q] tokens each request may read; target_items int64 [Q, M, K], target_weight fp32 [Q, M, K]
        (value head: the value itself); ranked int64 [G] rows of Q; bought_items int64 [G, most] (-1 pads),
        bought_value fp32 [G, most]; item_eligible int32 [G, N+1] running counts
    """

    token_fields: Tensor
    token_kind: Tensor
    token_time: Tensor
    history_length: Tensor
    position: Tensor
    target_items: Tensor
    target_weight: Tensor
    ranked: Tensor
    bought_items: Tensor
    bought_value: Tensor
    item_eligible: Tensor


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
        self.until = until
        known = np.concatenate(([0], np.cumsum(streams.target_item >= 0)))
        has_target = known[streams.target_offset[1:]] > known[streams.target_offset[:-1]]
        users = np.arange(len(streams.user_offset) - 1)
        self.first_request = np.searchsorted(streams.request_user, users)
        self.last_request = np.searchsorted(streams.request_user, users, "right")
        age = np.arange(len(streams.request_user)) - self.first_request[streams.request_user]
        self.usable = (streams.request_split <= until) & has_target & (age > 0)
        self.requests = np.flatnonzero(self.usable)
        if not len(self.requests):
            raise DataError(
                "training: 0 requests with a history and a known item before the split date, expected some; "
                "check the split dates in schema.toml and catalogue.min_users"
            )

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
        ranked = (np.arange(B)[:, None] * P + np.arange(self.settings.ranked)).reshape(-1)
        asked = requests.reshape(-1)[ranked]
        tensors = (
            position.reshape(-1),
            *self._targets(requests.reshape(-1), random),
            ranked,
            *self._bought(asked),
            self._eligible(asked),
        )
        named = dict(zip(REQUEST_TENSORS, map(torch.from_numpy, tensors), strict=True))
        return Batch(**pad_windows(windows, S), **named)

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
                ahead = max(0, head - max(stages, 1) + 1) if head < M - 1 else 0
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

    def _bought(self, requests: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """All known items of each request with their value; a worthless one still beats what was not bought.

        Shapes: requests int64 [G] -> int64 [G, most], fp32 [G, most]
        """
        streams, most = self.streams, int(np.diff(self.streams.target_offset)[requests].max())
        items = np.full((len(requests), most), -1, dtype=np.int64)
        value = np.zeros((len(requests), most), dtype=np.float32)
        for row, request in enumerate(requests):
            lines = streams.targets(int(request))
            count = lines.stop - lines.start
            items[row, :count] = streams.target_item[lines]
            value[row, :count] = np.maximum(streams.target_value[lines], 1e-3)
        return items, value

    def _eligible(self, requests: NDArray[np.int64]) -> NDArray[np.int32]:
        """Everything may be retrieved for every second request, for the others nothing the user had before.

        Both are asked of a recommender; a user's own items would otherwise fill every list it learns from.

        Shapes: requests int64 [G] -> int32 [G, N+1]
        """
        streams = self.streams
        eligible = np.ones((len(requests), self.items), dtype=bool)
        for row in range(1, len(requests), 2):
            start = streams.target_offset[self.first_request[streams.request_user[requests[row]]]]
            past = streams.target_item[start : streams.target_offset[requests[row]]]
            eligible[row, past[past >= 0]] = False
        return running_counts(eligible)
