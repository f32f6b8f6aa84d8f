"""The embedded default text: documentation that every Python carries, so nothing foreign is shipped.

It differs between Python versions: a run keeps its fingerprint, and no published number rests on it.
"""

from __future__ import annotations

import ast
import inspect
import sysconfig
from collections.abc import Iterator
from pathlib import Path


def language_reference() -> list[str]:
    """The language reference's topics, then one document of docstrings for each plain module.

    Sources are parsed, never imported; modules without a docstring give no document.
    """
    from pydoc_data.topics import topics

    documents = [topics[name] for name in sorted(topics)]
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        sections = list(_docstrings(path))
        if sections:
            documents.append("\n\n".join(sections) + "\n")
    return documents


def _docstrings(path: Path) -> Iterator[str]:
    """Name and docstring of the module, its classes and functions, in the order of the source."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return  # a file that somebody put there: no part of the reference
    # statements only: walking into expressions too would take twice as long
    waiting: list[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]
    waiting = [(path.stem, tree)]
    while waiting:
        name, node = waiting.pop()
        doc = ast.get_docstring(node, clean=False)
        if doc:
            yield f"{name}\n\n{inspect.cleandoc(doc)}"
        inner = [
            (f"{name}.{child.name}", child)
            for child in node.body
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        ]
        waiting.extend(reversed(inner))
