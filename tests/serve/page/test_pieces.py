"""Pieces of the page that need no browser: escaping, tables, differences, what is entered in a form."""

import io
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import Ge, Le
from nicegui.client import Client
from nicegui.page import page
from PIL import Image

from fourfold.core.types import Document, Picture, Source
from fourfold.serve.page import results, shell
from fourfold.serve.page.compare import differences
from fourfold.serve.page.controls import Control, size
from fourfold.serve.page.entrance import form
from fourfold.serve.page.words import LANGUAGES, Words
from fourfold.serve.schema import Upload, field_of

WORDS = Words("en-US")
HOSTILE = "<img src=x onerror=alert(1)>&\"'\u202e"


@pytest.fixture
def client() -> Any:
    """A place for elements, outside any server."""
    made = Client(page(""))
    with made:
        yield made
    made.delete()


def control(name: str, annotation: Any, default: Any = None, **settings: Any) -> Control:
    return Control(field_of(name, annotation, default), WORDS, lambda: None, **settings)


def entered(made: Control, typed: str) -> Any:
    made.typed = typed
    return made.value()


def test_tables_escape_everything(client: Client) -> None:
    made = shell.table((HOSTILE, "n"), [(HOSTILE, 1.5), ("b", None)], label=HOSTILE, named=True)
    assert "<img" not in made.content and "\u202e" not in made.content
    assert made.content.count("&lt;img") == 3
    assert '<th scope="row">' in made.content and '<td class="n">1.5</td>' in made.content
    assert '<td class="n"></td>' in made.content, (
        "a missing number leaves its column one of numbers"
    )


def test_a_text_is_the_text_of_its_element(client: Client) -> None:
    made = shell.text(HOSTILE, "p", aria_label=HOSTILE)
    assert made._to_dict()["text"] == HOSTILE and made.props["aria-label"] == HOSTILE
    made.say("other")
    assert made._to_dict()["text"] == "other"


def test_differences_are_those_only() -> None:
    trees = {
        "a": {"layers": 4, "optimizer": {"lr": 0.1, "kind": "adam"}, "same": [1, 2]},
        "b": {"layers": 4, "optimizer": {"lr": 0.2, "kind": "adam"}, "same": [1, 2], "more": True},
    }
    assert differences(trees) == [("optimizer.lr", "0.1", "0.2"), ("more", "–", "yes")]
    assert differences({"a": trees["a"], "b": trees["a"]}) == []


def test_what_is_left_alone_is_not_given(client: Client) -> None:
    for annotation in (str, int, float, bool, Literal["a", "b"], Document, Source, list[str]):
        assert not control("x", annotation, None, reads="text").given


def test_what_is_entered_goes_as_the_command_line_has_it(client: Client) -> None:
    assert entered(control("x", int), "3") == "3"  # the verb's own types judge it
    assert entered(control("x", list[str]), "a,b") == "a,b"
    assert entered(control("x", list[str]), "a, b\nc") == ["a, b", "c"]
    assert entered(control("x", str | list[str]), "a\nb") == "a\nb", "one text may have lines"


def test_files_win_over_what_was_typed(client: Client) -> None:
    made = control("x", Source, reads="table")
    made.typed = "a,b"
    made.files = [Upload("a.csv", b"1")]
    assert made.value() == made.files[0]
    made.files.append(Upload("b.csv", b"2"))
    assert made.value() == made.files


def test_bounded_numbers_are_sliders_of_pictures_only(client: Client) -> None:
    shade = Annotated[float, Ge(0), Le(1)]
    assert ranges(control("x", shade, 0.5, slider=True)) == 1
    assert ranges(control("x", shade, 0.5)) == 0
    assert ranges(control("x", float, 0.5, slider=True)) == 0


def ranges(made: Control) -> int:
    return sum(e.props.get("type") == "range" for e in made.place.descendants())


@pytest.mark.parametrize(
    "count, said", [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 kB"), (32 << 20, "32 MB")]
)
def test_size(count: int, said: str) -> None:
    assert size(count) == said


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_an_overlay_needs_equal_proportions() -> None:
    sent = [Upload("a.png", png(40, 20))]
    below = results._same_shape(sent, png(80, 40))
    assert below is not None and Image.open(io.BytesIO(below)).size == (80, 40)
    assert results._same_shape(sent, png(40, 40)) is None
    assert results._same_shape([Upload("a.txt", b"text")], png(4, 4)) is None
    assert results._same_shape(sent * 2, png(80, 40)) is None


def test_arrays_get_a_map_where_they_have_one() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    mapped = results.prepared(vectors, WORDS, ["one", "two", "three", "four", "five"])
    assert "three" in mapped.picture.svg
    assert results.prepared(vectors[:2], WORDS).picture is None, "two points make no map"
    assert results.prepared(np.arange(9).reshape(3, 3), WORDS).picture is None, (
        "counts are no places"
    )
    vectors[1, 0] = np.nan
    assert (
        "three"
        in results.prepared(vectors, WORDS, ["one", "two", "three", "four", "five"]).picture.svg
    )


def test_files_and_folders_are_packed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert results.prepared(folder / "config.json", WORDS) == results.Packed("config.json", b"{}")
    packed = results.prepared(folder, WORDS)
    assert packed.name == "model.zip" and b"model/config.json" in packed.content


def test_every_kind_of_answer_is_drawn(client: Client) -> None:
    import polars as pl

    from fourfold.core.types import Explanation, Score, Table

    answers = [
        "text",
        "",
        None,
        3,
        2.5,
        {"a": [1]},
        Score({"mse": 1.0}),
        pl.DataFrame({"a": [1, 2]}),
    ]
    answers += [Picture("p", png(4, 4)), Image.new("L", (2, 2)), [Picture("p", png(4, 4))]]
    answers += [Table("t", ("a",), ((1,),)), np.arange(4.0), np.float32(2), True]
    answers += [
        Explanation("e", ("s",), (Table("t", ("a",), ((1,),)),), (Picture("p", png(4, 4)),))
    ]
    for answer in answers:
        with shell.element("div") as place:
            results.show(results.prepared(answer, WORDS), WORDS, verb="v")
        assert list(place.descendants()), answer


def test_a_drawings_title_cannot_leave_its_frame(client: Client) -> None:
    results.drawn("<svg width='10' height='10'></svg>", "</title><script>alert(1)</script>")
    frame = next(e for e in client.elements.values() if e.tag == "iframe")
    assert "alert" in frame.props["srcdoc"] and "<script>alert" not in frame.props["srcdoc"]
    assert frame.props["sandbox"] == "allow-scripts"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_form_for_the_token_says_what_it_wants(language: str) -> None:
    words = Words(language)
    plain, again = form("/login", language), form('/login?next="><b>', language, wrong=True)
    assert words("token why") in plain and 'role="alert"' not in plain
    assert words("wrong token") in again and '"><b>' not in again
