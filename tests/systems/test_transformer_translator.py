"""transformer on sequences of known generators: learned to the last one, and beyond the lengths learned from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fourfold import api
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.pairs import pair_data
from fourfold.models.encoder_decoder import EncoderDecoder
from fourfold.models.products import Product
from fourfold.systems.transformer import TransformerTranslator

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRST"
LEARN: dict[str, Any] = {
    "data.unit": "character", "data.split": (0.99, 0.01, 0.0), "width": 64, "heads": 4, "layers": 2, "dropout": 0.0,
    "smoothing": 0.0, "optimizer.algorithm": "muon", "optimizer.arguments": {}, "optimizer.lr": 0.02,
    "optimizer.schedule": "wsd", "optimizer.warmup": 20, "optimizer.decay_from": 0.4, "optimizer.decay": 0.0,
    "optimizer.evaluate_every": "100%",
}  # fmt: skip


def made(task: str, count: int, shortest: int, longest: int, seed: int) -> dict[str, list[str]]:
    """Sequences and what becomes of them: different letters in order, or digits copied or turned round."""
    random = np.random.default_rng(seed)
    sources, targets = [], []
    for _ in range(count):
        size = int(random.integers(shortest, longest + 1))
        if task == "sort":
            source = "".join(random.permutation(list(LETTERS))[:size])
            target = "".join(sorted(source))
        else:
            source = "".join(random.choice(list("0123456789"), size))
            target = source if task == "copy" else source[::-1]
        sources.append(source)
        targets.append(target)
    return {"source": sources, "target": targets}


def right(run: Run, pairs: dict[str, list[str]]) -> float:
    """Share of the outputs that are the target, to the letter."""
    said = [text.rstrip("\n") for text in run.translate(pairs["source"], beam=1)]
    return float(np.mean([a == b for a, b in zip(said, pairs["target"], strict=True)]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "positions", "steps"), [("reverse", "sinusoidal", 400), ("copy", "rotary", 300)]
)
def test_sequences_are_learned(task: str, positions: str, steps: int) -> None:
    """299 of 300 were right after half a minute of one core."""
    options = {**LEARN, "positions": positions, "optimizer.steps": steps}
    run = api.fit("transformer", made(task, 20_000, 1, 12, 0), out=False, **options)
    assert right(run, made(task, 300, 1, 12, 7)) >= 0.99


@pytest.mark.slow
def test_sorting_without_positions_goes_on_beyond_the_lengths_learned_from() -> None:
    """What comes next is the least letter after the last one, wherever it stands: nothing depends on places."""
    options = {**LEARN, "positions": "none", "optimizer.steps": 300}
    run = api.fit("transformer", made("sort", 20_000, 1, 12, 0), out=False, **options)
    assert right(run, made("sort", 300, 1, 12, 7)) == 1.0
    assert right(run, made("sort", 300, 13, 16, 8)) == 1.0


def test_a_shared_vocabulary_is_one_matrix_and_two_are_two() -> None:
    toy, source = TransformerTranslator.toy()
    for shared in (True, False):
        run = api.fit(toy, source, out=False, **{"data.shared": shared, "optimizer.steps": 2})
        model = run.model
        assert isinstance(model, EncoderDecoder) and pair_data(run.data).shared == shared
        assert (model.source_embedding.weight is model.target_embedding.weight) == shared
        assert model.head.weight is model.target_embedding.weight


def test_sizes_that_do_not_fit_are_said() -> None:
    toy, source = TransformerTranslator.toy()
    with pytest.raises(
        UserError, match="heads 3: expected heads that divide the width; heads 2 would do"
    ):
        api.fit(toy, source, out=False, heads=3)
    with pytest.raises(UserError, match="even number"):
        api.fit(toy, source, out=False, width=15, heads=3)


def test_products_are_in_the_format_that_is_asked_for() -> None:
    toy, source = TransformerTranslator.toy()
    run = api.fit(toy, source, out=False, **{"optimizer.steps": 2})
    made: list[Any] = []

    class Watched(TransformerTranslator):
        def stepper(self, run: Run, precision: Any = "float32") -> Any:
            made.append(super().stepper(run, precision))
            return made[-1]

    watched = Watched(**dict(run.system))
    for options, dtype in (
        ({}, torch.float32),  # batch mates may change what bfloat16 says
        ({"precision": "bfloat16"}, torch.bfloat16),
    ):
        list(watched.translate(run, "123", **options))  # type: ignore[arg-type]
        watched.evaluate(run, **options)
        formats = {m.dtype for m in made[-1].model.modules() if isinstance(m, Product)}
        assert formats == {m.dtype for m in made[-2].model.modules() if isinstance(m, Product)}
        assert formats == {dtype}


def test_batch_mates_never_change_a_translation() -> None:
    toy, source = TransformerTranslator.toy()
    run = api.fit(toy, source, out=False, **{"optimizer.steps": 60, "optimizer.lr": 1e-2})
    texts = ["1", "98765", "333", "12121"]
    for options in ({"beam": 1}, {"beam": 4}, {"beam": 3, "coverage": 0.5}):
        together = list(run.translate(texts, **options))
        assert together == [f"{list(run.translate(text, **options))[0]}\n" for text in texts]
