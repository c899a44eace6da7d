"""Fixtures of the runtime's tests: one fake bundle a run, and copies of it to damage."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import fake_bundle
import pytest

from runtime import Pipeline
from runtime.items import ItemIndex


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only: tests that write take `damaged`."""
    return fake_bundle.write_bundle(tmp_path_factory.mktemp("fake") / "bundle", delisted=[2])


@pytest.fixture
def damaged(bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


@pytest.fixture
def pipeline(bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.load(bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def index(bundle: Path) -> ItemIndex:
    return ItemIndex.read(bundle / "items")
