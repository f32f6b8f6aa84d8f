"""What a verb returned, drawn: text, numbers, tables, pictures, maps, explanations."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nicegui import ui

from fourfold.core.types import Drawn, Explanation, Picture, Score, Table
from fourfold.serve.encode import plain, zipped
from fourfold.serve.page.controls import size
from fourfold.serve.page.shell import button, element, table, text
from fourfold.serve.page.words import Words
from fourfold.serve.schema import Upload

ROWS = 50  # of a table on the page; the download has all
CELLS = 2000  # of an array as a table
POINTS = 1000  # of a map
LONGEST = 60  # characters of a point's name
SIDE = re.compile(r'<svg[^>]*?\swidth="([\d.]+)[^>]*?\sheight="([\d.]+)', re.DOTALL)
FRAME = (
    '<!doctype html><meta name="color-scheme" content="light dark"><title>{title}</title>'
    "<style>body{{margin:0;overflow-x:auto}}svg{{display:block;margin:0 auto;max-width:none!important}}</style>{svg}"
    "<script>new ResizeObserver(() => parent.postMessage("
    '{{height: document.body.getBoundingClientRect().height}}, "*")).observe(document.body)</script>'
)
"""A drawing as a page of its own, which tells its height to the one around it (see `shell.frame`)."""


@dataclass(frozen=True)
class Packed:
    """What a verb wrote: one file, or an archive of several."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Mapped:
    """An array, with a map of its rows where it has one."""

    array: Any
    picture: Picture | None


def prepared(value: Any, words: Words, labels: Sequence[str] = ()) -> Any:
    """What takes time before an answer can be drawn, for a thread of its own: files are read, maps are made.

    Args:
        value: a verb's answer.
        words: the page's language.
        labels: a name for each row of an array, shown on the map.
    """
    if isinstance(value, Path):
        path = zipped(value) if value.is_dir() else value
        return Packed(path.name, path.read_bytes())
    if type(value).__module__.split(".")[0] in ("numpy", "torch") and getattr(value, "ndim", False):
        import numpy as np

        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        return Mapped(array, _map(array, labels, words))
    if isinstance(value, Drawn):  # a table of no rows is nothing to show
        return [value.draw(), value.table] if len(value.table) else [value.draw()]
    return value


def _map(vectors: Any, labels: Sequence[str], words: Words) -> Picture | None:
    """Vectors in the plane, each point named by the text it came from; None where they are none."""
    import numpy as np

    from fourfold.look.projection import projection_map

    if vectors.ndim != 2 or vectors.shape[1] < 2 or vectors.dtype.kind != "f":
        return None
    kept = np.flatnonzero(np.isfinite(vectors).all(axis=1))[:POINTS]
    if len(kept) < 3:
        return None
    named = len(labels) == len(vectors)
    names = [labels[i][:LONGEST] if named else str(i + 1) for i in kept]
    return projection_map(vectors[kept], names, words("map", count=f"{len(kept):,}"))


def show(
    value: Any,
    words: Words,
    *,
    verb: str,
    uploads: Sequence[Upload] = (),
) -> None:
    """Draw a verb's answer into the present place.

    Args:
        value: any of the types that verbs return, as `prepared` gave it back.
        words: the page's language.
        verb: for the names of downloads.
        uploads: what was sent with the call; a picture of the same shape is laid over it.
    """
    module = type(value).__module__.split(".")[0]
    if value is None or (isinstance(value, (str, list, tuple, dict)) and len(value) == 0):
        text(words("nothing"), "p", "quiet")
    elif isinstance(value, str):
        text(value, "pre", "answer", tabindex=0)
    elif isinstance(value, Score):
        _score(value, words)
    elif isinstance(value, Explanation):
        _explanation(value, words, verb)
    elif module == "PIL" or isinstance(value, Picture):
        _pictured(as_picture(value, verb), words, verb, uploads)
    elif isinstance(value, Table):
        _table(value, words)
    elif module == "polars":
        frame(value, words, verb)
    elif isinstance(value, Mapped):
        _array(value, words, verb)
    elif isinstance(value, (list, tuple)) and all(_drawn(v) for v in value):
        for i, each in enumerate(value):
            show(each, words, verb=f"{verb}-{i + 1}")
    elif isinstance(value, Packed):
        _file(value, words)
    elif isinstance(value, bool):
        text(words("yes") if value else words("no"), "p", "large")
    elif isinstance(value, (int, float)) or module == "numpy":
        text(f"{value:,}" if isinstance(value, int) else f"{float(value):.6g}", "p", "large number")
    else:
        _json(value, words, verb)


def _drawn(value: Any) -> bool:
    kinds = (Picture, Table, Score, Explanation)
    return isinstance(value, kinds) or type(value).__module__.startswith(("PIL", "polars"))


def as_picture(value: Any, title: str) -> Picture:
    """A picture as ours, an image of Pillow's among them."""
    if isinstance(value, Picture):
        return value
    file = io.BytesIO()
    value.save(file, "PNG")
    return Picture(title, file.getvalue())


def _download(words: Words, key: str, name: str, content: Callable[[], bytes]) -> None:
    made = button(words(key), "slim")
    made.on("click", lambda: ui.download.content(content(), name))


def _file(packed: Packed, words: Words) -> None:
    text(words("written", path=packed.name, size=size(len(packed.content))), "p")
    made = button(words("download"), "first")
    made.on("click", lambda: ui.download.content(packed.content, packed.name))


