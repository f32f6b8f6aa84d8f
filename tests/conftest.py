"""One torch thread, fixed cache and runs folders, the registry's test system."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch  # noqa: E402

from children import Nursery  # noqa: E402

if os.environ.get("FOURFOLD_DATA"):
    os.environ["FOURFOLD_DATA"] = str(Path(os.environ["FOURFOLD_DATA"]).resolve())
else:
    os.environ.pop(
        "FOURFOLD_DATA", None
    )  # an empty one, as the Makefile sets where no data is there

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU skip where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test in its own folder, with its own runs; the cache is shared by the session."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FOURFOLD_RUNS", raising=False)
    torch.manual_seed(0)
    yield


@pytest.fixture(autouse=True)
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word about the device a test runs on the processor, on a machine with a GPU too; marked gpu it does not."""
    if request.node.get_closest_marker("gpu") is None:
        for backend in (torch.cuda, torch.backends.mps):
            monkeypatch.setattr(backend, "is_available", lambda: False)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Children of one process that has imported torch already."""
    made = Nursery(tmp_path_factory.mktemp("children"))
    yield made
    made.close()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of this test session, so that nothing is left in the user's."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("FOURFOLD_CACHE")
    os.environ["FOURFOLD_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["FOURFOLD_CACHE"]
    else:
        os.environ["FOURFOLD_CACHE"] = before
