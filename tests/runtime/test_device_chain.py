"""The chain on a device: the answers of the CPU, one arena, tokens in and answers out, one wait for a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_bundle
import numpy as np
import pytest
from fake_bundle import make_request, tokens_of
from fake_plans import Machine, write_plans

import runtime.forward
from runtime import DeviceError, Pipeline, UsageError
from runtime.item_tables import ItemFilter
from runtime.items import ItemIndex
from runtime.memory import ALIGNMENT
from runtime.recommendation import Candidates

INPUTS = ("token_fields", "token_kind", "token_time", "history_mask")
ANSWERS = ("candidate_items", "candidate_logp", "candidate_head", "candidate_count", "scores")


def random_batch(index: ItemIndex, random: np.random.Generator) -> list[dict[str, Any]]:
    """1 to 3 requests of 0 to 39 events, some with filters."""
    batch = []
    for _ in range(int(random.integers(1, 4))):
        request = make_request(index, int(random.integers(40)), int(random.integers(1000)))
        for key in ("eligible", "excluded"):
            if random.random() < 0.3:
                request[key] = [index.id(row) for row in random.permutation(len(index))[: random.integers(8)].tolist()]
        batch.append(request)
    return batch


@pytest.mark.parametrize("engine", ["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("cuda_graphs", [True, False], ids=["graphs", "plain"])
def test_random_requests_are_answered_as_on_the_cpu(
    bundle: Path,
    planned: Path,
    tmp_path: Path,
    index: ItemIndex,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    cuda_graphs: bool,
) -> None:
    monkeypatch.setattr(runtime.forward, "SMALLEST_HISTORY", 8)  # so that there are five padded lengths
    if engine == "tensorrt_rtx":
        planned = write_plans(fake_bundle.write_bundle(tmp_path / "rtx", delisted=[2]), engine)
    random = np.random.default_rng(5)
    with (
        Pipeline.load(bundle, "onnxruntime", "cpu", threads=1) as cpu,
        machine.serve(planned, cuda_graphs=cuda_graphs) as device,
    ):
        assert (device.engine, device.device) == (engine, "cuda:0 (fake)")
        for _ in range(60):
            batch = random_batch(index, random)
            assert device.recommend(batch, 6) == cpu.recommend(batch, 6)
        graphs = device.graphs
    assert bool(graphs.replayed) == bool(graphs.captured) == cuda_graphs
    assert {key.split()[1] for key in graphs.plain} >= {"single", "short", "long"}


def stage_by_stage(pipeline: Pipeline, requests: list[dict[str, Any]], own: list[list[int]]) -> list[Any]:
    """Everything that the stages hand out, one after the other."""
    encoded = pipeline.encode(requests)
    pipeline.generate([one.tokens for one in encoded])
    user = pipeline.enhance()
    found = pipeline.retrieve([one.item_filter for one in encoded])
    again = pipeline.rank()
    return [user, found, again, pipeline.rank(own), pipeline.read("ranker_key_history"), pipeline.read("scores")]


def test_the_stages_one_by_one_answer_as_on_the_cpu(
    bundle: Path, planned: Path, index: ItemIndex, machine: Machine
) -> None:
    random = np.random.default_rng(6)
    with Pipeline.load(bundle, "onnxruntime", "cpu", threads=1) as cpu, machine.serve(planned) as device:
        for _ in range(10):
            batch = random_batch(index, random)
            own = [random.integers(11, size=random.integers(1, 21)).tolist() for _ in batch]
            for one, other in zip(stage_by_stage(device, batch, own), stage_by_stage(cpu, batch, own), strict=True):
                if isinstance(one, Candidates):
                    for name in ("items", "logp", "head", "count"):
                        assert np.array_equal(getattr(one, name), getattr(other, name)), name
                else:
                    assert one.dtype == other.dtype
                    assert np.array_equal(one, other)


def test_what_is_handed_out_is_never_overwritten(planned: Path, index: ItemIndex, machine: Machine) -> None:
    with machine.serve(planned) as pipeline:
        user, found, *others = stage_by_stage(pipeline, [make_request(index, 3)], [[1, 2]])
        kept = [user, found.items, found.logp, found.head, found.count, *others]
        before = [array.copy() for array in kept]
        for seed in range(3):
            stage_by_stage(pipeline, [make_request(index, 20, seed)], [[4, 5]])
        assert all(np.array_equal(one, other) for one, other in zip(kept, before, strict=True))


def bindings(pipeline: Pipeline) -> dict[str, list[Any]]:
    """Every binding that the pipeline holds, by stage."""
    found: dict[str, list[Any]] = {}
    for key, bound in {**pipeline._forward.chain._bound, **pipeline._items.bound}.items():
        found.setdefault(key[0], []).append(bound.binding)
    return found


def test_the_address_a_producer_writes_is_the_address_its_consumers_read(
    planned: Path, index: ItemIndex, machine: Machine
) -> None:
    with machine.serve(planned) as pipeline:
        for batch in ([4], [4, 36], [36, 3, 3]):
            pipeline.recommend([make_request(index, events) for events in batch])
        written: dict[str, set[int]] = {}
        read: dict[str, set[int]] = {}
        for bound in bindings(pipeline).values():
            for binding in bound:
                for side, tensors in ((written, binding.outputs), (read, binding.inputs)):
                    for name, tensor in tensors.items():
                        side.setdefault(name, set()).add(tensor.address)
        passed = written.keys() & read.keys()
        assert {"enhancer_key_0", "enhancer_value_0", "ranker_key_history", "ranker_value_tasks"} < passed
        arena = pipeline._forward.chain.arena._block
        for name in passed:
            assert written[name] == read[name], name
            (address,) = read[name]  # at every batch size and bucket
            assert address % ALIGNMENT == 0
            assert arena.address <= address < arena.address + arena.nbytes, name


def test_one_allocation_holds_all_that_travels_and_one_all_scratch(
    planned: Path, index: ItemIndex, machine: Machine
) -> None:
    with machine.serve(planned) as pipeline:
        before = {block.size for block in machine.device.live}
        assert pipeline._forward.chain.arena.nbytes in before
        pipeline.recommend([make_request(index, 36)] * 2)
        scratch = [context.scratch for context in live_contexts(pipeline)]
        assert {size for _, size in scratch} == {7000}  # the largest of all stages and profiles
        assert len({address for address, _ in scratch}) == 1


def live_contexts(pipeline: Pipeline) -> list[Any]:
    return [binding._context for bound in bindings(pipeline).values() for binding in bound]


def test_a_request_moves_tokens_and_mask_in_and_answers_out_with_one_wait(
    planned: Path, index: ItemIndex, machine: Machine
) -> None:
    with machine.serve(planned) as pipeline:
        pipeline.warm_up([1, 2], [64])
        copies, device = pipeline._forward.chain.copies, machine.device
        copies.clear()
        blocks, page_locked, waits = len(device.blocks), len(device.page_locked), device.waits
        for calls in range(1, 5):
            pipeline.recommend([make_request(index, 4)] * (1 + calls % 2))
            assert copies.host_to_stage == dict.fromkeys(INPUTS, calls)
            assert copies.stage_to_stage == {}
            assert copies.results_read == dict.fromkeys(ANSWERS, calls)
            assert device.waits == waits + calls
        assert (len(device.blocks), len(device.page_locked)) == (blocks, page_locked)  # nothing is allocated in serving


def test_a_filter_moves_its_rows_in(planned: Path, index: ItemIndex, machine: Machine) -> None:
    with machine.serve(planned) as pipeline:
        pipeline.recommend([make_request(index, 4) | {"eligible": [index.id(3)]}])
        copies = pipeline.copies.host_to_stage
        assert (copies["item_eligible"], copies["eligible_row"]) == (1, 1)
        for _ in range(2):
            pipeline.recommend([make_request(index, 4)])
        assert pipeline.copies.host_to_stage["eligible_row"] == 2  # once more, to set it back


def test_batches_before_the_device_is_waited_for_do_not_overwrite_each_other(
    planned: Path, index: ItemIndex, machine: Machine
) -> None:
    """The staging memory of a batch may be filled again only after its copy is done."""
    with machine.serve(planned) as pipeline:
        first, second = tokens_of(pipeline, [make_request(index, 3), make_request(index, 30, 1)])
        pipeline.generate([second])
        pipeline.enhance()
        wanted = pipeline.rank([[1, 2, 3]])
        pipeline.generate([first])
        pipeline.generate([second])
        pipeline.enhance()
        assert np.array_equal(pipeline.rank([[1, 2, 3]]), wanted)
        filters = [ItemFilter(only=np.array([4, 6]))]
        pipeline._forward.retrieve(pipeline._items, [ItemFilter(only=np.array([1]))])
        assert sorted(pipeline.retrieve(filters).items[0].tolist()) == [-1, -1, -1, -1, 4, 6]


def test_a_swapped_index_is_served_and_the_old_one_is_freed(
    bundle: Path, planned: Path, tmp_path: Path, machine: Machine
) -> None:
    fake_bundle.write_items(tmp_path / "new", items=13, seed=7)
    new = ItemIndex.read(tmp_path / "new")
    request = make_request(new, 5) | {"excluded": [new.id(1)]}
    with Pipeline.load(bundle, "onnxruntime", "cpu", threads=1) as cpu, machine.serve(planned) as device:
        device.recommend([request])
        tables = len(machine.device.live)
        for folder in (tmp_path / "new", bundle / "items", tmp_path / "new"):
            device.swap_items(folder)
            cpu.swap_items(folder)
            for _ in range(3):
                assert device.recommend([request], 4) == cpu.recommend([request], 4)
            assert len(machine.device.live) == tables  # no more allocations than with one index


def test_a_swap_without_room_leaves_the_old_index_serving(
    planned: Path, tmp_path: Path, index: ItemIndex, machine: Machine
) -> None:
    fake_bundle.write_items(tmp_path / "new", items=13, seed=7)
    with machine.serve(planned) as pipeline:
        before = pipeline.recommend([make_request(index, 5)])
        blocks = len(machine.device.live)
        for room in (100, 700):  # for nothing, for some of the tables
            machine.device.limit = sum(block.size for block in machine.device.live) + room
            with pytest.raises(DeviceError, match=r"of item index .*: cuda:0 \(fake\): no \d+ bytes"):
                pipeline.swap_items(tmp_path / "new")
            assert len(machine.device.live) == blocks
        assert pipeline.recommend([make_request(index, 5)]) == before


def test_warm_up_leaves_no_batch_behind(planned: Path, machine: Machine) -> None:
    with machine.serve(planned) as pipeline:
        pipeline.warm_up([1], [64], [3])
        for call in (pipeline.enhance, pipeline.retrieve, pipeline.rank):
            with pytest.raises(UsageError, match="has not run on this batch"):
                call()


@pytest.mark.parametrize(
    ("limit", "what"), [(1000, "scratch memory of the engines"), (8000, "the tensors between the stages")]
)
def test_a_device_without_room_is_an_error_of_load_that_says_for_what(
    planned: Path, machine: Machine, limit: int, what: str
) -> None:
    machine.options = {"limit": limit}
    with pytest.raises(DeviceError, match=rf"{what}: cuda:0 \(fake\): no \d+ bytes"):
        Pipeline.load(planned)


def test_a_device_that_is_full_at_a_request_serves_again_when_it_is_not(
    planned: Path, index: ItemIndex, machine: Machine
) -> None:
    with machine.serve(planned) as pipeline:
        machine.device.limit = 0
        for _ in range(2):
            with pytest.raises(DeviceError, match=r"the causal_mask of 64 rows: cuda:0 \(fake\): no \d+ bytes"):
                pipeline.recommend([make_request(index, 5)])
        kind = pipeline.read("token_kind")  # what the host has written, though no stage has run on it
        machine.device.limit = 1 << 40
        assert pipeline.recommend([make_request(index, 5)])
        assert np.array_equal(pipeline.read("token_kind"), kind)
        assert kind.any()
