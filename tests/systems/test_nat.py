"""nat: what a user may ask of it, what is refused, and several right translations that mix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourfold import api
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.systems.nat import AllWordsAtOnce, _length
from fourfold.tasks.multimodality import repetitions

DIGITS = [str(7919 * n % 100_000) for n in range(300)]
PAIRS = {"source": DIGITS, "target": DIGITS}


@pytest.fixture(scope="module")
def run() -> Run:
    toy, _ = AllWordsAtOnce.toy()
    return api.fit(toy, PAIRS, out=False, **{"optimizer.steps": 150, "optimizer.lr": 1e-2})


def said(run: Run, text: Any, **options: Any) -> Any:
    found = list(run.translate(text, **options))
    return found[0] if isinstance(text, str) else found


def test_the_output_has_as_many_tokens_as_the_user_wants(run: Run) -> None:
    for size in (1, 3, 9):
        assert len(said(run, "12345", length=str(size))) == size
    plain = len(said(run, "12345"))
    assert len(said(run, "12345", length="x2")) == 2 * plain
    assert len(said(run, "12345", length="x0.2")) == max(1, round(plain * 0.2))


@pytest.mark.parametrize("wrong", ["x", "0", "x0", "-3", "1.5", "many", "x-1", "12 words"])
def test_a_length_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(UserError, match="as 12, or a factor"):
        _length(wrong)


def test_several_texts_are_translated_as_one_by_one(run: Run) -> None:
    texts = ["123", "98765", "", "4"]
    together = said(run, texts, passes=4, candidates=2)
    assert together == [f"{said(run, text, passes=4, candidates=2)}\n" for text in texts]
    assert together[2] == "\n"


def test_what_a_run_cannot_do_is_said() -> None:
    toy, _ = AllWordsAtOnce.toy()
    few = {"optimizer.steps": 2, "reveal": "none"}
    ctc = api.fit(toy, PAIRS, out=False, length="ctc", **few)
    with pytest.raises(UserError, match="--passes 2"):
        said(ctc, "1", passes=2)
    with pytest.raises(UserError, match="--candidates 3"):
        said(ctc, "1", candidates=3)
    with pytest.raises(UserError, match="--length 1000"):
        said(ctc, "1", length="1000")
    with pytest.raises(UserError, match="--reveal masks"):
        api.fit(toy, PAIRS, out=False, length="ctc", reveal="masks", **{"optimizer.steps": 2})


def test_targets_without_room_are_counted_and_said() -> None:
    toy, _ = AllWordsAtOnce.toy()
    many = {"source": DIGITS, "target": [3 * digits for digits in DIGITS]}
    options = {
        "length": "ctc",
        "reveal": "none",
        "optimizer.steps": 2,
        "upsample": 1.0,
        "data.ratio": None,
    }
    found = api.fit(toy, many, out=False, **options)
    assert any(
        "training targets have more tokens" in note and "--upsample" in note for note in found.notes
    )


def test_repeated_words_are_counted_in_every_script() -> None:
    assert repetitions(["a a b", "c d"]) == (1 / 5, 1 / 2)
    assert repetitions(["我我爱你", "好"]) == (1 / 5, 1 / 2)
    assert repetitions([]) == (0.0, 0.0)


def test_the_report_shows_quality_against_speed_and_where_slots_hesitate(run: Run) -> None:
    tables = {table.title: table for table in run.system.tables(run)}
    ways = tables["Words said all at once"]
    assert [row[0] for row in ways.rows] == [
        "1 pass", "1 pass, best of 3 lengths", "4 passes", "10 passes", "references"
    ]  # fmt: skip
    assert "targets themselves" in ways.caption
    assert tables["Slots that hesitate"].rows
    assert any(picture.title == "Quality against speed" for picture in run.system.pictures(run))


# --- several right translations -----------------------------------------------------------------------------

LOWER, UPPER = "abcdefghij", "ABCDEFGHIJ"
SMALL: dict[str, Any] = {
    "data.unit": "character", "data.split": (0.98, 0.02, 0.0), "width": 64, "heads": 4, "layers": 2, "dropout": 0.0,
    "smoothing": 0.0, "optimizer.algorithm": "muon", "optimizer.arguments": {}, "optimizer.lr": 0.02,
    "optimizer.schedule": "wsd", "optimizer.warmup": 20, "optimizer.decay_from": 0.4, "optimizer.decay": 0.0,
    "optimizer.evaluate_every": "100%",
}  # fmt: skip


def two_ways(count: int, seed: int) -> dict[str, list[str]]:
    """Digits, spelled in small letters or in capitals: each is right, a mixture of both is not."""
    random = np.random.default_rng(seed)
    sources = [
        "".join(random.choice(list("0123456789"), random.integers(4, 9))) for _ in range(count)
    ]
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
        o in ("".join(way[int(d)] for d in source) for way in (LOWER, UPPER))
        for source, o in zip(sources, outputs, strict=True)
    ]
    return float(np.mean(both)), float(np.mean(right))


@pytest.mark.slow
def test_translations_mix_where_targets_have_several_and_a_teacher_mends_it(tmp_path: Path) -> None:
    pairs, sources = two_ways(10_000, 0), two_ways(200, 7)["source"]
    steps = {"optimizer.steps": 300}
    teacher = api.fit("transformer", pairs, out=tmp_path / "teacher", **SMALL, **steps)
    assert mixed(teacher, sources, beam=1) == (0.0, 1.0)  # each word sees those before it
    plain = api.fit("nat", pairs, out=False, length="predicted", **SMALL, **steps)
    taught = {"teacher": str(tmp_path / "teacher"), "length": "predicted"}
    distilled = api.fit("nat", pairs, out=False, **taught, **SMALL, **steps)
    assert mixed(plain, sources)[0] > 0.5
    share, right = mixed(distilled, sources)
    assert share < 0.05 and right > 0.95
