from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assertions import assert_close

import runtime.forward
from export.model_source import ModelSource, read_source
from export.settings import BuildSettings
from oneranker.catalogue import index_tensors
from oneranker.synthetic import padded_batch, synthetic_request
from oneranker.tokens import SimpleItemLookup, Tokens
from runtime import Pipeline
from runtime.item_tables import ItemFilter

REQUESTS = 200
NOTHING = -1e29  # below: a pad


@pytest.fixture(scope="module")
def source() -> ModelSource:
    """The very model of the tiny bundle, in PyTorch."""
    return read_source(BuildSettings(preset="tiny"))


@pytest.fixture(scope="module")
def pipeline(tiny_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.load(tiny_bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def half_pipeline(tiny_fp16_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.load(tiny_fp16_bundle, threads=1) as loaded:
        yield loaded


@dataclass
class Case:
    """A batch of random requests: tokens, who may be recommended, and the caller's own candidates."""

    tokens: list[Tokens]
    eligible: np.ndarray  # bool [B, N]
    candidates: np.ndarray  # int64 [B, C], -1 pads


def random_case(source: ModelSource, generator: np.random.Generator, batch: int) -> Case:
    config, catalogue = source.model.config, source.catalogue
    N, tokens = len(catalogue.ids), []
    for _ in range(batch):
        length = int(generator.integers(1, config.max_history + 1))
        made = source.tokenizer.encode(
            synthetic_request(catalogue, generator, max(length, 2)),
            SimpleItemLookup(catalogue.ids, catalogue.item_fields),
            config.max_history,
        )
        tokens.append(Tokens(made.token_fields[:length], made.token_kind[:length], made.token_time[:length], 0, 0))
    eligible = generator.random((batch, N)) < generator.random((batch, 1))
    candidates = np.full((batch, config.candidates), -1)
    for row in range(batch):
        count = int(generator.integers(1, config.candidates + 1))
        candidates[row, :count] = generator.permutation(N)[:count]
    return Case(tokens, eligible, candidates)


def cases(source: ModelSource) -> Iterator[Case]:
    generator, left = np.random.default_rng(7), REQUESTS
    while left:
        batch = min(int(generator.integers(1, 9)), left)
        left -= batch
        yield random_case(source, generator, batch)


@torch.inference_mode()
def reference(source: ModelSource, case: Case, dtype: torch.dtype = torch.float32, **given: Any) -> dict[str, Any]:
    model = source.model if dtype == torch.float32 else _half(source)
    index = index_tensors(model, source.catalogue, case.eligible)
    index["eligible_row"] = torch.arange(len(case.tokens), dtype=torch.int32)
    return model(padded_batch(case.tokens) | given, index)


_halves: dict[int, Any] = {}


def _half(source: ModelSource) -> Any:
    from export.precision import in_precision
    from export.settings import Precision

    return _halves.setdefault(id(source), in_precision(source.model, Precision.FP16))


def answer(pipeline: Pipeline, case: Case) -> dict[str, torch.Tensor]:
    pipeline.generate(case.tokens)
    pipeline.enhance()
    found = pipeline.retrieve([ItemFilter(only=np.flatnonzero(row), without=None) for row in case.eligible])
    out = {"candidate_items": found.items, "candidate_logp": found.logp, "candidate_count": found.count}
    out |= {"candidate_head": found.head, "scores": pipeline.rank()}
    return {name: torch.from_numpy(np.array(array)) for name, array in out.items()}


def relative(tensor: torch.Tensor) -> float:
    real = tensor[tensor > NOTHING]
    return float(real.abs().max()) if real.numel() else 1.0


def best(items: torch.Tensor, scores: torch.Tensor) -> list[tuple[float, int]]:
    """The ten best, (score, item)."""
    rows = [(float(s), int(i)) for s, i in zip(scores, items, strict=True) if i >= 0]
    return sorted(rows, key=lambda row: (-row[0], row[1]))[:10]


def test_fp32_chain_gives_the_items_and_scores_of_forward_for_200_random_requests(
    source: ModelSource, pipeline: Pipeline
) -> None:
    for case in cases(source):
        got, wanted = answer(pipeline, case), reference(source, case)
        assert torch.equal(got["candidate_count"], wanted["candidate_count"].to(got["candidate_count"].dtype))
        assert torch.equal(got["candidate_items"], wanted["candidate_items"])
        assert torch.equal(got["candidate_head"], wanted["candidate_head"])
        for name in ("candidate_logp", "scores"):
            pads = wanted[name] < NOTHING
            assert torch.equal(got[name] < NOTHING, pads)
            scale = relative(wanted[name])
            assert_close(got[name].masked_fill(pads, 0), wanted[name].masked_fill(pads, 0), atol=1e-4 * scale)
        for row in range(len(case.tokens)):
            pairs = (best(got["candidate_items"][row], got["scores"][row]),
                     best(wanted["candidate_items"][row], wanted["scores"][row]))  # fmt: skip
            for (got_score, got_item), (score, item) in zip(*pairs, strict=True):
                tie = abs(got_score - score) <= 1e-4 * abs(score)
                assert got_item == item or tie


def test_callers_own_candidates_score_as_forward_scores_them(source: ModelSource, pipeline: Pipeline) -> None:
    for case in cases(source):
        pipeline.generate(case.tokens)
        pipeline.enhance()
        got = torch.from_numpy(pipeline.rank(case.candidates))
        wanted = reference(source, case, candidate_items=torch.from_numpy(case.candidates))["scores"]
        pads = torch.from_numpy(case.candidates < 0)
        assert bool((got[pads] < NOTHING).all())
        assert_close(got[~pads], wanted[~pads], atol=1e-4 * relative(wanted))


def test_fp16_chain_is_within_twice_the_rounding_of_eager_fp16(source: ModelSource, half_pipeline: Pipeline) -> None:
    """Scores of the caller's candidates, the same for all three, and the log-probabilities of items all three found."""
    errors: dict[str, list[float]] = {"graph": [], "eager": [], "graph logp": [], "eager logp": []}
    largest = 0.0
    overlap = []
    for case in cases(source):
        given = {"candidate_items": torch.from_numpy(case.candidates)}
        exact, eager = reference(source, case, **given), reference(source, case, torch.float16, **given)
        got = answer(half_pipeline, case)
        real = torch.from_numpy(case.candidates >= 0)
        scores = torch.from_numpy(half_pipeline.rank(case.candidates))
        largest = max(largest, relative(exact["scores"]))
        errors["graph"].append(float((scores - exact["scores"])[real].abs().max()))
        errors["eager"].append(float((eager["scores"] - exact["scores"])[real].abs().max()))
        for row in range(len(case.tokens)):
            lists = [
                dict(zip(out["candidate_items"][row].tolist(), out["candidate_logp"][row].tolist(), strict=True))
                for out in (got, eager, exact)
            ]
            both = [item for item in lists[2] if item >= 0 and item in lists[0] and item in lists[1]]
            errors["graph logp"] += [abs(lists[0][item] - lists[2][item]) for item in both]
            errors["eager logp"] += [abs(lists[1][item] - lists[2][item]) for item in both]
            wanted = [item for item in lists[2] if item >= 0][:10]
            overlap.append(len(set(wanted) & set(lists[0])) / len(wanted) if wanted else 1.0)
    assert max(errors["graph"]) <= 2 * max(errors["eager"]) + 1e-5 * largest
    assert max(errors["graph logp"]) <= 2 * max(errors["eager logp"]) + 1e-4
    assert np.mean(overlap) > 0.98, "fp16 lost more of the ten best than rounding explains"


def test_padding_batching_and_order_of_candidates_change_no_answer(source: ModelSource, pipeline: Pipeline) -> None:
    generator = np.random.default_rng(3)
    case = random_case(source, generator, 8)
    together = answer(pipeline, case)
    ranked = pipeline.rank(case.candidates)
    for row in range(8):
        alone = Case(case.tokens[row : row + 1], case.eligible[row : row + 1], case.candidates[row : row + 1])
        apart = answer(pipeline, alone)
        assert torch.equal(apart["candidate_items"][0], together["candidate_items"][row])
        pads = together["scores"][row] < NOTHING
        assert_close(apart["scores"][0][~pads], together["scores"][row][~pads], atol=1e-5)
        count = int((case.candidates[row] >= 0).sum())
        order = generator.permutation(count)
        shuffled = pipeline.rank([case.candidates[row][:count][order].tolist()])[0, :count]
        assert_close(torch.from_numpy(shuffled), torch.from_numpy(ranked[row, :count][order]), atol=1e-5)


def test_real_graphs_answer_the_same_at_every_padded_size(
    source: ModelSource, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buckets so small that the tiny model has several: 4, 8, 16, 20 tokens and 2, 4, 8, 13 candidates."""
    generator = np.random.default_rng(11)
    cases = [random_case(source, generator, 1) for _ in range(8)]
    with Pipeline.load(tiny_bundle, threads=1) as pipeline:
        wide = [(answer(pipeline, case), pipeline.rank(case.candidates)) for case in cases]
    monkeypatch.setattr(runtime.forward, "SMALLEST_HISTORY", 4)
    monkeypatch.setattr(runtime.forward, "SMALLEST_CANDIDATES", 2)
    sizes = set()
    with Pipeline.load(tiny_bundle, threads=1) as pipeline:
        for case, (found, ranked) in zip(cases, wide, strict=True):
            tight = answer(pipeline, case)
            sizes.add(pipeline.read("history_hidden").shape[1])
            assert torch.equal(tight["candidate_items"], found["candidate_items"])
            pads = found["scores"] < NOTHING
            assert_close(tight["scores"].masked_fill(pads, 0), found["scores"].masked_fill(pads, 0), atol=1e-5)
            count = int((case.candidates >= 0).sum())
            few = pipeline.rank([case.candidates[0, :count].tolist()])[:, :count]
            assert_close(torch.from_numpy(few), torch.from_numpy(ranked[:, :count].copy()), atol=1e-5)
    assert len(sizes) > 1, "the requests must fall into several buckets"


def test_chain_copies_no_key_or_value_between_stages(source: ModelSource, pipeline: Pipeline) -> None:
    before = pipeline.copies
    for case in [random_case(source, np.random.default_rng(seed), 3) for seed in range(3)]:
        answer(pipeline, case)
    after = pipeline.copies
    assert not +after.stage_to_stage
    travelled = set(after.host_to_stage - before.host_to_stage)
    assert travelled <= {"token_fields", "token_kind", "token_time", "history_mask", "eligible_row", "item_eligible"}
    assert not any("key" in name or "value" in name for name in after.results_read - before.results_read)
