"""Generation from a Transformer: a preallocated key-value cache, sampling, stop strings, streams of text.

top-k: Fan et al. 2018; top-p: Holtzman et al. 2020; min-p: Nguyen et al. 2024. Shapes: B rows,
W width, H heads, K key-value heads, D features of a head, P positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends.mkldnn import is_available as has_onednn

from fourfold.core.device import gains_from_bfloat16
from fourfold.models.adapters import merged
from fourfold.models.transformer import Cache, Transformer


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from logits. Filters apply in the order of the fields."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: int | None = None
    """Only the k most likely tokens."""
    top_p: float | None = None
    """Only the most likely tokens that together have this probability."""
    min_p: float | None = None
    """Only tokens at least this share as likely as the most likely one."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or (self.top_k is not None and self.top_k < 1):
            raise ValueError(
                f"Sampling expects temperature >= 0 and top_k >= 1, got {self.temperature}, {self.top_k}"
            )
        for name in ("top_p", "min_p"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"Sampling expects {name} between 0 and 1, got {share}")

    def probabilities(self, logits: Tensor) -> Tensor:
        """What the filters leave, unnormalized: (B, V) float from logits (B, V), temperature above 0."""
        logits = logits.float()
        # from the largest, so that a tiny temperature does not overflow: it leaves the largest alone; a
        # huge one is no infinity, by which what must never come (-inf) would be no number
        temperature = min(max(self.temperature, 1e-30), 1e30)
        logits = (logits - logits.amax(-1, keepdim=True)) / temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < least, float("-inf"))
        shares = logits.softmax(-1)
        if self.top_p is not None and self.top_p < 1:
            ordered, places = shares.sort(dim=-1, descending=True)
            before = ordered.cumsum(-1) - ordered
            out = (before >= self.top_p) & (before > 0)  # the first token always stays
            shares = shares.scatter(-1, places, ordered.masked_fill(out, 0.0))
        if self.min_p is not None:
            shares = shares.masked_fill(shares < self.min_p * shares.amax(-1, keepdim=True), 0.0)
        return shares

    def draw(self, logits: Tensor, generators: Sequence[torch.Generator | None]) -> list[int]:
        """One token of each row of logits (B, V), each row from its own generator (None: torch's own)."""
        if self.temperature == 0:
            return logits.argmax(-1).tolist()
        rows = zip(self.probabilities(logits), generators, strict=True)
        return [int(torch.multinomial(row, 1, generator=g)) for row, g in rows]


class _Product:
    """x to x W' + b, with W in the form that is fastest for a few rows.

    In bfloat16 on a CPU the weights are reordered once for oneDNN, which otherwise does it at
    every call: a vector of 384 by 1152 weights takes 50 microseconds instead of 117 (float32: 182).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: int) -> None:
        self.weight, self.dtype = weight.to(dtype).contiguous(), dtype
        self.bias = None if bias is None else bias.to(dtype).contiguous()
        self.reordered: Any = None
        if (weight.device.type, dtype) == ("cpu", torch.bfloat16) and has_onednn():
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows)
            self.reordered = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        """(B, N) to (B, M), in the dtype of x."""
        if self.reordered:
            wide = self.reordered(x.bfloat16(), self.weight, self.bias, "none", [], "")
        else:
            wide = F.linear(x.to(self.dtype), self.weight, self.bias)
        return wide.to(x.dtype)


def folded(norm: Any, linears: Sequence[Any], dtype: torch.dtype, rows: int) -> _Product:
    """Linear layers of one input as one product, with the weight and bias of the norm before them in it."""
    weight = torch.cat([linear.weight for linear in linears])
    biased = linears[0].bias is not None
    bias = torch.cat([linear.bias for linear in linears]) if biased else None
    if norm is not None:
        if getattr(norm, "bias", None) is not None:
            more = weight @ norm.bias
            bias = more if bias is None else bias + more
        weight = weight * norm.weight
    return _Product(weight, bias, dtype, rows)


class StepLayer:
    """A block's weights as one step wants them: joined by input, the norms' weights multiplied in."""

    def __init__(self, block: Any, dtype: torch.dtype, other: torch.dtype, rows: int) -> None:
        attention, feedforward = block.attention, block.feedforward
        into = [attention.query, attention.key, attention.value]
        self.into_heads = folded(block.attention_norm, into, dtype, rows)
        self.out = folded(None, [attention.out], dtype, rows)
        self.gated, self.function = hasattr(feedforward, "gate"), feedforward.function
        up = [feedforward.gate, feedforward.up] if self.gated else [feedforward.up]
        self.up = folded(block.feedforward_norm, up, dtype, rows)
        self.down = folded(None, [feedforward.down], dtype, rows)
        self.sliding: int | None = attention.sliding
        self.norms: Tensor | None = None  # (H + K, D)
        if attention.query_norm is not None:
            pairs = (attention.query, attention.query_norm), (attention.key, attention.key_norm)
            size = attention.head_dim
            weights = [n.weight.expand(p.out_features // size, size) for p, n in pairs]
            self.norms = torch.cat(weights).to(other)

    def feed(self, x: Tensor) -> Tensor:
        """The feed-forward's change of normalized states, (B, W)."""
        if not self.gated:
            return self.down(self.function(self.up(x)))
        gate, up = self.up(x).chunk(2, dim=-1)
        return self.down(self.function(gate) * up)


