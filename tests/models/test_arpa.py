"""ARPA files: what KenLM reads of ours, what we read of others', and every line that may be wrong."""

from __future__ import annotations

import gzip
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.core.errors import UserError
from fourfold.kernels import ngram, ngram_counts, ngram_smoothing
from fourfold.models.arpa import escaped, level_edges, paths, unescaped, write_arpa
from fourfold.models.arpa_read import ArpaFile, looks_like_arpa, read_arpa

FOREIGN = """
made by hand
\\data\\
ngram 1=5
ngram 2=4
ngram 3=2

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.30103
-0.5228787\t</s>
-0.39794\ta\t-0.1760913
-0.69897\tb\t-0.2218487

\\2-grams:
-0.30103\t<s> a\t-0.1249387
-0.69897\ta b\t-0.1
-0.5228787\ta </s>
-0.30103\tb a\t0

\\3-grams:
-0.2\t<s> a b
-0.3\ta b a

\\end\\
"""
"""Unigrams: 0.1, 0.3, 0.4, 0.2; the sums after contexts are not one."""


def file(tmp_path: Path, text: str = FOREIGN) -> Path:
    path = tmp_path / "model.arpa"
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> ArpaFile:
    return read_arpa(path, "<|end|>")


def p(found: ArpaFile, text: str) -> float:
    """log10 p of the last word of a sentence's beginning."""
    numbers = {"<unk>": 1, "</s>": 2, **{w: n for n, w in enumerate(found.words, 3)}}
    tokens = np.array([2, *(numbers.get(word, 1) for word in text.split())])
    nats = np.empty(len(tokens) - 1)
    ngram.surprises(found.tables, tokens, nats)
    return -float(nats[-1]) / math.log(10)


def test_backs_off_as_the_format_says(tmp_path: Path) -> None:
    found = read(file(tmp_path))
    assert found.words == ["a", "b"] and found.tables.order == 3
    assert p(found, "a") == pytest.approx(-0.30103, abs=1e-6)
    assert p(found, "a b") == pytest.approx(-0.2, abs=1e-6)
    assert p(found, "a b a") == pytest.approx(-0.3, abs=1e-6)
    assert p(found, "b") == pytest.approx(-0.30103 - 0.69897, abs=1e-6)  # after <s>
    assert p(found, "a a") == pytest.approx(-0.1249387 - 0.1760913 - 0.39794, abs=1e-6)
    assert p(found, "a </s>") == pytest.approx(-0.1249387 - 0.5228787, abs=1e-6)
    assert p(found, "b zebra") == pytest.approx(-0.2218487 - 1.0, abs=1e-6)


def test_sums_that_are_not_one_are_told(tmp_path: Path) -> None:
    """After <s>: p(a) = 1/2, and 1/2 times what is left of the unigrams, 0.6: 0.8."""
    (note,) = read(file(tmp_path)).notes
    assert "do not sum to 1" in note and "after 5 of 5 contexts" in note
    text = FOREIGN.replace("-0.39794\ta", "-0.2\ta")
    (first, _) = read(file(tmp_path, text)).notes
    assert re.search(r"single words sum to 1\.2310", first)


@st.composite
def models(draw: st.DrawFn) -> tuple[ngram.Tables, int, list[int]]:
    vocabulary, order = draw(st.integers(3, 6)), draw(st.integers(1, 5))
    method = draw(st.sampled_from(ngram_smoothing.METHODS))
    text = draw(st.lists(st.integers(1, vocabulary - 1), min_size=1, max_size=60))
    prune = draw(st.sampled_from([(), (1,)]))
    levels = ngram_counts.count(np.array([0, *text]), order, vocabulary, 0, 2)
    tables, _ = ngram_smoothing.smooth(levels, method, 0, 2, prune=prune)
    return (
        tables,
        vocabulary,
        draw(st.lists(st.integers(1, vocabulary - 1), min_size=1, max_size=30)),
    )


@settings(deadline=None, max_examples=60)
@given(models(), st.booleans())
def test_written_and_read_and_what_kenlm_says(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[ngram.Tables, int, list[int]], gz: bool
) -> None:
    """Every table goes to a file and back without loss, its sums hold, and KenLM scores as we do."""
    tables, vocabulary, asked = made
    path = tmp_path_factory.mktemp("arpa") / ("model.arpa.gz" if gz else "model.arpa")
    names = ["<|end|>", "?", "\n", "词", '"a', "b\u3000c"][:vocabulary]
    write_arpa(path, tables, names, 1)
    assert gz is (path.read_bytes()[:2] == b"\x1f\x8b")
    found = read(path)
    assert found.notes == []  # everything sums to one
    assert found.words == names[3:]
    np.testing.assert_array_equal(found.tables.words, tables.words)
    np.testing.assert_array_equal(found.tables.first, tables.first)
    np.testing.assert_allclose(found.tables.logs, tables.logs, rtol=3e-7, atol=1e-7)
    np.testing.assert_allclose(found.tables.backoffs, tables.backoffs, rtol=3e-7, atol=1e-7)
    kenlm = pytest.importorskip("kenlm")
    if tables.order > 1:  # KenLM reads no unigram models
        nats = np.empty(len(asked) + 1)
        ngram.surprises(tables, np.array([2, *asked, 2]), nats)
        # what follows a line's end in our text is a sentence of its own in KenLM's
        words = [{1: "<unk>", 2: "\n"}.get(t, escaped(names[t])) for t in asked]
        model = kenlm.Model(str(path))
        scores = [model.score(line.strip(" ")) for line in " ".join(words).split("\n")]
        assert sum(scores) == pytest.approx(-nats.sum() / math.log(10), abs=1e-4)


