"""The small inputs that tests of semantic IDs share."""

from pathlib import Path

import numpy as np
import pytest
from fitted_ids import drawn
from small_market import write_market


@pytest.fixture
def market(tmp_path: Path) -> Path:
    return write_market(tmp_path / "market")


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", drawn(20))
    return tmp_path / "x.npy"
