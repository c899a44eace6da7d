"""One stage on TensorRT or TensorRT-RTX, at addresses of a device, replayed from CUDA graphs. Not run on a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from runtime.device import Device, GraphCounts
from runtime.device_feed import run_on_device
from runtime.errors import BundleError, DeviceError, FeedError
from runtime.manifest import PlanEntry, ProfileEntry
from runtime.memory import Scratch, address
from runtime.replay import Replay
from runtime.stage import Array, Feed, Tensors, TensorSpec, check_binding
from runtime.trt_engine import TrtEngine, load_engine, rebuild


class TrtBinding:
    """One execution context with every tensor at a fixed address and shape, and the graph captured from it."""

    def __init__(self, stage: TrtStage, inputs: Tensors, outputs: Tensors, letters: Mapping[str, int]) -> None:
        """Make the context, in the one order that the engine allows: memory, profile, shapes, addresses.

        Raises:
            FeedError: If the shapes lie outside of every profile.
            DeviceError: If the engine cannot make or prepare the context.
        """
        self.inputs = inputs
        self.outputs = outputs
        self._stage = stage
        self._letters = " ".join(f"{letter}={size}" for letter, size in letters.items())
        number = choose_profile(stage.name, stage.plan, letters)
        self.key = f"{stage.name} {stage.plan.profiles[number].name} {self._letters}"
        strategy = stage.loaded.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._context: Any = stage.loaded.engine.create_execution_context(strategy)
        if self._context is None:
            raise self._failed("no execution context could be made")
        if stage.scratch.size:
            self._context.set_device_memory(stage.scratch.address, stage.scratch.size)
        if not self._context.set_optimization_profile_async(number, stage.device.stream):
            raise self._failed("the profile could not be chosen")
        for name, tensor in inputs.items():
            if not self._context.set_input_shape(name, tensor.shape):
                raise self._failed(f"input {name!r} does not take the shape {list(tensor.shape)}")
        for name, tensor in {**inputs, **outputs}.items():
            if not self._context.set_tensor_address(name, address(tensor)):
                raise self._failed(f"tensor {name!r} does not take its address")
        self._check_shapes()
        self._replay = Replay(
            stage.device,
            self._launch,
            self.key,
            stage.graph_counts,
            capturable=self._capturable,
            refused=stage.refused,
        )

    def run(self) -> None:
        """Enqueue the stage once on the device's stream.

        Raises:
            DeviceError: If the engine refuses, or once if no graph can be captured.
        """
        self._replay.run()

    def close(self) -> None:
        """Drop the graph, then the context that it was captured from."""
        self._replay.close()
        self._context = None

    def _launch(self) -> None:
        if not self._context.execute_async_v3(self._stage.device.stream):
            raise self._failed("the launch failed")

    def _capturable(self) -> bool:
        if not self._stage.cuda_graphs:
            return False
        if not hasattr(self._context, "is_stream_capturable"):  # TensorRT-RTX: not before its kernels are compiled
            return True
        return bool(self._context.is_stream_capturable(self._stage.device.stream))

    def _check_shapes(self) -> None:
        """Have the engine infer the outputs' shapes, and compare."""
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as error:
            raise self._failed(f"the shapes cannot be inferred: {error}") from error
        if missing:
            raise self._failed(f"the shapes of {', '.join(missing)} are not known")
        for name, tensor in self.outputs.items():
            if (found := tuple(self._context.get_tensor_shape(name))) != tensor.shape:
                raise BundleError(
                    f"{self.key}: the engine writes {name!r} as {list(found)}, expected {list(tensor.shape)}. "
                    f"{rebuild(self._stage.plan).capitalize()}."
                )

    def _failed(self, what: str) -> DeviceError:
        stage = self._stage
        return DeviceError(
            f"{stage.name}: {what} at {self._letters} on {stage.device.name} ({stage.loaded.last_words()}), expected a "
            f"ready engine. Free device memory, or {rebuild(stage.plan)}."
        )


