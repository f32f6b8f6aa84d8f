"""The page's words: both languages have all of them, with the same gaps."""

import re
import string
from pathlib import Path

import pytest

import fourfold.serve.page
from fourfold.serve.page.chinese import CHINESE
from fourfold.serve.page.english import ENGLISH
from fourfold.serve.page.words import LANGUAGES, Words, chosen

PAGES = Path(fourfold.serve.page.__file__).parent


def gaps(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_have_all_keys() -> None:
    assert ENGLISH.keys() == CHINESE.keys()


def test_gaps_are_the_same() -> None:
    for key in ENGLISH:
        assert gaps(ENGLISH[key]) == gaps(CHINESE[key]), key
        assert CHINESE[key].strip() and ENGLISH[key].strip(), key


def test_every_word_that_pages_ask_for_is_there_and_every_one_there_is_used() -> None:
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for path in PAGES.glob("*.py")
        if path.name not in ("english.py", "chinese.py")
    )
    asked = set(re.findall(r"""words\(\s*(?:"([^"]+)"|'([^']+)')""", source))
    assert {a or b for a, b in asked} <= ENGLISH.keys()
    states = {"running", "finished", "stopped", "damaged", "waiting"}  # as the shelf says them
    for key in ENGLISH.keys() - states:
        assert f'"{key}"' in source or f"'{key}'" in source or key.startswith("theme "), key


def test_chinese_says_something_of_its_own() -> None:
    same = {key for key in ENGLISH if ENGLISH[key] == CHINESE[key]}
    assert all(not re.search("[a-z]{2}", ENGLISH[key].split("{")[0]) for key in same)


@pytest.mark.parametrize(
    "cookie, accepted, expected",
    [
        (None, None, "en-US"),
        (None, "", "en-US"),
        (None, "zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"),
        (None, "fr, zh-Hans;q=0.7, en;q=0.3", "zh-CN"),
        (None, "en;q=0.4, zh;q=0.5", "zh-CN"),
        (None, "de-DE, nonsense;q=x", "en-US"),
        ("en-US", "zh-CN", "en-US"),
        ("zh-CN", "en", "zh-CN"),
        ("<script>", "zh", "zh-CN"),
    ],
)
def test_chosen(cookie: str | None, accepted: str | None, expected: str) -> None:
    assert chosen(cookie, accepted) == expected


def test_words_fill_their_gaps() -> None:
    assert Words("en-US")("shown", first=1, last=20, count=200) == "1 to 20 of 200"
    assert Words("zh-CN").other == "en-US"
    assert set(LANGUAGES) == {"en-US", "zh-CN"}
