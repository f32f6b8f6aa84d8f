"""Rendered conversations as tokens: special tokens of the template are single ones, what a message spells is text.

N is the number of tokens of a conversation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fourfold.data.chat import Chat, Rendered
from fourfold.data.subwords import Subwords
from fourfold.data.vocabulary import Vocabulary


class Encoded(NamedTuple):
    """A conversation in tokens."""

    tokens: np.ndarray
    """(N,) int64."""
    said: np.ndarray
    """(N,) bool, whether the assistant says it."""


class _Piece(NamedTuple):
    text: str
    before: str
    said: bool
    special: int | None = None


def special_tokens(vocabulary: Vocabulary) -> dict[str, int]:
    """The special tokens of a vocabulary by their text; the end token is one in every vocabulary."""
    found = {vocabulary.token(vocabulary.end): vocabulary.end}
    if isinstance(vocabulary, Subwords):
        for number, token in vocabulary.tokenizer().get_added_tokens_decoder().items():
            if token.special:
                found[token.content] = number
    return found


def encode_chats(
    rendered: Sequence[Rendered], vocabulary: Vocabulary, specials: Mapping[str, int]
) -> list[Encoded]:
    """Encode conversations.

    An answer's first token begins where the answer does, as it will when the model is asked: no token reaches across.
    A tokenizer that reads whole texts only (not byte-level) reads each as a whole, and a token counts as the
    assistant's if its last character is.

    Args:
        rendered: the texts.
        vocabulary: how.
        specials: from `special_tokens`.
    """
    if isinstance(vocabulary, Subwords) and vocabulary.whole_documents:
        return _whole(rendered, vocabulary, specials)
    return _in_pieces(rendered, vocabulary, specials)


def stop_token(chat: Chat, specials: Mapping[str, int]) -> int | None:
    """The token that ends the assistant's turn, where it is a single special one."""
    return specials.get(chat.stop)


def _in_pieces(
    rendered: Sequence[Rendered], vocabulary: Vocabulary, specials: Mapping[str, int]
) -> list[Encoded]:
    """Between special tokens and the beginnings and ends of answers, each piece by itself."""
    special = _pattern(specials)
    cut = [_pieces(each, special, specials) for each in rendered]
    texts = [piece for pieces in cut for piece in pieces if piece.special is None]
    tokens, lengths = vocabulary.encode_many([p.text for p in texts], [p.before for p in texts])
    parts = iter(np.split(tokens.astype(np.int64), np.cumsum(lengths)[:-1]) if texts else ())
    found = []
    for pieces in cut:
        ids = [
            next(parts) if p.special is None else np.array([p.special], np.int64) for p in pieces
        ]
        said = np.repeat([p.said for p in pieces], [len(some) for some in ids])
        found.append(Encoded(np.concatenate(ids), said.astype(bool)))
    return found


def _pieces(each: Rendered, special: re.Pattern[str], specials: Mapping[str, int]) -> list[_Piece]:
    found: list[_Piece] = []
    edges = [0, *(edge for span in each.said for edge in span), len(each.text)]
    for number, (begin, end) in enumerate(zip(edges, edges[1:], strict=False)):
        said, place = number % 2 == 1, begin
        for match in _controls(each, special, begin, end):
            _add(found, each.text, place, match.start(), said)
            found.append(_Piece(match[0], "", said, specials[match[0]]))
            place = match.end()
        _add(found, each.text, place, end, said)
    return found


def _controls(each: Rendered, special: re.Pattern[str], begin: int, end: int) -> Any:
    """Special tokens that the template wrote."""
    place = begin
    literal = {first for first, _ in each.literal}
    while match := special.search(each.text, place, end):
        if match.start() in literal:
            place = match.start() + 1
            continue
        yield match
        place = match.end()


def _add(found: list[_Piece], text: str, begin: int, end: int, said: bool) -> None:
    if begin < end:
        before = text[begin - 1] if begin and not (found and found[-1].special is not None) else ""
        found.append(_Piece(text[begin:end], before, said))


def _whole(
    rendered: Sequence[Rendered], vocabulary: Subwords, specials: Mapping[str, int]
) -> list[Encoded]:
    from tokenizers import Tokenizer

    reads_specials = Tokenizer.from_str(vocabulary.content())
    reads_specials.encode_special_tokens = False
    found = []
    for each in rendered:
        if each.literal:  # a message spells a special token: only pieces keep it text
            found += _in_pieces([each], vocabulary, specials)
            continue
        encoding = reads_specials.encode(each.text, add_special_tokens=False)
        ends = np.array([end for _, end in encoding.offsets], np.int64)
        said = np.zeros(len(ends), bool)
        for begin, end in each.said:
            said |= (begin < ends) & (ends <= end)
        found.append(Encoded(np.array(encoding.ids, np.int64), said))
    return found


def _pattern(specials: Mapping[str, int]) -> re.Pattern[str]:
    longest = sorted((s for s in specials if s), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest)) or "(?!)")
