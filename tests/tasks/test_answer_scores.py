"""Measures of answers against rouge-score, sacrebleu and SQuAD's published cases."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.tasks.answer_scores import answer_score, bleu, exact, f1, rouge_l, words

sentence = st.lists(
    st.sampled_from("the cat sat on a mat and dog ran 42".split()), max_size=12
).map(" ".join)


@settings(deadline=None)  # the first call imports
@given(sentence, sentence)
def test_rouge_l_is_that_of_rouge_score(answer: str, reference: str) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    expected = scorer.score(reference, answer)["rougeL"].fmeasure
    assert rouge_l(answer, reference) == pytest.approx(expected)


def test_bleu_is_that_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    ours, theirs = (
        ["the cat sat on the mat today", "a dog"],
        ["the cat sat on a mat today", "a dog ran"],
    )
    assert bleu(ours, theirs) == pytest.approx(sacrebleu.corpus_bleu(ours, [theirs]).score / 100)
    zh = ["我喜欢吃苹果和梨"], ["我喜欢吃苹果和香蕉"]
    assert bleu(*zh) == pytest.approx(
        sacrebleu.corpus_bleu(zh[0], [zh[1]], tokenize="zh").score / 100
    )
    assert (bleu(*zh) or 0) > 0.4  # as one word each they would have nothing in common


def test_exact_match_and_f1_as_squad() -> None:
    assert exact("The  Eiffel-Tower!", "eiffeltower") == 1
    assert exact("“巴黎”。", "巴黎") == 1
    assert exact("Paris", "Lyon") == 0
    assert f1("the red cat", "a cat") == pytest.approx(2 / 3)  # red cat, cat
    assert f1("", "") == 1 and f1("x", "") == 0
    assert f1("北京大学", "北京") == pytest.approx(2 * 2 / 6)


def test_words_of_scripts_without_spaces_are_characters() -> None:
    assert words("GPT是 模型3个 a_b") == ["gpt", "是", "模", "型", "3", "个", "a", "b"]
    assert rouge_l("我爱北京", "我在北京") == pytest.approx(3 / 4)


def test_all_measures_of_the_same_are_one() -> None:
    same = ["the cat sat on the mat today", "我喜欢"]
    assert answer_score(same, same).values == pytest.approx(
        dict.fromkeys(("exact_match", "f1", "rouge_l", "bleu"), 1)
    )


def test_answers_too_short_for_bleu_have_none() -> None:
    pytest.importorskip("sacrebleu")
    score = answer_score(["a dog"], ["a cat"])
    assert "bleu" not in score.values and score.notes == ("no BLEU: no answer has four words",)
