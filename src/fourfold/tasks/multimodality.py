"""What words said all at once get wrong: mixed and repeated translations; and what they win: speed.

A sentence has several translations. Slots that do not see one another each choose their own word, so that an output may
hold half of one translation and half of another, or a word twice (the multi-modality problem: Gu et al. 2018). Seen
here: how often a word is said twice in a row, and in which slots two words were about as likely.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.types import Picture, Table
from fourfold.data.pairs import PairData, pair_data
from fourfold.look.figures import COLORS, picture, subplots
from fourfold.models.non_autoregressive import NonAutoregressive
from fourfold.tasks.teaching import opened
from fourfold.tasks.translation import Translator
from fourfold.tasks.translation_decoding import Decoding
from fourfold.tasks.translation_scores import measured, tokenizer_of

EXAMPLES = 6
"""Sentences whose slots are shown."""
HESITATES = 0.2
"""Probability of the second word from which a slot hesitates."""


@dataclass(frozen=True)
class Setting:
    """One way of translating, measured on some held-out sentences."""

    name: str
    bleu: float | None
    """None without sacreBLEU."""
    speed: float | None
    """Sentences a second; None for references."""
    repeated: float
    """Share of the words that are the same as the word before."""
    outputs: float
    """Share of the outputs that hold such a word."""


def repetitions(texts: Sequence[str]) -> tuple[float, float]:
    """Shares of words that repeat the word before, and of texts with one; characters where a script has no spaces."""
    spaced = tokenizer_of(texts) == "13a"
    words = [text.split() if spaced else list(text) for text in texts]
    again = [sum(a == b for a, b in zip(row, row[1:], strict=False)) for row in words]
    return sum(again) / max(1, sum(map(len, words))), sum(n > 0 for n in again) / max(1, len(words))


def measured_settings(
    system: Translator,
    run: Run,
    sources: Sequence[str],
    references: Sequence[str],
    ways: Mapping[str, Decoding],
    teacher: str | None,
) -> list[Setting]:
    """Every way in which a run translates, its teacher (greedy, where it is there), and the references.

    Args:
        system: the run's.
        run: that translates.
        sources: held-out sentences.
        references: their translations.
        ways: by name.
        teacher: the run it learned from.
    """
    found = [_measured(system, run, sources, references, name, how) for name, how in ways.items()]
    if teacher is not None:
        try:
            other = opened(teacher)
        except UserError as error:
            run.note(f"The teacher is not shown: {error}.")
        else:
            assert isinstance(other.system, Translator)  # noqa: S101  # `opened` says so
            greedy = Decoding(beam=1)
            found.append(
                _measured(other.system, other, sources, references, "teacher, greedy", greedy)
            )
    return [*found, Setting("references", None, None, *repetitions(references))]


def _measured(
    system: Translator,
    run: Run,
    sources: Sequence[str],
    references: Sequence[str],
    name: str,
    how: Decoding,
) -> Setting:
    tokens, _ = pair_data(run.data).encode_sources(list(sources))
    system._decode(run, tokens[:2], how)  # what is arranged once
    began = time.perf_counter()
    outputs = system._decode(run, tokens, how)
    seconds = time.perf_counter() - began
    vocabulary = pair_data(run.data).target_vocabulary
    texts = [vocabulary.decode(best[0].tokens) for best in outputs]
    try:
        bleu = measured(texts, list(references), tokenizer_of(references)).bleu
    except UserError:
        bleu = None
    return Setting(name, bleu, len(sources) / seconds, *repetitions(texts))


def settings_table(settings: Sequence[Setting], teacher: str | None) -> Table:
    """All settings, one below the other."""
    how = (
        f"learned from the translations of {teacher}"
        if teacher
        else "learned from the targets themselves"
    )
    rows = tuple(
        (
            s.name,
            "" if s.bleu is None else round(s.bleu, 1),
            "" if s.speed is None else round(s.speed, 1),
            f"{s.repeated:.2%}",
            f"{s.outputs:.1%}",
        )
        for s in settings
    )
    return Table(
        "Words said all at once",
        ("way", "BLEU", "sentences a second", "words that repeat the one before", "outputs with such a word"),
        rows,
        f"On held-out sentences; {how}. Slots that do not see one another choose between several right translations each "
        "for themselves: words said twice and mixed translations are what comes of it.",
    )  # fmt: skip


def settings_picture(settings: Sequence[Setting]) -> Picture:
    """BLEU against sentences a second."""
    fig, axes = subplots()
    shown = [s for s in settings if s.bleu is not None and s.speed is not None]
    for number, s in enumerate(shown):
        axes.plot(s.speed, s.bleu, "o", color=COLORS[number % len(COLORS)], label=s.name)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set(xlabel="sentences a second", ylabel="BLEU")
    axes.legend()
    caption = (
        "Held-out sentences translated in batches: further right is faster, further up is better."
    )
    return picture(fig, "Quality against speed", caption)


@torch.inference_mode()
def slots_table(
    model: NonAutoregressive, data: PairData, sources: Sequence[str], device: torch.device
) -> Table:
    """Slots in which two words were about as likely, in some sentences: where translations mix."""
    rows: list[tuple[str, str, str]] = []
    for text in sources[:EXAMPLES]:
        (tokens,), _ = data.encode_sources([text])
        source, lengths = (
            torch.tensor([tokens], device=device),
            torch.tensor([len(tokens)], device=device),
        )
        memory, keep = model.encode(source, lengths)
        slots = (
            model.predicted(memory, lengths) if model.length == "predicted" else model.room(lengths)
        )
        hidden = model(source, lengths, memory, keep, slots)[0]
        shares, best = model.head(hidden).float().softmax(-1).topk(2)
        doubts = [
            f"{_name(data, one)} {p:.0%} / {_name(data, two)} {q:.0%}"
            for (p, q), (one, two) in zip(shares.tolist(), best.tolist(), strict=True)
            if q >= HESITATES
        ]
        said = " ".join(_name(data, int(token)) for token in best[:, 0])
        rows.append((text, said, "; ".join(doubts[:8]) or "none"))
    blank = " · is an empty slot." if model.length == "ctc" else ""
    return Table(
        "Slots that hesitate",
        ("source", "the likeliest token of every slot", f"slots whose second token has {HESITATES:.0%} or more"),
        tuple(rows),
        "Where a slot hesitates between two tokens, its neighbours may have chosen with another translation in mind." + blank,
    )  # fmt: skip


def _name(data: PairData, token: int) -> str:
    return "·" if token == data.end else data.target_vocabulary.shown(token).replace(" ", "_")
