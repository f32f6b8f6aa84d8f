"""A teacher's translations in place of the targets: made once, kept, gone on with, in its vocabulary."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourfold import api
from fourfold.core.errors import UserError
from fourfold.core.parts import Split
from fourfold.core.run import Run
from fourfold.data.pairs import pair_data
from fourfold.systems.nat import AllWordsAtOnce
from fourfold.systems.transformer import TransformerTranslator
from fourfold.tasks import teaching
from fourfold.tasks.teaching import FILES, Distilled

NUMBERS = [str(7919 * n % 100_000) for n in range(200)]
PAIRS = {"source": NUMBERS, "target": [number[::-1] for number in NUMBERS]}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: Any) -> Path:
    toy, _ = TransformerTranslator.toy()
    folder = tmp_path_factory.mktemp("teacher") / "run"
    api.fit(toy, PAIRS, out=folder, **{"optimizer.steps": 100, "optimizer.lr": 1e-2})
    return folder


def student(teacher: Path, out: Any, **options: Any) -> Run:
    toy, _ = AllWordsAtOnce.toy()
    steps = {"steps": 2, "evaluate_every": "100%"}
    configured = api.configure(toy, {"teacher": str(teacher), "optimizer": steps, **options})
    return api.fit(configured, PAIRS, out=out)


def targets(run: Run, split: Split = "train") -> list[str]:
    data = pair_data(run.examples())
    held = data._split(split)
    begins = held.begins[1]
    rows = [held.tokens[1][a:b] for a, b in zip(begins, begins[1:], strict=False)]
    assert all(int(row[-1]) == data.end for row in rows)
    return [data.target_vocabulary.decode(row[:-1]) for row in rows]


def test_the_teachers_translations_are_the_targets(teacher: Path, tmp_path: Path) -> None:
    run = student(teacher, tmp_path / "run")
    data = pair_data(run.examples())
    assert isinstance(data, Distilled)
    sources = data.texts("train")[0]
    said = [text.rstrip("\n") for text in api.open(teacher).translate(sources, beam=1)]
    # one that goes round in circles is no translation: more than twice as long as usual, and 4
    limits = [2 * data.usual_ratio * (len(source) + 1) + 4 for source in sources]
    expected = [
        text if len(text) <= most else source[::-1]
        for text, source, most in zip(said, sources, limits, strict=True)
    ]
    assert targets(run) == expected
    endless = sum(len(text) > most for text, most in zip(said, limits, strict=True))
    assert sum(f"{endless} of them are more than 2 times" in n for n in run.notes) == (endless > 0)
    lines = (tmp_path / "run" / FILES["train"]).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + data.size("train")
    assert json.loads(lines[0])["teacher"] == str(teacher)
    assert any("Learned from the translations of" in note for note in run.notes)
    # the validation loss, which chooses the weights, is that of the teacher's translations ...
    sources, references = data.texts("valid")
    said = [text.rstrip("\n") for text in api.open(teacher).translate(sources, beam=1)]
    assert said != references
    assert targets(run, "valid") == said
    lines = (tmp_path / "run" / FILES["valid"]).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines[1:]] == said
    # ... and BLEU that of the right answers
    assert references == [source[::-1] for source in sources]
    assert targets(run, "test") == [text[::-1] for text in data.texts("test")[0]]


def test_translations_are_made_once_and_gone_on_with(teacher: Path, tmp_path: Path) -> None:
    gone = tmp_path / "teacher"
    shutil.copytree(teacher, gone)
    run = student(gone, tmp_path / "run")
    path = tmp_path / "run" / FILES["train"]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])  # killed in the middle of a line
    resumed = api.resume(tmp_path / "run", source=PAIRS)
    assert path.read_bytes() == whole
    assert targets(resumed) == targets(run)
    shutil.rmtree(gone)  # all is there: the teacher is not asked again
    again = api.resume(tmp_path / "run", source=PAIRS)
    assert isinstance(again.examples(), Distilled)
    assert Run.open(tmp_path / "run").translate("123") is not None
    head, _, rest = whole.partition(b"\n")
    path.write_bytes(head.replace(b'"beam": 1', b'"beam": 4') + b"\n" + rest)
    with pytest.raises(UserError, match="made otherwise"):
        api.resume(tmp_path / "run", source=PAIRS)


def test_the_students_vocabulary_is_the_teachers(teacher: Path) -> None:
    other = {"source": [*NUMBERS[:50], "abc"] * 2, "target": [*NUMBERS[:50], "abc"] * 2}
    toy, _ = AllWordsAtOnce.toy()
    steps = {"steps": 2, "evaluate_every": "100%"}
    taught = api.open(teacher)
    plain = AllWordsAtOnce(
        layers=1,
        width=16,
        heads=2,
        teacher=str(teacher),
        optimizer=api.configure(toy, {"optimizer": steps}).optimizer,
    )
    run = api.fit(plain, other, out=False)
    mine, theirs = pair_data(run.data), pair_data(taught.data)
    assert mine.target_vocabulary.digest == theirs.target_vocabulary.digest
    assert run.system.data.unit == "character"  # type: ignore[attr-defined]
    assert any("vocabulary is that of the teacher" in note for note in run.notes)
    with pytest.raises(UserError, match="another vocabulary: data.unit"):
        api.fit(plain, other, out=False, **{"data.unit": "byte"})


def test_a_teacher_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing"):
        student(tmp_path / "nothing", False)


def test_a_student_in_memory_learns_the_same(teacher: Path, tmp_path: Path) -> None:
    in_memory, kept = student(teacher, False), student(teacher, tmp_path / "run")
    assert targets(in_memory) == targets(kept)
    wide = teaching.distilled(student(teacher, False, teacher_beam=3), str(teacher), 3)
    assert wide.size("train") == pair_data(kept.examples()).size("train")


def test_what_a_teacher_leaves_empty_is_not_learned(
    teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {source: source[::-1] for source in NUMBERS}
    run = student(teacher, False)
    found, sources = targets(run), pair_data(run.examples()).texts("train")[0]
    made = teaching._translated
    monkeypatch.setattr(teaching, "_translated", lambda *a: ([[], *rows[1:]] for rows in made(*a)))
    some = student(teacher, False)
    assert targets(some) == [own[sources[0]], *found[1:]]
    assert pair_data(some.examples()).texts("train")[1] == targets(some)
    assert any("1 of them are empty: their own targets" in note for note in some.notes)
    monkeypatch.setattr(
        teaching, "_translated", lambda *a: ([[] for _ in rows] for rows in made(*a))
    )
    with pytest.raises(UserError, match="training sources are empty; fit it longer"):
        student(teacher, False)


def test_a_translation_without_end_is_not_learned(
    teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = student(teacher, False)
    found, sources = targets(run), pair_data(run.examples()).texts("train")[0]
    made = teaching._translated
    monkeypatch.setattr(
        teaching, "_translated", lambda *a: ([[5] * 100, *rows[1:]] for rows in made(*a))
    )
    some = student(teacher, False)
    assert targets(some) == [sources[0][::-1], *found[1:]]
    assert any("more than 2 times as long as usual" in note for note in some.notes)


# --- several right translations ---------------------------------------------------------------------------

LOWER, UPPER = "abcdefghij", "ABCDEFGHIJ"
SMALL: dict[str, Any] = {
    "data.unit": "character", "data.split": (0.98, 0.02, 0.0), "data.batch": 2048, "width": 48, "heads": 3, "layers": 1,
    "dropout": 0.0, "smoothing": 0.0, "optimizer.algorithm": "muon", "optimizer.arguments": {}, "optimizer.lr": 0.02,
    "optimizer.schedule": "wsd", "optimizer.warmup": 10, "optimizer.decay_from": 0.4, "optimizer.decay": 0.0,
    "optimizer.evaluate_every": "100%",
}  # fmt: skip


def two_ways(count: int, seed: int) -> dict[str, list[str]]:
    """Digits, spelled in small letters or in capitals: each is right, a mixture of both is not."""
    random = np.random.default_rng(seed)
    digits = list("0123456789")
    sources = ["".join(random.choice(digits, random.integers(4, 7))) for _ in range(count)]
    ways = random.integers(0, 2, count)
    said = [
        "".join((LOWER, UPPER)[way][int(digit)] for digit in source)
        for source, way in zip(sources, ways, strict=True)
    ]
    return {"source": sources, "target": said}


def mixed(run: Run, sources: list[str], **options: Any) -> tuple[float, float]:
    """Share of the outputs that mix both ways, and of those that are right in one."""
    outputs = [text.rstrip("\n") for text in run.translate(sources, **options)]
    both = [any(c in LOWER for c in o) and any(c in UPPER for c in o) for o in outputs]
    right = [
        o in ["".join(way[int(digit)] for digit in source) for way in (LOWER, UPPER)]
        for source, o in zip(sources, outputs, strict=True)
    ]
    return float(np.mean(both)), float(np.mean(right))


@pytest.mark.slow
def test_translations_mix_where_there_are_several_and_a_teacher_mends_it(tmp_path: Path) -> None:
    """Mixed outputs: none of the teacher's, 57.5% without it, 7.5% with it; 12 seconds of one core."""
    pairs, sources = two_ways(4000, 0), two_ways(200, 7)["source"]
    taught = api.fit(
        "transformer", pairs, out=tmp_path / "run", **SMALL, **{"optimizer.steps": 200}
    )
    share, right = mixed(taught, sources, beam=1)
    assert share < 0.02 and right > 0.98  # each letter sees those before it
    some: dict[str, Any] = {"length": "predicted", "optimizer.steps": 150}
    plain = api.fit("nat", pairs, out=False, **SMALL, **some)
    distilled = api.fit("nat", pairs, out=False, teacher=str(tmp_path / "run"), **SMALL, **some)
    assert mixed(plain, sources)[0] > 0.4
    share, right = mixed(distilled, sources)
    assert share < 0.2 and right > 0.8
