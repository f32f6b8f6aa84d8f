"""The nursery of child processes, and what the tests of faults look at."""

from collections.abc import Iterator

import pytest

from children import Nursery
from faulty import register_all


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Children of one process that has imported torch already."""
    made = Nursery(tmp_path_factory.mktemp("children"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def systems() -> None:
    """The test systems, known in this process too."""
    register_all()
