"""Histories of different lengths side by side, as the stages want them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Window = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]  # token_fields, token_kind, token_time


def pad_windows(windows: Sequence[Window], padded: int | None = None) -> dict[str, Tensor]:
    """Real tokens first; a pad has no fields, kind 0 and the time of the last real token.

    Shapes: B windows of int32 [s, F], int32 [s], int64 [s] -> token_fields int32 [B, S, F], token_kind int32 [B, S],
        token_time int64 [B, S], history_length int64 [B]
    """
    lengths = [len(kind) for _, kind, _ in windows]
    S, F = padded or max(lengths), windows[0][0].shape[1]
    fields = np.zeros((len(windows), S, F), dtype=np.int32)
    kind = np.zeros((len(windows), S), dtype=np.int32)
    time = np.zeros((len(windows), S), dtype=np.int64)
    for row, (window, length) in enumerate(zip(windows, lengths, strict=True)):
        fields[row, :length], kind[row, :length], time[row, :length] = window
        time[row, length:] = window[2][-1]
    return {
        "token_fields": torch.from_numpy(fields),
        "token_kind": torch.from_numpy(kind),
        "token_time": torch.from_numpy(time),
        "history_length": torch.tensor(lengths),
    }
