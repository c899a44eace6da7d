"""Reads our code for what it touches of TensorRT: small type inference over syntax trees, loud where it cannot tell.

Objects of TensorRT are annotated `Any`, as its bindings have no types; a name annotated so must stand in OBJECTS,
which says its class. From there classes follow assignments, calls and loops by the API's own signatures.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

MODULE = "module"
OBJECTS = {  # a name annotated Any or ModuleType -> the class it is of; "": not TensorRT's
    "trt": MODULE, "module": MODULE, "engine_module": MODULE, "builder": "Builder",
    "network": "INetworkDefinition", "config": "IBuilderConfig",
    "profile": "IOptimizationProfile", "parser": "OnnxParser", "engine": "ICudaEngine", "context": "IExecutionContext",
    "runtime": "Runtime", "inspector": "EngineInspector", "log": "ILogger", "monitor": "IProgressMonitor",
    "layer": "ILayer", "tensor": "ITensor", "severity": "ILogger.Severity", "cache": "ITimingCache",
}  # fmt: skip
GIVES = {"OnnxParser.get_error": "ParserError"}  # what the documented signature does not say in TensorRT's own words

Value = str  # "module", "class X", "object X", "gives X", "list X", "ours X", "function X", "any", "list any", ""


@dataclass(frozen=True, order=True)
class Use:
    """One name of the API in our code; `owner` is "" for the module itself."""

    owner: str
    name: str
    place: str = field(compare=False, default="")

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}" if self.owner else self.name


@dataclass
class Code:
    """Every function and class of ours by name: parameters, results and fields with their annotations."""

    trees: Mapping[str, ast.Module]
    parameters: dict[str, dict[str, str]] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    fields: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for tree in self.trees.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    self.fields[node.name] = dict(_fields(node))
                    self.parameters[node.name] = dict(_fields(node))
                elif isinstance(node, ast.FunctionDef):
                    self.parameters[node.name] = dict(_parameters(node))
                    self.results[node.name] = ast.unparse(node.returns) if node.returns else ""


def touches(tree: ast.Module) -> bool:
    """Whether a file handles TensorRT: a parameter or an attribute that is Any or a module bears one of the names."""
    told = [row for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for row in _parameters(node)]
    told += [row for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for row in _fields(node)]
    return any(kind in ("Any", "ModuleType") and OBJECTS.get(name.lstrip("_")) for name, kind in told)


def _parameters(node: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    for row in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
        yield row.arg, ast.unparse(row.annotation) if row.annotation else ""


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Annotated attributes, and those that are set from an annotated parameter."""
    for inner in ast.walk(node):
        match inner:
            case ast.AnnAssign(target=ast.Name(id=name) | ast.Attribute(value=ast.Name(id="self"), attr=name)):
                yield name, ast.unparse(inner.annotation)
            case ast.FunctionDef():
                told = dict(_parameters(inner))
                for line in ast.walk(inner):
                    match line:
                        case ast.Assign(
                            targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)], value=ast.Name(id=source)
                        ):
                            yield name, told.get(source, "")


