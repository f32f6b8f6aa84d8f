"""Long texts' tokens on disk: written piece by piece beside an index, by several processes, gone on with after a stop.

    <cache>/tokens/<what the tokens depend on>/
      train.bin, valid.bin, test.bin   the tokens of each split, one after the other, memory-mapped when they are read
      index.jsonl                      of each piece: its source, and of each split how many tokens, their CRC-32, and
                                       what is measured of them
      measures.json, counts.npy        written last: with them the folder is whole

The pieces and their order depend on the text alone, so that the files are the same whatever number of processes made them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from fourfold.core.console import say
from fourfold.core.errors import UserError
from fourfold.data.corpus import SPLITS, Part
from fourfold.data.token_workers import encoded_in_order
from fourfold.data.tokens import Encoded, Measures, Piece, Tally, batches, dtype_of
from fourfold.data.vocabulary import Vocabulary

EVERY = 15.0
"""Seconds between two sentences about how far encoding is."""


def write(stream: Iterable[Part], vocabulary: Vocabulary, folder: Path) -> None:
    """Encode a corpus into a folder; one process at a time, the others wait and find it there.

    What a process that was stopped has written beside the folder is checked and gone on with.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_name(f".{folder.name}.lock")):
        if (folder / "measures.json").is_file():
            return
        partial = folder.with_name(f".{folder.name}.partial")
        partial.mkdir(exist_ok=True)
        tally = _fill(stream, vocabulary, partial)
        np.save(partial / "counts.npy", tally.counts)
        measures = json.dumps(asdict(tally.measured()))
        (partial / "measures.json").write_text(measures, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # one that was never whole
        partial.replace(folder)


def read(folder: Path, dtype: np.dtype[Any]) -> Encoded:
    """What `write` wrote, memory-mapped.

    Raises:
        UserError: it is damaged.
    """
    try:
        measures = Measures(**json.loads((folder / "measures.json").read_text(encoding="utf-8")))
        counts = np.load(folder / "counts.npy", allow_pickle=False)
        tokens = {s: np.memmap(folder / f"{s}.bin", dtype, mode="r") for s in SPLITS}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: damaged ({error}); delete it and it is made again") from error
    for split in SPLITS:
        if len(tokens[split]) != measures.tokens[split] + 1:
            raise UserError(
                f"{folder}/{split}.bin: truncated; delete {folder} and it is made again"
            )
    return Encoded(dict(tokens), measures, counts)


# --- private ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process of this machine writes here."""
    with path.open("a") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):  # a system, or a file system, without locks
            pass
        yield


def _fill(stream: Iterable[Part], vocabulary: Vocabulary, folder: Path) -> Tally:
    """Write the tokens and the index, going on behind what is there."""
    tally, dtype = Tally(vocabulary), dtype_of(vocabulary)
    opening = np.array([vocabulary.opening], dtype)
    files = {split: _at_start(folder / f"{split}.bin", opening) for split in SPLITS}
    index = (folder / "index.jsonl").open("a+b")
    try:
        done = _go_on(index, files, tally, dtype)
        if done:
            say(
                f"Going on with {sum(tally.measures.tokens.values()):,} tokens that were encoded before."
            )
        told = time.monotonic()
        left = itertools.islice(batches(stream), done, None)
        for batch, pieces in encoded_in_order(left, vocabulary):
            line: dict[str, Any] = {"source": batch[0].source}
            for split, piece in pieces.items():
                files[split].write(piece.tokens.data)
                files[split].flush()
                tally.add(batch[0].source, split, piece)
                said = {**piece._asdict(), "tokens": len(piece.tokens)}
                line[split] = {**said, "crc": zlib.crc32(piece.tokens.data)}
            index.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            index.flush()
            if time.monotonic() - told > EVERY:
                told = time.monotonic()
                say(f"{sum(tally.measures.tokens.values()):,} tokens encoded")
    finally:
        for file in [*files.values(), index]:
            file.close()
    return tally


def _at_start(path: Path, opening: np.ndarray) -> IO[bytes]:
    """A file that begins with the opening token, its place behind that."""
    path.touch()
    file = path.open("r+b")
    if file.read(opening.nbytes) != opening.tobytes():
        file.seek(0)
        file.truncate()
        file.write(opening.data)
        file.flush()
    return file


def _go_on(
    index: IO[bytes], files: dict[Any, IO[bytes]], tally: Tally, dtype: np.dtype[Any]
) -> int:
    """Measure the pieces that are whole, cut off what is behind them, and say how many they are."""
    index.seek(0)
    done, end = 0, 0
    ends = {split: file.tell() for split, file in files.items()}
    for line in index:
        kept = _kept(line, files, dtype)
        if kept is None:
            break
        source, pieces = kept
        for split, piece in pieces.items():
            tally.add(source, split, piece)
            ends[split] += piece.tokens.nbytes
        done, end = done + 1, end + len(line)
    for file, place in [*((files[s], e) for s, e in ends.items()), (index, end)]:
        file.seek(place)
        file.truncate()
    return done


def _kept(
    line: bytes, files: dict[Any, IO[bytes]], dtype: np.dtype[Any]
) -> tuple[int, dict[Any, Piece]] | None:
    """Source and piece that a line of the index tells of, read at the files' places; None where it is not whole."""
    try:
        told = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    if told is None:
        return None
    found = {}
    for split in (s for s in SPLITS if s in told):
        said = dict(told[split])
        content = files[split].read(said["tokens"] * dtype.itemsize)
        if zlib.crc32(content) != said.pop("crc") or len(content) < said["tokens"] * dtype.itemsize:
            return None
        found[split] = Piece(**{**said, "tokens": np.frombuffer(content, dtype)})
    return told["source"], found
