"""Neighbours, analogies and tests of word vectors against brute force, SciPy and gensim; files and HTTP."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from starlette.testclient import TestClient

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.word_tests import word_tests
from fourfold.serve.app import create_app
from fourfold.serve.shelf import Shelf
from fourfold.systems.word2vec import Word2Vec
from fourfold.tasks import neighbours
from fourfold.tasks.index import Index
from fourfold.tasks.neighbours import Space, spellings
from fourfold.tasks.vectors import Method
from fourfold.tasks.word_tests import answered, interval, similarity_score, spearman

V, D = 57, 6
RANDOM = np.random.default_rng(3)
SPACE = Space([f"w{i}" for i in range(V)], RANDOM.normal(size=(V, D)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, source = Word2Vec.toy()
    return fourfold.fit(toy, source, out=tmp_path_factory.mktemp("runs") / "words")


# --- neighbours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1 << 25, 40])
def test_neighbours_are_those_of_all_products(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", block)  # the second takes a few rows at a time
    questions = SPACE.unit[[3, 9, 20]]
    without = [[3], [], [20, 1, 2]]
    rows, products = SPACE.nearest(questions, 5, without)
    for q, hidden, found, scores in zip(questions, without, rows, products, strict=True):
        all_of_them = SPACE.unit @ q
        all_of_them[hidden] = -9
        assert found.tolist() == np.argsort(-all_of_them)[:5].tolist()
        np.testing.assert_allclose(scores, np.sort(all_of_them)[::-1][:5], rtol=1e-5)
    rows, _ = SPACE.nearest(questions, 3, among=10)
    assert rows.max() < 10
    rows, _ = SPACE.nearest(questions[:1], 100, [[3]])
    assert sorted([*rows[0].tolist(), 3]) == list(range(V))


def test_zero_vectors_are_near_nothing() -> None:
    space = Space(["a", "b", "c"], np.array([[0.0, 0], [1, 0], [2, 0]]))
    rows, cosines = space.nearest(space.unit[1], 2, [[1]])
    assert rows[0].tolist() == [2, 0] and cosines[0].tolist() == pytest.approx([1, 0])


def test_the_index_finds_nearly_all_and_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("hnswlib")
    random = np.random.default_rng(0)
    centres = random.normal(size=(40, 16))
    space = Space(
        [str(i) for i in range(4000)],
        centres[random.integers(40, size=4000)] + random.normal(size=(4000, 16)) / 2,
    )
    index = Index(space.unit, tmp_path / "i.hnsw")
    questions = space.unit[:200]
    exact, _ = space.nearest(questions, 10, [[i] for i in range(200)])
    rows, products = space.nearest(questions, 10, [[i] for i in range(200)], index=index)
    recall = np.mean(
        [len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), rows.tolist(), strict=True)]
    )
    assert recall > 0.97
    np.testing.assert_allclose(
        products[:, 0], np.einsum("qd,qd->q", questions, space.unit[rows[:, 0]]), atol=1e-5
    )
    again = Index(space.unit, tmp_path / "i.hnsw")
    np.testing.assert_array_equal(again.nearest(questions, 10)[0], index.nearest(questions, 10)[0])


def test_the_index_of_a_run_is_in_its_folder(run: Run) -> None:
    pytest.importorskip("hnswlib")
    exact = run.similar("a1", top=4)
    assert run.folder is not None and not list(run.folder.glob("*.hnsw"))
    by_index = Run.open(run.folder).similar("a1", top=4, index="hnsw")
    assert by_index["word"].to_list() == exact["word"].to_list()
    (kept,) = run.folder.glob("*.hnsw")
    kept.unlink()


def test_unknown_words_are_offered_the_nearest_spellings() -> None:
    words = ["the", "Paris", "parish", "pares", "London", "红楼"]
    assert spellings("paris", words)[0] == "Paris"
    assert spellings("Lodnon", words) == ["London"]
    assert spellings("红楼梦", words) == ["红楼"] == spellings("红", words)
    with pytest.raises(UserError, match="did you mean Paris"):
        Space(words, np.eye(6)).number("PARIS")
    with pytest.raises(UserError, match="6 words") as caught:
        Space(words, np.eye(6)).number("zzzzzz")
    assert "mean" not in str(caught.value)


# --- analogies ------------------------------------------------------------------------------------------


def brute(method: Method, a: int, b: int, c: int) -> int:
    unit = SPACE.unit.astype(np.float64)
    best, answer = -math.inf, -1
    for x in range(V):
        if x in (a, b, c):
            continue
        cos = [float(unit[x] @ unit[w]) for w in (a, b, c)]
        if method == "add":
            score = cos[1] - cos[0] + cos[2]
        else:
            moved = [(v + 1) / 2 for v in cos]
            score = moved[1] * moved[2] / (moved[0] + 1e-3)
        if score > best:
            best, answer = score, x
    return answer


@pytest.mark.parametrize("method", ["add", "multiply"])
@pytest.mark.parametrize("block", [1 << 25, 300])
def test_analogies_are_those_of_brute_force(
    method: Method, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fourfold.tasks import word_tests as asked

    monkeypatch.setattr(asked, "BLOCK", block)
    questions = RANDOM.permuted(np.tile(np.arange(V), (40, 1)), axis=1)[:, :3]
    lines = [": all"]
    for a, b, c in questions.tolist():
        lines.append(f"w{a} w{b} w{c} w{brute(method, a, b, c)}")
    (tests,) = word_tests({"text": ["\n".join(lines)]})
    sections, notes = answered(SPACE, tests, method)  # type: ignore[arg-type]
    assert [(s.right, s.asked, s.unknown) for s in sections] == [(40, 40, 0)] and notes == ()
    swapped = "\n".join(
        [*lines[:2], "w1 w2 w3 nobody", "W1 w2 W3 w2", "three words here", ": empty"]
    )
    (tests,) = word_tests({"text": [swapped]})
    sections, notes = answered(SPACE, tests, method)  # type: ignore[arg-type]
    assert [(s.name, s.right, s.asked, s.unknown) for s in sections] == [("all", 1, 2, 1)]
    said = " ".join(notes)
    assert "1 of 3 questions has words" in said and "nobody" in said
    assert "2 words were looked up in lower case" in said
    assert "line 5: expected four words, got 'three words here'" in said


def test_analogies_and_neighbours_are_gensims(run: Run, tmp_path: Path) -> None:
    gensim = pytest.importorskip("gensim.models")
    for to, load in (
        ("word2vec", lambda p: gensim.KeyedVectors.load_word2vec_format(p, binary=True)),
        ("text", gensim.KeyedVectors.load_word2vec_format),
        ("gensim", gensim.KeyedVectors.load),
    ):
        path = run.export(to=to, out=tmp_path / to / "made" / "vectors")  # of folders not there yet
        keyed = load(str(path))
        for word in ("a0", "b5"):
            theirs = keyed.most_similar(word, topn=6)
            ours = run.similar(word, top=6)
            assert ours["word"].to_list() == [w for w, _ in theirs]
            np.testing.assert_allclose(ours["cosine"], [s for _, s in theirs], atol=1e-5)
        ours = run.analogy("a0", "a1", "b1", top=3, method="multiply")
        with warnings.catch_warnings():  # gensim calls what it has declared to be old itself
            warnings.simplefilter("ignore", DeprecationWarning)
            theirs = keyed.most_similar_cosmul(positive=["a0", "b1"], negative=["a1"], topn=3)
        assert ours["word"].to_list() == [w for w, _ in theirs]
        units = [keyed.get_vector(w, norm=True) for w in ("a0", "a1", "b1")]
        question = units[0] - units[1] + units[2]
        theirs = [
            w for w, _ in keyed.similar_by_vector(question, topn=6) if w not in ("a0", "a1", "b1")
        ]
        assert run.analogy("a0", "a1", "b1", top=3)["word"].to_list() == theirs[:3]


# --- similarities ----------------------------------------------------------------------------------------


def test_spearman_is_scipys_and_the_interval_covers() -> None:
    random = np.random.default_rng(0)
    for size in (3, 10, 200):
        a = random.integers(0, 8, size).astype(float)
        b = a + random.normal(size=size)
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert spearman(np.ones(4), np.arange(4.0)) == 0
    inside = 0
    for _ in range(20):
        x = random.normal(size=60)
        y = 0.6 * x + 0.8 * random.normal(size=60)
        low, high = interval(x, y)
        inside += (
            low < 6 / np.pi * np.arcsin(0.6 / 2) < high
        )  # Spearman's of a normal pair of correlation 0.6
    assert 16 <= inside <= 20


def test_the_interval_is_scipys_bootstrap_of_the_pairs() -> None:
    """Both of 1,000 samples: widths over four data sets agree to some percent; 90% in place of 95% is 16% less."""
    random = np.random.default_rng(4)
    ours, theirs = [], []
    for _ in range(4):
        x = random.normal(size=50)
        y = 0.6 * x + 0.8 * random.normal(size=50)
        found = stats.bootstrap(
            (x, y), spearman,
            paired=True, vectorized=False, method="percentile", n_resamples=1000, rng=random,
        ).confidence_interval  # fmt: skip
        ours.append(interval(x, y))
        theirs.append((found.low, found.high))
    np.testing.assert_allclose(ours, theirs, atol=0.06)
    np.testing.assert_allclose(*(np.diff(i).mean() for i in (ours, theirs)), rtol=0.08)


def test_similarities_and_what_is_left_out() -> None:
    pairs = [("w1", "w2"), ("w3", "W4"), ("w5", "w6"), ("w7", "w8"), ("w9", "never")]
    cosines = [float(SPACE.unit[int(a[1:])] @ SPACE.unit[int(b[1:])]) for a, b in pairs[:4]]
    lines = [
        f"{a}\t{b}\t{s}"
        for (a, b), s in zip(pairs, [*np.argsort(np.argsort(cosines)).tolist(), 9], strict=True)
    ]
    (tests,) = word_tests({"text": ["\n".join(["# WordSim", *lines, "one two"])]})
    score = similarity_score(SPACE, tests)  # type: ignore[arg-type]
    assert score["spearman"] == pytest.approx(1) and score["pairs"] == 4
    said = " ".join(score.notes)
    assert (
        "1 of 5 pairs has words" in said
        and "never" in said
        and "line 7: expected two words" in said
    )
    with pytest.raises(UserError, match="1 of its 2 pairs"):
        (tests,) = word_tests({"text": ["w1 w2 3\nno none 4"]})
        similarity_score(SPACE, tests)  # type: ignore[arg-type]


def test_the_kind_of_a_file_is_found_and_can_be_said() -> None:
    assert word_tests({"text": ["Just a text of words.\nAnd another line of it."]}) == []
    assert word_tests({"text": ["one,two,3\nfour;five;6\nseven eight 9"]})[0].pairs[1] == (
        "four",
        "five",
        6.0,
    )  # type: ignore[union-attr]
    with pytest.raises(UserError, match="no line of four words, first line 1"):
        word_tests({"text": ["not that"]}, "analogies")
    assert word_tests({"text": ["a b c d"]}, "analogies")[0].sections == ["without a section"]  # type: ignore[union-attr]


# --- verbs, files, HTTP -----------------------------------------------------------------------------------


def test_evaluate_takes_tests_texts_or_its_own_sentences(run: Run) -> None:
    own, text = run.evaluate(), run.evaluate({"text": ["a1 a2 a3 a4. b1 b2 b3."]})
    assert (
        set(own.values) == {"loss"} == set(text.values) and own.units["loss"] == "nats/prediction"
    )
    assert 0 < own["loss"] < 6 * math.log(2) + 0.1  # six sigmoids that know nothing
    found = run.evaluate(
        {"text": [": s\na1 a2 a3 a4\nb1 b2 b3 b4"]}, method="multiply", vectors="joined"
    )
    assert found["questions"] == 2
    with pytest.raises(UserError, match="none of its 1 questions"):
        run.evaluate({"text": [": s\na b c d"]})


def test_explain_says_and_draws(run: Run) -> None:
    told = run.explain(("a1", "a2", "b1", "b2"))
    assert told.sentences[0].startswith("a2 - a1 + b1: ")
    assert len(told.pictures) == 1 and told.tables[0].rows[0][0] == "a1"
    assert len(run.explain(("a1",)).pictures) == 0
    assert len(run.explain().pictures) == 1
    with pytest.raises(UserError, match="a99: not among the 24 words.*did you mean"):
        run.explain(("a1", "a99"))


def test_output_vectors_are_refused_where_there_are_none(run: Run) -> None:
    assert run.embed(["a1"], vectors="joined").shape == (1, 17)
    toy, source = Word2Vec.toy()
    tree = fourfold.fit(toy, source, out=False, loss="hierarchical")
    with pytest.raises(UserError, match="hierarchical softmax"):
        tree.similar("a1", vectors="output")


@pytest.mark.parametrize("to", ["word2vec", "text", "safetensors"])
def test_an_imported_run_answers_alike(run: Run, to: Any, tmp_path: Path) -> None:
    path = run.export(to=to, out=tmp_path / "vectors")
    made = fourfold.import_(path, out=tmp_path / "made")
    for again in (made, Run.open(tmp_path / "made")):
        assert again.system.name == "word2vec" and again.similar("a1").equals(run.similar("a1"))
        assert (again.model.vectors() == run.model.vectors()).all()
    with pytest.raises(UserError, match="one vector a word"):
        made.similar("a1", vectors="output")
    with pytest.raises(UserError, match="was imported"):
        Run.open(tmp_path / "made").evaluate()
    with pytest.raises(UserError, match="was imported"):
        from fourfold import api

        api.resume(tmp_path / "made")
    # and a text goes on from it, whose counts it takes
    _, source = Word2Vec.toy()
    more = fourfold.fit("word2vec", source, from_=tmp_path / "made", out=False, epochs=1, threads=1)
    counts = more.data.vocabulary.counts  # type: ignore[attr-defined]
    assert counts.sum() == sum(source["text"][0].count(f"{t}") for t in "ab")
    assert more.similar("a1", vectors="output").height == 10


def test_import_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Some words that are no vectors.\n")
    for path, said in (
        (tmp_path / "notes.txt", "no system recognizes it"),
        (tmp_path / "no", "no such file"),
    ):
        with pytest.raises(UserError, match=said):
            fourfold.import_(path, out=False)
    with pytest.raises(UserError, match="imports nothing"):
        fourfold.import_(tmp_path / "notes.txt", system="gan", out=False)


def test_the_command_line_imports(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fourfold.cli import main

    path = run.export(out=tmp_path / "vectors.bin")
    main(["import", str(path), "--out", str(tmp_path / "made")])
    said = capsys.readouterr()
    assert "A run of word2vec" in said.out and "24 words with 8 numbers each" in said.err
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SystemExit) as ended:
        main(["import", str(path), "--out", str(tmp_path / "other")])
    said = capsys.readouterr()
    assert (
        ended.value.code == 2 and "is truncated" in said.err and not (tmp_path / "other").exists()
    )


def test_verbs_over_http(run: Run) -> None:
    assert run.folder is not None
    with TestClient(
        create_app(Shelf([run.folder]), page=False), base_url="http://localhost"
    ) as http:
        answer = http.post("/runs/words/similar", json={"word": "a1", "top": 3})
        assert answer.status_code == 200, answer.text
        rows = answer.json()
        assert [r["word"] for r in rows["rows"]] == run.similar("a1", top=3)["word"].to_list()
        unknown = http.post("/runs/words/similar", json={"word": "a99"})
        assert unknown.status_code in (400, 422) and "not among" in unknown.text
        scored = http.post("/runs/words/evaluate", json={"source": ": s\na1 a2 a3 a4"})
        assert scored.status_code == 200 and scored.json()["values"]["questions"] == 1, scored.text
