"""Generative language model: GPT, Radford et al. 2018 and 2019, in the form of Llama: Touvron et al. 2023.

    fourfold fit gpt
    fourfold fit gpt books/*.txt --minutes 5 --out runs/books
    fourfold generate runs/books "It was the best of" --tokens 100 --seed 1
    fourfold export runs/books --to hf --out books-hf

Result: 1.56 nats a character on the last tenth of tiny Shakespeare after one minute of training at 4 layers x 128,
window 128, on 2 cores of an EPYC (nanoGPT as shipped: 2.24): benchmarks/results/gpt_train.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import batchable, system
from fourfold.core.types import Picture
from fourfold.data.text import Text, TextData
from fourfold.data.vocabulary import Vocabulary
from fourfold.look.figures import picture, subplots
from fourfold.models.generation import Decoder, Sampling, advance, generate
from fourfold.models.llama import load_llama, save_llama
from fourfold.models.transformer import Transformer
from fourfold.objectives.likelihood import NextToken
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.language import LanguageModel, Probability, continuations, text_data
from fourfold.tasks.reader import Reader

ROWS = 32  # windows scored at once
TOLERANCE = 1e-4  # largest difference of logits between a model and its export


@system("gpt", reads="text")
class GPT(LanguageModel):
    """Learn a language from its texts, token after token: a decoder-only Transformer."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"layers": 4, "width": 128},
        "demo": {},
        "small": {"layers": 6, "width": 384, "data.window": 256},
        "medium": {"layers": 8, "width": 512, "data.window": 512},
        "base": {"layers": 12, "width": 768, "tied": True, "data.window": 1024},
    }

    data: Text = Text(unit="bpe", window=128, batch=16)
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
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of features left out while training, of the embedding and of what each sublayer adds."""
    objective: NextToken = NextToken()
    optimizer: Gradient = Gradient(
        algorithm="muon",
        lr=0.02,
        minutes=3,
        schedule="wsd",
        warmup=50,
        decay_from=0.4,
        final=0.02,
        clip=1.0,
    )

    def build(self, data: Data) -> Transformer:
        """A Transformer for this vocabulary and window.

        Raises:
            UserError: width, heads and kv_heads do not divide.
        """
        if not isinstance(data, TextData):
            raise TypeError(f"gpt expects TextData, got {type(data).__name__}")
        if self.data.context > 1:
            raise UserError(
                f"context {self.data.context}: gpt sees all of its window; --data.window says how much that is"
            )
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
        model = Transformer(
            len(data.vocabulary),
            self.width,
            self.layers,
            heads,
            self.kv_heads,
            self.hidden,
            window=data.window,
            tied=self.tied,
            dropout=self.dropout,
        )
        model.begin_plain()
        return model

    @batchable("prompt", when=lambda _, given: given.get("count", 1) == 1)
    def generate(
        self,
        run: Run,
        prompt: str | list[str] = "",
        *,
        tokens: PositiveInt = 200,
        temperature: NonNegativeFloat = 0.8,
        top_k: PositiveInt | None = None,
        top_p: Probability | None = None,
        min_p: Probability | None = None,
        stop: tuple[str, ...] = (),
        count: PositiveInt = 1,
        seed: int | None = None,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
    ) -> Iterator[str]:
        """Continue a prompt. A single continuation comes in pieces, as it is made.

        Several (more prompts, or a count) come whole, in order, each ended by a newline. What one
        prompt is answered does not depend on the others. The unknown token is never drawn. A
        continuation longer than the window goes on from the last half of it.

        Args:
            prompt: one text or several; an empty one starts a new document.
            tokens: most tokens to add.
            temperature: 0 always takes the most likely token; higher is more surprising.
            top_k: draw from the k most likely tokens only.
            top_p: draw from the most likely tokens that together have this probability.
            min_p: draw from tokens at least this share as likely as the most likely one.
            stop: texts before which to end.
            count: continuations of each prompt.
            seed: the same seed gives the same continuations; None gives others each time.
            precision: auto takes float32 where the most likely token must win (temperature 0), otherwise what is faster here.
        """
        data, model = _parts(run)
        unknown = data.vocabulary.unknown
        sampling = Sampling(temperature, top_k, top_p, min_p)

        def stream(starts: list[list[int]], generators: list[torch.Generator]) -> Any:
            return generate(
                model,
                # the end token precedes every document
                [start or [data.vocabulary.end] for start in starts],
                tokens=tokens,
                sampling=sampling,
                generators=generators,
                end=data.vocabulary.end,
                never=() if unknown is None else (unknown,),
                dtype=_dtype(precision, temperature),
            )

        yield from continuations(run, stream, prompt, stop=stop, count=count, seed=seed)

    def reader(self, run: Run) -> Reader:
        """See `LanguageModel.reader`."""
        data, model = _parts(run)
        return TransformerReader(model, data.vocabulary)

    def export(self, run: Run, *, to: Literal["hf"] = "hf", out: Path | None = None) -> Path:
        """Write the model in another library's format; what was written is read back and compared.

        Args:
            to: hf is a Hugging Face folder (LlamaForCausalLM, tokenizer.json).
            out: the folder; None takes the run's name with -hf.
        """
        data, model = _parts(run)
        if out is None and run.folder is None:
            raise UserError("out: expected a folder to write to; this run is in memory only")
        folder = Path(out) if out is not None else run.folder.with_name(f"{run.folder.name}-{to}")  # type: ignore[union-attr]
        save_llama(model, folder, end=data.vocabulary.end)
        try:
            data.vocabulary.save_hf(folder, window=model.window)
        except UserError as error:
            run.console.say(f"Without a tokenizer: {error}")
        places = torch.randint(
            len(data.vocabulary), (4, model.window), generator=run.generator("export")
        )
        tokens = places.to(run.device)
        again = load_llama(folder).to(run.device).eval()
        with torch.no_grad():
            difference = float((again(tokens) - model(tokens)).abs().max())
        if not difference <= TOLERANCE:
            raise RuntimeError(f"{folder}: logits differ by {difference:.2g} from the run's")
        run.console.say(f"Read back: logits differ by at most {difference:.2g}")
        return folder

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Loss by position in the window, then what every language model shows."""
        data, split, _ = held_out(run)
        tokens = torch.from_numpy(
            text_data(data).tokens(split)[: 64 * text_data(data).window + 1].astype("int64")
        )
        if len(tokens) > text_data(data).window:
            yield _by_position(run, tokens)
        yield from super().pictures(run)

    @classmethod
    def toy(cls) -> tuple[GPT, Any]:
        """Two narrow layers on sums in words."""
        sums = [f"{a} and {b} make {a + b}." for a in range(40) for b in range(40)]
        small = cls(
            data=Text(unit="character", window=32, batch=32),
            layers=2,
            width=32,
            heads=2,
            kv_heads=1,
            optimizer=Gradient(lr=3e-3, steps=12),
        )
        return small, {"text": ["\n".join(sums)]}


