"""What decoder-only Transformers share: their fields, the model, how they read and continue a text, export, and what a
later stage inherits from an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.signatures import extends
from fourfold.core.system import batchable
from fourfold.core.types import Picture
from fourfold.data.text import TextData, segments_of
from fourfold.data.vocabulary import Vocabulary
from fourfold.look.figures import picture, subplots
from fourfold.models.adapter_folder import StoredAdapter, save_adapter
from fourfold.models.adapters import merged
from fourfold.models.generation import Decoder, Sampling, advance, generate
from fourfold.models.llama import llama_name, load_llama, save_llama
from fourfold.models.transformer import Transformer, default_hidden
from fourfold.tasks.adapting import ADAPTING, Adaptable, base_of
from fourfold.tasks.language import LanguageModel, continued, vocabulary_of
from fourfold.tasks.reader import Reader

ROWS = 32  # windows scored at once
TOLERANCE = 1e-4  # largest difference of logits between a model and its export
PARTS = ("data", "objective", "optimizer")
SHAPING = ("layers", "width", "heads", "kv_heads", "hidden", "tied")
"""Fields without which the weights of a run are of another shape, or mean something else."""


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
    """Features inside the feed-forward; None takes 8/3 of the width, rounded up to a multiple of 32."""
    tied: bool = False
    """Whether the output weights are the embedding's."""
    eps: PositiveFloat = 1e-5
    """Added to the mean square, or the variance, in the norms."""
    rotary_base: PositiveFloat = 10_000.0
    """Wavelength factor of the rotary positions."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of features left out while training, of the embedding and of what each sublayer adds."""

    def build(self, data: Data) -> Transformer:
        """A Transformer for this vocabulary and window.

        Raises:
            UserError: width, heads and kv_heads do not divide.
        """
        vocabulary, window = vocabulary_of(data), getattr(data, "window", None)
        if not isinstance(window, int):
            raise TypeError(f"{self.name} expects data with a window, got {type(data).__name__}")
        context = getattr(self.data, "context", 1)
        if context > 1:
            raise UserError(
                f"context {context}: {self.name} sees all of its window; --data.window says how much that is"
            )
        model = Transformer(len(vocabulary), window=window, **self.architecture())
        model.begin_plain()
        return self.adapted(model)

    def architecture(self) -> dict[str, Any]:
        """What `Transformer` is made with beside the vocabulary and the window, all None decided.

        Raises:
            UserError: width, heads and kv_heads do not divide.
        """
        size = 64 if self.width >= 256 else 32
        heads = self.heads or max(1, self.width // size)
        if self.width % (2 * heads):
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
        return {
            "width": self.width,
            "layers": self.layers,
            "heads": heads,
            "kv_heads": self.kv_heads or heads,
            "hidden": self.hidden or default_hidden(self.width),
            "base": self.rotary_base,
            "tied": self.tied,
            "dropout": self.dropout,
            "eps": self.eps,
        }

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
        for name in SHAPING:
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
        prompt is answered does not depend on the others. The unknown token is never drawn. A
        continuation longer than the window goes on from the last half of it.

        Args:
            precision: auto takes float32 where the most likely token must win (temperature 0), otherwise what is faster here.
        """
        dtype = _dtype(precision, given["temperature"])
        reader = TransformerReader(
            transformer(run), vocabulary_of(run.data), dtype, apart=_apart(run)
        )
        yield from continued(run, reader, prompt, **given)

    def reader(self, run: Run) -> Reader:
        """See `LanguageModel.reader`."""
        return TransformerReader(transformer(run), vocabulary_of(run.data), apart=_apart(run))

    def export(
        self, run: Run, *, to: Literal["hf", "peft"] = "hf", out: Path | None = None
    ) -> Path:
        """Write the model in another library's format; what was written is read back and compared.

        Args:
            to: hf is a Hugging Face folder (LlamaForCausalLM, tokenizer.json), adapters merged into its weights; peft
                is the adapters alone as PEFT stores them, with the model below them in base/ unless it was imported
                from a folder that is still there.
            out: the folder; None takes the run's name with -hf or -peft.
        """
        model = transformer(run)
        if out is None and run.folder is None:
            raise UserError("out: expected a folder to write to; this run is in memory only")
        folder = Path(out) if out is not None else run.folder.with_name(f"{run.folder.name}-{to}")  # type: ignore[union-attr]
        if to == "peft":
            if self.adapter == "none":
                raise UserError(
                    "--to peft: this run has no adapters, all its weights learned; --to hf writes them"
                )
            base = base_of(run)
            if not base:
                base = str((folder / "base").resolve())
                self._write(run, merged(model, add=False), folder / "base")
            save_adapter(model, folder, self.adapter_settings(base), llama_name)
            again = load_llama(Path(base))
            StoredAdapter(folder).put_on(again, llama_name)
        else:
            self._write(run, merged(model), folder)
            again = load_llama(folder)
        vocabulary = vocabulary_of(run.data)
        places = torch.randint(
            len(vocabulary), (4, model.window), generator=run.generator("export")
        )
        tokens = places.to(run.device)
        with torch.no_grad():
            difference = float((again.to(run.device).eval()(tokens) - model(tokens)).abs().max())
        if not difference <= TOLERANCE:
            raise RuntimeError(f"{folder}: logits differ by {difference:.2g} from the run's")
        run.console.say(f"Read back: logits differ by at most {difference:.2g}")
        return folder

    def _write(self, run: Run, model: Transformer, folder: Path) -> None:
        """A plain model with its tokenizer as a Hugging Face folder."""
        vocabulary = vocabulary_of(run.data)
        save_llama(model, folder, end=vocabulary.end)
        try:
            vocabulary.save_hf(folder, window=model.window)
        except UserError as error:
            run.console.say(f"Without a tokenizer: {error}")

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Loss by position in the window, then what every language model shows."""
        data, split, _ = held_out(run)
        if isinstance(data, TextData):
            tokens = torch.from_numpy(data.tokens(split)[: 64 * data.window + 1].astype("int64"))
            if len(tokens) > data.window:
                yield _by_position(run, tokens, data.window)
        yield from super().pictures(run)


def transformer(run: Run) -> Transformer:
    """A run's model.

    Raises:
        TypeError: it is another one.
    """
    if not isinstance(run.model, Transformer):
        raise TypeError(f"{run.system.name} expects a Transformer, got {type(run.model).__name__}")
    return run.model


class TransformerReader(Reader):
    """Reads with a cache; a full window goes on from its last half. Everything in float32, but what `read_on` says.

    A state is the decoder, the logits of what comes next, and the tokens of each row's window.

    Args:
        model: not changed.
        vocabulary: of its tokens.
        dtype: in which `read_on` multiplies; None takes the faster one here.
        apart: whether a document sees nothing before its own end token, as it was trained (`Text.document_mask`).
    """

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        dtype: torch.dtype | None = torch.float32,
        *,
        apart: bool = False,
    ) -> None:
        self.model, self.vocabulary, self.dtype, self.apart = model, vocabulary, dtype, apart

    def start(self, rows: int = 1) -> Any:
        """See `Reader.start`."""
        decoder = Decoder(self.model, rows, torch.float32)
        past = [[self.vocabulary.opening] for _ in range(rows)]
        return decoder, decoder.read(past), past

    def next(self, state: Any) -> Tensor:
        """See `Reader.next`."""
        return state[1].float().log_softmax(-1)

    def push(self, state: Any, tokens: Tensor) -> Any:
        """See `Reader.push`."""
        decoder, _, past = state
        read = tokens.tolist()
        for row, token in enumerate(read):
            if self.apart and token == self.vocabulary.end:
                past[row].clear()
                decoder.positions[row] = 0
            past[row].append(token)
            del past[row][: -self.model.window]
        return decoder, advance(decoder, read, past, [True] * len(past)), past

    def surprises(self, tokens: np.ndarray) -> np.ndarray:
        """See `Reader.surprises`: at least half a window precedes each token where there is as much."""
        end = self.vocabulary.end if self.apart else None
        return surprises(self.model, tokens.tolist(), end).numpy()

    def distributions(self, tokens: np.ndarray) -> Tensor:
        """See `Reader.distributions`."""
        if len(tokens) - 1 > self.model.window:
            return super().distributions(tokens)
        read = torch.from_numpy(np.asarray(tokens[:-1], np.int64))[None]
        read = read.to(self.model.embedding.weight.device)
        with torch.no_grad():
            logits = self.model(read, _segments(read, self.vocabulary.end if self.apart else None))
        return logits[0].float().log_softmax(-1)

    def read_on(
        self,
        starts: Sequence[Sequence[int]],
        *,
        tokens: int,
        sampling: Sampling,
        generators: Sequence[torch.Generator],
        never: Sequence[int] = (),
    ) -> Iterator[tuple[int, int]]:
        """See `Reader.read_on`: prompts are read at once, and a text ends before an end token."""
        stream = generate(
            self.model,
            [self.opened(start) for start in starts],
            tokens=tokens,
            sampling=sampling,
            generators=generators,
            never=never,
            dtype=self.dtype,
        )
        return _until(stream, self.vocabulary.ends)

    def opened(self, start: Sequence[int]) -> list[int]:
        """A text's first tokens as the model expects them: after the begin token, an empty one after the end token."""
        begin = self.vocabulary.begin
        return [*([] if begin is None else [begin]), *start] or [self.vocabulary.end]


