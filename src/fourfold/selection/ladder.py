"""The ladder of language models: every rung trained on the same text with one vocabulary, and measured alike.

A folder keeps each rung's run, `ladder.json` and `report.html`; rungs that are done are not trained again.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fourfold import api
from fourfold.core.console import Console, Silent
from fourfold.core.errors import Interrupted, UserError, nearest
from fourfold.core.folders import new_folder
from fourfold.core.options import options as options_of
from fourfold.core.registry import index, load_system
from fourfold.core.run import Run
from fourfold.core.sources import describe, stored
from fourfold.core.state import atomically, write_text
from fourfold.core.system import System
from fourfold.data.text import Text, TextData, split_text
from fourfold.data.vocabularies import WORDS, Unit
from fourfold.data.vocabulary import Vocabulary
from fourfold.kernels.ngram_growth import grow
from fourfold.look.facts import count, examples_seen, timings
from fourfold.look.page import render
from fourfold.selection.compressors import compressed_bits
from fourfold.selection.ladder_record import Ladder, Rung
from fourfold.tasks.language import LanguageModel, language_score, text_data

RUNGS = ("ngram", "nnlm", "lbl", "hlbl", "rnn", "gru", "lstm", "gpt")
"""From the oldest idea to the newest."""
WORDS_AT_MOST = 10_000
"""Entries of the shared vocabulary where none are asked, as in the field's Penn Treebank."""
SAMPLE = 40
"""Tokens that each rung says in the report."""
RECORD = "ladder.json"
ORDERS = 7
COUNTED, HELD = 4_000_000, 200_000
"""Most tokens that are counted, and looked at, to show where counting ends."""
SHORT = {"gpt": (1.0, "mini")}
"""Rungs that are too large for so few minutes as they are, with the size that they take below."""


