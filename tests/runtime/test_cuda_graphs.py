"""Captured graphs: plain, captured, replayed; counted by stage, profile and sizes; a failure is told once."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest
from fake_bundle import make_request, write_bundle
from fake_plans import Machine, write_plans
from fake_trt import CONTEXTS

import runtime.chain
from runtime import DeviceError, OneRankerError, Pipeline, UsageError
from runtime.device import GraphCounts
from runtime.items import ItemIndex
from runtime.manifest import STAGES


def by_stage(counts: Counter[str]) -> dict[str, int]:
    stages: Counter[str] = Counter()
    for key, count in counts.items():
        stages[key.split()[0]] += count
    return dict(stages)


def each(count: int) -> dict[str, int]:
    return dict.fromkeys(STAGES, count) if count else {}


def test_the_first_run_is_plain_the_second_captured_and_every_later_one_replayed(
    planned: Path, index: ItemIndex, machine: Machine
) -> None:
    with machine.serve(planned) as pipeline:
        assert pipeline.graphs == GraphCounts()
        for runs in range(1, 6):
            pipeline.recommend([make_request(index, 3)])
            graphs = pipeline.graphs
            for found, wanted in (
                (graphs.plain, 1), (graphs.captured, min(runs - 1, 1)), (graphs.replayed, max(runs - 2, 0)),
            ):  # fmt: skip
                assert by_stage(found) == each(wanted)
        assert {len(graph.work) for graph in machine.device.graphs} == {1}
        assert sorted(graph.launches for graph in machine.device.graphs) == [4] * 4
        assert set(graphs.plain) == {
            "generator single B=1 S=64",
            "enhancer single B=1 S=64",
            f"retriever single B=1 P={index.header.nodes} R=1 N=11",
            "ranker single B=1 C=6 N=11 S=64",
        }


def test_each_size_has_a_graph_of_its_own(planned: Path, index: ItemIndex, machine: Machine) -> None:
    small, large = [make_request(index, 3)], [make_request(index, 36), make_request(index, 3)]
    with machine.serve(planned) as pipeline:
        for _ in range(3):
            pipeline.recommend(small)
        pipeline.recommend(large)  # other B and other S: everything starts over
        assert by_stage(pipeline.graphs.plain) == each(2)
        assert by_stage(pipeline.graphs.captured) == each(1)
        for _ in range(2):
            pipeline.recommend(large)
        pipeline.recommend(small)
        assert by_stage(pipeline.graphs.replayed) == each(3)
        assert len(machine.device.graphs) == 8


def test_a_replay_works_on_the_new_requests(bundle: Path, planned: Path, index: ItemIndex, machine: Machine) -> None:
    with Pipeline.load(bundle, "onnxruntime", "cpu", threads=1) as cpu, machine.serve(planned) as device:
        for events in range(12):
            batch = [make_request(index, events, events)]
            assert device.recommend(batch) == cpu.recommend(batch)
        assert by_stage(device.graphs.replayed) == each(10)


def test_the_tightest_profile_that_holds_the_sizes_is_used(planned: Path, index: ItemIndex, machine: Machine) -> None:
    with machine.serve(planned) as pipeline:
        for events, requests in ((3, 1), (36, 1), (3, 2), (36, 3)):
            pipeline.recommend([make_request(index, events)] * requests)
        used = {tuple(key.split()[:4]) for key in pipeline.graphs.plain if key.startswith("generator")}
    assert used == {
        ("generator", "single", "B=1", "S=64"),
        ("generator", "single", "B=1", "S=80"),
        ("generator", "short", "B=2", "S=64"),
        ("generator", "long", "B=3", "S=80"),
    }


def test_without_graphs_every_run_is_plain(planned: Path, index: ItemIndex, machine: Machine) -> None:
    with machine.serve(planned, cuda_graphs=False) as pipeline:
        for _ in range(4):
            pipeline.recommend([make_request(index, 3)])
        assert by_stage(pipeline.graphs.plain) == each(4)
        assert (pipeline.graphs.captured, pipeline.graphs.replayed) == ({}, {})
        assert machine.device.graphs == []


def test_after_warm_up_the_first_request_of_every_size_is_replayed(
    planned: Path, index: ItemIndex, machine: Machine
) -> None:
    with machine.serve(planned) as pipeline:
        pipeline.warm_up()
        before = pipeline.graphs
        for requests in (1, 2, 3):
            for events in (3, 36):
                pipeline.recommend([make_request(index, events)] * requests)
                pipeline.recommend([make_request(index, events) | {"excluded": [index.id(2)]}] * requests)
        assert (pipeline.graphs.plain, pipeline.graphs.captured) == (before.plain, before.captured)
        assert sum((pipeline.graphs.replayed - before.replayed).values()) == 4 * 12


def test_a_stream_that_cannot_be_captured_yet_runs_plain_until_it_can(
    tmp_path: Path, index: ItemIndex, machine: Machine
) -> None:
    bundle = write_plans(write_bundle(tmp_path / "rtx"), "tensorrt_rtx")
    with machine.serve(bundle) as pipeline:
        for _ in range(4):
            pipeline.recommend([make_request(index, 3)])
        graphs = pipeline.graphs  # the fake says no when it is asked first
    assert (by_stage(graphs.plain), by_stage(graphs.captured), by_stage(graphs.replayed)) == (each(2), each(1), each(1))


def test_the_size_unused_for_longest_makes_room_and_starts_over(
    planned: Path, index: ItemIndex, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.chain, "MAX_BINDINGS", 4)  # two sizes of two stages
    with machine.serve(planned) as pipeline:

        def serve(requests: int, times: int = 1) -> None:
            for _ in range(times):
                pipeline.recommend([make_request(index, 3)] * requests)

        serve(1, 3)
        serve(2, 3)
        serve(1)  # used again: 2 is now the oldest
        assert pipeline.graphs.evicted == {}
        serve(3)
        assert pipeline.graphs.evicted == each(1)
        assert len(CONTEXTS) == 8
        assert len(machine.device.graphs) == 4  # of one request
        before = pipeline.graphs
        serve(1)
        assert pipeline.graphs.plain == before.plain
        serve(2, 3)  # 3 makes room for it
        after = pipeline.graphs
        assert by_stage(after.evicted) == each(2)
        for name in ("plain", "captured", "replayed"):
            fresh = getattr(after, name) - getattr(before, name)
            assert {key.split()[0] for key in fresh if "B=2" in key} == set(STAGES), name


def test_a_capture_that_fails_is_told_once_and_then_runs_plain(
    planned: Path, index: ItemIndex, machine: Machine
) -> None:
    request = [make_request(index, 3)]
    with machine.serve(planned) as pipeline:
        (wanted,) = pipeline.recommend(request)
        machine.device.fail_captures = 1
        with pytest.raises(DeviceError) as caught:
            pipeline.recommend(request)
        message = str(caught.value)
        assert message.startswith(
            "generator single B=1 S=64: no CUDA graph could be captured: cuda:0 (fake): no memory"
        )
        assert message.endswith("call again, or load the bundle with cuda_graphs=False.")
        for _ in range(4):
            assert pipeline.recommend(request) == [wanted]
        graphs = pipeline.graphs
        assert by_stage(graphs.plain) == each(1) | {"generator": 5}
        assert by_stage(graphs.captured) == {name: 1 for name in STAGES if name != "generator"}
        other = [make_request(index, 3)] * 2
        for _ in range(2):
            pipeline.recommend(other)  # another size is captured again
        assert by_stage(pipeline.graphs.captured)["generator"] == 1


def test_a_size_that_makes_room_is_waited_for_before_its_context_is_freed(
    planned: Path, index: ItemIndex, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.chain, "MAX_BINDINGS", 1)  # the enhancer makes the generator's binding go
    with machine.serve(planned) as pipeline:
        (wanted,) = pipeline.recommend([make_request(index, 3)])
        assert pipeline.recommend([make_request(index, 3)]) == [wanted]
        assert by_stage(pipeline.graphs.plain) == each(2)


def test_a_swap_after_a_call_that_failed_waits_for_what_was_launched(
    planned: Path, index: ItemIndex, machine: Machine
) -> None:
    with machine.serve(planned) as pipeline:
        (wanted,) = pipeline.recommend([make_request(index, 3)])
        bound = next(row for key, row in pipeline._items.bound.items() if key[0] == "ranker")
        bound.binding._replay._launch = lambda: (_ for _ in ()).throw(DeviceError("the ranker stopped"))
        with pytest.raises(DeviceError, match="the ranker stopped"):
            pipeline.recommend([make_request(index, 3)])
        pipeline.swap_items(planned / "items")  # the retriever's work of that call is not done yet
        assert pipeline.recommend([make_request(index, 3)]) == [wanted]


def test_a_size_that_could_not_be_captured_stays_plain_after_an_eviction(
    planned: Path, index: ItemIndex, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.chain, "MAX_BINDINGS", 2)
    with machine.serve(planned) as pipeline:
        pipeline.recommend([make_request(index, 3)])
        machine.device.fail_captures = 1
        with pytest.raises(DeviceError, match="no CUDA graph could be captured"):
            pipeline.recommend([make_request(index, 3)])
        pipeline.recommend([make_request(index, 3)] * 2)
        machine.device.fail_captures = 1
        for _ in range(2):
            pipeline.recommend([make_request(index, 3)])
            machine.device.fail_captures = 0
        assert "generator single B=1 S=64" not in pipeline.graphs.captured


def test_a_second_thread_is_refused_and_disturbs_nothing(
    planned: Path, index: ItemIndex, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, caught = [make_request(index, 3)], []
    with machine.serve(planned) as pipeline:
        (wanted,) = pipeline.recommend(request)
        run = pipeline._forward.enhance

        def call_meanwhile() -> None:
            try:
                pipeline.recommend(request)
            except OneRankerError as error:
                caught.append(error)

        def slow() -> None:
            thread = threading.Thread(target=call_meanwhile)
            thread.start()
            thread.join()
            run()

        monkeypatch.setattr(pipeline._forward, "enhance", slow)
        assert pipeline.recommend(request) == [wanted]
        assert [type(error) for error in caught] == [UsageError]


def test_another_thread_may_take_over_between_two_calls(planned: Path, index: ItemIndex, machine: Machine) -> None:
    """The fake device refuses a thread that has not made it its own, as CUDA would use another device."""
    answers, request = [], [make_request(index, 3)]
    with machine.serve(planned) as pipeline:
        for _ in range(4):
            thread = threading.Thread(target=lambda: answers.append(pipeline.recommend(request)))
            thread.start()
            thread.join()
        assert answers == [pipeline.recommend(request)] * 4


def test_a_swap_from_another_thread_waits_for_the_call_and_is_not_overtaken(
    planned: Path, index: ItemIndex, machine: Machine
) -> None:
    with machine.serve(planned) as pipeline:
        versions, done = [], threading.Event()
        swap = threading.Thread(target=lambda: (pipeline.swap_items(planned / "items"), done.set()))
        swap.start()
        while not done.is_set():  # a serving thread that never pauses
            assert len(versions) < 1000, "the swap was overtaken"
            versions.append(pipeline.recommend([make_request(index, 3)])[0].index_version)
        swap.join()
        assert pipeline.recommend([make_request(index, 3)])
        assert set(versions) <= {index.version}


def test_two_pipelines_share_no_stream_and_no_memory(
    bundle: Path, planned: Path, index: ItemIndex, machine: Machine
) -> None:
    first, second = [make_request(index, 3)], [make_request(index, 30, 1)]
    with Pipeline.load(bundle, "onnxruntime", "cpu", threads=1) as cpu:
        wanted = cpu.recommend(first), cpu.recommend(second)
        with machine.serve(planned) as one:
            with machine.serve(planned, device="cuda:1") as other:
                assert (one.device, other.device) == ("cuda:0 (fake)", "cuda:1 (fake)")
                assert len({device.stream for device in machine.opened}) == 2
                for _ in range(4):
                    assert (one.recommend(first), other.recommend(second)) == wanted
                assert by_stage(one.graphs.replayed) == by_stage(other.graphs.replayed) == each(2)
            assert one.recommend(first) == wanted[0]


def test_close_frees_contexts_graphs_and_memory_even_in_the_middle_of_a_batch(
    planned: Path, index: ItemIndex, machine: Machine
) -> None:
    with machine.serve(planned) as pipeline:
        for _ in range(2):
            pipeline.recommend([make_request(index, 3)])
        assert CONTEXTS
        pipeline.generate([one.tokens for one in pipeline.encode([make_request(index, 3)])])
        pipeline._forward.enhance()
        pipeline._forward.retrieve(pipeline._items, None)  # none of it is waited for
    assert not CONTEXTS
    machine.check_freed()
    pipeline.close()