class Decoder:
    """A Transformer that reads one token a row at a time; keys and values are kept in place.

    Every row has its own position, so that rows never wait for, pad or see one another.

    Args:
        model: not changed; its weights are copied, adapters merged into them.
        rows: B.
        dtype: of the weights that a step multiplies by; None takes the faster one. Without a
            GPU everything else stays float32.
        window: most tokens a row has at once, and what the cache has places for; None takes the model's.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: Transformer,
        rows: int,
        dtype: torch.dtype | None = None,
        window: int | None = None,
    ) -> None:
        model = merged(model)
        self.model, self.window = model, min(window or model.window, model.window)
        place = model.embedding.weight
        self.dtype = dtype or _faster_dtype(model)
        self.device = place.device
        self.other = self.dtype if place.device.type == "cuda" else torch.float32
        self.layers = [StepLayer(block, self.dtype, self.other, rows) for block in model.blocks]
        self.head = folded(model.norm, [model.head], self.dtype, rows)
        self.head_dim = model.head_dim
        self.turns: tuple[Tensor, Tensor] | None = None
        if (turns := model.positions.turns(self.window)) is not None:
            cos, sin = turns
            self.turns = (
                torch.cat((cos, cos), -1).to(self.other),  # (P, D)
                torch.cat((-sin, sin), -1).to(self.other),
            )
        shape = (rows, model.kv_heads, self.window, self.head_dim)
        self.cache: Cache = [
            (place.new_zeros(shape, dtype=self.other), place.new_zeros(shape, dtype=self.other))
            for _ in self.layers
        ]
        self.positions = [0] * rows
        """Tokens that each row has in the cache."""

    @torch.inference_mode()
    def read(self, prompts: Sequence[Sequence[int]], first: int = 0) -> Tensor:
        """Read whole prompts at once, into the rows from `first` on.

        Args:
            prompts: token numbers, 1 to `window` a row.
            first: the first prompt's row.

        Returns:
            (len(prompts), V) logits of what follows each.
        """
        lengths = [len(prompt) for prompt in prompts]
        if not lengths or min(lengths) < 1 or max(lengths) > self.window:
            raise ValueError(f"Decoder expects prompts of 1 to {self.window} tokens, got {lengths}")
        place = self.device
        # shorter ones are filled at their end, which causal attention never shows to what precedes
        tokens = torch.tensor([[*p, *[0] * (max(lengths) - len(p))] for p in prompts], device=place)
        rows = slice(first, first + len(prompts))
        lowered = self.dtype != torch.float32
        with torch.autocast(place.type, self.dtype, enabled=lowered):
            states = self.model.states(tokens, [(k[rows], v[rows]) for k, v in self.cache])
            last = states[torch.arange(len(prompts)), torch.tensor(lengths) - 1]
            logits = self.model.head(last)
        self.positions[rows] = lengths
        return logits

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read one more token of every row.

        Args:
            tokens: B numbers.

        Returns:
            (B, V) logits of what follows.

        Raises:
            ValueError: a row's window is full; `read` what it should remember first.
        """
        at = self.positions
        if max(at) >= self.window:
            raise ValueError(f"Decoder's window of {self.window} positions is full: read() it anew")
        model = self.model
        x = model.embedding.weight[torch.tensor(tokens, device=self.device)].to(self.other)
        view = _View(self, at)
        if view.each is not None and self.turns is None:
            x = model.positions.add(x.unsqueeze(1), view.each).squeeze(1)  # (B, W)
        for number, (layer, cache) in enumerate(zip(self.layers, self.cache, strict=True)):
            q, k, v = self._heads(layer, layer.into_heads(self._normal(x)), view)
            view.keep(cache, k, v)
            mixed = self._mixed(layer, number, q, cache, view)
            x = x + layer.out(mixed.reshape(len(at), -1))
            x = x + layer.feed(self._normal(x))
        self.positions = [position + 1 for position in at]
        return self.head(self._normal(x))

    def _normal(self, x: Tensor) -> Tensor:
        if self.model.form.norm == "layer":
            return F.layer_norm(x, x.shape[-1:], None, None, self.model.eps)
        return F.rms_norm(x, x.shape[-1:], None, self.model.eps)

    def _heads(self, layer: StepLayer, heads: Tensor, view: _View) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, D), keys and values (B, K, D), normalized and turned to their positions."""
        model = self.model
        heads = heads.view(len(heads), -1, self.head_dim)
        turned = heads[:, : model.heads + model.kv_heads]
        if layer.norms is not None:
            turned = F.rms_norm(turned, (self.head_dim,), None, model.eps) * layer.norms
        if view.turn is not None:
            cos, sin = view.turn
            turned = torch.addcmul(turned * cos, turned.roll(self.head_dim // 2, -1), sin)
        q, k = turned.split((model.heads, model.kv_heads), dim=1)
        if model.form.factor != 1:
            q = q * model.form.factor
        return q, k, heads[:, model.heads + model.kv_heads :]

    def _mixed(
        self, layer: StepLayer, number: int, q: Tensor, cache: tuple[Tensor, Tensor], view: _View
    ) -> Tensor:
        """What each head draws from the values so far: B * H * D numbers, in that order."""
        positions, kv_heads = self.model.positions, self.model.kv_heads
        begin = view.begin(layer.sliding)
        keys, values = (kept[:, :, begin : view.count] for kept in cache)
        seen = view.seen(layer.sliding)
        if not positions.biased or view.each is None:
            # the queries that share a key stand where other models have time: no key is repeated
            shared = q.view(len(q), kv_heads, -1, self.head_dim)
            return F.scaled_dot_product_attention(shared, keys, values, attn_mask=seen)
        places = view.each, torch.arange(begin, view.count, device=self.device)
        return positions.attend(
            q.unsqueeze(2), keys, values, places=places, layer=number, causal=False, keep=seen
        )


class _View:
    """Where the rows of one step stand, and what they see."""

    def __init__(self, decoder: Decoder, at: Sequence[int]) -> None:
        self.same, self.first, self.count = min(at) == max(at), at[0], max(at) + 1
        self.each: Tensor | None = None  # (B, 1) int64
        # where all rows stand at one place and only tables are read, a slice does: no index is made
        if not self.same or decoder.turns is None:
            self.each = torch.tensor(at, device=decoder.device).unsqueeze(1)
        self.rows = None if self.same else torch.arange(len(at), device=decoder.device)
        self.turn: tuple[Tensor, Tensor] | None = None
        if decoder.turns is not None:
            cos, sin = decoder.turns
            where = slice(self.first, self.count) if self.same else self.each[:, 0]  # type: ignore[index]
            self.turn = cos[where].unsqueeze(1), sin[where].unsqueeze(1)  # (B or 1, 1, D)
        self._seen: dict[int | None, Tensor] = {}

    def keep(self, cache: tuple[Tensor, Tensor], k: Tensor, v: Tensor) -> None:
        """Write each row's key and value, (B, K, D), at its place."""
        where: Any = (slice(None), slice(None), self.first)
        if self.each is not None and self.rows is not None:
            where = (self.rows, slice(None), self.each[:, 0])
        cache[0][where], cache[1][where] = k, v

    def begin(self, sliding: int | None) -> int:
        """The first key that any row may see."""
        return max(0, self.count - sliding) if self.same and sliding else 0

    def seen(self, sliding: int | None) -> Tensor | None:
        """Which keys each row sees, (B, 1, 1, P) bool; None where it is all of them."""
        if self.same or self.each is None:
            return None
        if sliding not in self._seen:
            keys = torch.arange(self.count, device=self.each.device)
            seen = keys <= self.each
            if sliding is not None:
                seen &= keys > self.each - sliding
            self._seen[sliding] = seen[:, None, None]
        return self._seen[sliding]


