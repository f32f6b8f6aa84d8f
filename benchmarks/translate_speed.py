"""The Transformer's speed beside torch.nn.Transformer in a plain loop and transformers' MarianMT; nat's beside its teacher's.

    python -m benchmarks.translate_speed training
    python -m benchmarks.translate_speed greedy
    python -m benchmarks.translate_speed nat --teacher runs/mt --student runs/nat

Shape of all: 3 + 3 layers x 256, 4 heads, feed-forward 512, a joint BPE vocabulary of 6,000, on Multi30k. Training is
measured in target tokens a second, padding not counted; the plain loop pads batches of shuffled sentences, computes all
logits and steps with AdamW, in float32 and with bfloat16 autocast, at its best batch. Greedy search translates 1,000
sentences into 16 tokens each with random weights; the peer's sentences are sorted by length too, its batch and format
the best of some. On one thread (OMP_NUM_THREADS=1) seconds are the processor's, so that a busy machine measures the same.
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from benchmarks.side_by_side import alternate, data_file, keep, medians, ratio
from fourfold import api, fitting
from fourfold.core.run import Run
from fourfold.data.pairs import PairData, pair_data
from fourfold.models.decoding import Search, by_length, greedy
from fourfold.models.encoder_decoder import EncoderDecoder
from fourfold.models.incremental import Incremental
from fourfold.optimizers.precision import Precision
from fourfold.optimizers.search import Search as Training
from fourfold.tasks.translation_decoding import PLACES, Decoding, decoded

WIDTH, LAYERS, HEADS, HIDDEN, VOCABULARY = 256, 3, 4, 512, 6000
DROPOUT, SMOOTHING = 0.1, 0.1
TOKENS = 16
"""Of each greedy translation."""
ROOT = Path(__file__).parents[1]


def clock() -> float:
    """Seconds: of the processor on one thread, as others may keep a machine busy; else those of the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def pairs() -> list[str]:
    return [str(data_file(f"multi30k-en-de/train.{code}.gz")) for code in ("en", "de")]


def begun(algorithm: str = "adamw") -> Run:
    """Our run before its first step."""
    options = {
        "width": WIDTH, "layers": LAYERS, "heads": HEADS, "hidden": HIDDEN, "dropout": DROPOUT,
        "data.vocabulary": VOCABULARY, "data.split": (1.0, 0.0, 0.0), "optimizer.algorithm": algorithm,
        "optimizer.steps": 1_000_000, "optimizer.lr": 0.02 if algorithm == "muon" else 1e-3, "optimizer.arguments": {},
    }  # fmt: skip
    run = Run(api.configure("transformer", options))
    fitting.begin(run, pairs(), None)
    return run


