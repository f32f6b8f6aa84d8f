"""BLEU and chrF of translations, by the field's own tool: sacreBLEU (Post 2018), with its signature.

BLEU: Papineni et al. 2002; chrF: Popović 2015. Outputs and references are cased and detokenized; Chinese is cut into
characters by sacreBLEU's zh tokenizer, other scripts without spaces by its char tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fourfold.core.errors import UserError

MISSING = "BLEU and chrF need sacrebleu: pip install 'fourfold[translation]'"
EDGES = (5, 10, 15, 20, 30, 50, 100)
"""Words of a source up to which it counts to a group, where scores are by length."""
FEWEST = 20
"""Sentences of a group at least; smaller ones join the next."""
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_CUT = re.compile(r"[\u3040-\u30ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
"""Scripts written without spaces: kana, Thai, Lao, Burmese, Khmer."""
_LETTER = re.compile(r"\w")


@dataclass(frozen=True)
class Measured:
    """Scores of a corpus."""

    bleu: float | None
    """None where no output and reference have four words in a row to compare."""
    chrf: float
    signatures: tuple[str, str]


def sacrebleu() -> Any:
    """The package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import sacrebleu as package
    except ImportError as error:
        raise UserError(MISSING) from error
    return package


def tokenizer_of(references: Sequence[str]) -> str:
    """sacreBLEU's tokenizer for texts: zh, char or 13a, by their script."""
    text = "".join(references)[:100_000]
    letters = max(1, len(_LETTER.findall(text)))
    if len(_CUT.findall(text)) > 0.2 * letters:
        return "char"
    return "zh" if len(_HAN.findall(text)) > 0.3 * letters else "13a"


def measured(outputs: Sequence[str], references: Sequence[str], tokenize: str = "") -> Measured:
    """BLEU and chrF of a corpus, 0 to 100.

    Args:
        outputs, references: as many of both.
        tokenize: sacreBLEU's tokenizer; empty chooses by script.

    Raises:
        UserError: sacrebleu is not installed.
    """
    metrics = sacrebleu().metrics
    bleu = metrics.BLEU(tokenize=tokenize or tokenizer_of(references))
    chrf = metrics.CHRF()
    first = bleu.corpus_score(list(outputs), [list(references)])
    second = chrf.corpus_score(list(outputs), [list(references)])
    signatures = str(bleu.get_signature()), str(chrf.get_signature())
    long_enough = first.totals[-1] > 0
    return Measured(float(first.score) if long_enough else None, float(second.score), signatures)


def utility(name: str, references: Sequence[str]) -> Callable[[str, str], float]:
    """How good an output is if a reference is right, 0 to 100: for minimum Bayes risk.

    Args:
        name: chrf or bleu (smoothed, of a sentence).
        references: texts of the language, for the tokenizer.

    Raises:
        UserError: sacrebleu is not installed.
    """
    metrics = sacrebleu().metrics
    scorer = (
        metrics.CHRF()
        if name == "chrf"
        else metrics.BLEU(tokenize=tokenizer_of(references), effective_order=True)
    )
    return lambda output, reference: float(scorer.sentence_score(output, [reference]).score)


def words_of(text: str) -> int:
    """Words of a text: what stands between spaces, or characters in a script without them."""
    return len(text) if tokenizer_of([text]) != "13a" else len(text.split())


def length_groups(sources: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Sentences by the words of their source: ("11-20", numbers), none of fewer than FEWEST where there are more."""
    lengths = [words_of(source) for source in sources]
    found: list[tuple[int, int, list[int]]] = []
    low = 0
    gathered: list[int] = []
    begin = 1
    for edge in (*EDGES, max([*lengths, EDGES[-1] + 1])):
        gathered += [
            n
            for n, length in enumerate(lengths)
            if low < length <= edge or (low == 0 and length == 0)
        ]
        low = edge
        if len(gathered) >= FEWEST:
            found.append((begin, edge, gathered))
            gathered, begin = [], edge + 1
    if gathered and found:  # the few longest join the group before
        first, _, numbers = found.pop()
        found.append((first, low, sorted(numbers + gathered)))
    elif gathered:
        found.append((begin, low, gathered))
    longest = max(lengths, default=0)
    return [(f"{a}-{min(b, longest)}" if a < min(b, longest) else f"{a}", n) for a, b, n in found]


def by_groups(
    sources: Sequence[str], outputs: Sequence[str], references: Sequence[str]
) -> tuple[str, list[tuple[str, int, float]]]:
    """Quality by the words of the source: the measure's name, and (words, sentences, measure) of each group.

    The measure is BLEU, all in one tokenizer, or chrF where outputs are too short for it.

    Raises:
        UserError: sacrebleu is not installed.
    """
    how = tokenizer_of(references)
    found = [
        (name, [outputs[n] for n in numbers], [references[n] for n in numbers])
        for name, numbers in length_groups(sources)
    ]
    scores = [measured(said, right, how) for _, said, right in found]
    blue = all(score.bleu is not None for score in scores)
    groups = [
        (name, len(said), float(score.bleu or 0.0) if blue else score.chrf)
        for (name, said, _), score in zip(found, scores, strict=True)
    ]
    return "BLEU" if blue else "chrF", groups


def scores(
    values: dict[str, float],
    units: dict[str, str],
    sources: Sequence[str],
    outputs: Sequence[str],
    references: Sequence[str],
) -> tuple[dict[str, float], dict[str, str], list[str]]:
    """BLEU and chrF before other values, with those by the words of the source behind them, and the signatures.

    Raises:
        UserError: sacrebleu is not installed.
    """
    whole = measured(outputs, references)
    notes = [f"signature: {s}" for s in whole.signatures]
    first = {"chrf": whole.chrf}
    if whole.bleu is not None:
        first = {"bleu": whole.bleu, **first}
    else:
        notes = ["no BLEU: it compares four words in a row, and no output has so many", notes[1]]
    values = {**first, **values}
    measure, groups = by_groups(sources, outputs, references)
    if len(groups) > 1:
        for name, count, score in groups:
            key = f"{measure.lower()}, sources of {name} words"
            values[key], units[key] = score, f"({count} sentences)"
    return values, units, notes
