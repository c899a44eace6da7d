"""Two tiny made-up sets: `plays` has none of the optional roles, `shop` has all of them, as parquet or csv."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from oneranker.data.dataset import CatalogueItems, Dataset, catalogue_items, fit_tokenizer
from oneranker.tokens import SimpleItemLookup, Tokenizer

Edit = Callable[[pd.DataFrame], pd.DataFrame]
Build = Callable[[Dataset], tuple[Tokenizer, SimpleItemLookup, CatalogueItems]]

PLAYS = """
schema_version = 1
events = { file = "log.FORMAT", user = "listener", item = "track" }
chain = { stages = ["finished"] }
"""
SHOP = """
schema_version = 1
name = "corner shop"
events = { file = "lines.FORMAT", user = "who", item = "sku", time = "at", time_unit = "seconds", group = "ticket", \
action = "verb" }
context = { till = "integer", mood = "category" }
event = { amount = "number" }
items = { file = "stock.FORMAT", key = "sku" }
content = { aisle = "category", grams = "number", tags = { type = "list", slots = 2 } }
display = ["label", "aisle"]
users = { file = "people.FORMAT", key = "who" }
features = { town = "category", born = "integer" }
chain = { stages = ["taken", "kept"], nested = true, value = "crowns", unit = "SEK" }
split = { by = "time", train_until = 5000, valid_until = 7000 }
catalogue = { min_users = 2 }

[actions]
took = "item"
tried = "item"
leaflet = "content"
"""


def write_table(path: Path, frame: pd.DataFrame) -> None:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)


def plays() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "listener": ["ann", "bob", "ann", "ann", "bob", "ann", "cat"],
            "track": ["x-1", "x-2", "x-2", "x-1", "x-3", "x-9", "x-1"],
            "finished": [1, 0, 1, 1, 0, 1, 1],
        }
    )


def shop_events(seed: int = 0, rows: int = 400) -> pd.DataFrame:
    """Unsorted lines of 9 people; tickets of up to 4 lines at one or two seconds, leaflets without sku and ticket."""
    rng = np.random.default_rng(seed)
    ticket = np.sort(rng.integers(0, rows // 3, size=rows))
    who, start = rng.integers(1, 10, size=rows)[ticket], rng.integers(0, 9000, size=rows)[ticket]
    kept = rng.integers(0, 2, size=rows)
    frame = pd.DataFrame(
        {
            "who": [f"p{n:02}" for n in who],
            "sku": [f"0{n}" for n in rng.integers(0, 25, size=rows)],
            "at": start + rng.integers(0, 2, size=rows),
            "ticket": [f"t{n}" for n in ticket],
            "verb": rng.choice(["took", "tried"], size=rows),
            "till": rng.integers(1, 4, size=rows),
            "mood": rng.choice(["good", "bad", None], size=rows),
            "amount": rng.choice([1.0, 2.0, 7.5, np.nan], size=rows),
            "taken": np.maximum(kept, rng.integers(0, 2, size=rows)),
            "kept": kept,
            "crowns": np.round(rng.random(rows) * 50, 2),
        }
    )
    leaflet = rng.random(rows) < 0.1
    frame.loc[leaflet, ["sku", "ticket", "mood"]] = None
    frame.loc[leaflet, "verb"] = "leaflet"
    frame.loc[leaflet, ["taken", "kept"]] = 0
    return frame.sample(frac=1, random_state=seed)


def shop_stock() -> pd.DataFrame:
    rows = range(22)  # three of the 25 have no row
    return pd.DataFrame(
        {
            "sku": [f"0{n}" for n in rows],
            "label": [f"thing {n}" if n % 5 else None for n in rows],
            "aisle": [("dry", "wet", None)[n % 3] for n in rows],
            "grams": [float("nan") if n == 4 else n * 1.5 for n in rows],
            "tags": ["|".join("abcd"[: n % 5]) for n in rows],
        }
    )


def shop_people() -> pd.DataFrame:
    rows = range(1, 7)  # of 9
    return pd.DataFrame(
        {"who": [f"p{n:02}" for n in rows], "town": ["north", None] * 3, "born": [1950 + n for n in rows]}
    )


@pytest.fixture
def plays_folder(tmp_path: Path) -> Path:
    write_table(tmp_path / "log.csv", plays())
    (tmp_path / "schema.toml").write_text(PLAYS.replace("FORMAT", "csv"))
    return tmp_path


@pytest.fixture
def shop_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes the shop; keyword arguments edit a table before it is written, `schema` the text of the schema."""

    def write(
        suffix: str = "parquet",
        schema: Callable[[str], str] = str,
        lines: Edit = lambda frame: frame,
        stock: Edit = lambda frame: frame,
        people: Edit = lambda frame: frame,
    ) -> Path:
        folder = tmp_path / suffix
        folder.mkdir(exist_ok=True)
        write_table(folder / f"lines.{suffix}", lines(shop_events()))
        write_table(folder / f"stock.{suffix}", stock(shop_stock()))
        write_table(folder / f"people.{suffix}", people(shop_people()))
        (folder / "schema.toml").write_text(schema(SHOP.replace("FORMAT", suffix)))
        return folder

    return write


@pytest.fixture
def build() -> Build:
    """Tokenizer, lookup and catalogue of a data set, with invented unique codes."""

    def made(dataset: Dataset) -> tuple[Tokenizer, SimpleItemLookup, CatalogueItems]:
        catalogue = catalogue_items(dataset)
        levels, codes = 3, 8
        assert len(catalogue.ids) <= codes**levels
        leaves = np.sort(np.random.default_rng(1).permutation(codes**levels)[: len(catalogue.ids)])
        tokenizer = fit_tokenizer(dataset, levels, codes, catalogue)
        codes_of_item = np.stack(np.unravel_index(leaves, (codes,) * levels), axis=1)
        fields = tokenizer.item_fields(codes_of_item, catalogue.columns)
        return tokenizer, SimpleItemLookup(catalogue.ids, fields), catalogue

    return made
