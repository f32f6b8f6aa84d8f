"""Whether what an answer says stands in what it cites, and whether the documents have an answer at all: by their words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fourfold.data.documents.cutting import sentences
from fourfold.kernels import terms
from fourfold.models.passages import PassageIndex
from fourfold.tasks.quoting import is_nowhere
from fourfold.tasks.retrieving import Found

SUPPORTED = 0.5
"""Share of a sentence's words, each by its rarity, that the passages that it cites must have."""
_CITED = re.compile(r"\s*[\[［【]\s*(\d+(?:\s*[,，、;；\-–—~～至]\s*\d+)*)\s*[\]］】]")
_CITATION = re.compile(r"(\d+)(?:\s*[-–—~～至]\s*(\d+))?")
"""A number, or the first and the last of several."""
_NUMBER = re.compile(r"\d[\d.,]*")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass(frozen=True)
class Claim:
    """A sentence of an answer."""

    text: str
    """Without its citations."""
    cited: tuple[int, ...]
    """Numbers of the passages that it names."""
    supported: bool
    why: str = ""
    """What is wrong, if anything is."""


def share(index: PassageIndex, asked: str, said: str) -> float:
    """The share of a text's different words, each by its rarity, that stand in another; 1 where it has none."""
    ours, theirs = (np.unique(terms.hashes([t], stem=index.stem)[0]) for t in (asked, said))
    if not len(ours):
        return 1.0
    weights = index.rarity(ours)
    total = float(weights.sum())
    return float(weights[np.isin(ours, theirs)].sum()) / total if total > 0 else 1.0


def claims(answer: str, passages: Sequence[Found], index: PassageIndex) -> list[Claim]:
    """The sentences of an answer, each held to the passages that it cites.

    Numbers of a sentence must all stand in them. "Not in the documents." claims nothing.
    """
    if is_nowhere(answer):
        return []
    return [
        _claim(text, passages, index)
        for text in _said(answer)
        if terms.hashes([_bare(text)])[0].size
    ]


def _said(answer: str) -> list[str]:
    """Sentences with the citations that follow them, which may stand behind the period."""
    found: list[str] = []
    for line in answer.splitlines():
        for begin, end in sentences(line):
            text = line[begin:end]
            lead = ""
            while found and (mark := _CITED.match(text)):
                lead, text = lead + mark[0], text[mark.end() :].lstrip()
            if lead:
                found[-1] += lead
            if text.strip(" .。"):
                found.append(text)
    return found


def _bare(text: str) -> str:
    return _CITED.sub("", text).strip()


def _cited(text: str, count: int) -> Iterator[int]:
    """The numbers that a sentence cites, of [1], [1, 2] and [1-3]; a range ends one beyond the passages there are."""
    for group in _CITED.findall(text):
        for first, last in _CITATION.findall(group):
            yield int(first)
            yield from range(int(first) + 1, min(int(last or first), count + 1) + 1)


def _claim(text: str, passages: Sequence[Found], index: PassageIndex) -> Claim:
    numbers = tuple(_cited(text, len(passages)))
    bare = _bare(text)
    if not numbers:
        return Claim(bare, (), False, "cites nothing")
    unknown = [n for n in numbers if not 1 <= n <= len(passages)]
    if unknown:
        return Claim(bare, numbers, False, f"cites [{unknown[0]}], which there is not")
    said = "\n".join(f"{passages[n - 1].heading}\n{passages[n - 1].text}" for n in numbers)
    where = ", ".join(f"[{n}]" for n in numbers)
    missing = absent(bare, said, index)
    if missing is None:
        return Claim(bare, numbers, True)
    return Claim(bare, numbers, False, f"{missing} does not stand in {where}".strip())


def absent(sentence: str, said: str, index: PassageIndex) -> str | None:
    """What of a sentence does not stand in a text: a number, "" for the sentence as a whole, None if it stands there."""
    missing = sorted(_figures(sentence) - _figures(said))
    if missing:
        return missing[0]
    return "" if share(index, sentence, said) < SUPPORTED else None


def _figures(text: str) -> set[str]:
    """The numbers of a text; 2,737 is 2737."""
    return {_THOUSANDS.sub("", n.rstrip(".,")) for n in _NUMBER.findall(text)}


def supported(answer: str, passages: Sequence[Found], index: PassageIndex) -> list[bool]:
    """Whether each sentence of an answer stands in passages, whichever it cites."""
    said = "\n".join(f"{p.heading}\n{p.text}" for p in passages)
    texts = [text for text in map(_bare, _said(answer)) if terms.hashes([text])[0].size]
    return [absent(text, said, index) is None for text in texts]