# --- private ----------------------------------------------------------------------------------------


def _dtype(precision: str, temperature: float) -> torch.dtype | None:
    if precision == "auto" and temperature > 0:
        return None  # the faster one here
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _until(stream: Any, ends: Sequence[int]) -> Iterator[tuple[int, int]]:
    """A stream whose rows end before any of these tokens; see `generate`."""
    answer: bool | None = None
    while True:
        try:
            row, token = stream.send(answer)
        except StopIteration:
            return
        answer = True if token in ends else (yield row, token)


def surprises(model: Transformer, tokens: Sequence[int], end: int | None = None) -> Tensor:
    """-log p of each token but the first, (N - 1,) in nats, each counted once.

    The windows overlap by half, and only what a window adds counts in it. With an end token nothing before the
    last one is seen.
    """
    place, window = model.embedding.weight.device, model.window
    whole = torch.tensor(tokens, device=place)
    count = len(tokens) - 1
    step = max(1, window // 2)
    starts = [0, *range(step, count - window + step, step)]
    found: list[Tensor] = []
    done = 0
    for i in range(0, len(starts), ROWS):
        rows = starts[i : i + ROWS]
        length = min(window, count)
        at = torch.tensor([min(s, count - length) for s in rows], device=place)
        windows = whole[at[:, None] + torch.arange(length + 1, device=place)]  # (B, T + 1)
        with torch.no_grad():
            logits = model(windows[:, :-1], _segments(windows[:, :-1], end)).float()
        nats = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="none")
        for start, row in zip(at.tolist(), nats.view(len(rows), -1), strict=True):
            found.append(row[done - start :])
            done = start + len(row)
    return torch.cat(found).cpu().double()


