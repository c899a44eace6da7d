"""Arrows between the packages, and the house rules that a parser can check."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("oneranker", "export", "runtime", "benchmarks")
OURS = {*PACKAGES, "examples"}
MAY_IMPORT = {  # of ours
    "oneranker": {"oneranker"},
    "runtime": {"runtime", "oneranker.tokens"},
    "export": {"export", "oneranker", "runtime"},
    "benchmarks": {"benchmarks", "export", "oneranker", "runtime"},
}
MAY_INSTALL = {  # of others
    "oneranker": {
        *("torch", "numpy", "safetensors", "pandas", "pyarrow", "sklearn", "scipy", "tqdm", "matplotlib"),
        "triton",  # where the fused attention is asked for
    },
    "runtime": {"numpy", "safetensors", "onnxruntime"},
    "export": {"torch", "onnx", "onnxruntime", "numpy", "safetensors", "tqdm", "cuda", "triton"},
}
NOT_FOR_SERVING = (
    *("torch", "onnx", "onnxscript", "export"),
    *("pandas", "pyarrow", "scipy", "sklearn", "tqdm", "matplotlib"),
)
VAGUE = {"utils", "util", "common", "helpers", "helper", "manager", "misc", "base"}
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import hides which package it reaches"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module: str, allowed: set[str]) -> bool:
    return any(module == one or module.startswith(one + ".") for one in allowed)


EVERY = files(*PACKAGES, "examples", "tests")
SOURCES = files(*PACKAGES, "examples")
by_name = pytest.mark.parametrize("path", SOURCES, ids=name)


def test_there_are_files_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in EVERY} >= {"oneranker", "export", "runtime", "tests"}


@pytest.mark.parametrize("path", files(*MAY_IMPORT), ids=name)
def test_a_package_imports_only_the_neighbours_it_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    reached = {module for module in imports(parsed(path)) if module.split(".")[0] in OURS | {"tests"}}
    assert not {module for module in reached if not within(module, MAY_IMPORT[package])}


@pytest.mark.parametrize("path", files(*MAY_INSTALL), ids=name)
def test_a_package_needs_no_other_installs_than_it_says(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    tops = {module.split(".")[0] for module in imports(parsed(path))} - set(sys.stdlib_module_names) - OURS
    assert tops <= MAY_INSTALL[package]


def closure(module: str) -> set[Path]:
    """The file of a module and all of ours that it imports, directly or not."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        path = ROOT / (waiting.pop().replace(".", "/") + ".py")
        if path.is_file() and path not in found:
            found.add(path)
            reached = list(imports(parsed(path)))
            waiting += reached + [module.rpartition(".")[0] for module in reached]
    return found


@pytest.mark.parametrize(
    ("module", "allowed"),
    [("oneranker.tokens", {"numpy"}), ("oneranker.trie", {"numpy"}), ("runtime.manifest", set())],
)
def test_what_two_packages_share_is_light(module: str, allowed: set[str]) -> None:
    found = closure(module)
    assert len(found) > 1
    tops = {top.split(".")[0] for path in found for top in imports(parsed(path))}
    assert tops - set(sys.stdlib_module_names) - OURS <= allowed


def test_importing_oneranker_itself_imports_nothing() -> None:
    assert not list(imports(parsed(ROOT / "oneranker" / "__init__.py")))


def test_the_packages_that_python_finds_are_ours(tmp_path: Path) -> None:
    """From a folder of its own, so that what is installed is found and not what lies beside the test."""
    try:
        metadata.distribution("oneranker")
    except metadata.PackageNotFoundError:
        pytest.skip("oneranker is not installed; `make setup` installs it")
    program = "import oneranker, export, runtime\nfor m in (oneranker, export, runtime): print(list(m.__path__)[0])"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [Path(line) for line in done.stdout.splitlines()] == [
        ROOT / package for package in ("oneranker", "export", "runtime")
    ]


IMPORT_ALL = """
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
for module in {modules!r}:
    importlib.import_module(module)
"""


def import_all(python: str) -> subprocess.CompletedProcess[str]:
    """Import every module of the runtime with the training and export stacks blocked."""
    modules = [name(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in files("runtime")]
    program = IMPORT_ALL.format(blocked=NOT_FOR_SERVING, modules=modules)
    return subprocess.run([python, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_whole_runtime_imports_without_the_training_and_export_stacks() -> None:
    done = import_all(sys.executable)
    assert done.returncode == 0, done.stderr


def test_the_whole_runtime_imports_where_only_its_own_needs_are_installed() -> None:
    python = os.environ.get("ONERANKER_RUNTIME_PYTHON")
    if not python:
        pytest.skip("ONERANKER_RUNTIME_PYTHON names no environment with the runtime's needs alone; `make test` sets it")
    done = import_all(str(ROOT / python))
    assert done.returncode == 0, done.stderr


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", EVERY, ids=name)
def test_nothing_is_pickled(path: Path) -> None:
    tree = parsed(path)
    assert not {module.split(".")[0] for module in imports(tree)} & UNSAFE
    for called, node in calls(tree):
        assert called not in {"torch.load", "torch.save", "pd.read_pickle", "pandas.read_pickle"}
        if called in {"np.load", "numpy.load"}:
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert given.get("allow_pickle") == "False", f"line {node.lineno}: say allow_pickle=False"


@by_name
def test_a_library_neither_prints_nor_exits(path: Path) -> None:
    tree = parsed(path)
    last = tree.body[-1]
    guard = isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'"
    body = ast.Module(tree.body[:-1] if guard else tree.body, [])
    assert not {called for called, _ in calls(body)} & {"print", "exit", "quit", "sys.exit", "os._exit"}


@pytest.mark.parametrize("path", EVERY, ids=name)
def test_files_and_functions_are_short(path: Path) -> None:
    tree = parsed(path)
    assert len(path.read_text(encoding="utf-8").splitlines()) < 300
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    lengths = {n.name: (n.end_lineno or 0) - n.lineno + 1 for n in ast.walk(tree) if isinstance(n, kinds)}
    assert not {function: lines for function, lines in lengths.items() if lines > 60}


@by_name
def test_a_module_says_what_it_is_on_its_first_line(path: Path) -> None:
    assert path.stem not in VAGUE
    tree = parsed(path)
    first = (ast.get_docstring(tree) or "").split("\n")[0]
    assert tree.body[0].lineno == 1
    assert first.endswith(".")
