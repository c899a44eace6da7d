from pathlib import Path

import numpy as np
import pytest

from export.item_index import write_item_index
from export.model_source import ModelSource, read_source
from export.settings import BuildSettings
from oneranker.synthetic import synthetic_catalogue, synthetic_request
from runtime import BundleError, Pipeline


@pytest.fixture(scope="module")
def source() -> ModelSource:
    return read_source(BuildSettings(preset="tiny"))


def write_index(out: Path, source: ModelSource, items: int, space_seed: int = 0) -> Path:
    """An index over another catalogue, its table computed by the model of the bundle."""
    import torch

    catalogue = synthetic_catalogue(source.model.config, items, seed=99, space_seed=space_seed)
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
