"""`python -m benchmarks.retrieval_scale`, in process and on a tiny bundle: its rows are complete and true."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks import retrieval_index, retrieval_scale
from benchmarks.retrieval_row import DENSE, TRIE, RetrievalRow
from benchmarks.retrieval_scale import ScaleSettings, StepFailedError, dense_bytes, do_step, main, measure
from oneranker.config import preset
from runtime.errors import FeedError
from runtime.items import ItemIndex

CONFIG = preset("tiny")
MEASURED = {
    "levels", "codes", "beams", "heads", "candidates", "nodes", "samples", "p50_ms", "p90_ms", "p99_ms", "filtered_ms",
    "lookup_ms", "peak_memory_mib", "index_build_s", "index_bytes", "index_open_s", "swap_s", "swap_slowest_ms",
    "bytes_per_item", "resident_bytes_per_item", "build_peak_mib",
}  # fmt: skip
RECALLED = {"users", "recall_at_c", "recall_at_10", "recall_s"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of the tiny bundle."""
    folder = tmp_path_factory.mktemp("scale") / "checkpoint"
    retrieval_index.random_checkpoint(folder, "tiny", CONFIG.codes**CONFIG.code_levels // 2, 0)
    return folder


def steps_here(seen: list[tuple[str, dict[str, Any]]]) -> retrieval_scale.Run:
    """Steps in this process; keeps what was asked and, of a served index, a copy beside the working folder."""

    def run(step: str, job: dict[str, Any]) -> dict[str, Any]:
        answer = do_step(step, json.loads(json.dumps(job)))
        if step == "recall":
            folder = Path(job["items"])
            kept = folder.parent.parent / f"kept-{answer['users']}"
            shutil.copytree(folder, kept / "items")
            shutil.copy(folder.with_name("answers.safetensors"), kept)
        seen.append((step, job))
        return answer

    return run


def test_rows_of_a_trie_are_complete_and_nothing_is_left(tiny_bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    settings = ScaleSettings(
        items=(900, 700), retrievers=(TRIE,), checkpoint=checkpoint, bundle=tiny_bundle, threads=1, rounds=4, users=3,
        recall_items=800, reference=700, work=tmp_path,
    )  # fmt: skip
    seen: list[tuple[str, dict[str, Any]]] = []
    small, large = measure(settings, steps_here(seen))
    assert [step for step, _ in seen] == ["bundles", "index", "serve", "recall", "index", "serve"]
    assert [path.name for path in tmp_path.iterdir()] == ["kept-3"]
    for row, items in ((small, 700), (large, 900)):
        assert (row.case, row.items, row.note, row.samples) == (f"trie-n{items}", items, "", 6)  # 4, in rounds of 3
        assert not [name for name in MEASURED if asdict(row)[name] is None]
        assert (row.levels, row.codes, row.beams) == (CONFIG.code_levels, CONFIG.codes, CONFIG.beams)
    assert not [name for name in RECALLED if asdict(small)[name] is None]
    assert (large.recall_at_c, large.users) == (None, 0)
    assert (small.reference_items, small.p50_vs_reference) == (None, None)
    assert large.p50_ms is not None
    assert large.reference_p50_ms is not None
    assert large.reference_items == 700
    assert large.p50_vs_reference == pytest.approx(large.p50_ms / large.reference_p50_ms)
    index = ItemIndex.read(tmp_path / "kept-3" / "items")
    assert small.recall_at_c == pytest.approx(brute_recall(checkpoint, index, tmp_path / "kept-3"))


def brute_recall(checkpoint: Path, index: ItemIndex, folder: Path) -> float:
    """The share of the best C that was served, by scoring every item of the index alone."""
    import torch

    from oneranker import weights

    model, answers = weights.load(checkpoint), load_file(folder / "answers.safetensors")
    codes, books, anchors = (torch.from_numpy(index.tables[name].copy()) for name in ("codes", "codebooks", "anchors"))
    shares = []
    for user, served in zip(answers["user_embedding"], answers["candidate_items"], strict=True):
        interest, value = user[: CONFIG.interest_tokens], user[CONFIG.interest_tokens :].mean(axis=0)
        best: dict[int, float] = {}
        for head in [*interest, value]:
            with torch.inference_mode():
                logits = model.retriever.scorer.path_logits(torch.from_numpy(head), codes.long(), books, anchors)
            logp = sum(
                torch.log_softmax(one, -1).numpy()[range(len(codes)), codes[:, i]] for i, one in enumerate(logits)
            )
            for row in np.argsort(-logp)[: CONFIG.beams].tolist():
                best[row] = max(best.get(row, -np.inf), float(logp[row]))
        wanted = sorted(best, key=lambda row: -best[row])[: CONFIG.candidates]
        shares.append(len({*wanted} & {*served.tolist()}) / len(wanted))
    return float(np.mean(shares))


def test_a_dense_index_that_needs_more_than_it_may_says_how_much() -> None:
    settings = ScaleSettings(items=(1000,), retrievers=(DENSE,), preset="tiny", memory_gib=0.0)
    (row,) = measure(settings, lambda _step, _job: {})
    needed = dense_bytes(CONFIG, 1000)
    assert needed == 1000 * (4 * 32 + 4 * (32 + 7) + 300)
    assert row.note == f"not run: needs {needed / 2**30:.1f} GiB, 1000 items of 4*D=128 + 4*(D+A)=156 + 300 bytes"
    assert not [name for name in MEASURED if asdict(row)[name]]


def test_a_step_that_fails_is_a_row_that_says_so_and_the_next_size_is_measured() -> None:
    def run(step: str, job: dict[str, Any]) -> dict[str, Any]:
        if step == "serve" and not served:
            served.append(step)
            raise StepFailedError("step serve ended with 9")
        return {"p50_ms": 2.0} if step == "serve" else {}

    served: list[str] = []
    rows = measure(ScaleSettings(items=(10, 20), retrievers=(TRIE,), preset="tiny"), run)
    assert [(row.note, row.p50_ms) for row in rows] == [("not run: step serve ended with 9", None), ("", 2.0)]


def test_a_row_is_named_after_the_items_that_it_has() -> None:
    def run(step: str, job: dict[str, Any]) -> dict[str, Any]:
        return {"items": 16} if step == "index" else {}

    (row,) = measure(ScaleSettings(items=(10,), retrievers=(TRIE,), preset="tiny"), run)
    assert (row.case, row.items) == ("trie-n16", 16)


def test_more_items_than_semantic_ids_are_refused() -> None:
    with pytest.raises(FeedError, match=r"got 2000, expected at most V\*\*L = 1331"):
        measure(ScaleSettings(items=(2000,), preset="tiny"), lambda _step, _job: {})


@pytest.mark.parametrize("marked", [1 << 26, 0], ids=["marks", "draws"])
@pytest.mark.parametrize(("codes", "items"), [(11, 600), (11, 1000), (64, 2000)])
def test_scaled_codes_are_distinct_sorted_and_hold_the_own_ones(
    monkeypatch: pytest.MonkeyPatch, codes: int, items: int, marked: int
) -> None:
    if not marked and codes == 11:
        codes = 64  # draws are for spaces that stay almost empty
    monkeypatch.setattr(retrieval_index, "_MARKED", marked)
    config = replace(CONFIG, codes=codes)
    own = np.array([[3, 1, 2], [0, 0, 0], [10, 10, 10]], np.int32)
    found, rows = retrieval_index.scaled_codes(config, own, items, 0)
    paths = [tuple(path) for path in found.tolist()]
    assert paths == sorted(set(paths))
    assert len(paths) == items
    assert found[rows].tolist() == own.tolist()
    assert found.min() >= 0
    assert found.max() < codes


def test_an_index_has_the_models_own_tables(checkpoint: Path, tmp_path: Path) -> None:
    from oneranker import weights
    from oneranker.catalogue import Catalogue, index_tensors

    retrieval_index.dense_checkpoint(checkpoint, tmp_path / "dense")
    found = retrieval_index.write_index(tmp_path / "dense", tmp_path / "items", 1, DENSE, 0)
    own = Catalogue.load(checkpoint / "catalogue.safetensors")
    index, wanted = ItemIndex.read(tmp_path / "items"), index_tensors(weights.load(tmp_path / "dense"), own)
    assert found["items"] == len(index) == len(own.ids)
    assert [index.id(row) for row in range(len(index))] == own.ids
    for name in ("item_table", "item_vectors", "trie_items_begin"):
        np.testing.assert_allclose(index.tables[name], wanted[name].detach(), atol=1e-6, err_msg=name)


def test_a_dense_checkpoint_has_the_same_weights_and_another_retriever(checkpoint: Path, tmp_path: Path) -> None:
    from oneranker import weights

    retrieval_index.dense_checkpoint(checkpoint, tmp_path / "dense")
    trie, dense = weights.load(checkpoint), weights.load(tmp_path / "dense")
    assert (trie.config.retriever, dense.config.retriever) == ("trie", "dense")
    assert all(bool((tensor == trie.state_dict()[name]).all()) for name, tensor in dense.state_dict().items())


@pytest.mark.parametrize("words", [["--users", "0"], ["--items", "0"], ["--bundle", "b"], ["--retriever", "tree"]])
def test_words_that_no_run_can_use_end_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_lines_are_printed_and_added_to_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = RetrievalRow(case="trie-n5", retriever=TRIE, items=5, p50_ms=1.5)
    monkeypatch.setattr(retrieval_scale, "measure", lambda settings, run: [row] * len(settings.items))
    out = tmp_path / "results" / "rows.jsonl"
    words = ["--items", "5", "--items", "7", "--out", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert out.read_text() == printed
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [(line["case"], line["p50_ms"]) for line in lines] == [("trie-n5", 1.5)] * 2
    assert all(line["command"].endswith(" ".join(words)) and line["machine"] and line["versions"] for line in lines)
