"""What a ladder of language models found: numbers of its rungs, and the report's words, tables and pictures of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fourfold.core.registry import index
from fourfold.core.types import Explanation, Table
from fourfold.look.ladder import ladder_picture
from fourfold.look.ngram import growth

COUNTING = ("sizes", "unseen", "perplexity")


@dataclass
class Rung:
    """What one rung reached."""

    name: str
    perplexity: float = 0.0
    bits_per_byte: float = 0.0
    parameters: int = 0
    bytes: int = 0
    """Of the weights' file."""
    minutes: float = 0.0
    """Of training, evaluations left out."""
    trained_per_second: float | None = None
    """Tokens."""
    scored_per_second: float = 0.0
    """Tokens."""
    sample: str = ""
    error: str = ""
    """Why it could not be trained."""


@dataclass
class Ladder:
    """All rungs, and what stands beside them."""

    folder: Path
    plan: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    """Tokens, bytes, vocabulary, unknown share; the prompt of the samples."""
    rungs: list[Rung] = field(default_factory=list)
    compressors: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    """Bits per byte of the test text alone, and behind the training text."""
    counting: dict[str, list[Any]] = field(default_factory=dict)
    """Where counting ends: sizes of the text, by order the share of n-grams never seen, and perplexity."""

    def explanation(self) -> Explanation:
        """The report's content."""
        done = [rung for rung in self.rungs if not rung.error]
        pictures = []
        if done:
            pictures.append(
                ladder_picture(
                    [rung.name for rung in done],
                    [rung.perplexity for rung in done],
                    [rung.bits_per_byte for rung in done],
                    self.compressors,
                    _caption(self),
                )
            )
        if self.counting:
            pictures.append(growth(*(np.array(self.counting[k], float) for k in COUNTING)))
        return Explanation(
            f"The ladder of language models on {self.facts['source']}",
            tuple(_sentences(self)),
            tuple(_tables(self)),
            tuple(pictures),
        )

    def __str__(self) -> str:
        return str(self.explanation())


def _caption(found: Ladder) -> str:
    facts = found.facts
    return (
        f"{facts['tested']:,} tokens of {facts['test']}, after training on {facts['trained']:,} tokens for "
        f"{found.plan['minutes']:g} minutes each; lower is better. Grey: compressors on the test text alone, the line on them with the "
        "training text before it."
    )


def _sentences(found: Ladder) -> list[str]:
    facts = found.facts
    done = [rung for rung in found.rungs if not rung.error]
    said = []
    if done:
        best = min(done, key=lambda rung: rung.perplexity)
        worst = max(done, key=lambda rung: rung.perplexity)
        said.append(
            f"{best.name} expects the text best: perplexity {best.perplexity:,.1f}, that is as unsure at each "
            f"token as between {best.perplexity:,.0f} equally likely ones, and {best.bits_per_byte:.3f} bits "
            "per byte."
        )
        if worst is not best:
            said.append(
                f"From {worst.name} to {best.name} perplexity falls by "
                f"{1 - best.perplexity / worst.perplexity:.0%}."
            )
    said.append(
        f"All rungs share one vocabulary of {facts['vocabulary']:,} entries (unit {facts['unit']}), the same "
        f"{facts['trained']:,} training tokens and the same {facts['tested']:,} test tokens ({facts['test']})."
    )
    if facts["unknown"]:
        said.append(
            f"{facts['unknown']:,} test tokens ({facts['unknown'] / facts['tested']:.1%}) are not in the "
            "vocabulary. Perplexity counts them as one entry, as the field does; bits per byte also count "
            f"their spelling, {facts['spelling'] / facts['bytes']:.3f} of the bits per byte of every rung."
        )
    return [*said, *facts.get("notes", [])]


def _tables(found: Ladder) -> list[Table]:
    done = [rung for rung in found.rungs if not rung.error]
    made = [
        Table(
            "Every rung",
            (
                "rung", "perplexity", "bits per byte", "parameters", "megabytes",
                "seconds trained", "tokens/s trained", "tokens/s scored",
            ),
            tuple(
                (
                    rung.name, round(rung.perplexity, 2), round(rung.bits_per_byte, 4),
                    rung.parameters, round(rung.bytes / 1e6, 2), round(60 * rung.minutes, 1),
                    None if rung.trained_per_second is None else round(rung.trained_per_second),
                    round(rung.scored_per_second),
                )
                for rung in done
            ),
            "Parameters of ngram are the numbers in its tables. Training time leaves evaluations out.",
        ),
        Table(
            "Compressors on the same test text",
            ("compressor", "bits per byte", "behind the training text"),
            tuple(
                (name, round(alone, 4), None if behind is None else round(behind, 4))
                for name, (alone, behind) in found.compressors.items()
            ),
            "The second number is what the test text adds to the compressed training text: a fairer "
            "comparison with models that have read it; empty where a compressor does not look back as far.",
        ),
        Table(
            f'What each says after "{found.facts["prompt"]}"',
            ("rung", "text"),
            tuple((rung.name, " ".join(rung.sample.split())) for rung in done),
        ),
        Table(
            "The idea of each rung",
            ("rung", "idea", "source"),
            tuple(
                (rung.name, index()[rung.name].summary, index()[rung.name].source)
                for rung in found.rungs
                if rung.name in index()
            ),
        ),
    ]  # fmt: skip
    if counting := found.counting:
        columns = ("order", *(f"{size:,} tokens" for size in counting["sizes"]))
        for key, title in (
            ("unseen", "Share of test n-grams never seen in the first tokens of the training text"),
            ("perplexity", "Perplexity of counting, by order and tokens counted"),
        ):
            by_order = np.array(counting[key]).T
            rows = tuple((n, *map(float, row)) for n, row in enumerate(by_order.round(4), 1))
            made.append(Table(title, columns, rows))
    failed = tuple((rung.name, rung.error) for rung in found.rungs if rung.error)
    if failed:
        made.append(Table("Not trained", ("rung", "why"), failed))
    return made
