"""fourfold: every learning problem is data, a model, an objective and an optimizer.

run = fourfold.fit("gpt", "books/", minutes=5)
print("".join(run.generate("It was")))
run = fourfold.open("runs/books")
"""

from typing import TYPE_CHECKING, Any

from fourfold.core.version import __version__

if TYPE_CHECKING:
    from fourfold.api import fit, list_systems, open
    from fourfold.core.errors import UserError
    from fourfold.core.run import Run
    from fourfold.core.system import System, system

__all__ = ["__version__", "Run", "System", "UserError", "fit", "list_systems", "open", "system"]

_PLACES = {
    "fit": "fourfold.api",
    "open": "fourfold.api",
    "list_systems": "fourfold.api",
    "UserError": "fourfold.core.errors",
    "Run": "fourfold.core.run",
    "System": "fourfold.core.system",
    "system": "fourfold.core.system",
}


def __getattr__(name: str) -> Any:
    # lazily, so that `import fourfold` and `fourfold --help` do not wait for torch
    if name not in _PLACES:
        raise AttributeError(f"module 'fourfold' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PLACES[name]), name)
