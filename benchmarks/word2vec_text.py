"""The text that `benchmarks.word2vec` trains on and measures with: tokenized once, a sentence on a line."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.side_by_side import data_file

LINE = 1000
"""Words on a line of text8, which has no sentences."""
HELD = 50
"""Every so many lines one is held out."""


def sentences() -> Iterator[list[str]]:
    """Brown, the movie reviews, WikiText-2's two stored parts and text8's stored part, in lower case, word by word."""
    with zipfile.ZipFile(data_file("brown-corpus/brown.zip")) as packed:
        for name in sorted(packed.namelist()):
            if len(name) != len("brown/ca01"):
                continue
            for line in packed.read(name).decode().splitlines():
                yield [token.rsplit("/", 1)[0].lower() for token in line.split()]
    reviews = data_file("movie-reviews-polarity-v2/review_polarity.tar.gz")
    with tarfile.open(reviews) as files:
        for name in sorted(m.name for m in files if m.name.endswith(".txt")):
            content = files.extractfile(name)
            assert content is not None
            for raw in content.read().decode("latin-1").splitlines():
                yield raw.lower().split()
    for part in ("valid", "test"):
        with gzip.open(data_file(f"wikitext-2-valid-test/{part}.txt.gz"), "rt") as lines:
            for line in lines:
                yield line.lower().split()
    with gzip.open(data_file("text8-prefix/text8_first.txt.gz"), "rt") as whole:
        words = whole.read().split()
    for start in range(0, len(words), LINE):
        yield words[start : start + LINE]


def write(folder: Path) -> tuple[Path, Path]:
    """`text.txt` to train on and `held.txt`, every 50th line, to measure on; kept if they are there."""
    train, held = folder / "text.txt", folder / "held.txt"
    if not (train.exists() and held.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        with train.open("w") as most, held.open("w") as few:
            for number, words in enumerate(w for w in sentences() if w):
                (few if number % HELD == HELD - 1 else most).write(" ".join(words) + "\n")
    return train, held


def repeated(path: Path, times: int) -> Path:
    """The same text so many times over, for runs that would be too short to time; kept if it is there."""
    if times == 1:
        return path
    made = path.with_name(f"{path.stem}-x{times}.txt")
    if not made.exists():
        with made.open("wb") as out:
            for _ in range(times):
                out.write(path.read_bytes())
    return made


PAIRS, THEMES, COMMON = 60, 6, 400


def planted(folder: Path) -> tuple[Path, list[tuple[str, str, str, str]]]:
    """A made text with known analogies, and the questions.

    Word a7 and word b7 share themes of their own (t7.0 ..), all a's share the words that mark an a, all
    b's those that mark a b: so a7 is to b7 as a3 is to b3, and nothing but what stands around says so.
    """
    path = folder / "planted.txt"
    random = np.random.default_rng(0)
    if not path.exists():
        lines = io.StringIO()
        for _ in range(60_000):
            pair, kind = random.integers(PAIRS), "ab"[random.integers(2)]
            around = [f"t{pair}.{i}" for i in random.integers(0, THEMES, 3)]
            around += [f"{kind}mark{i}" for i in random.integers(0, THEMES, 3)]
            around += [f"common{i}" for i in random.integers(0, COMMON, 2)]
            order = random.permutation(len(around))
            line = [around[i] for i in order]
            line.insert(len(line) // 2, f"{kind}{pair}")
            lines.write(" ".join(line) + "\n")
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(lines.getvalue())
    questions = []
    draw = np.random.default_rng(1)
    while len(questions) < 1000:
        i, j = (int(n) for n in draw.integers(0, PAIRS, 2))
        if i != j:
            questions.append((f"a{i}", f"b{i}", f"a{j}", f"b{j}"))
    return path, questions


if __name__ == "__main__":
    for made in write(Path(tempfile.gettempdir()) / "word2vec"):
        print(made, sum(len(line.split()) for line in made.open()))
