"""Training takes semantic IDs of any method or from a folder, and what it leaves is exported and recommends."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.build import build_bundle
from export.settings import BuildSettings, Engine, Precision
from oneranker import weights
from oneranker.catalogue import Catalogue, index_tensors
from oneranker.config import PRESETS, preset
from oneranker.data.dataset import CatalogueItems, Dataset, catalogue_items
from oneranker.data.requests import requests_of_test
from oneranker.semantic_ids import IdSettings, Method, SemanticIds
from oneranker.semantic_ids.famae import FamaeSettings
from oneranker.semantic_ids.from_dataset import fit_from_dataset
from oneranker.synthetic import padded_batch
from oneranker.tokens import SimpleItemLookup, Tokenizer
from oneranker.train import RECORD_FILE, RUN_FILE, main
from oneranker.training import preparation
from runtime import Pipeline

SMALL = FamaeSettings(width=8, heads=2, layers=1, history=4, max_steps=2)
METHODS = [method.value for method in Method]


def quick_fit(
    dataset: Dataset, items: CatalogueItems, settings: IdSettings, *, width: int, famae: FamaeSettings = SMALL
) -> SemanticIds:
    """The default budgets, for which training has no words, take minutes."""
    if settings.method is Method.RQ_KMEANS_PLUS:
        settings = replace(settings, refine_steps=3)
    return fit_from_dataset(dataset, items, settings, width=width, famae=famae)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "fit_from_dataset", quick_fit)


def words(town: Path, out: Path, ids: str | Path) -> list[str]:
    run = ["--data", str(town), "--preset", "tiny", "--steps", "2", "--out", str(out)]
    return [*run, "--semantic-ids", str(ids)]


@pytest.fixture(scope="module")
def built(town: Path) -> SemanticIds:
    dataset = Dataset.read(town)
    settings = IdSettings(method=Method.RESID, branching=(3, 4), spare_leaves=2)
    return quick_fit(dataset, catalogue_items(dataset), settings, width=16)


@pytest.mark.parametrize("method", METHODS)
def test_codes_of_every_method_train(
    method: str, town: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(words(town, out, method)) == 0
    assert math.isfinite(json.loads(capsys.readouterr().out)["loss"])
    record = json.loads((out / RECORD_FILE).read_text())
    assert record["semantic_ids"] == json.loads((out / RUN_FILE).read_text())["semantic_ids"] == method
    dataset, found = Dataset.read(town), Catalogue.load(out / weights.CATALOGUE_FILE)
    items = catalogue_items(dataset)
    ids = quick_fit(dataset, items, IdSettings(method=Method(method), codes=11), width=32)  # the preset's
    place = {item: row for row, item in enumerate(items.ids)}
    np.testing.assert_array_equal(found.codes, ids.codes[[place[item] for item in found.ids]])
    assert found.codebooks.shape == (3, 11, 32)
    if method != "resid":
        np.testing.assert_array_equal(found.codebooks[:, : max(ids.widths)], ids.codebooks)
    main(words(town, out, method))
    assert json.loads(capsys.readouterr().out)["reused"] is True


def test_a_run_of_a_version_that_had_one_method_alone_is_still_known(
    town: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(words(town, out, "rq-kmeans")) == 0
    begun = json.loads((out / RUN_FILE).read_text())
    del begun["semantic_ids"]
    (out / RUN_FILE).write_text(json.dumps(begun))
    capsys.readouterr()
    assert main(words(town, out, "rq-kmeans")) == 0
    assert json.loads(capsys.readouterr().out)["reused"] is True
    assert main(words(town, out, "gaoq")) == 1


def test_codes_of_a_folder_train_whatever_order_its_items_have(town: Path, tmp_path: Path, built: SemanticIds) -> None:
    built.assign(["of another town"], built.embeddings[:1]).save(tmp_path / "ids")
    assert main(words(town, tmp_path / "run", tmp_path / "ids")) == 0
    found = Catalogue.load(tmp_path / "run" / weights.CATALOGUE_FILE)
    wanted = dict(zip(built.item_ids, built.codes.tolist(), strict=True))
    assert dict(zip(found.ids, found.codes.tolist(), strict=True)) == wanted


def test_a_finished_run_asked_for_with_other_codes_is_refused(
    town: Path, tmp_path: Path, built: SemanticIds, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    built.save(tmp_path / "ids")
    assert main(words(town, out, tmp_path / "ids")) == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    grown = built.assign(["new"], built.embeddings[:1])
    grown.save(tmp_path / "grown")
    for other in ("gaoq", "resid", tmp_path / "grown", tmp_path / "nowhere"):
        caplog.clear()
        assert main(words(town, out, other)) == 1
        assert "holds a run with other semantic_ids, expected the same; use another --out" in caplog.text
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    (tmp_path / "ids").rename(tmp_path / "moved")
    assert main(words(town, out, tmp_path / "moved")) == 0  # a folder counts by its content


def test_a_folder_that_lacks_an_item_is_refused_and_may_be_mended(
    town: Path, tmp_path: Path, built: SemanticIds, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = Dataset.read(town)
    items = catalogue_items(dataset)
    few, last = items.take(np.arange(len(items.ids) - 1)), items.ids[-1]
    ids = quick_fit(dataset, few, IdSettings(codes=11), width=16)
    ids.save(tmp_path / "ids")
    assert main(words(town, tmp_path / "run", tmp_path / "ids")) == 1
    assert f"ids: lacks 1 of {len(items.ids)} items, such as '{last}', expected codes for all" in caplog.text
    ids.assign([last], ids.embeddings[:1]).save(tmp_path / "ids")
    assert main(words(town, tmp_path / "run", tmp_path / "ids")) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (IdSettings(codes=12), "expected 3 levels of at most 11"),
        (IdSettings(codes=11, levels=2), "expected 3 levels of at most 11"),
    ],
)
def test_codes_that_the_model_has_no_room_for_are_refused(
    settings: IdSettings, message: str, town: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = Dataset.read(town)
    quick_fit(dataset, catalogue_items(dataset), settings, width=8).save(tmp_path / "ids")
    assert main(words(town, tmp_path / "run", tmp_path / "ids")) == 1
    assert message in caplog.text
    assert main(words(town, tmp_path / "run", tmp_path / "nowhere")) == 1
    assert "nowhere" in caplog.text


@torch.inference_mode()
def eager(checkpoint: Path, request: dict[str, object], top: int) -> list[tuple[str, float]]:
    """The best items of a request and their scores, by PyTorch."""
    model, catalogue = weights.load(checkpoint).eval(), Catalogue.load(checkpoint / weights.CATALOGUE_FILE)
    lookup = SimpleItemLookup(catalogue.ids, catalogue.item_fields)
    tokens = Tokenizer.read(checkpoint / weights.TOKENIZER_FILE).encode(request, lookup, model.config.max_history)
    index = index_tensors(model, catalogue) | {"eligible_row": torch.zeros(1, dtype=torch.int32)}
    found = model(padded_batch([tokens]), index)
    pairs = zip(found["candidate_items"][0].tolist(), found["scores"][0].tolist(), strict=True)
    return sorted(((catalogue.ids[item], score) for item, score in pairs if item >= 0), key=lambda pair: -pair[1])[:top]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gaoq", "resid"])
def test_what_was_trained_is_exported_and_recommends_what_pytorch_does(
    method: str, town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = replace(preset("tiny"), generator_layers=1, enhancer_layers=1, interest_tokens=1, code_levels=2)
    monkeypatch.setitem(PRESETS, "tiny", smaller)  # exporting takes as long as there are layers and levels
    checkpoint, bundle = tmp_path / "run", tmp_path / "bundle"
    assert main(words(town, checkpoint, method)) == 0
    build_bundle(BuildSettings(checkpoint=checkpoint, out=bundle, precision=Precision.FP32, engine=Engine.NONE))
    requests = list(requests_of_test(Dataset.read(town)))[:5]
    assert len(requests) == 5
    with Pipeline.load(bundle, threads=1) as pipeline:
        for request, answer in zip(requests, pipeline.recommend(requests, top_k=5), strict=True):
            wanted = eager(checkpoint, request, 5)
            assert [item.id for item in answer.items] == [item for item, _ in wanted]
            scores = [score for _, score in wanted]
            np.testing.assert_allclose([item.score for item in answer.items], scores, rtol=1e-4, atol=1e-6)
