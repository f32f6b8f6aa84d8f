"""Opening a run by any name a user has for one, from floors below the one that knows all kinds."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fourfold.core.run import Run


def opened(name: str) -> Run:
    """What `fourfold.open` opens: a run's folder, a server's address, a GGUF file.

    Raises:
        UserError: there is no such run, server or model.
    """
    run: Run = importlib.import_module("fourfold.api").open(name)
    return run


def imported(path: str, out: str, system: str) -> Run:
    """What `fourfold.import_` makes of another program's file or folder.

    Raises:
        UserError: no system reads it, or it is damaged.
    """
    run: Run = importlib.import_module("fourfold.api").import_(path, out=out, system=system)
    return run