class TrtStage:
    """A deserialised plan on one device. `run` of a binding returns before the work is done. Not run on a GPU."""

    def __init__(
        self,
        name: str,
        loaded: TrtEngine,
        plan: PlanEntry,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        device: Device,
        scratch: Scratch | None = None,
        cuda_graphs: bool = True,
    ) -> None:
        self.name = name
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.plan = plan
        self.loaded = loaded
        self.device = device
        self.cuda_graphs = cuda_graphs
        self.graph_counts = GraphCounts()
        self.refused: set[str] = set()  # keys of bindings that could not be captured
        self.scratch = Scratch(device) if scratch is None else scratch
        self._owns_scratch = scratch is None
        engine = loaded.engine
        sizes = map(engine.get_device_memory_size_for_profile_v2, range(engine.num_optimization_profiles))
        self.scratch.reserve(max(map(int, sizes)))

    @classmethod
    def load(
        cls,
        name: str,
        path: Path,
        plan: PlanEntry,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        device: Device,
        scratch: Scratch | None = None,
        cuda_graphs: bool = True,
    ) -> Self:
        """Open a plan for one device; stages of one pipeline share `scratch`, all loaded before the first is bound.

        Raises:
            BundleError: If the plan is damaged, of another version, or not the manifest's.
            DeviceError: If the engine's module is not here, or the plan is not for this device.
        """
        loaded = load_engine(name, path, plan, inputs, outputs, device)
        return cls(name, loaded, plan, inputs, outputs, device=device, scratch=scratch, cuda_graphs=cuda_graphs)

    def bind(self, inputs: Tensors, outputs: Tensors) -> TrtBinding:
        """Tie the engine to device tensors: the first are read and the second written at every run.

        Raises:
            FeedError: If a tensor is missing, unknown, of another dtype or shape, or outside of every profile.
            DeviceError: If the engine has no room for another context.
        """
        letters = check_binding(self.name, self.inputs, self.outputs, inputs, outputs)
        return TrtBinding(self, inputs, outputs, letters)

    def run(self, feed: Feed) -> dict[str, Array]:
        """Answer with fresh host arrays that no later call will overwrite: for checks, not for serving.

        Raises:
            FeedError: If a tensor is missing, unknown, of another dtype or shape, or outside of every profile.
        """
        return run_on_device(self.name, self.device, self.inputs, self.outputs, self.bind, feed)

    def close(self) -> None:
        """Free the engine; its bindings must be closed before."""
        self.loaded.close()
        if self._owns_scratch:
            self.scratch.close()


def choose_profile(stage: str, plan: PlanEntry, letters: Mapping[str, int]) -> int:
    """The number of the tightest profile that holds these sizes: of the smallest largest shape, then of the least span.

    Raises:
        FeedError: If no profile holds them.
    """
    fitting = []
    for number, profile in enumerate(plan.profiles):
        if all(_holds(profile, letter, size) for letter, size in letters.items()):
            ends = [(low, high) for letter, (low, _, high) in profile.letters.items() if letter in letters]
            spans = (high - low + 1 for low, high in ends)
            fitting.append((math.prod(high for _, high in ends), math.prod(spans), number))
    if fitting:
        return min(fitting)[2]
    sizes = ", ".join(f"{letter}={size}" for letter, size in letters.items())
    wrong = [name for name, size in letters.items() if not any(_holds(row, name, size) for row in plan.profiles)]
    named = ", ".join(f"{letter}={letters[letter]}" for letter in wrong) or f"{sizes} together"
    ranges = "; ".join(_told(profile, wrong or list(letters)) for profile in plan.profiles)
    raise FeedError(
        f"{stage}: {named} lies outside of every profile of the plan ({ranges}). "
        f"Send other sizes, or with other --min-shapes and --max-shapes {rebuild(plan)}."
    )


def _holds(profile: ProfileEntry, letter: str, size: int) -> bool:
    """Whether a size is in the profile's range; an output's own letter has none."""
    low, _, high = profile.letters.get(letter, (size, size, size))
    return low <= size <= high


def _told(profile: ProfileEntry, letters: Sequence[str]) -> str:
    ends = {letter: row for letter, row in profile.letters.items() if letter in letters}
    rows = (f"{letter} {low} .. {high}" for letter, (low, _, high) in ends.items())
    return f"{profile.name}: {', '.join(rows)}"
