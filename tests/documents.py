"""Files of every kind that readers read, made of the same paragraphs."""

from __future__ import annotations

import html
import io
import json
import zipfile
from collections.abc import Callable, Sequence

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def text(paragraphs: Sequence[str]) -> bytes:
    return "\n\n".join(paragraphs).encode()


def markdown(paragraphs: Sequence[str]) -> bytes:
    head = "---\nauthor: Ann\n---\n# First\n\n"
    table = "\n\n| a | b |\n| - | - |\n| 1 | 2 |\n\n```python\n# no heading\nx = 1\n```\n\nSecond\n------\n\n"
    return (head + paragraphs[0] + table + "\n\n".join(paragraphs[1:])).encode()


def code(paragraphs: Sequence[str]) -> bytes:
    functions = [
        f"# {' '.join(p.split())}\ndef f{n}(x):\n    return {n}\n" for n, p in enumerate(paragraphs)
    ]
    return "\n".join(functions).encode()


def page(paragraphs: Sequence[str]) -> bytes:
    inner = "".join(f"<p>{html.escape(p)}</p>\n" for p in paragraphs)
    table = "<table><tr><td>one</td><td><p>two</p></td></tr></table><pre>a\n  b</pre>"
    script = "<script>never()</script><style>p {}</style>"
    return f"<html><head><title>T</title>{script}</head><body><h1>Head</h1>{inner}{table}</body></html>".encode()


def word(paragraphs: Sequence[str]) -> bytes:
    def made(words: str, style: str = "") -> str:
        look = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
        return f'<w:p>{look}<w:r><w:t xml:space="preserve">{html.escape(words)}</w:t></w:r></w:p>'

    table = f"<w:tbl><w:tr><w:tc>{made('one')}</w:tc><w:tc>{made('two')}</w:tc></w:tr></w:tbl>"
    body = made("Head", "Heading1") + "".join(map(made, paragraphs)) + table
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(
            "word/document.xml", f'<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>'
        )
    return file.getvalue()


def lines(paragraphs: Sequence[str]) -> bytes:
    return "\n".join(
        json.dumps({"text": p, "year": 1990 + n}) for n, p in enumerate(paragraphs)
    ).encode()


def pdf(pages: Sequence[str]) -> bytes:
    """Pages of Latin text; an empty string is a page without any, as a scan is."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    for words in pages:
        shown = "".join(
            f"({line.replace(chr(92), '').replace('(', '').replace(')', '')}) Tj T* "
            for line in words.split("\n")
        )
        stream = f"BT /F1 12 Tf 14 TL 50 700 Td {shown} ET" if words else ""
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        content = len(objects)
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {content} 0 R "
            "/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    made, places = b"%PDF-1.4\n", []
    for number, item in enumerate(objects, 1):
        places.append(len(made))
        made += f"{number} 0 obj\n{item}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    tail = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\n"
    return made + f"{tail}startxref\n{len(made)}\n%%EOF".encode()


MAKERS: dict[str, Callable[[Sequence[str]], bytes]] = {
    "a.txt": text, "a.md": markdown, "a.py": code, "a.html": page, "a.docx": word, "a.jsonl": lines,
}  # fmt: skip
"""By a file's name whose suffix chooses the reader."""
