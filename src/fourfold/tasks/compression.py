"""Lossless compression with a language model: what it expects costs little (Shannon 1948; Rissanen and Langdon 1979).

A file is cut into pieces that are text, which the model's tokens give back to the last byte, and pieces that
are not, which the adaptive model of bytes takes. All tokens stand in one row and are dealt to R rows of equal
length, which the model reads in lockstep: each row begins without context, and R rows cost one step. Whoever
expands does the same steps with the same numbers. Shapes: R rows, L their length, N tokens, V entries.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fourfold.core.errors import UserError
from fourfold.data.spelling import Spelling
from fourfold.data.vocabulary import Vocabulary
from fourfold.kernels import coder
from fourfold.tasks.reader import Reader

SHORTEST = 64
"""Characters; shorter pieces of text between others are taken as bytes like them."""
LENGTH = 4096
"""Tokens that a row should have at least, so that beginning without context costs little."""
MOST_ROWS = 64
LONGEST_WORD = 1 << 20
"""Bytes of an unknown word; a longer one is taken with its piece as bytes."""
BLOCK = 1 << 16
"""Bytes that are no text, spelled at once: the buffer has room for what they could take at worst."""
Progress = Callable[[int, int], None]
"""Is told how many of how many tokens are done."""
_ODD = re.compile("[\udc80-\udcff]+")


@dataclass
class Piece:
    """A stretch of a file: text with its tokens and the spellings of unknown ones, or bytes."""

    raw: bytes
    tokens: np.ndarray | None = None
    spelled: list[str] = field(default_factory=list)


def cut(data: bytes, vocabulary: Vocabulary) -> list[Piece]:
    """A file's pieces, none of them empty; text only where its tokens give back the very same bytes."""
    text = data.decode("utf-8", "surrogateescape")
    made: list[Piece] = []
    done = 0
    for odd in [*_ODD.finditer(text), None]:
        end = odd.start() if odd else len(text)
        made += _texts(text[done:end], vocabulary)
        if odd:
            made.append(Piece(odd[0].encode("utf-8", "surrogateescape")))
            done = odd.end()
    return list(_joined(made))


def _texts(text: str, vocabulary: Vocabulary) -> Iterator[Piece]:
    """The pieces of what is UTF-8."""
    if not text:
        return
    if whole := _lossless(text, vocabulary):
        yield whole
        return
    lines = text.splitlines(keepends=True)
    if len(lines) == 1:
        yield Piece(text.encode())
        return
    good = [_lossless(line, vocabulary) is not None for line in lines]
    begin = 0
    for place in range(1, len(lines) + 1):
        if place == len(lines) or good[place] != good[begin]:
            joined = "".join(lines[begin:place])
            found = _lossless(joined, vocabulary) if good[begin] else None
            yield found or Piece(joined.encode())
            begin = place


def _lossless(text: str, vocabulary: Vocabulary) -> Piece | None:
    tokens, _, spelled = vocabulary.encode_spelled([text])
    if max((len(word) for word in spelled), default=0) * 4 > LONGEST_WORD:
        return None
    if vocabulary.decode(tokens, spelled) != text:
        return None
    return Piece(text.encode(), tokens.astype(np.int64), spelled)


def _joined(pieces: list[Piece]) -> Iterator[Piece]:
    """Neighbours of bytes as one; short texts beside them are bytes too."""
    held = b""
    for piece in pieces:
        between = len(pieces) > 1 and len(piece.raw) < SHORTEST
        if piece.tokens is None or between:
            held += piece.raw
            continue
        if held:
            yield Piece(held)
            held = b""
        yield piece
    if held:
        yield Piece(held)


