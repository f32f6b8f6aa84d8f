"""Readers and cutting: every passage is a stretch of its document's text, and nothing is lost between them."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import documents as made

from fourfold.core.errors import UserError
from fourfold.data.documents.cutting import passages, sentences, weight
from fourfold.data.documents.document import Document
from fourfold.data.documents.reading import of_bytes, read

words = st.sampled_from(
    ["Cats", "sleep.", "Mr. Fox", "3.14", "ran!", "e.g. mice", "really?", "猫在睡觉。", "它很好！", "“好。”他说", "ünïcode",
     "x" * 90, "日本語です。", "line\nbreak", "a.b", "…", "(yes.)"]
)  # fmt: skip
paragraphs = st.lists(
    st.lists(words, min_size=1, max_size=30).map(" ".join), min_size=1, max_size=6
)
sizes = st.integers(3, 60)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def check(document: Document, size: int, overlap: int) -> None:
    """Each passage is what its offsets say, no larger than asked, and together they hold every block."""
    found = list(passages(document, size=size, overlap=overlap))
    covered = [False] * len(document.text)
    for passage in found:
        assert document.text[passage.begin : passage.end] == passage.text
        assert 0 < weight(passage.text) <= size
        covered[passage.begin : passage.end] = [True] * (passage.end - passage.begin)
        if document.lines:
            assert passage.line == document.text[: passage.begin].count("\n") + 1
    for block in document.blocks:
        missing = "".join(document.text[n] for n in range(block.begin, block.end) if not covered[n])
        assert not missing.strip(), f"{missing!r} of a {block.kind} is in no passage"
    begins = [passage.begin for passage in found]
    assert begins == sorted(set(begins)), "passages follow one another"


@pytest.mark.parametrize("name", made.MAKERS)
@settings(max_examples=40, deadline=None)
@given(paragraphs=paragraphs, size=sizes, share=st.floats(0, 0.9))
def test_offsets_point_to_the_quoted_text(
    name: str, paragraphs: list[str], size: int, share: float
) -> None:
    content = made.MAKERS[name](paragraphs)
    found = list(of_bytes(content, name, name))
    for document in found:
        check(document, size, int(size * share))
    whole = squeezed("".join(d.text for d in found))
    for paragraph in paragraphs:
        assert squeezed(paragraph) in whole


@settings(max_examples=15, deadline=None)
@given(
    pages=st.lists(
        st.sampled_from(["Cats sleep. They dream.", "Dogs walk a lot.", ""]), min_size=1, max_size=4
    )
)
def test_offsets_and_pages_of_pdf(pages: list[str]) -> None:
    content = made.pdf(pages)
    if not any(pages):
        with pytest.raises(UserError, match="no text.*OCR"):
            list(of_bytes(content, "a.pdf", "a.pdf"))
        return
    (document,) = of_bytes(content, "a.pdf", "a.pdf")
    check(document, 20, 0)
    found = list(passages(document, size=20, overlap=0))
    assert [p.page for p in found] == [n for n, text in enumerate(pages, 1) if text]
    assert [squeezed(p.text) for p in found] == [squeezed(text) for text in pages if text]


def test_text_files_are_quoted_by_their_own_characters(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Eins.\r\n\r\nZwei äöü. Drei.\r\n".encode())
    (document,) = read(path)
    original = path.read_bytes().decode()
    for passage in passages(document, size=3, overlap=0):
        assert original[passage.begin : passage.end] == passage.text


def test_markdown_structure() -> None:
    text = "# One\n\nBody.\n\n## Two ##\n\n```\n# not a heading\n```\n\nThree\n=====\n\nEnd."
    (document,) = of_bytes(text.encode(), "a.md", "a.md")
    assert [(b.kind, b.level, b.title) for b in document.blocks if b.kind == "heading"] == [
        ("heading", 1, "One"), ("heading", 2, "Two"), ("heading", 1, "Three")
    ]  # fmt: skip
    assert [p.heading for p in passages(document, size=50, overlap=0)] == [
        "One",
        "One > Two",
        "Three",
    ]


def test_code_stands_under_its_definition() -> None:
    text = "import os\n\nclass Cat:\n    def purr(self):\n        return 1\n\n\ndef bark(x):\n    return x\n"
    (document,) = of_bytes(text.encode(), "a.py", "a.py")
    found = {p.heading: p.text for p in passages(document, size=50, overlap=0)}
    assert list(found) == ["", "Cat > purr", "bark"]
    assert "return 1" in found["Cat > purr"] and "return x" in found["bark"]


def test_comments_and_decorators_stand_with_the_definition_below_them() -> None:
    text = "def one():\n    return 1\n\n\n# Says it twice.\n@cached\ndef two():\n    return 2\n"
    (document,) = of_bytes(text.encode(), "a.py", "a.py")
    first, second = passages(document, size=50, overlap=0)
    assert first.text == "def one():\n    return 1" and first.heading == "one"
    assert second.text == text[text.index("#") :].strip() and second.heading == "two"
    assert second.line == 5


def test_html_shows_what_a_browser_does() -> None:
    text = b"<p>Fish &amp; <b>chips</b></p><script>no()</script>\n\n<h2>Head</h2><ul><li>one<li>two</ul>"
    (document,) = of_bytes(text, "a.html", "a.html")
    assert document.text == "Fish & chips\n\nHead\n\none\n\ntwo"
    assert [p.line for p in passages(document, size=50, overlap=0)] == [1, 3]
    open_head = b"<head><title>Cats</title><body><p>Seen.<svg><title>icon</title></svg>"
    (document,) = of_bytes(open_head, "a.html", "a.html")
    assert document.text == "Seen." and document.metadata == {"title": "Cats"}
    with pytest.raises(UserError, match="no visible text"):
        list(of_bytes(b"<html><script>all()</script></html>", "a.html", "a.html"))


def test_rows_keep_their_fields() -> None:
    rows = b'{"text": "Cats.", "year": 1990, "more": [1]}\n\n{"content": "Dogs."}\n'
    found = list(of_bytes(rows, "a.jsonl", "a.jsonl"))
    assert [(d.text, dict(d.metadata), d.line) for d in found] == [
        ("Cats.", {"year": 1990}, 1),
        ("Dogs.", {}, 3),
    ]
    for wrong, told in ((b'{"text": 3}', "line 1, field text: expected text, got int"), (b"{", "line 1: not JSON"),
                        (b'{"txt": "a"}', "line 1: no field")):  # fmt: skip
        with pytest.raises(UserError, match=told):
            list(of_bytes(wrong, "a.jsonl", "a.jsonl"))


def test_sentences() -> None:
    def cut(text: str) -> list[str]:
        return [text[a:b] for a, b in sentences(text)]

    assert cut("Dr. A. Fox ran 3.5 km. He won! “Why?” she asked.") == [
        "Dr. A. Fox ran 3.5 km.", "He won!", "“Why?”", "she asked."
    ]  # fmt: skip
    assert cut("猫在睡觉。狗在跑！“为什么？”他问。") == [
        "猫在睡觉。",
        "狗在跑！",
        "“为什么？”",
        "他问。",
    ]
    assert cut("一行。\n两行！ 三段？\n“四。” 他说。") == [
        "一行。",
        "两行！",
        "三段？",
        "“四。”",
        "他说。",
    ]
    assert cut("Das ist z.B. so. Nr. 5 lebt.") == ["Das ist z.B. so.", "Nr. 5 lebt."]
    assert cut("see a?b=1 for more") == ["see a?b=1 for more"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b"   \n", "empty"),
        ("a.txt", b"\x89PNG\r\n\x1a\nxx", "binary, not text: a PNG picture"),
        ("a.txt", b"abc\0def", "binary, not text: a NUL at byte offset 3"),
        ("a.pdf", b"%PDF-1.4 rubbish", "damaged|no text"),
        ("a.docx", b"PK\x03\x04rubbish", "not a Word document"),
        ("a.docx", b"plain", "not a Word document"),
    ],
)
def test_what_cannot_be_read_says_why(name: str, content: bytes, told: str) -> None:
    with pytest.raises(UserError, match=told):
        list(of_bytes(content, name, name))


def test_encrypted_pdf() -> None:
    pypdf = pytest.importorskip("pypdf")
    import io

    writer = pypdf.PdfWriter()
    writer.append(io.BytesIO(made.pdf(["Secret."])))
    writer.encrypt("password", algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    with pytest.raises(UserError, match="encrypted; it needs a password"):
        list(of_bytes(file.getvalue(), "a.pdf", "a.pdf"))


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        file.truncate(1 << 30)  # sparse: takes no room
    with pytest.raises(UserError, match="1,074 MB, more than the 268 MB.*--data.largest"):
        list(read(path))


def test_a_bomb_in_a_word_document_is_refused() -> None:
    import io

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b" " * (300 << 20))
    with pytest.raises(UserError, match="more than 256 MB unpacked"):
        list(of_bytes(file.getvalue(), "a.docx", "a.docx"))


def test_other_encodings() -> None:
    chinese = "我们的猫每天都在花园里睡觉，晚上出去捉老鼠。" * 3
    for encoding in ("gb18030", "utf-16", "utf-8-sig"):
        (document,) = of_bytes(chinese.encode(encoding), "a.txt", "a.txt")
        assert document.text == chinese
    (document,) = of_bytes(
        '<meta charset="big5"><p>貓在睡覺</p>'.encode("big5"), "a.html", "a.html"
    )
    assert document.text == "貓在睡覺"
