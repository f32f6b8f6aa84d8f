"""The page: runs, comparison, a run's curves and samples, its verbs to try, fits to start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fourfold.core.errors import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from fourfold.serve.calls import Calls
    from fourfold.serve.jobs import Jobs
    from fourfold.serve.shelf import Shelf

_attached = False


def attach(app: FastAPI, shelf: Shelf, calls: Calls, jobs: Jobs) -> None:
    """Add the page to an application, beside its endpoints; asks nothing of any other host.

    Args:
        app: takes the page at `/`, `/run/NAME`, `/compare` and `/fit`, and what they need under `/page/`.
        shelf: the runs shown.
        calls: how the playground's verbs are called.
        jobs: the fits started here.

    Raises:
        UserError: nicegui is not installed.
        RuntimeError: this process has a page already (NiceGUI has one application a process).
    """
    global _attached
    if _attached:
        raise RuntimeError(
            "this process has a page already; make further applications with page=False"
        )
    try:
        import nicegui  # noqa: F401
    except ImportError as error:
        raise UserError('the page needs nicegui: pip install "fourfold[serve]"') from error
    from fourfold.serve.page.house import House
    from fourfold.serve.page.routes import add

    _attached = True
    add(app, House(shelf, calls, jobs))
