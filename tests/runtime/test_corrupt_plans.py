"""Damaged plans: one clear error and exit code 3 each; not even damage that goes unnoticed ends the process."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest
from fake_bundle import make_request
from fake_plans import edit_plan

from runtime.items import ItemIndex
from runtime.manifest import file_sha256

ROOT = Path(__file__).parents[2]
REGIONS = 16
TINY = """<ir_version: 10, opset_import: ["" : 23]> tiny (float16[B, 8] x) => (float16[B, 8] y) { y = Add (x, x) }"""

# Serves after each damage to one file: prints the exit code and what was logged as an error, one JSON line each.
COMMANDS = """
import json, logging, pathlib, sys
from runtime.recommend import main
class Kept(logging.Handler):
    def emit(self, record): self.lines.append(record.getMessage())
kept = Kept(level=logging.ERROR)
logging.getLogger("runtime.recommend").addHandler(kept)
bundle, requests, damages = sys.argv[1:]
plan = pathlib.Path(bundle, "ranker", "model.plan")
whole = plan.read_bytes()
for damage in json.loads(damages):
    kept.lines = []
    exec(damage)
    code = main(["--bundle", bundle, "--requests", requests, "--json", "--device", "cpu"])
    print(json.dumps([damage, code, kept.lines]))
    plan.write_bytes(whole)
"""
# Hands each of some plans to the real engine: to its deserialiser itself, and through a manifest that vouches for it.
ENGINE = """
import hashlib, json, pathlib, sys
sys.path.insert(0, sys.argv[2])
import tensorrt_rtx
from fake_device import FakeDevice
from runtime.errors import OneRankerError
from runtime.manifest import PlanEntry, ProfileEntry
from runtime.stage import TensorSpec
from runtime.trt_stage import TrtStage
class Silent(tensorrt_rtx.ILogger):
    def __init__(self): tensorrt_rtx.ILogger.__init__(self)
    def log(self, severity, message): pass
log = Silent()
profile = ProfileEntry(name="all", letters={"B": (1, 2, 4)})
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    data = path.read_bytes()
    tensorrt_rtx.Runtime(log).deserialize_cuda_engine(data)
    plan = PlanEntry(file=path.name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), engine="tensorrt_rtx",
        version=tensorrt_rtx.__version__, compute_capabilities=(), profiles=(profile,), verified="")
    try:
        sides = [[TensorSpec(name, "float16", ("B", 8))] for name in "xy"]
        TrtStage.load("tiny", path, plan, *sides, device=FakeDevice()).close()
        print(json.dumps([path.name, "loaded", ""]))
    except OneRankerError as error:
        print(json.dumps([path.name, type(error).__name__, str(error)]))
"""


def python(program: str, *words: str) -> list[Any]:
    """What a program printed, a JSON value for each line; it must have ended by itself and in order."""
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def real_plan() -> bytes:
    """A plan of TensorRT-RTX, built here: its builder needs no GPU."""
    trt = pytest.importorskip("tensorrt_rtx")
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, log).parse(onnx.parser.parse_model(TINY).SerializeToString())
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("x", (1, 8), (2, 8), (4, 8))
    config.add_optimization_profile(profile)
    return bytes(builder.build_serialized_network(network, config))


@pytest.fixture
def signed(damaged_plans: Path, request: pytest.FixtureRequest) -> Path:
    """A bundle whose ranker has a real plan, where one can be built, under a manifest that knows it."""
    file = damaged_plans / "ranker" / "model.plan"
    if importlib.util.find_spec("tensorrt_rtx"):
        file.write_bytes(request.getfixturevalue("real_plan"))
        edit_plan(damaged_plans, "ranker", sha256=file_sha256(file), bytes=file.stat().st_size)
    return damaged_plans


@pytest.fixture
def requests(index: ItemIndex, tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_text(json.dumps(make_request(index, 3)))
    return path


def test_every_damage_to_a_plan_is_one_clear_error_and_exit_code_3(signed: Path, requests: Path) -> None:
    size = (signed / "ranker" / "model.plan").stat().st_size
    places = [(2 * region + 1) * size // (2 * REGIONS) for region in range(REGIONS)]
    flips = [
        f"data = bytearray(whole); data[{place}] ^= 0x10; plan.write_bytes(data)" for place in [0, *places, size - 1]
    ]
    cuts = [f"plan.write_bytes(whole[:{size // 2}])", "plan.write_bytes(whole + b'x')", "plan.write_bytes(b'')"]
    outcomes = python(COMMANDS, str(signed), str(requests), json.dumps([*flips, *cuts, "plan.unlink()", "pass"]))
    *damaged, (_, code, lines) = [row for row in outcomes if isinstance(row, list)]
    assert (code, lines) == (0, []), "the undamaged bundle serves"
    assert len(damaged) == REGIONS + 6
    for damage, code, lines in damaged:
        assert code == 3, damage
        assert len(lines) == 1, damage
        assert "ranker/model.plan" in lines[0]
        assert "\n" not in lines[0]
        wanted = "sha256" if damage in flips else "no such file" if "unlink" in damage else "bytes, the manifest says"
        assert wanted in lines[0], damage
        assert "Copy the bundle again" in lines[0]


@pytest.mark.trt
def test_a_plan_of_another_version_is_one_line_and_exit_code_3(signed: Path, requests: Path) -> None:
    for stage in ("generator", "enhancer", "retriever", "ranker"):
        edit_plan(signed, stage, engine="tensorrt_rtx", version="0.9.1")
    words = ("--bundle", str(signed), "--requests", str(requests), "--engine", "tensorrt_rtx")
    done = subprocess.run(
        [sys.executable, "-m", "runtime.recommend", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (3, "", 1)
    assert done.stderr.startswith("ERROR generator: ")
    assert "built by tensorrt_rtx 0.9.1, here is tensorrt_rtx " in done.stderr
    assert "rebuild with `python -m export.build --stage all --engine tensorrt_rtx`" in done.stderr


@pytest.mark.trt
def test_damage_that_the_manifest_vouches_for_does_not_crash_the_host(real_plan: bytes, tmp_path: Path) -> None:
    """The real TensorRT-RTX reads it: an error, or an engine, but never the end of the process."""
    size = len(real_plan)
    variants = {"cut": real_plan[: size // 2], "empty": b"", "header": real_plan[:64], "noise": b"\x17" * 5000}
    for region in range(REGIONS):
        data = bytearray(real_plan)
        data[(2 * region + 1) * size // (2 * REGIONS)] ^= 0xFF
        variants[f"region {region:02}"] = bytes(data)
    for byte in range(0, 64, 8):  # the header, in which sizes and offsets are
        data = bytearray(real_plan)
        data[byte] ^= 0xFF
        variants[f"header {byte:02}"] = bytes(data)
    folder = tmp_path / "plans"
    folder.mkdir()
    for name, data in variants.items():
        (folder / name).write_bytes(data)
    outcomes = python(ENGINE, str(folder), str(ROOT / "tests" / "runtime"))
    assert [name for name, _, _ in outcomes] == sorted(variants)
    for name, outcome, text in outcomes:
        assert outcome in ("BundleError", "DeviceError", "loaded"), name
        assert outcome == "loaded" or ("tensorrt_rtx" in text and "\n" not in text)
    told = {name: outcome for name, outcome, _ in outcomes}
    assert all(told[name] != "loaded" for name in ("cut", "empty", "header", "noise"))
    assert len({hashlib.sha256(data).digest() for data in variants.values()}) == len(variants)
