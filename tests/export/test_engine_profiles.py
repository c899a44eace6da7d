from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from export.profiles import EngineProfile, engine_profiles
from export.settings import BuildSettings, Precision, profile_of
from export.stages import stage_specs
from oneranker.config import PRESETS, OneRankerConfig, RetrieverMode
from runtime.errors import BuildError
from runtime.manifest import STAGES
from runtime.requests import SMALLEST_CANDIDATES, SMALLEST_HISTORY, bucket


def profiles(config: OneRankerConfig, **settings) -> dict[str, tuple[EngineProfile, ...]]:
    asked = BuildSettings(**settings)
    envelope, specs = profile_of(asked, config), stage_specs(config, Precision.FP16)
    return {name: engine_profiles(specs[name].inputs, envelope, asked, config.code_levels) for name in STAGES}


def runtime_sizes(config: OneRankerConfig, **settings) -> list[dict[str, int]]:
    """Every combination of sizes that the runtime's own rounding can make, with the smallest and largest catalogue."""
    ranges = profile_of(BuildSettings(**settings), config).ranges()
    least, most = ranges["S"][0], ranges["S"][2]
    histories = {bucket(length, max(SMALLEST_HISTORY, least), most) for length in range(1, most + 1)}
    low, _, high = ranges["C"]
    candidates = {bucket(count, max(SMALLEST_CANDIDATES, low), high) for count in range(1, high + 1)}
    sizes = []
    for B, S, C in product(range(ranges["B"][0], ranges["B"][2] + 1), histories, candidates | {config.candidates}):
        for N in (1, 10_000_000):
            sizes += [{"B": B, "S": S, "C": C, "N": N, "P": 1 + config.code_levels * N, "R": R} for R in (1, 1 + B)]
    return sizes


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("paper", {}),
        ("demo", {}),
        ("tiny", {}),
        ("paper", {"attention_block": 0}),
        ("tiny", {"attention_block": 0}),
        ("paper", {"max_shapes": {"S": 1500, "B": 5, "C": 700}}),
        ("paper", {"min_shapes": {"S": 100, "C": 20}}),
        ("paper", {"max_shapes": {"B": 1}}),
        ("paper", {"min_shapes": {"B": 2}, "opt_shapes": {"B": 4}}),
    ],
)
def test_every_size_that_the_runtime_makes_lies_in_exactly_one_profile(preset: str, settings) -> None:
    config = PRESETS[preset]
    sizes = runtime_sizes(config, **settings)
    for stage, rows in profiles(config, **settings).items():
        for letters in sizes:
            inside = [row.name for row in rows if row.holds(letters)]
            assert len(inside) == 1, f"{stage} at {letters}: {inside}"


def test_the_papers_profiles_split_batches_and_histories() -> None:
    found = profiles(PRESETS["paper"])
    assert [row.name for row in found["generator"]] == ["single-short", "single-long", "batch-short", "batch-long"]
    assert [row.letters for row in found["generator"]] == [
        {"B": (1, 1, 1), "S": (3, 1024, 1024)},
        {"B": (1, 1, 1), "S": (1025, 2048, 2048)},
        {"B": (2, 8, 8), "S": (3, 1024, 1024)},
        {"B": (2, 8, 8), "S": (1025, 2048, 2048)},
    ]
    assert [row.name for row in found["retriever"]] == ["single", "batch"]
    assert found["ranker"][3].letters["C"] == (1, 512, 512)


def test_a_history_of_one_block_is_not_split() -> None:
    assert [row.name for row in profiles(PRESETS["demo"])["generator"]] == ["single", "batch"]


def test_the_sizes_that_were_asked_for_are_the_envelope() -> None:
    found = profiles(PRESETS["paper"], opt_shapes={"B": 4, "S": 512}, max_shapes={"B": 16})["enhancer"]
    assert [row.letters["B"] for row in found] == [(1, 1, 1), (1, 1, 1), (2, 4, 16), (2, 4, 16)]
    assert [row.letters["S"] for row in found][:2] == [(3, 512, 1024), (1025, 2048, 2048)]


@pytest.mark.parametrize("mode", [RetrieverMode.TRIE, RetrieverMode.DENSE])
def test_the_retriever_takes_ten_million_items_and_a_filter_for_every_request(mode: RetrieverMode) -> None:
    config = replace(PRESETS["paper"], retriever=mode)
    single, batch = profiles(config)["retriever"]
    assert single.letters["N"] == batch.letters["N"] == (1, 100_000, 10_000_000)
    assert (single.letters["R"], batch.letters["R"]) == ((1, 1, 2), (1, 1, 9))
    if mode is RetrieverMode.TRIE:  # the root, and at most one node an item at each of three levels
        assert batch.letters["P"] == (4, 300_001, 30_000_001)
    else:
        assert set(batch.letters) == {"B", "N", "R"}
    assert profiles(config, max_items=5_000)["retriever"][0].letters["N"] == (1, 5_000, 5_000)


def test_a_catalogue_beyond_what_an_engine_can_count_is_refused() -> None:
    with pytest.raises(BuildError, match=r"entries of eligibility for 8 requests, expected at most 2147483647"):
        profiles(PRESETS["paper"], max_items=300_000_000)
