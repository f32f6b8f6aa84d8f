"""Looking inside a run: what its model computes on a batch, and whether it is numerically healthy.

Verbs for systems whose model is a torch module that is searched by gradients; any objective, any data.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from fourfold.core.errors import UserError, nearest
from fourfold.core.evaluation import held_out, to_device
from fourfold.core.parts import Batch, Data, Split
from fourfold.core.run import Run
from fourfold.core.sources import describe
from fourfold.core.system import System
from fourfold.core.types import Document, Explanation, Picture, Source, Table
from fourfold.core.words import number
from fourfold.data.text import IGNORE
from fourfold.look.attention import visible
from fourfold.look.depth import depth_picture
from fourfold.look.health import inspect_batch
from fourfold.look.landscape import direction, landscape, surface
from fourfold.look.modules import Step, parameters_within
from fourfold.look.modules_draw import draw, modules_table, size_in_words
from fourfold.look.modules_trace import trace
from fourfold.look.projection import Method, projection_map
from fourfold.tasks.attending import attended, attention_pictures, devices, word_walk


class Explaining(System):
    """A system whose runs can be looked into."""

    def _example(self, run: Run, text: str) -> tuple[Any, str] | None:
        """A text as a source of one example, and in words what it is; None where a string is a path."""
        if run.system.reads != "text":
            return None
        return {getattr(run.system.data, "field", "text"): [text]}, "of the given text"

    def _maps(self, run: Run, batch: Batch) -> list[Picture]:
        """Attention that a system's model has beside the form that all maps are drawn of."""
        return []

    def explain(
        self,
        run: Run,
        source: Source | Document = None,
        *,
        examples: PositiveInt = 4,
        module: str | None = None,
        projection: Literal["pca", "tsne"] = "pca",
        words: Annotated[int, Ge(3), Le(1000)] = 200,
        landscape: bool = False,
        word: str | None = None,
        head: NonNegativeInt = 0,
        seed: int = 0,
    ) -> Explanation:
        """What the model computes on a batch: its graph, module by module, with shapes, statistics, time and memory.

        Gradients are those of the objective's loss on this batch, in evaluation mode. Where the model has
        attention its maps are drawn for the first example, where it embeds tokens a map of them.

        Args:
            source: a text, or other data; None takes the run's own held-out examples.
            examples: how many of them.
            module: a module to draw by itself too, as blocks.0.attention.
            projection: how the map of embeddings is made.
            words: tokens on the map of embeddings, the most frequent ones.
            landscape: draw the loss around the weights too, along two random directions (441 losses).
            word: a word of the first example: walk it through query, key, scores, scale, softmax and weighted sum, in
                the attention that module names, or the first one.
            head: the head that the word is walked through.
            seed: of noise on the way, of t-SNE and of the landscape's directions.
        """
        batch, said = batch_of(run, source, examples)
        steps = trace(run.model, run.objective, batch, seed=seed)
        sentences, tables, pictures = _graph(run, steps, said, module)
        seen = attended(run, batch, seed)
        if word is not None:
            told, table, picture = word_walk(run, seen, word, module, head)
            sentences, tables, pictures = (
                [*told, *sentences],
                [table, *tables],
                [picture, *pictures],
            )
        more_tables, maps = attention_pictures(seen)
        tables, pictures = [*tables, *more_tables], [*pictures, *maps, *_own_maps(self, run, batch)]
        embeddings = _embeddings(run, words, projection, seed)
        if embeddings is not None:
            pictures.append(embeddings)
        if landscape:
            pictures.append(_landscape(run, batch, steps, seed))
        name = run.folder.name if run.folder else run.system.name
        return Explanation(name, tuple(sentences), tuple(tables), tuple(pictures))


