"""The verbs of a language model that converses: chat, tasks over a text, and how near its answers come to references."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge
from pydantic import NonNegativeFloat, PositiveInt

from fourfold.core.errors import UserError, nearest
from fourfold.core.evaluation import held_out, measure
from fourfold.core.parts import Split
from fourfold.core.run import Run
from fourfold.core.signatures import extends
from fourfold.core.state import write_text
from fourfold.core.system import batchable
from fourfold.core.types import Document, Picture, Score, Source, Table
from fourfold.data.conversations import ConversationData, Conversations
from fourfold.data.turns import Turn
from fourfold.look.conversations import lengths_picture
from fourfold.look.language import passage, zipf
from fourfold.models.sampling import Sampling
from fourfold.models.transformer import Transformer
from fourfold.tasks.answer_scores import answer_score
from fourfold.tasks.answering import (
    ROWS,
    answer_ends,
    answers,
    context,
    conversation_data,
    fitted,
    heard,
    whole_answers,
)
from fourfold.tasks.asking import FILE, TASKS, asked, templates
from fourfold.tasks.decoder_only import DecoderOnly
from fourfold.tasks.drawing import drawing
from fourfold.tasks.engines import EngineName, Precision, chosen
from fourfold.tasks.grammar import say_unfinished
from fourfold.tasks.language import Probability, noise, pieces, vocabulary_of
from fourfold.tasks.transformer_language import TransformerLanguage, transformer

SHOWN = 6
"""Held-out answers in the report."""
PASSAGE = 200
"""Tokens of the conversation that the report shows at most."""


class Conversing(TransformerLanguage):
    """A language model that is asked in a chat template."""

    def chat(
        self,
        run: Run,
        text: Document = "",
        *,
        messages: list[dict[str, str]] | None = None,
        system: str | None = None,
        tokens: PositiveInt = 256,
        temperature: NonNegativeFloat = 0.7,
        top_k: PositiveInt | None = None,
        top_p: Probability | None = None,
        min_p: Probability | None = None,
        seed: int | None = None,
        engine: EngineName = "auto",
        precision: Precision = "auto",
    ) -> Iterator[str]:
        """Answer what is said, in pieces as they are made. On the command line, without a text, a whole conversation.

        The answer ends with the end of turn of the run's template, or where the context is full. Where the context does
        not hold the conversation its earliest exchanges are left out, which is said.

        Args:
            text: what the user says.
            messages: what was said before, {"role": "user", "content": "..."} each; without a text they end with the
                user's turn.
            system: what the assistant is told before all else.
            tokens: most tokens of the answer.
            temperature: 0 always takes the most likely token; higher is more surprising.
            top_k: draw from the k most likely tokens only.
            top_p: draw from the most likely tokens that together have this probability.
            min_p: draw from tokens at least this share as likely as the most likely one.
            seed: the same seed gives the same answer; None gives another each time.
            engine: see `generate`; it is said at the first turn.
            precision: see `generate`.
        """
        turns = heard(messages or (), text, system)
        window = context(run)
        prompt, left_out = fitted(run, turns, min(tokens, window // 4))
        if left_out:
            run.console.say(
                f"The context holds {window} tokens: the first {left_out} turns are left out."
            )
        sampling = Sampling(temperature, top_k, top_p, min_p)
        generator = noise(run, torch.seed() % 2**31 if seed is None else seed, 0)
        taken = chosen(
            run,
            transformer(run),
            engine,
            precision,
            tokens=tokens,
            temperature=temperature,
            quiet=bool(messages),
        )
        said = answers(
            run,
            [prompt],
            tokens=tokens,
            sampling=sampling,
            generators=[generator],
            make=taken.make,
        )
        yield from (piece for _, piece in said)

    chat.converses = True  # type: ignore[attr-defined]

    @batchable("prompt", when=lambda _, given: given.get("count", 1) == 1)
    @extends(TransformerLanguage.generate)
    def generate(
        self,
        run: Run,
        prompt: Document | list[Document] = "",
        *,
        task: str | None = None,
        question: str = "",
        language: str = "English",
        templates_file: Path | None = None,
        **given: Any,
    ) -> Iterator[str]:
        """Continue a prompt, or do a task over a text: summarize, answer, translate, or one of your own.

        Without a task the prompt is continued as it is, as a language model does. With one the run is asked in its
        chat template by a template of the task, which stands in tasks.toml in the run's folder, to be edited. A single
        answer comes in pieces, as it is made; several come whole, in order, each ended by a newline.

        Args:
            prompt: one text or several; with a task, what it is about.
            task: what to do with the text, as tasks.toml names it.
            question: what the task answer is asked about the text.
            language: what the task translate translates to.
            templates_file: a file of task templates to use instead of the run's tasks.toml.
        """
        if task is None:
            yield from super().generate(run, prompt, **given)
            return
        known = templates(run, templates_file)
        if task not in known:
            raise UserError(f"--task {task}: no such task{nearest(task, known)}")
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not all(text.strip() for text in texts) or not texts:
            raise UserError(f"--task {task}: the text is empty")
        asks = (asked(known[task], task, t, question=question, language=language) for t in texts)
        prompts = [fitted(run, (Turn("user", text),), 1)[0] for text in asks]
        yield from _generated(run, prompts, **given)

    def finish(self, run: Run) -> None:
        """See `System.finish`: the templates of the tasks, to be edited."""
        super().finish(run)
        if run.folder is not None and not (run.folder / FILE).exists():
            write_text(run.folder / FILE, TASKS)


class Chatting(Conversing):
    """A language model that is tuned on conversations."""

    data: Conversations = Conversations()

    def accepts(self, other: Run) -> None:
        """See `DecoderOnly.accepts`; and rows longer than the model reads are refused."""
        super().accepts(other)
        assert isinstance(other.system, DecoderOnly)  # noqa: S101  # others are refused
        most = other.system.span(other.data)
        if (self.data.window or 0) > most:
            raise UserError(
                f"window {self.data.window}: {other.folder} reads {most} tokens at most"
            )

    def evaluate(
        self,
        run: Run,
        source: Source = None,
        *,
        answered: Annotated[int, Ge(0)] = 200,
        tokens: PositiveInt = 256,
        base: bool = False,
    ) -> Score:
        """Measure the run on its own test split or on other conversations: the loss on the assistant's tokens, and its answers.

        The last turn of each conversation is answered greedily, given all before it, and compared with what the
        assistant says there: exact match and F1 of words (as SQuAD normalizes them), ROUGE-L, BLEU.

        Args:
            answered: conversations that are answered, the first ones; 0 measures the loss alone.
            tokens: most tokens of an answer.
            base: measure the run that this one was begun from, too, asked in the same template.
        """
        data, split, sentence = held_out(run, source)
        data = conversation_data(data)
        if not data.examples(split):
            raise UserError(f"there is no conversation {sentence} to measure on")
        values, units, notes = _measured(run, data, split, answered, tokens, run.model)
        if base:
            other = _begun_from(run)
            before, _, _ = _measured(run, data, split, answered, tokens, other.model)
            values |= {f"base_{name}": value for name, value in before.items()}
            units |= {f"base_{name}": unit for name, unit in units.items()}
        said = f"{len(data.examples(split)):,} conversations {sentence}"
        return Score(values, units, (said, *notes, *data.summary()["notes"]))

    def preview(self, run: Run) -> str:
        """The answer to the first held-out conversation."""
        data = conversation_data(run.data)
        split: Split = "valid" if data.size("valid") else "train"
        rows = _exchanges(data, split, 1, context(run))
        if not rows:
            return ""
        prompt, question, _ = rows[0]
        (said,) = whole_answers(run, [prompt], tokens=60)
        return f"{question}\n-> {said}"

    def pictures(self, run: Run) -> Iterator[Picture]:
        """How long conversations are, a held-out one with each token's surprise, how often each entry occurs."""
        vocabulary = vocabulary_of(run.data)
        try:
            data, split, _ = held_out(run)
        except UserError:
            data = None  # nothing is held out, or the source is gone: the report says so elsewhere
        if isinstance(data, ConversationData):
            some = [e for s in ("train", split) for e in data.examples(s)]  # type: ignore[arg-type]
            yield lengths_picture(
                [len(e.tokens) - 1 for e in some], [int(e.said.sum()) for e in some], data.row
            )
            yield _surprise(run, data, split)
        if vocabulary.counts.any():
            yield zipf(vocabulary.counts, [vocabulary.token(i) for i in range(len(vocabulary))])

    def tables(self, run: Run) -> Iterator[Table]:
        """Held-out prompts with the answers that the run gives and those that it should."""
        try:
            data, split, _ = held_out(run)
        except UserError:
            data = None
        if isinstance(data, ConversationData):
            rows = _exchanges(data, split, SHOWN, context(run))
            said = whole_answers(run, [row[0] for row in rows], tokens=100)
            shown = tuple((row[1], text, row[2]) for row, text in zip(rows, said, strict=True))
            yield Table("Held-out prompts", ("asked", "answered", "expected"), shown)
        yield from super().tables(run)


