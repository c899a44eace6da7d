import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from export.build import main as build
from oneranker import weights
from oneranker.evaluate import main as evaluate
from oneranker.rankings import model_rankings
from oneranker.train import main as train
from oneranker.training import fit
from runtime.recommend import main as recommend

SCHEMA = """
schema_version = 1
events = { file = "log.csv", user = "person", item = "ware", group = "visit" }
chain = { stages = ["taken"] }
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No times, no users, no item attributes, no value: the plain order of visits is all there is."""
    folder, random = tmp_path_factory.mktemp("shop"), np.random.default_rng(2)
    lines = [
        (f"p{person}", f"w{ware}", f"p{person}v{visit}", 1)
        for person in range(24)
        for visit in range(7)
        for ware in sorted({int(w) for w in random.integers(0, 40, size=3)} | {person % 40})
    ]
    pd.DataFrame(lines, columns=["person", "ware", "visit", "taken"]).to_csv(folder / "log.csv", index=False)
    (folder / "schema.toml").write_text(SCHEMA)
    return folder


@pytest.fixture(scope="module", params=["trie", "dense"])
def checkpoint(request: pytest.FixtureRequest, shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / request.param
    words = ["--data", str(shop), "--preset", "tiny", "--steps", "30", "--retriever", request.param]
    assert train([*words, "--out", str(out)]) == 0
    return out


def test_own_tables_go_all_the_way_to_recommendations(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(["--checkpoint", str(checkpoint), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in report["all_items"]][:3] == [
        "popularity", "bigram (last basket)", "personal frequency",
    ]  # fmt: skip
    assert report["all_items"][0]["requests"] == 24
    assert build(["--checkpoint", str(checkpoint), "--engine", "none", "--out", str(tmp_path / "bundle")]) == 0
    requests = tmp_path / "requests.jsonl"
    event = {"item": "w1", "group": "v0"}
    requests.write_text(json.dumps({"events": [event, event | {"item": "unheard of"}]}) + "\n" + '{"events": []}\n')
    capsys.readouterr()
    words = ["--bundle", str(tmp_path / "bundle"), "--requests", str(requests), "--top-k", "5", "--json"]
    assert recommend(words) == 0
    first, second = map(json.loads, capsys.readouterr().out.strip().splitlines())
    assert first["unknown_items"] == 1
    assert len(first["items"]) == len(second["items"]) == 5


def test_new_item_rankings_hold_nothing_from_the_users_past(checkpoint: Path, shop: Path) -> None:
    from oneranker.data.dataset import Dataset
    from oneranker.data.metrics import first_requests
    from oneranker.training.preparation import read_prepared

    model = weights.load(checkpoint)
    prepared = read_prepared(Dataset.read(shop), model.config, checkpoint)
    requests = first_requests(prepared.streams, 2)
    rankings = model_rankings(model, prepared.catalogue, prepared.streams, requests, new_only=True)
    for ranked, past in zip(rankings["scores"], requests.history_row, strict=True):
        items = ranked[ranked >= 0]
        assert len(items)
        assert len(set(items.tolist())) == len(items)
        assert not set(items.tolist()) & set(past.tolist())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "/nowhere"], "schema.toml"),
        (["--data", "completejourney", "--households", "0"], "households"),
    ],
)
def test_data_that_is_not_there_is_one_error_and_exit_1(
    words: list[str], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train([*words, "--preset", "tiny", "--out", str(tmp_path / "out"), "--data-root", str(tmp_path)]) == 1
    assert message in caplog.text
    assert not (tmp_path / "out").exists()


def test_unknown_preset_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        train(["--data", "ml-100k", "--preset", "huge", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    "words", [["--steps", "0"], ["--steps", "4", "--joint-steps", "5"], ["--learning-rate", "nan"]]
)
def test_settings_that_cannot_train_are_usage_errors(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        train(["--data", "ml-100k", *words, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_checkpoint_is_not_judged_on_a_split_it_has_learned_from(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert evaluate(["--checkpoint", str(checkpoint), "--split", "valid"]) == 1
    assert "has not seen" in caplog.text


def test_unfinished_or_damaged_checkpoint_is_one_error(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert evaluate(["--checkpoint", str(tmp_path)]) == 1
    assert "config" in caplog.text
    model = weights.load(checkpoint)
    with torch.no_grad():
        model.ranker.ranking_token[0] = torch.nan
    weights.save(model, tmp_path)
    assert evaluate(["--checkpoint", str(tmp_path)]) == 1
    assert "NaN" in caplog.text


def test_other_settings_in_the_same_folder_are_refused(
    checkpoint: Path, shop: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["--data", str(shop), "--preset", "tiny", "--retriever", checkpoint.name, "--out", str(checkpoint)]
    assert train([*words, "--steps", "31"]) == 1
    assert "another --out" in caplog.text


def test_full_disk_is_one_error_and_loses_nothing(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["--data", str(shop), "--preset", "tiny", "--steps", "6", "--save-every", "2", "--out", str(tmp_path)]
    whole, saved = fit.save_file, []

    def full(*arguments: object, **keywords: object) -> None:
        saved.append(arguments)
        if len(saved) == 2:
            raise OSError(28, "No space left on device")
        whole(*arguments, **keywords)

    monkeypatch.setattr(fit, "save_file", full)
    caplog.set_level("INFO")
    assert train(words) == 1
    assert "free space" in caplog.text
    assert train(words) == 0
    assert "resuming at step 2" in caplog.text


def test_output_folder_that_is_a_file_is_one_error(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out").write_text("a file")
    assert train(["--data", str(shop), "--preset", "tiny", "--steps", "2", "--out", str(tmp_path / "out")]) == 1
    assert "name other folders" in caplog.text


def test_unfinished_run_of_other_data_is_not_gone_on_with(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its tokenizer and codes lie in the folder already and would be mixed with the new tables."""
    copy = tmp_path / "copy"
    shutil.copytree(shop, copy)
    words = ["--data", str(copy), "--preset", "tiny", "--steps", "4", "--out", str(tmp_path / "out")]
    assert train(words) == 0
    (tmp_path / "out" / "training.json").unlink()
    with (copy / "log.csv").open("a") as log:
        log.write("p0,w1,p0v99,1\n")
    assert train(words) == 1
    assert "data_sha256" in caplog.text
