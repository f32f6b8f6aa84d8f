"""Answers from documents: passages found, quoted to a model, its answer streamed and held to what it cites."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fourfold.core.errors import UserError
from fourfold.core.opening import opened
from fourfold.core.run import Run
from fourfold.core.system import verbs
from fourfold.data.documents.cutting import weight
from fourfold.tasks.extracting import extracted
from fourfold.tasks.quoting import (
    addresses_model,
    asked,
    instructed,
    is_chinese,
    is_nowhere,
    nowhere,
    within,
)
from fourfold.tasks.retrieving import USUAL, Found, Ways, parts, retrieve
from fourfold.tasks.supporting import Claim, claims, share

DEFAULT_MODEL = "FOURFOLD_MODEL"
"""Environment variable that names the model where none is given, as `serve --model` sets it."""
ROOM = 4096
"""Tokens that a model reads where it does not say."""
WEAK = 0.25
"""Share of a question's words, each by its rarity, that one of the first three passages must have."""
NEAR = 0.5
"""Cosine from which a passage is an answer to a question with other words."""
FEW = 4
"""Words from which a question stands by itself in a conversation; of Chinese twice as many characters."""
SHOWN = 160
"""Characters of a passage that are shown with an answer."""
_FOLLOWING = re.compile(
    r"\b(?:it|its|he|she|they|them|their|his|her|this|that|these|those|there|then|er|sie|es|ihn|ihr|dies\w*|dort)\b|[它他她]|这|那",
    re.I,
)


@dataclass
class Answer:
    """An answer under way: what it rests on is known before its first word, what is wrong with it after its last."""

    question: str
    passages: list[Found]
    pieces: Iterator[str]
    """To be drawn once."""
    how: str
    """"model", "extracted", or "nowhere"."""
    text: str = ""
    claims: list[Claim] = field(default_factory=list)
    span: str = ""
    """The shortest form of an extracted answer."""

    def whole(self) -> str:
        """The answer, once all of it is drawn."""
        for _ in self.pieces:
            pass
        return self.text


def answer(
    run: Run, question: str, *, model: str | Run | None = None, history: Sequence[dict[str, str]] = (),
    top: int = 5, ways: Ways = USUAL, tokens: int = 256, temperature: float = 0, seed: int | None = None,
) -> Answer:  # fmt: skip
    """Begin to answer a question.

    Args:
        run: a knowledge base.
        question: what is asked.
        model: a run or its name; None takes `FOURFOLD_MODEL`, and answers by extraction where there is none.
        history: turns before, {"role", "content"} each.
        top: passages at most.
        ways: how passages are found.
        tokens: of the answer at most.
        temperature: of the model.
        seed: of what it draws.

    Raises:
        UserError: nothing is asked, the model cannot be opened, or the question is longer than it reads.
    """
    speaker = speaking(run, model)
    searched = _in_context(question, history)
    passages = retrieve(run, searched, top, ways)
    _, index = parts(run)
    found = Answer(question, passages, iter(()), "nowhere")
    if not passages or _weak(index, searched, passages):
        found.pieces = _said(found, iter([nowhere(question)]))
    elif speaker is None:
        _extract(found, index)
    else:
        found.how = "model"
        found.passages = _fitting(speaker, question, passages, history, tokens)
        messages = [*history, {"role": "user", "content": asked(question, found.passages)}]
        drawn = {} if seed is None else {"seed": seed}
        said = speaker.chat(
            messages=messages,
            system=instructed(question),
            tokens=tokens,
            temperature=temperature,
            **drawn,
        )
        found.pieces = _said(found, said, index)
    return found


def speaking(run: Run, model: str | Run | None) -> Run | None:
    """The model that answers, opened once; None where there is none that converses."""
    name = model if model is not None else os.environ.get(DEFAULT_MODEL)
    if not name:
        return None
    if isinstance(name, Run):
        found = name
    else:
        known: dict[str, Run] = vars(run).setdefault("_models", {})
        if name not in known:
            known[name] = opened(name)
        found = known[name]
    if "chat" not in verbs(found.system):
        run.note(
            f"{found.place} does not converse, so answers are taken from the passages word for word; "
            "a model that is tuned on conversations (fit sft) answers in its own words."
        )
        return None
    return found


def _in_context(question: str, history: Sequence[dict[str, str]]) -> str:
    """What is searched: a question that leans on the one before it (short, or with a pronoun) takes that along."""
    before = [turn["content"] for turn in history if turn.get("role") == "user"]
    few = 2 * FEW if is_chinese(question) else FEW
    if before and (weight(question) < few or _FOLLOWING.search(question)):
        return f"{before[-1]}\n{question}"
    return question


def _weak(index: Any, question: str, passages: Sequence[Found]) -> bool:
    """Whether what was found has next to none of the question's words; found by meaning, it may lack them."""
    best = max(share(index, question, f"{p.heading}\n{p.text}") for p in passages[:3])
    near = max((p.near for p in passages[:3] if p.near is not None), default=0.0)
    return best < WEAK and near < NEAR


def _extract(found: Answer, index: Any) -> None:
    best = extracted(found.question, found.passages, index)
    assert best is not None  # noqa: S101  # there are passages
    found.how, found.span = "extracted", best.span
    found.pieces = _said(
        found, iter([f"{' '.join(best.sentence.split())} [{best.passage}]"]), index
    )


def _fitting(
    speaker: Run,
    question: str,
    passages: Sequence[Found],
    history: Sequence[dict[str, str]],
    tokens: int,
) -> list[Found]:
    """The passages that a model has room for beside what was said before and its answer."""
    from fourfold.tasks.foreign import length, room

    window = room(speaker) or ROOM
    spent = sum(length(speaker, turn["content"]) + 8 for turn in history)
    free = window - min(tokens, window // 4) - spent - 32  # the template's own marks
    return within(question, passages, free, lambda text: length(speaker, text))


def _said(found: Answer, pieces: Iterator[str], index: Any = None) -> Iterator[str]:
    """Hand an answer on as it is made, keep it, and look at it when it is whole."""
    try:
        for piece in pieces:
            found.text += piece
            yield piece
    finally:
        if hasattr(pieces, "close"):
            pieces.close()
    if index is not None and found.how == "model":
        found.claims = claims(found.text, found.passages, index)


def shown(found: Answer) -> Iterator[str]:
    """An answer for people: as it is made, then what of it does not stand in the documents, then its sources."""
    yield from found.pieces
    if not found.text.strip():
        raise UserError("the model answered nothing; ask again, or another model")
    for claim in found.claims:
        if not claim.supported:
            yield f"\n! {clipped(claim.text, SHOWN)} ({claim.why})"
    if found.passages and not (found.how == "nowhere" or is_nowhere(found.text)):
        yield f"\n\n{sources(found.passages)}"


def sources(passages: Sequence[Found]) -> str:
    """Passages in a line or two each."""
    lines = []
    for number, passage in enumerate(passages, 1):
        heading = f" - {passage.heading}" if passage.heading else ""
        warning = " (it speaks to the model; quoted only)" if addresses_model(passage.text) else ""
        lines.append(
            f"[{number}] {passage.source}{heading}{warning}\n    {clipped(passage.text, SHOWN)}"
        )
    return "\n".join(lines)


def clipped(text: str, most: int) -> str:
    """A text on one line, cut before a word where it is longer."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    cut = line[:most]
    return f"{cut[: cut.rfind(' ')] if ' ' in cut[most // 2 :] else cut}…"
