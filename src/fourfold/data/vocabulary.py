"""Units of text and their numbers: bytes and characters here, words and sub-words in their own files.

Every vocabulary gives text back: decode(encode(text)) == text, unless an entry is unknown. Every one has the
end-of-document token; text that happens to spell it is still read as text. V is the number of entries.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.state import write_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = "<|end|>"
UNKNOWN = "<unk>"
Texts = Callable[[], Iterator[tuple[str, str]]]
"""Streams the pieces of the training split, each with the character before it in its document."""


class Decoder(ABC):
    """Turns tokens into text one by one, never emitting half a character."""

    @abstractmethod
    def push(self, token: int) -> str:
        """The text that is certain once this token has come; may be empty."""

    def spell(self, text: str) -> str:
        """The text that is certain once an unknown token has come that stands for `text`."""
        return text

    def finish(self) -> str:
        """What was held back, with U+FFFD for bytes that never became a character."""
        return ""


class Vocabulary(ABC):
    """Numbers for the units of a text."""

    unit: ClassVar[str]
    end: int
    """Token that ends a document, and that every split begins with."""
    begin: int | None = None
    """Token that opens every document, where the end token of the one before does not do it alone."""
    unknown: int | None = None
    """Token for what is not in the vocabulary; None where everything is."""
    chat_template: str | None = None
    """Jinja template of conversations, of a model that came with one."""
    threaded: bool = False
    """Whether `encode_many` has all cores by itself, so that other processes would gain nothing."""
    whole_documents: bool = False
    """Whether a document must not be encoded in pieces."""
    lossless: bool = True
    """Whether every text comes back, from its tokens and the spellings of those that are unknown."""
    counts: np.ndarray
    """(V,) int64, how often each entry occurs in the training split."""

    @property
    def opening(self) -> int:
        """The token that is read before a document's first."""
        return self.end if self.begin is None else self.begin

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens at which a text that is made ends."""
        return (self.end,)

    @property
    def never(self) -> tuple[int, ...]:
        """Tokens that are never drawn."""
        return () if self.unknown is None else (self.unknown,)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def encode_many(
        self, texts: Sequence[str], before: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode texts at once.

        Args:
            texts: the texts.
            before: for each the character that stands before it in its document, "" at its beginning.

        Returns:
            The tokens of all, one after the other, and how many each text has, both integer arrays.
        """

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text, (N,) int64; never the end token."""
        return self.encode_many([text])[0].astype(np.int64)

    def encode_spelled(
        self, texts: Sequence[str], before: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """As `encode_many`, and what each unknown token stands for, in order.

        A text may write the unknown token itself, as word corpora do; it stands for "" then.
        """
        tokens, lengths = self.encode_many(texts, before)
        if self.unknown is not None and (tokens == self.unknown).any():
            raise NotImplementedError(f"{type(self).__name__} does not say what is unknown")
        return tokens, lengths, []

    def special(self, name: str) -> int | None:
        """The number of a special token by its name; None where there is none of that name."""
        return None

    def specials(self) -> frozenset[int]:
        """Tokens that no text is read as."""
        return frozenset({self.end})

    def spellings(self) -> Sequence[str]:
        """What the entries look like, for a guess at how unknown ones are spelled; the special ones excluded."""
        return ()

    @abstractmethod
    def decoder(self) -> Decoder:
        """A fresh decoder for tokens that come one by one."""

    def decode(self, tokens: Any, spelled: Sequence[str] = ()) -> str:
        """The text of some tokens.

        Args:
            tokens: a list, array or CPU tensor of integers.
            spelled: what each unknown token stands for, in order, from `encode_spelled`; "" or nothing
                leaves the unknown token's own name.
        """
        decoder, words = self.decoder(), iter(spelled)
        said = []
        for token in np.asarray(tokens).reshape(-1).tolist():
            word = next(words, "") if token == self.unknown else ""
            said.append(decoder.spell(word) if word else decoder.push(token))
        return "".join(said) + decoder.finish()

    def token_bytes(self, number: int) -> bytes | None:
        """What a token adds to a text, in UTF-8, which may be part of a character; None where tokens are characters or more."""
        return None

    @abstractmethod
    def token(self, number: int) -> str:
        """The name of an entry, to show."""

    def shown(self, number: int) -> str:
        """A token as it stands in a text, with its space; by its name where it is no whole character."""
        text = self.decode([number])
        return self.token(number) if not text.strip() or "\ufffd" in text else text

    @abstractmethod
    def content(self) -> str:
        """What is written to the vocabulary's file."""

    @property
    def digest(self) -> str:
        """SHA-256 of the entries and their order."""
        return hashlib.sha256(f"{self.unit} {self.content()}".encode()).hexdigest()

    file: ClassVar[str] = "vocabulary.json"

    def save(self, folder: Path) -> None:
        """Write the vocabulary's file into a folder."""
        write_text(folder / self.file, self.content())

    def tokenizer(self) -> Tokenizer:
        """The same encoding as a Hugging Face tokenizer.

        Raises:
            UserError: it cannot be expressed as one.
        """
        raise UserError(f"unit {self.unit}: has no tokenizer.json form; use byte, character or bpe")

    def save_hf(self, folder: Path, *, window: int | None = None) -> None:
        """Write tokenizer.json and tokenizer_config.json, as transformers' AutoTokenizer reads them.

        Args:
            folder: an existing folder.
            window: the longest input of the model, in tokens.
        """
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.token(self.end),
            "eos_token": self.token(self.end),
            "clean_up_tokenization_spaces": False,
        }
        if self.unknown is not None:
            config["unk_token"] = self.token(self.unknown)
        if window is not None:
            config["model_max_length"] = window
        write_text(folder / "tokenizer.json", self.tokenizer().to_str(pretty=True))
        write_text(folder / "tokenizer_config.json", json.dumps(config, indent=2))