def _faster_dtype(model: Transformer) -> torch.dtype:
    fast = gains_from_bfloat16(model.embedding.weight.device.type)
    return torch.bfloat16 if fast else torch.float32


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    tokens: int,
    sampling: Sampling,
    generators: Sequence[torch.Generator | None] | None = None,
    end: int | None = None,
    never: Sequence[int] = (),
    dtype: torch.dtype | None = None,
    make: Callable[[int, int], Decoder] | None = None,
) -> Iterator[tuple[int, int]]:
    """Continue prompts, all rows at once, each as if it were alone.

    A row whose window is full goes on by reading the last half of the window anew; of a prompt
    longer than the window only the end is read.

    Args:
        model: in evaluation mode.
        prompts: token numbers, at least one a row.
        tokens: most tokens to add to each.
        sampling: how each is drawn.
        generators: of each row, on the model's device.
        end: token that ends a row; it is not handed out.
        never: tokens that are not drawn.
        dtype: see `Decoder`.
        make: another decoder of the model, from rows and window.

    Yields:
        (row, token). Sending True back ends that row.
    """
    rows, window = len(prompts), model.window
    generators = generators or [None] * rows
    past = [list(prompt[-window:]) for prompt in prompts]
    going = [True] * rows
    needed = max(map(len, past)) + tokens  # a model for long contexts has few of its places used
    room = min(window, needed)
    decoder = make(rows, room) if make else Decoder(model, rows, dtype, room)
    logits = decoder.read(past)
    for number in range(tokens):
        if never:
            logits = logits.index_fill(1, torch.tensor(never, device=logits.device), float("-inf"))
        drawn = sampling.draw(logits, generators)
        for row, token in enumerate(drawn):
            if going[row]:
                going[row] = token != end and not (yield row, token)
            past[row].append(token)
            del past[row][:-window]
        if not any(going) or number == tokens - 1:
            return
        logits = advance(decoder, drawn, past, going)


