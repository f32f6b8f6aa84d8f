"""Every system of the index through the one mechanical suite."""

import pytest

from fourfold.core.registry import index, load_system
from fourfold.testing import check_system


@pytest.mark.parametrize("name", index())
def test_system(name: str) -> None:
    check_system(load_system(name))
