"""Non-autoregressive translation, all words at once: Gu et al. 2018; CTC: Libovický and Helcl 2018; masks: Ghazvininejad et al. 2019.

    fourfold fit nat train.en train.de --teacher runs/mt
    fourfold translate runs/nat "A man rides a bicycle." --length x0.8
    fourfold fit nat train.en train.de --length predicted --reveal masks
    fourfold translate runs/nat "A man rides a bicycle." --passes 4 --candidates 3

Result: 6.7 times the sentences a second of its teacher's fastest greedy search one at a time (211 beside 31.5), 3.6 times 32 at a
time (497 beside 137), with CTC and 3 + 2 layers on one core, both in bfloat16; 29.3 BLEU on Multi30k en-de's test set of 2016 where
the teacher has 34.6, after 45 processor minutes of learning: benchmarks/results/translate.json, translate_speed.json.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from pydantic import PositiveInt

from fourfold.core.errors import UserError
from fourfold.core.parts import Data
from fourfold.core.run import Run, model_of
from fourfold.core.system import batchable, system
from fourfold.core.types import Document, Picture, Score, Source, Table
from fourfold.data.pair_lengths import Long
from fourfold.data.pairs import PairData, Pairs, pair_data
from fourfold.models.decoding import Output, by_length
from fourfold.models.filling import Wanted, fill
from fourfold.models.non_autoregressive import REACH, Input, Length, NonAutoregressive
from fourfold.models.products import with_products
from fourfold.objectives.non_autoregressive import AllAtOnce
from fourfold.optimizers.gradient import Gradient
from fourfold.optimizers.precision import Precision, chosen
from fourfold.tasks.attention_translation import AttentionTranslator
from fourfold.tasks.multimodality import (
    Setting,
    measured_settings,
    settings_picture,
    settings_table,
    slots_table,
)
from fourfold.tasks.teaching import Distilled, distilled, taken_over
from fourfold.tasks.translation_decoding import PLACES, Decoding
from fourfold.tasks.translation_lines import Lines, as_texts

Passes = Annotated[int, Ge(1), Le(10)]
PADDING = 64
"""Padded source tokens of a batch at most, on a CPU: about what another batch costs."""
LENGTH = re.compile(r"(x?)(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Filling(Decoding):
    """How slots are filled."""

    passes: int = 1
    candidates: int = 1
    size: int | None = None
    """Tokens of every output; None: as the model says."""
    scale: float = 1.0


@system("nat", reads="pairs")
class AllWordsAtOnce(AttentionTranslator):
    """Translate without waiting for the last word: a Transformer whose decoder says all target tokens at once."""

    teacher: str | None = None
    """A run whose translations of the sources are learned in place of the targets, and choose the weights that are kept;
    its vocabulary is taken over."""
    teacher_beam: PositiveInt = 1
    """Hypotheses that the teacher keeps at each step."""
    length: Length = "ctc"
    """How many tokens there are: predicted from the encoder, by merging the labels of more slots (ctc), or those before
    the first end token of an overlong output."""
    input: Input = "copy"
    """What the decoder reads in each slot: the source's tokens, spread evenly over the slots (copy), their mean in every
    slot (uniform), or the begin token."""
    upsample: Annotated[float, Ge(1), Le(10)] = 2.0
    """Slots for each source token, with ctc and overlong."""
    objective: AllAtOnce = AllAtOnce()
    optimizer: Gradient = Gradient(
        algorithm="muon",
        lr=0.02,
        minutes=30,
        schedule="wsd",
        warmup=100,
        decay_from=0.4,
        final=0.02,
        clip=1.0,
    )

    def build(self, data: Data) -> NonAutoregressive:
        """A non-autoregressive Transformer for these vocabularies.

        Raises:
            UserError: width and heads do not divide, or masks with CTC.
        """
        pairs = pair_data(data)
        if self.length == "ctc" and self.objective.reveal == "masks":
            raise UserError(
                "--reveal masks: with --length ctc slots are no tokens; expected --reveal glancing or none, or --length "
                "predicted or overlong"
            )
        longest = self.data.longest + 1
        slots = longest if self.length == "predicted" else int(self.upsample * longest) + 8
        return self._made(
            NonAutoregressive,
            pairs,
            window=slots,
            length=self.length,
            input=self.input,
            begin=pairs.begin,
            end=pairs.end,
            upsample=self.upsample,
        )

    # --- the teacher --------------------------------------------------------------------------------------

    def suited(self, run: Run) -> AllWordsAtOnce:
        """With a teacher, its vocabulary is the run's."""
        if self.teacher is None:
            return self
        default = type(self).model_fields["data"].default
        run.data, options = taken_over(run, self.data, default, self.teacher)
        return self.model_copy(update={"data": options})

    def _distilled(self, run: Run) -> None:
        """Before learning: the teacher's translations become the targets (see `tasks.teaching`)."""
        data = run._data
        if self.teacher is None or not isinstance(data, PairData) or isinstance(data, Distilled):
            return
        written = run.folder is None or (run.folder / "system.toml").exists()
        # a new run is written first (see `begin`), so that it can be gone on with; an opened one has no examples
        if written and data._splits is not None:
            run.data = distilled(run, self.teacher, self.teacher_beam)

    def begin(self, run: Run) -> None:
        """Ask the teacher; say for how many training pairs a source alone would not give the slots that it takes."""
        self._distilled(run)
        model, data = model_of(run, NonAutoregressive), pair_data(run.data)
        sources, targets = (torch.from_numpy(n) for n in data._split("train").lengths)
        if model.length == "predicted":
            far = int(((targets - 1 - sources).abs() > REACH).sum())
            if far:
                run.note(
                    f"{far:,} training targets are more than {REACH} tokens longer or shorter than their sources, which is the "
                    "most that a predicted length differs by: their translations will be nearer to their sources' lengths; "
                    "--length overlong has no such limit."
                )
            return
        short = int((model.room(sources) < targets - 1).sum())
        if short:
            run.note(
                f"{short:,} training targets have more tokens than their sources have slots ({self.upsample:g} for each token "
                "and a few more): they are learned with as many as they need, which their translations will not have; a "
                "larger --upsample gives them more."
            )

    # --- verbs ----------------------------------------------------------------------------------------------

    @batchable("text")
    def translate(  # type: ignore[override]  # nothing is searched for, and the length may be set
        self,
        run: Run,
        text: Document | list[Document],
        *,
        length: str | None = None,
        passes: Passes = 1,
        candidates: PositiveInt = 1,
        long: Long | None = None,
        precision: Precision = "float32",
    ) -> Iterator[str]:
        """Translate texts line by line, all words of a line at once.

        Args:
            text: one text or several; empty lines stay empty.
            length: tokens of each line's translation, as 12, or how many times what the model says, as x0.8.
            passes: times that the decoder runs; each asks the least sure words anew. More than one for runs whose
                length is predicted or overlong.
            candidates: predicted lengths that are tried at once; the surest translation is kept.
            long: lines beyond the model's limit: split them, cut them, or refuse them (error); none as while fitting.
            precision: of matrix products. In float32 no answer depends on what is translated beside it; bfloat16 is faster
                on processors and GPUs that have it, and turns some answers where two are about as likely; auto takes
                the faster one.
        """
        size, scale = _length(length)
        how = replace(self._how(run, passes, candidates, size, scale), precision=precision)
        texts = [text] if isinstance(text, str) else list(text)
        yield from as_texts(text, Lines(self, run, how, long).translated(texts))

    def evaluate(  # type: ignore[override]
        self,
        run: Run,
        source: Source = None,
        *,
        passes: Passes = 1,
        candidates: PositiveInt = 1,
        precision: Precision = "float32",
    ) -> Score:
        """Measure the run on its own test split or on other pairs: BLEU and chrF by sacreBLEU, and the loss.

        Args:
            source: as for fit, as test.en test.de; none takes the run's own held-out pairs.
            passes: as for translate.
            candidates: as for translate.
            precision: as for translate.
        """
        how = replace(self._how(run, passes, candidates, None, 1.0), precision=precision)
        return self._evaluated(run, source, how)

    def _how(
        self, run: Run, passes: int, candidates: int, size: int | None, scale: float
    ) -> Filling:
        length = model_of(run, NonAutoregressive).length
        if passes > 1 and length == "ctc":
            raise UserError(
                f"--passes {passes}: this run merges the labels of slots (length ctc), which are no words to ask anew; expected 1"
            )
        if candidates > 1 and length != "predicted":
            raise UserError(
                f"--candidates {candidates}: this run predicts no length (it is {length}); expected 1"
            )
        if passes > 1 and self.objective.reveal == "none":
            run.console.say(
                "This run has learned nothing of further passes (reveal none): fit it with --reveal masks"
            )
        return Filling(beam=1, passes=passes, candidates=candidates, size=size, scale=scale)

    def _decode(self, run: Run, sources: list[list[int]], how: Decoding) -> list[list[Output]]:
        """See `Translator._decode`."""
        filling = how if isinstance(how, Filling) else Filling(beam=1)
        data = pair_data(run.data)
        model = with_products(
            model_of(run, NonAutoregressive),
            chosen(how.precision, model_of(run, NonAutoregressive), run.device),
        )
        found: list[list[Output]] = [[] for _ in sources]
        unknown = data.target_vocabulary.unknown
        never = () if unknown is None else (unknown,)
        limit = data.options.longest
        if filling.size is not None and filling.size > limit:
            raise UserError(f"--length {filling.size}: expected {limit} at most, this run's limit")
        padding = PADDING if run.device.type == "cpu" else None
        for numbers in by_length([len(s) for s in sources], PLACES, padding):
            rows = [sources[n] for n in numbers]
            lengths = torch.tensor([len(row) for row in rows])
            source = torch.full((len(rows), int(lengths.max())), data.source_vocabulary.end)
            for row, tokens in zip(source, rows, strict=True):
                row[: len(tokens)] = torch.tensor(tokens)
            sizes = None
            if filling.size is not None:
                sizes = torch.full((len(rows),), filling.size, device=run.device)
            wanted = Wanted(filling.passes, sizes, filling.scale, filling.candidates, never)
            some = fill(model, source.to(run.device), lengths.to(run.device), wanted)
            for number, (tokens, score) in zip(numbers, some, strict=True):
                found[number] = [Output(tokens, score, score)]
        return found

    # --- the report -----------------------------------------------------------------------------------------

    def pictures(self, run: Run) -> Iterator[Picture]:
        """What every translator shows, and BLEU against speed for the ways in which this run translates."""
        yield from super().pictures(run)
        found = self._settings(run)
        if any(s.bleu is not None for s in found):  # outputs of less than four words have none
            yield settings_picture(found)

    def tables(self, run: Run) -> Iterator[Table]:
        """What every translator shows; repeated words, and where slots hesitate between words."""
        yield from super().tables(run)
        if found := self._settings(run):
            yield settings_table(found, self.teacher)
        held = self._held_out(run)
        if held is not None:
            yield slots_table(
                model_of(run, NonAutoregressive), pair_data(run.data), held[0], run.device
            )

    def _settings(self, run: Run) -> list[Setting]:
        """BLEU, speed and repetitions of every way in which this run translates, and of its references."""
        held = self._held_out(run)
        if held is None:
            return []
        ways = {"1 pass": Filling(beam=1)}
        if self.length == "predicted":
            ways["1 pass, best of 3 lengths"] = Filling(beam=1, candidates=3)
        if self.objective.reveal == "masks":
            ways |= {f"{n} passes": Filling(beam=1, passes=n) for n in (4, 10)}
        return measured_settings(self, run, held[0], held[1], ways, self.teacher)

    @classmethod
    def toy(cls) -> tuple[AllWordsAtOnce, Any]:
        """Two narrow layers that learn to spell numbers."""
        names = "zero one two three four five six seven eight nine".split()
        numbers = [str(7919 * n % 100_000) for n in range(300)]
        small = cls(
            data=Pairs(unit="character", batch=512),
            layers=2,
            width=16,
            heads=2,
            length="predicted",
            objective=AllAtOnce(reveal="masks"),
            optimizer=Gradient(lr=3e-3, steps=12),
        )
        words = [" ".join(names[int(digit)][0] for digit in number) for number in numbers]
        return small, {"source": numbers, "target": words}


def _length(given: str | None) -> tuple[int | None, float]:
    """--length as a number of tokens, or a factor of what the model says."""
    if given is None:
        return None, 1.0
    found = LENGTH.fullmatch(given.strip())
    if found is None or float(found[2]) == 0 or (not found[1] and "." in found[2]):
        raise UserError(
            f"--length {given}: expected a number of tokens, as 12, or a factor of what the model says, as x0.8"
        )
    return (None, float(found[2])) if found[1] else (int(found[2]), 1.0)
