"""Every rung of the ladder of language models on Brown and WikiText-2; the LSTM beside a plain torch loop; files.

FOURFOLD_DATA=... python -m benchmarks.ladder wikitext-2 --minutes 0.5
FOURFOLD_DATA=... python -m benchmarks.ladder brown --minutes 0.5
FOURFOLD_DATA=... python -m benchmarks.ladder compress --minutes 0.5

WikiText-2: trained on its validation part, tested on its test part. Brown: as in Bengio et al. 2003 the first 800,000
words are trained on and the last ones tested on; of the 200,000 between them the first 20,000 choose the weights.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import math
import re
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fourfold
from benchmarks.side_by_side import data_file, keep
from fourfold.core.console import Plain
from fourfold.data.text import Text, TextData
from fourfold.selection.compressors import compressed_bits
from fourfold.selection.ladder import RUNGS, ladder
from fourfold.selection.ladder_record import Ladder

FEWER = {"optimizer.evaluate_every": "25%"}


def wikitext(folder: Path) -> tuple[Path, Path | None, Path]:
    """Files to train on, to validate on (None: a share of the first) and to test on."""
    for part in ("valid", "test"):
        packed = data_file(f"wikitext-2-valid-test/{part}.txt.gz").read_bytes()
        (folder / f"{part}.txt").write_bytes(gzip.decompress(packed))
    return folder / "valid.txt", None, folder / "test.txt"


def brown(folder: Path) -> tuple[Path, Path | None, Path]:
    """The corpus without its tags, one sentence a line, in the order of its documents."""
    lines: list[list[str]] = []
    with zipfile.ZipFile(data_file("brown-corpus/brown.zip")) as archive:
        for name in sorted(archive.namelist()):
            if re.fullmatch(r"brown/c[a-r]\d\d", name):
                for line in archive.read(name).decode().splitlines():
                    if words := [word.rpartition("/")[0] for word in line.split()]:
                        lines.append(words)
    ends = np.cumsum([len(words) for words in lines])
    cuts = [int(np.searchsorted(ends, n)) for n in (800_000, 820_000, 1_000_000)]
    spans = {"train": lines[: cuts[0]], "valid": lines[cuts[0] : cuts[1]], "test": lines[cuts[2] :]}
    for part, some in spans.items():
        text = "".join(" ".join(words) + "\n" for words in some)
        (folder / f"{part}.txt").write_text(text, encoding="utf-8")
    return folder / "train.txt", folder / "valid.txt", folder / "test.txt"


SETS = {"wikitext-2": wikitext, "brown": brown}


def measure(name: str, minutes: float, rungs: list[str], folder: Path) -> dict[str, Any]:
    """All rungs on one set, and the plain loop."""
    train, valid, test = SETS[name](folder)
    neural = {rung: dict(FEWER) for rung in RUNGS if rung != "ngram"}
    found = ladder(
        str(train), minutes=minutes, unit="space", valid=None if valid is None else str(valid),
        test=str(test), rungs=rungs, options=neural, out=folder / "ladder", console=Plain(),
    )  # fmt: skip
    table = {
        rung.name: {
            "perplexity": round(rung.perplexity, 2),
            "bits per byte": round(rung.bits_per_byte, 4),
            "parameters": rung.parameters,
            "seconds trained": round(60 * rung.minutes, 1),
            "tokens/s trained": rung.trained_per_second and round(rung.trained_per_second),
            "tokens/s scored": round(rung.scored_per_second),
        }
        for rung in found.rungs
    }
    facts = {k: v for k, v in found.facts.items() if k not in ("source", "test", "prompt", "notes")}
    print(found.explanation())
    beside = {k: [round(b, 4) if b else b for b in v] for k, v in found.compressors.items()}
    return {"rungs": table, "compressors, alone and behind the training text": beside, **facts}


# --- the plain loop ---------------------------------------------------------------------------------


class Plainly(nn.Module):
    """Two layers of torch's LSTM, as large as ours: vectors and states of 200."""

    def __init__(self, vocabulary: int, width: int = 200) -> None:
        super().__init__()
        self.vectors = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, 2)
        self.head = nn.Linear(width, vocabulary)
        for weight in (self.vectors.weight, self.head.weight):
            nn.init.uniform_(weight, -0.1, 0.1)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits (T, B, V) of tokens (T, B) and the state behind them."""
        states, state = self.lstm(self.vectors(tokens), state)
        return self.head(states), state


def plain_loop(data: TextData, tested: TextData, seconds: float) -> dict[str, Any]:
    """float32, bptt 35, batch 20, Adam 3e-3 falling to 0 with the time, clip 1: what a course would write."""
    torch.manual_seed(0)
    model = Plainly(len(data.vocabulary))
    tokens = torch.from_numpy(data.tokens("train").astype(np.int64))
    length = len(tokens) // 20
    rows = tokens[: length * 20].view(20, length).t()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    begun, seen, state, place = time.monotonic(), 0, None, 0
    while (spent := time.monotonic() - begun) < seconds:
        if place + 36 > length:
            place, state = 0, None
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, (1 - spent / seconds) / 0.6 + 0.02)
        logits, state = model(rows[place : place + 35], state)
        state = tuple(part.detach() for part in state)
        targets = rows[place + 1 : place + 36]
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        place, seen = place + 35, seen + targets.numel()
    spent = time.monotonic() - begun
    held = torch.from_numpy(tested.tokens("test").astype(np.int64))
    total, state = 0.0, None
    with torch.no_grad():
        for at in range(0, len(held) - 1, 1000):
            part = held[at : at + 1001]
            logits, state = model(part[:-1, None], state)
            total += float(F.cross_entropy(logits[:, 0], part[1:], reduction="sum"))
    return {
        "perplexity": round(math.exp(total / (len(held) - 1)), 2),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds trained": round(spent, 1),
        "tokens/s trained": round(seen / spent),
    }


def against_plain(name: str, minutes: float, folder: Path) -> dict[str, Any]:
    """The plain loop on the same tokens for as long."""
    train, valid, test = SETS[name](folder)
    options = Text(unit="space", window=1, vocabulary=10_000, min_count=2)
    supported = Text(unit="space", window=1, min_count=2).open(
        str(train), valid=valid and str(valid)
    )
    if len(supported.vocabulary) <= 10_000:
        data = supported
    else:
        data = options.open(str(train), valid=None if valid is None else str(valid))
    return plain_loop(data, data.reopen(str(test), whole=True), 60 * minutes)


# --- files ------------------------------------------------------------------------------------------


def compress(minutes: float, folder: Path) -> dict[str, Any]:
    """The beginning of WikiText-2's test part, through runs of the ladder on its validation part, and back."""
    train, _, test = wikitext(folder)
    text = test.read_bytes()[:250_000]
    file = folder / "part.txt"
    file.write_bytes(text)
    found: dict[str, Any] = {"bytes": len(text)}
    alone = compressed_bits(text, train.read_bytes())
    for name, (bits, behind) in alone.items():
        found[name] = {"bits per byte": round(bits, 4), "behind the training text": behind}
    assert len(lzma.compress(text, preset=9)) * 8 / len(text) == alone["xz -9"][0]
    made: Ladder = ladder(
        str(train), minutes=minutes, unit="space", test=str(test), rungs=["ngram", "lstm"],
        options={"lstm": dict(FEWER)}, out=folder / "ladder", console=Plain(),
    )  # fmt: skip
    for rung in (rung for rung in made.rungs if rung.name in ("ngram", "lstm")):
        run = fourfold.open(made.folder / rung.name)
        times = []
        for work in (
            lambda run=run: run.compress(file, out=folder / "part.ff"),
            lambda run=run: run.expand(folder / "part.ff", out=folder / "back.txt"),
        ):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        assert (folder / "back.txt").read_bytes() == text
        packed = (folder / "part.ff").stat().st_size
        found[rung.name] = {
            "bits per byte": round(8 * packed / len(text), 4),
            "score says": round(run.score(text.decode("utf-8", "ignore"))["bits_per_byte"], 4),
            "seconds to compress, to expand": [round(t, 1) for t in times],
        }
        print(rung.name, found[rung.name], flush=True)
    return found


def main() -> None:
    """Run what is named; with the folder of an earlier ladder of the same set, its runs are used."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*SETS, "compress"])
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--rungs", default=",".join(RUNGS))
    parser.add_argument("--folder", type=Path, help="kept, and gone on with")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if given.what == "compress":
            keep("ladder", {"compress": compress(given.minutes, folder)})
            return
        result = measure(given.what, given.minutes, given.rungs.split(","), folder)
        result["plain torch.nn.LSTM loop"] = against_plain(given.what, given.minutes, folder)
        print(result["plain torch.nn.LSTM loop"])
        keep("ladder", {given.what: result})


if __name__ == "__main__":
    main()