class Reader:
    """Collects the uses of one API in our code, and what it cannot tell."""

    def __init__(self, code: Code, api: Mapping[str, Mapping[str, str]]) -> None:
        self.code, self.api = code, api
        self.uses: list[Use] = []
        self.unclear: list[str] = []
        self._own: dict[str, set[str]] = {}  # class of TensorRT -> the attributes that our subclasses add
        self._added: dict[tuple[str, str], ast.stmt] = {}  # and the methods
        self._resolved: set[int] = set()
        self._recording = False
        self._file = ""

    def read(self) -> Reader:
        chosen = {name: tree for name, tree in self.code.trees.items() if touches(tree)}
        for self._recording in (False, True):
            for self._file, tree in chosen.items():
                self._scope(tree.body, {}, "")
        for self._file, tree in chosen.items():
            self._check_unresolved(tree)
        for (owner, name), node in self._added.items():
            if Use(owner, name) not in self.uses:
                self._tell(f"{name!r} of our {owner} is no callback, and nothing of ours asks for it", node)
            self._own[owner].add(name)
        self.uses = [use for use in self.uses if use.name not in self._own.get(use.owner, ())]
        return self

    def _scope(self, body: list[ast.stmt], outer: Mapping[str, Value], owner: str) -> None:
        env = dict(outer)
        for _ in range(3):  # names may be used above the line that binds them
            for node in _within(body):
                self._bind(node, env)
        for node in _within(body):
            self._infer_all(node, env)
        for node in _within(body, definitions=True):
            if isinstance(node, ast.ClassDef):
                self._subclass(node, env)
                self._scope(node.body, env, node.name)
            elif isinstance(node, ast.FunctionDef):
                given = {name: self._annotated(name, kind) for name, kind in _parameters(node)}
                if owner in self.code.fields and "self" in given:
                    given["self"] = f"ours {owner}"
                self._scope(node.body, env | given, owner)

    def _subclass(self, node: ast.ClassDef, env: dict[str, Value]) -> None:
        """A method that the base has is a callback; any other is ours, and our own code must ask for it."""
        for base in node.bases:
            kind, _, name = self._infer(base, env).partition(" ")
            if kind == "class":
                for row in node.body:
                    if isinstance(row, ast.FunctionDef) and row.name in self.api[name]:
                        self._use(name, row.name, row)
                    elif isinstance(row, ast.FunctionDef) and not row.name.startswith("_"):
                        self._added[name, row.name] = row
                self._own.setdefault(name, set()).update(key for key, _ in _fields(node))

    def _annotated(self, name: str, kind: str) -> Value:
        kind = kind.removesuffix(" | None")
        if kind in ("Any", "ModuleType"):
            return self._named(name)
        if kind == "list[Any]":
            return "list any"
        return f"ours {kind}" if kind in self.code.fields else ""

    def _named(self, name: str) -> Value:
        found = OBJECTS.get(name.lstrip("_"))
        if found is None:
            self._tell(f"{name!r} is Any, and OBJECTS does not say of which class")
        return found if found == MODULE else f"object {found}" if found else ""

    def _tell(self, what: str, node: ast.AST | None = None) -> None:
        line = f":{node.lineno}" if isinstance(node, ast.expr | ast.stmt) else ""
        if self._recording and (told := f"{self._file}{line}: {what}") not in self.unclear:
            self.unclear.append(told)

    def _use(self, owner: str, name: str, node: ast.expr | ast.stmt) -> None:
        if self._recording:
            self._resolved.add(id(node))
            self.uses.append(Use(owner, name, f"{self._file}:{node.lineno}"))

    # Binding names

    def _bind(self, node: ast.AST, env: dict[str, Value]) -> None:
        match node:
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id=name), attr="__class__")], value=value):
                env[name] = self._infer(value, env).replace("class", "object")
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.NamedExpr(target=ast.Name(id=name), value=value)
            ):
                self._set(name, self._infer(value, env), env)
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                for target, value in zip(names, values, strict=True):
                    self._bind(ast.Assign([target], value), env)
            case ast.AnnAssign(target=ast.Name(id=name), annotation=kind):
                env[name] = self._annotated(name, ast.unparse(kind))
            case ast.For(target=ast.Name(id=name), iter=rows) | ast.comprehension(target=ast.Name(id=name), iter=rows):
                kind, _, element = self._infer(rows, env).partition(" ")
                self._set(name, "any" if element == "any" else f"object {element}" if kind == "list" else "", env)
            case ast.ExceptHandler(name=str(name)):
                env[name] = ""

    def _set(self, name: str, value: Value, env: dict[str, Value]) -> None:
        env[name] = self._named(name) if value == "any" else value or env.get(name, "")

    # Values

    def _infer_all(self, node: ast.AST, env: dict[str, Value]) -> None:
        if isinstance(node, ast.Attribute):
            self._infer(node, env)
        elif isinstance(node, ast.Call):
            self._check_call(node, env)

    def _infer(self, node: ast.expr, env: dict[str, Value]) -> Value:
        match node:
            case ast.Name(id=name):
                known = "ours class " if name in self.code.fields else "function " if name in self.code.results else ""
                return env[name] if name in env else known + name if known else ""
            case ast.Attribute():
                return self._attribute(node, env)
            case ast.Call():
                return self._call(node, env)
            case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element):
                inner = dict(env)
                for loop in node.generators:
                    self._bind(loop, inner)
                kind, _, name = self._infer(element, inner).partition(" ")
                return f"list {name}" if kind in ("object", "gives") else ""
            case ast.Subscript(value=rows):
                kind, _, name = self._infer(rows, env).partition(" ")
                return f"object {name}" if kind == "list" else ""
        return ""

    def _attribute(self, node: ast.Attribute, env: dict[str, Value]) -> Value:
        base, name = self._infer(node.value, env), node.attr
        kind, _, owner = base.partition(" ")
        if name.startswith("__") and name not in ("__version__", "__members__"):
            return ""
        if base == MODULE:
            self._use("", name, node)
            return f"class {name}" if name in self.api else ""
        if kind == "class" and f"{owner}.{name}" in self.api:
            self._use(owner, name, node)
            return f"class {owner}.{name}"
        if kind in ("class", "object", "gives") and owner:
            self._use(owner, name, node)
            given = GIVES.get(f"{owner}.{name}") or self.api.get(owner, {}).get(name, "")
            return f"gives {given}" if given in self.api else ""
        if kind == "ours":
            return self._annotated(name, self.code.fields.get(owner, {}).get(name, ""))
        return ""

    def _call(self, node: ast.Call, env: dict[str, Value]) -> Value:
        if isinstance(node.func, ast.Name) and node.func.id == "map" and len(node.args) == 2:
            kind, _, name = self._infer(node.args[0], env).partition(" ")
            return f"list {name}" if kind == "gives" else ""
        kind, _, name = self._infer(node.func, env).partition(" ")
        if kind in ("class", "gives"):
            return f"object {name}"
        if kind == "function":
            result = self.code.results[name]
            return {"Any": "any", "list[Any]": "list any"}.get(result) or self._annotated(name, result)
        return f"ours {name.removeprefix('class ')}" if kind == "ours" and name.startswith("class ") else ""

    # What must not stay unclear

    def _check_call(self, node: ast.Call, env: dict[str, Value]) -> None:
        """A name keeps its class across a call: an object of TensorRT arrives at a parameter of the same class."""
        if not isinstance(node.func, ast.Name) or node.func.id not in self.code.parameters:
            return
        told = self.code.parameters[node.func.id]
        rows = [*zip(told, node.args, strict=False), *((word.arg, word.value) for word in node.keywords if word.arg)]
        for name, argument in rows:
            value = self._infer(argument, env)
            kind, _, owner = value.partition(" ")
            if kind not in ("object", "gives", MODULE) or not (owner or kind == MODULE):
                continue
            if OBJECTS.get(name.lstrip("_")) != (owner or MODULE) and told.get(name) == "Any":
                self._tell(f"{node.func.id}({name}) gets {value}, OBJECTS says {OBJECTS.get(name)!r}", node)

    def _check_unresolved(self, tree: ast.Module) -> None:
        """A name that only TensorRT has, on an object whose class could not be told."""
        known = {name for members in self.api.values() for name in members if "_" in name}
        imports = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
        modules = {(row.asname or row.name).split(".")[0] for node in imports for row in node.names}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or node.attr not in known or id(node) in self._resolved:
                continue
            if (of := ast.unparse(node.value)).split(".")[0] not in modules:
                self._tell(f"cannot tell the class of {of!r}, of which {node.attr!r} is asked", node)


def _within(body: list[ast.stmt], definitions: bool = False) -> Iterator[ast.AST]:
    """Every node of a body but those inside of functions and classes; with `definitions` these themselves, alone."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop(0)
        inner = isinstance(node, ast.FunctionDef | ast.ClassDef)
        if inner == definitions:
            yield node
        if not inner:
            waiting = [*ast.iter_child_nodes(node), *waiting]
