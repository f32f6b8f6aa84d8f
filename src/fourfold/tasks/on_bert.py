"""Systems whose model is BERT's body with something else on top: their shape, and how they begin from other runs."""

from __future__ import annotations

from typing import Any

from pydantic import PositiveInt
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.data.question_pairs import QuestionPairsData, reading
from fourfold.models.bert import Bert
from fourfold.models.sentence_encoder import HEAD
from fourfold.tasks.encoder_shape import EncoderShape

SHAPE = ("layers", "width", "heads", "hidden", "positions", "entries", "types", "activation", "eps")
"""Fields that weights were made with."""


class OnBert(EncoderShape):
    """A Transformer encoder that sees both sides, begun from nothing or from a run of `bert` or `embedder`."""

    positions: PositiveInt | None = None
    """Positions that the model can tell apart; None takes two windows."""

    def suited(self, run: Run) -> OnBert:
        """What was left to the data, written down."""
        data = pairs_data(run.data)
        sizes = {
            "positions": self.positions or 2 * data.options.window,
            "entries": self.entries or data.entries,
        }
        return self.model_copy(update=sizes)

    def body(self, data: Data) -> Bert:
        """An encoder for this vocabulary.

        Raises:
            UserError: width and heads do not divide, or there are more tokens or positions than the model has.
        """
        found = pairs_data(data)
        window = found.options.window
        return self.body_of_size(window, self.positions or 2 * window, found.entries)

    @classmethod
    def inherits(cls, other: Run) -> dict[str, Any]:
        """The shape of the run that it begins from."""
        if reading(other.data) is None:
            return {}
        return {name: getattr(other.system, name) for name in SHAPE if hasattr(other.system, name)}

    def accepts(self, other: Run) -> None:
        """Refuse what has no such body, and options under which its weights would not fit."""
        super().accepts(other)
        if body_of(other.model) is None:
            raise UserError(
                f"--from {other.folder}: is a run of {other.system.name}; expected one of bert, embedder or reranker"
            )
        self.same_shape(other, SHAPE)

    def take_over(self, model: nn.Module, other: Run) -> None:
        """The other run's body, and what is on top where that is the same."""
        if type(other.system) is type(self):
            super().take_over(model, other)
            return
        theirs = body_of(other.model)
        assert theirs is not None  # noqa: S101  # `accepts` has looked
        state = {n: t for n, t in theirs.state_dict().items() if n.split(".")[0] not in HEAD}
        body = body_of(model)
        assert body is not None  # noqa: S101
        body.load_state_dict(state)


def pairs_data(data: Data) -> QuestionPairsData:
    """Data of pairs.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(data, QuestionPairsData):
        raise TypeError(f"expected QuestionPairsData, got {type(data).__name__}")
    return data


def body_of(model: nn.Module) -> Bert | None:
    """BERT's body in a model, if there is one."""
    found = getattr(model, "body", model)
    return found if isinstance(found, Bert) else None
