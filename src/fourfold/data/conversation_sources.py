"""From a user's words for conversations to checked turns in splits, and from there to examples that fit."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.parts import Split
from fourfold.data.chat import TEMPLATES, Chat, Rendered, builtin_or_file
from fourfold.data.chat_tokens import Encoded, special_tokens
from fourfold.data.corpus import SPLITS
from fourfold.data.records import Record, sourced
from fourfold.data.text import Text, TextData
from fourfold.data.tokens import Measures
from fourfold.data.turns import Conversation, conversation
from fourfold.data.vocabularies import learn_vocabulary
from fourfold.data.vocabulary import END, Vocabulary

if TYPE_CHECKING:
    from fourfold.data.conversations import Conversations

NAMED = 3
"""Places that a note names."""
Texts = dict[Split, list[tuple[str, Rendered]]]


def open_conversations(
    options: Conversations, sources: Any, seed: int, valid: Any, *, whole: bool = False
) -> Opened:
    """Read and check the conversations of some sources, and split them.

    Raises:
        UserError: see `Conversations.open`.
    """
    opened = Opened(options)
    rows = opened.read(sources)
    more = opened.read(valid) if valid is not None else []
    if not rows:
        raise UserError("no conversation to learn from: the sources hold no row")
    train, held, test = options.split
    if whole:
        opened.put(rows, (0.0, 0.0, 1.0), seed)
    elif valid is not None:
        opened.put(rows, (train + held, 0.0, test), seed)
        opened.put(more, (0.0, 1.0, 0.0), seed)
    else:
        opened.put(rows, options.split, seed)
    return opened


def reading(vocabulary: Vocabulary | None) -> tuple[str, str, list[str]]:
    """Texts of the token that begins a text, of the one that ends it, and of all special tokens."""
    if vocabulary is None:
        return END, END, [END]
    bos, eos = (vocabulary.token(n) for n in (vocabulary.opening, vocabulary.end))
    return bos, eos, list(special_tokens(vocabulary))


def replayed_text(
    options: Conversations, vocabulary: Vocabulary, seed: int, row: int
) -> tuple[np.ndarray, str]:
    """The tokens of the training split of the texts to replay, (N,), and their fingerprint.

    Raises:
        UserError: there is no such text, or less than a row of it.
    """
    texts = TextData(Text(window=row), vocabulary, seed, "", Measures(), {})
    opened = texts.reopen(list(options.texts) or None, seed=seed)
    return opened.tokens("train"), opened.fingerprint


class Opened:
    """Conversations in splits, with what there is to say about them."""

    def __init__(self, options: Conversations) -> None:
        self.options = options
        self.turns: dict[Split, list[Conversation]] = {split: [] for split in SPLITS}
        self._places: dict[Split, list[str]] = {split: [] for split in SPLITS}
        self._digest = hashlib.sha256()
        self._notes: list[str] = []
        self._names: list[str] = []
        self._faulty: list[str] = []
        self._counts: Counter[str] = Counter()

    def read(self, sources: Any) -> list[tuple[str, Conversation]]:
        """The conversations of some sources in order, each with its place."""
        found = []
        for where, row in self._records(sources):
            try:
                turns = conversation(row, where)
            except UserError as error:
                if self.options.faulty == "error":
                    raise
                self._faulty.append(str(error))
                continue
            while turns[-1].role != "assistant":
                turns = turns[:-1]
                self._counts["unanswered"] += 1
            self._digest.update(json.dumps(turns, ensure_ascii=False).encode())
            found.append((where, turns))
        if not found and self._faulty:
            raise UserError(f"no row is a conversation; the first: {self._faulty[0]}")
        return found

    def put(
        self,
        rows: list[tuple[str, Conversation]],
        shares: tuple[float, float, float],
        seed: int,
    ) -> None:
        """Split conversations; equal ones go to the same split."""
        different = {
            turns: number for number, turns in enumerate(dict.fromkeys(t for _, t in rows))
        }
        order = np.random.default_rng([seed, 0x5917]).permutation(len(different))
        _, held, test = (round(share * len(different)) for share in shares)
        kinds = np.full(len(different), "train", object)
        kinds[order[:test]] = "test"
        kinds[order[test : test + held]] = "valid"
        for where, turns in rows:
            split = kinds[different[turns]]
            self.turns[split].append(turns)
            self._places[split].append(where)
        if again := len(rows) - len(different):
            self._notes.append(f"{again} conversations are equal to earlier ones")

    def template(self, vocabulary: Vocabulary | None) -> tuple[str, str]:
        """Source and name of the template to use."""
        if self.options.template != "auto":
            return builtin_or_file(self.options.template)
        own = vocabulary.chat_template if vocabulary else None
        return (own, "of the model") if own else (TEMPLATES["plain"], "plain")

    def rendered(self, chat: Chat) -> Texts:
        """The text of every conversation, with its place."""
        found: Texts = {split: [] for split in SPLITS}
        for split in SPLITS:
            for where, turns in zip(self._places[split], self.turns[split], strict=True):
                texts = chat.conversations(turns, where)
                self._counts["apart"] += len(texts) > 1
                found[split] += [(where, text) for text in texts]
        return found

    def learn(self, rendered: Texts) -> Vocabulary:
        """A vocabulary from the training split's texts."""
        texts = [text.text.replace(END, "") for _, text in rendered["train"]]
        options, length = self.options, sum(map(len, texts))
        return learn_vocabulary(
            options.unit, lambda: ((text, "") for text in texts), options.vocabulary, 1, length
        )

    def count_unknown(self, encoded: list[Encoded], vocabulary: Vocabulary, split: Split) -> None:
        """Note what the vocabulary does not hold."""
        if vocabulary.unknown is None or not encoded:
            return
        total = sum(len(e.tokens) for e in encoded)
        unknown = sum(int((e.tokens == vocabulary.unknown).sum()) for e in encoded)
        if unknown:
            self._notes.append(
                f"{split}: {unknown} of {total} tokens ({unknown / total:.2%}) are not in the vocabulary and read as "
                f"{vocabulary.token(vocabulary.unknown)}"
            )

    def fitting(
        self, encoded: list[Encoded], places: list[str], split: Split, row: int
    ) -> list[Encoded]:
        """What fits into a row of so many positions.

        Raises:
            UserError: something is longer and long is error, or holds nothing that the assistant says.
        """
        found = []
        for where, each in zip(places, map(_ended, encoded), strict=True):
            length = len(each.tokens) - 1
            short = each
            if length > row:
                if self.options.long == "error":
                    raise UserError(
                        f"{where}: {length} positions, more than the {row} of a row; --data.long cut or drop goes on"
                    )
                if self.options.long == "drop":
                    self._counts[f"{split}: dropped"] += 1
                    continue
                short = Encoded(each.tokens[: row + 1], each.said[: row + 1])
                self._counts[f"{split}: cut"] += 1
                self._counts[f"{split}: not learned"] += int(each.said.sum() - short.said.sum())
            if not short.said[1:].any():
                fault = (
                    f"{where}: the first {row} of its {length} positions hold nothing that the assistant says; a larger "
                    "--data.window or --data.long drop goes on"
                    if length > row
                    else f"{where}: the chat template shows nothing that the assistant says"
                )
                if self.options.faulty == "error":
                    raise UserError(fault)
                self._faulty.append(fault)
                continue
            found.append(short)
        return found

    def about(self, examples: Mapping[Split, list[Encoded]], row: int) -> dict[str, Any]:
        """For the report: what is there, and what was left out.

        Raises:
            UserError: nothing is left to learn from.
        """
        if self.turns["train"] and not examples["train"]:
            raise UserError(
                f"no conversation of the training split fits a row of {row} positions: --data.window"
            )
        for split in ("train", "valid", "test"):
            cut, dropped = (self._counts[f"{split}: {what}"] for what in ("cut", "dropped"))
            if cut:
                self._notes.append(
                    f"{split}: {cut} of {len(self.turns[split])} conversations are longer than a row of {row} positions "
                    f"and cut at their end: {self._counts[f'{split}: not learned']} tokens of the assistant's are lost"
                )
            if dropped:
                self._notes.append(
                    f"{split}: {dropped} of {len(self.turns[split])} conversations are longer than a row of {row} "
                    "positions and left out"
                )
        if self._counts["apart"]:
            self._notes.append(
                f"the chat template renders {self._counts['apart']} conversations otherwise once more turns follow; each "
                "of their answers is an example of its own"
            )
        if self._counts["unanswered"]:
            self._notes.append(
                f"{self._counts['unanswered']} turns at the end of conversations have no answer and are left out"
            )
        if self._faulty:
            shown = "; ".join(self._faulty[:NAMED]) + ("; ..." if self._faulty[NAMED:] else "")
            self._notes.append(f"{len(self._faulty)} rows left out as faulty: {shown}")
        said = {s: sum(int(e.said[1:].sum()) for e in some) for s, some in examples.items()}
        return {
            "source": ", ".join(self._names[:3]) + (", ..." if len(self._names) > 3 else ""),
            "conversations": {split: len(some) for split, some in self.turns.items()},
            "examples": {split: len(some) for split, some in examples.items()},
            "tokens": {s: sum(len(e.tokens) - 1 for e in some) for s, some in examples.items()},
            "assistant tokens": said,
            "notes": self._notes,
        }

    def fingerprint(
        self, vocabulary: Vocabulary, template: str, date: datetime.datetime | None
    ) -> str:
        """SHA-256 of the conversations and of all that makes examples of them."""
        options = self.options
        key = [
            self._digest.hexdigest(), vocabulary.digest, template, date and date.isoformat(), options.split,
            {s: len(turns) for s, turns in self.turns.items()},
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(key).encode()).hexdigest()

    def _records(self, sources: Any) -> Iterator[Record]:
        if sources is None:
            raise UserError(
                "no conversations given: fourfold fit sft FILE (.jsonl, .json, .csv, .parquet) or a catalog name"
            )
        return sourced(sources, "messages", self._names, self._notes)


def _ended(each: Encoded) -> Encoded:
    """Without what follows the assistant's last words, from which nothing is learned."""
    last = np.flatnonzero(each.said)
    end = int(last[-1]) + 1 if len(last) else len(each.tokens)
    return Encoded(each.tokens[:end], each.said[:end])
