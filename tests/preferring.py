"""A small world of preferences: an assistant that repeats a word and closes politely or not; polite is better."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import fourfold
from fourfold.core.run import Run

WORDS = "red blue green white black brown small large round flat".split()


def chats(count: int, seed: int) -> list[dict[str, str]]:
    """Half of the answers say please; length says nothing."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        word, tail = chance.choice(WORDS), " indeed" * chance.randint(0, 2)
        rows.append({"prompt": f"Say {word}.", "completion": f"{word} {chance.choice(['please', 'gladly'])}{tail}"})  # fmt: skip
    return rows


def pairs(count: int, seed: int) -> list[dict[str, str]]:
    """What says please is better than what says something else, or nothing, or breaks off."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        word = chance.choice(WORDS)
        tails = [" indeed" * chance.randint(0, 2) for _ in range(2)]
        other = chance.choice(
            [f"{word} gladly{tails[1]}", word, f"{word} gla", f"{word}{tails[1]}"]
        )
        rows.append({"prompt": f"Say {word}.", "chosen": f"{word} please{tails[0]}", "rejected": other})  # fmt: skip
    return rows


PROMPTS = [{"prompt": f"Say {word}."} for word in WORDS]


def assistant(folder: Path, *, rows: int = 600, epochs: float = 6, width: int = 64) -> Run:
    """A model that is tuned on the chats, half polite."""
    return fourfold.fit(
        "sft", chats(rows, 0), out=folder, layers=2, width=width, heads=2, lr=3e-3, epochs=epochs, evaluate_every="50%",
        **{"data.unit": "character", "data.window": 96, "data.batch": 8, "data.split": (0.9, 0.1, 0)},
    )  # fmt: skip


def rewarded(base: Run, folder: Path, **options: Any) -> Run:
    """A reward model of the pairs."""
    budget = {} if "steps" in options else {"epochs": 3}
    given = {"lr": 2e-3, "data.batch": 32, "evaluate_every": "50%", **budget, **options}
    return fourfold.fit("reward", pairs(300, 1), out=folder, from_=base, **given)


def polite(run: Run, count: int = 100) -> float:
    """The share of drawn answers that say please."""
    said = ["".join(run.chat(f"Say {word}.", temperature=1.0, seed=seed)) for seed in range(count // 10) for word in WORDS]  # fmt: skip
    return sum(" please" in answer for answer in said) / len(said)
