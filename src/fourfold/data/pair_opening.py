"""Pairs opened: read, cleaned, split, their vocabularies learned, encoded, and what is to be said of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.parts import Split
from fourfold.data.pair_batches import epoch_batches, padding
from fourfold.data.pair_cleaning import kept_pairs, plan
from fourfold.data.pair_encoding import (
    Encoded,
    Texts,
    count_entries,
    encode,
    foreign_notes,
    unknown_notes,
)
from fourfold.data.pair_lengths import counted, sentences
from fourfold.data.pair_sources import Sides, read_pairs
from fourfold.data.subwords import Subwords
from fourfold.data.vocabularies import Unit, learn_vocabulary
from fourfold.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from fourfold.data.pairs import Pairs

FORMAT = 1
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


class Opened(NamedTuple):
    """What pairs are made of, once they are read."""

    vocabularies: tuple[Vocabulary, Vocabulary]
    seed: int
    fingerprint: str
    about: dict[str, Any]
    splits: dict[Split, Encoded]


def opened(
    options: Pairs,
    vocabularies: tuple[Vocabulary, Vocabulary] | None,
    sources: Any,
    seed: int,
    valid: Any,
    *,
    whole: bool,
    before: dict[str, Any] | None = None,
) -> Opened:
    """Read, clean, split, learn the vocabularies where there are none yet, and encode.

    Args:
        options: how.
        vocabularies: of both sides; None learns them from the training split.
        sources: see `pair_sources.read_pairs`.
        seed: fixes the split.
        valid: pairs of the validation split, if they are files of their own.
        whole: everything is tested on: no pair is left out and none is split.
        before: what was said of the pairs that the vocabularies were learned from.

    Raises:
        UserError: something about the sources or the vocabulary is wrong.
    """
    sides = read_pairs(sources, (options.source, options.target))
    notes = list(sides.notes)
    if before is not None:
        _check_languages(sides, before["languages"])
    if whole:
        test = [(sides.sources, sides.targets)] if sides.sources else []
        parts = {**dict.fromkeys(SPLITS, ([], [])), "test": test[0] if test else ([], [])}
        how = "all of it is tested on"
        notes += _whole_notes(sides)
    else:
        parts, how = _parts(options, sides, seed, valid, notes)
    if vocabularies is None:
        vocabularies = _learn(options, parts["train"])
    encoded = {
        split: encode(
            vocabularies,
            parts[split],
            split,
            notes,
            options.longest,
            "cut" if whole else options.long,
        )
        for split in SPLITS
    }
    if before is None:
        count_entries(vocabularies, encoded["train"])
        if not len(encoded["train"].begins[0]) - 1:
            raise UserError(
                f"{sides.name}: no pair is left to train on ({'; '.join(notes) or 'it is empty'})"
            )
    about = _about(options, vocabularies, sides, encoded, how, notes, before)
    settings = (options.longest, options.long, options.ratio, options.identical, options.begin)
    texts = hashlib.sha256()
    for split in SPLITS:
        for side in parts[split]:
            texts.update("\n".join(side).encode() + b"\0")
    key = [
        FORMAT,
        *(v.digest for v in vocabularies),
        seed,
        options.split,
        settings,
        texts.hexdigest(),
    ]
    fingerprint = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    lengths = encoded["train"].lengths
    if len(lengths[0]):
        wasted = padding(*lengths, epoch_batches(*lengths, options.batch, seed, 0))
        about["padding"] = f"{wasted:.1%} of the places in an epoch's batches"
    return Opened(vocabularies, seed, fingerprint, about, encoded)


def _parts(
    options: Pairs, sides: Sides, seed: int, valid: Any, notes: list[str]
) -> tuple[dict[Split, Texts], str]:
    """The texts of each split: drawn from the sources, or from files of their own."""
    own: dict[Split, Sides] = dict(sides.splits)
    if valid is not None:
        own["valid"] = read_pairs(valid, (options.source, options.target))
        notes += own["valid"].notes
    held = [
        0.0 if split in own else share for split, share in zip(SPLITS, options.split, strict=True)
    ]
    shares = (1 - held[1] - held[2], held[1], held[2])
    kept, said = kept_pairs(sides.sources, sides.targets, options.ratio, options.identical)
    notes += said
    left = [sides.sources[i] for i in kept]
    right = [sides.targets[i] for i in kept]
    of = plan(left, shares, seed)
    parts: dict[Split, Texts] = {}
    for number, split in enumerate(SPLITS):
        if split in own:
            some = own[split]
            rows, said = kept_pairs(some.sources, some.targets, None, "keep")
            notes += [f"{split}: {sentence}" for sentence in said]
            parts[split] = [some.sources[i] for i in rows], [some.targets[i] for i in rows]
        else:
            places = np.flatnonzero(of == number)
            parts[split] = [left[i] for i in places], [right[i] for i in places]
    for split, some in own.items():
        if both := set(zip(*parts[split], strict=True)) & set(zip(*parts["train"], strict=True)):
            notes.append(
                f"{split}: {counted(len(both))} of {some.name} also among the training pairs"
            )
    what = ", ".join(f"{split} from {some.name}" for split, some in own.items())
    return parts, f"by sources at random{f'; {what}' if what else ''}"


def _learn(options: Pairs, train: Texts) -> tuple[Vocabulary, Vocabulary]:
    def learned(unit: Unit, texts: list[str]) -> Vocabulary:
        length = sum(len(text) for text in texts)
        return learn_vocabulary(
            unit, lambda: ((t, "") for t in texts), options.vocabulary, options.min_count, length
        )

    if options.tokenizer is not None:
        tokenizer = Subwords.read(Path(options.tokenizer))
        return tokenizer, tokenizer
    first, second = options.units
    if options.joint:
        both = learned(first, [*train[0], *train[1]])
        return both, both
    return learned(first, train[0]), learned(second, train[1])


def _about(
    options: Pairs,
    vocabularies: tuple[Vocabulary, Vocabulary],
    sides: Sides,
    encoded: dict[Split, Encoded],
    how: str,
    notes: list[str],
    before: dict[str, Any] | None,
) -> dict[str, Any]:
    pairs = {split: len(some.begins[0]) - 1 for split, some in encoded.items()}
    tokens = {split: [int(b[-1]) for b in some.begins] for split, some in encoded.items()}
    notes += unknown_notes(vocabularies, encoded)
    train = encoded["train"]
    if before is not None and before["density"]:
        notes += foreign_notes(encoded["test"], before["density"])
    languages = (
        list(sides.languages) if sides.languages else before["languages"] if before else None
    )
    return {
        "source": sides.name,
        "split": how,
        "languages": languages,
        "pairs": pairs,
        "tokens": tokens,
        "ratio": train.ratio or (before["ratio"] if before else None),
        "common": _common(train) or (before.get("common") if before else None),
        "several": _several(train) if pairs["train"] else before.get("several") if before else None,
        "density": [train.density(0), train.density(1)]
        if pairs["train"]
        else before["density"]
        if before
        else None,
        "notes": notes,
    }


def _common(train: Encoded) -> int | None:
    """Tokens that all but one in a hundred of the sources have at most; None where there are none."""
    lengths = train.lengths[0]
    return int(np.percentile(lengths, 99)) if len(lengths) else None


def _several(train: Encoded) -> float:
    """Share of the sources that have more than one sentence."""
    texts = train.texts[0]
    return sum(len(sentences(text.strip())) > 1 for text in texts) / max(1, len(texts))


def _check_languages(sides: Sides, known: Sequence[str] | None) -> None:
    """Refuse files whose names say that they are in languages that were not learned."""
    if not known or not sides.languages or sides.name == "the embedded pairs":
        return
    found = list(sides.languages)
    if found == list(known):
        return
    wrong = [
        f"{side} language {code}"
        for side, code, k in zip(("source", "target"), found, known, strict=True)
        if code != k
    ]
    turned = "; give the two files in the other order" if found[::-1] == list(known) else ""
    raise UserError(
        f"{sides.name}: {' and '.join(wrong)} {'were' if len(wrong) > 1 else 'was'} never seen: this run was fitted from "
        f"{known[0]} to {known[1]}{turned}"
    )


def _whole_notes(sides: Sides) -> Iterator[str]:
    empty = Counter(
        side
        for pair in zip(sides.sources, sides.targets, strict=True)
        for side, text in enumerate(pair)
        if not text
    )
    for side, name in enumerate(("sources", "targets")):
        if empty[side]:
            yield f"empty {name}: {empty[side]:,}; they count as they are"
