from pathlib import Path

import numpy as np
import pytest
import torch

from export.item_index import write_item_index
from export.model_source import ModelSource, read_source
from export.settings import BuildSettings
from oneranker.catalogue import Catalogue, index_tensors
from oneranker.synthetic import encode, padded_batch, synthetic_catalogue, synthetic_request
from runtime import BundleError, Pipeline


@pytest.fixture(scope="module")
def source() -> ModelSource:
    return read_source(BuildSettings(preset="tiny"))


def other_catalogue(source: ModelSource, items: int, space_seed: int = 0) -> Catalogue:
    return synthetic_catalogue(source.model.config, items, seed=99, space_seed=space_seed)


def write_index(out: Path, source: ModelSource, items: int, space_seed: int = 0) -> Path:
    """An index over another catalogue, its table computed by the model of the bundle."""
    catalogue = other_catalogue(source, items, space_seed)
    with torch.inference_mode():
        table = source.model.item_table(torch.from_numpy(catalogue.item_fields).long()).numpy()
    write_item_index(
        out,
        ids=catalogue.ids,
        names=catalogue.names,
        codes=catalogue.codes,
        codebooks=catalogue.codebooks,
        anchors=catalogue.anchors,
        item_table=table,
        item_fields=catalogue.item_fields,
    )
    return out


@pytest.mark.parametrize("items", [1, 23, 700], ids="N={}".format)
def test_swapped_index_answers_as_a_pipeline_that_was_loaded_with_it(
    tiny_bundle: Path, source: ModelSource, tmp_path: Path, items: int
) -> None:
    folder = write_index(tmp_path / "items", source, items)
    requests = [synthetic_request(source.catalogue, np.random.default_rng(i), 12) for i in range(4)]
    with Pipeline.load(tiny_bundle, threads=1) as swapped, Pipeline.load(tiny_bundle, threads=1, items=folder) as fresh:
        old = swapped.recommend(requests)
        swapped.swap_items(folder)
        new = swapped.recommend(requests)
        assert new == fresh.recommend(requests)
        assert new[0].index_version != old[0].index_version
        assert all(0 < len(answer.items) <= items for answer in new)


def test_swapped_index_answers_as_the_model_does_over_that_catalogue(
    tiny_bundle: Path, source: ModelSource, tmp_path: Path
) -> None:
    """What a bundle built anew with that catalogue would be verified against."""
    catalogue = other_catalogue(source, 300)
    folder = write_index(tmp_path / "items", source, 300)
    requests = [synthetic_request(catalogue, np.random.default_rng(i), 12 + i) for i in range(4)]
    tokens = [encode(source.model.config, catalogue, request) for request in requests]
    with torch.inference_mode():
        index = index_tensors(source.model, catalogue) | {"eligible_row": torch.zeros(4, dtype=torch.int32)}
        wanted = source.model(padded_batch(tokens), index)
    with Pipeline.load(tiny_bundle, threads=1) as pipeline:
        pipeline.swap_items(folder)
        answers = pipeline.recommend(requests, top_k=13)
    for row, answer in enumerate(answers):
        scores = wanted["scores"][row][: int(wanted["candidate_count"][row])]
        order = scores.argsort(descending=True, stable=True)
        items = [catalogue.ids[i] for i in wanted["candidate_items"][row][order].tolist()]
        assert [item.id for item in answer.items] == items
        assert [item.score for item in answer.items] == pytest.approx(scores[order].tolist(), rel=1e-4, abs=1e-5)


def test_index_of_another_code_space_is_refused_and_the_old_one_serves_on(
    tiny_bundle: Path, source: ModelSource, tmp_path: Path
) -> None:
    folder = write_index(tmp_path / "items", source, 30, space_seed=5)
    requests = [synthetic_request(source.catalogue, np.random.default_rng(0), 12)]
    with Pipeline.load(tiny_bundle, threads=1) as pipeline:
        before = pipeline.recommend(requests)
        with pytest.raises(BundleError, match=r"code.space"):
            pipeline.swap_items(folder)
        assert pipeline.recommend(requests) == before
