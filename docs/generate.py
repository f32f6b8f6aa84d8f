"""The pages that follow from the code: README's tables, the catalog's, and one page for each system.

    python -m docs.generate            writes them
    python -m docs.generate --check    writes nothing; names what is not current and exits with 1

A generated table stands between `<!-- name -->` and `<!-- /name -->`: systems and numbers in README.md, catalog
in docs/data.md. Numbers come from benchmarks/results/*.json alone: a few in README.md (`HEADLINES`), all of them in
docs/numbers.md.
"""

from __future__ import annotations

import inspect
import json
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fourfold.core.options import Option, literal_choices, options, short_names
from fourfold.core.registry import Entry, index, load_system
from fourfold.core.system import System, verbs
from fourfold.data.catalog import CATALOG

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DATA = ROOT / "docs" / "data.md"
PAGES = ROOT / "docs" / "systems"
NUMBERS = ROOT / "docs" / "numbers.md"
RESULTS = ROOT / "benchmarks" / "results"
CONCERNS = {
    "codec": ("vqvae",),
    "few_labels": ("mae", "simclr", "vit"),
    "latent": ("autoencoder", "control-vae", "denoising", "vae"),
    "overhead": ("gpt",),
    "rag": ("knowledge",),
    "recognition": ("cnn", "resnet"),
    "tables": ("mlp",),
    "text_latents": ("text-vae", "text-vq"),
}
"""Systems that a benchmark concerns, where its name does not begin with the system's."""
HEADLINES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("gpt_train", "tokens a second, 4x128x128", "training a GPT, times nanoGPT's tokens a second", ("times float32", "times bfloat16")),
    ("gpt_train", "loss after 1 min, 4x128x128", "its loss after a minute, nats a character", ("fourfold", "nanoGPT bfloat16, tuned")),
    ("generate", "12x768, batch 1", "generating in int8, 109.5 M weights, times others", ("compiled int8, times transformers float32", "compiled int8, times transformers bfloat16", "compiled int8, times llama.cpp q8_0")),
    ("llm_sft", "fourfold float32, TRL float32 packed, fourfold, TRL bfloat16 packed", "tuning on conversations, times TRL's SFTTrainer", ("fourfold float32, times TRL float32 packed", "fourfold, times TRL bfloat16 packed")),
    ("llm_bert", "speed", "masked tokens, times transformers' Trainer", ("fourfold float32, times transformers float32", "fourfold, times transformers float32")),
    ("preference", "dpo, fourfold float32, TRL float32, fourfold, TRL bfloat16", "DPO pairs a second, times TRL", ("fourfold float32, times TRL float32", "fourfold, times TRL bfloat16")),
    ("lstm", "tokens a second of processor time, 1 thread", "an LSTM of 10,000 words, times the loop over torch.nn.LSTM", ("fourfold softmax, times torch.nn.LSTM", "fourfold sampled, times torch.nn.LSTM")),
    ("ngram", "estimate", "a Kneser-Ney model, lmplz's time over ours", ("lmplz_time_by_ours: lmplz", "lmplz_time_by_ours: lmplz -S 400M")),
    ("linear", "10,000,000 rows x 50 columns, parquet", "regression on 10 M rows, megabytes", ("megabytes: fourfold", "megabytes: polars -> Ridge")),
    ("recognition", "MNIST, cnn, 11 epochs", "MNIST, error % of a cnn", (": error %", ": processor seconds")),
    ("tables", "housing, quality", "housing, error", ("fourfold: error", "scikit-learn MLP: error", "gradient boosting: error")),
    ("word2vec", "speed: skip-gram, 5 negatives, width 100, 1 epoch(s)", "skip-gram, times gensim's words a second", ("training, times gensim", "whole process, times gensim")),
    ("translate", "transformer, 24 epochs, Multi30k en-de, test_2016_flickr", "translating Multi30k, English to German: BLEU, chrF", ("bleu", "chrf")),
    ("gpu", "gpt 12 x 768 x 1024, adamw, batch 64", "GPT-2's smallest shape on a GPU", ("tokens a second", "utilisation")),
    ("serve", "predict, one row, 16 clients", "serving, requests a second by 16 clients", ("together: requests a second", "one by one: requests a second")),
    ("serve_streams", "32 streams, int8", "texts that grow together over HTTP, tokens a second: 32 streams and 1", ("32 streams: tokens a second", "1 stream: tokens a second")),
)  # fmt: skip
"""What README shows: benchmark, section, what it is in words, and which numbers of it."""
MOST = 60
"""Numbers of a section that its table lists."""

