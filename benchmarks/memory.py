"""Recall of a symbol seen 10 to 2,000 steps ago: recurrent networks, attention over one, and a Transformer.

    OMP_NUM_THREADS=1 python -m benchmarks.memory fit --models gru transformer --distances 10 50
    python -m benchmarks.memory picture

One of eight symbols stands among noise; the last token asks for it. The networks are those of the systems rnn, lstm, gru,
seq2seq and gpt, about as wide, each learned anew for each distance with the same sequences, the same optimizer and at most
the same number of steps; a network that is right 64 times out of 64, twice in a row, is done. Before the symbol stands as
much noise as after it, 200 tokens at most: an encoder that reads backwards is as far from it. The gradient is that of
the loss by the symbol's vector. Time is the processor's, one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.side_by_side import RESULTS, machine
from fourfold.look.figures import COLORS, picture, subplots
from fourfold.models.output import FullOutput
from fourfold.models.recurrent import Cell, RecurrentLM
from fourfold.models.seq2seq import Seq2Seq
from fourfold.models.transformer import Transformer

SYMBOLS, NOISE, ASK = 8, 8, 16
"""Tokens 0 to 7 are symbols, 8 to 15 noise, 16 asks."""
VOCABULARY = ASK + 1
WIDTH, LR, TOKENS, LOOK, HELD = 64, 3e-3, 16_384, 25, 64
"""Features, peak rate, tokens of a batch (32 sequences at most), steps between looks, sequences of a look."""
STEPS, READ = 1500, 900_000
"""Most steps, and most tokens of a row in all of them: fewer steps where sequences are long."""
PREFIX = 200
DISTANCES = (10, 50, 200, 1000, 2000)
MODELS = ("rnn", "lstm", "gru", "seq2seq", "transformer")
NAMES = {
    "rnn": "RNN", "lstm": "LSTM", "gru": "GRU", "seq2seq": "GRU with attention", "transformer": "Transformer"
}  # fmt: skip


class Task:
    """Sequences of one distance.

    Args:
        distance: steps from the symbol to the token that asks.
        seed: of what is drawn.
    """

    def __init__(self, distance: int, seed: int) -> None:
        self.distance, self.place = distance, min(distance, PREFIX)
        self.generator = torch.Generator().manual_seed(seed)
        self.length = self.place + distance + 1
        self.rows = max(4, min(32, TOKENS // self.length))

    def draw(self, rows: int) -> tuple[Tensor, Tensor]:
        """Sequences (rows, length) and their symbols (rows,), int64."""
        noise = torch.randint(
            SYMBOLS, SYMBOLS + NOISE, (rows, self.length), generator=self.generator
        )
        symbols = torch.randint(SYMBOLS, (rows,), generator=self.generator)
        noise[:, self.place], noise[:, -1] = symbols, ASK
        return noise, symbols


class Recalling(nn.Module):
    """A network and how its answer is read: logits of the symbols (B, 17) from tokens (B, T)."""

    def __init__(self, network: nn.Module, answer: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.answer = network, answer

    def forward(self, tokens: Tensor) -> Tensor:
        """See above."""
        return self.answer(self.network, tokens)


def recurrent(cell: Cell) -> Recalling:
    """One layer; the last state answers."""
    head, embedding = FullOutput(VOCABULARY, WIDTH), nn.Embedding(VOCABULARY, WIDTH)
    network = RecurrentLM(cell, embedding, [WIDTH], head)
    # as large as the other networks' inputs are; a language model begins with less
    nn.init.normal_(embedding.weight)
    nn.init.normal_(head.weight, std=WIDTH**-0.5)
    return Recalling(network, lambda model, tokens: model.head(model(tokens)[0][:, -1]))


def make(name: str, length: int) -> Recalling:
    """A fresh network."""
    if name == "rnn" or name == "gru" or name == "lstm":
        return recurrent(name)  # type: ignore[arg-type]
    if name == "seq2seq":
        network: nn.Module = Seq2Seq(
            "gru", VOCABULARY, VOCABULARY, shared=False, embedding=WIDTH, width=WIDTH, layers=1, attention="dot"
        )  # fmt: skip

        def said(model: Any, tokens: Tensor) -> Tensor:
            lengths = torch.full((len(tokens),), tokens.shape[1])
            return model.head(model(tokens, lengths, tokens.new_zeros(len(tokens), 1))[:, 0])

        return Recalling(network, said)
    network = Transformer(VOCABULARY, WIDTH, 2, 4, window=length)
    return Recalling(network, lambda model, tokens: model(tokens)[:, -1])


def slope(model: Recalling, task: Task, rows: int = 8) -> float:
    """Norm of the gradient of the loss by the symbol's vector: geometric mean over sequences."""
    tokens, symbols = task.draw(rows)
    embedding = next(m for m in model.modules() if isinstance(m, nn.Embedding))
    if isinstance(model.network, Seq2Seq):
        embedding = model.network.source_embedding
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handle = embedding.register_forward_hook(keep)
    F.cross_entropy(model(tokens), symbols, reduction="sum").backward()
    handle.remove()
    grad = kept[0].grad
    assert grad is not None
    model.zero_grad()
    norms = grad[:, task.place].double().norm(dim=-1).clamp(min=1e-40)
    return float(norms.log().mean().exp())


