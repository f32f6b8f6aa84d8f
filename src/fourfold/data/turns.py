"""Conversations from rows of any of the usual layouts: who says what, in order, checked.

Layouts, by the fields that a row has:

* `messages`: a list of {"role", "content"} (OpenAI, TRL), or a bare list of them;
* `conversations`: a list of {"from", "value"} (ShareGPT) or of {"role", "content"};
* `instruction`, `output` (Alpaca; `input`, `system` and `history` where they are there), or `instruction`, `response`
  (Dolly, with `context`);
* `prompt`, `completion` or `prompt`, `response`: texts, or lists of messages (TRL);
* `question`, `answer` (GSM8K).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fourfold.core.errors import UserError, nearest

ROLES = ("system", "user", "assistant")
SAID_AS = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant",
}  # fmt: skip
"""What data sets call the three roles."""
PAIRS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
)
"""Fields of what is asked and of what is answered, where a row is one exchange."""
LAYOUTS = "messages, conversations, " + ", ".join("/".join(pair) for pair in PAIRS)


class Turn(NamedTuple):
    """What one side says at once."""

    role: str
    content: str


Conversation = tuple[Turn, ...]


def conversation(row: Any, where: str, *, answered: bool = True) -> Conversation:
    """The turns of a row.

    Args:
        row: a mapping in one of the layouts, or a list of messages.
        where: the row's place, for messages.
        answered: whether the assistant must speak at least once.

    Raises:
        UserError: an unknown layout or role, a missing field, an empty turn, two turns of one side in a row, a
            system turn that is not the first, nothing that the assistant says.
    """
    turns = tuple(_turns(row, where))
    _check(turns, where)
    if answered and not any(turn.role == "assistant" for turn in turns):
        raise UserError(
            f"{where}: no turn of the assistant among its {len(turns)}, so there is nothing to learn"
        )
    return turns


def _turns(row: Any, where: str) -> list[Turn]:
    if isinstance(row, (list, tuple)):
        return _messages(row, where, "")
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: expected an object with {LAYOUTS}, got {row!r:.40}")
    for field in ("messages", "conversations"):
        if row.get(field) is not None:
            return [*_system(row, where), *_messages(row[field], where, field)]
    for asked, answer in PAIRS:
        if asked in row and answer in row:
            return _exchange(row, where, asked, answer)
    for asked, answer in PAIRS:
        for there, missing in ((asked, answer), (answer, asked)):
            if there in row and there not in ("instruction", "prompt"):
                raise UserError(f"{where}: no field {missing!r} beside {there!r}")
    for asked in ("instruction", "prompt"):
        if asked in row:
            fitting = " or ".join(repr(b) for a, b in PAIRS if a == asked)
            raise UserError(f"{where}: no field {fitting} beside {asked!r}")
    raise UserError(f"{where}: fields {', '.join(map(str, row)) or 'none'}; expected {LAYOUTS}")


def _exchange(row: Mapping[str, Any], where: str, asked: str, answer: str) -> list[Turn]:
    """One question and one answer; either may be a list of messages, and others may precede."""
    if isinstance(row[asked], (list, tuple)):
        turns = _messages(row[asked], where, asked)
    else:
        turns = _system(row, where)
        for number, pair in enumerate(row.get("history") or (), 1):
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise UserError(f"{where}, history {number}: expected a pair of texts")
            said, answered = (_text(p, f"{where}, history {number}") for p in pair)
            turns += [Turn("user", said), Turn("assistant", answered)]
        text = _text(row[asked], f"{where}, field {asked}")
        for more in ("input", "context"):
            if asked == "instruction" and row.get(more):
                text = f"{text}\n\n{_text(row[more], f'{where}, field {more}')}"
        turns.append(Turn("user", text))
    if isinstance(row[answer], (list, tuple)):
        return turns + _messages(row[answer], where, answer)
    return [*turns, Turn("assistant", _text(row[answer], f"{where}, field {answer}"))]


def _system(row: Mapping[str, Any], where: str) -> list[Turn]:
    said = row.get("system")
    return [Turn("system", _text(said, f"{where}, field system"))] if said else []


def _messages(messages: Any, where: str, field: str) -> list[Turn]:
    inside = f"{where}, field {field}" if field else where
    if not isinstance(messages, (list, tuple)):
        raise UserError(f"{inside}: expected a list of turns, got {messages!r:.40}")
    return [_message(m, f"{inside}, turn {n}") for n, m in enumerate(messages, 1)]


def _message(message: Any, where: str) -> Turn:
    if isinstance(message, Turn):
        return message
    if not isinstance(message, Mapping):
        raise UserError(f"{where}: expected an object with role and content, got {message!r:.40}")
    fields = (("role", "content"), ("from", "value"))
    role_field, text_field = next((pair for pair in fields if pair[0] in message), ("", ""))
    if not role_field:
        raise UserError(
            f"{where}: fields {', '.join(map(str, message)) or 'none'}; expected role and content, or from and value"
        )
    role = message[role_field]
    if not isinstance(role, str) or role.lower() not in SAID_AS:
        hint = nearest(str(role), SAID_AS)
        raise UserError(f"{where}: unknown role {role!r}; expected {', '.join(ROLES)}{hint}")
    if text_field not in message:
        raise UserError(f"{where}: no field {text_field!r}{nearest(text_field, message)}")
    return Turn(SAID_AS[role.lower()], _text(message[text_field], where))


def _text(value: Any, where: str) -> str:
    if value is None:
        value = ""
    if isinstance(value, list) and all(_is_text_part(part) for part in value):
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise UserError(f"{where}: expected text, got {type(value).__name__}")
    try:
        value.isascii() or value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: half a surrogate pair at character {error.start}, which is no text in UTF-8"
        ) from error
    return value


def _is_text_part(part: Any) -> bool:
    return (
        isinstance(part, Mapping)
        and part.get("type") == "text"
        and isinstance(part.get("text"), str)
    )


def _check(turns: Sequence[Turn], where: str) -> None:
    if not turns:
        raise UserError(
            f"{where}: no turns, expected at least one of the user and of the assistant"
        )
    for number, turn in enumerate(turns, 1):
        here = f"{where}, turn {number} ({turn.role})"
        if not turn.content.strip():
            raise UserError(f"{here}: is empty")
        if turn.role == "system" and number > 1:
            raise UserError(f"{here}: a system turn can only be the first")
        if number > 1 and turns[number - 2].role == turn.role:
            other = "user" if turn.role == "assistant" else "assistant"
            raise UserError(f"{here}: two {turn.role} turns in a row; expected one of the {other}")
