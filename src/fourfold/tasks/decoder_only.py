"""What every system has whose network is a decoder-only Transformer: its fields, the network, what may begin from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Data, DataOptions
from fourfold.core.run import Run
from fourfold.models.adapters import give, merged
from fourfold.models.feedforward import GATED
from fourfold.models.positions import Kind
from fourfold.models.transformer import Transformer, default_hidden
from fourfold.tasks.adapting import ADAPTING, Adaptable
from fourfold.tasks.language import vocabulary_of

PARTS = ("data", "objective", "optimizer")
SHAPING = (
    "layers", "width", "heads", "kv_heads", "head_dim", "hidden", "tied", "norm", "feedforward", "bias",
    "query_key_norm", "positions", "scale",
)  # fmt: skip
"""Fields without which the weights of a run are of another shape, or mean something else."""
TABLES = ("learned", "random")
"""Schemes of positions whose stored tables have as many rows as the model has positions."""


class DecoderOnly(Adaptable):
    """A system whose network is a decoder-only Transformer."""

    layers: PositiveInt = 4
    """Blocks of attention and feed-forward."""
    width: PositiveInt = 256
    """Features of a position."""
    heads: PositiveInt | None = None
    """Attention heads, a divisor of half the width; None takes heads of 64 features, or of 32 below width 256."""
    kv_heads: PositiveInt | None = None
    """Heads of keys and values, a divisor of heads; None takes as many as heads."""
    hidden: PositiveInt | None = None
    """Features inside the feed-forward; None takes 8/3 of the width, rounded up to a multiple of 32, and 4 widths
    where it has no gate."""
    head_dim: PositiveInt | None = None
    """Features of a head; None takes the width divided by the heads."""
    tied: bool = False
    """Whether the output weights are the embedding's."""
    norm: Literal["rms", "layer"] = "rms"
    """How states are normalized: by their root mean square, or LayerNorm with its bias."""
    feedforward: Literal[
        "swiglu", "geglu", "geglu_tanh", "reglu", "gelu", "gelu_tanh", "relu", "silu"
    ] = "swiglu"
    """The feed-forward's activation; the first four gate it with a second projection."""
    bias: Literal["none", "qkv", "attention", "all"] = "none"
    """What has a bias: queries, keys and values (qkv), the attention's output too, or the feed-forward too (all)."""
    query_key_norm: bool = False
    """Whether queries and keys are normalized head by head."""
    positions: Kind = "rotary"
    """How the model knows where a token stands."""
    rotary_base: PositiveFloat = 10_000.0
    """Wavelength factor of the rotary positions."""
    rotary_scaling: dict[str, Any] = {}
    """How rotary positions are stretched over a longer context, as in a Hugging Face config: {"rope_type": "llama3",
    "factor": 8.0, ...} or linear; none given leaves them."""
    scale: PositiveFloat | None = None
    """Factor of the products of queries and keys before the softmax; None takes 1 / sqrt(head_dim)."""
    sliding: PositiveInt | None = None
    """How many positions each sees, its own included; None is all before."""
    sliding_from: NonNegativeInt = 0
    """The first layer, from 0 on, that looks back no further than `sliding`."""
    context_length: PositiveInt | None = None
    """Most tokens that the model reads at once; None takes the window that it is trained on."""
    eps: PositiveFloat = 1e-5
    """Added to the mean square, or the variance, in the norms."""
    family: Literal["llama", "mistral", "qwen2", "qwen3", "gpt2"] | None = None
    """Family of Hugging Face models that export writes; None takes the first that can express the model."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of features left out while training, of the embedding and of what each sublayer adds."""

    def build(self, data: Data) -> Any:
        """See `System.build`."""
        return self.network(data)

    def network(self, data: Data) -> Transformer:
        """A Transformer for this vocabulary and window.

        Raises:
            UserError: width, heads and kv_heads do not divide.
        """
        vocabulary = vocabulary_of(data)
        context = getattr(self.data, "context", 1)
        if context > 1:
            raise UserError(
                f"context {context}: {self.name} sees all of its window; --data.window says how much that is"
            )
        told = self.architecture()
        try:
            model = Transformer(len(vocabulary), window=self.span(data), **told)
        except ValueError as error:
            raise UserError(f"{self.name}: {error}") from error
        model.begin_plain()
        return self.adapted(model)

    def span(self, data: Data | DataOptions) -> int:
        """Most tokens that the model reads at once, with this data.

        Raises:
            UserError: the data's windows are longer.
        """
        window = getattr(data, "window", None)
        if not isinstance(window, int):
            raise TypeError(f"{self.name} expects data with a window, got {type(data).__name__}")
        if self.context_length is not None and window > self.context_length:
            raise UserError(
                f"data.window {window}: more tokens than --context-length {self.context_length}, which is what the model reads "
                f"at once; expected --data.window {self.context_length} or less"
            )
        return self.context_length or window

    def architecture(self) -> dict[str, Any]:
        """What `Transformer` is made with beside the vocabulary and the window, all None decided.

        Raises:
            UserError: width, heads and kv_heads do not divide.
        """
        size = self.head_dim or (64 if self.width >= 256 else 32)
        heads = self.heads or max(1, self.width // size)
        if self.head_dim is not None:
            if self.head_dim % 2 and self.positions == "rotary":
                raise UserError(
                    f"head_dim {self.head_dim}: rotary positions turn pairs of features; an even one would do"
                )
        elif self.width % (2 * heads):
            fitting = [h for h in range(1, self.width // 2 + 1) if self.width % (2 * h) == 0]
            near = min(fitting, key=lambda h: abs(h - heads), default=None)
            hint = "take an even width" if near is None else f"heads {near} would do"
            raise UserError(
                f"width {self.width}, heads {heads}: expected a width divisible by twice the heads; {hint}"
            )
        if heads % (self.kv_heads or heads):
            fitting = [k for k in range(1, heads + 1) if heads % k == 0]
            raise UserError(
                f"kv_heads {self.kv_heads}: expected a divisor of heads {heads}: {', '.join(map(str, fitting))}"
            )
        gated = self.feedforward in GATED
        late = range(self.layers)
        sliding = [self.sliding if i >= self.sliding_from else None for i in late]
        return {
            "width": self.width,
            "layers": self.layers,
            "heads": heads,
            "kv_heads": self.kv_heads or heads,
            "hidden": self.hidden or (default_hidden(self.width) if gated else 4 * self.width),
            "base": self.rotary_base,
            "tied": self.tied,
            "dropout": self.dropout,
            "eps": self.eps,
            "head_dim": self.head_dim or self.width // heads,
            "norm": self.norm,
            "feedforward": self.feedforward,
            "bias": self.bias,
            "query_key_norm": self.query_key_norm,
            "positions": self.positions,
            "sliding": sliding if self.sliding else None,
            "rotary_scaling": self.rotary_scaling or None,
            "scale": self.scale,
        }

    @classmethod
    def inherits(cls, other: Run) -> dict[str, Any]:
        """The fields of the Transformer, of a run whose model is one."""
        if not isinstance(other.system, DecoderOnly):
            return {}
        names = (n for n in DecoderOnly.model_fields if n not in (*PARTS, *ADAPTING))
        return {name: getattr(other.system, name) for name in names}

    def accepts(self, other: Run) -> None:
        """Refuse what is no Transformer, and options under which its weights would not fit or mean something else."""
        super().accepts(other)
        if not isinstance(other.system, DecoderOnly):
            raise UserError(
                f"--from {other.folder}: is a run of {other.system.name}, whose weights are no {self.name}'s"
            )
        before, now = other.system.architecture(), self.architecture()
        names = list(SHAPING)
        if self.positions in TABLES:
            names.append("context_length")
            before["context_length"] = most = other.system.span(other.data)
            asked = (
                getattr(self.data, "window", None) or most
            )  # where it takes that of the run begun from
            now["context_length"] = self.context_length or asked
        for name in names:
            if before[name] != now[name]:
                raise UserError(
                    f"--{name.replace('_', '-')} {now[name]}: the weights of {other.folder} were made with "
                    f"{name} {before[name]}; --from goes on with that"
                )

    def take_over(self, model: nn.Module, other: Run) -> None:
        """See `System.take_over`; a value head of PPO's is left behind where there is no place for one."""
        if hasattr(other.model, "value") and not hasattr(model, "value"):
            weights = merged(other.model).state_dict()
            give(model, {n: t for n, t in weights.items() if not n.startswith("value.")})
            return
        super().take_over(model, other)
