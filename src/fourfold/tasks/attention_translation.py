"""What every Transformer that translates is configured by, and how one begins from the weights of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from annotated_types import Ge, Lt
from pydantic import PositiveFloat, PositiveInt
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.pairs import PairData, Pairs
from fourfold.models.attention import dividing
from fourfold.models.encoder_decoder import EncoderDecoder
from fourfold.models.positions import Kind
from fourfold.tasks.translation import Translator

M = TypeVar("M", bound=EncoderDecoder)
SHAPING = (
    "layers", "width", "heads", "hidden", "norm", "activation", "positions", "rotary_base", "scale", "tied"
)  # fmt: skip
"""Options under which the weights of another run would not fit or mean something else."""


class AttentionTranslator(Translator):
    """A system whose model is an encoder and a decoder of attention."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"layers": 4, "width": 128, "heads": 4, "hidden": 256},
        "small": {},
        "medium": {"layers": 4, "width": 384},
        "base": {"layers": 6, "width": 512, "hidden": 2048, "data.batch": 16384},
    }
    exempt: ClassVar[dict[str, str]] = {
        "accumulation": "batches are made by tokens: 4 of 8 hold other pairs than 1 of 32"
    }

    data: Pairs = Pairs()
    layers: PositiveInt = 3
    """Layers of the encoder."""
    decoder_layers: PositiveInt | None = None
    """Layers of the decoder; None takes as many as the encoder has."""
    width: PositiveInt = 256
    """Features of a position."""
    heads: PositiveInt | None = None
    """Attention heads, a divisor of the width; None takes heads of 64 features."""
    hidden: PositiveInt | None = None
    """Features inside the feed-forward; None takes two widths."""
    norm: Literal["pre", "post"] = "pre"
    """Whether to normalize before each sublayer, or after it as the paper did."""
    activation: Literal["relu", "gelu"] = "relu"
    """Of the feed-forward."""
    positions: Kind = "sinusoidal"
    """How a position's place is told."""
    rotary_base: PositiveFloat = 10_000.0
    """Wavelength factor of rotary and sinusoidal positions."""
    scale: PositiveFloat | None = None
    """Factor of the products of queries and keys before the softmax; None takes 1 / sqrt(features of a head)."""
    tied: bool = True
    """Whether the output weights are the target embedding's; with a shared vocabulary the source's too."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of features left out while training, of the embeddings and of what each sublayer adds."""

    def architecture(self) -> dict[str, Any]:
        """What the model is made with beside its vocabularies and its window; nothing is left to be decided.

        Raises:
            UserError: width and heads do not divide.
        """
        return {
            "width": self.width,
            "layers": (self.layers, self.decoder_layers or self.layers),
            "heads": dividing(self.width, self.heads or max(1, self.width // 64)),
            "hidden": self.hidden or 2 * self.width,
            "tied": self.tied,
            "dropout": self.dropout,
            "norm": self.norm,
            "activation": self.activation,
            "positions": self.positions,
            "scale": self.scale,
            "base": self.rotary_base,
        }

    def _made(self, model: Callable[..., M], pairs: PairData, **more: Any) -> M:
        """A model of this architecture for the vocabularies of some pairs.

        Raises:
            UserError: its sizes do not divide.
        """
        sizes = (pairs.source_size, pairs.target_size)
        try:
            return model(*sizes, shared=pairs.shared, **self.architecture(), **more)
        except ValueError as error:  # positions that turn pairs of features want an even number
            raise UserError(str(error)) from error

    # --- beginning from another run -------------------------------------------------------------------------

    @classmethod
    def inherits(cls, other: Run) -> dict[str, Any]:
        """The shape of the Transformer, of a run that translates with one."""
        if not isinstance(other.system, AttentionTranslator):
            return {}
        return {name: getattr(other.system, name) for name in (*SHAPING, "decoder_layers")}

    def accepts(self, other: Run) -> None:
        """Refuse what is no Transformer that translates, and other shapes than its own; the decoder may have fewer layers."""
        super().accepts(other)
        if not isinstance(other.system, AttentionTranslator):
            raise UserError(
                f"--from {other.folder}: is a run of {other.system.name}, whose weights are no {self.name}'s"
            )
        before, now = _shape(other.system), _shape(self)
        for name in SHAPING:
            if before[name] != now[name]:
                raise UserError(
                    f"--{name.replace('_', '-')} {now[name]}: the weights of {other.folder} were made with "
                    f"{name} {before[name]}; --from goes on with that"
                )
        deep, wanted = before["decoder_layers"], now["decoder_layers"]
        if wanted > deep or (wanted < deep and type(other.system) is type(self)):
            raise UserError(
                f"--decoder-layers {wanted}: the decoder of {other.folder} has {deep}; --from goes on with that"
            )

    def take_over(self, model: nn.Module, other: Run) -> None:
        """See `System.take_over`; of a run of another system what both have, a decoder's first layers where it has more."""
        if type(other.system) is type(self):
            super().take_over(model, other)
            return
        own, theirs = model.state_dict(), other.model.state_dict()
        both = {name: tensor for name, tensor in theirs.items() if name in own}
        for name, tensor in both.items():
            if own[name].shape != tensor.shape:
                raise UserError(
                    f"{name} is {tuple(tensor.shape)} there and {tuple(own[name].shape)} here"
                )
        model.load_state_dict({**own, **both})


def _shape(system: AttentionTranslator) -> dict[str, Any]:
    """The options that shape the weights, those that were left open decided."""
    made = system.architecture()
    encoder, decoder = made["layers"]
    told = {name: made.get(name, getattr(system, name)) for name in SHAPING}
    return {**told, "layers": encoder, "decoder_layers": decoder}
