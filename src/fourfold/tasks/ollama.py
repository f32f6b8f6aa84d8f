"""ollama's Modelfile: how a chat template is said in Go's templates, and what ends an answer.

Format: https://github.com/ollama/ollama/blob/main/docs/modelfile.md. A Jinja template is not translated but tried: what it
writes around each role's words is found with words of our own, and the Go template made of that must render whole
conversations to the same text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from fourfold.core.errors import UserError
from fourfold.data.chat import Chat
from fourfold.data.turns import Turn

ROLES = ("system", "user", "assistant")
WORD = "fourfold0word"
PLAIN = "{{ .Prompt }}"
"""Of a model that continues texts."""
Around = Mapping[str, tuple[str, str]]
"""What stands before and after the words of each role, and under "prompt" what asks for an answer."""


def modelfile(gguf: str, chat: Chat | None, window: int) -> tuple[str, str]:
    """The Modelfile of a GGUF file beside it, and a sentence on what could not be said; empty where all could.

    Args:
        gguf: the file's name.
        chat: the run's template; None continues texts.
        window: tokens that the model reads at once.
    """
    lines, said = [f"FROM ./{gguf}"], ""
    if chat is None:
        lines.append(f'TEMPLATE """{PLAIN}"""')
    else:
        try:
            lines.append(f'TEMPLATE """{go_template(chat)}"""')
        except UserError as error:
            said = f"{error}; the Modelfile has none, and ollama takes what it knows of the one in the GGUF file"
        lines.append(f"PARAMETER stop {_quoted(chat.stop)}")
    lines.append(f"PARAMETER num_ctx {window}")
    return "\n".join(lines) + "\n", said


def go_template(chat: Chat) -> str:
    """A chat template in Go's language; the token that begins a text is left to ollama, which sets it itself.

    Raises:
        UserError: turns are not rendered one by one, each between texts of its role's own.
    """
    around = _around(chat)
    for turns in _trials():
        middle = "".join(around[t.role][0] + t.content + around[t.role][1] for t in turns)
        if middle + around["prompt"][0] != _text(chat, turns):
            raise _unsaid(chat)
    roles = "{{ else ".join(
        f'if eq .Role "{role}" }}}}{_go(around[role][0])}{{{{ .Content }}}}{_go(around[role][1])}'
        for role in ROLES
    )
    return (
        f"{{{{ range .Messages }}}}{{{{ {roles}{{{{ end }}}}{{{{ end }}}}{_go(around['prompt'][0])}"
    )


def _around(chat: Chat) -> Around:
    """Found from three conversations; where a text ends and the next begins does not matter, so long as all agree."""
    alone, told, longer = (
        _parts(chat, roles)
        for roles in (("user",), ("system", "user"), ("user", "assistant", "user"))
    )
    before = alone[0]
    shared = os.path.commonprefix([alone[1], longer[1]])  # what ends the user's turn
    if not (told[1].endswith(before) and longer[2].endswith(before)):
        raise _unsaid(chat)
    return {
        "system": (told[0], told[1].removesuffix(before)),
        "user": (before, shared),
        "assistant": (longer[1].removeprefix(shared), longer[2].removesuffix(before)),
        "prompt": (alone[1].removeprefix(shared), ""),
    }


def _parts(chat: Chat, roles: Sequence[str]) -> list[str]:
    """What a prompt has before, between and after the words of some turns."""
    turns = [Turn(role, f"{WORD}{n}x") for n, role in enumerate(roles)]
    text, parts = _text(chat, turns), []
    for turn in turns:
        before, found, text = text.partition(turn.content)
        if not found:
            raise _unsaid(chat)
        parts.append(before)
    return [*parts, text]


def _text(chat: Chat, turns: Sequence[Turn]) -> str:
    return chat.prompt(turns).text.removeprefix(chat.bos)


def _trials() -> Sequence[Sequence[Turn]]:
    u, a, s = (Turn(role, f"{WORD} {role} 猫") for role in ("user", "assistant", "system"))
    return ((u,), (s, u), (u, a, u), (s, u, a, u, a, u))


def _unsaid(chat: Chat) -> UserError:
    return UserError(f"The chat template {chat.name} cannot be said in Go's templates")


def _go(text: str) -> str:
    """Text as an action that writes it, so that no brace, quote or white space is read otherwise."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def _quoted(text: str) -> str:
    """A value of a Modelfile, in which nothing is escaped."""
    return f'"""{text}"""' if '"' in text or "\n" in text else f'"{text}"'
