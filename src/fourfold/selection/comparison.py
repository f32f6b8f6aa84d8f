"""The same prompts through several runs of language models, side by side; the first is the base.

Per run: KL from the base, bits per byte of reference texts, length and variety of the answers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourfold import api
from fourfold.core.console import Console, Silent
from fourfold.core.errors import UserError, nearest
from fourfold.core.run import Run
from fourfold.core.types import Explanation, Table
from fourfold.data.readers import ROWS, Origin, decoded, kind_of
from fourfold.data.records import in_memory, records
from fourfold.look.comparison import comparison_picture
from fourfold.tasks.comparing import (
    answered,
    asked,
    check_answers,
    distinct,
    divergences,
    judged,
    repeated,
    reward_judge,
    surprise,
)
from fourfold.tasks.foreign import ForeignModel
from fourfold.tasks.language import vocabulary_of
from fourfold.tasks.rating import can_rate, ratings

PROMPTS = ("prompt", "question", "instruction")
REFERENCES = ("reference", "completion", "answer", "output")
"""Fields that hold a prompt, and the text that should follow, first found."""


@dataclass(frozen=True)
class Prompt:
    """What every run is asked, and what a good answer is, where that is known."""

    text: str
    reference: str | None
    where: str


@dataclass
class Comparison:
    """What the runs said, and their measures by name: one value for each run, None where there is none."""

    names: list[str]
    prompts: list[Prompt]
    answers: list[list[str]]
    """By run, then by prompt."""
    measures: dict[str, list[float | None]]
    units: dict[str, str]
    notes: list[str]
    facts: dict[str, Any] = field(default_factory=dict)

    def explanation(self) -> Explanation:
        """Measures and answers as tables and a picture."""
        columns = [f"{n} ({u})" if (u := self.units.get(n)) else n for n in self.measures]
        rows = zip(self.names, *self.measures.values(), strict=True)
        measured = Table("Measures", ("run", *columns), tuple(tuple(row) for row in rows))
        given = any(p.reference is not None for p in self.prompts)
        said = tuple(
            (p.text, *([p.reference] if given else []), *(a[i] for a in self.answers))
            for i, p in enumerate(self.prompts)
        )
        heads = ("prompt", *(["reference"] if given else []), *self.names)
        return Explanation(
            f"{len(self.names)} runs, {len(self.prompts)} prompts",
            tuple(self.notes),
            (measured, Table("Answers side by side", heads, said)),
            (comparison_picture(self.names, self.measures, self.units),),
        )

    def record(self) -> dict[str, Any]:
        """For machines."""
        return {
            **self.facts,
            "runs": [
                {"run": name, **{m: values[i] for m, values in self.measures.items()}}
                for i, name in enumerate(self.names)
            ],
            "units": self.units,
            "answers": [
                {
                    "prompt": p.text,
                    **({} if p.reference is None else {"reference": p.reference}),
                    "answers": {n: a[i] for n, a in zip(self.names, self.answers, strict=True)},
                }
                for i, p in enumerate(self.prompts)
            ],
            "notes": self.notes,
        }

    def markdown(self) -> str:
        """Tables in Markdown."""
        found = self.explanation()
        lines = [f"# {found.title}", "", *(f"* {s}" for s in found.sentences)]
        for table in found.tables:
            lines += ["", f"## {table.title}", "", _row(table.columns)]
            lines += [_row(["---"] * len(table.columns)), *(_row(row) for row in table.rows)]
        return "\n".join(lines) + "\n"

    def __str__(self) -> str:
        return str(self.explanation())


def compare(
    runs: Sequence[str | os.PathLike[str] | Run],
    prompts: Any,
    *,
    tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    judge: str | os.PathLike[str] | Run | None = None,
    device: str | None = None,
    console: Console | None = None,
) -> Comparison:
    """Ask several runs the same.

    A conversing run is asked in its chat template, any other goes on from the prompt as it is. Bits per byte are
    those of the references behind the prompt as each run is asked. KL(base || run) is over the whole vocabulary at
    each position of the reference, or of the base's own answer where there is none, behind the prompt as the base is
    asked: the same context for both. It needs one vocabulary.

    Args:
        runs: two or more; the first is the base.
        prompts: a file (.jsonl, .json, .csv, .tsv, .parquet with a prompt and, where known, a reference; .txt with a
            prompt a line), or texts or mappings in memory.
        tokens: most tokens of an answer.
        temperature: 0 always takes the most likely token.
        seed: of what is drawn.
        judge: a run of reward, or one that converses (a model of somebody else's too), which says how good each answer
            is; None asks none.
        device: where the runs are used.
        console: where progress is said; silent by default.

    Raises:
        UserError: fewer than two runs, one that is no language model, no prompts, or one beyond a run's context.
    """
    console = console or Silent()
    opened = [r if isinstance(r, Run) else api.open(r, device=device) for r in runs]
    if len(opened) < 2:
        raise UserError(
            "compare: expected two runs or more; the first is what the others differ from"
        )
    for run in opened:
        check_answers(run)
    asks = read_prompts(prompts)
    names = _names(opened)
    judging = None
    if judge is not None:
        judging = judge if isinstance(judge, Run) else api.open(judge, device=device)
        if not can_rate(judging):
            reward_judge(judging)  # before anything is answered
    begun = [[asked(run, p.text, p.where) for p in asks] for run in opened]
    texts = [p.text for p in asks]
    answers = []
    for run, name in zip(opened, names, strict=True):
        console.say(f"{name}: answers {len(asks)} prompts")
        answers.append(answered(run, texts, tokens=tokens, temperature=temperature, seed=seed))
    measures: dict[str, list[float | None]] = {}
    notes: list[str] = []
    _divergence(opened, names, asks, begun[0], answers[0], measures, notes)
    _references(opened, asks, begun, measures, notes)
    if judging is not None:
        _judged(judging, names, asks, answers, measures, notes)
    _answers(opened, answers, measures)
    drawn = (
        "the most likely token each time"
        if temperature == 0
        else f"drawn at temperature {temperature:g}, seed {seed}"
    )
    notes.append(f"Answers have {tokens} tokens at most: {drawn}.")
    facts = {"base": names[0], "tokens": tokens, "temperature": temperature, "seed": seed}
    return Comparison(names, asks, answers, measures, dict(UNITS), notes, facts)


UNITS = {
    "rating": "1 to 10",
    "KL from the base": "nats a token",
    "bits per byte": "references",
    "tokens": "mean",
    "characters": "mean",
}


# --- prompts ----------------------------------------------------------------------------------------


def read_prompts(given: Any) -> list[Prompt]:
    """Prompts of a file or in memory, in order.

    Raises:
        UserError: there are none, or a row has no prompt.
    """
    if isinstance(given, (str, os.PathLike)):
        found = list(_of_file(Path(given)))
        if not found:
            raise UserError(f"{given}: no prompts in it")
        return found
    rows = (
        list(given) if not isinstance(given, Mapping) and not hasattr(given, "columns") else given
    )
    if isinstance(rows, list) and all(isinstance(row, str) for row in rows):
        found = [Prompt(text, None, f"prompt {n}") for n, text in enumerate(rows, 1)]
    else:
        found = [_of_row(row, where) for where, row in in_memory(rows)]
    if not found:
        raise UserError("prompts: none were given")
    return found


def _of_file(path: Path) -> list[Prompt]:
    if not path.is_file():
        beside = [str(p) for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file{nearest(str(path), beside)}")
    origin = Origin(str(path), "prompt", path=path)
    if kind_of(path) in ROWS:
        return [_of_row(row, where) for where, row in records(origin)]
    lines = "".join(decoded(origin)).split("\n")
    return [Prompt(t, None, f"{path}, line {n}") for n, t in enumerate(lines, 1) if t.strip()]


def _of_row(row: Any, where: str) -> Prompt:
    if isinstance(row, str):
        row = {"prompt": row}
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: expected an object with a prompt, got {type(row).__name__}")
    name = next((n for n in PROMPTS if row.get(n) is not None), None)
    if name is None:
        raise UserError(f"{where}: no prompt{nearest('prompt', map(str, row))}")
    other = next((n for n in REFERENCES if row.get(n) is not None), None)
    for key in filter(None, (name, other)):
        if not isinstance(row[key], str):
            raise UserError(f"{where}, {key}: expected a text, got {row[key]!r}")
    if not row[name].strip():
        raise UserError(f"{where}: the prompt is empty")
    reference = row[other] if other is not None else None
    return Prompt(row[name], reference or None, where)


# --- measures ---------------------------------------------------------------------------------------


def _divergence(
    runs: Sequence[Run],
    names: Sequence[str],
    asks: Sequence[Prompt],
    begun: Sequence[Sequence[int]],
    said: Sequence[str],
    measures: dict[str, list[float | None]],
    notes: list[str],
) -> None:
    """KL(base || run), where vocabularies agree."""
    digests = [_digest(run) for run in runs]
    if digests[0] is None:
        notes.append(f"{names[0]} tells no probabilities of all tokens, so no KL is told.")
        return
    same = [i for i, digest in enumerate(digests) if digest == digests[0]]
    sums, positions, own = [0.0] * len(same), 0, 0
    for prompt, tokens, answer in zip(asks, begun, said, strict=True):
        text = prompt.reference if prompt.reference is not None else answer
        more, count = divergences(runs[0], [runs[i] for i in same], tokens, text)
        sums = [a + b for a, b in zip(sums, more, strict=True)]
        positions += count
        own += prompt.reference is None
    values: list[float | None] = [None] * len(runs)
    if positions:
        for place, total in zip(same, sums, strict=True):
            values[place] = total / positions
        where = {0: "the references", len(asks): "the base's own answers"}.get(
            own, f"{len(asks) - own} references and {own} of the base's own answers"
        )
        notes.append(
            f"KL({names[0]} || run) is summed over the whole vocabulary at each of the {positions:,} positions of "
            f"{where}, behind the prompt as {names[0]} is asked; its mean is an estimate for texts like these."
        )
    measures["KL from the base"] = values
    for place, name in enumerate(names):
        if digests[place] is None:
            notes.append(f"{name} tells no probabilities of all tokens: no KL, no bits per byte.")
        elif place not in same:
            notes.append(f"{name} has another vocabulary than {names[0]}, so no KL is told.")


def _digest(run: Run) -> str | None:
    """What tells vocabularies apart; None of a model of somebody else's."""
    return None if isinstance(run.system, ForeignModel) else vocabulary_of(run.data).digest


def _references(
    runs: Sequence[Run],
    asks: Sequence[Prompt],
    begun: Sequence[Sequence[Sequence[int]]],
    measures: dict[str, list[float | None]],
    notes: list[str],
) -> None:
    """Bits per byte of the references that there are."""
    given = [i for i, p in enumerate(asks) if p.reference]
    if not given:
        return
    size = sum(len((asks[i].reference or "").encode()) for i in given)
    measures["bits per byte"] = [
        sum(surprise(run, tokens[i], asks[i].reference or "") for i in given) / size
        if _digest(run) is not None
        else None
        for run, tokens in zip(runs, begun, strict=True)
    ]
    if len(given) < len(asks):
        notes.append(f"{len(asks) - len(given)} of {len(asks)} prompts have no reference.")


def _judged(
    judge: Run,
    names: Sequence[str],
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[str]],
    measures: dict[str, list[float | None]],
    notes: list[str],
) -> None:
    """Mean rewards or ratings, and how often each run's answer beats the base's to the same prompt; ties count half."""
    texts, rates = [p.text for p in prompts], can_rate(judge)
    references = [p.reference for p in prompts]
    rewards: list[list[float | None]] = [
        ratings(judge, texts, said, references) if rates else list(judged(judge, texts, said))
        for said in answers
    ]
    told = [[v for v in values if v is not None] for values in rewards]
    measures["rating" if rates else "reward"] = [sum(v) / len(v) if v else None for v in told]
    wins: list[float | None] = [None]
    for values in rewards[1:]:
        pairs = [
            (a, b) for a, b in zip(values, rewards[0], strict=True)
            if a is not None and b is not None
        ]  # fmt: skip
        wins.append(sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs) if pairs else None)
    measures["win rate"] = wins
    error = 0.5 / len(prompts) ** 0.5
    notes.append(
        f"Judged by {judge.place}: the win rate is the share of {len(prompts)} prompts on which an answer is worth more than "
        f"that of {names[0]} (chance alone: 0.5, give or take {error:.2f})."
    )
    if unread := sum(value is None for values in rewards for value in values):
        notes.append(
            f"The judge gave no number for {unread} of {sum(map(len, rewards))} answers; these do not count."
        )


