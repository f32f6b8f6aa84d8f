"""Sub-words as units: byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) or any tokenizer.json."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.state import write_text
from fourfold.data.hf_tokenizer import (
    CONFIG,
    SPECIAL,
    TEMPLATE,
    Special,
    chat_template,
    kept_files,
    read_tokenizer,
    special_tokens,
    with_template,
)
from fourfold.data.vocabulary import (
    END,
    BytesDecoder,
    Decoder,
    Texts,
    Vocabulary,
    byte_level_alphabet,
)
from fourfold.data.words import is_unspaced

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_ENDS = (END, "<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>", "[SEP]")
SMALLEST = 257  # every byte and the end token


class _PrefixDecoder(Decoder):
    """For tokenizers that are not byte-level: decodes a growing list, and emits what will not change."""

    def __init__(
        self, tokenizer: Tokenizer, content: str | None = None, special: Special | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.said = ""

    def _text(self) -> str:
        return self.tokenizer.decode(self.tokens, skip_special_tokens=False)

    def push(self, token: int) -> str:
        self.tokens.append(token)
        text = self._text()
        if text.endswith("\ufffd") or not text.startswith(self.said):
            return ""
        new, self.said = text[len(self.said) :], text
        if len(self.tokens) > 64:  # keep one token as context for the spaces between tokens
            self.tokens = self.tokens[-1:]
            self.said = self._text()
        return new

    def finish(self) -> str:
        return self._text()[len(self.said) :]


class Subwords(Vocabulary):
    """What a Hugging Face tokenizer makes of text."""

    unit = "bpe"
    threaded = True
    file = "tokenizer.json"

    def __init__(
        self, tokenizer: Tokenizer, content: str | None = None, special: Special | None = None
    ) -> None:
        # a tokenizer may come with orders to cut or pad, or with special tokens to read in the text itself
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self._special = tokenizer, special
        self._kept: dict[str, str] = {}
        self.end = _end(tokenizer) if special is None else special.end
        self.begin = None if special is None else special.begin
        description = json.loads(tokenizer.to_str())
        name = description["model"].get("unk_token")
        self.unknown = tokenizer.token_to_id(name) if isinstance(name, str) else None
        self.lossless = _byte_level(description)
        self.whole_documents = not self.lossless
        tokenizer.encode_special_tokens = True
        if getattr(tokenizer.model, "dropout", None):
            tokenizer.model.dropout = None  # drawn anew on every call otherwise
        self._size = max([*tokenizer.get_vocab().values(), special.size - 1 if special else 0]) + 1
        self.counts = np.zeros(self._size, np.int64)
        # a run's own file is kept to the letter: its digest must outlive versions of the package
        self._content = content or tokenizer.to_str(pretty=True)

    @classmethod
    def learn(cls, texts: Texts, size: int | None, min_count: int, characters: int) -> Subwords:
        """Byte-level BPE trained on the training split.

        Args:
            texts: its pieces.
            size: entries; None chooses by the length of the text.
            min_count: a pair is merged if it occurs this often; at least 2.
            characters: how long the training split is.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        if size is not None and size < SMALLEST:
            raise UserError(
                f"vocabulary: {size} entries asked, a byte-level BPE has {SMALLEST} or more"
            )
        wanted = size or min(8000, max(512, characters // 150))
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=wanted,
            min_frequency=max(2, min_count),
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator((text for text, _ in texts()), trainer)
        supported = tokenizer.get_vocab_size()
        if size is not None and supported < size:
            raise UserError(
                f"vocabulary: {size} entries asked, the training text supports {supported}; "
                f"--data.vocabulary {supported} or less"
            )
        return cls(tokenizer)

    @classmethod
    def read(cls, path: Path, *, as_saved: bool = False) -> Subwords:
        """Any tokenizer.json, or the folder of a model that has one.

        Args:
            path: the file or folder.
            as_saved: whether `save` wrote it.

        Raises:
            UserError: there is no such file, or it is no tokenizer.
        """
        from tokenizers import Tokenizer

        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise UserError(f"{file}: no such file, expected a Hugging Face tokenizer.json")
        try:
            text = file.read_text(encoding="utf-8")
            tokenizer = Tokenizer.from_str(text)
            if not as_saved:
                return cls(tokenizer)
            made = cls(tokenizer, text, Special.read(path))
        except Exception as error:  # the tokenizers package raises nothing narrower
            raise UserError(f"{file}: not a tokenizer.json ({error})") from error
        made.chat_template, made._kept = chat_template(path), kept_files(path)
        return made

    @classmethod
    def imported(cls, folder: Path, size: int) -> tuple[Subwords, list[str]]:
        """The tokenizer of a model's folder with its special tokens and its chat template, and notes.

        Args:
            folder: a Hugging Face model folder.
            size: rows of the model's embedding.

        Raises:
            UserError: there is none, it is damaged, or it is another model's.
        """
        tokenizer, content = read_tokenizer(folder)
        special, notes = special_tokens(folder, tokenizer, size)
        made = cls(tokenizer, content, special)
        made.chat_template, made._kept = chat_template(folder), kept_files(folder)
        return made, notes

    @property
    def ends(self) -> tuple[int, ...]:
        """See `Vocabulary.ends`."""
        return self._special.ends if self._special else (self.end,)

    @functools.cached_property
    def never(self) -> tuple[int, ...]:  # type: ignore[override]
        """See `Vocabulary.never`: the unknown token, and numbers that no entry has."""
        missing = set(range(self._size)) - set(self._tokenizer.get_vocab().values())
        return tuple(sorted(missing if self.unknown is None else {*missing, self.unknown}))

    def __len__(self) -> int:
        return self._size

    def encode_many(
        self, texts: Sequence[str], before: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        tokens = [np.array(encoding.ids, np.uint32) for encoding in encodings]
        flat = np.concatenate(tokens) if tokens else np.zeros(0, np.uint32)
        return flat, np.array([len(t) for t in tokens], np.int64)

    def encode_spelled(
        self, texts: Sequence[str], before: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        tokens, lengths = self.encode_many(texts, before)
        if self.unknown is None or not (tokens == self.unknown).any():
            return tokens, lengths, []
        spelled = []
        for text in texts:  # offsets are only asked for where something is unknown
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            spelled += [
                text[begin:end]
                for token, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True)
                if token == self.unknown
            ]
        return tokens, lengths, spelled

    def decode(self, tokens: Any, spelled: Sequence[str] = ()) -> str:
        """See `Vocabulary.decode`."""
        if self.whole_documents and not any(spelled):
            numbers = np.asarray(tokens).reshape(-1).tolist()
            return self._tokenizer.decode(numbers, skip_special_tokens=False)
        return super().decode(tokens, spelled)

    def decoder(self) -> Decoder:
        if self.whole_documents:
            return _PrefixDecoder(self._tokenizer)
        return BytesDecoder(self.spelled_bytes())

    def token_bytes(self, number: int) -> bytes:
        return self.spelled_bytes()[number]

    def spelled_bytes(self) -> list[bytes]:
        """What each entry adds to a text, in UTF-8: a piece that begins a word with the space before it."""
        if not hasattr(self, "_bytes"):
            self._bytes = self._piece_strings() if self.whole_documents else self._byte_strings()
        return self._bytes

    def _piece_strings(self) -> list[bytes]:
        """Of WordPiece, whose pieces inside a word have a mark, and of SentencePiece, which marks the others."""
        inside = getattr(self._tokenizer.model, "continuing_subword_prefix", None)
        strings = [b""] * self._size
        for entry, number in self._tokenizer.get_vocab().items():
            if inside and entry.startswith(inside):
                shown = entry.removeprefix(inside)
            elif inside and entry[:1].isalnum() and not is_unspaced(entry[0]):
                shown = f" {entry}"
            else:
                shown = entry.replace("\u2581", " ")
            strings[number] = shown.encode()
        return strings

    def _byte_strings(self) -> list[bytes]:
        bytes_of = {shown: byte for byte, shown in byte_level_alphabet().items()}
        strings = [b""] * self._size  # a number that no entry has says nothing
        added = self._tokenizer.get_added_tokens_decoder()
        for entry, number in self._tokenizer.get_vocab().items():
            plain = number in added or any(c not in bytes_of for c in entry)
            strings[number] = entry.encode() if plain else bytes(bytes_of[c] for c in entry)
        return strings

    def special(self, name: str) -> int | None:
        """See `Vocabulary.special`."""
        number = self._tokenizer.token_to_id(name)
        return number if number in self.specials() else None

    def specials(self) -> frozenset[int]:
        """See `Vocabulary.specials`."""
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(number for number, token in added.items() if token.special)

    def token(self, number: int) -> str:
        return self._tokenizer.id_to_token(number) or f"<{number}>"

    def content(self) -> str:
        return self._content

    @property
    def digest(self) -> str:
        """See `Vocabulary.digest`; another end or beginning makes other tokens of a text."""
        own = super().digest
        if self._special is None:
            return own
        return hashlib.sha256(f"{own} {self._special.text()}".encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """See `Vocabulary.save`: tokenizer.json, and what an imported folder had beside it."""
        super().save(folder)
        for name, text in self._kept.items():
            write_text(folder / name, text)
        if self.chat_template is not None:
            write_text(folder / TEMPLATE, self.chat_template)
        if self._special is not None:
            write_text(folder / SPECIAL, self._special.text())

    def save_hf(self, folder: Path, *, window: int | None = None) -> None:
        """See `Vocabulary.save_hf`; what was imported is written as it came."""
        if CONFIG not in self._kept:
            super().save_hf(folder, window=window)
        for name, text in self._kept.items():
            write_text(folder / name, with_template(text, self.chat_template))
        if self._special is not None:
            write_text(folder / self.file, self._content)
        if self.chat_template is not None:
            write_text(folder / TEMPLATE, self.chat_template)

    def tokenizer(self) -> Tokenizer:
        """See `Vocabulary.tokenizer`."""
        return self._tokenizer


def _end(tokenizer: Tokenizer) -> int:
    """The token that ends a document, by its name; a tokenizer that has none gets one."""
    for token in _ENDS:
        if (number := tokenizer.token_to_id(token)) is not None:
            return number
    tokenizer.add_special_tokens([END])
    return int(tokenizer.token_to_id(END))  # type: ignore[arg-type]


def _byte_level(description: dict[str, Any]) -> bool:
    """Whether text may be cut at white space and bytes are kept: byte-level, no normalizer, no added space."""
    steps = description["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    decoder = description["decoder"] or {}
    return (
        description["normalizer"] is None
        and bool(steps)
        and steps[-1].get("type") == "ByteLevel"
        and all(step.get("type") in ("ByteLevel", "Split", "Digits") for step in steps)
        and not any(step.get("add_prefix_space") for step in steps)
        and decoder.get("type") == "ByteLevel"
    )
