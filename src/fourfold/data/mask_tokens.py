"""The tokens around texts and in the place of hidden ones, in any vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fourfold.data.vocabulary import Vocabulary

NAMES: dict[str, tuple[str, ...]] = {
    "mask": ("[MASK]", "<mask>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "pad": ("[PAD]", "<pad>"),
}
"""What tokenizers call their special tokens."""


class Specials(NamedTuple):
    """The tokens around texts and in the place of hidden ones; those that the vocabulary lacks follow its entries."""

    mask: int
    cls: int
    """Begins every text."""
    sep: int
    """Ends every text; the vocabulary's end token where it has no other."""
    pad: int
    """Fills a row; nothing sees it."""

    @classmethod
    def of(cls, vocabulary: Vocabulary, names: Mapping[str, str] = {}) -> Specials:
        """Those of a vocabulary, found by their names.

        Args:
            vocabulary: of the texts.
            names: what it calls some of them, by field; the field's usual names otherwise.
        """
        found: dict[str, int] = {"sep": vocabulary.end}
        after = len(vocabulary)
        for field, usual in NAMES.items():
            for name in (names[field],) if field in names else usual:
                number = vocabulary.special(name)
                if number is not None:
                    found[field] = number
                    break
            if field not in found:
                found[field], after = after, after + 1
        return cls(**found)
