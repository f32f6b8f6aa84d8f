"""Which systems there are, read from their source without importing them (or torch).

Own systems are the files of `fourfold/systems/`; third parties add theirs through the entry point
group `fourfold.systems` (value `package.module:Class`). The index is cached by the files' times.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fourfold.core.errors import UserError, nearest
from fourfold.core.system import NOT_VERBS, System

GROUP = "fourfold.systems"


@dataclass(frozen=True)
class Entry:
    """What the index knows of a system."""

    name: str
    reads: str
    summary: str
    """First line of the class's docstring."""
    source: str
    """First paragraph of the module's docstring: what and where it comes from."""
    verbs: tuple[str, ...]
    module: str
    cls: str
    imports: str = ""
    """What files it can make a run of, in words."""


def cache_folder() -> Path:
    """The user's cache folder for this project, or FOURFOLD_CACHE."""
    if "FOURFOLD_CACHE" in os.environ:
        return Path(os.environ["FOURFOLD_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fourfold"


def _modules() -> Iterator[tuple[str, Path]]:
    here = Path(__file__).parents[1] / "systems"
    for path in sorted(here.glob("*.py")):
        if not path.name.startswith("_"):
            yield f"fourfold.systems.{path.stem}", path
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP):
        try:
            spec = importlib.util.find_spec(point.module)
        except (ImportError, ValueError):
            spec = None
        if spec and spec.origin:
            yield point.module, Path(spec.origin)
        else:
            _left_out(point.name, f"there is no module {point.module}")


def _left_out(name: str, why: str) -> None:
    # one broken package must not take the others away
    print(f"fourfold: the installed system {name} is left out: {why}", file=sys.stderr)


def _class_verbs(node: ast.ClassDef) -> dict[str, str]:
    found = {}
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
            arguments = [a.arg for a in item.args.args]
            if arguments[1:2] == ["run"] and item.name not in NOT_VERBS:
                found[item.name] = (ast.get_docstring(item) or "").split("\n")[0]
    return found


def _inherited(node: ast.ClassDef, tree: ast.Module) -> dict[str, str]:
    """Verbs of the class and its bases, found through the module's own classes and imports."""
    found: dict[str, str] = {}
    for base in node.bases:
        name = base.id if isinstance(base, ast.Name) else ""
        for item in tree.body:
            if isinstance(item, ast.ClassDef) and item.name == name:
                found.update(_inherited(item, tree))
            if isinstance(item, ast.ImportFrom) and any(
                (a.asname or a.name) == name for a in item.names
            ):
                found.update(_foreign(item.module or "", name))
    return {**found, **_class_verbs(node)}


def _imports(node: ast.ClassDef) -> str:
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and getattr(item.target, "id", "") == "imports":
            return str(ast.literal_eval(item.value)) if item.value else ""
    return ""


@functools.cache
def _foreign(module: str, name: str) -> dict[str, str]:
    path = Path(__file__).parents[2] / (module.replace(".", "/") + ".py")
    if not path.exists():
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.origin or not spec.origin.endswith(".py"):
            return {}
        path = Path(spec.origin)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for item in tree.body:
        if isinstance(item, ast.ClassDef) and item.name == name:
            return _inherited(item, tree)
    return {}


def _read(module: str, path: Path) -> list[Entry]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    source = re.sub(r"\s+", " ", (ast.get_docstring(tree) or "").split("\n\n")[0])
    found = []
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for mark in node.decorator_list:
            if not (
                isinstance(mark, ast.Call)
                and getattr(mark.func, "id", getattr(mark.func, "attr", "")) == "system"
            ):
                continue
            name = ast.literal_eval(mark.args[0])
            reads = next((ast.literal_eval(k.value) for k in mark.keywords if k.arg == "reads"), "")
            summary = (ast.get_docstring(node) or "").split("\n")[0]
            verbs = tuple(sorted(_inherited(node, tree)))
            entry = Entry(name, reads, summary, source, verbs, module, node.name, _imports(node))
            found.append(entry)
    return found


@functools.cache
def index() -> dict[str, Entry]:
    """Every system by name, sorted."""
    modules = list(_modules())
    base = Path(__file__)
    tasks = sorted(base.parents[1].glob("tasks/*.py"))  # whose classes systems inherit verbs from
    stamps = [
        (str(p), p.stat().st_mtime_ns)
        for p in (base, base.with_name("system.py"), *tasks, *(p for _, p in modules))
    ]
    key = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:16]
    cache = cache_folder() / f"index-{key}.json"
    try:
        rows = json.loads(cache.read_text(encoding="utf-8"))
        entries = [Entry(**{**row, "verbs": tuple(row["verbs"])}) for row in rows]
    except (OSError, ValueError, TypeError, KeyError):
        entries = []
        for module, path in modules:
            try:
                entries += _read(module, path)
            except (SyntaxError, UnicodeDecodeError) as error:
                _left_out(module, str(error))
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            temporary = cache.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps([asdict(e) for e in entries]), encoding="utf-8")
            os.replace(temporary, cache)
        except OSError:
            pass  # a read-only home: the index is read from the source each time
    return {e.name: e for e in sorted(entries, key=lambda e: e.name)}


def all_verbs() -> dict[str, list[str]]:
    """Every verb with the systems that have it."""
    found: dict[str, list[str]] = {}
    for entry in index().values():
        for verb in entry.verbs:
            found.setdefault(verb, []).append(entry.name)
    return dict(sorted(found.items()))


_extra: dict[str, type[System]] = {}


def register(system: type[System]) -> type[System]:
    """Make a class that is defined outside any installed package known by its name in this process."""
    _extra[system.name] = system
    return system


def load_system(name: str) -> type[System]:
    """The class of a system.

    Raises:
        UserError: there is no system of this name.
    """
    if name in _extra:
        return _extra[name]
    entry = index().get(name)
    if entry is None:
        raise UserError(f"{name}: no such system{nearest(name, [*index(), *_extra])}")
    cls = getattr(importlib.import_module(entry.module), entry.cls)
    assert issubclass(cls, System)  # noqa: S101
    return cls
