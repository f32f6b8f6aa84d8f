"""fourfold: every learning problem is data, a model, an objective and an optimizer.

run = fourfold.fit("gpt", "books/", minutes=5)
print("".join(run.generate("It was")))
run = fourfold.open("runs/books")
"""

import os
from typing import TYPE_CHECKING, Any

from fourfold.core.version import __version__

# torch's CPU threads spin for milliseconds at the end of every product before they sleep. Beside one
# other busy process a training step then takes 1,906 ms instead of 198; alone, brief spinning costs
# nothing (112 ms). It must be set before torch is loaded; what a user has set stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from fourfold.api import fit, import_, list_systems, open, save
    from fourfold.core.errors import UserError
    from fourfold.core.run import Run
    from fourfold.core.system import System, system
    from fourfold.indexing import index
    from fourfold.selection.folds import cross_validate
    from fourfold.selection.search import search

__all__ = [
    "__version__",
    "Run",
    "System",
    "UserError",
    "cross_validate",
    "fit",
    "import_",
    "index",
    "list_systems",
    "open",
    "save",
    "search",
    "system",
]

_PLACES = {
    "fit": "fourfold.api",
    "import_": "fourfold.api",
    "index": "fourfold.indexing",
    "open": "fourfold.api",
    "save": "fourfold.api",
    "list_systems": "fourfold.api",
    "cross_validate": "fourfold.selection.folds",
    "search": "fourfold.selection.search",
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