def rows_for(tokens: int) -> int:
    """How many rows a text of so many tokens is dealt to."""
    return max(1, min(MOST_ROWS, tokens // LENGTH))


@torch.inference_mode()
def encode(reader: Reader, pieces: list[Piece], rows: int, progress: Progress) -> tuple[bytes, int]:
    """The body of an archive.

    Args:
        reader: the model.
        pieces: from `cut`.
        rows: R.
        progress: see `Progress`.

    Returns:
        The body, and how many bytes at its end are stored as they are.
    """
    raw = b"".join(piece.raw for piece in pieces if piece.tokens is None)
    data = np.frombuffer(raw, np.uint8)
    begins = np.array([*range(0, len(raw), BLOCK), len(raw)], np.int64)
    coded = coder.spell_cost(coder.spelling_counts(), data, begins, False) < 8 * len(raw)
    state, out = coder.register(), np.zeros(1 << 16, np.uint8)
    if raw and coded:
        counts = coder.spelling_counts()
        for begin in range(0, len(raw), BLOCK):
            out = _with_room(out, state, BLOCK)
            coder.put_word(state, out, counts, data[begin : begin + BLOCK], False)
    texts = [piece for piece in pieces if piece.tokens is not None]
    tokens = np.concatenate(
        [np.zeros(0, np.int64), *(t.tokens for t in texts if t.tokens is not None)]
    )
    spelled = [word for piece in texts for word in piece.spelled]
    out = _encode_tokens(reader, tokens, spelled, rows, state, out, progress)
    kept = raw if raw and not coded else b""
    return coder.finish(state, out) + kept, len(kept)


def _with_room(out: np.ndarray, state: np.ndarray, symbols: int) -> np.ndarray:
    """The buffer, or a larger one, with room for so many tokens or bytes more."""
    need = int(state[2]) + 16 * symbols + 64
    if need <= len(out):
        return out
    return np.concatenate([out, np.zeros(max(need - len(out), len(out)), np.uint8)])


def _encode_tokens(
    reader: Reader,
    tokens: np.ndarray,
    spelled: list[str],
    rows: int,
    state: np.ndarray,
    out: np.ndarray,
    progress: Progress,
) -> np.ndarray:
    """Write the tokens, dealt to rows; the buffer, which may be another one now."""
    vocabulary = reader.vocabulary
    unknown = -1 if vocabulary.unknown is None else vocabulary.unknown
    words = dict(zip(np.flatnonzero(tokens == unknown).tolist(), spelled, strict=True))
    counts = Spelling(vocabulary if words else None).counts
    for places, said, read in _steps(reader, len(tokens), rows, progress):
        chosen = tokens[places]
        out = _with_room(out, state, len(chosen))
        if not coder.put_rows(state, out, said, chosen):
            raise ValueError(
                "the model's probabilities are none: not from 0 to 1, or their sum is not 1"
            )
        for place in places[chosen == unknown].tolist():
            word = np.frombuffer(words[place].encode(), np.uint8)
            out = _with_room(out, state, len(word))
            coder.put_word(state, out, counts, word, True)
        read(chosen)
    return out


@torch.inference_mode()
def decode(
    reader: Reader, body: bytes, pieces: list[int], stored: int, rows: int, progress: Progress
) -> bytes:
    """The original of a body; see `encode` and `Archive`.

    Raises:
        UserError: it does not decode, as no body that `encode` wrote here would.
    """
    kept = body[len(body) - stored :]
    state, data = coder.opened(body[: len(body) - stored])
    raw = np.zeros(sum(pieces[1::2]), np.uint8)
    if stored:
        raw = np.frombuffer(kept, np.uint8)
    elif len(raw):
        counts = coder.spelling_counts()
        for begin in range(0, len(raw), BLOCK):
            coder.take_word(state, data, counts, raw[begin : begin + BLOCK], False)
    tokens, words = _decode_tokens(reader, state, data, sum(pieces[::2]), rows, progress)
    vocabulary = reader.vocabulary
    said, at, byte = [], 0, 0
    for number, size in enumerate(pieces):
        if number % 2:
            said.append(raw[byte : byte + size].tobytes())
            byte += size
        else:
            part = tokens[at : at + size]
            spelled = [words[at + p] for p in np.flatnonzero(part == vocabulary.unknown).tolist()]
            said.append(vocabulary.decode(part, spelled).encode())
            at += size
    return b"".join(said)


def _decode_tokens(
    reader: Reader, state: np.ndarray, data: np.ndarray, count: int, rows: int, progress: Progress
) -> tuple[np.ndarray, dict[int, str]]:
    """The tokens, and the spelling of each unknown one by its place."""
    vocabulary = reader.vocabulary
    unknown = -1 if vocabulary.unknown is None else vocabulary.unknown
    counts, room = None, np.zeros(LONGEST_WORD, np.uint8)
    tokens, words = np.zeros(count, np.int64), dict[int, str]()
    for places, said, read in _steps(reader, count, rows, progress):
        chosen = np.zeros(len(places), np.int64)
        if not coder.take_rows(state, data, said, chosen):
            raise UserError("the model's probabilities are none: not from 0 to 1")
        tokens[places] = chosen
        for place in places[chosen == unknown].tolist():
            counts = Spelling(vocabulary).counts if counts is None else counts
            size = coder.take_word(state, data, counts, room, True)
            if size < 0:
                raise UserError("an unknown word without an end was found")
            words[place] = room[:size].tobytes().decode("utf-8", "replace")
        read(chosen)
    return tokens, words


def _steps(
    reader: Reader, count: int, rows: int, progress: Progress
) -> Iterator[tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], None]]]:
    """Each step's places in the text, the probabilities there, and how to tell what was read.

    Yields:
        (P,) int64 places, P at most R; (R, V) float32; a function of (P,) int64 tokens, called once.
    """
    if not count:
        return
    length = -(-count // rows)
    begins = np.arange(rows, dtype=np.int64) * length
    vocabulary = reader.vocabulary
    state: Any = reader.start(rows)
    told = time.monotonic()
    for step in range(length):
        places = begins + step
        # only the last rows can be short, so that those that go on are the first ones
        places = places[places < np.minimum(begins + length, count)]
        said = reader.next(state).float().exp().cpu().contiguous().numpy()
        pushed = torch.full((rows,), vocabulary.end)

        def read(chosen: np.ndarray, pushed: torch.Tensor = pushed) -> None:
            pushed[: len(chosen)] = torch.from_numpy(chosen)

        yield places, said, read
        if step < length - 1:
            state = reader.push(state, pushed)
        if time.monotonic() - told > 0.2:
            told = time.monotonic()
            progress(min(count, (step + 1) * rows), count)
    progress(count, count)
