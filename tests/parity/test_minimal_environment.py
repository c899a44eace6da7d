import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from oneranker.config import preset
from oneranker.synthetic import synthetic_catalogue, synthetic_request
from runtime import Pipeline

ROOT = Path(__file__).parents[2]


@pytest.fixture
def minimal_python() -> str:
    python = os.environ.get("ONERANKER_RUNTIME_PYTHON")
    if not python:
        pytest.skip("ONERANKER_RUNTIME_PYTHON names no environment with the runtime's needs alone; `make test` sets it")
    return str(ROOT / python)


def test_environment_without_torch_onnx_and_pandas_gives_the_same_recommendations(
    minimal_python: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    absent = "import importlib.util as u; print([n for n in ('torch', 'onnx', 'pandas') if u.find_spec(n)])"
    listed = subprocess.run([minimal_python, "-c", absent], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert listed.stdout.strip() == "[]"
    catalogue = synthetic_catalogue(preset("tiny"), 665)
    requests = [synthetic_request(catalogue, np.random.default_rng(i), 15) for i in range(5)]
    file = tmp_path / "requests.jsonl"
    file.write_text("".join(json.dumps(request) + "\n" for request in requests))
    words = [
        "-m",
        "runtime.recommend",
        "--bundle",
        str(tiny_bundle),
        "--requests",
        str(file),
        "--threads",
        "1",
        "--json",
    ]
    done = subprocess.run([minimal_python, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    with Pipeline.load(tiny_bundle, threads=1) as pipeline:
        wanted = pipeline.recommend(requests)
    for line, answer in zip(done.stdout.splitlines(), wanted, strict=True):
        items = json.loads(line)["items"]
        assert [item["id"] for item in items] == [item.id for item in answer.items]
        assert [item["score"] for item in items] == pytest.approx([item.score for item in answer.items], abs=1e-6)
