"""Data whose texts are rendered by a chat template: what asks for an answer, and what ends one."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fourfold.core.parts import Data
from fourfold.core.state import write_text
from fourfold.data.chat import Chat, builtin_or_file
from fourfold.data.chat_tokens import encode_chats, special_tokens, stop_token
from fourfold.data.conversation_sources import reading
from fourfold.data.subwords import Subwords
from fourfold.data.turns import Conversation, Turn
from fourfold.data.vocabularies import load_vocabulary, record_of
from fourfold.data.vocabulary import END, Bytes, Characters, Vocabulary

FORMAT = 1
WINDOW = 512
"""Positions where neither an option nor an earlier run says how many."""


class Frame(NamedTuple):
    """What answers are read and asked for under."""

    vocabulary: Vocabulary
    chat: Chat
    window: int
    date: datetime.datetime
    """What a template that tells the date tells."""


class Templated:
    """A vocabulary and a chat template.

    Args:
        vocabulary: of the tokens.
        chat: the template.
    """

    window: int
    """Tokens that the model reads at once."""

    def __init__(self, vocabulary: Vocabulary, chat: Chat) -> None:
        self.vocabulary, self.chat = vocabulary, chat
        self.specials = special_tokens(vocabulary)

    @property
    def stop(self) -> tuple[str, int | None]:
        """What ends the assistant's turn: its text, and its token where it is a single special one."""
        return self.chat.stop, stop_token(self.chat, self.specials)

    def prompt(self, turns: Sequence[Turn], where: str = "the conversation") -> list[int]:
        """Tokens that ask for the assistant's answer to some turns."""
        rendered = self.chat.prompt(turns, where)
        return encode_chats([rendered], self.vocabulary, self.specials)[0].tokens.tolist()

    def answer(self, tokens: Sequence[int]) -> str:
        """The words of an answer, without its end of turn and what the template sets before it."""
        stop, token = self.stop
        whole = list(tokens)
        if whole and whole[-1] in (token, self.vocabulary.end):
            whole = whole[:-1]
        return self.vocabulary.decode(whole).removesuffix(stop).removeprefix(self.chat.lead)


def ready(source: str, name: str, vocabulary: Vocabulary | None, date: datetime.datetime) -> Chat:
    """A chat template over a vocabulary, or before there is one."""
    bos, eos, specials = reading(vocabulary)
    return Chat(source, name=name, bos=bos, eos=eos, specials=specials, now=date)


def taken_over(template: str, window: int | None, prepared: Data) -> Frame | None:
    """The frame under which answers go on from a language model.

    Args:
        template: "auto" takes that of the model's own data or vocabulary, otherwise plain.
        window: None takes the model's; a longer one than it was trained on is for its system to allow.
        prepared: the model's data.

    Returns:
        None where that is no language model's.

    Raises:
        UserError: no such template.
    """
    vocabulary, most = getattr(prepared, "vocabulary", None), getattr(prepared, "window", None)
    if not isinstance(vocabulary, Vocabulary) or not isinstance(most, int):
        return None
    own = getattr(prepared, "chat", None)
    if template != "auto":
        source, name = builtin_or_file(template)
    elif isinstance(own, Chat):
        source, name = own.source, own.name
    elif theirs := getattr(vocabulary, "chat_template", None):
        source, name = theirs, "of the model"
    else:
        source, name = builtin_or_file("plain")
    date = datetime.datetime.now().replace(microsecond=0)
    return Frame(vocabulary, ready(source, name, vocabulary, date), window or most, date)


def begun(
    template: str, window: int | None, unit: Literal["byte", "character", "bpe"], entries: int | None,
    conversations: Sequence[Conversation],
) -> Frame:  # fmt: skip
    """A frame from nothing: the vocabulary is made of some conversations.

    Args:
        template: "auto" is plain.
        window: None takes `WINDOW`.
        unit: what a token is.
        entries: of the vocabulary; None leaves it to the unit.
        conversations: of the training split.

    Raises:
        UserError: no such template.
    """
    source, name = builtin_or_file("plain" if template == "auto" else template)
    date = datetime.datetime.now().replace(microsecond=0)
    chat = ready(source, name, None, date)
    texts = [text.text.replace(END, "") for turns in conversations for text in chat.conversations(turns)]  # fmt: skip
    vocabulary: Vocabulary = Bytes()
    if unit == "character":
        vocabulary = Characters.learn(lambda: ((text, "") for text in texts), entries, 1)
    elif unit == "bpe":
        characters = sum(map(len, texts))
        vocabulary = Subwords.learn(lambda: ((text, "") for text in texts), entries, 1, characters)
    return Frame(vocabulary, ready(source, name, vocabulary, date), window or WINDOW, date)


def store(folder: Path, frame: Frame, seed: int, fingerprint: str, about: dict[str, Any]) -> None:
    """Write what `stored` reads: data.json, template.jinja and the vocabulary's file."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.vocabulary.save(folder)
    write_text(folder / "template.jinja", frame.chat.source)
    kept = {
        "format": FORMAT, "fingerprint": fingerprint, "seed": seed, "window": frame.window, "template": frame.chat.name,
        "date": frame.date.isoformat(), "about": about,
    }  # fmt: skip
    write_text(folder / "data.json", json.dumps(kept, ensure_ascii=False))


def stored(folder: Path) -> tuple[Frame, int, str, dict[str, Any]]:
    """Frame, seed, fingerprint and facts of data under a chat template.

    Raises:
        UserError: another version wrote them.
    """
    kept = record_of(folder, FORMAT)
    vocabulary = load_vocabulary(folder)
    date = datetime.datetime.fromisoformat(kept["date"])
    source = (folder / "template.jinja").read_text(encoding="utf-8")
    chat = ready(source, kept["template"], vocabulary, date)
    frame = Frame(vocabulary, chat, kept["window"], date)
    return frame, kept["seed"], kept["fingerprint"], kept["about"]
