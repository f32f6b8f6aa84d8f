"""word2vec, vLBL and ivLBL as systems: what they recover, how they go on, grow, and what they refuse."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourfold import api
from fourfold.core.errors import Interrupted, UserError
from fourfold.core.run import Run
from fourfold.data.sentences import Sentences
from fourfold.optimizers import hogwild
from fourfold.optimizers.hogwild import Hogwild
from fourfold.systems.ivlbl import IVLBL
from fourfold.systems.vlbl import VLBL
from fourfold.systems.word2vec import Word2Vec

COUNTRIES, FACTS = 8, ("capital", "river", "food")


def planted(seed: int = 0, lines: int = 4000) -> str:
    """Countries with a capital, a river and a dish each, said in sentences of the country's and of the fact's words.

    A capital stands where its country's words and the words of capitals stand, so that
    capital_a - country_a + country_b is capital_b.
    """
    random = np.random.default_rng(seed)
    said = []
    for _ in range(lines):
        c = random.integers(COUNTRIES)
        about = [f"about{c}x{i}" for i in random.integers(0, 4, 3)]
        fact = random.integers(len(FACTS) + 1)
        if fact == len(FACTS):
            words = [f"country{c}", *about, *(f"land{i}" for i in random.integers(0, 4, 3))]
        else:
            kind = FACTS[fact]
            words = [f"{kind}{c}", *about, *(f"{kind}word{i}" for i in random.integers(0, 4, 3))]
        random.shuffle(words)
        said.append(" ".join(words))
    return "\n".join(said)


def planted_questions() -> str:
    lines = []
    for kind in FACTS:
        lines.append(f": {kind}")
        lines += [
            f"country{a} {kind}{a} country{b} {kind}{b}"
            for a in range(COUNTRIES) for b in range(COUNTRIES) if a != b
        ]  # fmt: skip
    return "\n".join(lines)


TEXT = planted()


def fitted(system: Any, out: Any = False, text: str = TEXT, **options: Any) -> Run:
    options = {
        "width": 24,
        "epochs": 12,
        "threads": 1,
        "unit": "space",
        "min_count": 1,
        "thin": 0.0,
        **options,
    }
    return api.fit(system, {"text": [text]}, out=out, **options)


@pytest.mark.parametrize(
    "system, options",
    [
        ("word2vec", {"loss": "negative"}),
        ("word2vec", {"loss": "hierarchical"}),
        ("word2vec", {"loss": "sampled"}),
        ("word2vec", {"loss": "softmax", "lr": 0.1}),
        ("word2vec", {"algorithm": "cbow"}),
        ("vlbl", {}),
        ("ivlbl", {}),
    ],
)
def test_planted_analogies_are_recovered(system: str, options: dict[str, Any]) -> None:
    run = fitted(system, **{"lr": 0.05, **options})
    found = run.evaluate({"text": [planted_questions()]})
    assert found["questions"] == 3 * COUNTRIES * (COUNTRIES - 1)
    assert found["accuracy"] > 0.8  # by chance 1 of 83
    assert set(FACTS) <= set(found.values)
    answer = run.analogy("capital1", "country1", "country2", method="multiply")
    assert "capital2" in answer["word"][:3].to_list()


def test_two_threads_are_as_good_as_one() -> None:
    one, two = (
        fitted("word2vec", threads=t, lr=0.05).evaluate({"text": [planted_questions()]})["accuracy"]
        for t in (1, 2)
    )
    assert abs(one - two) < 0.1 and two > 0.8


def test_one_thread_is_exact_and_another_seed_is_another_run() -> None:
    a, b, c = (fitted("word2vec", epochs=2, seed=s).model.vectors() for s in (0, 0, 1))
    assert (a == b).all() and not (a == c).all()


def test_a_stopped_fit_resumes_to_the_same_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is really told to stop, by SIGTERM, in the middle."""
    (tmp_path / "text.txt").write_text(TEXT)
    options: dict[str, Any] = {
        "width": 8,
        "epochs": 6,
        "threads": 1,
        "unit": "space",
        "min_count": 1,
    }
    whole = api.fit("word2vec", str(tmp_path / "text.txt"), out=False, **options)
    advance, rounds = hogwild._Search._advance, []

    def stopped(search: Any) -> None:
        advance(search)
        rounds.append(search.done)
        if len(rounds) == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(hogwild, "ROUND", hogwild.STRETCH)
    monkeypatch.setattr(hogwild._Search, "_advance", stopped)
    with pytest.raises(Interrupted):
        api.fit("word2vec", str(tmp_path / "text.txt"), out=tmp_path / "parts", **options)
    assert len(rounds) == 4
    resumed = api.resume(tmp_path / "parts")
    assert rounds[4] == rounds[3] + 1 and len(rounds) > 8
    assert (resumed.model.vectors("joined") == whole.model.vectors("joined")).all()


