"""From a text to a model that answers as it was shown: minutes on one core, the same for the same seed."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fourfold
from fourfold.core.run import Run
from fourfold.data.conversations import ConversationData
from fourfold.data.embedded import language_reference
from fourfold.data.text import TextData


def bits_per_byte(run: Run, base: Run) -> float:
    """Of the base's own test text, by a run."""
    data = base.examples()
    assert isinstance(data, TextData)
    nats = run.system.reader(run).surprises(np.asarray(data.tokens("test"), np.int64))
    return float(nats.sum()) / math.log(2) / data.bytes("test")


@pytest.mark.slow
def test_a_format_is_learned_and_the_language_is_kept(tmp_path: Path) -> None:
    """Pretrained on the embedded text, tuned to say the first letter of a word in a fixed form, asked of other words.

    Measured: all answers in the form, 29% with the right letter after 3 epochs (8.5% by
    always saying the most frequent one), 2.17 bits per byte of the text before and 2.30 after.
    """
    options: dict[str, Any] = {"unit": "character", "window": 128, "batch": 16}
    base = fourfold.fit(
        "gpt", None, out=tmp_path / "base", seed=1, width=128, data=options, optimizer={"steps": 500, "minutes": None}
    )  # fmt: skip
    words = sorted(set(re.findall(r"[a-z]{3,8}", " ".join(language_reference()))))
    random.Random(0).shuffle(words)
    rows = [
        {"prompt": f"First letter of {w}?", "completion": f"Letter: {w[0].upper()}."} for w in words
    ]
    tuned = [
        fourfold.fit(
            "sft", rows[:1200], valid=rows[1200:1400], from_=base.folder, out=tmp_path / f"sft-{n}", seed=1, lr=1e-3,
            epochs=3, replay=0.1,
        )
        for n in range(2)
    ]  # fmt: skip
    run, again = tuned
    said = ["".join(run.chat(r["prompt"], temperature=0, tokens=24)) for r in rows[1200:1300]]
    form = sum(bool(re.fullmatch(r"Letter: [A-Z]\.", text)) for text in said) / len(said)
    assert form >= 0.95
    score = run.evaluate(rows[1200:1400], base=True, tokens=24)
    assert score["exact_match"] >= 0.2 and score["base_exact_match"] == 0
    assert bits_per_byte(run, base) <= bits_per_byte(base, base) + 0.25
    assert again.evaluate(rows[1200:1400], tokens=24)["loss"] == score["loss"]  # by the seed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alpaca", "alpaca-zh", "gsm8k"])
def test_sets_of_the_catalog_are_read_and_learned(name: str) -> None:
    """A short fit of a narrow model from nothing: the loss comes near that of the entries' own frequencies."""
    run = fourfold.fit(
        "sft", name, out=False, layers=2, width=64, steps=60, lr=3e-3,
        data={"window": 384, "long": "drop", "vocabulary": 2000, "batch": 8},
    )  # fmt: skip
    data = run.data
    assert isinstance(data, ConversationData)
    said = np.concatenate([e.tokens[e.said] for e in data.examples("train")])
    shares = np.bincount(said) / len(said)
    alone = float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
    score = run.evaluate(answered=4, tokens=20)
    assert score["loss"] < min(alone + 0.3, math.log(len(data.vocabulary)) - 0.9)
    assert any("left out" in note for note in data.summary()["notes"])
