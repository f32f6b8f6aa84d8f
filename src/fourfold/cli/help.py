"""Overviews that are read from the index, without importing torch."""

from __future__ import annotations

import sys

from fourfold.cli.main import COMMANDS
from fourfold.core.registry import all_verbs, index


def _rows(title: str, rows: list[tuple[str, str]]) -> None:
    width = max((len(a) for a, _ in rows), default=0)
    print(f"\n{title}")
    for name, text in rows:
        print(f"  {name:<{width}}  {text}")


def overview() -> None:
    """`fourfold --help`."""
    import fourfold

    print(
        f"fourfold {fourfold.__version__}: data, a model, an objective and an optimizer, for every learning problem."
    )
    print("\n  fourfold fit SYSTEM [DATA ...] [OPTIONS]     train a system on your data")
    print(
        "  fourfold VERB RUN [INPUT ...] [OPTIONS]      use what was trained; `last` names the newest run"
    )
    _rows("Commands", [(name, text) for name, (_, text) in COMMANDS.items()])
    _rows(
        "Verbs of runs", [(verb, f"{', '.join(systems)}") for verb, systems in all_verbs().items()]
    )
    _rows("Systems", [(e.name, e.summary) for e in index().values()])
    print(
        "\n  fourfold fit SYSTEM --help, fourfold VERB --help and fourfold VERB RUN --help say more."
    )


def fit_overview() -> None:
    """`fourfold fit --help`."""
    print(
        "fourfold fit SYSTEM [DATA ...] [OPTIONS]\nfourfold fit RUN/system.toml\n\nTrain a system on data."
    )
    _rows(
        "Systems (fourfold fit SYSTEM --help lists every option of one)",
        [(e.name, f"reads {e.reads}: {e.summary}") for e in index().values()],
    )
    sys.stdout.write(
        "\nOptions of every fit\n  --out --seed --seeds --folds --repeats --size --valid --device --resume --from --dry-run --tensorboard --quiet --json --debug\n"
        "  and any field of the system by its name: --optimizer.lr 3e-4, or --lr 3e-4 where that is unique\n"
    )


def verb_overview(verb: str) -> None:
    """`fourfold VERB --help`."""
    print(f"fourfold {verb} RUN [INPUT ...] [OPTIONS]")
    entries = [index()[name] for name in all_verbs()[verb]]
    _rows(
        f"Systems whose runs have {verb} (fourfold {verb} RUN --help lists its options)",
        [(e.name, e.summary) for e in entries],
    )