# --- going on and growing -------------------------------------------------------------------------------


def more(words: int = 3) -> str:
    random = np.random.default_rng(1)
    lines = [" ".join(f"new{i}" for i in random.integers(0, words, 6)) for _ in range(300)]
    return "\n".join([planted(1, 600), *lines])


def test_another_text_goes_on_and_new_words_join_only_by_option(tmp_path: Path) -> None:
    first = fitted("word2vec", tmp_path / "first")
    before = first.model.vectors().clone()
    kept = api.fit(
        "word2vec", {"text": [more()]}, from_=tmp_path / "first", out=tmp_path / "kept", epochs=1
    )
    assert kept.data.vocabulary.words == first.data.vocabulary.words  # type: ignore[attr-defined]
    # it began where the first ended: the vectors are nearer to those than fresh ones could be
    change = (kept.model.vectors() - before).norm(dim=1) / before.norm(dim=1)
    assert change.median() < 0.5
    grown = api.fit(
        "word2vec", {"text": [more()]}, from_=tmp_path / "first", out=tmp_path / "grown", grow=True, epochs=3,
    )  # fmt: skip
    words = grown.data.vocabulary.words  # type: ignore[attr-defined]
    assert words[: len(before)] == first.data.vocabulary.words  # type: ignore[attr-defined]
    assert sorted(words[len(before) :]) == ["new0", "new1", "new2"]
    assert any("3 new words join" in n for n in grown.notes)
    assert set(grown.similar("new0", top=2)["word"]) == {"new1", "new2"}
    counts = dict(zip(words, grown.data.vocabulary.counts, strict=True))  # type: ignore[attr-defined]
    assert counts["new0"] == more().split().count("new0")
    assert counts["country1"] == (TEXT + " " + more()).split().count("country1")


def test_a_grown_vocabulary_grows_no_further_by_being_resumed_or_measured(tmp_path: Path) -> None:
    (tmp_path / "first.txt").write_text(TEXT)
    (tmp_path / "more.txt").write_text(more())
    (tmp_path / "other.txt").write_text("entirely other words\n" * 9 + "country1 about1x1\n")
    fitted_options: dict[str, Any] = {
        "width": 8,
        "epochs": 1,
        "threads": 1,
        "unit": "space",
        "min_count": 1,
    }
    api.fit("word2vec", str(tmp_path / "first.txt"), out=tmp_path / "first", **fitted_options)
    grown = api.fit(
        "word2vec", str(tmp_path / "more.txt"), from_=tmp_path / "first", out=tmp_path / "grown", grow=True,
    )  # fmt: skip
    opened = Run.open(tmp_path / "grown")
    again = opened.examples()
    for data in (opened.data, again):
        assert data.vocabulary.words == grown.data.vocabulary.words  # type: ignore[attr-defined]
        assert (data.vocabulary.counts == grown.data.vocabulary.counts).all()  # type: ignore[attr-defined]
    assert opened.evaluate(str(tmp_path / "other.txt"))["loss"] > 0
    api.resume(tmp_path / "grown", epochs=6)


