"""The runtime deploys without the training and export stacks: a fresh process serves with them blocked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_bundle import make_request

from runtime import Pipeline
from runtime.items import ItemIndex

ROOT = Path(__file__).parents[2]
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
"""
NEVER = ("torch", "onnx", "onnxscript", "pandas", "pyarrow", "sklearn", "scipy", "tensorrt", "export")


def python(program: str, *blocked: str, words: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + program, *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_process_without_torch_onnx_and_pandas_serves(
    bundle: Path, pipeline: Pipeline, index: ItemIndex, tmp_path: Path
) -> None:
    request = make_request(index, 5)
    (tmp_path / "requests.jsonl").write_text(json.dumps(request))
    program = "from runtime.recommend import main; sys.exit(main(sys.argv[1:]))"
    words = ("--bundle", str(bundle), "--requests", str(tmp_path / "requests.jsonl"), "--json", "--threads", "1")
    done = python(program, *NEVER, words=words)
    assert done.returncode == 0, done.stderr
    assert [item["id"] for item in json.loads(done.stdout)["items"]] == [
        item.id for item in pipeline.recommend([request])[0].items
    ]


def test_importing_the_runtime_loads_no_engine() -> None:
    done = python("import runtime; sys.exit('onnxruntime' in sys.modules)", *NEVER)
    assert done.returncode == 0, done.stderr


def test_the_manifest_reads_with_the_standard_library_alone() -> None:
    program = "import importlib.util, types; sys.modules['runtime'] = p = types.ModuleType('runtime')\n"
    program += "p.__path__ = ['runtime']; import runtime.manifest"
    done = python(program, *NEVER, "numpy", "safetensors", "onnxruntime")
    assert done.returncode == 0, done.stderr


def test_a_machine_without_onnxruntime_is_told_what_to_install(bundle: Path) -> None:
    program = "from runtime import DeviceError, Pipeline\ntry: Pipeline.load(sys.argv[1])\n"
    program += "except DeviceError as error: sys.exit(str(error))"
    done = python(program, *NEVER, "onnxruntime", words=(str(bundle),))
    assert "pip install -e '.[serve]'" in done.stderr


@pytest.mark.parametrize("module", ["runtime.recommend"])
def test_the_command_explains_itself(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "--bundle" in done.stdout) == (0, True)
