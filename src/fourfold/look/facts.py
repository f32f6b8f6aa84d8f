"""What is worth knowing about a run, in plain values: its outcome, options, modules, data and commands."""

from __future__ import annotations

import inspect
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from fourfold.core.metrics import best_line
from fourfold.core.system import System, verbs
from fourfold.core.words import duration, number, short
from fourfold.look.curves import Curve, chart, smooth, smooth_both_ways

if TYPE_CHECKING:
    from torch import nn

    from fourfold.core.run import Run

Line = Mapping[str, Any]
PLAIN = {"lr": "learning rate", "grad_norm": "gradient norm", "rate": "rate"}
"""Logged names that are no measure of the model, in words."""
COUNTED = {"step", "seconds", "evaluation_seconds", "progress", "seen", "epoch", *PLAIN}


@dataclass(frozen=True)
class Fact:
    """A number in large figures, with what it is and one line of detail."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Option:
    """One option of a run, its default, and whether it was changed."""

    name: str
    value: str
    default: str
    changed: bool
    help: str = ""


@dataclass(frozen=True)
class ModuleRow:
    """One module of the model; `depth` 0 is the model itself."""

    depth: int
    name: str
    kind: str
    parameters: int


# --- the outcome ------------------------------------------------------------------------------


def measured(lines: Sequence[Line], prefix: str = "valid.") -> list[str]:
    """Names under a prefix, in the order in which they were first logged."""
    found: dict[str, None] = {}
    for line in lines:
        found.update(dict.fromkeys(name for name in line if name.startswith(prefix)))
    return list(found)


def outcome(lines: Sequence[Line]) -> list[Fact]:
    """The best evaluation, the test and, where there is neither, the training loss."""
    last = max((int(line.get("step", 0)) for line in lines), default=0)
    facts = []
    for line in [line for line in lines if measured([line], "test.")][-1:]:
        for name in measured([line], "test."):
            facts.append(
                Fact(f"{_words(name[5:])}, test", number(line[name]), "examples never seen")
            )
    best = best_line(lines)
    if best is not None:
        detail = f"best, at step {best.get('step', 0):,}" + (f" of {last:,}" if last else "")
        for name in measured([best])[:3]:
            facts.append(Fact(f"{_words(name[6:])}, validation", number(best[name]), detail))
    losses = [line["loss"] for line in lines if _is_number(line.get("loss"))]
    if losses and not facts:
        facts.append(Fact("loss, training", number(smooth(losses)[-1]), f"at step {last:,}"))
    return facts


def effort(run: Run) -> list[Fact]:
    """Time trained and examples seen."""
    lines = run.metrics.lines
    spent = timings(run)
    seconds = spent.get("training", spent.get("the whole fit"))
    steps = max((int(line.get("step", 0)) for line in lines), default=0)
    facts = []
    if seconds is not None:
        facts.append(Fact("trained for", duration(seconds), f"{steps:,} steps" if steps else ""))
    seen = examples_seen(lines)
    if seen:
        unit = _unit(run)
        facts.append(
            Fact(
                f"{unit} seen", short(seen), f"{short(seen / seconds)} a second" if seconds else ""
            )
        )
    return facts


def examples_seen(lines: Sequence[Line]) -> float:
    """Examples that the training has seen: as logged, otherwise rate times time, summed."""
    logged = [line["seen"] for line in lines if _is_number(line.get("seen"))]
    if logged:
        return float(max(logged))
    rows = [
        line for line in lines if _is_number(line.get("rate")) and _is_number(line.get("seconds"))
    ]
    before = [0.0, *(row["seconds"] for row in rows)]
    return sum(
        row["rate"] * max(0.0, row["seconds"] - b) for row, b in zip(rows, before, strict=False)
    )


def timings(run: Run) -> dict[str, float]:
    """Seconds by what they went into; training excludes evaluation."""
    lines = run.metrics.lines
    trained = [line["seconds"] for line in lines if _is_number(line.get("seconds"))]
    evaluated = [line[k] for line in lines if _is_number(line.get(k := "evaluation_seconds"))]
    found = {
        "reading the data": run.about.get("data_seconds"),
        "training": max(trained) if trained else None,
        "evaluation": sum(evaluated) if evaluated else None,
        "the whole fit": run.about.get("fit_seconds"),
    }
    return {name: float(v) for name, v in found.items() if v is not None and _is_number(v)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _words(name: str) -> str:
    return name.replace("_", " ").replace(".", " ")


def _unit(run: Run) -> str:
    try:
        return run.data.unit
    except Exception:  # the preparation may be damaged; the rest of the report is not
        return "examples"


# --- curves -----------------------------------------------------------------------------------


def charts(
    lines: Sequence[Line], unit: str = "examples", units: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """Titles and drawings of all that was logged more than once; the losses come first.

    Args:
        lines: of the log.
        unit: what the rate counts, in the plural.
        units: of measures by name, where they have one.
    """
    names = [n for n in _numeric(lines) if n not in COUNTED]
    groups: dict[str, list[str]] = {}
    for name in names:
        base = name.removeprefix("valid.")
        groups.setdefault("losses" if base.endswith("_loss") else base, []).append(name)
    ordered = sorted(groups, key=lambda g: (g != "loss", g != "losses"))
    known = units or {}
    drawn = [(_words(g), _measures(lines, groups[g], g, known.get(g, ""))) for g in ordered]
    for name, words in PLAIN.items():
        label = f"{unit} a second" if name == "rate" else words
        log = False if name == "lr" else None  # it ends near 0, which a logarithm would stretch
        svg = chart([_curve(lines, name, words)], y_label=label, log=log, from_zero=True)
        drawn.append((words, svg))
    return [(title, svg) for title, svg in drawn if svg]


def _numeric(lines: Sequence[Line]) -> list[str]:
    found: dict[str, None] = {}
    for line in lines:
        found.update(dict.fromkeys(n for n, v in line.items() if _is_number(v)))
    return list(found)


def _curve(lines: Sequence[Line], name: str, words: str, *, dots: bool = False) -> Curve:
    # the weights that are kept may be measured once more in the end, under their own step
    rows = sorted(
        {
            line.get("step", 0): line[name]
            for line in lines
            if isinstance(line.get(name), (int, float))
        }.items()
    )
    return Curve(words, [s for s, _ in rows], [v for _, v in rows], dots=dots)


def _measures(lines: Sequence[Line], names: Sequence[str], group: str, unit: str) -> str:
    raw, curves = [], []
    for name in names:
        where = "validation" if name.startswith("valid.") else "training"
        base = name.removeprefix("valid.")
        words = where if base == group else f"{_words(base)}, {where}"
        curve = _curve(lines, name, words, dots=where == "validation")
        if where == "training" and len(curve.y) >= 30:
            raw.append(Curve("" if len(names) > 2 else "as measured", curve.x, curve.y, faint=True))
            curve = Curve(f"{words}, smoothed", curve.x, smooth_both_ways(curve.y))
        curves.append(curve)
    label = f"{_words(group)} ({unit})" if unit else _words(group)
    return chart([*raw, *curves], y_label=label)


# --- options, modules, data ---------------------------------------------------------------------


def options(run: Run) -> list[Option]:
    """Every option of the run, beginning with those common to every fit."""
    system = run.system
    common = [
        Option(
            "seed",
            str(run.seed),
            "0",
            run.seed != 0,
            "Fixes split, order, first weights and samples.",
        ),
        Option(
            "device", run.device_name, "auto", run.device_name != "auto", "Where the model lives."
        ),
    ]
    return [*common, *_options(system, None, "")]


def _options(part: BaseModel, defaults: BaseModel | None, path: str) -> Iterator[Option]:
    """Fields of a part against the defaults that its owner gives it, else against its class's."""
    same = type(defaults) is type(part)
    for name, field in type(part).model_fields.items():
        value, default = getattr(part, name), field.get_default(call_default_factory=True)
        if defaults is not None and (same or name == "kind"):
            default = getattr(defaults, name, default)
        full = f"{path}{name.removesuffix('_')}"
        if isinstance(value, BaseModel):
            yield from _options(
                value, default if isinstance(default, BaseModel) else None, f"{full}."
            )
            continue
        given = default is PydanticUndefined
        help_text = " ".join((field.description or "").split())
        yield Option(
            full,
            plain(value),
            "" if given else plain(default),
            given or value != default,
            help_text,
        )


