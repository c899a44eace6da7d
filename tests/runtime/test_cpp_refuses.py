"""The corpus of damaged bundles against the C++ runtime: one error each in the words of Python's, and it lives on."""

from __future__ import annotations

import shutil
from pathlib import Path

import fake_bundle
import pytest
import test_open_bundle as corpus
from cpp_library import CppPipeline

from runtime import BundleError, DeviceError, UsageError

pytestmark = pytest.mark.cpp


@pytest.fixture(autouse=True)
def in_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus loads its bundles with this name."""
    monkeypatch.setattr(corpus, "Pipeline", CppPipeline)


@pytest.mark.parametrize("damage", [corpus.cut, corpus.flip, Path.unlink], ids=["cut", "edited", "missing"])
@pytest.mark.parametrize("file", corpus.FILES)
def test_a_damaged_file_is_named_before_anything_is_served(damaged: Path, file: str, damage: object) -> None:
    corpus.test_a_damaged_file_is_named_before_anything_is_served(damaged, file, damage)


@pytest.mark.parametrize(
    "test",
    [
        corpus.test_a_tokenizer_of_another_model_is_refused,
        corpus.test_a_tokenizer_with_an_unknown_key_is_refused,
        corpus.test_masks_too_small_for_the_profile_are_refused,
        corpus.test_another_index_in_the_bundles_folder_is_refused,
        corpus.test_a_graph_of_other_tensors_than_the_manifests_is_refused,
        corpus.test_a_file_outside_of_the_bundle_is_refused,
        corpus.test_an_unknown_schema_version_has_the_rebuild_hint,
    ],
    ids=lambda test: test.__name__.removeprefix("test_"),
)
def test_the_corpus_is_refused_with_the_same_words(damaged: Path, test: object) -> None:
    test(damaged)  # type: ignore[operator]


def test_an_engine_or_device_that_is_not_here_is_an_error(bundle: Path) -> None:
    for words in ({"engine": "tensorrt"}, {"device": "cuda"}, {"engine": "magic"}, {"device": "tpu"}):
        with pytest.raises(DeviceError, match=r"was asked for") as caught:
            CppPipeline.load(bundle, **words)
        assert next(iter(words.values())) in str(caught.value)


def test_threads_below_none_are_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="threads=-1"):
        CppPipeline.load(bundle, threads=-1)


def test_a_damaged_index_is_refused_and_the_old_one_keeps_serving(bundle: Path, tmp_path: Path) -> None:
    fake_bundle.write_items(tmp_path / "new", items=13, seed=5)
    shutil.copytree(tmp_path / "new", tmp_path / "cut")
    corpus.cut(tmp_path / "cut" / "items.safetensors")
    fake_bundle.write_items(tmp_path / "foreign", items=13, seed=5, code_seed=9)
    fake_bundle.write_items(tmp_path / "shifted", items=13, seed=5, shift=10_000)
    with CppPipeline.load(bundle) as pipeline:
        before = pipeline.index_version
        for folder in ("cut", "foreign", "shifted", "nowhere"):
            with pytest.raises(BundleError):
                pipeline.swap_items(tmp_path / folder)
            assert pipeline.index_version == before
            assert pipeline.recommend([{"events": [], "now": 5}], 3)[0].index_version == before
        pipeline.swap_items(tmp_path / "new")
        answer = pipeline.recommend([{"events": [], "now": 5}], 3)[0]
        assert answer.index_version == pipeline.index_version != before
        assert all(item[0].startswith("item-5-") for item in answer.items)
