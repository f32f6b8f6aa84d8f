"""A model's graph as a drawing whose boxes open, and the numbers of every module as a table."""

from __future__ import annotations

import math

from torch import nn

from fourfold.core.types import Picture, Table
from fourfold.core.words import number, short
from fourfold.look.layers import arrange
from fourfold.look.modules import Call, Step, own_parameters, parameters_within
from fourfold.look.modules_views import Item, View, in_words, views
from fourfold.look.svg import Drawing, elide, text_width

LINE, WIDEST = 15.0, 250.0
MOST = 400  # views in one drawing; a model with more opens that many
CAPTION = (
    "From the batch at the top to the loss at the bottom; on each edge the shape of what flows. Boxes with ▸ open. "
    "A module's box says its parameters, its output's mean ± deviation, the root mean square of the loss's gradient there, "
    "the time of its forward pass, and what it keeps for the gradient."
)


def draw(step: Step, model: nn.Module, opened: str | None = None) -> list[Picture]:
    """The graph of a step, and the inside of one module where it is asked for.

    Args:
        step: from `trace`.
        model: whose parameters are counted.
        opened: a module's path, as blocks.0.attention.

    Raises:
        KeyError: no view of that path; its argument holds those there are.
    """
    root = views(step)
    counts = parameters_within(model)
    every = root.all()[:MOST]
    numbers = {id(view): i for i, view in enumerate(every)}
    drawings = [_view(view, counts, numbers) for view in every]
    title = "Computation graph" if step.player == "model" else f"Computation graph: {step.player}"
    pictures = [drawings[0].picture(title, CAPTION, script="open", hidden=drawings[1:])]
    if opened is not None:
        inside = {view.path: drawing for view, drawing in zip(every, drawings, strict=True)}
        if opened not in inside or not opened:
            raise KeyError([path for path in inside if path and " operations: " not in path])
        pictures.append(inside[opened].picture(f"Inside {opened}"))
    return pictures


def _view(view: View, counts: dict[str, int], numbers: dict[int, int]) -> Drawing:
    lines = [_lines(item, counts) for item in view.items]
    sizes = [_size(item, texts) for item, texts in zip(view.items, lines, strict=True)]
    at = {item: i for i, item in enumerate(view.items)}
    labels = [elide(", ".join(shapes), 200, 10) for _, _, shapes in view.edges]
    spaces = [(text_width(label, 10) + 6, 14.0) for label in labels]
    layout = arrange(sizes, [(at[a], at[b]) for a, b, _ in view.edges], spaces)
    head = 26.0 if view.path else 0.0
    title_width = text_width(view.path, 13, True) + 90 if view.path else 0.0
    drawing = Drawing(max(layout.width, title_width), layout.height + head)
    if view.path:
        drawing.text(0, 12, view.path, size=13, bold=True)
    for route in layout.routes:
        drawing.line([(x, y + head) for x, y in route], arrow=True)
    for label, place, space in zip(labels, layout.labels, spaces, strict=True):
        if place is not None:
            x, y = place[0], place[1] + head
            drawing.box(x - space[0] / 2, y, space[0], 14, fill="page", stroke="none", radius=3)
            drawing.text(x, y + 10.5, label, size=10, anchor="middle", fill="soft")
    for i, item in enumerate(view.items):
        x, y = layout.boxes[i]
        _draw_item(drawing, item, lines[i], (x, y + head), sizes[i], numbers)
    return drawing


def _lines(item: Item, counts: dict[str, int]) -> list[str]:
    """What a box says below its title."""
    call = item.call
    if call is None:
        return [elide(text, WIDEST, 11) for text in item.uses]
    found = [f"{call.kind} · {short(counts.get(call.name, 0))} parameters"]
    if not math.isnan(call.mean):
        found.append(f"output {number(call.mean)} ± {number(call.deviation)}")
    if not math.isnan(call.gradient):
        found.append(f"gradient {number(call.gradient)}")
    return [*found, f"{_time(call.seconds)} · {size_in_words(call.kept)} kept"]


def _size(item: Item, texts: list[str]) -> tuple[float, float]:
    mark = 16 if item.view else 0
    title = text_width(elide(item.title, WIDEST, 12, True), 12, True) + mark
    widest = max([title, *(text_width(text, 11) for text in texts)])
    return max(56.0, widest + 22), 24 + LINE * len(texts) + (4 if texts else 0)


def _draw_item(
    drawing: Drawing,
    item: Item,
    texts: list[str],
    corner: tuple[float, float],
    size: tuple[float, float],
    numbers: dict[int, int],
) -> None:
    x, y = corner
    fills = {
        "input": "given",
        "loss": "result",
        "operation": "tint",
        "group": "tint",
        "outside": "page",
    }
    fill = fills.get(item.kind, "card")
    opens = numbers.get(id(item.view)) if item.view else None
    marks = {"data_opens": opens} if opens is not None else {}
    hint = item.title if item.call is None else _hint(item.call)
    with drawing.group(hint, **marks):
        drawing.box(x, y, *size, fill=fill, dashed=item.kind == "outside")
        title = elide(item.title, WIDEST, 12, True)
        role = "soft" if item.kind == "outside" else "ink"
        bold = item.kind in ("call", "input", "loss")
        shift = 8 if item.view else 0
        drawing.text(
            x + size[0] / 2 - shift, y + 17, title, size=12, anchor="middle", bold=bold, fill=role
        )
        if item.view:
            drawing.text(x + size[0] - 16, y + 17, "▸", size=12, fill="value")
        for i, text in enumerate(texts):
            drawing.text(
                x + size[0] / 2, y + 33 + LINE * i, text, size=11, anchor="middle", fill="soft"
            )


def _hint(call: Call) -> str:
    shapes = ", ".join(map(in_words, call.shapes))
    return f"{call.name} ({call.kind}) gives {shapes}"


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "?"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def size_in_words(count: int) -> str:
    """Bytes as KiB or MiB, to three figures."""
    if count >= 2**20:
        return f"{count / 2**20:.3g} MiB"
    return f"{count / 2**10:.3g} KiB"


def modules_table(step: Step, model: nn.Module) -> Table:
    """Every call of the step with its numbers."""
    own, within = own_parameters(model), parameters_within(model)
    rows = []
    for call in step.calls:
        numbers = [call.mean, call.deviation, call.gradient, call.weight_gradient]
        rows.append(
            (
                call.name + (f" (call {call.repeat})" if call.repeat > 1 else ""),
                call.kind,
                within.get(call.name, 0),
                own.get(call.name, 0),
                ", ".join(map(in_words, call.shapes)),
                *(None if math.isnan(value) else value for value in numbers),
                call.seconds * 1e3,
                call.kept / 2**10,
            )
        )
    columns = (
        "module", "kind", "parameters", "own", "output", "mean", "deviation", "gradient", "weights' gradient",
        "forward (ms)", "kept (KiB)",
    )  # fmt: skip
    title = "Modules" if step.player == "model" else f"Modules: {step.player}"
    caption = (
        "In the order of their calls. Parameters, time and memory include the modules inside; own parameters do not, and sum to "
        "the model's. Gradient: root mean square of the loss's gradient at the output; weights' gradient: its norm over the "
        "parameters. Evaluation mode."
    )
    return Table(title, columns, tuple(rows), caption)