def plain(value: Any, *, grouped: bool = False) -> str:
    """A value of any kind in one line of text.

    Args:
        value: of a configuration or a summary.
        grouped: whole numbers with commas, to be read and not to be typed again.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, int):
        return f"{value:,}" if grouped else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        items = [f"{_words(str(k))} {plain(v, grouped=grouped)}" for k, v in value.items()]
        return ", ".join(items) or "none"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(plain(v, grouped=grouped) for v in value) or "none"
    if isinstance(value, BaseModel):
        return json.dumps(value.model_dump(mode="json"), ensure_ascii=False)
    return str(value)


def count(model: nn.Module) -> int:
    """Parameters of a model, shared ones once; where it has none, the numbers in its buffers."""
    return sum(p.numel() for p in model.parameters()) or sum(b.numel() for b in model.buffers())


def modules(model: nn.Module, depth: int = 3, limit: int = 80) -> list[ModuleRow]:
    """The tree of modules; equal neighbours of a list stand in one row."""
    rows = list(_modules(model, "model", 0, depth))
    if len(rows) <= limit:
        return rows
    rest = ModuleRow(1, f"{len(rows) - limit:,} more", "", 0)
    return [*rows[:limit], rest]


def _modules(module: nn.Module, name: str, level: int, depth: int) -> Iterator[ModuleRow]:
    from torch import nn

    children = list(module.named_children())
    kind = type(module).__name__
    if not children and module.extra_repr():
        kind += f"({module.extra_repr()})"
    yield ModuleRow(level, name, kind if len(kind) <= 90 else f"{kind[:89]}…", count(module))
    if level == depth:
        return
    i = 0
    while i < len(children):
        first, child = children[i]
        same = i + 1
        if isinstance(module, nn.ModuleList):
            while same < len(children) and repr(children[same][1]) == repr(child):
                same += 1
        label = first if same == i + 1 else f"{first} … {children[same - 1][0]}, each"
        yield from _modules(child, label, level + 1, depth)
        i = same


def data_rows(summary: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[str]]:
    """A data summary as rows of text, and its notes."""
    shown = {str(key): value for key, value in summary.items() if key != "notes"}
    rows = [(_words(key), plain(value, grouped=True)) for key, value in shown.items()]
    notes = summary.get("notes") or []
    return rows, [str(n) for n in ([notes] if isinstance(notes, str) else notes)]


# --- what to type -------------------------------------------------------------------------------


def about_system(system: System) -> str:
    """What the system is, in one sentence: the first of its docstring."""
    text = " ".join((type(system).__doc__ or "").strip().split("\n\n")[0].split())
    return text


def commands(run: Run) -> list[tuple[str, str]]:
    """What the run can do: a command for each verb, and what it does."""
    found = []
    for name, method in verbs(run.system).items():
        needed = [
            p.name.removesuffix("_")
            for p in list(inspect.signature(method).parameters.values())[2:]
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        if run.folder is None:
            text = f"run.{name}({', '.join(needed)})"
        else:
            place = shlex.quote(str(run.folder))
            text = " ".join(["fourfold", name, place, *(n.upper() for n in needed)])
        found.append((text, (inspect.getdoc(method) or "").split("\n")[0]))
    return found


def made_by(run: Run) -> str:
    """The command that made the run, or one that makes it again."""
    if command := run.about.get("command"):
        return str(command)
    if run.folder is None:
        return f"fourfold.fit({run.system.name!r}, ...)"
    return f"fourfold fit {shlex.quote(str(run.folder / 'system.toml'))}"
