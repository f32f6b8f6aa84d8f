"""The page's own words in English and Simplified Chinese.

    words = Words.of(request)
    words("shown", first=1, last=20, count=200)

What comes from a run or a docstring (names of measures, help, errors) stays as it was written.
"""

from __future__ import annotations

from collections.abc import Mapping

from fourfold.serve.page.chinese import CHINESE
from fourfold.serve.page.english import ENGLISH

LANGUAGE_COOKIE = "fourfold-language"
LANGUAGES: Mapping[str, Mapping[str, str]] = {"en-US": ENGLISH, "zh-CN": CHINESE}


class Words:
    """The words of one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._words = LANGUAGES[language]

    def __call__(self, key: str, **values: object) -> str:
        """A word or sentence, with its gaps filled."""
        text = self._words[key]
        return text.format(**values) if values else text

    @property
    def other(self) -> str:
        """The language that the page is not in."""
        return next(name for name in LANGUAGES if name != self.language)


def chosen(cookie: str | None, accepted: str | None) -> str:
    """The language of a request: what the reader chose, else what the browser prefers, else English.

    Args:
        cookie: a name in LANGUAGES, as the toggle stores it.
        accepted: the header Accept-Language, RFC 9110 12.5.4.
    """
    if cookie in LANGUAGES:
        return str(cookie)
    ranked = []
    for place, part in enumerate((accepted or "").split(",")):
        name, _, weight = part.strip().partition(";q=")
        try:
            ranked.append((-float(weight or 1), place, name.lower()))
        except ValueError:
            continue
    for _, _, name in sorted(ranked):
        for language in LANGUAGES:
            if name.split("-")[0] == language.split("-")[0]:
                return language
    return "en-US"