class Looking(Explaining):
    """A system whose runs can be looked into, and judged."""

    def inspect(
        self,
        run: Run,
        source: Source | Document = None,
        *,
        examples: PositiveInt = 32,
        depths: bool = False,
        seed: int = 0,
    ) -> Explanation:
        """Whether activations and gradients are healthy on a batch, layer by layer, with a verdict in words.

        Args:
            source: a text, or other data; None takes the run's own held-out examples.
            examples: how many of them.
            depths: draw plain against residual networks of 4 to 64 layers too, for comparison.
            seed: of dropout and noise.
        """
        batch, said = batch_of(run, source, examples)
        name = run.folder.name if run.folder else run.system.name
        found = inspect_batch(run.model, run.objective, batch, seed=seed, title=name)
        tables, pictures = found.tables, found.pictures
        if depths:
            picture, table = depth_picture(seed=seed)
            tables, pictures = (*tables, table), (*pictures, picture)
        return Explanation(found.title, (*found.sentences, f"Seen: {said}."), tables, pictures)


def _own_maps(system: Any, run: Run, batch: Batch) -> list[Picture]:
    """Maps that the system draws itself; any system's run may be looked into, by one that is no `Explaining` too."""
    return system._maps(run, batch) if isinstance(system, Explaining) else []


def batch_of(run: Run, source: Any, examples: int) -> tuple[Batch, str]:
    """The first examples of a source, or of the run's own held-out (else training) split, on its device.

    Args:
        run: whose data prepares them.
        source: as for `Data.reopen`; where the run reads text a string is the text itself, and a path is
            a Path.
        examples: at most so many.

    Returns:
        The batch, and in words what it is.

    Raises:
        UserError: something about the source is wrong, or it holds no example.
    """
    data, split, said = _opened(run, source)
    batch = next(iter(data.batches(split, model=run.model)), None)
    tensors = {k: v for k, v in (batch or {}).items() if isinstance(v, Tensor) and v.ndim}
    count = max((len(v) for v in tensors.values()), default=0)
    if batch is None or not count:
        raise UserError(f"no example {said} to look at")
    if not data.divisible:
        return to_device(batch, run.device), f"a batch {said}"
    kept = min(count, examples)
    cut = {k: v[:kept] if k in tensors and len(v) == count else v for k, v in batch.items()}
    noun = "example" if kept == 1 else "examples"
    return to_device(_without_padding(cut), run.device), f"{kept} {noun} {said}"


def _without_padding(batch: Batch) -> Batch:
    """Windows of tokens cut behind the last position that counts in any of them; else statistics would count padding."""
    targets = batch.get("targets")
    if "tokens" not in batch or targets is None or targets.ndim != 2 or "places" in batch:
        return batch  # targets at places are no positions
    counted = (targets != IGNORE).any(dim=0).nonzero()
    if not len(counted):
        return batch
    cut = targets.shape[1] - int(counted[-1]) - 1
    # tokens may be more than targets, where a window begins with context that is only read
    return {
        name: value[:, : value.shape[1] - cut]
        if name == "tokens" or value.shape[:2] == targets.shape
        else value
        for name, value in batch.items()
    }


def _opened(run: Run, source: Any) -> tuple[Data, Split, str]:
    if source is not None:
        said = f"of {describe(source)}"
        if isinstance(source, str) and isinstance(run.system, Explaining):
            source, said = run.system._example(run, source) or (source, said)
        return run.data.reopen(source, seed=run.seed, whole=True), "test", said
    try:
        return held_out(run)
    except UserError:
        data = run.examples()  # nothing is held out, or the source is gone: the latter says so here
        return data, "train", "of its own train split"


