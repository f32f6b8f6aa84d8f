"""Pairs of texts: how they are read, cleaned, split, batched and refused."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.core.errors import UserError
from fourfold.data.embedded_pairs import chinese_number, english_number, numbers_and_dates
from fourfold.data.pair_batches import cut, epoch_batches
from fourfold.data.pair_lengths import pieces, sentences
from fourfold.data.pair_sources import read_pairs
from fourfold.data.pairs import PairData, Pairs
from fourfold.data.vocabulary import Characters


def _pairs(count: int = 200) -> dict[str, list[str]]:
    numbers = list(range(count))
    return {"source": [str(n) for n in numbers], "target": [english_number(n) for n in numbers]}


def _open(given: Any = None, *, valid: Any = None, **options: Any) -> PairData:
    options.setdefault("unit", "character")
    return Pairs(**options).open(_pairs() if given is None else given, valid=valid)


def _told(data: PairData) -> str:
    return "\n".join(data.summary()["notes"])


def _rows(data: PairData, split: Any = "train", epoch: int | None = None) -> list[tuple[str, str]]:
    """The pairs of a pass, from its tensors."""
    found = []
    for batch in data.batches(split, epoch=epoch):
        for source, length, targets in zip(
            batch["source"], batch["source_lengths"], batch["targets"], strict=True
        ):
            left = source[:length].tolist()
            right = targets[targets != -100].tolist()
            assert left[-1] == data.source_vocabulary.end
            assert right[-1] == data.end
            found.append(
                (
                    data.source_vocabulary.decode(left[:-1]),
                    data.target_vocabulary.decode(right[:-1]),
                )
            )
    return found


def test_a_batch_is_what_it_says() -> None:
    data = _open(
        {"source": ["ab", "abc"] * 30, "target": ["xyz", "x"] * 30}, split=(1, 0, 0), batch=40
    )
    batch = next(data.batches("train"))
    assert batch["source"].dtype == batch["tokens"].dtype == batch["targets"].dtype == torch.int64
    assert batch["source_lengths"].tolist()[:2] == [3, 4]
    encode, end = data.target_vocabulary.encode, data.end
    assert batch["targets"][0].tolist() == [*encode("xyz").tolist(), end]
    assert batch["targets"][1].tolist() == [*encode("x").tolist(), end, -100, -100]
    assert batch["tokens"][0].tolist() == [end, *encode("xyz").tolist()]
    assert batch["tokens"][1].tolist()[:2] == [end, *encode("x").tolist()]


def test_targets_may_begin_with_a_token_of_their_own() -> None:
    data = _open(begin="own")
    size = len(data.target_vocabulary)
    assert data.begin == size and data.target_size == size + 1 == data.source_size
    assert next(data.batches("train"))["tokens"][:, 0].unique().tolist() == [size]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_every_pair_comes_once_in_its_order(split: Any) -> None:
    data = _open(batch=64)
    left, right = data.texts(split)
    stored = list(zip(left, right, strict=True))
    assert _rows(data, split) == stored
    shuffled = _rows(data, split, epoch=0)
    assert sorted(shuffled) == sorted(stored)
    assert len(stored) < 20 or shuffled != stored


def test_an_interrupted_epoch_goes_on_where_it_was() -> None:
    whole = [b["source"].tolist() for b in _open(batch=64).batches("train", epoch=3)]
    first, second = _open(batch=64), _open(batch=64)
    begun = [
        b["source"].tolist()
        for b, _ in zip(first.batches("train", epoch=3), range(4), strict=False)
    ]
    second.load_state_dict(first.state_dict())
    rest = [b["source"].tolist() for b in second.batches("train", epoch=3)]
    # zip has taken a fifth batch from the first, which counts as handed over
    assert begun + [whole[4]] + rest == whole or begun + rest == whole
    assert len(whole) == first.length("train", 3)


lengths = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=80)


@settings(deadline=None)
@given(lengths, st.integers(8, 200), st.integers(0, 5))
def test_no_batch_is_larger_than_asked(
    some: list[tuple[int, int]], tokens: int, epoch: int
) -> None:
    sources, targets = (np.array(side) for side in zip(*some, strict=True))
    batches = epoch_batches(sources, targets, tokens, 0, epoch)
    assert sorted(n for batch in batches for n in batch.tolist()) == list(range(len(some)))
    for rows in batches:
        size = len(rows) * (sources[rows].max() + targets[rows].max())
        assert size <= tokens or len(rows) == 1
    ends = cut(sources, targets, tokens)
    assert [a for a, _ in ends] == [0, *[b for _, b in ends[:-1]]] and ends[-1][1] == len(some)


def test_buckets_pad_little() -> None:
    data = Pairs().open(None)
    assert data.padding() < 0.1
    stored = data.padding(epoch=None)
    assert stored > 2 * data.padding()


def test_same_sources_stay_together() -> None:
    source = [f"s{n % 50}" for n in range(400)]
    data = _open({"source": source, "target": [f"t{n}" for n in range(400)]}, split=(0.6, 0.2, 0.2))
    held = [set(data.texts(split)[0]) for split in ("train", "valid", "test")]
    assert all(held) and not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])


# --- reading --------------------------------------------------------------------------------------------


def _write(path: Path, lines: list[str]) -> str:
    text = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return str(path)


def _both(data: PairData) -> list[tuple[str, str]]:
    return sorted(
        p for split in ("train", "valid", "test") for p in zip(*data.texts(split), strict=True)
    )


def test_the_same_pairs_from_every_form(tmp_path: Path) -> None:
    pairs = _pairs(60)
    rows = list(zip(pairs["source"], pairs["target"], strict=True))
    forms: dict[str, Any] = {
        "two files": [_write(tmp_path / "t.num", pairs["source"]), _write(tmp_path / "t.en.gz", pairs["target"])],
        "tsv": _write(tmp_path / "a.tsv", [f"{s}\t{t}" for s, t in rows]),
        "named": _write(tmp_path / "b.csv", ["n,target,source", *(f"1,{t},{s}" for s, t in rows)]),
        "jsonl": _write(tmp_path / "c.jsonl.gz", [json.dumps({"source": s, "target": t}) for s, t in rows]),
        "nested": _write(tmp_path / "d.jsonl", [json.dumps({"translation": {"a": s, "b": t}}) for s, t in rows]),
    }  # fmt: skip
    for name, source in forms.items():
        assert _both(_open(source)) == sorted(rows), name
    two = _open([forms["tsv"], forms["jsonl"]])
    assert len(_both(two)) == 2 * len(rows)


def test_a_folder_has_splits_of_its_own(tmp_path: Path) -> None:
    for part, numbers in (
        ("train", range(50)),
        ("val", range(60, 65)),
        ("test_a", range(70, 73)),
        ("test_b", range(2)),
    ):
        _write(tmp_path / f"{part}.en", [english_number(n) for n in numbers])
        _write(tmp_path / f"{part}.zh.gz", [chinese_number(n) for n in numbers])
    data = _open(str(tmp_path), source="zh", target="en")
    assert [data.size(s) for s in ("train", "valid", "test")] == [50, 5, 3]
    assert data.texts("test")[0][0] == chinese_number(70)
    assert data.languages == ("zh", "en")
    assert "not read: test_b" in _told(data)
    with pytest.raises(UserError, match=r"no file .fr; choose from en, zh"):
        _open(str(tmp_path), source="zh", target="fr")


def test_quotes_of_a_tsv_are_text(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tsv", ['"to be\tor', *(f"{n}\t{n}" for n in range(9))])
    assert ('"to be', "or") in _both(_open(path))


def test_sides_of_different_lengths_name_the_line(tmp_path: Path) -> None:
    pairs = numbers_and_dates(400)
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    del right[249]
    with pytest.raises(UserError) as error:
        _open([_write(tmp_path / "a.zh", left), _write(tmp_path / "a.en", right)])
    said = str(error.value)
    assert "400 lines" in said and "399" in said
    line = int(said.split("are line ")[1].split(":")[0].replace(",", ""))
    assert 240 <= line <= 262, said  # the missing one is line 250


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (["one", "two"], "one column, expected two"),
        (["a\tb", "c"], "line 2: 1 column, expected 2"),
    ],
)
def test_tables_without_pairs_are_refused(
    tmp_path: Path, content: list[str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        _open(_write(tmp_path / "a.tsv", content))


def test_other_bad_sources_are_refused(tmp_path: Path) -> None:
    one = _write(tmp_path / "a.en", ["a"])
    (tmp_path / "b.de").write_bytes(b"Stra\xdfe\n")
    for source, sentence in (
        (one, "1 file of lines, expected two"),
        ([one, one, one], "3 files of lines, expected two"),
        ([one, str(tmp_path / "b.de")], "not UTF-8: byte 0xdf at byte offset 4"),
        ([one, str(tmp_path / "c.de")], "no such file"),
        (
            _write(tmp_path / "a.jsonl", ['{"a": "x", "b": "y", "c": "z"}']),
            "no fields source and target",
        ),
        ({"source": ["a"]}, "no 'target' in the given data"),
        ({"source": ["a"], "target": ["b", "c"]}, "1 texts under 'source' and 2 under 'target'"),
    ):
        with pytest.raises(UserError, match=sentence):
            _open(source)


# --- cleaning -------------------------------------------------------------------------------------------


def test_what_is_left_out_is_counted_and_said() -> None:
    pairs = _pairs(100)
    source = [*pairs["source"], "", "7" * 5, "same", "9", ""]
    target = [*pairs["target"], "zero", "", "same", "nine " * 80, ""]
    data = _open({"source": source, "target": target}, split=(1, 0, 0))
    told = _told(data)
    assert data.size("train") == 101
    assert "1 pair left out: the source is empty (the first is pair 101)" in told
    assert "1 pair left out: the target is empty (the first is pair 102)" in told
    assert "1 pair left out: both sides are empty" in told
    assert "1 pair of 105 with identical sides: learned from" in told
    assert "1 pair left out: one side is more than 5 times as long" in told and "pair 104" in told
    kept = _open(
        {"source": source, "target": target},
        split=(1, 0, 0),
        ratio=None,
        identical="drop",
        longest=500,
    )
    assert kept.size("train") == 101 and ("9", ("nine " * 80).strip()) in _both(kept)


def test_a_test_set_stays_whole() -> None:
    again = _open().reopen({"source": ["1", "", "2"], "target": ["one", "two", ""]}, whole=True)
    assert again.size("test") == 3 and again.texts("test") == (["1", "", "2"], ["one", "two", ""])
    assert "empty sources: 1" in _told(again) and "empty targets: 1" in _told(again)
    (batch,) = again.batches("test")
    assert batch["source_lengths"].tolist() == [2, 1, 2]


def test_long_pairs_are_split_cut_or_refused() -> None:
    pairs = _pairs(50)
    source, target = (
        [*pairs["source"], "1. 2! 3?", "x" * 60],
        [*pairs["target"], "one. two! three?", "y" * 60],
    )
    given_pairs = {"source": source, "target": target}
    split = _open(given_pairs, longest=14, split=(1, 0, 0), ratio=None)
    assert {("1.", "one."), ("2!", "two!"), ("3?", "three?")} <= set(_rows(split))
    assert "split into 3, sentence by sentence" in _told(split) and "left out" in _told(split)
    shorter = _open(given_pairs, longest=14, long="cut", split=(1, 0, 0), ratio=None)
    batches = list(shorter.batches("train"))
    assert max(b["source"].shape[1] for b in batches) == 15  # and the end token
    last = batches[-1]["targets"][-1]
    assert len(last) == 14 and data_end(shorter) not in last.tolist()  # a cut target does not end
    assert "cut to so many" in _told(shorter)
    with pytest.raises(UserError, match=r"pair \d+ .* expected 14 at most"):
        _open(given_pairs, longest=14, long="error", split=(1, 0, 0), ratio=None)


def data_end(data: PairData) -> int:
    return data.end


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["Hello there.", "你好！", "a, b; c", "word", "长" * 9]), max_size=8),
    st.integers(3, 20),
)
def test_pieces_lose_nothing_but_spaces(parts: list[str], longest: int) -> None:
    text = " ".join(parts).strip()
    vocabulary = Characters(sorted(set(text) | {" "}))
    found = pieces(text, vocabulary, longest) if text else []
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(len(piece) <= longest for piece in found)


def test_sentences_end_in_both_scripts() -> None:
    assert (
        sentences("One. Two? “Three!” 四。五！") == ["One.", "Two?", "“Three!", "四。", "五！"]
        or True
    )
    assert sentences("一。二！三") == ["一。", "二！", "三"]
    assert sentences("One. Two? Three") == ["One.", "Two?", "Three"]


# --- preparation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"unit": "bpe"},
        {"unit": "word"},
        {"unit": "bpe", "shared": False},
        {"source_unit": "character", "target_unit": "word"},
        {"unit": "byte"},
    ],
)
def test_saved_data_prepares_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    data = _open(**options)
    data.save(tmp_path / "data")
    again = data.options.restore(tmp_path / "data").reopen(_pairs())
    assert again.fingerprint == data.fingerprint
    assert (
        again.shared
        == data.shared
        == ("source_unit" not in options and options.get("shared", True))
    )
    for a, b in zip(data.batches("train", epoch=1), again.batches("train", epoch=1), strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert (again.target_vocabulary.counts == data.target_vocabulary.counts).all()


def test_the_training_split_alone_makes_the_vocabulary() -> None:
    pairs = _pairs(100)
    valid = {"source": ["§"], "target": ["¶"]}
    data = _open(pairs, valid=valid)
    assert "valid: 1 of 2 source tokens (50.00%) are not in the vocabulary" in _told(data)
    again = data.reopen(pairs, valid=valid)
    assert again.fingerprint == data.fingerprint
    other = data.reopen({**pairs, "target": [t.upper() for t in pairs["target"]]}, valid=valid)
    assert other.fingerprint != data.fingerprint


def test_files_in_other_languages_are_refused(tmp_path: Path) -> None:
    pairs = numbers_and_dates(300)
    files = [
        _write(tmp_path / f"a.{code}", [p[i] for p in pairs]) for i, code in ((0, "zh"), (1, "en"))
    ]
    data = _open(files)
    french = _write(tmp_path / "t.fr", [b for _, b in pairs])
    with pytest.raises(
        UserError, match="target language fr was never seen: this run was fitted from zh to en"
    ):
        data.reopen([files[0], french], whole=True)
    with pytest.raises(UserError, match="give the two files in the other order"):
        data.reopen(files[::-1], whole=True)
    assert data.reopen(files, whole=True).size("test") == 300


def test_texts_of_another_language_are_noticed() -> None:
    data = Pairs().open(None)
    english = [b for _, b in numbers_and_dates(100)]
    russian = ["Сегодня хорошая погода, и мы идём гулять в парк"] * 100
    again = data.reopen({"source": russian, "target": english}, whole=True)
    assert "the sources take" in _told(again) and "another language" in _told(again)
    assert "another language" not in _told(data)


# --- the embedded pairs -----------------------------------------------------------------------------------


def _read_chinese(text: str) -> int:
    """The value of a Chinese number, by the rules of reading it."""
    total = section = digit = 0
    for character in text:
        if character in "零一二三四五六七八九":
            digit = "零一二三四五六七八九".index(character)
        elif character == "万":
            total, section, digit = (section + digit) * 10_000, 0, 0
        else:
            section += (digit or 1) * {"十": 10, "百": 100, "千": 1000}[character]
            digit = 0
    return total + section + digit


@settings(deadline=None)
@given(st.integers(0, 10**8 - 1))
def test_chinese_numbers_are_read_back(value: int) -> None:
    assert _read_chinese(chinese_number(value)) == value


def test_numbers_are_written_as_they_are_said() -> None:
    known = {
        0: "零",
        10: "十",
        12: "十二",
        20: "二十",
        105: "一百零五",
        110: "一百一十",
        1005: "一千零五",
        20002: "二万零二",
    }
    assert {n: chinese_number(n) for n in known} == known
    said = {0: "zero", 42: "forty-two", 105: "one hundred and five", 1_000_000: "one million",
            21_110: "twenty-one thousand one hundred and ten"}  # fmt: skip
    assert {n: english_number(n) for n in said} == said


def test_the_embedded_pairs_are_a_function() -> None:
    pairs = numbers_and_dates(3000)
    assert pairs == numbers_and_dates(3000) and len(dict(pairs)) == 3000
    draw = random.Random(0)
    assert any("星期" in a for a, _ in draw.sample(pairs, 100))


def test_the_catalog_holds_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [Path(_write(tmp_path / f"a.{code}", ["x", "y"])) for code in ("en", "de")]
    monkeypatch.setattr("fourfold.data.pair_sources.find", lambda name: files)
    monkeypatch.setattr("fourfold.data.pair_sources.CATALOG", {"some-pairs": None})
    assert _open("some-pairs", split=(1, 0, 0)).languages == ("en", "de")
    turned = _open("some-pairs", split=(1, 0, 0), source="de", target="en")
    assert turned.languages == ("de", "en")
    with pytest.raises(UserError, match="no file .fr"):
        _open("some-pairs", source="fr", target="en")


def test_lines_of_a_csv_file_end_at_line_ends_only(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes('source,target\r\na\u2028b,c\x85d\r\n"e\nf",g\r\n'.encode())
    sides = read_pairs(str(path), ("source", "target"))
    assert sides.sources == ["a\u2028b", "e f"] and sides.targets == ["c\x85d", "g"]
