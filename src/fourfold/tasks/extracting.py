"""Answers taken word for word from passages, without a model: the sentence that is most of the question, and what in it is
of the kind that is asked for. Sentence retrieval by overlap: Voorhees and Tice 1999, TREC-8's question answering track.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fourfold.data.documents.cutting import sentences
from fourfold.models.passages import PassageIndex
from fourfold.tasks.retrieving import Found
from fourfold.tasks.supporting import share

_MONTH = (
    "January|February|March|April|May|June|July|August|September|October|November|December|Januar|Februar|März|Mai|Juni|Juli|"
    "Oktober|Dezember"
)
_DATE = re.compile(
    rf"(?:\d{{1,2}}\.? )?(?:{_MONTH})(?: \d{{1,2}}(?:st|nd|rd|th)?)?(?:,? \d{{4}})?|\d{{4}}年(?:\d{{1,2}}月(?:\d{{1,2}}日)?)?|"
    r"\b(?:1\d|20)\d\d(?:s|[-–]\d{2,4})?\b|\b\d{1,2}(?:st|nd|rd|th) century\b"
)
_QUANTITY = re.compile(
    r"(?:[$€£¥] ?)?\d[\d,.]*\d?(?: (?:million|billion|trillion|percent|Millionen|Milliarden|Prozent))?%?(?:\s?[万亿]+)?|"
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn)\b|"
    r"[一二三四五六七八九十百千万两]+(?=[个名种次年人岁天座])",
    re.I,
)
_NAME = re.compile(
    r"(?:[A-ZÄÖÜ][\w'’.-]*[\w]|[A-Z]\.)(?: (?:(?:of|the|de|von|van|und|and|al|der) )?(?:[A-ZÄÖÜ][\w'’-]*|[A-Z]\.))*"
)
KINDS: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...] = (
    (re.compile(r"\bwhen\b|\b(?:what|which) (?:year|date|century|decade)|\bwann\b|welchem Jahr|什么时候|何时|哪一?年|哪天", re.I), _DATE),
    (re.compile(r"\bhow (?:many|much|old|long|far|tall|large|big|high|deep|wide|heavy|fast|often)\b|\bwie ?viele?\b|\bwie (?:hoch|groß|lang)|多少|几[个名种次年人岁]|percentage", re.I), _QUANTITY),
    (re.compile(r"\bwho(?:m|se)?\b|\bwhere\b|\bwelche[rsn]?\b|\bwo\b|\bwer\b|\b(?:what|which) (?:city|country|state|person|name|company|team|river|language|school)", re.I), _NAME),
)  # fmt: skip
"""How a question asks for a date, a quantity, a name; and what such a one looks like."""


@dataclass(frozen=True)
class Extract:
    """A place in a passage that answers."""

    passage: int
    """Which, from 1."""
    sentence: str
    begin: int
    """Characters of the document's text."""
    end: int
    span: str
    """What of the sentence is asked for; the sentence itself where that is not known."""
    score: float


def extracted(question: str, passages: Sequence[Found], index: PassageIndex) -> Extract | None:
    """The best answer that passages have as it stands; None where there is no passage.

    A sentence's score is the share of the question's words in it, and less so in the sentences beside it; passages
    count by their place, sentences that hold what is asked for count more, and those that repeat the question least.
    """
    wanted = next((shape for asks, shape in KINDS if asks.search(question)), None)
    asked = _words(question)
    best: Extract | None = None
    for number, passage in enumerate(passages, 1):
        whole = share(index, question, f"{passage.heading}\n{passage.text}")
        for begin, end in sentences(passage.text):
            sentence = passage.text[begin:end]
            own = share(index, question, sentence)
            span = _span(question, sentence, wanted, index)
            if asked and asked in _words(sentence):  # the question itself is no answer to it
                own, span = -1.0, ""
            score = own + 0.5 * whole + (0.2 if span else 0) - 0.05 * (number - 1)
            if best is None or score > best.score:
                place = passage.begin + begin
                best = Extract(
                    number, sentence, place, place + end - begin, span or sentence, score
                )
    return best


def _words(text: str) -> str:
    """A text's words alone."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _span(question: str, sentence: str, wanted: re.Pattern[str] | None, index: PassageIndex) -> str:
    """What a sentence has of the kind that is wanted and is not in the question, nearest to the question's words."""
    if wanted is None:
        return ""
    lowered = question.casefold()
    places = [
        m for m in wanted.finditer(sentence) if m[0].strip() and m[0].casefold() not in lowered
    ]
    if wanted is _NAME:
        places = [m for m in places if m.start() > 0 or " " in m[0] or not _common(m[0])]
    if not places:
        return ""
    anchors = list(_anchors(question, sentence))
    if not anchors:
        return places[0][0].strip(" .,")
    return min(places, key=lambda m: min(abs(m.start() - a) for a in anchors))[0].strip(" .,")


def _common(word: str) -> bool:
    return word.casefold() in {
        "the", "a", "an", "in", "on", "at", "it", "this", "that", "these", "he", "she", "they", "there", "when", "by", "as",
        "for", "from", "his", "her", "its", "while", "although", "however", "after", "before", "der", "die", "das", "im",
    }  # fmt: skip


def _anchors(question: str, sentence: str) -> Iterator[int]:
    """Where longer words of the question stand in a sentence."""
    lowered = sentence.casefold()
    for word in re.findall(r"\w{4,}", question.casefold()):
        place = lowered.find(word[: max(4, len(word) - 2)])
        if place >= 0:
            yield place + len(word) // 2
