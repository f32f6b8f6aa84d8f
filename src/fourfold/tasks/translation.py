"""The verbs of every system that makes one sequence of another: translate, evaluate, explain.

A system subclasses `Translator` and supplies `stepper`; one that decodes in another way supplies `_decode` instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from fourfold.data.pair_lengths import Long, counted
from fourfold.data.pairs import pair_data
from fourfold.look.translation import quality_by_length
from fourfold.models.decoding import Output, Stepper
from fourfold.models.sampling import Sampling
from fourfold.optimizers.precision import Precision
from fourfold.tasks.language import Probability
from fourfold.tasks.looking import Looking
from fourfold.tasks.translation_decoding import Decoding, decoded
from fourfold.tasks.translation_lines import Lines, as_table, as_texts
from fourfold.tasks.translation_scores import by_groups, scores

if TYPE_CHECKING:
    import polars as pl

SHOWN = 200
"""Held-out sentences that the report translates."""
EXAMPLES = 8
"""Translations that the report shows."""


class Translator(Looking):
    """A system whose runs make one sequence of another."""

    def stepper(self, run: Run, precision: Precision = "float32") -> Stepper:
        """The trained model as something that decodes, its products in this format."""
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
        precision: Precision = "float32",
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
            precision: of matrix products. In float32 no answer depends on what is translated beside it; bfloat16 is faster
                on processors and GPUs that have it, and turns some answers where two are about as likely; auto takes
                the faster one.
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
            precision=precision,
        )
        texts = [text] if isinstance(text, str) else list(text)
        found = Lines(self, run, how, long).translated(texts)
        return as_table(found) if nbest > 1 else as_texts(text, found)

    def evaluate(
        self,
        run: Run,
        source: Source = None,
        *,
        beam: PositiveInt = 5,
        length_penalty: NonNegativeFloat = 1.0,
        precision: Precision = "float32",
    ) -> Score:
        """Measure the run on its own test split or on other pairs: BLEU and chrF by sacreBLEU, and the loss.

        Each is also given by the words of the source.

        Args:
            source: as for fit, as test.en test.de; none takes the run's own held-out pairs.
            beam: hypotheses kept at each step.
            length_penalty: as for translate.
            precision: as for translate.
        """
        how = Decoding(beam=beam, length_penalty=length_penalty, precision=precision)
        return self._evaluated(run, source, how)

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
            values, units, said = scores(values, units, sources, outputs, references)
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
        return decoded(
            self.stepper(run, how.precision), pair_data(run.data), sources, how, run.device
        )

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