def accuracy(model: Recalling, task: Task) -> float:
    """Share of HELD fresh sequences whose symbol is found."""
    right = 0
    with torch.no_grad():
        for _ in range(0, HELD, task.rows):
            tokens, symbols = task.draw(min(task.rows, HELD))
            right += int((model(tokens).argmax(-1) == symbols).sum())
    return right / (math.ceil(HELD / task.rows) * min(task.rows, HELD))


def learn(name: str, distance: int, seed: int = 0) -> dict[str, Any]:
    """A network on a distance: accuracy, steps, gradients before and after, seconds."""
    torch.manual_seed(seed)
    task, held = Task(distance, seed), Task(distance, seed + 1)
    model = make(name, task.length)
    before = slope(model, Task(distance, 7))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    began, done, whole = time.process_time(), 0, 0
    curve = []
    most = min(STEPS, READ // task.length)
    while done < most and whole < 2:
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, (done + 1) / 20)
        tokens, symbols = task.draw(task.rows)
        loss = F.cross_entropy(model(tokens), symbols)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        done += 1
        if done % LOOK == 0:
            curve.append(accuracy(model, held))
            whole = whole + 1 if curve[-1] == 1 else 0
            print(f"{name} {distance}: step {done}, accuracy {curve[-1]:.2f}", flush=True)
    final = sum(accuracy(model, Task(distance, 100 + n)) for n in range(4)) / 4
    return {
        "accuracy": final,
        "steps": done,
        "gradient untrained": before,
        "gradient learned": slope(model, Task(distance, 7)),
        "seconds": round(time.process_time() - began, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "sequences a step": task.rows,
    }


def fit(models: list[str], distances: list[int], path: Path) -> None:
    """Learn what is not learned yet; every result is kept as soon as it is there."""
    for distance in distances:
        for name in models:
            kept = json.loads(path.read_text()) if path.exists() else {}
            before = kept.get(section(name), {}).get("result", {})
            if str(distance) in before:
                continue
            here = machine()
            row = {**learn(name, distance), "processor": here["processor"]}
            found = {**before, str(distance): row}
            in_order = {d: found[d] for d in sorted(found, key=int)}
            command = "OMP_NUM_THREADS=1 python -m benchmarks.memory fit"
            kept[section(name)] = {"result": in_order, "command": command, "machine": here}
            path.write_text(json.dumps(kept, indent=2) + "\n")


def section(name: str) -> str:
    """What a network's results are kept under."""
    return f"recall by distance: {NAMES[name]}"


def draw() -> None:
    """docs/pictures/memory.png, and the table for docs/translation.md."""
    sections = json.loads((RESULTS / "memory.json").read_text())
    found = {n: sections[section(n)]["result"] for n in MODELS if section(n) in sections}
    fig, (left, right) = subplots(1, 2, width=9.5, height=3.8)
    for number, name in enumerate(n for n in MODELS if n in found):
        rows = {int(distance): row for distance, row in found[name].items()}
        style = {"color": COLORS[number], "label": NAMES[name], "marker": "o"}
        left.plot(list(rows), [100 * r["accuracy"] for r in rows.values()], **style)
        slopes = [r["gradient untrained"] for r in rows.values()]
        right.plot(list(rows), [s if s > 1e-38 else math.nan for s in slopes], **style)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(DISTANCES, [f"{d:,}" for d in DISTANCES])
        axes.minorticks_off()
        axes.set_xlabel("steps since the symbol")
    left.axhline(100 / SYMBOLS, color="#888888", linestyle=":", linewidth=1)
    left.set(ylabel="recalled (%)", ylim=(0, 104))
    right.set_yscale("log")
    right.set(ylabel="gradient by the symbol, untrained")
    left.legend(fontsize=9)
    picture(fig, "Recall by distance").save("docs/pictures/memory.png")
    print("| Network | " + " | ".join(f"{d:,}" for d in DISTANCES) + " |")
    print("| --- |" + " ---: |" * len(DISTANCES))
    for name in (n for n in MODELS if n in found):
        cells = [
            f"{100 * r['accuracy']:.0f}% ({r['steps']} steps, {r['seconds']:.0f} s)" if r else ""
            for r in (found[name].get(str(d)) for d in DISTANCES)
        ]
        print(f"| {NAMES[name]} | " + " | ".join(cells) + " |")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["fit", "picture"])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--distances", nargs="+", type=int, default=list(DISTANCES))
    parser.add_argument("--kept", type=Path, default=RESULTS / "memory.json")
    given = parser.parse_args()
    if given.what == "fit":
        fit(given.models, given.distances, given.kept)
    else:
        draw()


if __name__ == "__main__":
    main()