def advance(
    decoder: Decoder, drawn: Sequence[int], past: list[list[int]], going: Sequence[bool]
) -> Tensor:
    """Logits after the drawn tokens; full windows are read anew from the middle.

    Args:
        decoder: has read what precedes.
        drawn: one more token of each row.
        past: each row's tokens, those drawn included, as many as the window holds.
        going: rows that still count.

    Returns:
        (R, V).
    """
    full = [row for row, position in enumerate(decoder.positions) if position == decoder.window]
    half = -(-decoder.window // 2)
    if len(full) == len(past):
        return decoder.read([tokens[-half:] for tokens in past])
    for row in full:
        decoder.positions[row] = 0  # a place for the step to write to; read over it next
    logits = decoder.step(drawn)
    again = [(row, decoder.read([past[row][-half:]], row)) for row in full if going[row]]
    if again:
        logits = logits.clone()
        for row, anew in again:
            logits[row] = anew[0]
    return logits


class Speller(Protocol):
    """Turns tokens into text one by one."""

    def push(self, token: int) -> str:
        """The text that is certain now."""

    def finish(self) -> str:
        """What was held back."""


class Voice:
    """The text of one row as far as it is certain: no half characters, nothing of a stop string."""

    def __init__(self, speller: Speller, stop: Sequence[str] = ()) -> None:
        self.speller, self.stop = speller, [s for s in stop if s]
        self.held, self.ended = "", False

    def push(self, token: int) -> str:
        """Text to say now; `ended` tells whether a stop string came."""
        return self._say(self.speller.push(token))

    def finish(self) -> str:
        """What is left when no token follows."""
        if self.ended:
            return ""
        said = self._say(self.speller.finish())
        rest, self.held = self.held, ""
        return said if self.ended else said + rest

    def _say(self, text: str) -> str:
        text = self.held + text
        ends = [place + len(s) for s in self.stop if (place := text.find(s)) >= 0]
        if ends:  # the one that is whole first decides, also where several came in one piece
            self.ended, self.held = True, ""
            text = text[: min(ends)]
            return text[: min(place for s in self.stop if (place := text.find(s)) >= 0)]
        longest = max((len(s) for s in self.stop), default=1) - 1
        beginnings = (text[-n:] for n in range(min(longest, len(text)), 0, -1))
        self.held = next((b for b in beginnings if any(s.startswith(b) for s in self.stop)), "")
        return text[: len(text) - len(self.held)]


def generate_text(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    voices: Sequence[Voice],
    *,
    tokens: int,
    sampling: Sampling,
    generators: Sequence[torch.Generator | None] | None = None,
    end: int | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[tuple[int, str]]:
    """As `generate`, in text: yields (row, piece) as soon as a piece is certain."""
    stream = generate(
        model,
        prompts,
        tokens=tokens,
        sampling=sampling,
        generators=generators,
        end=end,
        dtype=dtype,
    )
    yield from spoken(stream, voices)


def spoken(stream: Iterator[tuple[int, int]], voices: Sequence[Voice]) -> Iterator[tuple[int, str]]:
    """A stream of tokens in text: yields (row, piece) as soon as a piece is certain.

    Args:
        stream: a generator of (row, token); True is sent back to it when a stop string came.
        voices: of each row.
    """
    answer: bool | None = None
    while True:
        try:
            row, token = stream.send(answer)  # type: ignore[attr-defined]
        except StopIteration:
            break
        if piece := voices[row].push(token):
            yield row, piece
        answer = voices[row].ended
    for row, voice in enumerate(voices):
        if piece := voice.finish():
            yield row, piece
