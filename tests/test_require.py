from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDS_TRT = "import pytest\n@pytest.mark.trt\ndef test_engine() -> None:\n    pass\n"


def outcome(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    (tmp_path / "test_one.py").write_text(NEEDS_TRT)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-c",
        str(ROOT / "pyproject.toml"),
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run([*command, str(tmp_path), *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(bool(importlib.util.find_spec("tensorrt_rtx")), reason="TensorRT-RTX is installed here")
def test_a_missing_tensorrt_skips_by_name_and_fails_where_it_is_required(tmp_path: Path) -> None:
    code, text = outcome(tmp_path)
    assert code == 0
    assert "needs trt: neither tensorrt nor tensorrt_rtx can be imported" in text
    code, text = outcome(tmp_path, "--require", "gpu,trt")
    assert code == 1
    assert "--require trt forbids to skip it" in text


def test_an_unknown_requirement_is_a_usage_error(tmp_path: Path) -> None:
    code, text = outcome(tmp_path, "--require", "tpu")
    assert code == 4
    assert "expected some of gpu, trt, cpp" in text
