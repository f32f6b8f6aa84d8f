"""What guesses tokens ahead of a run: a smaller run, or the text itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.models.sampling import Sampling
from fourfold.models.speculation import Draft, Guesser, LookUp
from fourfold.models.transformer import Transformer
from fourfold.tasks.engines import EngineName, chosen
from fourfold.tasks.tokenized import vocabulary_of
from fourfold.tasks.transformer_reader import GuesserMaker

PROMPT = "prompt"
"""The word for looking guesses up."""


def guesser_of(run: Run, draft: str, engine: EngineName) -> GuesserMaker:
    """What `--draft` names.

    Args:
        run: whose texts are guessed.
        draft: a run's folder, or `PROMPT`.
        engine: of the run; the smaller one takes it too where it can.

    Raises:
        UserError: it is no language model with the run's vocabulary, or there is no such run.
    """
    if draft == PROMPT:
        return lambda slots, window, sampling, generators: LookUp()
    other = Run.open(draft, device=run.device_name)
    if not isinstance(other.model, Transformer):
        raise UserError(
            f"--draft {draft}: is a run of {other.system.name}; expected a Transformer's, or {PROMPT}"
        )
    theirs, ours = vocabulary_of(other.data), vocabulary_of(run.data)
    if theirs.digest != ours.digest:
        raise UserError(
            f"--draft {draft}: has another vocabulary ({len(theirs):,} entries of unit {theirs.unit}, here {len(ours):,} of "
            f"{ours.unit}); its guesses are no tokens of this run"
        )
    from fourfold.models.compiled import unsuited

    if engine == "compiled" and unsuited(other.model):
        engine = "torch"
    model = other.model
    taken = chosen(other, model, engine, "auto", tokens=1000, temperature=0)

    def make(
        slots: int, window: int, sampling: Sampling, generators: Sequence[torch.Generator]
    ) -> Guesser:
        return Draft(taken.make(slots, min(window, model.window)), sampling, generators)

    return make
