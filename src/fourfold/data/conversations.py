"""Conversations for a language model to learn its answers from. B rows, T positions of a row, V entries."""

from __future__ import annotations

import copy
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Data, DataOptions, Split
from fourfold.core.state import write_text
from fourfold.data.chat import Chat
from fourfold.data.chat_tokens import Encoded, encode_chats, special_tokens
from fourfold.data.conversation_sources import (
    Opened,
    open_conversations,
    replayed_text,
)
from fourfold.data.corpus import SPLITS
from fourfold.data.loading import Indexed
from fourfold.data.packing import pack
from fourfold.data.splits import Shares
from fourfold.data.templated import WINDOW, Templated, ready, taken_over
from fourfold.data.text import IGNORE, TextData
from fourfold.data.turns import Conversation
from fourfold.data.vocabularies import counted, load_vocabulary, record_of
from fourfold.data.vocabulary import Vocabulary

FORMAT = 1


class Conversations(DataOptions):
    """Conversations, of which the assistant's turns are learned."""

    loose: ClassVar[frozenset[str]] = DataOptions.loose | {"packing", "long", "faulty"}

    template: str = "auto"
    """How turns become text: plain, chatml, llama3, or a file of Jinja; auto takes that of the model begun from,
    where it has one, otherwise plain."""
    window: PositiveInt | None = None
    """Positions of a row; None takes the window of the model begun from, or 512."""
    batch: PositiveInt = 8
    """Rows per micro-batch."""
    packing: bool = True
    """Put several conversations into a row, where they do not see one another; otherwise each has its own."""
    long: Literal["cut", "error", "drop"] = "cut"
    """What becomes of conversations that are longer than the window: cut at the end, refused, or left out."""
    faulty: Literal["error", "drop"] = "error"
    """What becomes of rows that are no conversations, or in which the assistant says nothing."""
    replay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training rows that are windows of text, learned whole, so that the model does not forget its
    language (the pretraining mix of Ouyang et al. 2022)."""
    texts: tuple[str, ...] = ()
    """Texts to replay: paths, globs, catalog names; none named takes the embedded text."""
    unit: Literal["byte", "character", "bpe"] = "bpe"
    """What a token is, where no earlier run says so."""
    vocabulary: PositiveInt | None = None
    """Entries of a vocabulary that is made anew: see the same option of text."""
    split: Shares = (0.9, 0.05, 0.05)
    """Shares of training, validation and test; their sum is 1. Conversations that are equal are in one split."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.texts and not self.replay:
            raise ValueError(
                "texts without replay: none of them would be read; replay is the share of rows that are text"
            )
        return self

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> ConversationData:
        """Read conversations and make a vocabulary from those of the training split.

        Args:
            sources: paths, folders, globs, catalog names or "-" (JSON lines); in memory a list of rows, a mapping of
                columns or a frame. Layouts: see `data/turns.py`.
            seed: fixes the split and the order.
            valid: conversations of the validation split, if they are files of their own.

        Raises:
            UserError: a row is no conversation, or nothing is left to learn from.
        """
        opened = open_conversations(self, sources, seed, valid)
        return _prepared(self, opened, None, seed, self.window or WINDOW, _now())

    def adopt(
        self, prepared: Data, sources: Any, *, seed: int = 0, valid: Any = None
    ) -> ConversationData | None:
        """As `open`, with the vocabulary, window and template of a language model.

        Rows may be longer than the windows that the model was trained on; whether it reads so much, its system says.
        """
        if not isinstance(prepared, (TextData, Templated)):
            return None
        window = max(prepared.window, self.window or 0)
        opened = open_conversations(self, sources, seed, valid)
        template = None
        if self.template == "auto" and isinstance(prepared, Templated):
            template = prepared.chat.source, prepared.chat.name
        return _prepared(self, opened, prepared.vocabulary, seed, window, _now(), template=template)

    def prepared(self, other: TextData) -> ConversationData:
        """The preparation alone, under the template and vocabulary of a language model that was not trained here."""
        frame = taken_over(self.template, self.window, other)
        assert frame is not None  # noqa: S101  # text always has one
        about = {"notes": [], "date": frame.date.isoformat()}
        return ConversationData(self, frame.vocabulary, frame.chat, 0, frame.window, "", about)

    def restore(self, folder: Path) -> ConversationData:
        """See `DataOptions.restore`."""
        about = record_of(folder, FORMAT)
        vocabulary = counted(load_vocabulary(folder), about["counts"], folder)
        source = (folder / "template.jinja").read_text(encoding="utf-8")
        now = datetime.datetime.fromisoformat(about["date"])
        chat = ready(source, about["template"], vocabulary, now)
        return ConversationData(
            self, vocabulary, chat, about["seed"], about["window"], about["fingerprint"],
            about["about"],
        )  # fmt: skip


