"""What the tests of faults look at."""

import pytest

from faulty import register_all


@pytest.fixture(autouse=True)
def systems() -> None:
    """The test systems, known in this process too."""
    register_all()
