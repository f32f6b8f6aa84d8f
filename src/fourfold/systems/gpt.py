"""Generative language model: GPT, Radford et al. 2018 and 2019, in the form of Llama: Touvron et al. 2023.

    fourfold fit gpt
    fourfold fit gpt books/*.txt --minutes 5 --out runs/books
    fourfold generate runs/books "It was the best of" --tokens 100 --seed 1
    fourfold export runs/books --to hf --out books-hf

Result: 1.56 nats a character on the last tenth of tiny Shakespeare after one minute of training at 4 layers x 128,
window 128, on 2 cores of an EPYC (nanoGPT as shipped: 2.24): benchmarks/results/gpt_train.json.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, Lt
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out, measure
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import batchable, system
from fourfold.core.types import Document, Picture, Score, Source
from fourfold.data.text import Text, TextData
from fourfold.look.figures import picture, subplots
from fourfold.models.generation import Sampling, Voice, generate_text
from fourfold.models.llama import load_llama, save_llama
from fourfold.models.transformer import Transformer
from fourfold.objectives.likelihood import NextToken
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.looking import Looking

ROWS = 32  # continuations generated, or windows scored, at once
TOLERANCE = 1e-4  # largest difference of logits between a model and its export
Probability = Annotated[float, Ge(0), Le(1)]


@system("gpt", reads="text")
class GPT(Looking):
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
        prompt is answered does not depend on the others. A continuation longer than the window
        goes on from the last half of it.

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
        prompts = [prompt] if isinstance(prompt, str) else list(prompt) or [""]
        sampling = Sampling(temperature, top_k, top_p, min_p)
        base = torch.seed() % 2**31 if seed is None else seed
        wanted = [(text, number) for text in prompts for number in range(count)]
        single = len(wanted) == 1
        for start in range(0, len(wanted), ROWS):
            some = wanted[start : start + ROWS]
            said = ["" for _ in some]
            starts = [_tokens(run, data, text) for text, _ in some]
            generators = [_generator(run, base, number) for _, number in some]
            voices = [_voice(data, known, stop) for known in starts]
            for row, piece in generate_text(
                model,
                starts,
                voices,
                tokens=tokens,
                sampling=sampling,
                generators=generators,
                end=data.vocabulary.end,
                dtype=_dtype(precision, temperature),
            ):
                if single:
                    yield piece
                said[row] += piece
            if not single:
                yield from (f"{text}\n" for text in said)

    def score(self, run: Run, text: Document) -> Score:
        """How likely a text is: each token given what precedes it, at least half a window where there is as much.

        Args:
            text: the text; its first token is predicted as that of a new document.
        """
        data, model = _parts(run)
        tokens = data.vocabulary.encode(text).tolist()
        if not tokens:
            raise UserError("text: is empty; there is nothing to score")
        nats = float(_surprises(model, [data.vocabulary.end, *tokens]).sum())
        unknown = tokens.count(data.vocabulary.unknown)
        notes = () if not unknown else (_unknown_note(unknown, len(tokens)),)
        return _score(nats, len(tokens), len(text.encode("utf-8")), notes)

    def evaluate(self, run: Run, source: Source = None) -> Score:
        """Measure the run on its own test split, or on other texts, window by window."""
        data, split, sentence = held_out(run, source)
        if not isinstance(data, TextData):
            raise TypeError(f"gpt expects TextData, got {type(data).__name__}")
        values = measure(run.objective, run.model, data, split, run.device, run.seed)
        tokens = len(data.tokens(split)) - 1  # the first is the end token before the text
        notes = (
            f"{tokens:,} tokens {sentence}, each given what precedes it in its window",
            *data.summary().get("notes", ()),
        )
        score = _score(values["loss"] * tokens, tokens, data.bytes(split), notes)
        return Score(
            {"loss": values["loss"], **score.values}, {"loss": "nats/token", **score.units}, notes
        )

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

    def preview(self, run: Run) -> str:
        """A short continuation of nothing, always from the same seed."""
        return "".join(self.generate(run, tokens=60, seed=0)).strip()

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Loss by position in the window, and a held-out passage with each token's surprise."""
        data, split, _ = held_out(run)
        if not isinstance(data, TextData):
            raise TypeError(f"gpt expects TextData, got {type(data).__name__}")
        tokens = torch.from_numpy(data.tokens(split)[: 64 * data.window + 1].astype("int64"))
        if len(tokens) > data.window:
            yield _by_position(run, tokens)
        yield _passage(run, data, tokens[:161].tolist())

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


