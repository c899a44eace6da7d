"""`python -m runtime.recommend`: answers on stdout, reasons on stderr, one exit code for each kind of trouble."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_bundle import make_request

from runtime import Pipeline
from runtime.items import ItemIndex
from runtime.recommend import main


def write_lines(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def run(bundle: Path, requests: Path, *words: str) -> int:
    return main(["--bundle", str(bundle), "--requests", str(requests), "--threads", "1", *words])


def test_json_has_one_line_per_request_in_batches_of_any_number(
    bundle: Path, pipeline: Pipeline, index: ItemIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = [make_request(index, events, events) for events in range(7)]  # B of the profile is 3
    assert run(bundle, write_lines(tmp_path, *raw[:2], "", *raw[2:]), "--json", "--top-k", "3") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["line"] for line in lines] == [1, 2, 4, 5, 6, 7, 8]
    for line, request in zip(lines, raw, strict=True):
        (answer,) = pipeline.recommend([request], 3)
        assert [item["id"] for item in line["items"]] == [item.id for item in answer.items]
        assert set(line["items"][0]) == {"id", "name", "score", "logp", "head", "row"}
        assert line["index_version"] == index.version


def test_the_table_shows_names_and_what_was_left_out(
    bundle: Path, index: ItemIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = {"events": [{"item": "nobody", "time": 1}], "now": 2}
    assert run(bundle, write_lines(tmp_path, unknown, unknown | {"eligible": []}), "--top-k", "2") == 0
    out = capsys.readouterr().out
    assert "request of line 1 (1 history events of unknown items)" in out
    assert out.count("Café") == 2
    assert "no item is eligible" in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "requests.jsonl line 5: not JSON"),
        ("[]", "requests.jsonl line 5: is a list, expected an object"),
        ('{"events": [], "now": 1, "colour": 1}', "requests.jsonl line 5: request: unknown key 'colour'"),
    ],
)
def test_a_bad_request_is_named_by_its_line_and_exits_with_1(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, line: str, message: str
) -> None:
    good = {"events": [], "now": 1}
    assert run(bundle, write_lines(tmp_path, good, good, good, "", line, good)) == 1
    assert message in caplog.text


def test_a_missing_requests_file_exits_with_1(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(bundle, tmp_path / "none.jsonl") == 1
    assert "none.jsonl" in caplog.text


def test_a_bad_bundle_exits_with_3(damaged: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (damaged / "masks.safetensors").unlink()
    assert run(damaged, write_lines(tmp_path, {"events": [], "now": 1})) == 3
    assert "masks.safetensors: no such file" in caplog.text


def test_a_missing_device_exits_with_1(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(bundle, write_lines(tmp_path), "--device", "tpu") == 1
    assert "device 'tpu' was asked for" in caplog.text


@pytest.mark.parametrize("words", [["--top-k", "0"], ["--top-k", "many"], ["--colour"]])
def test_a_wrong_word_exits_with_2(
    bundle: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(bundle, write_lines(tmp_path), *words)
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err
