"""What a non-autoregressive model learns: every slot's token at once.

With a predicted length or an overlong output, the cross-entropy of each slot (Gu et al. 2018); with CTC, that of the
target over all its paths (Libovický & Helcl 2018). Glancing (Qian et al. 2021, https://arxiv.org/abs/2008.07905): a
first pass fills all slots, and as many tokens are then told as it got wrong, times a ratio; with CTC those of the best
path (Gu & Kong 2021). Masks (Ghazvininejad et al. 2019, https://arxiv.org/abs/1904.09324): a random number of tokens is
told, and the others are learned, which is what further passes do. Shapes: B batch, S source time, U target tokens, N
slots, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, Lt
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.run import Run
from fourfold.core.shares import drawn
from fourfold.objectives.alignment import best_path, ctc, needed
from fourfold.objectives.likelihood import cross_entropy, linear_cross_entropy
from fourfold.objectives.sequence import smoothed

IGNORE = -100
"""Target that does not count."""
UNKNOWN = -1
"""A slot whose token is not told."""
ROWS = 1 << 22
"""Logits that are held at a time."""


class Told(NamedTuple):
    """A batch as a non-autoregressive model needs it."""

    tokens: Tensor
    """(B, U) int64, targets; the end token beyond a row's length."""
    lengths: Tensor
    """(B,) int64, tokens of each."""
    slots: Tensor
    """(B,) int64."""


class AllAtOnce(Objective):
    """Nats of a target whose tokens are said all at once.

    The model is a `NonAutoregressive`; the batch is that of pairs. The end token is no part of a target, except with
    an overlong output, where it is the last that counts. While learning a row has as many slots as its target needs, where
    the source gives fewer. With CTC a target beyond the window's slots does not count; their share is logged as "left_out".
    """

    reveal: Literal["none", "glancing", "masks"] = "none"
    """What the decoder is told of the target while learning: nothing, some of what a first pass gets wrong (which
    takes half as long again), or a random part, as translating in several passes wants it."""
    glance: Annotated[float, Ge(0), Le(1)] = 0.5
    """With glancing, how many tokens are told, as a share of those that the first pass got wrong."""
    smoothing: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of a token's probability that is spread evenly over the vocabulary while learning; not with CTC."""
    length_weight: NonNegativeFloat = 0.1
    """Weight of the predicted length's nats, one length for each sentence."""

    def prepare(self, run: Run) -> Objective:
        """Where the system has a teacher, its translations take the place of the training targets."""
        learned = getattr(run.system, "_distilled", None)
        if learned is not None:
            learned(run)
        return super().prepare(run)

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"loss": "nats per token", "length": "nats per sentence"}

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """One move of the whole model: nats, summed over the target tokens, and the lengths'."""
        sums = self._sums(model, batch, self.reveal, self.smoothing)
        loss, weight = sums["loss"]
        logs = {}
        if "length" in sums:
            loss = loss + self.length_weight * sums["length"][0]
            logs["length"] = sums["length"][0].detach() / sums["length"][1]
        if "left_out" in sums:
            logs["left_out"] = torch.as_tensor(sums["left_out"][0] / sums["left_out"][1])
        yield Move("model", loss, weight=weight, logs=logs)

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """Nats a token, nothing told and nothing smoothed; those of the length; the share that CTC leaves out."""
        return self._sums(model, batch, "none", 0.0)

    def _sums(
        self, model: nn.Module, batch: Batch, reveal: str, smoothing: float
    ) -> dict[str, tuple[Tensor, Tensor | float]]:
        network: Any = model
        source, lengths = batch["source"], batch["source_lengths"]
        told = prepared(network, batch)
        memory, keep = network.encode(source, lengths)
        read = (source, lengths, memory, keep, told.slots)
        if network.length == "ctc":
            return self._aligned(network, read, told, reveal)
        found = self._by_slot(network, read, told, reveal, smoothing)
        if network.length == "predicted":
            logits = network.differences(memory, lengths)
            reach = logits.shape[1] // 2
            wanted = (told.lengths - lengths).clamp(-reach, reach) + reach
            nats = cross_entropy(logits, wanted)
            found["length"] = (nats, float(len(wanted)))
        return found

    # --- a token for each slot ------------------------------------------------------------------------------

    def _by_slot(
        self, network: Any, read: tuple[Any, ...], told: Told, reveal: str, smoothing: float
    ) -> dict[str, tuple[Tensor, Tensor | float]]:
        count = int(told.slots.max())
        wanted = F.pad(told.tokens, (0, max(0, count - told.tokens.shape[1])), value=network.end)
        wanted = wanted[:, :count]
        # an overlong output ends with an end token, and what is beyond it does not count
        ends = told.lengths + (network.length == "overlong")
        counts = torch.arange(count, device=ends.device) < ends[:, None]
        known = _masked(wanted, counts) if reveal == "masks" else None
        if reveal == "glancing":
            wrong = (_guess(network, read) != wanted) & counts
            known = _glance(wanted, counts, wrong.sum(1) * self.glance)
        if known is not None:
            counts = counts & (known < 0)
        hidden = network(*read, known)
        hidden, targets = _taken(hidden, counts), wanted[counts]
        head = cast(nn.Linear, network.head)
        total = linear_cross_entropy(hidden, head.weight, head.bias, targets)
        if smoothing and len(targets):
            total = total + smoothing * smoothed(hidden, head.weight, head.bias, targets)
        return {"loss": (total, float(len(targets)))}

    # --- all paths that make the target -----------------------------------------------------------------------

    def _aligned(
        self, network: Any, read: tuple[Any, ...], told: Told, reveal: str
    ) -> dict[str, tuple[Tensor, Tensor | float]]:
        known = None
        if reveal == "masks":
            raise ValueError(
                "AllAtOnce: masks go with a predicted length or an overlong output, not with CTC"
            )
        if reveal == "glancing":
            known = self._glanced(network, read, told)
        emissions = _emissions(network, network(*read, known), told)
        nats = ctc(emissions, told.tokens, told.slots, told.lengths)
        fits = needed(told.tokens, told.lengths) <= told.slots
        total = nats.where(fits, 0.0).sum()
        weight = (told.lengths * fits).sum()
        left_out = (~fits).sum()
        return {"loss": (total, weight), "left_out": (left_out, float(len(fits)))}

    @torch.no_grad()
    def _glanced(self, network: Any, read: tuple[Any, ...], told: Told) -> Tensor:
        """What is told of the best path of the target, (B, N)."""
        training = network.training
        network.eval()
        hidden = network(*read)
        network.train(training)
        place = best_path(_emissions(network, hidden, told), told.tokens, told.slots, told.lengths)
        labels = F.pad(told.tokens, (1, 0), value=network.end)  # the blank first
        path = labels.gather(1, place)
        counts = torch.arange(path.shape[1], device=path.device) < told.slots[:, None]
        wrong = (_largest(network, hidden) != path) & counts
        return _glance(path, counts, wrong.sum(1) * self.glance)


