"""PDF: the text of each page, through pypdf."""

from __future__ import annotations

import io
import logging

from fourfold.core.errors import UserError
from fourfold.data.documents.document import Builder, Document, paragraphs

PROTECTED = "encrypted; it needs a password, remove it first"


def read_pdf(content: bytes, name: str) -> Document:
    """Paragraphs of all pages that have text.

    Raises:
        UserError: encrypted, damaged, or without text, as scanned pages are.
    """
    try:
        import pypdf
        from pypdf.errors import DependencyError, PyPdfError
    except ImportError:
        raise UserError(
            f'{name}: PDF needs the package pypdf: pip install "fourfold[rag]"'
        ) from None
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every oddity of a file
    made = Builder()
    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UserError(f"{name}: {PROTECTED}")
        pages = len(reader.pages)
        for number, page in enumerate(reader.pages, 1):
            text = page.extract_text().encode("utf-8", "replace").decode()
            for begin, end in paragraphs(text):
                made.add(text[begin:end], page=number)
        title = reader.metadata.title if reader.metadata else None
    except DependencyError:
        raise UserError(f"{name}: {PROTECTED}") from None
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError,
            OSError, AssertionError, NotImplementedError) as error:  # fmt: skip
        # what pypdf raises on a damaged file is of many kinds
        raise UserError(f"{name}: damaged, it cannot be read ({error})") from error
    if not made.blocks:
        many = f"its {pages} pages" if pages != 1 else "its page"
        raise UserError(f"{name}: no text on {many}; scanned? recognize its text (OCR) first")
    return made.document("pdf", metadata={"title": str(title)} if title else {})
