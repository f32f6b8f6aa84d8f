"""What the runs share that were tuned on preferences or rewards: what they are compared with, and held-out answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out, measure
from fourfold.core.parts import Split
from fourfold.core.run import Run
from fourfold.core.types import Picture, Score, Source, Table
from fourfold.data.turns import Conversation
from fourfold.look.preferences import policy_picture
from fourfold.tasks.answering import templated, whole_answers
from fourfold.tasks.chatting import Conversing

SHOWN = 6
"""Held-out prompts in the report."""
PREVIEWED = 3
"""Of these, those answered again and again while it learns."""
TOKENS = 100
"""Most tokens of an answer there."""


class Preferring(Conversing):
    """A policy that is tuned against a frozen reference."""

    def suited(self, run: Run) -> Self:
        """Names the reference by its place."""
        chosen = super().suited(run)
        objective: Any = chosen.objective
        if objective.reference is None and "from" in run.about:
            objective = objective.model_copy(update={"reference": run.about["from"]})
            chosen = chosen.model_copy(update={"objective": objective})
        return chosen

    def begin(self, run: Run) -> None:
        """See `System.begin`: what it is compared with."""
        super().begin(run)
        reference = getattr(run.system.objective, "reference", None)
        if reference is None:
            run.note(
                "Begun from nothing: the reference is this network as it was drawn, which says nothing yet; --from RUN begins "
                "from a model that can speak."
            )

    def evaluate(self, run: Run, source: Source = None) -> Score:
        """Measure the run against its reference, on its own test split or on other data."""
        model = run.model  # first: what answers is made with it
        data, split, sentence = held_out(run, source)
        values = measure(run.objective, model, data, split, run.device, run.seed)
        said = f"{data.size(split):,} {'pairs' if hasattr(data, 'pairs') else 'prompts'} {sentence}"
        return Score(values, dict(run.objective.units()), (said, *data.summary()["notes"]))

    def preview(self, run: Run) -> str:
        """The answers to the same few held-out prompts."""
        asked = _asked(run, PREVIEWED)
        said = whole_answers(run, [templated(run.data).prompt(turns) for turns in asked], tokens=60)
        return "\n".join(f"{t[-1].content}\n-> {a}" for t, a in zip(asked, said, strict=True))

    def pictures(self, run: Run) -> Iterator[Picture]:
        """What happened while it learned."""
        series = {
            title: found
            for name, title in self.drawn().items()
            if len((found := run.metrics.series(name))[0]) > 1
        }
        if series:
            yield policy_picture(series)

    def drawn(self) -> dict[str, str]:
        """Logged names that the report draws, with their titles."""
        return {}

    def tables(self, run: Run) -> Iterator[Table]:
        """The same prompts, answered by the reference and by the run."""
        asked = _asked(run, SHOWN)
        if asked:
            prompts = [templated(run.data).prompt(turns) for turns in asked]
            said = whole_answers(run, prompts, tokens=TOKENS)
            columns, rows = ["prompt", "answer"], [[t[-1].content[:300] for t in asked], said]
            before = _before(run, prompts)
            if before is not None:
                columns.insert(1, "before")
                rows.insert(1, before)
            yield Table("Held-out prompts", tuple(columns), tuple(zip(*rows, strict=True)))
        yield from super().tables(run)


def _before(run: Run, prompts: Sequence[Sequence[int]]) -> list[str] | None:
    """What the run that it was begun from answers; None where there is none any more."""
    origin = run.about.get("from")
    if not origin:
        return None
    try:
        model = Run.open(origin, device=run.device_name).model
    except UserError:
        return None
    return whole_answers(run, prompts, tokens=TOKENS, model=model)


def _asked(run: Run, most: int) -> list[Conversation]:
    """Held-out prompts, else the first that it learned from, which its context holds."""
    data: Any = run.data
    splits: tuple[Split, ...] = ("valid", "test", "train")
    try:
        split = next((s for s in splits if data.size(s)), None)
    except ValueError:
        return []  # the preparation only
    if split is None:
        return []
    rows = data.pairs(split) if hasattr(data, "pairs") else data.prompts(split)
    turns = dict.fromkeys(row.prompt if hasattr(row, "prompt") else row.turns for row in rows)
    fitting = (t for t in turns if len(data.prompt(t)) < data.window)
    return [t for t, _ in zip(fitting, range(most), strict=False)]
