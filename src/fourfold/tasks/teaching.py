"""Sequence-level distillation: a teacher's translations as targets. Kim & Rush 2016.

The teacher translates the sources once; its translations are kept in the student's run, as they come, so that a fit
that was stopped goes on with them. Teacher and student have one vocabulary: the student takes over the teacher's.

The validation targets are the teacher's too, as they choose the weights that are kept: what the references' loss prefers
is a student that has learned less of the teacher (17.3 BLEU was kept of a fit that ended at 23.4).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.parts import Split
from fourfold.core.run import Run
from fourfold.data.pairs import Encoded, PairData, Pairs, pair_data
from fourfold.tasks.translation import Translator
from fourfold.tasks.translation_decoding import Decoding

FILES: dict[Split, str] = {"train": "teacher.jsonl", "valid": "teacher-valid.jsonl"}
"""In the student's folder, by split: what was asked of whom, then a translation a line, in the order of the pairs."""
NAMES: dict[Split, str] = {"train": "training", "valid": "validation"}
AT_ONCE = 512
"""Sources that are translated between two writes."""
LONG = 2.0
"""How many times longer than usual for its source a translation may be: a longer one goes round in circles."""
SPARE = 4
"""Tokens that a translation may have beyond that, so that short sources have room."""
PREPARED = ("unit", "source_unit", "target_unit", "shared", "vocabulary", "min_count", "tokenizer")
"""Options of pairs that make the vocabularies."""


class Distilled(PairData):
    """Pairs whose training and validation targets are a teacher's."""


def opened(teacher: str) -> Run:
    """The teacher's run.

    Raises:
        UserError: there is no such run, or it does not translate.
    """
    run = Run.open(teacher)
    if not isinstance(run.system, Translator):
        raise UserError(f"--teacher {teacher}: a run of {run.system.name} does not translate")
    return run


def taken_over(run: Run, options: Pairs, default: Pairs, teacher: str) -> tuple[PairData, Pairs]:
    """A run's pairs in its teacher's vocabulary, and the options that say so.

    Args:
        run: with its pairs, just opened.
        options: of its data.
        default: what these are where the user says nothing.
        teacher: the run to learn from.

    Raises:
        UserError: the user asked for another vocabulary than the teacher's.
    """
    ours, other = pair_data(run.data), opened(teacher)
    theirs = pair_data(other.data)
    if _digests(ours) == _digests(theirs):
        return ours, options
    before = other.system.data.model_dump()
    for name in PREPARED:
        asked = getattr(options, name)
        if asked != getattr(default, name) and asked != before[name]:
            there = "what suited its pairs" if before[name] is None else repr(before[name])
            raise UserError(
                f"--teacher {teacher}: has another vocabulary: data.{name} is {there} there and {asked!r} here; "
                f"leave --data.{name} out and the teacher's vocabulary is taken over"
            )
    same = options.model_copy(update={name: before[name] for name in PREPARED})
    vocabularies = theirs.source_vocabulary, theirs.target_vocabulary
    adopted = PairData(same, vocabularies, run.seed, ours.fingerprint, ours._about)
    run.note(f"The vocabulary is that of the teacher {teacher}.")
    return adopted.reopen(run.sources, seed=run.seed, valid=run.valid), same


def _digests(data: PairData) -> tuple[str, str]:
    return data.source_vocabulary.digest, data.target_vocabulary.digest


def distilled(run: Run, teacher: str, beam: int) -> Distilled:
    """The run's pairs with the teacher's translations of the training and validation sources as targets.

    A pair of which the teacher says nothing keeps its own target: silence is no translation to learn. So does one of which
    it says far more than usual: a teacher that searches greedily may say the same words again and again.

    Args:
        run: with its pairs opened.
        teacher: the run that translates; not opened where all its translations are there already.
        beam: hypotheses that it keeps at each step.

    Raises:
        UserError: the teacher is not there, has another vocabulary, or says nothing of any source; or the translations here
            are of another one.
    """
    data = pair_data(run.data)
    assert data._splits is not None  # noqa: S101  # the caller has seen that they are open
    splits = dict(data._splits)
    for split in FILES:
        if data.size(split):
            splits[split] = _retold(run, data, split, teacher, beam)
    found = Distilled(
        data.options,
        (data.source_vocabulary, data.target_vocabulary),
        data.seed,
        data.fingerprint,
        data._about,
        splits,
    )
    found.load_state_dict(data.state_dict())
    return found


