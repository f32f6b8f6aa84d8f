"""Sub-words as units: byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) or any tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.core.errors import UserError
from fourfold.data.vocabulary import (
    END,
    BytesDecoder,
    Decoder,
    Texts,
    Vocabulary,
    byte_level_alphabet,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_ENDS = (END, "<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>", "[SEP]")
SMALLEST = 257  # every byte and the end token


class _PrefixDecoder(Decoder):
    """For tokenizers that are not byte-level: decodes a growing list, and emits what will not change."""

    def __init__(self, tokenizer: Tokenizer, content: str | None = None) -> None:
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
    file = "tokenizer.json"

    def __init__(self, tokenizer: Tokenizer, content: str | None = None) -> None:
        # a tokenizer may come with orders to cut or pad, or with special tokens to read in the text itself
        tokenizer.no_truncation()
        tokenizer.no_padding()
        ends = [token for token in _ENDS if tokenizer.token_to_id(token) is not None]
        if not ends:
            tokenizer.add_special_tokens([END])
        self._tokenizer = tokenizer
        self._end_name = ends[0] if ends else END
        self.end = int(tokenizer.token_to_id(self._end_name))  # type: ignore[arg-type]
        description = json.loads(tokenizer.to_str())
        name = description["model"].get("unk_token")
        self.unknown = tokenizer.token_to_id(name) if isinstance(name, str) else None
        self.lossless = _byte_level(description)
        self.whole_documents = not self.lossless
        tokenizer.encode_special_tokens = True
        if getattr(tokenizer.model, "dropout", None):
            tokenizer.model.dropout = None  # drawn anew on every call otherwise
        self._size = max(tokenizer.get_vocab().values()) + 1
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
            return cls(Tokenizer.from_str(text), text if as_saved else None)
        except Exception as error:  # the tokenizers package raises nothing narrower
            raise UserError(f"{file}: not a tokenizer.json ({error})") from error

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
        if not hasattr(self, "_bytes"):
            self._bytes = self._byte_strings()
        return BytesDecoder(self._bytes)

    def _byte_strings(self) -> list[bytes]:
        bytes_of = {shown: byte for byte, shown in byte_level_alphabet().items()}
        strings = [b""] * self._size  # a number that no entry has says nothing
        added = self._tokenizer.get_added_tokens_decoder()
        for entry, number in self._tokenizer.get_vocab().items():
            plain = number in added or any(c not in bytes_of for c in entry)
            strings[number] = entry.encode() if plain else bytes(bytes_of[c] for c in entry)
        return strings

    def token(self, number: int) -> str:
        if number == self.end:
            return self._end_name
        return self._tokenizer.id_to_token(number) or f"<{number}>"

    def content(self) -> str:
        return self._content

    def tokenizer(self) -> Tokenizer:
        """See `Vocabulary.tokenizer`."""
        return self._tokenizer


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
