"""Vocabularies by the unit that a user names: learned from texts, loaded from a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fourfold.core.errors import UserError, nearest
from fourfold.data.spaced import Jieba, Spaced
from fourfold.data.subwords import Subwords
from fourfold.data.vocabulary import Bytes, Characters, Texts, Vocabulary
from fourfold.data.words import Words

Unit = Literal["byte", "character", "word", "space", "jieba", "bpe"]
WORDS: dict[str, type[Words | Spaced | Jieba]] = {
    kind.unit: kind for kind in (Words, Spaced, Jieba)
}
"""Vocabularies of words, by unit."""


def record_of(folder: Path, form: int) -> dict[str, Any]:
    """What data keep of themselves in a run's folder, data.json.

    Raises:
        UserError: it is of another form than this one.
    """
    path = folder / "data.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(about, dict) or about.get("format") != form:
        raise UserError(f"{path}: not written by this version of fourfold")
    return about


def counted(vocabulary: Vocabulary, counts: list[int], folder: Path) -> Vocabulary:
    """The vocabulary with how often each entry occurs in training, as data.json in the folder has it.

    Raises:
        UserError: they are counts of another vocabulary.
    """
    if len(counts) != len(vocabulary):
        raise UserError(
            f"{folder / 'data.json'}: damaged: it counts {len(counts)} entries, the vocabulary has {len(vocabulary)}"
        )
    vocabulary.counts = np.array(counts, np.int64)
    return vocabulary


def learn_vocabulary(
    unit: Unit, texts: Texts, size: int | None, min_count: int, characters: int
) -> Vocabulary:
    """A vocabulary of some texts, those of the training split.

    Args:
        unit: what a token is.
        texts: their pieces.
        size: entries; None takes all, or for bpe as many as the length of the text asks for.
        min_count: how often an entry must occur.
        characters: how long the texts are.

    Raises:
        UserError: more entries are asked than the texts support.
    """
    if unit == "character":
        return Characters.learn(texts, size, min_count)
    if unit in WORDS:
        return WORDS[unit].learn(texts, size, min_count)
    if unit == "bpe":
        return Subwords.learn(texts, size, min_count, characters)
    if size not in (None, len(Bytes())):
        raise UserError(f"vocabulary: {size} entries asked, the unit byte has {len(Bytes())}")
    return Bytes()


def load_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary that `Vocabulary.save` wrote into a folder.

    Raises:
        UserError: it is of an unknown unit.
    """
    path = folder / Vocabulary.file
    if not path.exists():
        return Subwords.read(folder, as_saved=True)
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored["unit"] == Bytes.unit:
        return Bytes()
    kinds: dict[str, type[Vocabulary]] = {Characters.unit: Characters, **WORDS}
    if stored["unit"] not in kinds:
        raise UserError(f"{path}: unknown unit {stored['unit']!r}{nearest(stored['unit'], kinds)}")
    kind, entries = kinds[stored["unit"]], stored["entries"]
    if kind is Spaced:
        return Spaced(entries, padded=bool(stored["padded"]))
    return kind(entries)  # type: ignore[call-arg]
