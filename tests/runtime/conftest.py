"""Fixtures of the runtime's tests: one fake bundle a run, and copies of it to damage."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import fake_bundle
import fake_plans
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


@pytest.fixture(scope="session")
def planned(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake bundle with a plan for every stage, read-only."""
    return fake_plans.write_plans(fake_plans.copy_of(bundle, tmp_path_factory.mktemp("planned") / "bundle"))


@pytest.fixture
def damaged_plans(planned: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return fake_plans.copy_of(planned, tmp_path / "planned")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_plans.Machine]:
    """A machine with a fake device and both engines; the test must have freed all that it opened."""
    made = fake_plans.Machine(monkeypatch, "tensorrt", "tensorrt_rtx")
    yield made
    made.check_freed()
