"""word2vec's inner loop on a CUDA GPU, in Triton; `word2vec_blocks.step` is its plain form.

A program walks some hundred windows of the text one after the other, many programs at once, without
locks: its reads see what others have stepped so far (they go past the first-level cache, which others'
steps do not reach), its steps are atomic additions. How many walk at once is bounded by the text's
length, since what all of them have under way is what none of them has seen. Imported only where triton is.
Shapes: N kept words of a block, K output rows of a window, P columns of a row.
"""

# mypy: disable-error-code="attr-defined, no-untyped-def, untyped-decorator"
# inside a kernel numbers are tensors of Triton's

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fourfold.kernels.word2vec import CONTRAST, PATH, SOFTMAX, Settings
from fourfold.kernels.word2vec_blocks import Block, Looked

APART = 256
"""Windows that a program walks at least: of so many windows one is under way at a time."""
WARPS = 2
AT_ONCE = 8
"""Programs at most for each multiprocessor: 4 to 32 are alike in speed on an H100, 4 warps are a third slower."""


@triton.jit
def _train(
    words, sentences, near, drawn, begins, nodes, turns, shift, inputs, outputs, stats,
    count, each, columns, rate, fall, negatives,
    KIND: tl.constexpr, TOGETHER: tl.constexpr, MEAN: tl.constexpr, BIAS: tl.constexpr,
    ROWS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Windows each * program to each * (program + 1) - 1, one after the other."""
    first = tl.program_id(0) * each
    column = tl.arange(0, WIDE)
    inside = column < columns
    row = tl.arange(0, ROWS)
    losses = 0.0
    predictions = 0.0
    for i in range(first, tl.minimum(first + each, count)):
        step = rate + fall * i
        middle = tl.load(words + i)
        here = tl.load(sentences + i)
        reach = tl.load(near + i)
        low = tl.maximum(i - reach, 0)
        high = tl.minimum(i + reach + 1, count)
        start = 0
        stop = negatives + 1
        if KIND == 3:  # PATH
            start = tl.load(begins + middle)
            stop = tl.load(begins + middle + 1)
        combined = tl.zeros((WIDE,), tl.float32)
        many = 0.0
        if TOGETHER:
            for j in range(low, high):
                if (tl.load(sentences + j) == here) & (j != i):
                    at = inputs + tl.load(words + j).to(tl.int64) * columns + column
                    combined += tl.load(at, mask=inside, other=0.0, cache_modifier=".cg")
                    many += 1.0
            if MEAN:
                combined = combined / tl.maximum(many, 1.0)
            if BIAS >= 0:
                combined = tl.where(column == BIAS, 1.0, combined)
        back = tl.zeros((WIDE,), tl.float32)
        for chunk in range(start, stop, ROWS):
            place = chunk + row
            if KIND == 3:
                counts = place < stop
                chosen = tl.load(nodes + place, mask=counts, other=0)
                label = tl.load(turns + place, mask=counts, other=0.0)
            else:
                chosen = tl.load(
                    drawn + i.to(tl.int64) * negatives + row - 1,
                    mask=(row > 0) & (row < stop),
                    other=0,
                )
                chosen = tl.where(row == 0, middle, chosen)
                counts = (row < stop) & ((row == 0) | (chosen != middle))
                label = tl.where(row == 0, 1.0, 0.0)
            if KIND == 2:  # CONTRAST
                shifts = tl.load(shift + chosen, mask=counts, other=0.0)
            else:
                shifts = tl.zeros((ROWS,), tl.float32)
            whole = counts[:, None] & inside[None, :]
            out_at = outputs + chosen.to(tl.int64)[:, None] * columns + column[None, :]
            out = tl.load(out_at, mask=whole, other=0.0, cache_modifier=".cg")  # (ROWS, WIDE)
            change = tl.zeros((ROWS, WIDE), tl.float32)
            for j in range(low, high):
                one = (tl.load(sentences + j) == here) & (j != i)
                if TOGETHER:
                    one = (j == low) & (many > 0)
                if one:
                    at = inputs + tl.load(words + j).to(tl.int64) * columns + column
                    if TOGETHER:
                        hidden = combined
                    else:
                        hidden = tl.load(at, mask=inside, other=0.0, cache_modifier=".cg")
                        if BIAS >= 0:
                            hidden = tl.where(column == BIAS, 1.0, hidden)
                    scores = tl.sum(out * hidden[None, :], 1) - shifts
                    if KIND == 1:  # SOFTMAX
                        scores = tl.where(counts, scores, float("-inf"))
                        top = tl.max(scores, 0)
                        total = tl.sum(tl.exp(scores - top), 0)
                        slopes = label - tl.exp(scores - top) / total
                        loss = tl.log(total) + top - tl.sum(tl.where(row == 0, scores, 0.0), 0)
                    else:
                        slopes = label - tl.sigmoid(scores)
                        signed = tl.where(label > 0, scores, -scores)
                        each_loss = tl.log(1 + tl.exp(-tl.abs(signed))) + tl.maximum(-signed, 0.0)
                        loss = tl.sum(tl.where(counts, each_loss, 0.0), 0)
                    slopes = tl.where(counts, slopes, 0.0) * step
                    if i % 64 == 0:
                        losses += loss
                        if chunk == start:
                            predictions += 1.0
                    this = tl.sum(slopes[:, None] * out, 0)
                    if BIAS >= 0:
                        this = tl.where(column == BIAS, 0.0, this)
                    change += slopes[:, None] * hidden[None, :]
                    if TOGETHER:
                        back += this
                    else:
                        tl.atomic_add(at, this, mask=inside, sem="relaxed")
            tl.atomic_add(out_at, change, mask=whole, sem="relaxed")
        if TOGETHER:
            for j in range(low, high):
                if (tl.load(sentences + j) == here) & (j != i):
                    at = inputs + tl.load(words + j).to(tl.int64) * columns + column
                    tl.atomic_add(at, back, mask=inside, sem="relaxed")
    tl.atomic_add(stats, losses.to(tl.float64), sem="relaxed")
    tl.atomic_add(stats + 1, predictions.to(tl.float64), sem="relaxed")


def step(
    block: Block, tables: Looked, settings: Settings, inputs: Tensor, outputs: Tensor,
    rates: tuple[float, float],
) -> tuple[float, int]:  # fmt: skip
    """Step both matrices in place over a block; see `word2vec_blocks.step`.

    Returns:
        The loss in nats, summed over the predictions of every 64th window, and how many those are.

    Raises:
        ValueError: the matrices are not float32 rows one after the other, or the loss is a softmax over all words.
    """
    if inputs.dtype != torch.float32 or not (inputs.is_contiguous() and outputs.is_contiguous()):
        raise ValueError("word2vec_triton.step expects contiguous float32 matrices")
    if settings.kind != PATH and settings.negatives < 0:
        raise ValueError("word2vec_triton.step draws words: it has no softmax over all of them")
    count, columns = len(block.words), inputs.shape[1]
    stats = torch.zeros(2, dtype=torch.float64, device=inputs.device)
    if not count:
        return 0.0, 0
    processors = torch.cuda.get_device_properties(inputs.device).multi_processor_count
    programs = max(1, min(count // APART, AT_ONCE * processors))
    each = -(-count // programs)
    negatives = block.drawn.shape[1]
    rows = 8 if settings.kind == PATH else triton.next_power_of_2(negatives + 1)
    assert (CONTRAST, SOFTMAX, PATH) == (2, 1, 3)  # noqa: S101  # as the kernel writes them
    _train[(-(-count // each),)](
        block.words, block.sentences, block.near, block.drawn, tables.begins, tables.nodes,
        tables.turns, tables.shift, inputs, outputs, stats, count, each, columns,
        rates[0], (rates[1] - rates[0]) / count, negatives,
        KIND=settings.kind, TOGETHER=settings.together, MEAN=settings.mean, BIAS=settings.bias,
        ROWS=rows, WIDE=triton.next_power_of_2(columns), num_warps=WARPS,
    )  # fmt: skip
    total, predictions = stats.tolist()
    return float(total), int(predictions)