def _answers(
    runs: Sequence[Run], answers: Sequence[Sequence[str]], measures: dict[str, list[float | None]]
) -> None:
    """Length and variety of what was said."""
    for run, said in zip(runs, answers, strict=True):
        tokens = None
        if _digest(run) is not None:
            words = vocabulary_of(run.data)
            tokens = sum(len(words.encode(text)) for text in said) / len(said)
        values: dict[str, float | None] = {
            "tokens": tokens,
            "characters": sum(map(len, said)) / len(said),
            "distinct-1": distinct(said, 1),
            "distinct-2": distinct(said, 2),
            "repeated 4-grams": repeated(said),
        }
        for name, value in values.items():
            measures.setdefault(name, []).append(value)


def _names(runs: Sequence[Run]) -> list[str]:
    """The runs' folders, as short as they differ."""
    full = [run.place for run in runs]
    short = [run.folder.name if run.folder else run.place for run in runs]
    if len(set(short)) == len(short):
        return short
    return full if len(set(full)) == len(full) else [f"{n}: {p}" for n, p in enumerate(full, 1)]


def _row(cells: Sequence[Any]) -> str:
    from fourfold.look.page import cell

    said = (cell(c).replace("|", "\\|").replace("\n", "<br>") for c in cells)
    return f"| {' | '.join(said)} |"
