"""Files of word vectors: what gensim reads and writes is what is read and written here, and lies are named."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.core.errors import UserError
from fourfold.data.vector_files import Form, looks_like_vectors, read_vectors, write_vectors

WORDS = ["the", "king", "红楼梦", "naïve", "10", "x-1"]
VECTORS = np.random.default_rng(0).normal(size=(len(WORDS), 5)).astype(np.float32)
FORMS: tuple[tuple[Form, str], ...] = (
    ("word2vec", "v.bin"), ("text", "v.txt"), ("safetensors", "v.safetensors"), ("word2vec", "v.bin.gz"),
    ("text", "v.txt.gz"),
)  # fmt: skip


@pytest.mark.parametrize("form, name", FORMS)
def test_what_is_written_is_read_back_to_the_bit(form: Form, name: str, tmp_path: Path) -> None:
    write_vectors(tmp_path / name, WORDS, VECTORS, form)
    assert looks_like_vectors(tmp_path / name)
    found = read_vectors(tmp_path / name)
    assert found.words == WORDS and found.notes == []
    np.testing.assert_array_equal(found.vectors, VECTORS)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
def test_text_keeps_every_float32(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    path = tmp_path_factory.mktemp("text") / "v.txt"
    row = np.array([values], np.float32)
    write_vectors(path, ["a"], row, "text")
    np.testing.assert_array_equal(read_vectors(path).vectors, row)


@pytest.mark.parametrize("binary", [True, False])
def test_gensim_reads_ours_and_we_read_gensims(binary: bool, tmp_path: Path) -> None:
    gensim = pytest.importorskip("gensim.models")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write_vectors(ours, WORDS, VECTORS, "word2vec" if binary else "text")
    keyed = gensim.KeyedVectors.load_word2vec_format(str(ours), binary=binary)
    assert keyed.index_to_key == WORDS
    np.testing.assert_array_equal(keyed.vectors, VECTORS)
    keyed.save_word2vec_format(str(theirs), binary=binary)
    found = read_vectors(theirs)
    assert found.words == WORDS
    np.testing.assert_allclose(found.vectors, VECTORS, rtol=0 if binary else 1e-6)


def test_the_papers_own_program_ends_binary_words_with_a_line_end(tmp_path: Path) -> None:
    """As ours do; other programs do not: both are read."""
    write_vectors(tmp_path / "ours.bin", ["a", "b"], VECTORS[:2, :2], "word2vec")
    body = b"2 2\na " + VECTORS[0, :2].tobytes() + b"\nb " + VECTORS[1, :2].tobytes() + b"\n"
    assert (tmp_path / "ours.bin").read_bytes() == body
    body = b"2 2\n" + b"a " + VECTORS[0, :2].tobytes() + b"b " + VECTORS[1, :2].tobytes()
    (tmp_path / "v.bin").write_bytes(body)
    assert read_vectors(tmp_path / "v.bin").words == ["a", "b"]


def test_numbers_whose_bytes_look_like_text(tmp_path: Path) -> None:
    """A vector whose first bytes are a digit and a line end is still binary."""
    row = np.frombuffer(b"1\n111111" + bytes(8), np.float32).copy()
    write_vectors(tmp_path / "v.bin", ["a", "b"], np.stack([row, row]), "word2vec")
    np.testing.assert_array_equal(read_vectors(tmp_path / "v.bin").vectors[1], row)


def test_glove_has_no_header_and_words_with_spaces(tmp_path: Path) -> None:
    lines = ["the 1 2 3", ". . . 4 5 6", "at name@domain.com 7 8 9", "7 1 1 1"]
    (tmp_path / "glove.txt").write_text("\n".join(lines) + "\n")
    found = read_vectors(tmp_path / "glove.txt")
    assert found.words == ["the", ". . .", "at name@domain.com", "7"]
    assert found.vectors[1].tolist() == [4, 5, 6] and "GloVe" in found.form


def whole(tmp_path: Path, form: Form) -> tuple[Path, bytes]:
    path = tmp_path / "v"
    write_vectors(path, WORDS, VECTORS, form)
    return path, path.read_bytes()


@pytest.mark.parametrize("cut", [10, 40, -2, -30])
def test_a_truncated_binary_is_named(cut: int, tmp_path: Path) -> None:
    path, content = whole(tmp_path, "word2vec")
    path.write_bytes(content[:cut])
    with pytest.raises(UserError, match="truncated.*6 words of 5 numbers|header"):
        read_vectors(path)


def test_every_cut_of_every_form_is_an_error_or_whole(tmp_path: Path) -> None:
    for form in ("word2vec", "text", "safetensors"):
        path, content = whole(tmp_path, form)  # type: ignore[arg-type]
        for cut in range(0, len(content), 3):
            path.write_bytes(content[:cut])
            with pytest.raises(UserError) as caught:
                found = read_vectors(path)
                if form == "text":  # digits of the last number may be cut off, which is said
                    assert cut > len(content) - 15 and found.words == WORDS
                    assert "its last line has no end" in found.notes[0]
                else:  # the last line end is missing
                    assert form == "word2vec" and cut == len(content) - 1
                raise UserError("whole")
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_header_that_lies_is_named(tmp_path: Path) -> None:
    path, text = whole(tmp_path, "text")
    for header, said in (
        (b"7 5", "7 words of 5 numbers, but the file holds 6"),
        (b"5 5", "5 words of 5 numbers, but the file holds 6"),
        (b"6 4", "line 2: expected a word and 4 numbers, as the header says, got 5"),
        (b"6 9", "line 2: expected a word and 9 numbers, as the header says, got 5"),
        (b"0 5", "line 1: expected numbers of words and of columns, got 0 5"),
    ):
        path.write_bytes(text.replace(b"6 5", header, 1))
        with pytest.raises(UserError, match=said):
            read_vectors(path)
    path, binary = whole(tmp_path, "word2vec")
    for header, said in (
        (b"5 5", "more follows after word 5"), (b"7 5", "truncated"), (b"6 6", "."),
        (b"999999999999 5", "truncated"),
    ):  # fmt: skip
        path.write_bytes(binary.replace(b"6 5", header, 1))
        with pytest.raises(UserError, match=said):
            read_vectors(path)


def test_other_faults_are_named(tmp_path: Path) -> None:
    path, text = whole(tmp_path, "text")
    lines = text.split(b"\n")
    lines[3] = lines[3].replace(b" ", b" zero", 1)
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match="line 4: .*zero"):
        read_vectors(path)
    path.write_bytes(b"2 2\na 1 2\nb nan 1\n")
    with pytest.raises(UserError, match="word 2 .'b'. has numbers that are not finite"):
        read_vectors(path)
    path.write_bytes(b"\x80\x04\x95 a pickle")
    with pytest.raises(UserError, match="pickle.*save_word2vec_format"):
        read_vectors(path)
    (tmp_path / "v.gz").write_bytes(gzip.compress(text)[:-20])
    with pytest.raises(UserError, match="gzip stream is truncated"):
        read_vectors(tmp_path / "v.gz")
    with pytest.raises(UserError, match="no such file"):
        read_vectors(tmp_path / "none")
    with pytest.raises(UserError, match="has a space"):
        write_vectors(path, ["a b"], VECTORS[:1], "text")


def test_repeated_and_broken_words_are_counted(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_bytes(b"3 2\na 1 2\na 3 4\n\xff 5 6\n")
    found = read_vectors(tmp_path / "v.txt")
    assert found.words == ["a", "\ufffd"] and found.vectors[0].tolist() == [1, 2]
    assert len(found.notes) == 2
