"""The recurrent encoder-decoder as a system: options, and what each kind of attention learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fourfold import api
from fourfold.core.errors import UserError
from fourfold.data.pairs import pair_data
from fourfold.optimizers.search import Search
from fourfold.systems.seq2seq import Sequences


def _turned(count: int = 1000) -> dict[str, list[str]]:
    """Letters and the same letters from the last to the first."""
    letters = "abcdefgh"
    source = ["".join(letters[(n // 8**k + k) % 8] for k in range(2 + n % 4)) for n in range(count)]
    return {"source": source, "target": [s[::-1] for s in source]}


@pytest.mark.parametrize("attention", ["none", "additive", "dot"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_every_way_learns_to_turn_letters_round(cell: str, attention: str) -> None:
    run = api.fit(
        "seq2seq", _turned(), out=False, cell=cell, attention=attention, width=48, embedding=32, steps=150,
        dropout=0.0, lr=1e-2, **{"data.unit": "character", "data.batch": 1600},
    )  # fmt: skip
    looks = [line["valid.loss"] for line in run.metrics.lines if "valid.loss" in line]
    assert min(looks) < 0.6 < looks[0] / 2, looks


@pytest.mark.parametrize(
    ("options", "tables"),
    [({}, 1), ({"data.shared": False}, 2), ({"data.target_unit": "word"}, 2), ({"tied": False}, 1)],
)
def test_vocabularies_have_their_tables(options: dict[str, Any], tables: int) -> None:
    system = api.configure(
        "seq2seq", {"width": 8, "embedding": 8, "data.unit": "character", **options}
    )
    data = pair_data(system.data.open(_turned(100)))
    model: Any = system.build(data)
    assert (model.source_embedding is model.target_embedding) == (tables == 1) == data.shared
    assert (model.head.weight is model.target_embedding.weight) == options.get("tied", True)
    assert model.head.out_features == data.target_size


def test_batches_of_a_step_count_by_their_tokens() -> None:
    """Two micro-batches make the step of all their pairs at once, though they hold other numbers of tokens."""
    system = api.configure(
        "seq2seq",
        {"width": 8, "embedding": 8, "dropout": 0.0, "data.unit": "character", "data.batch": 300,
         "optimizer": {"algorithm": "sgd", "arguments": {}, "clip": None, "precision": "float32", "steps": 1,
                       "warmup": 0.0, "lr": 1.0}},
    )  # fmt: skip
    data = system.data.open(_turned(200))
    first, second = list(data.batches("train"))[:2]
    assert (first["targets"] >= 0).sum() != (second["targets"] >= 0).sum()
    found = []
    for batches in ([first, second], [_joined(first, second)]):
        torch.manual_seed(0)
        run = api.Run(system)
        run.data, run.model = data, system.build(data)
        run.objective = system.objective.prepare(run)
        Search(system.optimizer, run.objective, run.model, data, run).step(batches)
        found.append([p.detach().clone() for p in run.model.parameters()])
    torch.testing.assert_close(*found)


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Both batches as one, padded anew."""
    joined = {}
    for name, filling in (
        ("source", 0),
        ("source_lengths", None),
        ("tokens", 0),
        ("targets", -100),
    ):
        parts = [first[name], second[name]]
        if filling is not None:
            width = max(p.shape[1] for p in parts)
            parts = [
                torch.nn.functional.pad(p, (0, width - p.shape[1]), value=filling) for p in parts
            ]
        joined[name] = torch.cat(parts)
    return joined


def test_resuming_goes_on_with_the_same_files_only(tmp_path: Any) -> None:
    for code, lines in (("en", "1 2 3 4 5 6 7"), ("de", "a b c d e f g")):
        (tmp_path / f"t.{code}").write_text("\n".join(lines.split()))
    files = [str(tmp_path / f"t.{code}") for code in ("en", "de")]
    small = {"width": 8, "embedding": 8, "steps": 2, "data.unit": "character"}
    run = api.fit("seq2seq", files, out=tmp_path / "run", **small)
    assert run.evaluate(files)["loss"] > 0
    (tmp_path / "t.de").write_text("a\nb\nc\nd\ne\nf\nh")
    with pytest.raises(UserError, match="has changed"):
        api.resume(tmp_path / "run", steps=3)


def test_a_format_that_it_does_not_compute_in_is_refused() -> None:
    toy, source = Sequences.toy()
    run = api.fit(toy, source, out=False, **{"optimizer.steps": 2})
    assert list(run.translate("1", precision="auto", beam=1)) == list(run.translate("1", beam=1))
    with pytest.raises(UserError, match="--precision bfloat16: seq2seq translates in float32"):
        list(run.translate("1", precision="bfloat16"))
