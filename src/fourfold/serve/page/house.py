"""What the pages are built on: the runs, what calls their verbs, the fits started here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fourfold.core.errors import UserError
from fourfold.serve.page.history import Histories

if TYPE_CHECKING:
    from fourfold.serve.calls import Calls
    from fourfold.serve.jobs import Jobs
    from fourfold.serve.shelf import Shelf


@dataclass(frozen=True)
class House:
    """One server's parts, as the pages share them."""

    shelf: Shelf
    calls: Calls
    jobs: Jobs
    histories: Histories = field(default_factory=Histories)

    @property
    def may_fit(self) -> bool:
        """Whether there is a folder in which fits can be started and resumed."""
        return self.shelf.folder is not None

    def newest_first(self) -> list[str]:
        """Every run's name, the one whose configuration was written last first: one look at each, no reading."""
        return sorted(self.shelf.names(), key=lambda name: (-self._written(name), name))

    def _written(self, name: str) -> int:
        try:
            return (self.shelf.folder_of(name) / "system.toml").stat().st_mtime_ns
        except (OSError, UserError):
            return 0  # moved away in this moment