def _generated(
    run: Run,
    prompts: Sequence[Sequence[int]],
    *,
    tokens: int,
    count: int,
    seed: int | None,
    stop: Sequence[str],
    engine: EngineName,
    precision: Precision,
    draft: str | None,
    **drawn: Any,
) -> Iterator[str]:
    """Answers of a task, see `Chatting.generate`."""
    if stop or draft:
        raise UserError(
            "--stop and --draft go with prompts that are continued; a task's answer ends by itself"
        )
    temperature = drawn["temperature"]
    taken = chosen(run, transformer(run), engine, precision, tokens=tokens, temperature=temperature)
    sampling, rules = drawing(vocabulary_of(run.data), ends=answer_ends(run), **drawn)
    base = torch.seed() % 2**31 if seed is None else seed
    wanted = [(prompt, number) for prompt in prompts for number in range(count)]
    for begin in range(0, len(wanted), ROWS):
        some = wanted[begin : begin + ROWS]
        said = ["" for _ in some]
        generators = [noise(run, base, number) for _, number in some]
        guides = [rules.guide() for _ in some] if rules else None
        stream = answers(
            run,
            [p for p, _ in some],
            tokens=tokens,
            sampling=sampling,
            generators=generators,
            guides=guides,
            make=taken.make,
        )
        for row, piece in stream:
            if len(wanted) == 1:
                yield piece
            said[row] += piece
        if len(wanted) > 1:
            yield from (f"{text}\n" for text in said)
        if guides:
            say_unfinished(run, guides)


