"""Document masks: no position sees another document, in training as in evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fourfold
from fourfold import api
from fourfold.core.errors import Interrupted, UserError
from fourfold.core.run import Run
from fourfold.data.text import Text, TextData, segments_of
from fourfold.objectives.likelihood import NextToken
from fourfold.optimizers.gradient import Gradient
from fourfold.systems.gpt import GPT
from fourfold.testing import _stopping_after

DOCUMENTS = [f"{a} plus {b} is {a + b}." for a in range(30) for b in range(4)]
SOURCE = {"text": DOCUMENTS}


def fitted(out: Any) -> Run:
    # half a window holds a whole document: an evaluation's windows overlap by that much
    data = Text(unit="character", window=48, batch=4, document_mask=True)
    optimizer = Gradient(lr=3e-3, steps=30)
    return fourfold.fit(
        GPT(data=data, layers=2, width=32, heads=2, optimizer=optimizer), SOURCE, out=out, seed=1
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fitted(tmp_path_factory.mktemp("masked") / "run")


def text_data(run: Run) -> TextData:
    data = run.examples()
    assert isinstance(data, TextData)
    return data


def test_an_end_token_begins_the_next_document() -> None:
    tokens = torch.tensor([[5, 0, 6, 7, 0, 0, 8], [0, 1, 2, 3, 4, 5, 6]])
    found = segments_of(tokens, end=0).tolist()
    assert found == [[0, 1, 1, 1, 2, 3, 3], [0] * 7]


def test_the_loss_is_that_of_each_document_alone(run: Run) -> None:
    """Packed equals unpacked: every target's loss is what its own document's tokens alone give."""
    data = text_data(run)
    batch = next(iter(data.batches("train", epoch=0)))
    (move,) = NextToken().losses(run.model, batch)
    total, end = 0.0, data.vocabulary.end
    with torch.no_grad():
        for tokens, targets in zip(batch["tokens"].numpy(), batch["targets"].numpy(), strict=True):
            cuts = [0, *(i for i in range(1, len(tokens)) if tokens[i] == end), len(tokens)]
            for a, b in zip(cuts, cuts[1:], strict=False):
                logits = run.model(torch.from_numpy(tokens[a:b])[None])[0]
                total += float(
                    F.cross_entropy(logits, torch.from_numpy(targets[a:b]), reduction="sum")
                )
    assert float(move.loss.detach()) == pytest.approx(total, rel=1e-5)
    assert (
        float(move.weight) == batch["targets"].numel()
    )  # ends count: a model must know when to stop


def test_evaluation_sees_what_training_saw(run: Run) -> None:
    """Held-out bits of the whole split are those of its documents scored one by one."""
    data = text_data(run)
    tokens = np.asarray(data.tokens("test"), np.int64)
    ends = np.flatnonzero(tokens == data.vocabulary.end)
    assert len(ends) > 4
    each = [
        run.system.reader(run).surprises(tokens[a : b + 1])  # type: ignore[attr-defined]
        for a, b in zip(ends, ends[1:], strict=False)
    ]
    score = run.evaluate()
    assert score["loss"] == pytest.approx(float(np.concatenate(each).mean()), rel=1e-5)
    # what stands before the end token changes nothing
    text = "3 plus 2 is 5."
    begun = [data.vocabulary.end, *data.vocabulary.encode(text).tolist()]
    reader = run.system.reader(run)  # type: ignore[attr-defined]
    behind = reader.surprises(np.array([*tokens[:15], *begun]))[-len(text) :]
    assert behind.mean() == pytest.approx(run.score(text)["nats_per_token"], rel=1e-5)


def test_the_reader_forgets_at_an_end_token(run: Run) -> None:
    """Token by token in rows that end at different places, as in one pass."""
    reader = run.system.reader(run)  # type: ignore[attr-defined]
    tokens = np.asarray(text_data(run).tokens("test"), np.int64)[:47]
    wanted = reader.surprises(tokens)
    rows = np.stack([tokens, np.roll(tokens, 7)])
    state = reader.start(2)
    found = []
    for i in range(1, len(tokens)):
        found.append(-float(reader.next(state)[0, tokens[i]]))
        state = reader.push(state, torch.from_numpy(rows[:, i]))
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_opened_and_resumed_as_if_never_stopped(run: Run, tmp_path: Any) -> None:
    with pytest.raises(Interrupted), _stopping_after(11):
        fitted(tmp_path / "parts")
    resumed = api.resume(tmp_path / "parts", source=SOURCE)
    opened = fourfold.open(tmp_path / "parts")
    for name, weight in run.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name])
        assert torch.equal(weight, opened.model.state_dict()[name])
    assert opened.system.data.document_mask


def test_models_without_a_mask_refuse_it() -> None:
    with pytest.raises(UserError, match="ngram reads on over the ends of documents"):
        fourfold.fit("ngram", SOURCE, out=False, document_mask=True, **{"data.context": 1})
    with pytest.raises(UserError, match="goes with windows in random order and context 1"):
        fourfold.fit("lstm", SOURCE, out=False, document_mask=True)
    with pytest.raises(UserError, match="lstm reads on over the ends of documents"):
        fourfold.fit("lstm", SOURCE, out=False, document_mask=True, ordered=False)
