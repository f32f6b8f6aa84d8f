"""The verbs of translation: lines, limits, unknown words, scores; on a small run that spells numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fourfold import api
from fourfold.core.console import Silent
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.pairs import pair_data
from fourfold.look.translation import quality_by_length
from fourfold.models.decoding import Output
from fourfold.systems.seq2seq import Sequences
from fourfold.tasks.translation_decoding import limits
from fourfold.tasks.translation_lines import copied
from fourfold.tasks.translation_scores import (
    by_groups,
    length_groups,
    measured,
    scores,
    tokenizer_of,
    utility,
)

WORDS = "nul een twee drie vier vijf zes zeven acht negen".split()


LEARNED = [*range(100), *range(100, 1000, 3), *range(1000, 10_000, 9)]


def _pairs(numbers: Iterable[int]) -> dict[str, list[str]]:
    return {
        "source": [" ".join(str(n)) for n in numbers],
        "target": [" ".join(WORDS[int(digit)] for digit in str(n)) for n in numbers],
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Learned to spell digits, which it knows by words."""
    fitted = api.fit(
        "seq2seq", _pairs(LEARNED), out=tmp_path_factory.mktemp("runs") / "spell", width=32, embedding=32,
        dropout=0.1, steps=300, attention="additive", objective={"smoothing": 0.0}, lr=1e-2, warmup=0,
        **{"data.unit": "word", "data.batch": 1500},
    )  # fmt: skip
    again = Run.open(fitted.folder)
    again.sources = _pairs(LEARNED)
    again.about.pop("in_memory")
    return again