def _score(score: Score, words: Words) -> None:
    rows = [
        (name.replace("_", " "), value, score.units.get(name, ""))
        for name, value in score.values.items()
    ]
    table(
        (words("measure"), words("value"), words("unit")), rows, label=words("answered"), named=True
    )
    for note in score.notes:
        text(note, "p", "quiet")


def _explanation(explanation: Explanation, words: Words, verb: str) -> None:
    text(explanation.title, "h2")
    for number, sentence in enumerate(explanation.sentences):
        text(sentence, "p", "verdict" if number == 0 else "")
    for picture in explanation.pictures:
        _pictured(picture, words, verb, ())
    for each in explanation.tables:
        _table(each, words)


def _table(shown: Table, words: Words) -> None:
    with element("section"):
        if shown.title:
            text(shown.title, "h3")
        table(shown.columns, shown.rows[: 4 * ROWS], label=shown.title or words("answered"))
        if len(shown.rows) > 4 * ROWS:
            count = f"{len(shown.rows):,}"
            text(words("rows shown", shown=4 * ROWS, count=count), "p", "quiet small")
        if shown.caption:
            text(shown.caption, "p", "quiet small")


def frame(value: Any, words: Words, verb: str) -> None:
    """A polars frame: its first rows, and all of them to download."""
    count = f"{value.height:,}"
    shown = (
        words("rows shown", shown=ROWS, count=count)
        if value.height > ROWS
        else words("rows", count=count)
    )
    with element("div", "bar"):
        text(shown, "p", "quiet")
        _download(words, "download csv", f"{verb}.csv", lambda: value.write_csv().encode())
    # the prediction stands first: it is what was asked for
    names = sorted(
        value.columns, key=lambda name: not name.startswith(("prediction", "probability"))
    )
    with element("div", "shown-rows"):
        table(names, value.select(names).head(ROWS).rows(), label=words("answered"), wide=True)


# --- pictures -------------------------------------------------------------------------------------


def address(png: bytes) -> str:
    """A picture's pixels as a data address."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _pictured(picture: Picture, words: Words, verb: str, uploads: Sequence[Upload]) -> None:
    with element("figure"):
        if picture.title:
            text(picture.title, "h3")
        below = _same_shape(uploads, picture.png)
        if picture.svg:
            drawn(picture.svg, picture.title)
        elif below is not None:
            _overlay(below, picture, words)
        else:
            element("img", src=address(picture.png), alt=picture.title or verb)
        if picture.caption:
            text(picture.caption, "figcaption")
        with element("div", "bar"):
            _download(words, "download png", f"{verb}.png", lambda: picture.png)
            if picture.svg:
                _download(words, "download svg", f"{verb}.svg", picture.svg.encode)


def drawn(svg: str, title: str) -> None:
    """An SVG that may be played or opened: its script runs in a frame of its own, cut off from this page."""
    size = SIDE.search(svg)
    height = float(size[2]) if size else 480.0
    content = FRAME.format(title=_bare(title), svg=svg)
    made = element("iframe", "drawing", srcdoc=content, title=title, sandbox="allow-scripts")
    made.style(f"height: {min(height, 2000.0):.0f}px")


def _bare(title: str) -> str:
    return "".join(c for c in title if c.isalnum() or c in " .,-")


def _same_shape(uploads: Sequence[Upload], png: bytes) -> bytes | None:
    """The one picture that was sent, as PNG, if the answer has its proportions."""
    if len(uploads) != 1:
        return None
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(uploads[0].content)) as sent, Image.open(io.BytesIO(png)) as got:
            if (
                abs(sent.width * got.height - got.width * sent.height)
                > 0.03 * sent.width * got.height
            ):
                return None
            file = io.BytesIO()
            sent.convert("RGB").resize(got.size).save(file, "PNG")
            return file.getvalue()
    except (UnidentifiedImageError, OSError):
        return None


def _overlay(below: bytes, picture: Picture, words: Words) -> None:
    with element("div", "overlay"):
        element("img", src=address(below), alt=words("your picture"))
        above = element("img", src=address(picture.png), alt=picture.title or words("answered"))
    with element("label", "slide"):
        text(words("overlay"), "span")
        slider = element("input", type="range", min=0, max=100, defaultValue=100)
    slider.on(
        "input",
        js_handler=f"(e) => getHtmlElement({above.id}).style.opacity = e.target.value / 100",
    )


# --- arrays and anything else ---------------------------------------------------------------------


def _array(mapped: Mapped, words: Words, verb: str) -> None:
    array = mapped.array
    with element("div", "bar"):
        shape = " × ".join(map(str, array.shape))
        text(words("shape", shape=shape, dtype=array.dtype), "p", "quiet")
        _download(words, "download csv", f"{verb}.csv", lambda: _csv(array))
    if mapped.picture is not None:
        _pictured(mapped.picture, words, f"{verb}-map", ())
    elif array.ndim <= 2:
        rows = array.reshape(len(array), -1)
        some = rows[: max(1, CELLS // max(1, rows.shape[1]))][:ROWS].tolist()
        table([str(i) for i in range(rows.shape[1])], some, label=words("answered"), wide=True)


def _csv(array: Any) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.savetxt(file, array.reshape(len(array), -1), delimiter=",", fmt="%.9g")
    return file.getvalue()


def _json(value: Any, words: Words, verb: str) -> None:
    written = json.dumps(plain(value), ensure_ascii=False, indent=2)
    text(written[:20000], "pre", "answer", tabindex=0)
    _download(words, "download json", f"{verb}.json", written.encode)
