"""Text that a grammar lets through, token by token (llguidance): a regular expression or a JSON schema.

The grammar goes through the bytes of each entry of the vocabulary, so that tokens may end anywhere in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.subwords import Subwords
from fourfold.data.vocabulary import Bytes, Characters, Vocabulary
from fourfold.data.whole_words import entry_bytes

_TOKENIZERS: WeakKeyDictionary[Vocabulary, dict[tuple[int, ...], Any]] = WeakKeyDictionary()
STRICT: Any = {"whitespace_flexible": False}
"""JSON has one space after commas and colons: a model cannot put off its answer by spaces."""


class Grammar(NamedTuple):
    """What may be said, ready for texts of one vocabulary."""

    vocabulary: Vocabulary
    name: str
    """As in messages: --regex or --schema."""
    source: str
    """In llguidance's form."""
    ends: tuple[int, ...]
    """Tokens by which the text may end once the grammar lets it."""

    def guide(self) -> GrammarGuide:
        """For a text that begins."""
        return GrammarGuide(self)


def grammar(
    vocabulary: Vocabulary,
    *,
    regex: str | None = None,
    schema: str | None = None,
    ends: tuple[int, ...] | None = None,
) -> Grammar | None:
    """The grammar that is asked for; None where none is.

    Args:
        vocabulary: of the model.
        regex: which the whole of what is added matches, in the syntax of Rust's regex.
        schema: JSON Schema as text, which it is valid by.
        ends: tokens at which a text ends; None takes the vocabulary's.

    Raises:
        UserError: both, or one that is no regular expression or JSON Schema that llguidance knows; a vocabulary of
            words, which says nothing of letters; llguidance is not installed.
    """
    if regex is None and schema is None:
        return None
    if regex is not None and schema is not None:
        raise UserError("--regex, --schema: give one of them")
    name = "--schema" if regex is None else "--regex"
    try:
        from llguidance import LLMatcher
    except ImportError:
        raise UserError(f"{name}: needs llguidance; pip install 'fourfold[llm]'") from None
    if not isinstance(vocabulary, Bytes | Characters | Subwords):
        raise UserError(
            f"{name}: goes with units that spell every letter (byte, character, bpe, ...), not {vocabulary.unit}"
        )
    if regex is not None:
        source = LLMatcher.grammar_from_regex(regex)
    else:
        source = LLMatcher.grammar_from_json_schema(_schema(schema or ""), overrides=STRICT)
    found = Grammar(vocabulary, name, source, ends or vocabulary.ends)
    wrong = LLMatcher.validate_grammar(source, _tokenizer(found))
    if wrong and not wrong.startswith("WARNING"):
        raise UserError(f"{name}: {_why(wrong)}")
    return found


def _why(said: str) -> str:
    """What is wrong with a grammar: of an expression the reason and where it begins to be so; else the first line."""
    lines = said.strip().splitlines()
    reason = next((line for line in lines if line.startswith("error: ")), None)
    if reason is None:
        return lines[0].removeprefix("ERROR: ")
    under = next((n for n, line in enumerate(lines) if line.strip() and not line.strip(" ^")), 0)
    rest = lines[under - 1][lines[under].find("^") :].strip() if under else ""
    return reason.removeprefix("error: ") + (f", at {rest!r}" if rest else "")


class GrammarGuide:
    """See `fourfold.models.sampling.Guide`: one text on its way through a grammar."""

    def __init__(self, made: Grammar) -> None:
        from llguidance import LLMatcher

        self.grammar = made
        self._matcher = LLMatcher(_tokenizer(made), made.source)
        self._size = len(made.vocabulary)
        self._bits = np.zeros(-(-_tokenizer(made).vocab_size // 32), np.int32)
        words = made.vocabulary
        self._never = sorted({*words.specials(), *words.never} - {*made.ends})

    def allowed(self) -> Tensor:
        """See `Guide.allowed`.

        Raises:
            UserError: no entry of the vocabulary goes on with the text.
        """
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._size]
        allowed[self._never] = 0
        if not allowed.any():
            raise UserError(
                f"{self.grammar.name}: no entry of the vocabulary can come next; it has no such characters"
            )
        return torch.from_numpy(allowed.astype(bool))

    def push(self, token: int) -> None:
        """See `Guide.push`."""
        if token in self.grammar.ends:
            self._over = True
            return
        self._matcher.consume_token(token)
        self._check()

    @property
    def ended(self) -> bool:
        """See `Guide.ended`."""
        return self._over or bool(self._matcher.is_stopped())

    @property
    def whole(self) -> bool:
        """Whether the text so far is all that the grammar asks for."""
        return bool(self._matcher.is_accepting())

    _over = False

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UserError(f"{self.grammar.name}: {self._matcher.get_error().splitlines()[0]}")


def say_unfinished(run: Run, guides: Sequence[GrammarGuide]) -> None:
    """Say which texts ended before all that their grammar asks for had come."""
    if cut := sum(not guide.whole for guide in guides):
        which = "The text" if len(guides) == 1 else f"{cut} of {len(guides)} texts"
        name = guides[0].grammar.name
        run.console.say(
            f"{which} ended before all that {name} asks for had come; more --tokens let it."
        )


# --- private ----------------------------------------------------------------------------------------


def _schema(text: str) -> str:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"--schema: is no JSON: {error}") from None
    if not isinstance(found, dict | bool):
        raise UserError(f"--schema: expected a JSON object, got {type(found).__name__}")
    return text


class _Entries:
    """The vocabulary as llguidance's TokenizerWrapper takes it."""

    def __init__(self, vocabulary: Vocabulary, ends: tuple[int, ...]) -> None:
        self.vocabulary = vocabulary
        self.eos_token_id, self.bos_token_id = ends[0], vocabulary.begin
        special = {*vocabulary.specials(), *vocabulary.never, *ends}
        self.special_token_ids = sorted(special)
        self.tokens = [
            vocabulary.token(number).encode() if number in special else spelled
            for number, spelled in enumerate(entry_bytes(vocabulary))
        ]
        if isinstance(vocabulary, Characters):
            # llguidance goes on where all that may come begin with one byte, which only entries that spell it let it do;
            # these are beyond the vocabulary and never drawn
            self.tokens += [bytes([byte]) for byte in range(256)]

    def __call__(self, text: str | bytes) -> list[int]:
        plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return [int(token) for token in self.vocabulary.encode(plain)]


def _tokenizer(made: Grammar) -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    known = _TOKENIZERS.setdefault(made.vocabulary, {})
    if made.ends not in known:
        wrapped = TokenizerWrapper(_Entries(made.vocabulary, made.ends))
        known[made.ends] = LLTokenizer(wrapped, eos_token=list(made.ends))
    return known[made.ends]
