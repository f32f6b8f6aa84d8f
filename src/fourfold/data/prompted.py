"""What data that starts from prompts has in common: the template, the vocabulary, and whole prompts to each split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Literal, TypeVar

import numpy as np
from pydantic import PositiveInt

from fourfold.core.parts import DataOptions, Split
from fourfold.data.corpus import SPLITS
from fourfold.data.splits import Shares
from fourfold.data.templated import Frame, begun
from fourfold.data.turns import Conversation

Row = TypeVar("Row")
FEW = 5
"""Prompts from which one at least is held out."""


class Prompted(DataOptions):
    """Options of data whose rows each belong to a prompt."""

    template: str = "auto"
    """How turns become text: that of the model begun from, or plain, chatml, llama3, or a file of Jinja."""
    window: PositiveInt | None = None
    """Most positions of a prompt with its answer; None takes the window of the model begun from, or 512."""
    unit: Literal["byte", "character", "bpe"] = "bpe"
    """What a token is, where no earlier run says so."""
    vocabulary: PositiveInt | None = None
    """Entries of a vocabulary that is made anew: see the same option of text."""
    split: Shares = (0.9, 0.05, 0.05)
    """Shares of training, validation and test; their sum is 1. What has the same prompt is in one split."""

    def begun(self, conversations: Sequence[Conversation]) -> Frame:
        """See `templated.begun`."""
        return begun(self.template, self.window, self.unit, self.vocabulary, conversations)

    def parted(
        self,
        rows: list[Row],
        held: list[Row] | None,
        prompt: Callable[[Row], Conversation],
        seed: int,
        *,
        whole: bool,
    ) -> dict[Split, list[Row]]:
        """The rows of each split.

        Args:
            rows: in their order.
            held: the validation split, where it has files of its own.
            prompt: what a row answers.
            seed: fixes the split.
            whole: all rows are tested on.
        """
        if whole:
            return {"train": [], "valid": [], "test": rows}
        if held is None:
            return split_by_prompt(rows, prompt, self.split, seed)
        train, valid, test = self.split
        parts = split_by_prompt(rows, prompt, (train + valid, 0.0, test), seed)
        return {**parts, "valid": held}

    def empty(self, found: Mapping[Split, Sized]) -> list[str]:
        """A note for each split that has a share and got nothing."""
        return [
            f"there are so few prompts that the {split} split is empty"
            for split, share in zip(SPLITS, self.split, strict=True)
            if share and found["train"] and not found[split]
        ]

    def fingerprint(self, rows: str, frame: Frame, seed: int) -> str:
        """SHA-256 of what decides the examples: the rows' own, and how they are read and split."""
        key = [rows, frame.vocabulary.digest, frame.chat.source, frame.window, seed, self.split]
        return hashlib.sha256(json.dumps(key).encode()).hexdigest()


def split_by_prompt(rows: Sequence[Row], prompt: Callable[[Row], Conversation], shares: tuple[float, float, float], seed: int) -> dict[Split, list[Row]]:  # fmt: skip
    """Rows in their order; those of one prompt go to one split."""
    prompts = list(dict.fromkeys(prompt(row) for row in rows))
    order = np.random.default_rng([seed, 0x9A1B]).permutation(len(prompts))
    held, test = held_out_counts(len(prompts), shares)
    kinds: dict[Conversation, Split] = {}
    for place, number in enumerate(order.tolist()):
        kinds[prompts[number]] = (
            "test" if place < test else "valid" if place < test + held else "train"
        )
    found: dict[Split, list[Row]] = {split: [] for split in SPLITS}
    for row in rows:
        found[kinds[prompt(row)]].append(row)
    return found


def held_out_counts(prompts: int, shares: tuple[float, float, float]) -> tuple[int, int]:
    """How many of so many prompts are validation and test: one at least where a share is asked and there are a few."""
    least = int(prompts >= FEW)
    held, test = (max(round(share * prompts), least if share else 0) for share in shares[1:])
    return held, test