GROUPS = ("Model", "Data", "Objective", "Optimizer")


# --- Markdown -------------------------------------------------------------------------------------


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def between(text: str, name: str, content: str) -> str:
    """The text with what stands between the markers of that name replaced.

    Raises:
        ValueError: the markers are not there exactly once.
    """
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    changed, count = pattern.subn(lambda m: m[1] + content.rstrip() + "\n" + m[2], text)
    if count != 1:
        raise ValueError(f"expected one block <!-- {name} -->, found {count}")
    return changed


def prose(docstring: str) -> str:
    """A docstring as Markdown: indented command lines fenced, Args and the like as lists."""
    blocks = []
    for block in inspect.cleandoc(docstring).split("\n\n"):
        head, _, rest = block.partition("\n")
        if head in ("Args:", "Returns:", "Raises:"):
            blocks.append("\n".join([f"{head[:-1]}:\n", *(f"- {i}" for i in _items(rest))]))
        elif block.startswith("    "):
            blocks.append(f"```sh\n{inspect.cleandoc(block)}\n```")
        else:
            blocks.append(block)
    return "\n\n".join(blocks)


def _items(text: str) -> list[str]:
    """The entries of an indented section, each on one line."""
    entries: list[str] = []
    for line in inspect.cleandoc(text).splitlines():
        if line.startswith(" ") and entries:
            entries[-1] += " " + line.strip()
        else:
            name, colon, rest = line.partition(": ")
            entries.append(f"`{name}`: {rest}" if colon and " " not in name else line)
    return entries


# --- systems --------------------------------------------------------------------------------------


def own_systems() -> dict[str, Entry]:
    """The systems of this repository; what else is installed here has pages of its own."""
    return {n: e for n, e in index().items() if e.module.startswith("fourfold.systems.")}


def systems_table() -> str:
    """README's table of systems."""
    rows = [
        (
            f"[`{e.name}`](docs/systems/{e.name}.md)",
            e.summary,
            e.reads,
            ", ".join(f"`{v}`" for v in e.verbs),
            e.source,
        )
        for e in own_systems().values()
    ]
    return table(("System", "What it is", "Reads", "Verbs", "Source"), rows)


def system_page(name: str) -> str:
    """The page of one system, from its docstrings, fields, verbs and benchmark rows."""
    cls = load_system(name)
    module = sys.modules[cls.__module__]
    stem = cls.__module__.rsplit(".", 1)[-1]
    parts = [
        "<!-- Made by `python -m docs.generate` from the system's docstrings and fields: edit those. -->",
        f"# {name}",
        prose(cls.__doc__ or ""),
        f"Reads {cls.reads}. Its file: [{stem}.py](../../src/fourfold/systems/{stem}.py).",
        prose(module.__doc__ or ""),
        *_sizes(cls),
        *_options(cls),
        *_verbs(cls),
        *_exemptions(cls),
        *_measured(name),
    ]
    return "\n\n".join(parts) + "\n"


def _sizes(cls: type[System]) -> Iterator[str]:
    if not cls.sizes:
        return
    rows = [
        (f"`{size}`", ", ".join(f"`{k}={_value(v)}`" for k, v in changes.items()) or "the defaults")
        for size, changes in cls.sizes.items()
    ]
    yield "## Sizes\n\n`--size NAME` sets several options at once; explicit options win over it."
    yield table(("Size", "Sets"), rows)


