"""How near answers come to their references: exact match and F1 of words (SQuAD, Rajpurkar et al. 2016), ROUGE-L (Lin
2004), BLEU (Papineni et al. 2002, by sacreBLEU).

In scripts without spaces a word is a character.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

from fourfold.core.errors import UserError
from fourfold.core.types import Score
from fourfold.tasks.translation_scores import measured

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af]|[^\W_]+?(?=[\u3040-\u30ff\u3400-\u9fff]|[\W_]|$)"
)
"""A character of a script without spaces, or a run of letters and digits of another."""
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_MARKS = str.maketrans("", "", string.punctuation)


def words(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters and digits, of Chinese and Japanese each character."""
    return _WORD.findall(text.lower())


def normal(text: str) -> str:
    """A text as exact match compares it: lower case, without punctuation, articles and additional space (SQuAD)."""
    lowered = text.lower().translate(_MARKS)
    kept = "".join(c for c in lowered if not unicodedata.category(c).startswith("P"))
    return " ".join(_ARTICLE.sub(" ", kept).split())


def exact(answer: str, reference: str) -> float:
    """1 if both are the same text, as SQuAD normalizes it; otherwise 0."""
    return float(normal(answer) == normal(reference))


def f1(answer: str, reference: str) -> float:
    """Harmonic mean of the shares of words of one that the other has too, each as often as in both."""
    ours, theirs = (_WORD.findall(normal(text)) for text in (answer, reference))
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * same / (len(ours) + len(theirs))


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words."""
    ours, theirs = words(answer), words(reference)
    if not ours or not theirs:
        return 0.0
    return 2 * _common(ours, theirs) / (len(ours) + len(theirs))


def bleu(answers: Sequence[str], references: Sequence[str]) -> float | None:
    """BLEU of all answers together, 0 to 1; Chinese is cut into characters, as sacrebleu's zh does.

    None where no answer has four words, which BLEU counts.

    Raises:
        UserError: sacrebleu is not installed.
    """
    found = measured(answers, references).bleu
    return None if found is None else found / 100


def answer_score(answers: Sequence[str], references: Sequence[str]) -> Score:
    """All measures of some answers, 0 to 1; means over the answers except BLEU.

    Args:
        answers: at least one.
        references: as many.
    """
    pairs = list(zip(answers, references, strict=True))
    values = {
        name: sum(measure(a, r) for a, r in pairs) / len(pairs)
        for name, measure in (("exact_match", exact), ("f1", f1), ("rouge_l", rouge_l))
    }
    try:
        found = bleu(answers, references)
    except UserError as error:  # not installed
        return Score(values, notes=(str(error),))
    if found is None:
        return Score(values, notes=("no BLEU: no answer has four words",))
    return Score({**values, "bleu": found})


def _common(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Length of the longest common subsequence, a bit for each word of one (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for number, word in enumerate(ours):
        places[word] = places.get(word, 0) | 1 << number
    every = (1 << len(ours)) - 1
    row = every
    for word in theirs:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & every
    return len(ours) - row.bit_count()
