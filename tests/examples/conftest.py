"""The example server over the tiny bundle, and requests for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cpp_server import Server, serving

from runtime.items import ItemIndex


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[Server]:
    with serving(tiny_bundle, "--threads", "2", "--max-body", "100000") as server:
        yield server


@pytest.fixture(scope="module")
def requests(tiny_bundle: Path) -> list[dict[str, Any]]:
    index = ItemIndex.read(tiny_bundle / "items")
    return [
        {
            "now": 1_700_000_000,
            "events": [
                {"item": index.id(n % len(index)), "time": 1_699_000_000 + n, "group": f"g{n}"} for n in range(length)
            ],
        }
        for length in (1, 3, 7, 20)
    ]
