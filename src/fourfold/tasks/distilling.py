"""A language model that may learn from another one: which run that is, and what it writes for the student.

Sequence-level distillation, Kim & Rush 2016: the student trains on texts of its teacher. Here they are drawn from the
teacher's distribution (temperature 1), each after the first quarter of a window of the student's training split. They
are kept in the cache under what they depend on, written batch by batch, so that writing goes on where it was stopped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Self

import numpy as np
import torch
from pydantic import Field

from fourfold.core.errors import Interrupted, UserError
from fourfold.core.run import Run
from fourfold.core.state import refused
from fourfold.data.catalog import cache_folder
from fourfold.data.text import Text, TextData
from fourfold.data.vocabulary import Vocabulary
from fourfold.models.sampling import Sampling
from fourfold.objectives.distillation import Distil
from fourfold.objectives.likelihood import NextToken
from fourfold.tasks.language import LanguageModel, text_data, vocabulary_of

NextTokenOrTeacher = Annotated[NextToken | Distil, Field(discriminator="kind")]
"""The choices for a system's `objective`."""
FORMAT = 2
ROWS = 32
"""Texts written at once; what is in the cache is whole batches."""
BEGUN = 4
"""One part in so many of a text is the source's, the rest the teacher's."""


class Distilling(LanguageModel):
    """A language model whose objective may be `Distil`: `--teacher RUN` alone chooses it."""

    objective: NextTokenOrTeacher = NextToken()

    def prepared_by(self) -> str | None:
        """The teacher: its student reads the same tokens."""
        return self.objective.teacher if isinstance(self.objective, Distil) else None

    def suited(self, run: Run) -> Self:
        """Names the teacher by its place and the fingerprint of its weights; lets it write, where that is asked."""
        chosen = super().suited(run)
        if not isinstance(self.objective, Distil):
            return chosen
        objective = self.objective.named()
        run.note(
            f"Learns from {objective.teacher} ({objective.how}; fingerprint {str(objective.fingerprint)[:12]}), "
            "whose vocabulary it takes over."
        )
        chosen = chosen.model_copy(update={"objective": objective})
        options = chosen.data
        if objective.how == "sequence" and isinstance(options, Text) and options.training is None:
            options = options.model_copy(update={"training": str(written(run, objective))})
            data = options.adopt(run.data, run.sources, seed=run.seed, valid=run.valid)
            assert data is not None  # noqa: S101  # it has a vocabulary
            run.data = data
            chosen = chosen.model_copy(update={"data": options})
        return chosen


def written(run: Run, objective: Distil) -> Path:
    """The file of texts that a teacher writes for a student, from the cache or made now.

    Args:
        run: the student's, with its data.
        objective: names the teacher, its fingerprint and how many texts.

    Returns:
        A .jsonl file with {"text": ...} a line.

    Raises:
        UserError: the teacher is no language model, or the file cannot be written.
        Interrupted: it was stopped; the same command goes on.
    """
    teacher = Run.open(str(objective.teacher), device=str(run.device))
    if not isinstance(teacher.system, LanguageModel):
        raise UserError(
            f"--teacher {teacher.folder}: is a run of {teacher.system.name}, which writes no texts"
        )
    data = text_data(run.data)
    key = [FORMAT, objective.fingerprint, data.fingerprint, data.window, objective.sequences, run.seed, ROWS]  # fmt: skip
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    path = cache_folder() / "written" / f"{name}.jsonl"
    if path.exists():
        run.note(f"The {objective.sequences:,} texts of the teacher are in {path} already.")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".part").open("a+b") as file:
            _write(file, run, teacher, data, objective.sequences)
            os.fsync(file.fileno())
        os.replace(path.with_suffix(".part"), path)
    except OSError as error:
        why = refused(error) or error.strerror
        raise UserError(f"{path}: {why}; FOURFOLD_CACHE names another place") from error
    run.note(f"The teacher wrote {objective.sequences:,} texts to train on: {path}.")
    return path


def _write(file: IO[bytes], run: Run, teacher: Run, data: TextData, count: int) -> None:
    """Append what is missing, from the first batch that is not whole on."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(
            f"{file.name}: another fit is writing these texts now; wait for it"
        ) from None
    file.seek(0)
    lines = file.read().splitlines(keepends=True)
    whole = sum(line.endswith(b"\n") for line in lines) // ROWS * ROWS
    file.truncate(sum(map(len, lines[:whole])))
    prompts = _prompts(data, count, run.seed)
    run.console.say(
        f"The teacher writes {count:,} texts of {data.window} tokens"
        + (f"; {whole:,} are there already." if whole else ".")
    )
    try:
        for first in range(whole, count, ROWS):
            some = prompts[first : first + ROWS]
            for text in _texts(teacher, some, data.window, run.seed, first):
                file.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
            file.flush()
            if first // ROWS % 8 == 7:
                run.console.say(f"{min(first + ROWS, count):,} of {count:,} texts")
    except KeyboardInterrupt:
        done = f"some of the {count:,} texts of the teacher, which are kept"
        command = str(run.about.get("command", ""))
        raise Interrupted(signal.SIGINT, 0, command, after=done) from None


def _prompts(data: TextData, count: int, seed: int) -> list[str]:
    """Beginnings from random places of the training split, in the document that each place is in."""
    tokens, length = data.tokens("train"), max(1, data.window // BEGUN)
    generator = np.random.default_rng([seed, 0x7EAC4E6])
    starts = generator.integers(0, max(1, len(tokens) - length), size=count)
    found = []
    for start in starts.tolist():
        piece = np.asarray(tokens[start : start + length], np.int64)
        ends = np.flatnonzero(piece == data.vocabulary.end)
        piece = piece[ends[-1] + 1 :] if len(ends) else piece
        # the token that begins a document is no text: spelled out it would be read as letters
        begin = -1 if data.vocabulary.begin is None else data.vocabulary.begin
        found.append(data.vocabulary.decode(piece[piece != begin]))
    return found


def _texts(teacher: Run, prompts: list[str], length: int, seed: int, first: int) -> Iterator[str]:
    """What a teacher makes of prompts: each with its continuation, `length` tokens together."""
    vocabulary = vocabulary_of(teacher.data)
    starts = [vocabulary.encode(prompt).tolist()[: length - 1] for prompt in prompts]
    generators = [
        torch.Generator(teacher.device).manual_seed((seed * 1_000_003 + first + row) % 2**63)
        for row in range(len(prompts))
    ]
    said: list[list[int]] = [list(start) for start in starts]
    # a special token that ends nothing would be spelled in the text that is kept
    never = {*vocabulary.never, *vocabulary.specials()} - {*vocabulary.ends}
    system = teacher.system
    assert isinstance(system, LanguageModel)  # noqa: S101
    with torch.no_grad():
        stream = system.reader(teacher).read_on(
            starts,
            tokens=length,
            sampling=Sampling(temperature=1.0),
            generators=generators,
            never=sorted(never),
        )
        answer: bool | None = None
        while True:
            try:
                row, token = stream.send(answer)  # type: ignore[attr-defined]
            except StopIteration:
                break
            said[row].append(token)
            answer = len(said[row]) >= length
    for tokens in said:
        yield _certain(vocabulary, tokens)


def _certain(vocabulary: Vocabulary, tokens: list[int]) -> str:
    """The text of tokens, without half a character at its end."""
    decoder = vocabulary.decoder()
    return "".join(decoder.push(token) for token in tokens)