def prepared(network: Any, batch: Batch) -> Told:
    """Targets without their end tokens, and how many slots there are for them."""
    targets = batch["targets"]
    counted = (targets != IGNORE).sum(1)
    last = targets.gather(1, (counted - 1).clamp(min=0)[:, None])[:, 0]
    lengths = counted - (last == network.end).to(torch.int64)  # targets that were cut have none
    tokens = targets.masked_fill(
        torch.arange(targets.shape[1], device=targets.device) >= lengths[:, None], network.end
    )
    if network.length == "predicted":
        return Told(tokens, lengths, lengths.clamp(min=1))
    slots = network.room(batch["source_lengths"])
    # while learning there is always room for the target, and its end
    least = lengths + 1 if network.length == "overlong" else needed(tokens, lengths)
    slots = torch.maximum(slots, least).clamp(max=network.window)
    return Told(tokens, lengths, slots)


def _taken(hidden: Tensor, counts: Tensor) -> Tensor:
    """Features (B, N, W) of the slots that count, (M, W)."""
    return hidden.flatten(0, 1).index_select(0, counts.flatten().nonzero()[:, 0])


def _largest(network: Any, hidden: Tensor) -> Tensor:
    """The most likely token of each slot, (B, N), from features (B, N, W)."""
    flat = hidden.flatten(0, 1)
    rows = max(1, ROWS // network.head.out_features)
    return torch.cat([network.head(some).max(-1).indices for some in flat.split(rows)]).view(
        hidden.shape[:2]
    )


@torch.no_grad()
def _guess(network: Any, read: tuple[Any, ...]) -> Tensor:
    """What a first pass says, (B, N)."""
    training = network.training
    network.eval()
    found = _largest(network, network(*read))
    network.train(training)
    return found


def _glance(wanted: Tensor, counts: Tensor, many: Tensor) -> Tensor:
    """Tokens that are told, (B, N), `UNKNOWN` elsewhere: of each row as many as `many`, (B,), says, at random."""
    order = _uniform(wanted, *wanted.shape[1:]).masked_fill(~counts, 2.0)
    rank = order.argsort(1).argsort(1)
    return wanted.where((rank < many.long()[:, None]) & counts, UNKNOWN)


def _uniform(like: Tensor, *shape: int) -> Tensor:
    return drawn(len(like), lambda rows: torch.rand(rows, *shape, device=like.device))


def _masked(wanted: Tensor, counts: Tensor) -> Tensor:
    """The same of a random number of tokens, at least one of which is left to learn."""
    total = counts.sum(1)
    share = _uniform(wanted)
    return _glance(wanted, counts, (share * total).long().clamp(max=(total - 1).clamp(min=0)))


def _emissions(network: Any, hidden: Tensor, told: Told) -> Tensor:
    """Log-probabilities of the blank and of the target's labels, (B, N, 1 + U), from features (B, N, W).

    Beyond a row's slots, whose product with the output weights is spared, zeros: no path goes there.
    """
    labels = F.pad(told.tokens, (1, 0), value=network.end)
    batch, slots, _ = hidden.shape
    counts = torch.arange(slots, device=hidden.device) < told.slots[:, None]
    each = labels[:, None].expand(-1, slots, -1)[counts]
    found = label_log_probabilities(_taken(hidden, counts), network.head.weight, each)
    if len(found) < batch * slots:
        places = counts.flatten().nonzero()[:, 0]
        found = found.new_zeros(batch * slots, labels.shape[1]).index_copy(0, places, found)
    return found.view(batch, slots, -1)


class _LabelLogProbabilities(Function):
    """log softmax(h W') at some labels, whose gradient keeps the probabilities in the format of the products."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, dtype: torch.dtype
    ) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        narrow, matrix = hidden.to(dtype), weight.to(dtype)
        found = hidden.new_empty(labels.shape, dtype=wide)
        kept: list[Tensor] = []
        step = max(1, ROWS // len(weight))
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            logits = narrow[rows] @ matrix.T
            shares = logits.to(wide)
            total = shares.logsumexp(-1, keepdim=True)
            found[rows] = shares.gather(1, labels[rows]) - total
            if any(ctx.needs_input_grad[:2]):
                kept.append(shares.sub_(total).exp_().to(dtype))
        ctx.save_for_backward(narrow, matrix, labels, *kept)
        ctx.dtypes, ctx.step = (hidden.dtype, weight.dtype), step
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        hidden, matrix, labels, *kept = ctx.saved_tensors
        into_hidden, into_matrix = [], torch.zeros_like(matrix, dtype=grad.dtype)
        for number, shares in enumerate(kept):
            rows = slice(number * ctx.step, (number + 1) * ctx.step)
            some = grad[rows]
            # d log p_l / d z_v = [v = l] - p_v
            into = shares.mul_(-some.sum(1, keepdim=True).to(shares.dtype))
            into.scatter_add_(1, labels[rows], some.to(into.dtype))
            into_hidden.append(into @ matrix)
            into_matrix += into.T @ hidden[rows]
        of_hidden, of_weight = ctx.dtypes
        return torch.cat(into_hidden).to(of_hidden), into_matrix.to(of_weight), None, None


def label_log_probabilities(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities of some labels of each position, without keeping those of all in float32.

    Products are in the autocast format.

    Args:
        hidden: (N, W) float.
        weight: (V, W) float.
        labels: (N, K) int64 below V.

    Returns:
        (N, K) float32, or float64 where hidden is.
    """
    kind, dtype = hidden.device.type, hidden.dtype
    if torch.is_autocast_enabled(kind) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    with torch.autocast(kind, enabled=False):
        return _LabelLogProbabilities.apply(hidden, weight, labels, dtype)
