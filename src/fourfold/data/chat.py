"""Chat templates: conversations as the text that a model is tuned on and asked with.

A template is Jinja in the dialect of Hugging Face's `tokenizer_config.json`, rendered in a sandbox: messages,
add_generation_prompt, bos_token, eos_token, raise_exception, strftime_now and {% generation %} mean there what they
mean in transformers (https://huggingface.co/docs/transformers/chat_templating). ChatML: OpenAI 2023; Llama 3: Dubey et
al. 2024, section 4.1.1.

What a user writes is content, never control: a special token that is spelled in a message is broken apart by a mark
before the template sees it, and is text again afterwards. What the assistant says is found by {% generation %}
where the template has it, otherwise from what the template renders of each answer's beginning and end.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourfold.core.errors import UserError, nearest
from fourfold.data.turns import Conversation, Turn

PLAIN = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{- 'Assistant:\n' -}}
{%- generation -%}{{- message.content + eos_token -}}{%- endgeneration -%}
{{- '\n' -}}
{%- elif message.role == 'user' -%}
{{- 'User:\n' + message.content + '\n' -}}
{%- else -%}
{{- message.content + '\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'Assistant:\n' -}}
{%- endif -%}
"""
CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}{{- message.content + '<|im_end|>' -}}{%- endgeneration -%}
{{- '\n' -}}
{%- else -%}
{{- message.content + '<|im_end|>\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""
LLAMA3 = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}{{- message.content | trim + '<|eot_id|>' -}}{%- endgeneration -%}
{%- else -%}
{{- message.content | trim + '<|eot_id|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
{%- endif -%}
"""
TEMPLATES = {"plain": PLAIN, "chatml": CHATML, "llama3": LLAMA3}
"""The templates that need no file."""
PROBE = "fourfold0probe"
"""An answer by which a template shows how it ends one."""
MARKS = range(0xF0000, 0xFFFFE)
"""Private characters (Unicode 16, 23.5), of which three that no message holds mark places."""


@dataclass(frozen=True)
class Rendered:
    """The text of a conversation, and what each part of it is."""

    text: str
    said: tuple[tuple[int, int], ...]
    """Places that the assistant says, its end of turn included: begin and end, in characters, in order."""
    literal: tuple[tuple[int, int], ...] = ()
    """Places where a message spells a special token, which is text there."""


class Chat:
    """A template, ready to render.

    Args:
        template: Jinja source.
        name: what messages call it.
        bos: text of the token that begins a text, "" if there is none.
        eos: text of the token that ends one.
        specials: texts of the special tokens, which a message cannot write.
        now: the time that strftime_now tells; None tells the present one.

    Raises:
        UserError: it is no Jinja, or shows no end of the assistant's turn.
    """

    def __init__(
        self,
        template: str,
        *,
        name: str,
        bos: str,
        eos: str,
        specials: Collection[str],
        now: datetime.datetime | None = None,
    ) -> None:
        import jinja2

        self.source, self.name, self.bos, self.eos = template, name, bos, eos
        longest = sorted((s for s in specials if s), key=len, reverse=True)
        self.specials = re.compile("|".join(map(re.escape, longest)) or "(?!)")
        self._environment = _environment(now)
        try:
            self._template = self._environment.from_string(template)
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template {name}: not Jinja ({error})") from error
        self.marked = bool(re.search(r"\{%-?\s*generation\s*-?%\}", template))
        """Whether the template itself says what the assistant says."""
        self.lead, self.stop = self._edges()
        """Text that the template sets between its prompt and an answer, and text that ends the assistant's turn."""

    def prompt(self, turns: Sequence[Turn], where: str = "the conversation") -> Rendered:
        """What precedes an answer to these turns, earlier answers among it.

        Raises:
            UserError: the template refuses them.
        """
        marks = self._marks(turns)
        text = self._render(turns, where, marks, prompt=True)
        if self.marked:
            return self._clean(text, self._spans(text, marks), marks[1], marks[2:])
        earlier = self._answers(tuple(turns), where, marks)
        spans = [span for body, span in earlier if text.startswith(body[: span[1]])]
        return self._clean(text, spans, marks[1])

    def conversations(self, turns: Conversation, where: str = "the conversation") -> list[Rendered]:
        """The text of a conversation to learn from: one, or one for each answer where they render differently.

        A template may change earlier turns once more follow, as those do that show a model's reasoning in its last
        answer only: no answer is then learned but as the last one of its conversation, as it will be asked for.

        Raises:
            UserError: the template refuses the turns, or its prompt is not what its answers begin with.
        """
        marks = self._marks(turns)
        full = self._render(turns, where, marks)
        if self.marked:
            return [self._clean(full, self._spans(full, marks), marks[1], marks[2:])]
        answers = list(self._answers(turns, where, marks))
        if all(full.startswith(body[: span[1]]) for body, span in answers):
            return [self._clean(full, [span for _, span in answers], marks[1])]
        return [self._clean(body, [span], marks[1]) for body, span in answers]

    # --- private ----------------------------------------------------------------------------------

    def _spans(self, text: str, marks: list[str]) -> list[tuple[int, int]]:
        """Where the template marks what the assistant says."""
        found = _between(text, *marks[2:])
        return [(begin, self._with_end(text, end, marks[3])) for begin, end in found]

    def _answers(
        self, turns: Conversation, where: str, marks: list[str]
    ) -> Iterator[tuple[str, tuple[int, int]]]:
        """For each answer the text up to it, as it is rendered as the last, and its place there."""
        for number, turn in enumerate(turns, 1):
            if turn.role != "assistant":
                continue
            head = self._render(turns[: number - 1], where, marks, prompt=True)
            body = self._render(turns[:number], where, marks)
            end = body.rfind(self.stop, len(head))
            if not body.startswith(head) or end < 0:
                raise UserError(
                    f"{where}: the chat template {self.name} does not render turn {number} as the prompt that it asks for "
                    f"it with, the answer and {self.stop!r}, so what the assistant says cannot be told; mark it in the "
                    "template with {% generation %}"
                )
            yield body, (len(head), end + len(self.stop))

    def _marks(self, turns: Sequence[Turn]) -> list[str]:
        """Three private characters that no turn holds, for: nothing, broken special tokens, begin and end of answers."""
        held = set().union(*(turn.content for turn in turns))
        free = (chr(code) for code in MARKS if chr(code) not in held)
        return ["", *(mark for mark, _ in zip(free, range(3), strict=False))]

    def _render(
        self, turns: Sequence[Turn], where: str, marks: list[str], *, prompt: bool = False
    ) -> str:
        import jinja2

        self._environment.said_between = marks[2], marks[3]  # type: ignore[attr-defined]
        messages = [
            {
                "role": turn.role,
                "content": self.specials.sub(lambda m: m[0][0] + marks[1] + m[0][1:], turn.content),
            }
            for turn in turns
        ]
        try:
            text: str = self._template.render(
                messages=messages,
                add_generation_prompt=prompt,
                bos_token=self.bos,
                eos_token=self.eos,
                tools=None,
                documents=None,
            )
        except jinja2.TemplateError as error:
            raise UserError(
                f"{where}: the chat template {self.name} refuses it: {error}"
            ) from error
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise UserError(f"{where}: the chat template {self.name} fails ({error})") from error
        return text

    def _with_end(self, text: str, end: int, mark: str) -> int:
        """Where an answer ends, its end of turn included where that stands behind the marked part."""
        rest = text[end:].replace(mark, "", 1)
        behind = rest[: len(rest) - len(rest.lstrip())] + self.stop
        return end + len(behind) + 1 if rest.startswith(behind) else end

    def _clean(
        self, text: str, spans: Sequence[tuple[int, int]], of_break: str, others: Sequence[str] = ()
    ) -> Rendered:
        """Take the marks out."""
        at = sorted(i for m in (of_break, *others) for i in _places(text, m))
        moved = _Moved(at)
        literal = []
        for place in _places(text, of_break):
            # the mark stands behind the first character of what it breaks
            whole = self.specials.match(text[place - 1] + text[place + 1 :].replace(of_break, ""))
            begin = moved(place - 1)
            literal.append((begin, begin + (len(whole[0]) if whole else 1)))
        drop = str.maketrans("", "", "".join((of_break, *others)))
        said = tuple((moved(begin), moved(end)) for begin, end in spans)
        return Rendered(text.translate(drop), said, tuple(literal))

    def _edges(self) -> tuple[str, str]:
        """What the template writes before what the assistant says, and how it ends that."""
        turns = (Turn("user", "fourfold0asks"), Turn("assistant", PROBE))
        marks = self._marks(turns)
        head, text = (
            self._render(some, "a first exchange", marks, prompt=prompt).translate(
                str.maketrans("", "", "".join(marks))
            )
            for some, prompt in ((turns[:1], True), (turns, False))
        )
        if PROBE not in text:
            raise UserError(f"the chat template {self.name}: does not show what the assistant says")
        before, tail = text[: text.rindex(PROBE)], text[text.rindex(PROBE) + len(PROBE) :]
        if not tail:
            raise UserError(
                f"the chat template {self.name}: nothing ends the assistant's turn, so no answer would ever end"
            )
        return before[len(head) :] if before.startswith(head) else "", tail.strip() or tail


def builtin_or_file(name: str) -> tuple[str, str]:
    """A template's source and its name, from the name of one that is built in or from a file of Jinja.

    Raises:
        UserError: there is neither.
    """
    if name in TEMPLATES:
        return TEMPLATES[name], name
    path = Path(name)
    if not path.is_file():
        known = nearest(name, [*TEMPLATES, "auto"])
        raise UserError(f"template {name}: neither a template's name nor a file of Jinja{known}")
    try:
        return path.read_text(encoding="utf-8"), path.name
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 ({error})") from error


class _Moved:
    """Where a place of a text is once the marks are taken out."""

    def __init__(self, marks: Sequence[int]) -> None:
        import numpy as np

        self.marks = np.array(marks, np.int64)

    def __call__(self, place: int) -> int:
        return place - int((self.marks < place).sum())


def _places(text: str, mark: str) -> Iterator[int]:
    place = text.find(mark) if mark else -1
    while place >= 0:
        yield place
        place = text.find(mark, place + 1)


def _between(text: str, begin: str, end: str) -> Iterator[tuple[int, int]]:
    for place in _places(text, begin):
        yield place, text.index(end, place)


def _environment(now: datetime.datetime | None) -> Any:
    """Jinja as transformers sets it up: a sandbox that changes nothing, blocks trimmed."""
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """{% generation %}...{% endgeneration %}: what the assistant says, put between marks."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

        def _said(self, caller: Any) -> str:
            begin, end = self.environment.said_between  # type: ignore[attr-defined]
            return f"{begin}{caller()}{end}"

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: (now or datetime.datetime.now()).strftime(
        form
    )
    return environment