def _apart(run: Run) -> bool:
    """Whether the run's documents do not see one another."""
    return bool(getattr(run.system.data, "document_mask", False))


def _segments(tokens: Tensor, end: int | None) -> Tensor | None:
    return None if end is None else segments_of(tokens, end)


def _by_position(run: Run, tokens: Tensor, window: int) -> Picture:
    """Mean loss at each place of the window: how much the model gains from what precedes."""
    model = transformer(run)
    rows = (len(tokens) - 1) // window
    inputs = tokens[: rows * window].view(rows, window).to(run.device)
    targets = tokens[1 : rows * window + 1].view(rows, window).to(run.device)
    nats = torch.zeros(window, dtype=torch.float64)
    end = vocabulary_of(run.data).end if _apart(run) else None
    with torch.no_grad():
        for some, wanted in zip(inputs.split(ROWS), targets.split(ROWS), strict=True):
            each = F.cross_entropy(
                model(some, _segments(some, end)).float().mT, wanted, reduction="none"
            )
            nats += each.double().sum(0).cpu()
    edges = [0, *(2**i for i in range(window.bit_length()) if 2**i < window), window]
    means = [float(nats[a:b].mean()) / rows for a, b in zip(edges, edges[1:], strict=False)]
    fig, axes = subplots()
    axes.bar(range(len(means)), means, width=0.9)
    spans = [
        f"{a + 1}-{b}" if b > a + 1 else f"{b}" for a, b in zip(edges, edges[1:], strict=False)
    ]
    axes.set_xticks(range(len(means)), spans, rotation=30 if len(means) > 8 else 0)
    axes.set(xlabel="tokens that precede, in the window", ylabel="nats per token")
    caption = (
        f"Mean over {rows} held-out windows: what falls is what the model draws from its context."
    )
    return picture(fig, "Loss by position", caption)
