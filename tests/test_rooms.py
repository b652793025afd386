"""Rooms and files lie in layers: no circle of files, no arrow up, type-only and late imports counted like any other.

The layers are those of the import-linter contracts in pyproject.toml; this reads the source text itself, so that a
setting of that tool cannot hide an arrow.
"""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("bp_merge", "bp_data", "bp_export", "bp_core", "bp_cli", "bp_ui")
TORCH_FREE = ("bp_core.runs", "bp_core.settings", "bp_core.safety", "bp_core.support", "bp_core.errors")
TORCH_FREE = (*TORCH_FREE, "bp_core.evaluation.metrics", "bp_core.rewards")
KNOWN = ()
HEAVY = {"torch", "transformers", "peft", "trl", "accelerate"}


@cache
def modules(package: str) -> dict[str, Path]:
    """Module name → file."""
    source = ROOT / "packages" / package.replace("_", "-") / "src"
    names = {".".join(f.relative_to(source).with_suffix("").parts): f for f in source.rglob("*.py")}
    return {name.removesuffix(".__init__"): file for name, file in names.items()}


@cache
def imports(package: str) -> dict[str, dict[str, int]]:
    """Module → what it imports, wherever in the file that stands → the line."""
    own = modules(package)
    found: dict[str, dict[str, int]] = {}
    for name, file in own.items():
        here = found.setdefault(name, {})
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = resolved(name, file, node)
                inner = [f"{base}.{alias.name}" for alias in node.names]
                targets = [m if m in own else base for m in inner]
            else:
                continue
            for target in targets:
                here.setdefault(target, node.lineno)
    return found


def resolved(module: str, file: Path, node: ast.ImportFrom) -> str:
    """The absolute name of what `from … import` names."""
    if not node.level:
        return node.module or ""
    parts = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that reach each other (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for node in edges:
        if node not in index:
            visit(node)
    return found


def layers(package: str) -> dict[str, int]:
    """Room → its layer in pyproject.toml, 0 on top."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    lines = next(c["layers"] for c in contracts if c.get("containers") == [package])
    return {room.strip(" ()"): at for at, line in enumerate(lines) for room in line.split("|")}


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_of_files(package):
    edges = {m: {t for t in told if t in modules(package) and t != m} for m, told in imports(package).items()}
    assert circles(edges) == []


@pytest.mark.parametrize("package", ["bp_core", "bp_export", "bp_data", "bp_ui"])
def test_no_arrow_up_between_rooms(package):
    layer = layers(package)
    wrong = []
    for module, told in imports(package).items():
        for target, line in told.items():
            if target not in modules(package) or "." not in module or "." not in target:
                continue
            here, there = module.split(".")[1], target.split(".")[1]
            if here != there and layer[here] >= layer[there]:
                wrong.append(f"{modules(package)[module].relative_to(ROOT)}:{line} {here} → {there}")
    assert wrong == []


@pytest.mark.parametrize("package", ["bp_core", "bp_export", "bp_data", "bp_ui"])
def test_every_room_has_its_layer(package):
    rooms = {name.split(".")[1] for name in modules(package) if "." in name}
    assert rooms - set(layers(package)) == set()


def test_rooms_that_a_ui_reads_name_no_torch():
    allowed = {
        ("bp_core.support.environment", "torch")
    }  # a card's peak memory, asked by a process that trains
    wrong = [
        (module, target)
        for module, told in imports("bp_core").items()
        if module.startswith(TORCH_FREE)
        for target in told
        if target.split(".")[0] in HEAVY and (module, target) not in allowed
    ]
    assert wrong == []


def test_every_name_of_the_architecture_page_exists():
    """`bp_x.module.Class.method` in the page is a module, or a name that the module defines at that depth."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    lost = []
    for name in sorted(set(re.findall(r"`(bp_\w+(?:\.\w+)+)`", page))):
        package = name.split(".")[0]
        if package not in PACKAGES or (package == "bp_merge" and name in ("bp_merge.methods",)):
            continue
        parts, inner = name.split("."), []
        while ".".join(parts) not in modules(package) and len(parts) > 1:
            inner.insert(0, parts.pop())
        tree: ast.AST | None = ast.parse(modules(package)[".".join(parts)].read_text("utf-8"))
        if len(parts) == 1:
            tree = ast.parse((modules(package)[package]).with_suffix(".pyi").read_text("utf-8"))
        for part in inner:
            tree = defined(tree, part) if tree is not None else None
        if tree is None:
            lost.append(name)
    assert lost == []


def defined(tree: ast.AST, name: str) -> ast.AST | None:
    """The class, function or assignment of that name directly inside, or the import that brings it."""
    for node in ast.iter_child_nodes(tree):
        names = [getattr(node, "name", None)]
        if isinstance(node, ast.ImportFrom):
            names = [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [getattr(target, "id", None) for target in targets]
        if name in names:
            return node
    return None
