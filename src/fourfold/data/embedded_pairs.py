"""Pairs made by a rule, for everything that needs some and has none: numbers, dates and times in Chinese and English.

Every text has one right translation. Chinese numbers are written as in the mainland: 一百零五, 两千; years digit by
digit, 二〇二四年; hours by 上午 and 下午 or by 点.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable

DIGITS = "零一二三四五六七八九"
MONTHS = (
    "January February March April May June July August September October November December".split()
)
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
WEEK = "一二三四五六日"
ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = ". . twenty thirty forty fifty sixty seventy eighty ninety".split()
THINGS = [
    ("本书", "book"), ("个苹果", "apple"), ("只猫", "cat"), ("辆车", "car"), ("位老师", "teacher"),
    ("棵树", "tree"), ("张票", "ticket"), ("封信", "letter"), ("匹马", "horse"), ("座桥", "bridge"),
]  # fmt: skip


def chinese_number(value: int) -> str:
    """A whole number from 0 to 99,999,999 in Chinese words: 105 is 一百零五, 12 is 十二.

    Raises:
        ValueError: it is out of that range.
    """
    if not 0 <= value < 10**8:
        raise ValueError(f"expected 0 to 99,999,999, got {value}")
    if value >= 10**4:
        high, low = divmod(value, 10**4)
        between = "零" if 0 < low < 1000 else ""
        return _four(high) + "万" + (between + _four(low, inside=True) if low else "")
    return _four(value)


def _four(value: int, inside: bool = False) -> str:
    """A number below 10,000; inside a longer one ten is 一十."""
    if value < 10:
        return DIGITS[value]
    said, zero = "", False
    for power, word in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = value // power % 10
        if digit:
            said += ("零" if zero else "") + DIGITS[digit] + word
            zero = False
        elif said:
            zero = True
    return said[1:] if 10 <= value < 20 and not inside else said


def english_number(value: int) -> str:
    """A whole number from 0 to 99,999,999 in English words: 105 is one hundred and five.

    Raises:
        ValueError: it is out of that range.
    """
    if not 0 <= value < 10**8:
        raise ValueError(f"expected 0 to 99,999,999, got {value}")
    if value < 20:
        return ONES[value]
    if value < 100:
        return TENS[value // 10] + (f"-{ONES[value % 10]}" if value % 10 else "")
    for power, word in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if value >= power:
            high, low = divmod(value, power)
            joined = " and " if low and low < 100 else " " if low else ""
            return f"{english_number(high)} {word}{joined}{english_number(low) if low else ''}"
    raise AssertionError


def _number(draw: random.Random) -> tuple[str, str]:
    value = draw.randrange(10 ** draw.randint(1, 7))
    return chinese_number(value), english_number(value)


def _things(draw: random.Random) -> tuple[str, str]:
    measure, thing = draw.choice(THINGS)
    value = draw.randrange(1, 10 ** draw.randint(1, 4))
    said = "两" if value == 2 else chinese_number(value)
    return f"{said}{measure}", f"{english_number(value)} {thing}{'s' * (value != 1)}"


def _date(draw: random.Random) -> tuple[str, str]:
    day = datetime.date(1900, 1, 1) + datetime.timedelta(draw.randrange(73_000))
    year = "".join("〇" if d == "0" else DIGITS[int(d)] for d in str(day.year))
    chinese = f"{year}年{chinese_number(day.month)}月{chinese_number(day.day)}日"
    english = f"{MONTHS[day.month - 1]} {day.day}, {day.year}"
    if draw.random() < 0.5:
        return f"{chinese}，星期{WEEK[day.weekday()]}", f"{DAYS[day.weekday()]}, {english}"
    return chinese, english


def _time(draw: random.Random) -> tuple[str, str]:
    hour, minute = draw.randrange(24), draw.choice([0, 15, 30, draw.randrange(60)])
    half = "上午" if hour < 12 else "下午"
    twelve = hour % 12 or 12
    shown = {0: "整", 30: "半", 15: "一刻"}.get(
        minute, ("零" if minute < 10 else "") + chinese_number(minute) + "分"
    )
    said = "两" if twelve == 2 else chinese_number(twelve)
    return f"{half}{said}点{shown}", f"{twelve}:{minute:02} {'a.m.' if hour < 12 else 'p.m.'}"


KINDS: tuple[Callable[[random.Random], tuple[str, str]], ...] = (_number, _things, _date, _time)


def numbers_and_dates(count: int = 12_000, seed: int = 0) -> list[tuple[str, str]]:
    """Different pairs (Chinese, English): numbers, counted things, dates and times.

    Args:
        count: how many.
        seed: of what is drawn; the same pairs for the same seed.
    """
    draw = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        chinese, english = draw.choice(KINDS)(draw)
        found.setdefault(chinese, english)
    return list(found.items())