class SpelledVocabulary(Vocabulary):
    """A vocabulary of words: finding the tokens of a text tells what its unknown words are, too."""

    entries: list[str]

    def __len__(self) -> int:
        return len(self.entries)

    def encode_many(
        self, texts: Sequence[str], before: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.encode_spelled(texts, before)[:2]

    @abstractmethod
    def encode_spelled(
        self, texts: Sequence[str], before: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """See `Vocabulary.encode_spelled`."""


class BytesDecoder(Decoder):
    """For entries that are byte strings."""

    def __init__(self, entries: Sequence[bytes]) -> None:
        self.entries = entries
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self.utf8.decode(self.entries[token])

    def finish(self) -> str:
        return self.utf8.decode(b"", final=True)


class Bytes(Vocabulary):
    """The 256 bytes of UTF-8, and the end token 256."""

    unit = "byte"
    end = 256

    def __init__(self) -> None:
        self.counts = np.zeros(257, np.int64)

    def __len__(self) -> int:
        return 257

    def encode_many(
        self, texts: Sequence[str], before: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        encoded = [text.encode() for text in texts]
        lengths = np.array([len(e) for e in encoded], np.int64)
        return np.frombuffer(b"".join(encoded), np.uint8), lengths

    def decoder(self) -> Decoder:
        return BytesDecoder([*(bytes([b]) for b in range(256)), END.encode()])

    def token_bytes(self, number: int) -> bytes:
        return END.encode() if number == self.end else bytes([number])

    def token(self, number: int) -> str:
        if number == self.end:
            return END
        return chr(number) if 32 < number < 127 else f"<0x{number:02X}>"

    def content(self) -> str:
        return json.dumps({"unit": self.unit})

    def tokenizer(self) -> Tokenizer:
        """See `Vocabulary.tokenizer`: byte-level BPE without a single merge."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        entries = {shown: byte for byte, shown in byte_level_alphabet().items()}
        tokenizer = Tokenizer(models.BPE({**entries, END: self.end}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([END])
        return tokenizer


def byte_level_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in byte-level BPE (Radford et al. 2019, GPT-2).

    Printable bytes of Latin-1 stand for themselves, the other 68 are numbered from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shown = {byte: chr(byte) for byte in printable}
    return {**shown, **{byte: chr(0x100 + n) for n, byte in enumerate(others)}}


class _CharacterDecoder(Decoder):
    def __init__(self, entries: Sequence[str]) -> None:
        self.entries = entries

    def push(self, token: int) -> str:
        return self.entries[token]


class Characters(Vocabulary):
    """Unicode code points, most frequent first after the end token 0 and the unknown token 1."""

    unit = "character"
    end, unknown = 0, 1

    def __init__(self, characters: Sequence[str]) -> None:
        self.entries = [END, UNKNOWN, *characters]
        self.counts = np.zeros(len(self.entries), np.int64)
        codes = np.array([ord(c) for c in characters], np.int64)
        # one slot more than the largest code point: everything beyond is unknown
        self._table = np.full(codes.max(initial=0) + 2, self.unknown, np.uint32)
        self._table[codes] = np.arange(2, len(self.entries))

    @classmethod
    def learn(cls, texts: Texts, size: int | None, min_count: int) -> Characters:
        """Those characters of the training split that occur often enough."""
        counts = np.zeros(0x110000, np.int64)
        for batch in gathered(text for text, _ in texts()):
            counts += np.bincount(_code_points(batch), minlength=0x110000)
        known = np.flatnonzero(counts >= max(1, min_count))
        order = known[np.argsort(-counts[known], kind="stable")]
        chosen = limit(order.tolist(), size, special=2, what="characters", min_count=min_count)
        return cls([chr(code) for code in chosen])

    def __len__(self) -> int:
        return len(self.entries)

    def encode_many(
        self, texts: Sequence[str], before: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        codes = np.minimum(_code_points(texts), len(self._table) - 1)
        return self._table[codes], np.array([len(text) for text in texts], np.int64)

    def encode_spelled(
        self, texts: Sequence[str], before: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        tokens, lengths = self.encode_many(texts, before)
        codes = _code_points(texts)[tokens == self.unknown]
        return tokens, lengths, [chr(code) for code in codes.tolist()]

    def spellings(self) -> Sequence[str]:
        return self.entries[2:]

    def decoder(self) -> Decoder:
        return _CharacterDecoder(self.entries)

    def token(self, number: int) -> str:
        return self.entries[number]

    def content(self) -> str:
        return json.dumps({"unit": self.unit, "entries": self.entries[2:]}, ensure_ascii=False)

    def tokenizer(self) -> Tokenizer:
        """See `Vocabulary.tokenizer`: every character a word of its own."""
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

        entries = {entry: number for number, entry in enumerate(self.entries)}
        tokenizer = Tokenizer(models.WordLevel(entries, unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        tokenizer.add_special_tokens([END])
        return tokenizer


def _code_points(texts: Sequence[str]) -> np.ndarray:
    return np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)


def gathered(texts: Iterable[str], size: int = 1 << 20) -> Iterator[list[str]]:
    """Texts in lists of about `size` characters, for work that pays by the call."""
    batch: list[str] = []
    total = 0
    for text in texts:
        batch.append(text)
        total += len(text)
        if total >= size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def limit(
    entries: list[Any], size: int | None, *, special: int, what: str, min_count: int
) -> list[Any]:
    """The most frequent entries that fit, or all.

    Raises:
        UserError: more are asked than the training text has.
    """
    supported = len(entries) + special
    if size is None:
        return entries
    if size > supported:
        often = f" that occur {min_count} times or more" if min_count > 1 else ""
        raise UserError(
            f"vocabulary: {size} entries asked, the training text supports {supported}: {len(entries)} "
            f"different {what}{often} and {special} special ones; --data.vocabulary {supported} or less"
        )
    if size <= special:
        raise UserError(
            f"vocabulary: {size} entries asked, expected more than the {special} special ones"
        )
    return entries[: size - special]