# --- training ---------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """torch.nn.Transformer with embeddings, sinusoids and a tied output, as its users write it."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        nn.init.normal_(self.embedding.weight, 0.0, WIDTH**-0.5)
        at = torch.arange(512)[:, None] / 10_000 ** (torch.arange(0, WIDTH, 2) / WIDTH)
        self.register_buffer("places", torch.stack((at.sin(), at.cos()), -1).flatten(1))
        self.transformer = nn.Transformer(
            WIDTH, HEADS, LAYERS, LAYERS, HIDDEN, DROPOUT, batch_first=True, norm_first=True
        )
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(WIDTH, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def embed(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.embedding(tokens) * WIDTH**0.5 + self.places[: tokens.shape[1]])

    def forward(self, source: Tensor, padding: Tensor, tokens: Tensor) -> Tensor:
        future = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        states = self.transformer(
            self.embed(source), self.embed(tokens), tgt_mask=future, tgt_is_causal=True,
            src_key_padding_mask=padding, memory_key_padding_mask=padding,
        )  # fmt: skip
        return self.head(states)


def shuffled(data: PairData, batch: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Batches as a plain loop makes them: so many sentences, filled up to the longest."""
    held = data._split("train")
    rows = [
        [
            torch.from_numpy(t[a:b].astype(np.int64))
            for a, b in zip(begins, begins[1:], strict=False)
        ]
        for t, begins in zip(held.tokens, held.begins, strict=True)
    ]
    order = np.random.default_rng(0).permutation(len(rows[0]))
    for start in range(0, len(order) - batch, batch):
        some = order[start : start + batch]
        source = pad_sequence([rows[0][i] for i in some], batch_first=True, padding_value=-1)
        target = pad_sequence([rows[1][i] for i in some], batch_first=True, padding_value=-100)
        tokens = torch.cat((torch.full((batch, 1), data.begin), target[:, :-1].clamp(min=0)), dim=1)
        yield source.clamp(min=0), source < 0, tokens, target


def plain_rate(batch: int, bf16: bool, seconds: float) -> float:
    """Target tokens a second of the plain loop."""
    data = pair_data(begun().data)
    model = Plain(data.target_size)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    loss_of = nn.CrossEntropyLoss(ignore_index=-100, label_smoothing=SMOOTHING)

    def step(source: Tensor, padding: Tensor, tokens: Tensor, targets: Tensor) -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of(model(source, padding, tokens).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return int((targets >= 0).sum())

    return timed((partial(step, *each) for each in shuffled(data, batch)), seconds)


def our_rate(algorithm: str, seconds: float) -> float:
    """Target tokens a second of the project's loop, checkpoints and evaluations aside."""
    run = begun(algorithm)
    run.model.train()
    search = Training(run.system.optimizer, run.objective, run.model, run.data, run)  # type: ignore[arg-type]

    def step(batches: Any) -> int:
        search.step(batches)
        return sum(int((batch["targets"] >= 0).sum()) for batch in batches)

    return timed((partial(step, each) for each in search._batches()), seconds)


def timed(steps: Iterator[Callable[[], int]], seconds: float) -> float:
    """What steps count, a second; the first three, which allocate, aside."""
    for _ in range(3):
        next(steps)()
    began, count = clock(), 0
    while clock() - began < seconds:
        count += next(steps)()
    return count / (clock() - began)


# --- greedy search ------------------------------------------------------------------------------------------


def sources(data: PairData, count: int = 1000) -> list[list[int]]:
    held = data._split("train")
    begins = held.begins[0]
    return [held.tokens[0][begins[i] : begins[i + 1]].tolist() for i in range(count)]


def padded(rows: list[list[int]], end: int) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    source = torch.full((len(rows), int(lengths.max())), end)
    for row, tokens in zip(source, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return source, lengths


def our_greedy(dtype: torch.dtype | None) -> float:
    """Sentences a second, each translated into `TOKENS` tokens."""
    run = begun()
    data, model = pair_data(run.data), run.model.eval()
    assert isinstance(model, EncoderDecoder)
    rows, stepper = sources(data), Incremental(model, dtype)

    def once() -> None:
        for numbers in by_length([len(row) for row in rows], PLACES):
            source, lengths = padded([rows[n] for n in numbers], data.end)
            limits = torch.full((len(numbers),), TOKENS - 1)  # the end token is the last
            greedy(stepper, source, lengths, Search(data.begin, data.end, limits))

    once()
    began = clock()
    once()
    return len(rows) / (clock() - began)


def marian_greedy(batch: int, bf16: bool) -> float:
    """The same by transformers' MarianMT."""
    from transformers import MarianConfig, MarianMTModel

    data = pair_data(begun().data)
    size = data.target_size
    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=size, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_ffn_dim=HIDDEN,
        decoder_ffn_dim=HIDDEN, encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, pad_token_id=size - 1,
        eos_token_id=data.end, decoder_start_token_id=size - 1, forced_eos_token_id=None, max_position_embeddings=512,
    )  # fmt: skip
    model = MarianMTModel(config).eval().to(torch.bfloat16 if bf16 else torch.float32)
    rows = sorted(sources(data), key=len)

    @torch.inference_mode()
    def once() -> None:
        for start in range(0, len(rows), batch):
            source, lengths = padded(rows[start : start + batch], data.end)
            mask = (torch.arange(source.shape[1]) < lengths[:, None]).long()
            found = model.generate(
                input_ids=source, attention_mask=mask, num_beams=1, do_sample=False, use_cache=True,
                max_new_tokens=TOKENS, min_new_tokens=TOKENS,
            )  # fmt: skip
            assert found.shape[1] == TOKENS + 1

    once()
    began = clock()
    once()
    return len(rows) / (clock() - began)


# --- nat beside its teacher ---------------------------------------------------------------------------------


def beside_teacher(teacher: str, student: str, rounds: int, count: int) -> dict[str, Any]:
    """Sentences a second from tokens to tokens, 1 and 32 at a time, greedy search against one pass, both in both formats."""
    with gzip.open(data_file("multi30k-en-de/val.en.gz"), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[:count]
    runs = {name: api.open(name) for name in (teacher, student)}
    rows, _ = pair_data(runs[teacher].data).encode_sources(lines)
    model = runs[teacher].model
    assert isinstance(model, EncoderDecoder)
    data = pair_data(runs[teacher].data)
    formats: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    steppers = {name: Incremental(model, dtype) for name, dtype in formats.items()}
    system: Any = runs[student].system

    def searched(name: Precision, batch: int) -> float:
        began = clock()
        for start in range(0, len(rows), batch):
            decoded(
                steppers[name],
                data,
                rows[start : start + batch],
                Decoding(beam=1),
                runs[teacher].device,
            )
        return len(rows) / (clock() - began)

    def filled(name: Precision, batch: int) -> float:
        began, how = clock(), Decoding(beam=1, precision=name)
        for start in range(0, len(rows), batch):
            system._decode(runs[student], rows[start : start + batch], how)
        return len(rows) / (clock() - began)

    found = {}
    for batch in (1, 32):
        contenders = {f"teacher, {name}": partial(searched, name, batch) for name in formats}
        students = {f"nat, {name}": partial(filled, name, batch) for name in formats}
        values = alternate({**contenders, **students}, rounds + 1)
        values = {name: rates[1:] for name, rates in values.items()}  # what is arranged once
        middle = medians(values)
        fastest, nat = (max(some, key=lambda name: middle[name]) for some in (contenders, students))
        same = ratio(values, "nat, float32", "teacher, float32")
        found[f"{batch} at a time"] = {
            **{name: round(rate, 1) for name, rate in middle.items()},
            "times, both in float32": round(same, 2),
            f"{nat}: times the fastest, {fastest}": round(ratio(values, nat, fastest), 2),
        }
    return found


# --- all ------------------------------------------------------------------------------------------------------


def one(name: str, setting: str, seconds: float) -> float:
    """A contender by name and setting."""
    kind, _, value = setting.partition(":")
    match name:
        case "fourfold":
            return our_rate("muon" if kind == "muon" else "adamw", seconds)
        case "torch.nn.Transformer":
            return plain_rate(int(value), kind == "bfloat16", seconds)
        case "fourfold greedy":
            return our_greedy(torch.float32 if kind == "float32" else None)
        case "MarianMT":
            return marian_greedy(int(value), kind == "bfloat16")
    raise ValueError(name)


def apart(name: str, setting: str, seconds: float) -> float:
    """`one` in a process of its own, as its user runs it."""
    command = [sys.executable, "-m", "benchmarks.translate_speed", "one", "--contender", name]
    command += ["--setting", setting, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout.split()[-1])


def side_by_side(
    contenders: dict[str, tuple[str, list[str]]], ours: str, rounds: int, seconds: float
) -> dict[str, Any]:
    """Each contender at its best setting, in turn."""
    best = {}
    for label, (name, settings) in contenders.items():
        rates = (
            {s: apart(name, s, seconds / 2) for s in settings}
            if len(settings) > 1
            else {settings[0]: 0.0}
        )
        best[label] = max(rates, key=lambda s: rates[s])
        print(label, rates, flush=True)
    values = alternate(
        {label: partial(apart, contenders[label][0], best[label], seconds) for label in contenders},
        rounds,
    )
    row: dict[str, Any] = {k: round(v, 1) for k, v in medians(values).items()}
    row["settings"] = best
    row["seconds of"] = "the processor, one thread" if torch.get_num_threads() == 1 else "the wall"
    row |= {
        f"times {label}": round(ratio(values, ours, label), 2)
        for label in contenders
        if label != ours
    }
    print(row, flush=True)
    return row


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["training", "greedy", "nat", "one"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of each measurement of training"
    )
    parser.add_argument("--contender", default="fourfold")
    parser.add_argument("--setting", default="adamw")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[64, 128], help="of the peers, the best is taken"
    )
    parser.add_argument("--teacher")
    parser.add_argument("--student")
    parser.add_argument(
        "--sentences", type=int, default=256, help="of the validation split, for nat"
    )
    given = parser.parse_args()

    def settings(form: str) -> list[str]:
        return [f"{form}:{batch}" for batch in given.batches]

    if given.what == "one":
        print(one(given.contender, given.setting, given.seconds))
    elif given.what == "training":
        peers = {
            f"torch.nn.Transformer {f}": ("torch.nn.Transformer", settings(f))
            for f in ("float32", "bfloat16")
        }
        ours = {"fourfold": ("fourfold", ["adamw"]), "fourfold, Muon": ("fourfold", ["muon"])}
        row = side_by_side(ours | peers, "fourfold", given.rounds, given.seconds)
        keep("translate_speed", {"training, target tokens a second": row})
    elif given.what == "greedy":
        peers = {f"MarianMT {f}": ("MarianMT", settings(f)) for f in ("float32", "bfloat16")}
        ours = {
            "fourfold": ("fourfold greedy", ["auto"]),
            "fourfold float32": ("fourfold greedy", ["float32"]),
        }
        row = side_by_side(ours | peers, "fourfold", given.rounds, given.seconds)
        keep("translate_speed", {"greedy, sentences a second": row})
    else:
        found = beside_teacher(given.teacher, given.student, given.rounds, given.sentences)
        print(found)
        keep("translate_speed", {"nat beside its teacher, sentences a second": found})


if __name__ == "__main__":
    main()