def _exchanges(
    data: ConversationData, split: Split, most: int, window: int
) -> list[tuple[list[int], str, str]]:
    """The last exchange of each of the first conversations: the prompt's tokens, what is asked, what is answered."""
    found: list[tuple[list[int], str, str]] = []
    for turns in data.conversations(split):
        if len(found) == most:
            break
        prompt = data.prompt(turns[:-1])
        if len(prompt) < window:
            found.append((prompt, turns[-2].content if len(turns) > 1 else "", turns[-1].content))
    return found


def _measured(
    run: Run, data: ConversationData, split: Split, answered: int, tokens: int, model: Any
) -> tuple[dict[str, float], dict[str, str], list[str]]:
    """Values, units and notes of one model."""
    loss = measure(run.objective, model, data, split, run.device, run.seed)["loss"]
    values, units = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}, {"loss": "nats/token"}
    rows = _exchanges(data, split, answered, context(run))
    if not rows:
        return values, units, []
    said = whole_answers(run, [row[0] for row in rows], tokens=tokens, model=model)
    score = answer_score(said, [row[2] for row in rows])
    notes = [f"{len(rows)} of them answered greedily, with {tokens} tokens at most", *score.notes]
    return {**values, **score.values}, units, notes


def _begun_from(run: Run) -> Run:
    origin = run.about.get("from")
    if not origin:
        raise UserError("--base: this run was begun from nothing; there is no run before it")
    other = Run.open(origin, device=run.device_name)
    if not isinstance(other.model, Transformer):
        raise UserError(f"--base: {origin} is a run of {other.system.name}, which answers nothing")
    return other


def _surprise(run: Run, data: ConversationData, split: Split) -> Picture:
    """A held-out conversation; what the assistant says is coloured by its surprise."""
    fitting = [e for e in data.examples(split) if len(e.tokens) <= PASSAGE]
    example = fitting[0] if fitting else min(data.examples(split), key=lambda e: len(e.tokens))
    tokens = torch.from_numpy(example.tokens[: PASSAGE + 1])
    with torch.no_grad():
        logits = run.model(tokens[None, :-1].to(run.device)).float().cpu()[0]
    bits = F.cross_entropy(logits, tokens[1:], reduction="none").double().numpy() / math.log(2)
    bits = np.where(example.said[1 : len(tokens)], bits, 0.0)
    shown = passage(list(pieces(data.vocabulary, tokens[1:].numpy())), bits.tolist())
    caption = "A held-out conversation: each of the assistant's tokens on the colour of its surprise in bits."
    return Picture("A conversation", shown.png, caption, shown.svg)
