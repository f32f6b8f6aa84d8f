"""What decoder-only Transformers share: their fields, the model, how they read and continue a text, export, and what a
later stage inherits from an earlier one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from annotated_types import Ge, Lt
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.parts import Data, DataOptions
from fourfold.core.run import Run
from fourfold.core.signatures import extends
from fourfold.core.system import batchable
from fourfold.core.types import Picture
from fourfold.data.text import TextData
from fourfold.models.adapter_folder import StoredAdapter, save_adapter
from fourfold.models.adapters import merged
from fourfold.models.families import load_model, save_model, suited_family
from fourfold.models.family_weights import llama_name
from fourfold.models.feedforward import GATED
from fourfold.models.positions import Kind
from fourfold.models.transformer import Transformer, default_hidden
from fourfold.tasks.adapting import ADAPTING, Adaptable, base_of
from fourfold.tasks.language import LanguageModel, continued, vocabulary_of
from fourfold.tasks.reader import Reader
from fourfold.tasks.transformer_folders import looks_like_language_model, read_folder
from fourfold.tasks.transformer_reader import TransformerReader, loss_by_position

TOLERANCE = 1e-4
"""Largest difference of logits between a model and its export."""
CHECKED = 128
"""Tokens of each row on which an export is compared."""
LOOK = 2048
"""Tokens before each that scoring a text reads at most, where the model was trained on shorter windows."""
PARTS = ("data", "objective", "optimizer")
SHAPING = (
    "layers", "width", "heads", "kv_heads", "head_dim", "hidden", "tied", "norm", "feedforward", "bias",
    "query_key_norm", "positions",
)  # fmt: skip
"""Fields without which the weights of a run are of another shape, or mean something else."""
TABLES = ("learned", "random")
"""Schemes of positions whose stored tables have as many rows as the model has positions."""


class TransformerLanguage(Adaptable, LanguageModel):
    """A language model that is a decoder-only Transformer."""

    masks_documents: ClassVar[bool] = True
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

    def build(self, data: Data) -> Transformer:
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
                f"data.window {window}: expected at most context_length {self.context_length}, what the model reads at once"
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
        }

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """Whether a folder is a Hugging Face model of the next token, supported or not."""
        return looks_like_language_model(path)

    @classmethod
    def imported(cls, path: Path) -> tuple[Self, Data, nn.Module, Sequence[str]]:
        """A Hugging Face folder's model, tokenizer, special tokens and chat template."""
        options, data, model, notes = read_folder(path)
        return cls(**options), data, model, notes

    @classmethod
    def inherits(cls, other: Run) -> dict[str, Any]:
        """The fields of the Transformer, of a run whose model is one."""
        if not isinstance(other.system, TransformerLanguage):
            return {}
        names = (n for n in TransformerLanguage.model_fields if n not in (*PARTS, *ADAPTING))
        return {name: getattr(other.system, name) for name in names}

    def accepts(self, other: Run) -> None:
        """Refuse what is no Transformer, and options under which its weights would not fit or mean something else."""
        super().accepts(other)
        if not isinstance(other.system, TransformerLanguage):
            raise UserError(
                f"--from {other.folder}: is a run of {other.system.name}, whose weights are no {self.name}'s"
            )
        before, now = other.system.architecture(), self.architecture()
        names = list(SHAPING)
        if self.positions in TABLES:
            names.append("context_length")
            before["context_length"] = other.system.span(other.system.data)
            now["context_length"] = self.span(self.data)
        for name in names:
            if before[name] != now[name]:
                raise UserError(
                    f"--{name.replace('_', '-')} {now[name]}: the weights of {other.folder} were made with "
                    f"{name} {before[name]}; --from goes on with that"
                )

    @batchable("prompt", when=lambda _, given: given.get("count", 1) == 1)
    @extends(LanguageModel.generate)
    def generate(
        self,
        run: Run,
        prompt: str | list[str] = "",
        *,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        **given: Any,
    ) -> Iterator[str]:
        """Continue a prompt. A single continuation comes in pieces, as it is made.

        Several (more prompts, or a count) come whole, in order, each ended by a newline. What one
        prompt is answered does not depend on the others. The unknown token is never drawn. Of a prompt
        longer than the window only the end is read, which is said; a continuation longer than the
        window goes on from the last half of it.

        Args:
            precision: auto takes float32 where the most likely token must win (temperature 0), otherwise what is faster here.
        """
        dtype = _dtype(precision, given["temperature"])
        reader = TransformerReader(
            transformer(run), vocabulary_of(run.data), dtype, apart=_apart(run), say=run.console.say
        )
        yield from continued(run, reader, prompt, **given)

    def reader(self, run: Run) -> Reader:
        """See `LanguageModel.reader`; it looks back as far as training did, and `LOOK` tokens where the model can."""
        model = transformer(run)
        window = min(model.window, max(LOOK, getattr(run.data, "window", LOOK)))
        return TransformerReader(model, vocabulary_of(run.data), window=window, apart=_apart(run))

    def export(
        self, run: Run, *, to: Literal["hf", "peft"] = "hf", out: Path | None = None
    ) -> Path:
        """Write the model in another library's format; what was written is read back and compared.

        Args:
            to: hf is a Hugging Face folder of the run's family (Llama by default), adapters merged into its weights; peft
                is the adapters alone as PEFT stores them, with the model below them in base/ unless it was imported
                from a folder that is still there.
            out: the folder; None takes the run's name with -hf or -peft.
        """
        model = transformer(run)
        if out is None and run.folder is None:
            raise UserError("out: expected a folder to write to; this run is in memory only")
        folder = Path(out) if out is not None else run.folder.with_name(f"{run.folder.name}-{to}")  # type: ignore[union-attr]
        if to == "peft":
            again = self._write_adapter(run, model, folder)
        else:
            self._write(run, merged(model), folder)
            again, _ = load_model(folder)
        tokens = torch.randint(
            len(vocabulary_of(run.data)),
            (2, min(model.window, CHECKED)),
            generator=run.generator("export"),
        ).to(run.device)
        with torch.no_grad():
            difference = float((again.to(run.device).eval()(tokens) - model(tokens)).abs().max())
        if not difference <= TOLERANCE:
            raise RuntimeError(f"{folder}: logits differ by {difference:.2g} from the run's")
        run.console.say(f"Read back: logits differ by at most {difference:.2g}")
        return folder

    def _write(self, run: Run, model: Transformer, folder: Path) -> None:
        """A plain model with its tokenizer as a Hugging Face folder."""
        words = vocabulary_of(run.data)
        chosen = save_model(
            model, folder, family=self.family, begin=words.begin, end=words.end, ends=words.ends
        )
        run.console.say(f"Written as {chosen.architecture}")
        try:
            words.save_hf(folder, window=model.window)
        except UserError as error:
            run.console.say(f"Without a tokenizer: {error}")

    def _write_adapter(self, run: Run, model: Transformer, folder: Path) -> Transformer:
        """The adapters alone, and the model below them where no folder has it; read back."""
        if self.adapter == "none":
            raise UserError(
                "--to peft: this run has no adapters, all its weights learned; --to hf writes them"
            )
        plain = merged(model, add=False)
        if suited_family(plain, self.family).conv1d:
            raise UserError(
                "--to peft: gpt2 keeps queries, keys and values in one matrix, which adapters of each do not fit; "
                "--to hf writes the merged model"
            )
        base = base_of(run)
        if not base:
            base = str((folder / "base").resolve())
            self._write(run, plain, folder / "base")
        save_adapter(model, folder, self.adapter_settings(base), llama_name)
        again, _ = load_model(Path(base))
        StoredAdapter(folder).put_on(again, llama_name)
        return again

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Loss by position in the window, then what every language model shows."""
        with contextlib.suppress(UserError):  # nothing is held out, as of an imported run
            data, split, _ = held_out(run)
            if isinstance(data, TextData):
                tokens = data.tokens(split)[: 64 * data.window + 1].astype("int64")
                if len(tokens) > data.window:
                    end = data.vocabulary.end if _apart(run) else None
                    yield loss_by_position(
                        transformer(run), torch.from_numpy(tokens), data.window, end
                    )
        yield from super().pictures(run)


def transformer(run: Run) -> Transformer:
    """A run's model.

    Raises:
        TypeError: it is another one.
    """
    if not isinstance(run.model, Transformer):
        raise TypeError(f"{run.system.name} expects a Transformer, got {type(run.model).__name__}")
    return run.model


# --- private ----------------------------------------------------------------------------------------


def _dtype(precision: str, temperature: float) -> torch.dtype | None:
    if precision == "auto" and temperature > 0:
        return None  # the faster one here
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _apart(run: Run) -> bool:
    """Whether the run's documents do not see one another."""
    return bool(getattr(run.system.data, "document_mask", False))
