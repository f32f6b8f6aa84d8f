"""Named data sets: found, checked, downloaded, and clear sentences where they are not there."""

import gzip
import hashlib
import http.server
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fourfold.core.errors import UserError
from fourfold.data.catalog import CATALOG, Entry, File, cache_folder, find

CONTENT = b"To be, or not to be\n"
SHA = hashlib.sha256(CONTENT).hexdigest()
real = pytest.mark.skipif("FOURFOLD_DATA" not in os.environ, reason="FOURFOLD_DATA is not set")


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("FOURFOLD_DATA", raising=False)
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "play.txt").write_bytes(CONTENT)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def add(monkeypatch: pytest.MonkeyPatch, file: File, **fields: str) -> None:
    entry = Entry("text", "a line", "none", "https://example.org", "play", (file,), **fields)
    monkeypatch.setitem(CATALOG, "play", entry)


def test_other_words_are_no_names() -> None:
    assert find("no-such-set") is None


def test_every_entry_is_complete() -> None:
    for name, entry in CATALOG.items():
        assert entry.files and entry.licence and entry.source.startswith("https://"), name
        for file in entry.files:
            assert all(len(sha) == 64 and int(sha, 16) for _, sha in file.forms), name


def test_found_where_data_lie(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, File("play.txt", SHA))
    (empty / "play").mkdir()
    (empty / "play" / "play.txt").write_bytes(CONTENT)
    monkeypatch.setenv("FOURFOLD_DATA", str(empty))
    assert find("play") == [empty / "play" / "play.txt"]


def test_another_file_is_refused(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, File("play.txt", SHA))
    (empty / "play").mkdir()
    (empty / "play" / "play.txt").write_bytes(CONTENT + b"!")
    monkeypatch.setenv("FOURFOLD_DATA", str(empty))
    with pytest.raises(UserError, match=r"play\.txt: not the file that play means"):
        find("play")


def test_downloaded_once(empty: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # the address serves the plain form of a file that the folder of data holds packed
    add(monkeypatch, File("play.txt.gz", "0" * 64, f"{server}/play.txt", "play.txt", SHA))
    [path] = find("play") or []
    assert path.read_bytes() == CONTENT and path.is_relative_to(cache_folder())
    (empty / "served" / "play.txt").unlink()
    assert find("play") == [path]


def test_downloaded_but_changed(empty: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, File("play.txt", "1" * 64, f"{server}/play.txt"))
    with pytest.raises(
        UserError, match=r"serves another file now; place it as <dir>/play/play\.txt"
    ):
        find("play")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/play.txt", None])
def test_no_network(empty: Path, monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    add(monkeypatch, File("play.txt", SHA, url))
    with pytest.raises(
        UserError, match=r"play\.txt is not here .* place it as <dir>/play/play\.txt"
    ):
        find("play")
    monkeypatch.setenv("FOURFOLD_DATA", "/data")
    with pytest.raises(
        UserError, match=r"place it as /data/play/play\.txt and set FOURFOLD_DATA=/data"
    ):
        find("play")


def test_member_of_an_archive(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty / "u.data").write_bytes(b"1\t2\t5\n")
    (empty / "play").mkdir()
    archive = empty / "play" / "ml.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(empty / "u.data", "ml/u.data")
        tar.add(empty / "u.data", "ml/README")
    sha = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setenv("FOURFOLD_DATA", str(empty))
    add(monkeypatch, File("ml.tar.gz", sha), member="ml/u.data", header="user\titem\trating\n")
    for _ in range(2):  # unpacked, then found
        [path] = find("play") or []
        assert path.name == "u.tsv" and path.read_text() == "user\titem\trating\n1\t2\t5\n"
    add(monkeypatch, File("ml.tar.gz", sha), member="ml")
    [folder] = find("play") or []
    assert sorted(p.name for p in folder.iterdir()) == ["README", "u.data"]


@real
@pytest.mark.parametrize("name", sorted(CATALOG))
def test_real_files_are_the_ones_named(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path))
    if CATALOG[name].member and CATALOG[name].kind in ("images", "sound"):
        pytest.skip("unpacking thousands of files takes long")
    paths = find(name)
    assert paths and all(path.is_file() for path in paths)


@real
@pytest.mark.parametrize("name", ["housing", "wikitext-2", "c4-demo", "ett-h1"])
def test_plain_forms_are_the_unpacked_files(name: str) -> None:
    entry = CATALOG[name]
    for file in entry.files:
        packed = Path(os.environ["FOURFOLD_DATA"]) / entry.folder / file.name
        assert hashlib.sha256(gzip.decompress(packed.read_bytes())).hexdigest() == file.plain_sha256