def _parts(run: Run) -> tuple[TextData, Transformer]:
    data, model = run.data, run.model
    if not isinstance(data, TextData) or not isinstance(model, Transformer):
        raise TypeError(f"gpt expects TextData and Transformer, got {data!r} and {model!r}")
    return data, model


def _dtype(precision: str, temperature: float) -> torch.dtype | None:
    if precision == "auto" and temperature > 0:
        return None  # the faster one here
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


class TransformerReader(Reader):
    """Reads with a cache; a full window goes on from its last half. Everything in float32.

    A state is the decoder, the logits of what comes next, and the tokens of each row's window.
    """

    def __init__(self, model: Transformer, vocabulary: Vocabulary) -> None:
        self.model, self.vocabulary = model, vocabulary

    def start(self, rows: int = 1) -> Any:
        """See `Reader.start`."""
        decoder = Decoder(self.model, rows, torch.float32)
        past = [[self.vocabulary.end] for _ in range(rows)]
        return decoder, decoder.read(past), past

    def next(self, state: Any) -> Tensor:
        """See `Reader.next`."""
        return state[1].float().log_softmax(-1)

    def push(self, state: Any, tokens: Tensor) -> Any:
        """See `Reader.push`."""
        decoder, _, past = state
        read = tokens.tolist()
        for row, token in enumerate(read):
            past[row].append(token)
            del past[row][: -self.model.window]
        return decoder, advance(decoder, read, past, [True] * len(past)), past

    def surprises(self, tokens: np.ndarray) -> np.ndarray:
        """See `Reader.surprises`: at least half a window precedes each token where there is as much."""
        return _surprises(self.model, tokens.tolist()).numpy()


def _surprises(model: Transformer, tokens: Sequence[int]) -> Tensor:
    """-log p of each token but the first, (N - 1,) in nats, each counted once.

    The windows overlap by half, and only what a window adds counts in it.
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
            logits = model(windows[:, :-1]).float()
        nats = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="none")
        for start, row in zip(at.tolist(), nats.view(len(rows), -1), strict=True):
            found.append(row[done - start :])
            done = start + len(row)
    return torch.cat(found).cpu().double()


def _by_position(run: Run, tokens: Tensor) -> Picture:
    """Mean loss at each place of the window: how much the model gains from what precedes."""
    _, model = _parts(run)
    window = model.window
    rows = (len(tokens) - 1) // window
    inputs = tokens[: rows * window].view(rows, window).to(run.device)
    targets = tokens[1 : rows * window + 1].view(rows, window).to(run.device)
    nats = torch.zeros(window, dtype=torch.float64)
    with torch.no_grad():
        for some, wanted in zip(inputs.split(ROWS), targets.split(ROWS), strict=True):
            each = F.cross_entropy(model(some).float().mT, wanted, reduction="none")
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