def _retold(run: Run, data: PairData, split: Split, teacher: str, beam: int) -> Encoded:
    """A split with the teacher's translations in place of its targets."""
    held = data._split(split)
    said = _said(run, data, split, teacher, beam)
    lengths = held.lengths[0]
    usual = [
        len(row) <= LONG * data.usual_ratio * n + SPARE
        for row, n in zip(said, lengths, strict=True)
    ]
    if split == "train":
        _tell(run, said, usual, teacher, beam)
    own = zip(held.begins[1], held.begins[1][1:], strict=False)
    rows = [
        [*row, data.end] if row and fits else held.tokens[1][begin:end].tolist()
        for row, fits, (begin, end) in zip(said, usual, own, strict=True)
    ]
    tokens = np.concatenate([np.asarray(row, held.tokens[1].dtype) for row in rows])
    begins = np.cumsum([0, *map(len, rows)])
    texts = held.texts  # of the validation split, the references: BLEU is measured on them
    if split == "train":
        told = [data.target_vocabulary.decode([t for t in row if t != data.end]) for row in rows]
        texts = held.texts[0], told
    return Encoded((held.tokens[0], tokens), (held.begins[0], begins), texts, held.unknown)


def _said(run: Run, data: PairData, split: Split, teacher: str, beam: int) -> list[list[int]]:
    """What the teacher says of a split's sources: what is kept in the run's folder, and the rest."""
    held, name = data._split(split), NAMES[split]
    sources = [
        held.tokens[0][begin:end].tolist()
        for begin, end in zip(held.begins[0], held.begins[0][1:], strict=False)
    ]
    path = run.folder / FILES[split] if run.folder is not None else None
    head = {"teacher": str(teacher), "beam": beam, "pairs": len(sources), "data": data.fingerprint}
    said = _kept(path, head)
    if len(said) < len(sources):
        run.console.say(f"{teacher} translates {len(sources):,} {name} sources, once")
        done = len(said)
        rest = sources[done:]
        for some in _translated(data, teacher, beam, rest, path, head if not done else None):
            said += some
            if len(said) * 10 // len(sources) > done * 10 // len(sources):
                run.console.say(f"{len(said):,} of {len(sources):,} {name} sources translated")
            done = len(said)
    if not any(said):
        raise UserError(
            f"--teacher {teacher}: its translations of all {len(said):,} {name} sources are empty; fit it longer, or leave "
            "--teacher out"
        )
    return said


def _tell(run: Run, said: list[list[int]], usual: list[bool], teacher: str, beam: int) -> None:
    """Note what is learned from, and of how many pairs the own targets are."""
    empty, endless = sum(not row for row in said), usual.count(False)
    own = ": their own targets are learned"
    run.note(
        f"Learned from the translations of {len(said):,} training sources by {teacher} (beam {beam})"
        + (f"; {empty:,} of them are empty{own}" if empty else "")
        + (
            f"; {endless:,} of them are more than {LONG:g} times as long as usual{own}"
            if endless
            else ""
        )
        + "; the validation loss, which chooses the weights, is that of its translations too."
    )


def _translated(
    data: PairData,
    teacher: str,
    beam: int,
    sources: list[list[int]],
    path: Path | None,
    head: dict[str, Any] | None,
) -> Iterator[list[list[int]]]:
    """The teacher's translations, some at a time, each written before it is handed over."""
    other = opened(teacher)
    if _digests(pair_data(other.data)) != _digests(data):
        raise UserError(f"--teacher {teacher}: has another vocabulary than this run")
    if path is not None and head is not None:
        path.write_text(json.dumps(head) + "\n", encoding="utf-8")
    system: Any = other.system
    limit = data.options.longest - 1  # the end token follows
    for start in range(0, len(sources), AT_ONCE):
        outputs = system._decode(other, sources[start : start + AT_ONCE], Decoding(beam=beam))
        rows = [best[0].tokens[:limit] for best in outputs]
        if path is not None:
            with path.open("a", encoding="utf-8") as file:
                for row in rows:
                    text = data.target_vocabulary.decode(row)
                    file.write(json.dumps({"tokens": row, "text": text}, ensure_ascii=False) + "\n")
        yield rows


def _kept(path: Path | None, head: dict[str, Any]) -> list[list[int]]:
    """Translations that are there already; a last line that was not written to its end is written again."""
    if path is None or not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    lines = whole.decode("utf-8").split("\n")[:-1]
    if not lines:
        return []
    if json.loads(lines[0]) != head:
        raise UserError(
            f"{path}: holds translations that were made otherwise ({lines[0]}); remove it to make them anew"
        )
    if len(whole) < len(content):
        path.write_bytes(whole)
    return [json.loads(line)["tokens"] for line in lines[1:]]
