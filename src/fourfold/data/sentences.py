"""Text as sentences of words, each a number, for learning word vectors: one compiled pass over any amount of text.

Words and documents keep apart: a sentence never reaches over a line (unit space), a full stop or a
blank line (the other units), or a document. Numbers are held in memory, or in a file beyond that.
Shapes: N words of the corpus, V words of the vocabulary.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Data, DataOptions, Split
from fourfold.core.state import write_text
from fourfold.data.readers import documents
from fourfold.data.splits import Shares
from fourfold.data.text_sources import find_origins

if TYPE_CHECKING:
    from torch import nn

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
Unit = Literal["word", "space", "character", "jieba"]
HELD = 1 << 26
"""Numbers of words that are held in memory; more go to a file."""
HAN = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))
"""Ideographs and kana, written without spaces: a word of its own each, unless a segmenter joins them."""
ENDINGS = ".!?;\u2026\u3002\uff01\uff1f\uff0e\uff1b"


class Sentences(DataOptions):
    """Sentences of words."""

    unit: Unit = "word"
    """What a word is: letters and digits of any script, Chinese by character (word); whatever stands between
    spaces, a line being a sentence (space); every character; or Chinese words as jieba finds them."""
    lower: bool = False
    """Take words in lower case."""
    min_count: PositiveInt = 5
    """How often a word must occur to be in the vocabulary; others are left out of their sentences."""
    vocabulary: PositiveInt | None = None
    """Keep this many words at most, the most frequent ones."""
    phrases: NonNegativeInt = 0
    """Join words that often stand together to one, as new_york; so many times over, for longer phrases."""
    phrase_score: PositiveFloat = 10.0
    """Least (count(ab) - min_count) N / (count(a) count(b)) of two words that are joined."""
    thin: NonNegativeFloat = 1e-3
    """Threshold t of sub-sampling: of words with a share f > t about sqrt(t / f) are kept; 0 keeps all."""
    window: PositiveInt = 5
    """Words of context on either side at most; the real number is drawn from 1 to this at every word."""
    batch: PositiveInt = 1024
    """Words in a batch of evaluation, and of a search by blocks."""
    split: Shares = (1.0, 0.0, 0.0)
    """Shares of training, validation and test, cut by sentences; their sum is 1."""
    field: str = "text"
    """Column or key that holds the text in .jsonl, .json, .csv, .tsv and .parquet files."""
    grow: bool = False
    """With --from, let words that are new join the vocabulary."""
    strict: bool = False
    """Refuse a folder with files that are no text; otherwise they are left out and counted."""

    loose: ClassVar[frozenset[str]] = frozenset(
        {"batch", "split", "strict", "window", "thin", "grow"}
    )

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> SentencesData:
        """Read texts, find their words, and number those that are frequent enough.

        Args:
            sources: as for `Text.open`: paths, folders, globs, catalog names, "-", {"text": [...]}; None
                takes the embedded text.
            seed: fixes what sub-sampling and windows draw.
            valid: texts of the validation split, if they are files of their own.

        Raises:
            UserError: there is nothing to read, or no word is frequent enough.
        """
        return _opened(self, sources, seed, valid)

    def restore(self, folder: Path) -> SentencesData:
        """See `DataOptions.restore`."""
        about = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        words = (folder / "vocabulary.txt").read_text(encoding="utf-8").split("\n")[:-1]
        if len(words) != len(about["counts"]):
            raise ValueError(f"{len(words)} words, {len(about['counts'])} counts")
        known = Vocabulary(
            words, np.array(about["counts"], np.int64), [tuple(p) for p in about["pairs"]]
        )
        return SentencesData(self, known, about["seed"], about["fingerprint"], about["about"])


@dataclass
class Vocabulary:
    """Words, most frequent first, how often each occurs, and which pairs were joined, in order."""

    words: list[str]
    counts: np.ndarray
    """(V,) int64."""
    pairs: list[tuple[str, str]]

    def __post_init__(self) -> None:
        self.numbers = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)


@dataclass
class Part:
    """One split: sentence s is words[ends[s] : ends[s + 1]]."""

    words: np.ndarray
    """(N,) int32."""
    ends: np.ndarray
    """(sentences + 1,) int64."""


class SentencesData(Data):
    """Numbered words of each split, for kernels that run over them, and windows of them as batches.

    A batch is {"context": (B, 2 window) int64, -1 where there is no word, "middle": (B,) int64}. In an
    epoch sub-sampling, the windows' widths and the order are drawn anew, fixed by (seed, epoch); in
    stored order (epoch None) nothing is left out and every window is whole.
    """

    unit = "words"

    def __init__(
        self, options: Sentences, vocabulary: Vocabulary, seed: int, fingerprint: str,
        about: dict[str, Any], parts: dict[Split, Part] | None = None,
    ) -> None:  # fmt: skip
        self.options, self.vocabulary, self.seed = options, vocabulary, seed
        self.fingerprint, self._about, self._parts = fingerprint, about, parts
        self._epoch, self._consumed = 0, 0
        self._drawn: tuple[int, Part] | None = None

    @classmethod
    def of_words(cls, options: Sentences, words: list[str]) -> SentencesData:
        """A vocabulary of words whose counts are not known, without examples."""
        known = Vocabulary(words, np.zeros(len(words), np.int64), [])
        return cls(options, known, 0, "", {"vocabulary": len(words)})

    def part(self, split: Split) -> Part:
        """The words of a split.

        Raises:
            ValueError: this is the preparation only, without examples.
        """
        if self._parts is None:
            raise ValueError("this data has no examples: give it sources with reopen()")
        return self._parts[split]

    def size(self, split: Split) -> int:
        """Words of the split."""
        return 0 if self._parts is None else len(self._parts[split].words)

    def length(self, split: Split, epoch: int | None = None) -> int:
        """See `Data.length`."""
        count = self.size(split) if epoch is None else len(self._thinned(split, epoch).words)
        return -(-count // self.options.batch)

    def keep(self) -> np.ndarray:
        """(V,) float32: the share of a word's occurrences that sub-sampling keeps, (sqrt(f / t) + 1) t / f.

        The formula of the papers' program; that of Mikolov et al. 2013b is its first term.
        """
        if not self.options.thin:
            return np.ones(len(self.vocabulary), np.float32)
        ratio = self.vocabulary.counts / (self.options.thin * max(1, self.vocabulary.counts.sum()))
        return np.minimum(1, (np.sqrt(ratio) + 1) / np.maximum(ratio, 1e-12)).astype(np.float32)

    def batches(
        self, split: Split, *, epoch: int | None = None, model: nn.Module | None = None
    ) -> Iterator[Batch]:
        """See `Data.batches`."""
        size = self.options.batch
        part = self.part(split) if epoch is None else self._thinned(split, epoch)
        count = len(part.words)
        if epoch is None:
            near = np.full(count, self.options.window)
            for start in range(0, count, size):
                yield self._windows(part, np.arange(start, min(start + size, count)), near)
            return
        random = np.random.default_rng([self.seed, epoch, 2])
        near = random.integers(1, self.options.window + 1, count)
        order = random.permutation(count)
        if self._epoch != epoch:
            self._epoch, self._consumed = epoch, 0
        for start in range(self._consumed * size, count, size):
            self._consumed += (
                1  # before the hand-over: a checkpoint is taken after the step on this batch
            )
            yield self._windows(part, order[start : start + size], near)

    def _windows(self, part: Part, at: np.ndarray, near: np.ndarray) -> Batch:
        import torch

        sentence = np.searchsorted(part.ends, at, side="right") - 1
        reach = self.options.window
        offsets = np.concatenate([np.arange(-reach, 0), np.arange(1, reach + 1)])
        places = at[:, None] + offsets
        inside = (places >= part.ends[sentence, None]) & (places < part.ends[sentence + 1, None])
        inside &= np.abs(offsets) <= near[at, None]
        context = np.where(inside, part.words[np.clip(places, 0, len(part.words) - 1)], -1)
        return {
            "context": torch.from_numpy(context.astype(np.int64)),
            "middle": torch.from_numpy(part.words[at].astype(np.int64)),
        }

    def _thinned(self, split: Split, epoch: int) -> Part:
        """The split after an epoch's sub-sampling."""
        if self._drawn is None or self._drawn[0] != epoch:
            part = self.part(split)
            random = np.random.default_rng([self.seed, epoch, 1])
            kept = random.random(len(part.words), np.float32) < self.keep()[part.words]
            ends = np.concatenate([[0], np.cumsum(kept)])[part.ends]
            self._drawn = epoch, Part(part.words[kept], ends)
        return self._drawn[1]

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> SentencesData:
        """Other texts under the same vocabulary (or, with the option grow, a larger one); see `Data.reopen`."""
        return _opened(
            self.options, sources, seed, valid, known=self.vocabulary, whole=whole, before=self.fingerprint,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """See `Data.state_dict`."""
        return {"epoch": self._epoch, "batches": self._consumed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Data.load_state_dict`."""
        self._epoch, self._consumed = state["epoch"], state["batches"]

    def save(self, folder: Path) -> None:
        """Write `vocabulary.txt`, a word a line, and `words.json`: counts, joined pairs, the source's fingerprint."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "vocabulary.txt", "".join(f"{w}\n" for w in self.vocabulary.words))
        stored = {
            "seed": self.seed,
            "fingerprint": self.fingerprint,
            "about": self._about,
            "counts": self.vocabulary.counts.tolist(),
            "pairs": self.vocabulary.pairs,
        }
        write_text(folder / "words.json", json.dumps(stored, ensure_ascii=False))

    def summary(self) -> dict[str, Any]:
        """Words, sentences, vocabulary, what was left out."""
        return self._about


# --- reading --------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def classes(unit: Unit) -> np.ndarray:
    """(0x110000,) uint8: the class of every code point, see `kernels.segment`."""
    from fourfold.kernels.segment import ALONE, BREAK, JOINER, PART, SEPARATOR, STOP

    found = np.full(0x110000, SEPARATOR, np.uint8)
    if unit in ("space", "character", "jieba"):
        found[:] = ALONE if unit == "character" else PART
        for code in range(0x3001):
            if chr(code).isspace():
                found[code] = SEPARATOR
        found[10] = BREAK if unit == "character" else STOP
        return found
    for code in range(0x110000):
        if unicodedata.category(chr(code))[0] in "LNM":
            found[code] = PART
    for first, last in HAN:
        found[first : last + 1] = ALONE
    for letter in "'\u2019-_\u00b7":
        found[ord(letter)] = JOINER
    for letter in ENDINGS:
        found[ord(letter)] = STOP
    found[10] = BREAK
    return found


class _Numbers:
    """Numbers of words as they come, in memory or in a file without a name."""

    def __init__(self) -> None:
        self.held: list[np.ndarray] = []
        self.count = 0
        self.file: Any = None

    def add(self, numbers: np.ndarray) -> None:
        self.count += len(numbers)
        if self.file is None and self.count > HELD:
            self.file = tempfile.TemporaryFile()
            for chunk in self.held:
                chunk.tofile(self.file)
            self.held = []
        if self.file is None:
            self.held.append(numbers.copy())
        else:
            numbers.tofile(self.file)

    def whole(self) -> np.ndarray:
        """(N,) int32, of its own."""
        if self.file is None:
            return np.concatenate(self.held) if self.held else np.empty(0, np.int32)
        self.file.flush()
        return np.memmap(self.file, np.int32, "r+", shape=(self.count,))


def _segmented(
    options: Sentences, sources: Any
) -> tuple[np.ndarray, list[str], np.ndarray, str, list[str]]:
    """All words as provisional numbers with -1 at the end of a sentence, the words, their counts, a digest, notes."""
    from fourfold.kernels import segment as kernel

    origins, notes = find_origins(sources, options.field, strict=options.strict)
    kinds, known, numbers = classes(options.unit), kernel.entries(), _Numbers()
    digest, rest = hashlib.sha256(), ""
    cut = _cutter(options)
    for origin in origins:
        for piece, last in documents(origin):
            digest.update(piece.encode())
            text = rest + cut(piece)
            points = np.frombuffer(bytearray(text.encode("utf-32-le", "surrogatepass")), np.uint32)
            known = kernel.with_room(known, len(points))
            found = np.empty(len(points) + 2, np.int32)
            count, used = kernel.segment(points, kinds, last, known, found)
            rest = text[used:]
            if last:
                found[count], count, rest = kernel.SENTENCE, count + 1, ""
                digest.update(b"\xff")  # no byte of UTF-8: marks where a document ends
            numbers.add(found[:count])
    size = int(known.size[0])
    letters = (
        known.letters[: known.begins[size]]
        .astype("<u4")
        .tobytes()
        .decode("utf-32-le", "surrogatepass")
    )
    begins = known.begins[: size + 1].tolist()
    words = [letters[a:b] for a, b in zip(begins[:-1], begins[1:], strict=True)]
    return numbers.whole(), words, known.counts[:size].copy(), digest.hexdigest(), notes


def _cutter(options: Sentences) -> Callable[[str], str]:
    """What is done to a text before it is split."""
    lower: Callable[[str], str] = str.lower if options.lower else str
    if options.unit != "jieba":
        return lower
    try:
        import jieba
    except ImportError as error:
        raise UserError(
            'unit jieba: needs the package jieba: pip install "fourfold[chinese]"'
        ) from error
    jieba.setLogLevel(logging.WARNING)  # it tells of its dictionary, each time
    return lambda text: "\n".join(" ".join(jieba.cut(line)) for line in lower(text).split("\n"))


def _opened(
    options: Sentences, sources: Any, seed: int, valid: Any, *, known: Vocabulary | None = None,
    whole: bool = False, before: str = "",
) -> SentencesData:  # fmt: skip
    """Read, number, split.

    A known vocabulary grows by a new text only: not by the one that it was made of (whose fingerprint is
    `before`), as when a run is resumed, and not by one that is only measured (`whole`).
    """
    from fourfold.data import phrases

    numbers, words, counts, digest, notes = _segmented(options, sources)
    total = int(counts.sum())
    pairs = list(known.pairs) if known else []
    if known is None:
        for _ in range(options.phrases):
            numbers, words, counts, joined = phrases.join(numbers, words, counts, options)
            pairs += joined
    elif pairs:
        numbers, words, counts = phrases.apply(numbers, words, counts, pairs)
    other: tuple[np.ndarray, list[str]] | None = None
    if valid is not None:
        held, others, many, more, _ = _segmented(options, valid)
        digest = hashlib.sha256(f"{digest} {more}".encode()).hexdigest()
        if pairs:
            held, others, many = phrases.apply(held, others, many, pairs)
        other = held, others
    plain = options.model_dump_json(exclude=set(Sentences.loose - {"split"}))
    fingerprint = hashlib.sha256(f"{plain} {digest}".encode()).hexdigest()
    new = not whole and fingerprint != before
    vocabulary = _vocabulary(options, words, counts, pairs, known, notes, new)
    if not len(vocabulary):
        most = (
            f"the most frequent of {len(words):,} words occurs {int(counts.max(initial=0)):,} times"
        )
        raise UserError(
            f"--min-count {options.min_count}: no word is left; {most if len(words) else 'the text has no word'}"
        )
    if known is None and len(vocabulary) < 2:
        raise UserError(
            f"the text has one word only ({vocabulary.words[0]!r}): there is no context to learn from"
        )
    numbers, left = _numbered(numbers, words, vocabulary)
    if whole and left:
        notes.append(
            f"{left:,} of {total:,} words are not in the vocabulary: they are left out and not measured"
        )
    parts = _split(options, numbers, whole)
    if other is not None:
        parts["valid"] = _sentences(_numbered(*other, vocabulary)[0])
    about = {
        "words": total,
        "vocabulary": len(vocabulary),
        "different words": len(words),
        "left out": left,
        "sentences": {s: len(parts[s].ends) - 1 for s in SPLITS},
        "split": {s: len(parts[s].words) for s in SPLITS},
        "phrases": len(pairs),
        "notes": notes,
    }
    return SentencesData(options, vocabulary, seed, fingerprint, about, parts)


def _numbered(
    numbers: np.ndarray, words: list[str], vocabulary: Vocabulary
) -> tuple[np.ndarray, int]:
    """A text's own numbers as those of the vocabulary, without other words, and how many those were."""
    table = np.array([vocabulary.numbers.get(w, -2) for w in words] + [-1], np.int32)
    numbers = table[numbers]  # the last entry is for -1, the end of a sentence
    return numbers[numbers != -2], int((numbers == -2).sum())


def _vocabulary(
    options: Sentences, words: list[str], counts: np.ndarray, pairs: list[tuple[str, str]],
    known: Vocabulary | None, notes: list[str], new: bool,
) -> Vocabulary:  # fmt: skip
    if known is not None and not (new and options.grow):
        if known.counts.any() or not new:
            return known
        here = dict(zip(words, counts.tolist(), strict=True))  # imported, without counts
        return Vocabulary(known.words, np.array([here.get(w, 0) for w in known.words]), pairs)
    order = np.argsort(-counts, kind="stable")  # of equal counts the earlier first
    frequent = [int(i) for i in order if counts[i] >= options.min_count]
    if known is not None:
        joining = [i for i in frequent if words[i] not in known.numbers]
        if joining:
            notes.append(
                f"{len(joining):,} new words join the vocabulary of {len(known):,}, {words[joining[0]]} first."
            )
        here = dict(zip(words, counts.tolist(), strict=True))
        added = known.counts + [here.get(w, 0) for w in known.words]
        return Vocabulary(
            [*known.words, *(words[i] for i in joining)], np.append(added, counts[joining]), pairs
        )
    if options.vocabulary is not None:
        frequent = frequent[: options.vocabulary]
    return Vocabulary([words[i] for i in frequent], counts[frequent], pairs)


def _sentences(numbers: np.ndarray) -> Part:
    """Numbers with -1 at ends of sentences, as words and ends; sentences of one word are kept."""
    marks = np.flatnonzero(numbers == -1)
    words = numbers[numbers >= 0].astype(np.int32)
    ends = np.concatenate([[0], marks - np.arange(len(marks)), [len(words)]])
    ends = ends[np.append(True, np.diff(ends) > 0)]  # without empty ones
    return Part(words, ends.astype(np.int64))


def _split(options: Sentences, numbers: np.ndarray, whole: bool) -> dict[Split, Part]:
    """Training, validation and test, cut between sentences in stored order."""
    part = _sentences(numbers)
    shares = np.array((0.0, 0.0, 1.0) if whole else options.split)
    cuts = np.searchsorted(part.ends, np.cumsum(shares) * len(part.words) - 0.5)
    found: dict[Split, Part] = {}
    first = 0
    for split, cut in zip(SPLITS, cuts, strict=True):
        cut = max(first, min(int(cut), len(part.ends) - 1))
        begin, end = part.ends[first], part.ends[cut]
        found[split] = Part(part.words[begin:end], part.ends[first : cut + 1] - begin)
        first = cut
    return found