def _graph(
    run: Run, steps: list[Step], said: str, module: str | None
) -> tuple[list[str], list[Table], list[Picture]]:
    """Sentences, tables and pictures of every move."""
    model = run.model
    sentences, tables, pictures = [], [], []
    total = parameters_within(model)[type(model).__name__]
    modules = sum(1 for _ in model.modules())
    sentences.append(
        f"{type(model).__name__} has {total:,} parameters in {modules} module{'s' * (modules != 1)}. Seen: {said}."
    )
    shown = set()
    for step in steps:
        if step.player in shown:
            continue  # further moves of the same player compute the same
        shown.add(step.player)
        sentences += _step_words(step, len(steps) == 1, run.data.unit)
        tables.append(modules_table(step, model))
        called = {call.name for call in step.calls}
        opened = module if module in called else None
        pictures += _drawn(step, model, opened)
    if module is not None and not any(module == c.name for step in steps for c in step.calls):
        names = [c.name for step in steps for c in step.calls]
        raise UserError(f"--module {module}: no such module was called{nearest(module, names)}")
    return sentences, tables, pictures


def _drawn(step: Step, model: nn.Module, opened: str | None) -> list[Picture]:
    try:
        return draw(step, model, opened)
    except KeyError as error:
        raise UserError(
            f"--module {opened}: there is nothing inside it to draw{nearest(str(opened), error.args[0])}"
        ) from None


def _step_words(step: Step, alone: bool, unit: str) -> list[str]:
    """The loss, where the time went, what is kept."""
    who = "The loss" if alone else f"{step.player}: the loss"
    words = [f"{who} is {number(step.loss)}, a mean over {step.weight:,g} {unit}."]
    own = {call: call.seconds for call in step.calls}
    for call in step.calls:
        if call.parent is not None:
            own[call.parent] -= call.seconds
    whole = sum(call.seconds for call in step.calls if call.parent is None)
    kept = sum(call.kept for call in step.calls if call.parent is None)
    if whole > 0:
        by_kind: dict[str, float] = {}
        for call, seconds in own.items():
            by_kind[call.kind] = by_kind.get(call.kind, 0.0) + seconds
        most = max(by_kind, key=lambda kind: by_kind[kind])
        words.append(
            f"The modules' forward pass took {whole * 1e3:.3g} ms, {by_kind[most] / whole:.0%} of it in {most} itself; "
            f"they keep {size_in_words(kept)} for the gradient."
        )
    return [*words, *step.notes]


def _embeddings(run: Run, words: int, method: Method, seed: int) -> Picture | None:
    """A map of the most frequent tokens, where the model embeds the data's vocabulary."""
    vocabulary = getattr(run.data, "vocabulary", None)
    if vocabulary is None:
        return None
    entries = getattr(run.system, "entries", None) or len(vocabulary)
    found = [
        m
        for m in run.model.modules()
        if isinstance(m, nn.Embedding) and m.num_embeddings == entries
    ]
    if not found:
        return None
    counts = np.asarray(vocabulary.counts)
    chosen = np.argsort(-counts, kind="stable")[:words]
    chosen = chosen[counts[chosen] > 0] if (counts > 0).sum() >= 3 else chosen
    vectors = found[0].weight.detach()[torch.from_numpy(chosen.copy()).to(run.device)]
    names = [visible(vocabulary.shown(int(i))) for i in chosen]
    title = f"Embeddings of the {len(names)} most frequent tokens"
    return projection_map(vectors.float().cpu().numpy(), names, title, method=method, seed=seed)


def _landscape(run: Run, batch: Batch, steps: list[Step], seed: int) -> Picture:
    players = list(dict.fromkeys(step.player for step in steps))
    if len(players) > 1:
        raise UserError(
            f"--landscape: a landscape is of one loss, and this run is a game of {' and '.join(players)}"
        )
    generators = run.generator("landscape", seed), run.generator("landscape", seed + 1_000_003)
    first, second = (direction(run.model, generator) for generator in generators)

    def loss() -> float:
        with torch.random.fork_rng(devices=devices(run)):
            torch.manual_seed(seed)
            moves = list(itertools.islice(run.objective.losses(run.model, batch), 1))
        return float(moves[0].loss) / float(moves[0].weight)

    return landscape(*surface(run.model, loss, (first, second)))
