"""Joint probability tables: read, marginalized, conditioned, and judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.core.errors import UserError
from fourfold.look.joint import Joint, read
from fourfold.look.joint_words import describe, explain

LONG = "weather,mood,p\nsun,good,0.4\nsun,bad,0.1\nrain,good,0.15\nrain,bad,0.35\n"


def written(text: str) -> Path:
    path = Path("joint.csv")
    path.write_text(text, encoding="utf-8")
    return path


def test_bayes_rule_with_numbers() -> None:
    found = explain(written(LONG))
    tables = {t.title: t for t in found.tables}
    assert tables["P(weather)"].rows == (("sun", 0.5), ("rain", 0.5))
    rows = {row[:2]: row[2:] for row in tables["Bayes' rule: weather given mood"].rows}
    likelihood, prior, evidence, posterior = rows["sun", "good"]
    assert (likelihood, prior) == (0.8, 0.5) and evidence == pytest.approx(0.55)
    assert posterior == pytest.approx(0.8 * 0.5 / 0.55) == pytest.approx(0.4 / 0.55)
    conditional = {row[0]: row[1:] for row in tables["P(mood | weather)"].rows}
    assert conditional["rain"] == pytest.approx((0.3, 0.7))
    assert "not independent" in found.sentences[0] and "0.275" in found.sentences[0]


def test_a_cross_table_is_the_same() -> None:
    long = read(written(LONG))
    cross = read(written("weather\\mood,good,bad\nsun,0.4,0.1\nrain,0.15,0.35\n"))
    assert cross.names == long.names and cross.values == long.values
    np.testing.assert_allclose(cross.p, long.p)


def test_counts_are_shares_with_a_test() -> None:
    joint = read(written("a\\b,x,y\n1,30,10\n2,20,40\n"))
    assert joint.total == 100 and joint.p[0, 0] == 0.3
    sentence = describe(joint, "t", drawn=False).sentences[0]
    from scipy.stats import chi2_contingency

    statistic, p, freedom, _ = chi2_contingency([[30, 10], [20, 40]], correction=False)
    assert f"chi-squared {statistic:.4g} with {freedom} degrees" in sentence
    assert f"probability {p:.3g}" in sentence


def test_independence_is_seen() -> None:
    rows = "\n".join(
        f"{a},{b},{p * q}" for a, p in (("x", 0.3), ("y", 0.7)) for b, q in (("u", 0.9), ("v", 0.1))
    )
    found = explain(written(f"a,b,p\n{rows}\n"))
    assert found.sentences[0].startswith("a and b are independent")


def test_pairs_may_be_independent_and_all_together_not() -> None:
    rows = "\n".join(f"{a},{b},{a ^ b},0.25" for a in (0, 1) for b in (0, 1))
    found = explain(written(f"a,b,xor,p\n{rows}\n"))
    assert [s for s in found.sentences if "are independent" in s][:3] == [
        f"{x} and {y} are independent: each joint probability is the product of its marginals."
        for x, y in (("a", "b"), ("a", "xor"), ("b", "xor"))
    ]
    assert "All 3 together are not independent." in found.sentences
    assert "Given xor, a and b are not independent." in found.sentences
    assert "4 combinations are not listed and have probability 0." in found.sentences


def test_conditional_independence() -> None:
    # a -> c -> b: a and b depend on one another, and not given c
    rows = [
        f"{a},{b},{c},{0.5 * (0.8 if a == c else 0.2) * (0.7 if b == c else 0.3)}"
        for a in (0, 1) for b in (0, 1) for c in (0, 1)
    ]  # fmt: skip
    found = explain(written("a,b,c,p\n" + "\n".join(rows)), drawn=False)
    assert "a and b are not independent" in found.sentences[0]
    assert "Given c, a and b are independent." in found.sentences


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=12, max_size=12).filter(lambda v: sum(v) > 0.1))
def test_marginals_and_conditionals_multiply_back(values: list[float]) -> None:
    p = np.array(values).reshape(2, 3, 2)
    joint = Joint(("a", "b", "c"), (("0", "1"), ("0", "1", "2"), ("0", "1")), p / p.sum())
    assert joint.marginal(0).sum() == pytest.approx(1)
    np.testing.assert_allclose(joint.marginal(2, 0), joint.p.sum(axis=1).T)
    conditional = np.nan_to_num(joint.conditional(1, 0))
    np.testing.assert_allclose(
        conditional * joint.marginal(0)[:, None], joint.marginal(0, 1), atol=1e-12
    )
    assert -1e-9 <= joint.information(0, 1) <= 1 + 1e-9
    for table in describe(joint, "t", drawn=False).tables:
        if " | " in table.title:
            assert all(abs(sum(row[1:]) - 1) < 1e-9 for row in table.rows if row[1] is not None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b,p\nx,y,0.5\nx,z,0.4\n", "the probabilities sum to 0.9, expected 1"),
        (
            "a,b,p\nx,y,-0.5\nx,z,1.5\n",
            "row 2, column p: expected a number of at least 0, got -0.5",
        ),
        ("a,b,p\nx,y,half\n", 'row 2, column p: expected a number, got "half"'),
        ("a,b,p\nx,y,\n", "row 2, column p: expected a number, got nothing"),
        ("a,b,p\nx,y,nan\n", "expected a number of at least 0, got nan"),
        ("a,b,p\nx,y,0.5\nx,y,0.5\n", "row 3: x, y is listed twice"),
        ("a,b,p\nx,y\n", "row 2: expected 3 cells as in the first row, got 2"),
        ("a,b,p,count\nx,y,1,1\n", "columns p and count both look like numbers"),
        ("p\n1\n", "expected 1 to 6 variables"),
        ("a,a,p\nx,y,1\n", "with names of their own"),
        ("a,b,count\nx,y,0\n", "every number is 0"),
        ("a,b,c\nx,y,0.5\n", "name the column of numbers p or count"),
        ("a,x,x\nu,0.5,0.5\n", "a cross table has each value once"),
        ("a,b,p\n", "at least one row"),
        ("", "at least one row"),
    ],
)
def test_wrong_tables_are_named(text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        explain(written(text))
    assert said in str(caught.value) and str(caught.value).startswith("joint.csv")


def test_files_that_cannot_be_read() -> None:
    with pytest.raises(UserError, match="no-file.csv: cannot be read"):
        read(Path("no-file.csv"))
    Path("latin.csv").write_bytes("a,p\ncafé,1\n".encode("latin-1"))
    with pytest.raises(UserError, match="latin.csv: not UTF-8 text at byte 7"):
        read(Path("latin.csv"))


def test_the_mosaic_is_drawn() -> None:
    (picture,) = explain(written(LONG)).pictures
    assert picture.png.startswith(b"\x89PNG") and "P(sun, good) = 0.4" in picture.svg
