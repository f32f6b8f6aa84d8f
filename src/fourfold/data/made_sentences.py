"""Sentences that the project makes from a small grammar, English and Chinese, so that they can be learned without a download."""

from __future__ import annotations

import itertools

THINGS = ("food", "soup", "room", "film", "book", "music", "service", "coffee", "garden", "story")
FEELINGS = ("good", "bad", "great", "awful", "fine", "poor", "lovely", "terrible")
DEGREES = ("", "very ", "really ", "not so ")
VERBS = ("liked", "hated", "remembered", "missed")
PEOPLE = ("i", "we", "they", "my friends")
CHINESE_THINGS = ("菜", "汤", "房间", "电影", "书", "音乐", "服务", "咖啡", "花园", "故事")
CHINESE_FEELINGS = ("很好", "很差", "不错", "糟糕", "一般", "太好了", "不太好", "真可爱")
CHINESE_VERBS = ("喜欢", "讨厌", "记得", "想念")
CHINESE_PEOPLE = ("我", "我们", "他们", "我的朋友")


def made_sentences() -> list[str]:
    """Some 1,700 sentences in a fixed order."""
    made = [
        f"the {thing} was {degree}{feeling} ."
        for thing, degree, feeling in itertools.product(THINGS, DEGREES, FEELINGS)
    ]
    made += [
        f"{who} {verb} the {thing} because it was {feeling} ."
        for who, verb, thing, feeling in itertools.product(PEOPLE, VERBS, THINGS[::2], FEELINGS)
    ]
    made += [
        f"这里的{thing}{feeling}。"
        for thing, feeling in itertools.product(CHINESE_THINGS, CHINESE_FEELINGS)
    ]
    made += [
        f"{who}{verb}这里的{thing}，因为{feeling}。"
        for who, verb, thing, feeling in itertools.product(
            CHINESE_PEOPLE, CHINESE_VERBS, CHINESE_THINGS[::2], CHINESE_FEELINGS
        )
    ]
    return made
