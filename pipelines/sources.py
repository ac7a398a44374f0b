"""Which source files decide what a stage makes, found by following its imports, so that none can be forgotten.

From the stage's function, the imports and the definitions of its own module that it uses are followed; from every other module of
splatmend, all imports, those inside functions too. A module that imports others by their names in strings brings its whole package, and
files that are no Python (a page's template) count with the folder of the modules beside them.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "splatmend"
_PAGE_SUFFIXES = (".html", ".css", ".js")


def code_key(function: Callable[..., Any]) -> str:
    """Short hash of the sources behind a stage's function."""
    own, modules = sources_behind(function)
    files = set(modules.values())
    files |= {path for folder in {file.parent for file in files} for path in _pages_in(folder)}
    digest = hashlib.sha256(own.encode())
    for file in sorted(files):
        digest.update(f"{file.parent.name}/{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _pages_in(folder: Path) -> list[Path]:
    """Files that are no Python, in a package's folder and in its sub-folders that are no packages."""
    found = []
    for path in folder.iterdir():
        if path.is_dir() and not (path / "__init__.py").exists():
            found += _pages_in(path)
        elif path.suffix in _PAGE_SUFFIXES:
            found.append(path)
    return found


def sources_behind(function: Callable[..., Any]) -> tuple[str, Mapping[str, Path]]:
    """What of its own module a function uses, as source text, and every module of splatmend that this imports: name -> file."""
    function = inspect.unwrap(function)
    tree = ast.parse(Path(inspect.getfile(function)).read_text())
    used = _used_statements(tree, function.__name__)
    waiting = list(_imported(used))
    found: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        file = _file_of(name)
        if name in found or file is None:
            continue
        found[name] = file
        waiting += _imports_of(name, file)
    return "\n".join(ast.unparse(statement) for statement in used), found


def _used_statements(tree: ast.Module, name: str) -> list[ast.stmt]:
    """The statements of a module that the definition of `name` needs, in their order; all of them where it is not defined there."""
    binding: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for bound in _bound_names(statement):
            binding.setdefault(bound, []).append(statement)
    if name not in binding:
        return tree.body
    needed: set[ast.stmt] = set()
    waiting = [name]
    while waiting:
        for statement in binding.pop(waiting.pop(), []):
            needed.add(statement)
            annotations = {name for node in ast.walk(statement) for name in _annotation_names(node)}
            waiting += [node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and node not in annotations]
    return [statement for statement in tree.body if statement in needed]


def _annotation_names(node: ast.AST) -> Iterable[ast.AST]:
    """The names below a node's annotations: types of settings decide nothing that their values, which the key holds, do not say."""
    annotations = [getattr(node, field, None) for field in ("annotation", "returns")]
    return (inner for annotation in annotations if annotation is not None for inner in ast.walk(annotation))


def _bound_names(statement: ast.stmt) -> list[str]:
    """The names that a statement at the top of a module gives a meaning, in whatever block it gives it."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [statement.name]
    names = []
    for node in ast.walk(statement):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names += [alias.asname or alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
    return names


def _imported(statements: Iterable[ast.AST]) -> list[str]:
    """Modules of splatmend that statements may import, their packages first; a name taken from a package may be a module of it."""
    found = []
    for node in (node for statement in statements for node in ast.walk(statement)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == PACKAGE:
                found += [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return list(dict.fromkeys(found))


def _imports_of(name: str, file: Path) -> list[str]:
    modules, by_string = _imports_of_source(file.read_text())
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    beside = sorted(file.parent.glob("*.py")) if by_string else []
    return [*modules, *(f"{package}.{path.stem}" for path in beside if path.name != "__init__.py")]


@cache
def _imports_of_source(source: str) -> tuple[list[str], bool]:
    """Modules that a source imports, and whether it imports more by names in strings."""
    tree = ast.parse(source)
    names = {node.id if isinstance(node, ast.Name) else node.attr for node in ast.walk(tree) if isinstance(node, (ast.Name, ast.Attribute))}
    return _imported([tree]), not names.isdisjoint({"import_module", "__import__"})


@cache
def _file_of(name: str) -> Path | None:
    """The file of a module of splatmend, without importing it; None where a name is no module."""
    parts = name.split(".")
    if len(parts) <= 2:  # the packages need not lie below the folder of splatmend itself: each knows its own place
        spec = importlib.util.find_spec(name)
        return None if spec is None or spec.origin is None else Path(spec.origin)
    package = _file_of(".".join(parts[:2]))
    if package is None or package.name != "__init__.py":
        return None
    base = package.parent.joinpath(*parts[2:])
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)
