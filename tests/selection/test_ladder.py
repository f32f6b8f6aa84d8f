"""The ladder: one vocabulary, one measure, rungs that are not trained twice, compressors beside them."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import sys
from pathlib import Path
from typing import Any

import pytest

import fourfold
from fourfold import api
from fourfold.cli.main import dispatch
from fourfold.core.errors import Interrupted, UserError
from fourfold.data.text import Text, split_text
from fourfold.selection.compressors import compressed_bits
from fourfold.selection.ladder import RUNGS, ladder
from fourfold.selection.ladder_record import Ladder

LINES = [
    f"the {a} sat on the {b} .\n" for a in ("cat", "dog", "cow") for b in ("mat", "log", "hay")
]
SOURCE = {"text": ["".join(LINES * 40) + "the zebra sat .\n" + "".join(LINES * 8)]}
SMALL: dict[str, dict[str, Any]] = {
    "lstm": {"width": 16, "layers": 1, "optimizer.steps": 20},
    "gpt": {"width": 32, "layers": 1, "optimizer.steps": 20, "data.window": 16},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    folder = tmp_path_factory.mktemp("ladder") / "all"
    return ladder(SOURCE, rungs=["gpt", "ngram", "lstm"], unit="space", out=folder, options=SMALL)


def test_rungs_stand_in_their_order_on_one_measure(found: Ladder) -> None:
    assert [rung.name for rung in found.rungs] == ["ngram", "lstm", "gpt"]
    digests = set()
    for rung in found.rungs:
        assert not rung.error and rung.parameters > 0 and rung.bytes > 0
        run = fourfold.open(found.folder / rung.name)
        run.sources, run.about["in_memory"] = SOURCE, False
        score = run.evaluate()
        assert score["perplexity"] == pytest.approx(rung.perplexity, rel=1e-5)
        assert score["bits_per_byte"] == pytest.approx(rung.bits_per_byte, rel=1e-5)
        digests.add(run.data.vocabulary.digest)
    assert len(digests) == 1


def test_what_stands_in_the_folder(found: Ladder) -> None:
    record = json.loads((found.folder / "ladder.json").read_text())
    assert [rung["name"] for rung in record["rungs"]] == ["ngram", "lstm", "gpt"]
    page = (found.folder / "report.html").read_text()
    assert "How far each idea went" in page and "gzip -9" in page and "Hochreiter" in page
    explained = found.explanation()
    assert [p.title for p in explained.pictures] == [
        "How far each idea went",
        "Where counting ends",
    ]
    assert explained.tables[0].title == "Every rung"
    best = min(found.rungs, key=lambda rung: rung.perplexity)
    assert explained.sentences[0].startswith(f"{best.name} expects the text best")


def test_what_is_done_is_not_trained_again(found: Ladder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(api, "fit", refuse)
    rungs = ["ngram", "lstm"]
    again = ladder(SOURCE, rungs=rungs, unit="space", out=found.folder, options=SMALL)
    assert again.rungs == found.rungs
    with pytest.raises(UserError, match="ladder with another min_count .2, now 1"):
        ladder(SOURCE, rungs=rungs, unit="space", out=found.folder, min_count=1)
    with pytest.raises(UserError, match="another fingerprint|another vocabulary"):
        ladder({"text": ["a b c d e f\n" * 99]}, rungs=rungs, unit="space", out=found.folder)


def test_where_counting_ends(found: Ladder) -> None:
    """Never-seen n-grams against sets of tuples, within their lines."""
    counting = found.counting
    assert found.plan["unit"] == "space" and len(counting["unseen"][-1]) == 7
    options = Text(unit="space", window=1, min_count=2)
    data = options.open(SOURCE)
    line = data.vocabulary.line  # type: ignore[attr-defined]
    for order in (1, 2, 3, 5):
        grams = [
            _grams(data.tokens(split).tolist()[1:], order, line)
            for split in ("train", "test")  # type: ignore[misc]
        ]
        unseen = sum(gram not in set(grams[0]) for gram in grams[1]) / len(grams[1])
        assert counting["unseen"][-1][order - 1] == pytest.approx(unseen, abs=1e-6)


def _grams(tokens: list[int], order: int, line: int) -> list[tuple[int, ...]]:
    """Within each line; what precedes it counts as a line's end, once."""
    found, begin = [], [line]
    for token in tokens:
        begin.append(token)
        if len(begin) >= order:
            found.append(tuple(begin[-order:]))
        if token == line:
            begin = [line]
    return found


def test_a_stopped_ladder_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit, calls = api.fit, []

    def stopping(name: str, *args: Any, **given: Any) -> Any:
        calls.append(name)
        if calls == ["ngram", "lstm"]:
            raise Interrupted(2, 1, "fourfold fit lstm --resume")
        return fit(name, *args, **given)

    monkeypatch.setattr(api, "fit", stopping)
    arguments: dict[str, Any] = {
        "rungs": ["ngram", "lstm"],
        "options": SMALL,
        "out": tmp_path / "l",
    }
    with pytest.raises(Interrupted) as stopped:
        ladder(SOURCE, command="fourfold ladder x", **arguments)
    assert stopped.value.command == "fourfold ladder x" and "lstm" in stopped.value.after
    assert len(ladder(SOURCE, **arguments).rungs) == 2
    assert calls == ["ngram", "lstm", "lstm"]


