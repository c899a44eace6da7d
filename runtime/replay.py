"""The same launches again and again: plain at first, then captured into a graph, then replayed from it."""

from __future__ import annotations

from collections.abc import Callable

from runtime.device import Device, Graph, GraphCounts
from runtime.errors import DeviceError


class Replay:
    """One sequence of launches at fixed addresses and shapes, and the graph made of it.

    The first run is plain: engines allocate and load kernels at their first launch, which a graph cannot hold. The
    second is captured and launched, every later one is replayed. A capture that fails is reported once; from then on
    this sequence runs plain.
    """

    def __init__(
        self,
        device: Device,
        launch: Callable[[], None],
        key: str,
        counts: GraphCounts,
        *,
        capturable: Callable[[], bool],
        refused: set[str],
    ) -> None:
        """`key` names the sequence in `counts` and in `refused`, the keys that could not be captured."""
        self._device = device
        self._launch = launch
        self._key = key
        self._counts = counts
        self._capturable = capturable  # asked before a capture
        self._refused = refused
        self._warm = False
        self._graph: Graph | None = None

    def run(self) -> None:
        """Enqueue the sequence once.

        Raises:
            DeviceError: If a launch fails, or once if the sequence cannot be captured.
        """
        if self._graph is not None:
            self._graph.launch()
            self._counts.replayed[self._key] += 1
        elif self._warm and self._key not in self._refused and self._capturable():
            self._graph = self._captured()
            self._graph.launch()
            self._counts.captured[self._key] += 1
        else:
            self._launch()
            self._warm = True
            self._counts.plain[self._key] += 1

    def close(self) -> None:
        if self._graph is not None:
            graph, self._graph = self._graph, None
            graph.close()

    def _captured(self) -> Graph:
        try:
            return self._device.capture(self._launch)
        except DeviceError as error:
            raise refused_capture(self._key, self._refused, error) from error


def refused_capture(key: str, refused: set[str], error: DeviceError) -> DeviceError:
    """Note that the runs of `key` stay plain from now on, and say so: the one error that a failed capture raises."""
    refused.add(key)
    return DeviceError(
        f"{key}: no CUDA graph could be captured: {error} Later calls of this size run without a graph; call again, or "
        "load the bundle with cuda_graphs=False."
    )
