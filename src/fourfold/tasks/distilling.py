"""A language model that may learn from another one: which run that is, and what it writes for the student."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from fourfold.core.run import Run
from fourfold.objectives.distillation import Distil
from fourfold.objectives.likelihood import NextToken
from fourfold.tasks.language import LanguageModel

NextTokenOrTeacher = Annotated[NextToken | Distil, Field(discriminator="kind")]
"""The choices for a system's `objective`."""


class Distilling(LanguageModel):
    """A language model whose objective may be `Distil`: `--teacher RUN` alone chooses it."""

    objective: NextTokenOrTeacher = NextToken()

    def prepared_by(self) -> str | None:
        """The teacher: its student reads the same tokens."""
        return self.objective.teacher if isinstance(self.objective, Distil) else None

    def suited(self, run: Run) -> Self:
        """Names the teacher by its place and the fingerprint of its weights."""
        chosen = super().suited(run)
        if not isinstance(self.objective, Distil):
            return chosen
        objective = self.objective.named()
        run.note(
            f"Learns from {objective.teacher} ({objective.how}; fingerprint {str(objective.fingerprint)[:12]}), "
            "whose vocabulary it takes over."
        )
        return chosen.model_copy(update={"objective": objective})
