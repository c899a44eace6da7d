"""A small town of shoppers with habits: enough to train the tiny preset in seconds, with nothing like the real sets."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from oneranker.config import preset
from oneranker.data.dataset import Dataset
from oneranker.training.preparation import Prepared, prepare_training

SCHEMA = """
schema_version = 1
name = "town"
events = { file = "log.csv", user = "person", item = "ware", time = "second", group = "visit" }
context = { stall = "category" }
items = { file = "wares.csv", key = "ware" }
content = { sort = "category" }
display = ["label"]
chain = { stages = ["taken"], value = "price", unit = "crowns" }
split = { by = "time", train_until = 60000, valid_until = 80000 }
"""


def write_town(folder: Path, people: int = 30, wares: int = 60) -> Path:
    random = np.random.default_rng(5)
    lines = []
    for person in range(people):
        habits = random.choice(wares, size=6, replace=False)
        for visit, second in enumerate(np.sort(random.integers(0, 100_000, size=12))):
            taken = set(random.choice(habits, size=2)) | set(random.integers(0, wares, size=2))
            for ware in sorted(int(w) for w in taken):
                lines.append(
                    (f"p{person}", f"w{ware}", int(second), f"p{person}v{visit}", f"s{visit % 3}", 1, 1.0 + ware % 7)
                )
    columns = ["person", "ware", "second", "visit", "stall", "taken", "price"]
    pd.DataFrame(lines, columns=columns).to_csv(folder / "log.csv", index=False)
    stock = [(f"w{ware}", f"sort{ware % 5}", f"ware number {ware}") for ware in range(wares)]
    pd.DataFrame(stock, columns=["ware", "sort", "label"]).to_csv(folder / "wares.csv", index=False)
    (folder / "schema.toml").write_text(SCHEMA)
    return folder


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_town(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="session")
def prepared(town: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare_training(Dataset.read(town), preset("tiny"), tmp_path_factory.mktemp("prepared"), seed=0)