class Heard(Silent):
    """What is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


def _text(pieces: Any) -> str:
    assert isinstance(pieces, Iterator)
    return "".join(pieces)


def test_it_has_learned(run: Run) -> None:
    assert _text(run.translate("3 0 7")) == "drie nul zeven"
    score = run.evaluate(_pairs(range(1001, 9001, 80)))
    assert score["equal"] > 0.95 and score["bleu"] > 95 and score["chrf"] > 95
    assert score["loss"] < 0.1
    assert any("tok:13a" in note and "version:" in note for note in score.notes)


def test_outputs_too_short_for_bleu_have_none(run: Run) -> None:
    score = run.evaluate({"source": ["1", "2 3"], "target": ["een", "twee drie"]})
    assert "bleu" not in score.values and score["chrf"] > 90
    assert any("no BLEU" in note for note in score.notes)


def test_documents_keep_their_lines(run: Run) -> None:
    text = "1 2\n\n3 4 5\n\n\n7\n"
    assert _text(run.translate(text)) == "een twee\n\ndrie vier vijf\n\n\nzeven\n"
    assert (
        _text(run.translate("1 2\n7")) == "een twee\nzeven"
    )  # which does not end its last line either
    assert _text(run.translate("")) == ""
    assert list(run.translate(["1", "2\n3", ""])) == ["een\n", "twee\ndrie\n", "\n"]


@pytest.mark.parametrize("how", [{"beam": 1}, {"beam": 4}, {"sample": True, "seed": 3}])
def test_a_text_is_answered_alike_in_any_company(run: Run, how: dict[str, Any]) -> None:
    alone = [_text(run.translate(text, **how)) for text in ("1 2 3", "9", "4 4")]
    together = [text.removesuffix("\n") for text in run.translate(["1 2 3", "9", "4 4"], **how)]
    assert together == alone


def test_the_best_are_a_table(run: Run) -> None:
    found = run.translate("1 2\n5", nbest=3)
    assert isinstance(found, pl.DataFrame)
    assert (
        found["line"].to_list() == [1, 1, 1, 2, 2, 2] and found["rank"].to_list() == [1, 2, 3] * 2
    )
    assert found["text"][0] == "een twee"
    for line in (1, 2):
        scores = found.filter(pl.col("line") == line)["score"].to_list()
        assert scores == sorted(scores, reverse=True) and scores[0] <= 0
    with pytest.raises(UserError, match="goes with beams"):
        run.translate("1", nbest=2, sample=True)


def test_draws_follow_their_seed(run: Run) -> None:
    how = {"sample": True, "temperature": 3.0}
    first, again, other = (_text(run.translate("1 2 3 4", seed=s, **how)) for s in (1, 1, 2))
    assert first == again and first != other
    assert _text(run.translate("1 2 3", risk=8, seed=0)) == "een twee drie"


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 0.5},
        {"top_p": 0.9},
        {"coverage": 0.2, "beam": 1},
        {"coverage": 0.2, "risk": 2},
    ],
)
def test_an_option_without_effect_is_refused(run: Run, how: dict[str, Any]) -> None:
    name = next(iter(how)).replace("_", "-")
    with pytest.raises(UserError, match=f"--{name} 0.[259]: goes with"):
        run.translate("1 2", **how)
    assert run.translate("1 2", temperature=1.0, coverage=0.0, beam=1) is not None


def test_a_paragraph_longer_than_what_was_learned_is_translated_by_sentences() -> None:
    numbers = [f"{7919 * n % 10_000:04d}" for n in range(200)]
    ends = {"source": [f"{n[:2]} {n[2:]}." for n in numbers], "target": numbers}
    toy, _ = Sequences.toy()
    fitted = api.fit(toy, ends, out=False, **{"optimizer.steps": 2})
    assert pair_data(fitted.data).common_length == 7  # six characters and the end
    heard = fitted.console = Heard()
    asked: list[list[int]] = []
    decode = Sequences._decode

    class Watched(Sequences):
        def _decode(self, run: Run, sources: list[list[int]], how: Any) -> Any:
            asked.extend(sources)
            return decode(self, run, sources, how)

    watched = Watched(**dict(fitted.system))
    spell = pair_data(fitted.data).source_vocabulary.decode
    list(watched.translate(fitted, "12. 34 56. 789.\n1 2 3 4 5 6\n1. 2.", beam=1))
    sources = sorted(spell(row[:-1]) for row in asked)
    # all that was learned from are single sentences: short ones side by side are taken apart too
    assert sources == ["1 2 3 4 5 6", "1.", "12.", "2.", "34 56.", "789."]
    assert any("sentence by sentence: 2" in sentence for sentence in heard.said)


def test_short_sentences_stay_together_where_that_was_learned() -> None:
    numbers = [f"{7919 * n % 10_000:04d}" for n in range(200)]
    toy, _ = Sequences.toy()
    for every, apart in ((3, 0), (1000, 1)):  # source of these has two sentences
        texts = [f"{n[:2]}{'. ' * (k % every == 0)}{n[2:]}." for k, n in enumerate(numbers)]
        run = api.fit(
            toy, {"source": texts, "target": numbers}, out=False, **{"optimizer.steps": 2}
        )
        heard = run.console = Heard()
        list(run.translate("1. 2.", beam=1))
        assert sum("sentence by sentence" in sentence for sentence in heard.said) == apart


def test_long_lines_are_split_cut_or_refused(run: Run) -> None:
    object.__setattr__(run.data.options, "longest", 4)
    try:
        heard = run.console = Heard()
        assert _text(run.translate("1 2 3 4 5 6", long="split")).split() == WORDS[1:7]
        assert "lines with more than 4 tokens, split into pieces: 1" in heard.said
        assert _text(run.translate("1 2 3 4 5 6", long="cut")).split() == WORDS[1:5]
        with pytest.raises(UserError, match="line 2 .* has 6 tokens, expected 4 at most"):
            run.translate("1\n1 2 3 4 5 6", long="error")
    finally:
        object.__setattr__(run.data.options, "longest", 256)


def test_words_that_nobody_knows_are_copied(run: Run) -> None:
    data = run.data
    rows, spelled = data.encode_sources(["1 Zürich 7"])
    unknown = data.target_vocabulary.unknown
    assert spelled == [["Zürich"]] and rows[0].count(data.source_vocabulary.unknown) == 1
    een, zeven = (int(data.target_vocabulary.encode(w)[0]) for w in ("een", "zeven"))
    said = copied(data, rows[0], spelled[0], Output([een, unknown, zeven], 0.0, 0.0, [0, 1, 2]))
    assert said == "een Zürich zeven"
    # what is known is copied as it reads, and without attention there is only the name
    assert copied(data, rows[0], spelled[0], Output([unknown], 0.0, 0.0, [2])) == "7"
    assert copied(data, rows[0], spelled[0], Output([unknown], 0.0, 0.0)) == "<unk>"


def test_outputs_end_at_their_limit(run: Run) -> None:
    import torch

    most = limits(run.data, torch.tensor([2, 10, 10_000]))
    assert most[0] < most[1] < most[2] == 256


def test_a_missing_package_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    score = run.evaluate(_pairs(range(5)))
    assert "bleu" not in score.values and "equal" in score.values
    assert any("pip install 'fourfold[translation]'" in note for note in score.notes)


def test_attention_is_explained(run: Run) -> None:
    found = run.explain("3 1 2")
    assert 'translated as "drie een twee"' in found.sentences[0]
    assert "Where each word of the target looked" in {p.title for p in found.pictures}


def test_quality_by_length_is_drawn() -> None:
    sources = [" ".join(["w"] * (1 + n % 30)) for n in range(300)]
    measure, groups = by_groups(sources, sources, sources)
    assert measure == "BLEU" and len(groups) > 3
    assert by_groups(["w w"], ["w w"], ["w w"])[0] == "chrF"
    assert quality_by_length({"a": groups, "b": groups}).png.startswith(b"\x89PNG")


def test_a_run_that_holds_nothing_out_shows_what_it_learned() -> None:
    fitted = api.fit(
        "seq2seq", _pairs(range(40)), out=False, width=8, embedding=8, steps=1,
        **{"data.unit": "word", "data.split": (1.0, 0.0, 0.0)},
    )  # fmt: skip
    assert " -> " in fitted.system.preview(fitted)


def test_a_run_is_measured_as_it_is_asked_for(run: Run) -> None:
    seen: list[Any] = []

    class Watched(Sequences):
        def _decode(self, run: Run, sources: list[list[int]], how: Any) -> Any:
            seen.append(how)
            return super()._decode(run, sources, how)

    watched = Watched(**dict(run.system))
    watched.evaluate(run)
    watched.evaluate(run, beam=3, length_penalty=0.5)
    assert [(how.beam, how.length_penalty) for how in seen] == [(5, 1.0), (3, 0.5)]


def test_outputs_are_measured_against_references() -> None:
    import sacrebleu

    short, long = (
        ["a b c d e"],
        ["a b c d e f g h"],
    )  # what is too short is punished, and what is too long less
    for outputs, references in ((short, long), (long, short)):
        values, _, _ = scores({}, {}, ["x"], outputs, references)
        expected = sacrebleu.corpus_bleu(outputs, [references]).score
        assert values["bleu"] == pytest.approx(expected)
    assert scores({}, {}, ["x"], short, long)[0] != scores({}, {}, ["x"], long, short)[0]


def test_scores_are_sacrebleus() -> None:
    import sacrebleu

    outputs, references = (
        ["Ein Mann faehrt Rad .", "Zwei Hunde."],
        ["Ein Mann fährt Rad.", "Zwei Hunde."],
    )
    found = measured(outputs, references)
    assert found.bleu == sacrebleu.corpus_bleu(outputs, [references]).score
    assert found.chrf == sacrebleu.corpus_chrf(outputs, [references]).score
    chinese = ["一个男人骑自行车。", "两只狗。"]
    assert tokenizer_of(chinese) == "zh" and tokenizer_of(references) == "13a"
    assert tokenizer_of(["これはペンです"]) == "char"
    assert measured(chinese, chinese).bleu == pytest.approx(100)
    assert utility("chrf", references)("abc", "abc") == pytest.approx(100)


def test_groups_by_length_hold_every_sentence_once() -> None:
    sources = [" ".join(["w"] * (n % 37)) for n in range(500)]
    groups = length_groups(sources)
    assert sorted(n for _, numbers in groups for n in numbers) == list(range(500))
    for name, numbers in groups:
        low, high = (int(part) for part in name.split("-"))
        assert len(numbers) >= 20
        assert all(low <= max(1, len(sources[n].split())) <= high for n in numbers)


def test_the_report_shows_examples_and_quality(run: Run, tmp_path: Path) -> None:
    pictures = {p.title for p in run.system.pictures(run)}
    assert "Where each word of the target looked" in pictures
    assert "Quality by length" not in pictures  # these sources have 1 to 4 words: one group
    (table,) = [t for t in run.system.tables(run) if t.title == "Held-out examples"]
    assert all(len(row) == 3 for row in table.rows)