def test_a_test_text_of_its_own(tmp_path: Path) -> None:
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text("".join(LINES * 40))
    test.write_text("the cow sat on the zebra .\n" * 5)
    found = ladder(str(train), test=str(test), rungs=["ngram"], unit="space", out=tmp_path / "l")
    assert found.facts["tested"] == 5 * 8 and found.facts["unknown"] == 5
    alone = found.compressors["gzip -9"][0]
    assert alone == pytest.approx(
        8 * len(gzip.compress(test.read_bytes(), 9)) / test.stat().st_size
    )


def test_compressors_against_their_own_modules() -> None:
    known, data = "".join(LINES * 9).encode(), "".join(LINES[::-1] * 3).encode()
    bits = compressed_bits(data, known)
    assert bits["gzip -9"] == (pytest.approx(8 * len(gzip.compress(data, 9)) / len(data)), None)
    alone, behind = bits["xz -9"]
    assert alone == pytest.approx(8 * len(lzma.compress(data, preset=9)) / len(data))
    assert behind is not None and 0 < behind < alone / 2


def test_the_text_behind_a_split() -> None:
    options = Text(unit="space", window=1)
    data = options.open(SOURCE, seed=3)
    for split in ("train", "valid", "test"):
        text = split_text(options, split, SOURCE, seed=3)
        assert len(text.encode()) == data.bytes(split)
    joined = "".join(split_text(options, s, SOURCE, seed=3) for s in ("train", "valid", "test"))
    assert joined == SOURCE["text"][0]


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--rungs lstn: no such system; did you mean lstm"):
        ladder(SOURCE, rungs=["lstn"])
    with pytest.raises(UserError, match="--rungs linear: is no language model"):
        ladder(SOURCE, rungs=["linear"])
    with pytest.raises(UserError, match="no word of its training split occurs 2 times"):
        ladder({"text": ["word"]}, rungs=["ngram"], out=tmp_path / "a")
    one = ladder({"text": ["word " * 99]}, rungs=["ngram"], unit="space", out=tmp_path / "one")
    assert one.rungs[0].perplexity < 1.5
    with pytest.raises(UserError, match="100000 entries asked"):
        ladder(SOURCE, rungs=["ngram"], vocabulary=100_000, out=tmp_path / "b")
    with pytest.raises(UserError, match="no rung could be trained; gpt: "):
        ladder(SOURCE, rungs=["gpt"], options={"gpt": {"data.window": 10**6}}, out=tmp_path / "c")


def test_a_vocabulary_of_one_word(tmp_path: Path) -> None:
    """Every rung that is installed learns it, and says it."""
    steps = {name: {"optimizer.steps": 3} for name in RUNGS if name != "ngram"}
    rungs = ["ngram", "lstm"]
    found = ladder(
        SOURCE, rungs=rungs, unit="space", vocabulary=4, options=steps, out=tmp_path / "l"
    )
    assert [rung.error for rung in found.rungs] == ["", ""]
    assert all(1 <= rung.perplexity < 4.5 for rung in found.rungs)


def test_standard_input_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe:
        buffer = io.BytesIO("".join(LINES * 40).encode())

    monkeypatch.setattr(sys, "stdin", Pipe)
    found = ladder("-", rungs=["ngram"], unit="space", out=tmp_path / "l")
    assert (tmp_path / "l" / "text.txt").read_text() == "".join(LINES * 40)
    assert found.rungs[0].perplexity < 4


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "a.txt"
    text.write_text("".join(LINES * 40))
    dispatch(["ladder", str(text), "--rungs", "ngram", "--out", str(tmp_path / "l"), "--quiet"])
    assert "Every rung" in capsys.readouterr().out
    dispatch(["ladder", str(text), "--rungs", "ngram", "--out", str(tmp_path / "l"), "--json"])
    assert json.loads(capsys.readouterr().out)["tables"][0]["title"] == "Every rung"
    for words, sentence in (
        (["--minutes", "x"], "--minutes: expected a number above 0"),
        (["--minutes", "0"], "--minutes: expected a number above 0"),
        (["--unit", "words"], "--unit words: no such unit; did you mean word"),
        (["--vocabulary", "many"], "--vocabulary: expected a whole number"),
    ):
        with pytest.raises(UserError, match=sentence):
            dispatch(["ladder", str(text), *words])


def test_a_short_rung_is_small(tmp_path: Path) -> None:
    for minutes, layers in ((0.002, 2), (1.0, 4)):
        given = {
            "gpt": {"data.window": 8, "data.batch": 2, "width": 32, "optimizer.minutes": 0.002}
        }
        made = ladder(
            SOURCE,
            rungs=["gpt"],
            unit="space",
            minutes=minutes,
            out=tmp_path / str(layers),
            options=given,
        )
        assert fourfold.open(made.folder / "gpt").system.layers == layers