def _options(cls: type[System]) -> Iterator[str]:
    short = {path: word for word, path in short_names(cls).items()}
    found: dict[str, list[tuple[str, str, str]]] = {group: [] for group in GROUPS}
    for path, option in options(cls).items():
        part = path[0].capitalize()
        flag = f"`{option.flag}`"
        if len(path) > 1 and path in short:
            flag += f" or `--{short[path].replace('_', '-')}`"
        row = (flag, f"`{_value(option.default)}`", _help(option))
        found[part if part in GROUPS else "Model"].append(row)
    yield (
        "## Options\n\nEach is a flag of `fourfold fit`, a line of `system.toml` and an argument of "
        "`fourfold.fit`. The options common to every fit are in `fourfold fit --help`."
    )
    for group, rows in found.items():
        if rows:
            yield f"### {group}\n\n" + table(("Option", "Default", "Meaning"), rows)


def _help(option: Option) -> str:
    only = f"({', '.join(option.kinds)}) " if option.kinds else ""
    choices = literal_choices(option.annotation)
    listed = f" One of {', '.join(f'`{c}`' for c in choices)}." if choices else ""
    return f"{only}{option.help}{listed}"


def _value(value: Any) -> str:
    """A default as a user would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(_value(v) for v in value) or "none"
    if isinstance(value, dict):
        return json.dumps(value) if value else "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _verbs(cls: type[System]) -> Iterator[str]:
    yield "## Verbs\n\n`fourfold VERB RUN ...`, or from Python `run = fourfold.open(RUN)` and then as here."
    for name, method in verbs(cls).items():
        parameters = list(inspect.signature(method).parameters.values())[2:]
        signature = inspect.signature(method).replace(parameters=parameters)
        # annotations are strings in the source; defaults keep their quotes
        text = re.sub(r"(: |-> )(['\"])(.*?)\2(?= = |, |\)|$)", r"\1\3", str(signature))
        yield f"### {name}\n\n```python\nrun.{name}{text}\n```\n\n{prose(inspect.getdoc(method) or '')}"


def _exemptions(cls: type[System]) -> Iterator[str]:
    if cls.exempt:
        rows = [(f"`{check}`", reason) for check, reason in cls.exempt.items()]
        yield "## Exempt from\n\nChecks of `check_system` that this system cannot keep."
        yield table(("Check", "Reason"), rows)


# --- benchmarks -----------------------------------------------------------------------------------


def results() -> dict[str, dict[str, Any]]:
    """Kept results: sections by benchmark, each with its result, command and machine."""
    found = sorted(RESULTS.glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in found}


def concerned(benchmark: str) -> tuple[str, ...]:
    """The systems that a benchmark concerns: `gpt_train` concerns gpt."""
    return CONCERNS.get(benchmark, (benchmark.split("_")[0],))


def _measured(name: str) -> Iterator[str]:
    sections = [
        (title, kept)
        for benchmark, found in results().items()
        if name in concerned(benchmark)
        for title, kept in found.items()
    ]
    if not sections:
        return
    yield "## Measured"
    for title, kept in sections:
        rows = list(_flat(kept["result"]))
        yield f"### {title}\n\n{table(('What', 'Value'), rows)}\n\n{_where(kept)}"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Name and value of every number in a result, nested names joined; of repeated measurements the medians."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}: {key}" if name else str(key))
    elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        for key in value[0]:
            found = [v[key] for v in value if isinstance(v.get(key), (int, float))]
            if found:
                said = f"{_number(statistics.median(found))} (median of {len(found)})"
                yield f"{name}: {key}", said
    else:
        yield name or "value", _number(value)


def _number(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_number(v) for v in value)
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _where(kept: dict[str, Any]) -> str:
    """The command and the machine of a result."""
    machine = kept["machine"]
    device = machine.get("gpu") or f"{machine['threads']} threads of {machine['processor']}"
    return (
        f"`{kept['command']}`; {device}; torch {machine['torch']}, Python {machine['python']}; "
        f"commit {machine['commit'] or 'none'}, {machine['date']}."
    )


def numbers() -> str:
    """README's table: the numbers of `HEADLINES` that there are."""
    kept, rows = results(), []
    for benchmark, title, what, names in HEADLINES:
        section = kept.get(benchmark, {}).get(title)
        found = dict(_flat(section["result"])) if section else {}
        said = [f"{_named(name)} {_median(found[name])}" for name in names if name in found]
        if section and said:
            rows.append((what, "; ".join(said), f"`{section['command']}`", _device(section)))
    if not rows:
        return "None has been kept yet: `make bench` measures and writes them here."
    return table(("What", "Measured", "Command", "Machine"), rows)