def ladder(
    source: Any = None,
    *,
    minutes: float = 3.0,
    rungs: Sequence[str] | None = None,
    unit: Unit = "word",
    vocabulary: int | None = None,
    min_count: int = 2,
    valid: Any = None,
    test: Any = None,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    console: Console | None = None,
    command: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Ladder:
    """Train every rung and measure it.

    Args:
        source: texts, as for `fit`.
        minutes: of training for each rung that has such a budget; counting needs none.
        rungs: names of systems; None takes all that are installed.
        unit: what a token is, for all rungs.
        vocabulary: entries, for all rungs; None takes the most frequent, 10,000 at most.
        min_count: a rarer word is unknown: with 1 the unknown token would never occur in training.
        valid: texts of the validation split, if they are files of their own.
        test: texts to measure on; None takes the source's test split.
        out: the folder; None makes `runs/ladder-<n>`. One that holds a ladder is gone on with.
        seed: fixes split, order, initial weights and noise.
        device: as for `fit`.
        console: where progress is said; silent by default.
        command: what to type to go on, said where it is stopped.
        options: further options by rung.

    Raises:
        UserError: an unknown rung, a text without enough tokens, or a folder with a ladder of another plan.
        Interrupted: it was stopped; the same command goes on.
    """
    console = console or Silent()
    names = _names(rungs)
    folder = Path(out) if out is not None else new_folder("ladder")
    if source == "-":
        source = _standard_input(folder)
    data, about = _shared(source, unit, vocabulary, min_count, seed, valid)
    plan = {
        "minutes": minutes,
        "unit": unit,
        "min_count": min_count,
        "seed": seed,
        "source": stored(source),
        "valid": stored(valid),
        "test": stored(test),
        "vocabulary": len(data.vocabulary),
        "fingerprint": data.fingerprint,
        "options": {name: dict(options[name]) for name in names if options and name in options},
    }
    found = _opened(folder, plan)
    tested = data if test is None else data.reopen(test, seed=seed, whole=True)
    found.facts = {
        **about,
        **_facts(data, tested, _said(source), _said(test) if test else ""),
    }
    if not found.compressors:
        found.compressors = _beside(data, source, test, seed, valid)
    if not found.counting:
        found.counting = _counting(data, tested)
    known = {rung.name: rung for rung in found.rungs if not rung.error}
    for name in names:
        if name in known:
            console.say(f"{name}: is in {folder} already")
            continue
        console.say(f"--- {name} ({names.index(name) + 1} of {len(names)})")
        try:
            run = _fitted(
                name,
                source,
                folder / name,
                plan,
                (options or {}).get(name, {}),
                valid,
                device,
                console,
            )
            rung = _measured(run, data, tested, found.facts["prompt"])
        except Interrupted as stopped:
            raise Interrupted(
                stopped.signum, stopped.step, command or "", after=f"{stopped.after} of {name}"
            ) from None
        except UserError as error:
            rung = Rung(name, error=str(error))
            console.say(f"{name}: {error}")
        else:
            console.say(
                f"{name}: perplexity {rung.perplexity:,.1f}, {rung.bits_per_byte:.3f} bits per byte"
            )
        found.rungs = [*(r for r in found.rungs if r.name != name), rung]
        found.rungs.sort(key=lambda r: names.index(r.name) if r.name in names else len(names))
        _keep(found)
    if all(rung.error for rung in found.rungs):
        raise UserError(f"no rung could be trained; {found.rungs[0].name}: {found.rungs[0].error}")
    _keep(found)
    return found


# --- what all rungs share ---------------------------------------------------------------------------


def _names(rungs: Sequence[str] | None) -> list[str]:
    known = [name for name in RUNGS if name in index()]
    if rungs is None:
        return known
    for name in rungs:
        if name not in index():
            raise UserError(f"--rungs {name}: no such system{nearest(name, known)}")
        if not issubclass(load_system(name), LanguageModel):
            raise UserError(f"--rungs {name}: is no language model{nearest(name, known)}")
    order = {name: place for place, name in enumerate(RUNGS)}
    return sorted(dict.fromkeys(rungs), key=lambda name: order.get(name, len(order)))


def _standard_input(folder: Path) -> str:
    """A copy of it, as every rung reads it again."""
    path = folder / "text.txt"
    folder.mkdir(parents=True, exist_ok=True)
    atomically(path, lambda temporary: temporary.write_bytes(sys.stdin.buffer.read()))
    return str(path)


def _shared(
    source: Any, unit: Unit, vocabulary: int | None, min_count: int, seed: int, valid: Any
) -> tuple[TextData, dict[str, Any]]:
    """The text under the vocabulary of all rungs."""
    asked = Text(unit=unit, window=1, vocabulary=vocabulary, min_count=min_count)
    data = asked.open(source, seed=seed, valid=valid)
    if vocabulary is None and unit in WORDS and len(data.vocabulary) > WORDS_AT_MOST:
        fewer = asked.model_copy(update={"vocabulary": WORDS_AT_MOST})
        data = fewer.open(source, seed=seed, valid=valid)
    if unit in WORDS and not data.vocabulary.spellings():
        raise UserError(
            f"{describe(source)}: no word of its training split occurs {min_count} times or more; "
            "give more text, or --min-count 1"
        )
    about: dict[str, Any] = {"notes": []}
    written = data.vocabulary.unknown is not None and unit == "word" and "<unk>" in _beginning(data)
    if written:
        about["notes"] = ["the text writes <unk> itself: --unit space reads it as the field does"]
    return data, about


def _beginning(data: TextData) -> str:
    return data.vocabulary.decode(data.tokens("train")[1:2000])


def _said(source: Any) -> str:
    """Sources by their names, for a title."""
    many = source if isinstance(source, (list, tuple)) else [source]
    named = all(isinstance(s, (str, os.PathLike)) for s in many)
    return describe([Path(s).name for s in many] if named else source)


def _facts(data: TextData, tested: TextData, source: str, test: str) -> dict[str, Any]:
    tokens = tested.tokens("test")
    if len(tokens) < 2:
        raise UserError(
            f"{source}: the test split is empty; give more text, or a text to measure on with --test"
        )
    unknown = data.vocabulary.unknown
    missing = 0 if unknown is None else int((tokens[1:] == unknown).sum())
    return {
        "source": source,
        "test": test or "its test split",
        "trained": len(data.tokens("train")) - 1,
        "tested": len(tokens) - 1,
        "bytes": tested.bytes("test"),
        "spelling": tested.spelling("test"),
        "unknown": missing,
        "vocabulary": len(data.vocabulary),
        "unit": data.vocabulary.unit,
        "prompt": _prompt(tested.vocabulary, tokens),
    }


def _prompt(vocabulary: Vocabulary, tokens: np.ndarray, length: int = 5) -> str:
    """The first few words of the test text that are all known and of one line."""
    some = tokens[1:2000].tolist()
    for begin in range(len(some) - length):
        text = vocabulary.decode(some[begin : begin + length])
        known = vocabulary.unknown not in some[begin : begin + length]
        if known and "\n" not in text and sum(c.isalpha() for c in text) > len(text) // 2:
            return text.strip()
    return vocabulary.decode(some[:length]).strip()


def _beside(
    data: TextData, source: Any, test: Any, seed: int, valid: Any
) -> dict[str, tuple[float, float | None]]:
    known = split_text(data.options, "train", source, seed=seed, valid=valid)
    if test is None:
        text = split_text(data.options, "test", source, seed=seed, valid=valid)
    else:
        whole = data.options.model_copy(update={"split": (1.0, 0.0, 0.0)})
        text = split_text(whole, "train", test, seed=seed)
    return compressed_bits(text.encode(), known.encode())


def _counting(data: TextData, tested: TextData) -> dict[str, list[Any]]:
    """Where counting ends, for ever larger parts of the training text; nothing where there is too little of it."""
    vocabulary = data.vocabulary
    train, held = data.tokens("train")[: COUNTED + 1], tested.tokens("test")[: HELD + 1]
    total = len(train) - 1
    sizes = sorted({total // 4**power for power in range(4) if total // 4**power >= 1000})
    if not sizes or len(held) < 100:
        return {}
    ends = vocabulary.encode("\n").tolist()
    line = len(ends) == 1 and ends[0] != vocabulary.unknown and vocabulary.unit in WORDS
    stop = ends[0] if line else vocabulary.end
    found = grow(train, held, sizes, ORDERS, len(vocabulary), vocabulary.end, stop)
    # JSON has no NaN: a text without sentences of that length has no such n-grams
    unseen = np.where(np.isnan(found.unseen), 1.0, found.unseen)
    return {
        "sizes": found.sizes.tolist(),
        "unseen": unseen.round(6).tolist(),
        "perplexity": found.perplexity.round(4).tolist(),
    }


# --- one rung ---------------------------------------------------------------------------------------


def _fitted(
    name: str,
    source: Any,
    folder: Path,
    plan: Mapping[str, Any],
    further: Mapping[str, Any],
    valid: Any,
    device: str,
    console: Console,
) -> Run:
    """The rung's run: finished, gone on with, or new."""
    if (folder / "system.toml").exists():
        run = Run.open(folder, device=None if device == "auto" else device)
        if not run.about.get("finished"):
            return api.resume(folder, console=console)
        return run
    given: dict[str, Any] = {
        "data.unit": plan["unit"],
        "data.min_count": plan["min_count"],
        # a rung's own default must not stand; the bytes take no number
        "data.vocabulary": None if plan["unit"] == "byte" else plan["vocabulary"],
    }
    budget = {"optimizer.steps", "optimizer.epochs", "optimizer.minutes"}
    if ("optimizer", "minutes") in options_of(load_system(name)) and not budget & set(further):
        given["optimizer.minutes"] = plan["minutes"]
    given.update(further)
    least, small = SHORT.get(name, (0.0, None))
    size = small if "optimizer.minutes" in given and plan["minutes"] < least else None
    if size is not None:
        console.say(f"{name}: takes its size {size} for less than {least:g} minutes")
    return api.fit(
        name, source, out=folder, seed=plan["seed"], valid=valid, device=device, console=console,
        size=size, **given,
    )  # fmt: skip


def _measured(run: Run, data: TextData, tested: TextData, prompt: str) -> Rung:
    """What a run reaches on the shared test tokens."""
    if text_data(run.data).vocabulary.digest != data.vocabulary.digest:
        raise UserError(f"{run.folder}: has another vocabulary than the other rungs")
    system: System = run.system
    assert isinstance(system, LanguageModel)  # noqa: S101
    tokens = np.asarray(tested.tokens("test"), np.int64)
    reader = system.reader(run)
    reader.surprises(tokens[:65])  # what is compiled on the way is not measured
    began = time.perf_counter()
    nats = reader.surprises(tokens)
    seconds = time.perf_counter() - began
    score = language_score(
        float(nats.sum()), len(nats), tested.bytes("test"), (), spelling=tested.spelling("test")
    )
    spent, seen = timings(run).get("training"), examples_seen(run.metrics.lines)
    weights = run.folder / "weights.safetensors" if run.folder else None
    said = "".join(run.generate(prompt, tokens=SAMPLE, seed=0))
    return Rung(
        run.system.name,
        score["perplexity"],
        score["bits_per_byte"],
        count(run.model),
        weights.stat().st_size if weights and weights.exists() else 0,
        (spent or 0.0) / 60,
        seen / spent if seen and spent else None,
        len(nats) / seconds,
        f"{prompt}{said}",
    )


# --- the folder -------------------------------------------------------------------------------------


def _opened(folder: Path, plan: dict[str, Any]) -> Ladder:
    """The ladder in a folder, to be gone on with, or a new one.

    Raises:
        UserError: it holds something else.
    """
    path = folder / RECORD
    if not path.exists():
        if (folder / "system.toml").exists():
            raise UserError(f"{folder}: holds a run, not a ladder; --out names another folder")
        return Ladder(folder, plan)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        rungs = [Rung(**rung) for rung in kept["rungs"]]
        before, facts = kept["plan"], kept["facts"]
        beside = {name: (a, b) for name, (a, b) in kept["compressors"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); another --out begins a new ladder") from error
    for name, value in plan.items():
        if name != "options" and before.get(name) != value:
            raise UserError(
                f"{folder}: holds a ladder with another {name} ({before.get(name)}, now {value}); "
                "another --out begins a new one"
            )
    return Ladder(folder, plan, facts, rungs, beside, kept.get("counting", {}))


def _keep(found: Ladder) -> None:
    """Write the record and the report."""
    found.folder.mkdir(parents=True, exist_ok=True)
    record = {
        "plan": found.plan,
        "facts": found.facts,
        "rungs": [asdict(rung) for rung in found.rungs],
        "compressors": found.compressors,
        "counting": found.counting,
    }
    write_text(found.folder / RECORD, json.dumps(record, ensure_ascii=False, indent=1))
    write_text(found.folder / "report.html", render(found.explanation()))