def _tokens(run: Run, data: TextData, text: str) -> list[int]:
    """A prompt's tokens; the end token, which precedes every document, where there are none."""
    tokens = data.vocabulary.encode(text).tolist()
    if unknown := tokens.count(data.vocabulary.unknown):
        run.console.say(_unknown_note(unknown, len(tokens)))
    return tokens or [data.vocabulary.end]


def _unknown_note(unknown: int, tokens: int) -> str:
    return f"{unknown} of {tokens} tokens are not in the vocabulary"


def _generator(run: Run, seed: int, number: int) -> torch.Generator:
    """Noise of a prompt's n-th continuation, the same for every prompt: no prompt depends on the others."""
    return torch.Generator(run.device).manual_seed((seed * 1_000_003 + number) % 2**63)


def _dtype(precision: str, temperature: float) -> torch.dtype | None:
    if precision == "auto" and temperature > 0:
        return None  # the faster one here
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _voice(data: TextData, known: Sequence[int], stop: Sequence[str]) -> Voice:
    decoder = data.vocabulary.decoder()
    for token in known[-16:]:  # what precedes decides about spaces and half characters
        if token != data.vocabulary.end:
            decoder.push(token)
    return Voice(decoder, stop)


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


def _score(nats: float, tokens: int, size: int, notes: tuple[str, ...]) -> Score:
    each = nats / tokens
    values = {
        "nats_per_token": each,
        "bits_per_token": each / math.log(2),
        "bits_per_byte": nats / math.log(2) / size,
        "perplexity": math.exp(min(each, 700.0)),
        "tokens": float(tokens),
    }
    units = {"nats_per_token": "nats", "bits_per_token": "bits", "bits_per_byte": "bits"}
    return Score(values, units, notes)


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


def _passage(run: Run, data: TextData, tokens: list[int], columns: int = 88) -> Picture:
    """Held-out text on the colour of each token's surprise."""
    _, model = _parts(run)
    bits = (_surprises(model, tokens) / math.log(2)).tolist()
    decoder, cells, line, column = data.vocabulary.decoder(), [], 0, 0
    for token, surprise in zip(tokens[1:], bits, strict=True):
        for character in decoder.push(token):
            if character == "\n" or column == columns:
                line, column = line + 1, 0
            if character != "\n":
                cells.append((column, line, character, surprise))
                column += 1
    fig, axes = subplots(width=8.8, height=0.9 + 0.22 * (line + 1))
    top = max(8.0, *bits)
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    shades = ScalarMappable(Normalize(0, top), "YlOrRd")
    for column, line, character, surprise in cells:
        axes.add_patch(Rectangle((column, line), 1, 1, color=shades.to_rgba(surprise), linewidth=0))
        dark = surprise > 0.6 * top
        axes.text(
            column + 0.5, line + 0.55, character, ha="center", va="center", fontsize=8,
            family="monospace", color="white" if dark else "black", parse_math=False,
        )  # fmt: skip
    axes.set(xlim=(0, columns), ylim=(line + 1, 0))
    axes.axis("off")
    fig.colorbar(shades, ax=axes, orientation="horizontal", label="bits", aspect=60, pad=0.02)
    caption = "A held-out text; the darker, the less the model expected that token."
    return picture(fig, "What surprises the model", caption)
