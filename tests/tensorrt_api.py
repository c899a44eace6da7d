"""The names of TensorRT's API, read from its published bindings; `python tests/tensorrt_api.py` renews tests/golden.

The bindings of `tensorrt` need three libraries that are not on every machine. Here they are stubs: enough to import and
to list names, not to build anything. A golden file holds facts alone: the module's names, and per class its members
with the class that each one gives, "" where that is none of TensorRT's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
FILES = {"tensorrt": GOLDEN / "tensorrt-11.4-api.json", "tensorrt_rtx": GOLDEN / "tensorrt_rtx-1.7-api.json"}
BINDINGS = {"tensorrt": "tensorrt_bindings", "tensorrt_rtx": "tensorrt_rtx"}  # module of the API -> what is imported
STUBS = {
    "libnvinfer.so.11": [
        *(f"createInfer{what}_INTERNAL" for what in ("Builder", "Runtime", "Refitter")),
        "getPluginRegistry",
        "getBuilderPluginRegistry",
    ],
    "libnvonnxparser.so.11": [
        "createNvOnnxParser_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "getNvOnnxParserVersion",
    ],
    "libnvinfer_plugin.so.11": ["initLibNvInferPlugins"],
}
CLASSES = (  # what our code obtains, or may soon
    "Builder", "BuilderFlag", "CudaGraphStrategy", "ComputeCapability", "DataType", "EngineInvalidityDiagnostics",
    "EngineValidity", "ExecutionContextAllocationStrategy", "IAttention", "IAttentionOutputLayer", "IBuilderConfig",
    "ICudaEngine", "EngineInspector", "IExecutionContext", "IHostMemory", "ILayer", "ILogger", "ILogger.Severity",
    "INetworkDefinition", "IOptimizationProfile", "IProgressMonitor", "IRuntimeCache", "IRuntimeConfig", "ITensor",
    "ITimingCache", "LayerInformationFormat", "LayerType", "Logger", "MemoryPoolType", "NetworkDefinitionCreationFlag",
    "OnnxParser", "ParserError", "ProfilingVerbosity", "Runtime", "TensorIOMode", "TensorLocation",
)  # fmt: skip

Api = dict[str, dict[str, dict[str, str]] | list[str] | str]

LIST = """
import importlib, inspect, json, sys
bindings, classes = importlib.import_module(sys.argv[1]), json.loads(sys.argv[2])
def members(found):
    for name in dir(found):
        if not name.startswith("__") or name == "__members__":
            member = inspect.getattr_static(found, name)
            text = inspect.getdoc(member.fget if isinstance(member, property) else member) or ""
            yield name, text
rows = {}
for name in classes:
    found = bindings
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not None:
        rows[name] = dict(members(found))
names = [name for name in dir(bindings) if name == "__version__" or name[0] != "_"]
json.dump({"version": bindings.__version__, "names": names, "classes": rows}, sys.stdout)
"""


def missing(module: str) -> str:
    """What is not here that importing the bindings takes, "" if all is."""
    if not find_spec(BINDINGS[module]):
        return f"{BINDINGS[module]} is not installed; `make setup` installs it"
    if module == "tensorrt" and not shutil.which("gcc"):
        return "gcc is not here, which makes the stub libraries"
    return ""


def published_api(module: str) -> Api:
    """Import the bindings in a process of their own and list them."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ)
        if module == "tensorrt":
            environment["LD_LIBRARY_PATH"] = str(stub_libraries(Path(folder)))
        words = [sys.executable, "-c", LIST, BINDINGS[module], json.dumps(CLASSES)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    listed = json.loads(done.stdout)
    classes = {
        name: {member: _given(text) for member, text in sorted(rows.items())}
        for name, rows in listed["classes"].items()
    }
    return {"version": listed["version"], "names": sorted(listed["names"]), "classes": classes}


def stub_libraries(folder: Path) -> Path:
    """Libraries with the names that the bindings are linked to, whose functions do nothing."""
    for library, names in STUBS.items():
        source = folder / "stub.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in names))
        words = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(folder / library), str(source)]
        subprocess.run(words, capture_output=True, text=True, check=True)
    return folder


def _given(signature: str) -> str:
    """The class of TensorRT that a member's documented signature gives: `-> tensorrt.INetworkDefinition`."""
    found = re.search(r"-> (?:Optional\[)?(?:tensorrt\w*\.)+(\w+(?:\.\w+)?)", signature)
    return found[1] if found else ""


def read_golden(module: str) -> Api:
    return dict(json.loads(FILES[module].read_text(encoding="utf-8"))["api"])


def main() -> None:
    """Write both files anew, from what is installed."""
    GOLDEN.mkdir(exist_ok=True)
    for module, path in FILES.items():
        rows = {"written_by": "python tests/tensorrt_api.py", "api": published_api(module)}
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
