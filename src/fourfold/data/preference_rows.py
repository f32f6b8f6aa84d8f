"""Pairs of answers to one prompt from rows of the usual layouts, checked.

* `prompt`, `chosen`, `rejected`: texts, messages, or lists of messages (TRL);
* `chosen`, `rejected` as whole conversations (TRL's implicit prompt): what they share is the prompt;
* `conversations` (or `messages`) with `chosen` and `rejected` messages (LLaMA-Factory);
* `chosen`, `rejected` as dialogues in one text, "\\n\\nHuman: ... \\n\\nAssistant: ..." (Bai et al. 2022, hh-rlhf).

`margin`, where it is there, is a number that says how much better the chosen answer is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from fourfold.core.errors import UserError, nearest
from fourfold.data.turns import Conversation, Turn, conversation

FIELDS = "prompt (or conversations), chosen and rejected"
SPOKEN = re.compile(r"\n\n(Human|Assistant):[ \t]*")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}


class Pair(NamedTuple):
    """One prompt and two answers to it."""

    prompt: Conversation
    chosen: str
    rejected: str
    margin: float = 0.0


def pair(row: Any, where: str) -> Pair:
    """The pair of a row.

    Args:
        row: a mapping in one of the layouts.
        where: the row's place, for messages.

    Raises:
        UserError: an unknown layout, a missing field, a prompt or answer that is empty or no turn of the right side,
            two different prompts, a margin that is no number.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: expected an object with {FIELDS}, got {row!r:.40}")
    for field in ("chosen", "rejected"):
        if row.get(field) is None:
            raise UserError(f"{where}: no field {field!r}{nearest(field, row)}; expected {FIELDS}")
    asked = next((row[f] for f in ("prompt", "conversations", "messages") if row.get(f) is not None), None)  # fmt: skip
    sides = [_side(row[f], f"{where}, field {f}", asked is None) for f in ("chosen", "rejected")]
    if asked is not None:
        prompt = _prompt(asked, f"{where}, the prompt")
        if any(side[:-1] not in ((), prompt) for side in sides):
            raise UserError(f"{where}: chosen and rejected hold turns that are not the prompt's")
    else:
        prompt = sides[0][:-1]
        if sides[1][:-1] != prompt:
            raise UserError(
                f"{where}: chosen and rejected answer different prompts: {_apart(prompt, sides[1][:-1])}"
            )
        prompt = _checked(prompt, where)
    return Pair(prompt, sides[0][-1].content, sides[1][-1].content, _margin(row, where))


def prompt_of(row: Any, where: str) -> Conversation:
    """The turns that a row asks an answer to: of a prompt, of a question, or of a conversation up to its last user's turn.

    Raises:
        UserError: there is no prompt, or it does not end with the user.
    """
    if isinstance(row, str):
        return _checked((Turn("user", row),), where)
    if isinstance(row, Mapping):
        for field in ("prompt", "question", "instruction"):
            value = row.get(field)
            if isinstance(value, str):
                more = row.get("input") if field == "instruction" else None
                text = f"{value}\n\n{more}" if more else value
                said = row.get("system")
                system = (Turn("system", said),) if isinstance(said, str) and said else ()
                return _checked((*system, Turn("user", text)), f"{where}, field {field}")
            if value is not None:
                return _prompt(value, f"{where}, field {field}")
        for field in ("messages", "conversations"):
            if row.get(field) is not None:
                turns = conversation(row, where, answered=False)
                while turns and turns[-1].role == "assistant":
                    turns = turns[:-1]
                return _checked(turns, where)
    fields = ", ".join(map(str, row)) if isinstance(row, Mapping) else repr(row)[:40]
    raise UserError(
        f"{where}: {fields}: expected a field prompt, question, instruction or messages"
    )


def _prompt(asked: Any, where: str) -> Conversation:
    if isinstance(asked, str):
        turns = _dialogue(asked) if SPOKEN.match(asked) else (Turn("user", asked),)
    else:
        turns = conversation(asked, where, answered=False)
    return _checked(turns, where)


def _checked(turns: Conversation, where: str) -> Conversation:
    if not turns or turns[-1].role != "user":
        what = turns[-1].role if turns else "nothing"
        raise UserError(f"{where}: ends with {what}; expected a turn of the user to be answered")
    return conversation(list(turns), where, answered=False)


def _side(value: Any, where: str, whole: bool) -> Conversation:
    """An answer as the last of some turns, those before it being its prompt where they are there."""
    if isinstance(value, str):
        turns = _dialogue(value) if SPOKEN.match(value) else (Turn("assistant", value),)
        if whole and len(turns) < 2:
            raise UserError(f"{where}: an answer without a prompt; expected {FIELDS}")
    elif isinstance(value, Mapping):
        turns = conversation([value], where, answered=False)
    else:
        turns = conversation(value, where, answered=False)
    if not turns or turns[-1].role != "assistant":
        said = turns[-1].role if turns else "nothing"
        raise UserError(f"{where}: ends with {said}; expected an answer of the assistant")
    if not turns[-1].content.strip():
        raise UserError(f"{where}: the answer is empty")
    return turns


def _dialogue(text: str) -> Conversation:
    """Turns of a dialogue in one text; neighbours of one side are one turn."""
    parts = SPOKEN.split(text)
    turns: list[Turn] = []
    for speaker, said in zip(parts[1::2], parts[2::2], strict=True):
        role, content = SPEAKERS[speaker], said.strip()
        if turns and turns[-1].role == role:
            turns[-1] = Turn(role, f"{turns[-1].content}\n\n{content}")
        else:
            turns.append(Turn(role, content))
    return tuple(turns)


def _apart(one: Conversation, other: Conversation) -> str:
    """Where two prompts part."""
    for number, (a, b) in enumerate(zip(one, other, strict=False), 1):
        if a != b:
            return f"turn {number} is {a.content[:30]!r} and {b.content[:30]!r}"
    return f"{len(one)} turns and {len(other)}"


def _margin(row: Mapping[str, Any], where: str) -> float:
    value = row.get("margin", 0.0)
    if value is None:
        return 0.0
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}, field margin: expected a number, got {value!r:.40}")
    return number
