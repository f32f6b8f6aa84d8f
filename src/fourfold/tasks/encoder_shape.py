"""The shape of BERT's body, as options of every system that has one: the sizes that weights are made with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Lt
from pydantic import PositiveFloat, PositiveInt

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.system import System
from fourfold.models.attention import dividing
from fourfold.models.bert import Bert


class EncoderShape(System):
    """A Transformer encoder that sees both sides."""

    layers: PositiveInt = 4
    """Blocks of attention and feed-forward."""
    width: PositiveInt = 256
    """Features of a position."""
    heads: PositiveInt | None = None
    """Attention heads, a divisor of the width; None takes heads of 64 features, or of 32 below width 256."""
    hidden: PositiveInt | None = None
    """Features inside the feed-forward; None takes 4 widths."""
    positions: PositiveInt | None = None
    """Positions that the model can tell apart, at least the window; None takes the window."""
    entries: PositiveInt | None = None
    """Rows of the embedding, at least the tokens there are; None takes as many."""
    types: PositiveInt = 2
    """Kinds of token, as the first and the second text of a pair in models that are tuned further."""
    activation: Literal["gelu", "gelu_new", "gelu_pytorch_tanh"] = "gelu"
    """Inside the feed-forward and the head: exact, or by tanh as some folders have it."""
    eps: PositiveFloat = 1e-12
    """Added to the variance in the norms."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of features left out while training, of the embedding and of what each sublayer adds."""

    def body_of_size(self, window: int, positions: int, tokens: int) -> Bert:
        """An encoder for so many positions and tokens.

        Args:
            window: positions of an example.
            positions: that the model tells apart.
            tokens: of the vocabulary.

        Raises:
            UserError: width and heads do not divide, or there are more tokens or positions than the model has.
        """
        entries = self.entries or tokens
        heads = dividing(self.width, self._heads())
        if window > positions:
            raise UserError(
                f"window {window}: the model tells {positions} positions apart; --data.window {positions} or less"
            )
        if tokens > entries:
            raise UserError(
                f"entries {entries}: the vocabulary has {tokens} tokens, [MASK] and its like among them"
            )
        return Bert(
            entries, self.width, self.layers, heads, self.hidden, window=positions, types=self.types,
            activation=self.activation, dropout=self.dropout, eps=self.eps,
        )  # fmt: skip

    def same_shape(self, other: Run, names: Sequence[str]) -> None:
        """Refuse options under which the weights of another run would not fit or mean something else.

        Args:
            other: its system may be another one of this shape.
            names: the fields that must agree; heads that are left to the width count as what they come to.
        """
        for name in names:
            before, now = (getattr(s, name) for s in (other.system, self))
            if name == "heads" and isinstance(other.system, EncoderShape):
                before, now = other.system._heads(), self._heads()
            if before != now:
                raise UserError(
                    f"--{name} {now}: the weights of {other.folder} were made with {name} {before}; "
                    "--from goes on with that"
                )

    def _heads(self) -> int:
        return self.heads or max(1, self.width // (64 if self.width >= 256 else 32))