def _named(name: str) -> str:
    return name.rsplit(": ", 1)[-1] if name.count(": ") else name


def _median(text: str) -> str:
    """One number for several."""
    parts = text.split(", ")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        return text
    return (
        text if len(values) == 1 else f"{statistics.median(values):.4g} (median of {len(values)})"
    )


def _device(section: dict[str, Any]) -> str:
    machine = section["machine"]
    return machine.get("gpu") or f"{machine['processor']}, {machine['threads']} threads"


def numbers_page() -> str:
    """Every kept number, with its command and its machine."""
    parts = [
        "<!-- Made by `python -m docs.generate` from benchmarks/results/*.json: run the commands. -->",
        "# Measured",
        "Each section is one call of a benchmark. Contenders are measured in turn in one run; times on a machine that others "
        "use too say less than their ratios.",
    ]
    for benchmark, found in results().items():
        parts.append(f"## {benchmark}")
        for title, kept in found.items():
            rows = list(_flat(kept["result"]))
            shown = table(("What", "Value"), rows[:MOST])
            more = (
                f"\n\n{len(rows) - MOST} more are in benchmarks/results/{benchmark}.json."
                if len(rows) > MOST
                else ""
            )
            parts.append(f"### {benchmark}: {title}\n\n{shown}{more}\n\n{_where(kept)}")
    return "\n\n".join(parts) + "\n"


# --- writing --------------------------------------------------------------------------------------


def catalog_table() -> str:
    """The named public data sets."""
    rows = [
        (
            f"`{name}`",
            e.what,
            f"`{e.folder}/`",
            e.licence,
            f"[{e.source.split('/')[4]}]({e.source})",
        )
        for name, e in CATALOG.items()
    ]
    return table(("Name", "What it is", "Folder", "Licence as stated there", "Source"), rows)


def pages() -> dict[Path, str]:
    """Every generated file with its text."""
    readme, data = README.read_text(encoding="utf-8"), DATA.read_text(encoding="utf-8")
    readme = between(between(readme, "systems", systems_table()), "numbers", numbers())
    return {
        README: readme,
        DATA: between(data, "catalog", catalog_table()),
        NUMBERS: numbers_page(),
        **{PAGES / f"{name}.md": system_page(name) for name in own_systems()},
    }


def stale() -> list[Path]:
    """Files that are not what the code says, and pages of systems that are gone."""
    made = pages()
    other = [p for p, text in made.items() if not p.exists() or p.read_text("utf-8") != text]
    return other + [p for p in sorted(PAGES.glob("*.md")) if p not in made]


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with --check name those that are not current."""
    found = stale()
    if "--check" in arguments:
        for path in found:
            print(f"{path.relative_to(ROOT)} is not current: make docs", file=sys.stderr)
        return 1 if found else 0
    made = pages()
    PAGES.mkdir(parents=True, exist_ok=True)
    for path in found:
        if path in made:
            path.write_text(made[path], encoding="utf-8")
        else:
            path.unlink()
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