def test_what_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    fitted("word2vec", tmp_path / "first", epochs=1)
    text = {"text": [TEXT]}
    for changed, said in (
        ({"width": 25}, "width 24, not 25; give --width 24"),
        ({"loss": "hierarchical"}, "tree"),
        ({"loss": "contrast"}, "biases"),
        ({"subwords": True}, "subwords False"),
        ({"min_count": 9}, "min_count"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            api.fit("word2vec", text, from_=tmp_path / "first", out=False, **changed)
        assert "\n" not in str(caught.value)
    fitted("word2vec", tmp_path / "tree", epochs=1, loss="hierarchical")
    with pytest.raises(UserError, match="tree"):
        api.fit("word2vec", text, from_=tmp_path / "tree", out=False, grow=True)


def test_what_is_measured_without_unknown_words_says_how_many() -> None:
    text = ["the cat sat on the mat .", "the dog sat on a mat ."] * 20
    run = api.fit("word2vec", {"text": text}, out=False, epochs=1, min_count=1)
    score = run.evaluate({"text": ["the zebra sat on the mat ."] * 10})
    assert "10 of 60 words are not in the vocabulary" in " ".join(score.notes)
    assert "not in the vocabulary" not in " ".join(run.evaluate({"text": text}).notes)


@pytest.mark.parametrize(
    "text, options, said",
    [
        ("word " * 50, {}, "one word only"),
        ("a few words", {}, "min-count 5.*occurs 1 times"),
        ("", {}, "no word"),
        ("a b c d " * 9, {"min_count": 99}, "min-count 99.*occurs 9 times"),
    ],
)
def test_too_little_text_is_one_sentence(text: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        api.fit("word2vec", {"text": [text]}, out=False, threads=1, **options)


def test_one_sentence_and_a_wide_window_are_said() -> None:
    run = api.fit(
        "word2vec", {"text": ["a b a c"]}, out=False, threads=1, min_count=1, window=9, thin=0.0
    )
    assert sum("longer than any sentence" in n for n in run.notes) == 1
    assert sum("one sentence of 4 words" in n for n in run.notes) == 1
    assert not any("held out" in n for n in run.notes)


def test_a_text_of_one_line_that_cannot_be_split_is_said() -> None:
    run = api.fit(
        "word2vec", {"text": ["a b a c " * 50]}, out=False, threads=1, split=(0.9, 0.05, 0.05), epochs=1,
    )  # fmt: skip
    assert sum("Nothing is held out: the text has 1 sentence," in n for n in run.notes) == 1


def test_a_model_that_is_defined_by_its_loss_refuses_another() -> None:
    for system in (VLBL, IVLBL):
        with pytest.raises(UserError, match="contrast"):
            api.configure(system, {"loss": "negative"})


# --- Chinese, phrases, subwords ---------------------------------------------------------------------------

CHINESE = "红楼梦中，宝玉见黛玉。黛玉见宝玉。贾母见凤姐。凤姐见贾母。\n" * 40


@pytest.mark.parametrize("unit, word", [("character", "玉"), ("word", "玉"), ("jieba", "宝玉")])
def test_chinese_by_character_and_by_word(unit: str, word: str) -> None:
    if unit == "jieba":
        pytest.importorskip("jieba")
    run = api.fit(
        "word2vec",
        {"text": [CHINESE]},
        out=False,
        threads=1,
        unit=unit,
        width=8,
        thin=0.0,
        epochs=3,
    )
    assert len(run.similar(word, top=3)) == 3
    with pytest.raises(UserError, match="not among"):
        run.similar("没有")


def test_phrases_are_joined_in_the_validation_text_too(tmp_path: Path) -> None:
    train, valid = tmp_path / "train.txt", tmp_path / "valid.txt"
    random = np.random.default_rng(0)
    words = [f"w{i}" for i in range(40)]
    said = [f"new york {' '.join(random.choice(words, 6))}" for _ in range(200)]
    train.write_text("\n".join(said))
    valid.write_text("\n".join(said[:20]))
    data = Sentences(unit="space", min_count=1, phrases=1, phrase_score=5.0).open(
        str(train), valid=str(valid)
    )
    joined = data.vocabulary.numbers["new_york"]
    assert (data.part("valid").words == joined).sum() == 20


def test_unknown_words_have_vectors_of_their_n_grams(tmp_path: Path) -> None:
    stems = ["walk", "talk", "jump", "cook"]
    random = np.random.default_rng(0)
    lines = []
    for _ in range(600):
        stem = stems[random.integers(4)]
        lines.append(
            f"{stem}{random.choice(['s', 'ed', 'ing'])} {stem}place {stem}time {stem}friend"
        )
    run = fitted(
        "word2vec", tmp_path / "run", "\n".join(lines), subwords=True, buckets=5000, epochs=20
    )
    again = Run.open(tmp_path / "run")
    near = again.similar("walkers", top=3)["word"].to_list()
    assert all(w.startswith("walk") for w in near), near
    assert (again.model.vectors() == run.model.vectors()).all()
    assert again.embed(["walks", "walkers"]).shape == (2, 25)
    with pytest.raises(UserError, match="not among"):
        again.similar("walkers", vectors="output")
    grown = api.fit(
        "word2vec", {"text": ["\n".join([*lines, *["walkway walkplace walktime"] * 30])]}, from_=tmp_path / "run",
        out=False, grow=True, epochs=1,
    )  # fmt: skip
    assert grown.data.vocabulary.words[-1] == "walkway"  # type: ignore[attr-defined]
    # its n-grams' rows came along: before and after it is near the same words
    assert grown.similar("walkers", top=1)["word"][0].startswith("walk")


def test_the_report_says_what_a_step_touches_and_what_was_removed(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text(planted_questions())
    run = fitted("word2vec", tmp_path / "run", thin=1e-2, questions=str(tmp_path / "q.txt"))
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "output rows that a step touches" in report and "removed by sub-sampling" in report
    assert "Analogies by 3CosAdd" in report and "Nearest words while learning" in report
    titles = [p.title for p in run.system.pictures(run)]
    assert "What sub-sampling removes" in titles and len(titles) == 3
    with pytest.raises(UserError, match="expected analogies or similarities"):
        (tmp_path / "t.txt").write_text("just some text here")
        fitted("word2vec", tmp_path / "other", questions=str(tmp_path / "t.txt"))


def test_the_defaults_are_the_papers() -> None:
    toy, _ = Word2Vec.toy()
    assert Hogwild().epochs == 5 and toy.optimizer.threads == 1
    assert Word2Vec().data.window == 5 and Word2Vec().objective.negatives == 5
