"""nat: what a user may ask of it, what is refused, and what its report shows."""

from __future__ import annotations

from typing import Any

import pytest

from fourfold import api
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.systems.nat import AllWordsAtOnce, _length
from fourfold.systems.transformer import TransformerTranslator
from fourfold.tasks.multimodality import Setting, repetitions, settings_picture

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


@pytest.mark.parametrize("length", ["ctc", "overlong"])
def test_targets_without_room_are_counted_and_said(length: str) -> None:
    toy, _ = AllWordsAtOnce.toy()
    many = {"source": DIGITS, "target": [3 * digits for digits in DIGITS]}
    options = {
        "length": length,
        "reveal": "none",
        "optimizer.steps": 2,
        "upsample": 1.0,
        "data.ratio": None,
    }
    found = api.fit(toy, many, out=False, **options)
    assert any(
        "training targets have more tokens" in note and "--upsample" in note for note in found.notes
    )


def test_targets_beyond_every_predicted_length_are_counted_and_said() -> None:
    toy, _ = AllWordsAtOnce.toy()
    texts = ["1" * 80, *DIGITS]  # 80 and an end token beside 16 and 17 tokens: 65 and 64 apart
    for size, far in ((16, True), (17, False)):
        targets = ["1" * size, *DIGITS]
        split = (1.0, 0.0, 0.0)
        options = {"data.ratio": None, "data.split": split, "optimizer.steps": 2}
        run = api.fit(toy, {"source": texts, "target": targets}, out=False, **options)
        assert (
            any(note.startswith("1 training targets are more than 64") for note in run.notes) == far
        )


@pytest.mark.parametrize("kind", [AllWordsAtOnce, TransformerTranslator])
def test_the_scale_of_the_products_and_the_base_of_the_waves_are_the_models(kind: Any) -> None:
    toy, _ = kind.toy()
    options = {"scale": 1.0, "rotary_base": 100.0, "optimizer.steps": 2}
    model: Any = api.fit(toy, PAIRS, out=False, **options).model
    assert model.decoder[0].cross.factor == model.encoder[0].attention.factor == 8**0.5
    assert model.source_positions.base == model.target_positions.base == 100


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
    # outputs of one word have no BLEU and so no picture of it
    assert not any(p.title == "Quality against speed" for p in run.system.pictures(run))
    some = [Setting("1 pass", 20.0, 300.0, 0.1, 0.2), Setting("references", None, None, 0.0, 0.0)]
    assert settings_picture(some).png.startswith(b"\x89PNG")