@given(st.text())
def test_names_are_told_apart_and_given_back(word: str) -> None:
    written = escaped(word)
    assert unescaped(written) == word
    assert not re.search(r"\s", written) and written not in ("<s>", "</s>", "<unk>")


def test_missing_beginnings_are_put_in(tmp_path: Path) -> None:
    """SRILM may prune a b and keep a b a: p(b | a) is then that of backing off, and its own weight is 0."""
    text = FOREIGN.replace("-0.69897\ta b\t-0.1\n", "").replace("ngram 2=4", "ngram 2=3")
    found = read(file(tmp_path, text))
    assert any("1 n-grams stand for their longer ones only" in note for note in found.notes)
    assert p(found, "b a b") == pytest.approx(-0.1760913 - 0.69897, abs=1e-6)
    assert p(found, "b a b a") == pytest.approx(-0.3, abs=1e-6)


def test_what_nothing_leads_to_is_counted(tmp_path: Path) -> None:
    text = FOREIGN.replace("-0.30103\tb a\t0", "-0.30103\tb a\t0\n-1\t</s> <s>\n-1\tb <s>")
    found = read(file(tmp_path, text.replace("ngram 2=4", "ngram 2=6")))
    assert any("2 n-grams left out" in note for note in found.notes)


@pytest.mark.parametrize(
    ("before", "after", "line", "said"),
    [
        ("-0.69897\tb", "-0.69897x\tb", 13, "expected a number, got '-0.69897x'"),
        ("-0.69897\tb", "0.69897\tb", 13, "at most 0, got 0.69897"),
        ("-0.69897\tb\t-0.2218487", "-0.69897\ta\t0", 13, "'a' came before"),
        ("-0.69897\tb\t-0.2218487", "-0.69897\tb\tnan", 13, "expected a number, got 'nan'"),
        ("-0.30103\tb a\t0", "-0.30103\tb c\t0", 19, "'c' is not among the unigrams"),
        ("-0.30103\tb a\t0", "-0.30103\tb\t0", 19, "'0' is not among the unigrams"),
        ("-0.30103\tb a\t0", "-0.30103\tb a a a\t0", 19, "expected a number, 2 words"),
        ("-0.30103\tb a\t0\n", "", 19, "the head tells of 1 more"),
        ("-0.30103\tb a\t0", "-0.30103\tb a\t0\n-1\ta a", 20, "expected \\\\3-grams:"),
        ("\\3-grams", "\\4-grams", 21, "expected \\\\3-grams:, got"),
        ("\\end\\\n", "", 24, "the file ends there"),
        ("-0.3\ta b a\n\n\\end\\\n", "", 22, "the file ends there, 1 3-grams"),
        ("ngram 2=4", "ngram 3=4", 5, "expected the size of order 2"),
        ("ngram 1=5\nngram 2=4\nngram 3=2\n", "", 5, "expected ngram 1="),
        ("\\data\\", "data", 25, "the file ends there"),
        ("-0.3\ta b a", "-0.2\t<s> a b", None, "3-gram twice"),
    ],
)
def test_a_malformed_line_is_named(
    tmp_path: Path, before: str, after: str, line: int | None, said: str
) -> None:
    assert before in FOREIGN
    with pytest.raises(UserError, match=said) as error:
        read(file(tmp_path, FOREIGN.replace(before, after)))
    if line is not None:
        assert f"line {line}:" in str(error.value)
    assert "\n" not in str(error.value)


def test_words_between_spaces_are_read_too(tmp_path: Path) -> None:
    spaced = read(file(tmp_path, FOREIGN.replace("\t", " ")))
    tabbed = read(file(tmp_path))
    np.testing.assert_array_equal(spaced.tables.logs, tabbed.tables.logs)


def test_missing_marks_are_told(tmp_path: Path) -> None:
    text = FOREIGN.replace("-1.0\t<unk>\n", "").replace("ngram 1=5", "ngram 1=4")
    found = read(file(tmp_path, text))
    assert any("has no <unk>" in note for note in found.notes)
    assert p(found, "b zebra") == pytest.approx(-100.2218487)


def test_damaged_gzip_and_what_is_no_arpa(tmp_path: Path) -> None:
    path = tmp_path / "model.arpa.gz"
    whole = gzip.compress(FOREIGN.encode() * 50)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated or damaged|expected"):
        read(path)
    assert looks_like_arpa(file(tmp_path)) and not looks_like_arpa(Path(__file__))
    assert not looks_like_arpa(tmp_path) and not looks_like_arpa(tmp_path / "none")
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none")


def test_paths_name_every_node() -> None:
    text = np.array([0, 3, 4, 3, 4, 5, 2, 3, 4, 5])
    tables, _ = ngram_smoothing.smooth(ngram_counts.count(text, 3, 6, 0, 2), "witten-bell", 0, 2)
    edges = level_edges(tables)
    assert edges[-1] == len(tables.words) and len(edges) == 4
    found = paths(tables, np.arange(edges[2], edges[3]))
    assert [2, 3, 4] in found and [3, 4, 5] in found and all(len(gram) == 3 for gram in found)
    assert [4, 5, 2] in found and not any(2 in gram[1:-1] for gram in found)