class ConversationData(Templated, Indexed):
    """Rows of conversations, of which the assistant's tokens are targets.

    A batch is {"tokens": (B, T) int64, "targets": (B, T) int64, the next token of the same conversation where the
    assistant says it, else -100, "segments": (B, T) int64, the number of the conversation in its row from 1 on, 0
    where nothing is}. In an epoch which conversations share a row, and the order of the rows, are fixed by (seed,
    epoch); each is there once. Where text is replayed some more rows of an epoch are windows of it, others in each.
    """

    unit = "assistant tokens"

    def __init__(
        self,
        options: Conversations,
        vocabulary: Vocabulary,
        chat: Chat,
        seed: int,
        window: int,
        fingerprint: str,
        about: dict[str, Any],
        examples: dict[Split, list[Encoded]] | None = None,
        turns: dict[Split, list[Conversation]] | None = None,
        text: np.ndarray | None = None,
    ) -> None:
        Templated.__init__(self, vocabulary, chat)
        Indexed.__init__(self, batch=options.batch, seed=seed)
        self.options = options
        self.window = window
        """Tokens that the model reads; a row may be shorter, see `row`."""
        self.row = min(options.window or window, window)
        """Positions of a row."""
        self.fingerprint = fingerprint
        self._about, self._examples, self._turns = about, examples, turns
        self._text = text
        """(N,) tokens that are replayed."""
        self._rows: dict[tuple[Split, int | None], list[np.ndarray]] = {}

    def conversations(self, split: Split) -> Sequence[Conversation]:
        """The turns of a split's conversations, before anything was cut."""
        return self._held(self._turns)[split]

    def examples(self, split: Split) -> Sequence[Encoded]:
        """The tokens of a split's conversations, as they are learned."""
        return self._held(self._examples)[split]

    def size(self, split: Split) -> int:
        """Rows of the split in stored order."""
        return self.count(split, None)

    def count(self, split: Split, epoch: int | None) -> int:
        """Rows in an epoch: the same in all."""
        return len(self._packed(split, epoch))

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        rows = self._packed(split, epoch)
        if isinstance(index, slice):
            index = np.arange(index.start, index.stop)
        return self.collate([[self._example(split, e) for e in rows[i]] for i in index.tolist()])

    def collate(self, rows: Sequence[Sequence[Encoded]]) -> Batch:
        """A batch of rows of conversations; without packing as long as its longest."""
        shape = len(rows), self.row
        if not self.options.packing:
            shape = len(rows), max(len(e.tokens) - 1 for row in rows for e in row)
        tokens = np.full(shape, self.vocabulary.end, np.int64)
        targets, segments = np.full(shape, IGNORE, np.int64), np.zeros(shape, np.int64)
        for number, row in enumerate(rows):
            place = 0
            for segment, example in enumerate(row, 1):
                end = place + len(example.tokens) - 1
                tokens[number, place:end] = example.tokens[:-1]
                targets[number, place:end] = np.where(example.said, example.tokens, IGNORE)[1:]
                segments[number, place:end] = segment
                place = end
        found = {"tokens": tokens, "targets": targets, "segments": segments}
        return {name: torch.from_numpy(array) for name, array in found.items()}

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> ConversationData:
        """See `Data.reopen`."""
        opened = open_conversations(self.options, sources, seed, valid, whole=whole)
        now = datetime.datetime.fromisoformat(self._about["date"])
        return _prepared(
            self.options, opened, self.vocabulary, seed, self.window, now,
            template=(self.chat.source, self.chat.name),
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        """See `Data.save`: data.json, template.jinja, and the vocabulary's file."""
        folder.mkdir(parents=True, exist_ok=True)
        self.vocabulary.save(folder)
        write_text(folder / "template.jinja", self.chat.source)
        about = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "window": self.window,
            "template": self.chat.name,
            "date": self._about["date"],
            "about": self._about,
            "counts": self.vocabulary.counts.tolist(),
        }
        write_text(folder / "data.json", json.dumps(about, ensure_ascii=False))

    def summary(self) -> dict[str, Any]:
        """See `Data.summary`."""
        measured = {k: v for k, v in self._about.items() if k not in ("notes", "date")}
        return {
            **measured,
            "template": self.chat.name,
            "an answer ends with": self.chat.stop,
            "unit": self.vocabulary.unit,
            "vocabulary": len(self.vocabulary),
            "row": self.row,
            "notes": self._about["notes"],
        }

    # --- private ----------------------------------------------------------------------------------

    def _held(self, held: Any) -> Any:
        if held is None:
            raise ValueError("this data has no examples: give it sources with reopen()")
        return held

    def _packed(self, split: Split, epoch: int | None) -> list[np.ndarray]:
        """The examples of each row of an epoch."""
        key = split, epoch
        if key not in self._rows:
            lengths = np.array([len(e.tokens) - 1 for e in self.examples(split)], np.int64)
            order = np.arange(len(lengths))
            if epoch is not None:
                order = np.random.default_rng([self.seed, epoch, 0x9AC4]).permutation(order)
                self._rows = {k: v for k, v in self._rows.items() if k[1] is None}
            packing = self.options.packing
            rows = pack(lengths, order, self.row) if packing else list(order.reshape(-1, 1))
            if self._text is not None and split == "train" and epoch is not None:
                rows += self._replayed(len(rows), epoch)
            self._rows[key] = rows
        return self._rows[key]

    def _replayed(self, rows: int, epoch: int) -> list[np.ndarray]:
        """Rows of an epoch that are text: -1 - s stands for the window that begins at its token s."""
        assert self._text is not None  # noqa: S101
        wanted = round(rows * self.options.replay / (1 - self.options.replay))
        generator = np.random.default_rng([self.seed, epoch, 0x7E47])
        spare = len(self._text) - self.row - 1
        offset = int(generator.integers(min(self.row, spare + 1)))
        windows = generator.permutation((len(self._text) - 1 - offset) // self.row)
        starts = np.resize(windows, wanted) * self.row + offset  # over again, where there are few
        return [np.array([-1 - start]) for start in starts.tolist()]

    def _example(self, split: Split, number: int) -> Encoded:
        if number >= 0:
            return self.examples(split)[number]
        assert self._text is not None  # noqa: S101
        tokens = self._text[-1 - number :][: self.row + 1].astype(np.int64)
        begin = self.vocabulary.begin  # it is given, never guessed
        return Encoded(tokens, tokens != (-1 if begin is None else begin))


def _now() -> datetime.datetime:
    return datetime.datetime.now().replace(microsecond=0)


def _prepared(
    options: Conversations,
    opened: Opened,
    vocabulary: Vocabulary | None,
    seed: int,
    window: int,
    now: datetime.datetime,
    *,
    template: tuple[str, str] | None = None,
) -> ConversationData:
    """Render, learn a vocabulary where there is none, encode, and see what fits."""
    source, name = template or opened.template(vocabulary)
    chat = ready(source, name, vocabulary, now)
    rendered = opened.rendered(chat)
    learned = vocabulary is None
    if vocabulary is None:
        vocabulary = opened.learn(rendered)
    specials = special_tokens(vocabulary)
    _speakable(chat, vocabulary, specials)
    row = min(options.window or window, window)
    examples = {}
    for split in SPLITS:
        encoded = encode_chats([each for _, each in rendered[split]], vocabulary, specials)
        opened.count_unknown(encoded, vocabulary, split)
        places = [where for where, _ in rendered[split]]
        examples[split] = opened.fitting(encoded, places, split, row)
    vocabulary = copy.copy(vocabulary)  # that of the run begun from stays as it is
    vocabulary.chat_template = source
    if learned:
        vocabulary.counts = sum(
            (np.bincount(e.tokens, minlength=len(vocabulary)) for e in examples["train"]),
            start=np.zeros(len(vocabulary), np.int64),
        )
    about = opened.about(examples, row)
    about["date"] = now.isoformat()
    fingerprint = opened.fingerprint(vocabulary, source, now if "strftime_now" in source else None)
    text = None
    if options.replay and examples["train"]:
        text, digest = replayed_text(options, vocabulary, seed, row)
        fingerprint = f"{fingerprint[:32]}{digest[:32]}"
        about["notes"].append(
            f"{options.replay:.0%} of the training rows are text, {len(text):,} tokens of it, of which every token is learned"
        )
    data = ConversationData(
        options, vocabulary, chat, seed, window, fingerprint, about, examples, opened.turns, text
    )
    about["rows"] = {split: data.size(split) if examples[split] else 0 for split in SPLITS}
    about["padding"] = _padding(data)
    return data


def _speakable(chat: Chat, vocabulary: Vocabulary, specials: Mapping[str, int]) -> None:
    """Refuse a template whose end of turn the vocabulary cannot write: no answer would ever end."""
    if chat.stop in specials or vocabulary.unknown is None:
        return
    if (vocabulary.encode(chat.stop) == vocabulary.unknown).any():
        raise UserError(
            f"the chat template {chat.name} ends an answer with {chat.stop!r}, which the vocabulary cannot write; "
            "--data.template plain ends it with the end token"
        )


def _padding(data: ConversationData) -> str:
    """The share of the training split's positions that hold nothing."""
    held = sum(len(e.tokens) - 1 for e in data.examples("train"))
    rows = data.size("train") if held else 0
    if not held or not data.options.packing:
        return "rows as long as their longest conversation" if held else "none"
    return f"{1 - held / (rows * data.row):.1%} of {rows:,} rows of {data.row} positions"
