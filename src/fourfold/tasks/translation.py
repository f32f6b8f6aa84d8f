"""The verbs of every system that makes one sequence of another: translate, evaluate, explain.

A system subclasses `Translator` and supplies `stepper`; one that decodes in another way supplies `_decode` instead.
Documents are translated line by line, empty lines kept; lines beyond the model's limit are split, cut or refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.evaluation import measure as measure_split
from fourfold.core.parts import Split
from fourfold.core.run import Run
from fourfold.core.system import batchable
from fourfold.core.types import Document, Picture, Score, Source, Table
from fourfold.data.pair_lengths import Long, counted, pieces
from fourfold.data.pairs import PairData, pair_data
from fourfold.look.translation import quality_by_length
from fourfold.models.decoding import (
    Beam,
    Output,
    Search,
    Stepper,
    beam,
    by_length,
    greedy,
    least_risk,
    sample,
)
from fourfold.models.sampling import Sampling
from fourfold.tasks.language import Probability
from fourfold.tasks.looking import Looking
from fourfold.tasks.translation_scores import (
    MISSING,
    length_groups,
    measured,
    tokenizer_of,
    utility,
)

if TYPE_CHECKING:
    import polars as pl

PLACES = 4096
"""Source tokens that are decoded at once, padding and beams included."""
SHOWN = 200
"""Held-out sentences that the report translates."""
EXAMPLES = 8
"""Translations that the report shows."""
SPARE = 20
"""Tokens that an output may have beyond three times what is usual for its source."""


@dataclass(frozen=True)
class Decoding:
    """How sources are decoded."""

    beam: int = 5
    """Beams; 1 takes the most likely token at every step."""
    best: int = 1
    """Outputs for each source."""
    length_penalty: float = 1.0
    coverage: float = 0.0
    sampling: Sampling | None = None
    """Draws outputs instead of searching for them."""
    risk: int = 0
    """Outputs drawn for each source, of which the one closest to all others is taken; 0 for none."""
    seed: int = 0


class Translator(Looking):
    """A system whose runs make one sequence of another."""

    def stepper(self, run: Run) -> Stepper:
        """The trained model as something that decodes."""
        raise NotImplementedError

    @batchable("text", when=lambda _, given: given.get("nbest", 1) == 1)
    def translate(
        self,
        run: Run,
        text: Document | list[Document],
        *,
        beam: PositiveInt = 5,
        nbest: PositiveInt = 1,
        length_penalty: NonNegativeFloat = 1.0,
        coverage: NonNegativeFloat = 0.0,
        sample: bool = False,
        temperature: PositiveFloat = 1.0,
        top_p: Probability | None = None,
        risk: PositiveInt | None = None,
        long: Long | None = None,
        seed: int | None = None,
    ) -> Iterator[str] | pl.DataFrame:
        """Translate texts line by line, by beam search unless said otherwise. What is not in the vocabulary is copied.

        Args:
            text: one text or several; empty lines stay empty.
            beam: hypotheses kept at each step; 1 takes the most likely token at every step.
            nbest: the best hypotheses of each line, as a table with their scores; more than one.
            length_penalty: 0 takes the most probable output, which is often short; 1 the mean of its tokens, about.
            coverage: weight of source tokens that attention has not looked at, with beams.
            sample: draw the output instead of searching for it.
            temperature: of what is drawn; higher is more surprising.
            top_p: draw from the most likely tokens that together have this probability.
            risk: draw so many outputs and take the one that is closest to all of them (minimum Bayes risk, by chrF).
            long: lines beyond the model's limit: split them, cut them, or refuse them (error); none as while fitting.
            seed: the same seed gives the same draws; none gives others each time.
        """
        drawn = sample or risk is not None
        if drawn and nbest > 1:
            raise UserError(f"--nbest {nbest}: goes with beams, not with --sample or --risk")
        for name, value, given in (
            ("temperature", temperature, temperature != 1),
            ("top-p", top_p, top_p is not None),
        ):
            if given and not drawn:
                raise UserError(
                    f"--{name} {value}: goes with --sample or --risk; without them nothing is drawn"
                )
        if coverage and (drawn or max(beam, nbest) == 1):
            raise UserError(
                f"--coverage {coverage}: goes with --beam 2 or more, not with --sample or --risk"
            )
        how = Decoding(
            beam=max(beam, nbest),
            best=nbest,
            length_penalty=length_penalty,
            coverage=coverage,
            sampling=Sampling(temperature, None, top_p) if drawn else None,
            risk=risk or 0,
            seed=torch.seed() % 2**31 if seed is None else seed,
        )
        texts = [text] if isinstance(text, str) else list(text)
        found = Lines(self, run, how, long).translated(texts)
        if nbest > 1:
            return _table(texts, found)
        said = ("\n".join(best[0].text for best in lines) for lines in found)
        return _pieces(said, single=isinstance(text, str))

    def evaluate(
        self,
        run: Run,
        source: Source = None,
        *,
        beam: PositiveInt = 5,
        length_penalty: NonNegativeFloat = 1.0,
    ) -> Score:
        """Measure the run on its own test split or on other pairs: BLEU and chrF by sacreBLEU, and the loss.

        Each is also given by the words of the source.

        Args:
            source: as for fit, as test.en test.de; none takes the run's own held-out pairs.
            beam: hypotheses kept at each step.
            length_penalty: as for translate.
        """
        return self._evaluated(run, source, Decoding(beam=beam, length_penalty=length_penalty))

    def _evaluated(self, run: Run, source: Source, how: Decoding) -> Score:
        found, split, sentence = held_out(run, source)
        data = pair_data(found)
        sources, references = data.texts(split)
        if not sources:
            raise UserError(f"there is no pair {sentence} to measure on")
        outputs = self._outputs(run, sources, how)
        values = measure_split(run.objective, run.model, data, split, run.device, run.seed)
        notes = [f"{counted(len(sources))} {sentence}", *data.summary()["notes"]]
        values["equal"] = sum(o == r for o, r in zip(outputs, references, strict=True)) / len(
            outputs
        )
        units = {**run.objective.units(), "equal": "of the outputs, to the letter"}
        try:
            values, units, said = _scores(values, units, sources, outputs, references)
            notes += said
        except UserError as error:
            notes.append(str(error))
        return Score(values, units, tuple(notes))

    def preview(self, run: Run) -> str:
        """A held-out source, or one learned from where none is held out, and its greedy translation."""
        data = pair_data(run.examples())
        splits: tuple[Split, ...] = ("valid", "test", "train")
        source = data.texts(next(s for s in splits if data.size(s)))[0][0]
        return f"{source} -> {self._outputs(run, [source], Decoding(beam=1))[0]}"

    def pictures(self, run: Run) -> Iterator[Picture]:
        """BLEU by the words of the source, on some held-out pairs."""
        yield from super().pictures(run)
        found = self._held_out(run)
        if found is None:
            return
        sources, references, outputs = found
        try:
            measure, groups = by_groups(sources, outputs, references)
        except UserError as error:
            run.note(f"No picture of quality by length: {error}.")
            return
        if len(groups) > 1:
            yield quality_by_length({"this run": groups}, measure=measure)

    def tables(self, run: Run) -> Iterator[Table]:
        """Some held-out pairs with what was made of them."""
        yield from super().tables(run)
        found = self._held_out(run)
        if found is not None:
            rows = tuple(zip(*(column[:EXAMPLES] for column in found), strict=True))
            yield Table("Held-out examples", ("source", "reference", "output, greedy"), rows)

    # --- what systems with ways of their own override -----------------------------------------------------

    def _decode(self, run: Run, sources: list[list[int]], how: Decoding) -> list[list[Output]]:
        """Outputs of sources (tokens, the end token among them), the best first, in the order of the sources."""
        return decoded(self.stepper(run), pair_data(run.data), sources, how, run.device)

    # --- private --------------------------------------------------------------------------------------------

    def _example(self, run: Run, text: str) -> tuple[dict[str, list[str]], str]:
        """A source that is looked at beside the translation that the run makes of it."""
        (said,) = self._outputs(run, [text], Decoding(beam=1))
        options = pair_data(run.data).options
        return {
            options.source: [text],
            options.target: [said],
        }, f'of "{text}", translated as "{said}"'

    def _outputs(self, run: Run, sources: Sequence[str], how: Decoding) -> list[str]:
        """One output for each source, a line each."""
        found = Lines(self, run, how, None).translated(["\n".join(s.split("\n")) for s in sources])
        return [" ".join(best[0].text for best in lines) for lines in found]

    def _held_out(self, run: Run) -> tuple[list[str], list[str], list[str]] | None:
        """Sources, references and greedy outputs of some held-out pairs; None where nothing is held out."""
        try:
            found, split, _ = held_out(run)
        except UserError:
            return None
        sources, references = (side[:SHOWN] for side in pair_data(found).texts(split))
        if not sources:
            return None
        return sources, references, self._outputs(run, sources, Decoding(beam=1))


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
        self.beyond = 0

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
        for (number, row), said in zip(places, self._said(wanted), strict=True):
            found[number][row].append(said)
        return [[self._joined(parts) for parts in lines] for lines in found]

    def _pieces(self, line: str, row: int) -> list[str]:
        """What of a line is decoded, each within the limit; nothing for an empty line."""
        if not line:
            return []
        vocabulary = self.data.source_vocabulary
        tokens = vocabulary.encode(line)
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
                Said(copied(self.data, row, words, o), o.score, o.log_probability)
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


def decoded(
    stepper: Stepper,
    data: PairData,
    sources: list[list[int]],
    how: Decoding,
    device: torch.device,
) -> list[list[Output]]:
    """Outputs of sources by a stepper, the best first, in batches of about as long ones.

    Args:
        stepper: the model.
        data: with the vocabularies.
        sources: tokens, the end token among them.
        how: options.
        device: of the model.
    """
    found: list[list[Output]] = [[] for _ in sources]
    wide = how.risk or (1 if how.sampling else how.beam)
    for numbers in by_length([len(s) for s in sources], max(1, PLACES // wide)):
        rows = [sources[n] for n in numbers]
        source = torch.full((len(rows), max(map(len, rows))), data.source_vocabulary.end)
        for row, tokens in zip(source, rows, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        lengths = torch.tensor([len(row) for row in rows])
        search = Search(
            data.begin, data.end, limits(data, lengths).to(device), _never(data, stepper)
        )
        some = _decoded(stepper, data, source.to(device), lengths.to(device), search, how, numbers)
        for number, outputs in zip(numbers, some, strict=True):
            found[number] = outputs
    return found


def limits(data: PairData, lengths: torch.Tensor) -> torch.Tensor:
    """Most tokens of an output for sources of so many tokens, (B,) int64: three times what is usual, and some more."""
    usual = data.usual_ratio
    most = (3 * usual * lengths).ceil().to(torch.int64) + SPARE
    return most.clamp(max=data.options.longest)


def _decoded(
    stepper: Stepper,
    data: PairData,
    source: torch.Tensor,
    lengths: torch.Tensor,
    search: Search,
    how: Decoding,
    numbers: list[int],
) -> list[list[Output]]:
    if how.sampling is not None:
        many = how.risk or 1
        generators = [
            torch.Generator(source.device).manual_seed((how.seed * 1_000_003 + draw) % 2**63)
            for _ in numbers
            for draw in range(many)
        ]
        again = torch.arange(len(source), device=source.device).repeat_interleave(many)
        wide = replace(search, limits=search.limits[again])
        drawn = sample(stepper, source[again], lengths[again], wide, how.sampling, generators)
        return [_chosen(data, drawn[i : i + many]) for i in range(0, len(drawn), many)]
    if how.beam == 1:
        return [[output] for output in greedy(stepper, source, lengths, search)]
    beams = Beam(how.beam, how.length_penalty, how.coverage)
    try:
        return beam(stepper, source, lengths, search, beams, how.best)
    except ValueError as error:  # coverage of a model without attention
        raise UserError(f"--{error}") from error


def _chosen(data: PairData, drawn: list[Output]) -> list[Output]:
    """The one of some outputs that all others are closest to, its mean utility the score."""
    if len(drawn) == 1:
        return drawn
    texts = [data.target_vocabulary.decode(o.tokens) for o in drawn]
    good = utility("chrf", texts)
    cached: dict[tuple[str, str], float] = {}
    table = torch.zeros(len(texts), len(texts))
    for i, output in enumerate(texts):
        for j, right in enumerate(texts):
            key = output, right
            if key not in cached:
                cached[key] = good(output, right)
            table[i, j] = cached[key]
    best = least_risk(table)
    return [replace(drawn[best], score=float(table[best].mean()))]


def _never(data: PairData, stepper: Stepper) -> tuple[int, ...]:
    """The unknown token is never said where nothing says what to copy for it."""
    unknown = data.target_vocabulary.unknown
    return () if unknown is None or hasattr(stepper, "attended") else (unknown,)


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


def _scores(
    values: dict[str, float],
    units: dict[str, str],
    sources: Sequence[str],
    outputs: Sequence[str],
    references: Sequence[str],
) -> tuple[dict[str, float], dict[str, str], list[str]]:
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


def _pieces(texts: Iterator[str], *, single: bool) -> Iterator[str]:
    """A single text as it is; several each ended by a newline."""
    for text in texts:
        yield text if single else f"{text}\n"


def _table(texts: Sequence[str], found: list[list[list[Said]]]) -> pl.DataFrame:
    import polars as pl

    rows = [
        (number, rank + 1, said.text, said.score, said.log_probability)
        for number, best in enumerate((b for lines in found for b in lines), 1)
        for rank, said in enumerate(best)
    ]
    names = ("line", "rank", "text", "score", "log_probability")
    return pl.DataFrame(rows, schema=list(names), orient="row")


__all__ = ["MISSING", "Decoding", "Lines", "Translator", "by_groups", "decoded", "limits"]
