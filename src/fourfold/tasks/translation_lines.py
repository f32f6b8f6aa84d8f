"""Texts translated line by line: empty lines stay empty, lines beyond the model's limit are split, cut or refused.

Lines of several sentences are translated sentence by sentence where what was learned from had single ones, or where they are
longer than nearly all of it: a model leaves out much of them otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.pair_lengths import Long, pieces, sentences
from fourfold.data.pairs import PairData, pair_data
from fourfold.models.decoding import Output
from fourfold.tasks.translation_decoding import Decoding
from fourfold.tasks.translation_scores import tokenizer_of

if TYPE_CHECKING:
    import polars as pl

    from fourfold.tasks.translation import Translator


@dataclass(frozen=True)
class Said:
    """An output as text."""

    text: str
    score: float
    log_probability: float


class Lines:
    """Texts translated line by line, all lines at once.

    Args:
        system: decodes.
        run: with the model.
        how: options.
        long: what becomes of lines beyond the limit; None as while fitting.
    """

    def __init__(self, system: Translator, run: Run, how: Decoding, long: Long | None) -> None:
        self.system, self.run, self.how = system, run, how
        self.data = pair_data(run.data)
        self.long: Long = long or self.data.options.long
        self.longest = self.data.options.longest
        self.beyond = self.apart = 0

    def translated(self, texts: Sequence[str]) -> list[list[list[Said]]]:
        """For each text and each of its lines the outputs, the best first; one empty one for an empty line."""
        places: list[tuple[int, int]] = []
        wanted: list[str] = []
        found: list[list[list[list[Said]]]] = []  # texts, lines, pieces, outputs
        for number, text in enumerate(texts):
            lines = text.removesuffix("\n").split("\n")
            found.append([[] for _ in lines])
            for row, line in enumerate(lines):
                for piece in self._pieces(line.strip(), row):
                    places.append((number, row))
                    wanted.append(piece)
        if self.beyond:
            did = "split into pieces" if self.long == "split" else "cut"
            self.run.console.say(
                f"lines with more than {self.longest} tokens, {did}: {self.beyond}"
            )
        if self.apart:
            self.run.console.say(
                "lines of several sentences, as hardly any that were learned from are, translated sentence by sentence: "
                f"{self.apart}"
            )
        for (number, row), said in zip(places, self._said(wanted), strict=True):
            found[number][row].append(said)
        return [[self._joined(parts) for parts in lines] for lines in found]

    def _pieces(self, line: str, row: int) -> list[str]:
        """What of a line is decoded, each within the limit; nothing for an empty line."""
        if not line:
            return []
        vocabulary = self.data.source_vocabulary
        tokens = vocabulary.encode(line)
        unusual = self.data.single_sentences or len(tokens) > self.data.common_length
        if unusual and self.long == "split":
            parts = sentences(line)
            if len(parts) > 1:
                self.apart += 1
                return [p for part in parts for p in pieces(part, vocabulary, self.longest)]
        if len(tokens) <= self.longest:
            return [line]
        if self.long == "error":
            raise UserError(
                f"line {row + 1} ({line[:40]!r}) has {len(tokens):,} tokens, expected {self.longest:,} at most; "
                "--long split or cut shortens it"
            )
        self.beyond += 1
        if self.long == "cut":
            return [vocabulary.decode(tokens[: self.longest])]
        return pieces(line, vocabulary, self.longest)

    def _said(self, wanted: list[str]) -> list[list[Said]]:
        """The outputs of each piece; what is asked twice is decoded once."""
        if not wanted:
            return []
        different = list(dict.fromkeys(wanted))
        rows, spelled = self.data.encode_sources(different)
        outputs = self.system._decode(self.run, rows, self.how)
        read = {
            text: [
                # a line begins with a word, whatever token that was learned in the middle of one
                Said(copied(self.data, row, words, o).strip(), o.score, o.log_probability)
                for o in outputs_of
            ]
            for text, row, words, outputs_of in zip(different, rows, spelled, outputs, strict=True)
        }
        return [read[piece] for piece in wanted]

    def _joined(self, parts: list[list[Said]]) -> list[Said]:
        """Outputs of a whole line: those of its pieces, rank by rank."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return [Said("", 0.0, 0.0)]
        space = "" if tokenizer_of([parts[0][0].text]) != "13a" else " "
        ranks = min(map(len, parts))
        return [
            Said(
                space.join(part[rank].text for part in parts),
                sum(part[rank].score for part in parts),
                sum(part[rank].log_probability for part in parts),
            )
            for rank in range(ranks)
        ]


def copied(data: PairData, source: list[int], spelled: list[str], output: Output) -> str:
    """An output as text, in which each unknown token is what it looked at most in the source.

    Args:
        data: with the vocabularies.
        source: the source's tokens.
        spelled: what its unknown tokens stand for, in order.
        output: tokens and where each looked.
    """
    target, names = data.target_vocabulary, data.source_vocabulary
    words: list[str] = []
    if target.unknown is not None and output.attended:
        unknown = iter(spelled)
        read = [next(unknown, "") if t == names.unknown else names.decode([t]) for t in source]
        read[-1] = ""  # the end token says nothing
        pairs = zip(output.tokens, output.attended, strict=True)
        words = [read[place].strip() for token, place in pairs if token == target.unknown]
    return target.decode(output.tokens, words)


def as_texts(
    texts: str | Sequence[str], found: Sequence[Sequence[Sequence[Said]]]
) -> Iterator[str]:
    """The best output of every line: a single text as it was, with its last line's end; several each ended by one.

    Args:
        texts: what was translated.
        found: for each text and each of its lines the outputs, the best first.
    """
    for lines in found:
        ended = not isinstance(texts, str) or texts.endswith("\n")
        said = "\n".join(best[0].text for best in lines)
        yield f"{said}\n" if ended else said


def as_table(found: Sequence[Sequence[Sequence[Said]]]) -> pl.DataFrame:
    """The outputs of every line with their scores."""
    import polars as pl

    rows = [
        (number, rank + 1, said.text, said.score, said.log_probability)
        for number, best in enumerate((b for lines in found for b in lines), 1)
        for rank, said in enumerate(best)
    ]
    names = ("line", "rank", "text", "score", "log_probability")
    return pl.DataFrame(rows, schema=list(names), orient="row")
