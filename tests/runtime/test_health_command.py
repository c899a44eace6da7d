"""`python -m runtime.health`: one JSON line where a bundle answers, and the family's exit code where it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fake_bundle
import numpy as np
import pytest

from oneranker.tokens import Field, SimpleItemLookup, Tokenizer, column_of
from runtime import Pipeline
from runtime.forward import Forward
from runtime.health import main, synthetic_request
from runtime.items import ItemIndex
from runtime.recommendation import Candidates

ROOT = Path(__file__).parents[2]


def field(name: str, type: str, *values: object) -> Field:
    return Field.fit(name, type, column_of(values))


RICH = Tokenizer(
    levels=2,
    codes=4,
    content=(field("genre", "list", "a|b"),),
    event=(field("price", "number", 1.0, 2.0, 3.0), field("empty", "number")),
    context=(field("store", "integer", 3, 4), field("week", "category")),
    user=(field("age", "category", "45-54"),),
    actions={"bought": "item", "read": "content"},
)


def test_a_bundle_that_answers_is_one_json_line(bundle: Path, index: ItemIndex) -> None:
    words = [sys.executable, "-m", "runtime.health", "--bundle", str(bundle)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = map(json.loads, done.stdout.splitlines())
    assert line["index_version"] == index.version
    assert (line["engine"], line["device"], line["precision"]) == ("onnxruntime", "cpu", "fp32")
    with Pipeline.load(bundle, threads=1) as pipeline:
        assert line["items"] == len(pipeline.recommend([synthetic_request(pipeline.tokenizer)])[0].items) > 0
    assert 0 < line["answer_ms"] < line["load_ms"] + 60_000


def test_the_exported_bundle_is_healthy(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(tiny_bundle)]) == 0
    assert json.loads(capsys.readouterr().out)["items"] > 0


@pytest.mark.parametrize("uses", [True, False])
def test_the_request_uses_every_field_that_the_tokenizer_declares(uses: bool) -> None:
    tokenizer = replace(RICH, uses_time=uses, uses_group=uses)
    request = synthetic_request(tokenizer)
    assert request["user"] == {"age": "45-54"}
    assert request["context"] == {"store": "3"}
    assert [event["action"] for event in request["events"]] == ["bought", "read"]
    assert all({"price", "store"} <= set(event) for event in request["events"])
    nothing = SimpleItemLookup([], np.zeros((0, tokenizer.item_field_count), np.int32))
    assert len(tokenizer.encode(request, nothing, 64).token_kind) >= 4  # U, two events, the last X


def test_a_damaged_or_missing_bundle_exits_with_3(
    damaged: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (damaged / "masks.safetensors").write_bytes(b"")
    assert main(["--bundle", str(damaged)]) == 3
    assert "masks.safetensors" in caplog.text
    assert main(["--bundle", str(tmp_path / "nowhere")]) == 3


def test_an_index_that_lists_nothing_is_not_healthy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    empty = fake_bundle.write_bundle(tmp_path / "empty", delisted=range(fake_bundle.N))
    assert main(["--bundle", str(empty)]) == 3
    assert "expected at least one" in caplog.text


def test_a_score_that_is_not_a_number_exits_with_1(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Forward.answers

    def no_numbers(self: Forward) -> tuple[Candidates, np.ndarray]:
        candidates, scores = whole(self)
        return candidates, scores * np.float32("nan")

    monkeypatch.setattr(Forward, "answers", no_numbers)
    assert main(["--bundle", str(bundle)]) == 1
    assert "is not a finite number" in caplog.text


def test_a_missing_device_exits_with_1_and_a_wrong_word_with_2(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["--bundle", str(bundle), "--device", "tpu"]) == 1
    assert "device 'tpu' was asked for" in caplog.text
    with pytest.raises(SystemExit) as caught:
        main(["--colour"])
    assert caught.value.code == 2
