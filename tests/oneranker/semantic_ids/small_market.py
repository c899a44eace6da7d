"""A small data folder: 7 people, 15 wares of which some have a row, with content of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

SCHEMA = """
schema_version = 1
name = "market"
events = { file = "log.csv", user = "person", item = "ware", time = "second", group = "visit" }
items = { file = "wares.csv", key = "ware" }
content = { sort = "category", weight = "number", tags = "list" }
split = { by = "time", train_until = 80, valid_until = 90 }
"""


def write_market(folder: Path, listed: int = 12, **columns: list[str]) -> Path:
    """Write it; `columns` stand in the place of the wares' own."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = pd.DataFrame({"person": rng.integers(0, 7, 300), "ware": rng.integers(0, 15, 300)})
    lines["second"] = rng.integers(0, 100, 300)
    lines["visit"] = lines["person"] * 1000 + lines["second"]
    lines.to_csv(folder / "log.csv", index=False)
    wares = pd.DataFrame({"ware": range(listed), "sort": [f"s{i % 3}" for i in range(listed)], "weight": range(listed)})
    wares["tags"] = [("a|b", "b", "")[i % 3] for i in range(listed)]
    wares.assign(**columns).to_csv(folder / "wares.csv", index=False)
    (folder / "schema.toml").write_text(SCHEMA)
    return folder
