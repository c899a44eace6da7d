"""Who may use a pipeline's stages and memory: one call at a time, and a swap of the items between two calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import UsageError


class Turns:
    """Locks of one pipeline. A second call is an error; a swap and a call wait for each other, in order of arrival."""

    def __init__(self) -> None:
        self._calling = threading.Lock()  # held by a call, never waited for
        self._turn = threading.Lock()  # held by a call or a swap
        self._gate = (
            threading.Lock()
        )  # held while waiting for the turn: without it, calls could overtake a swap for ever

    @contextmanager
    def of_call(self) -> Iterator[None]:
        """The turn of a call.

        Raises:
            UsageError: If another call has not ended yet.
        """
        if not self._calling.acquire(blocking=False):
            raise UsageError(
                f"pipeline: thread {threading.current_thread().name!r} called while another call is running, expected "
                "one thread. Load one Pipeline per thread, or put a lock around this one."
            )
        try:
            with self.of_swap():
                yield
        finally:
            self._calling.release()

    @contextmanager
    def of_swap(self) -> Iterator[None]:
        """The turn of a swap, from any thread."""
        with self._gate:
            self._turn.acquire()
        try:
            yield
        finally:
            self._turn.release()
