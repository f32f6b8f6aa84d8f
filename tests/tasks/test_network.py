"""Options of a network on a table: each has its effect, what data decides is said, wrong ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import fourfold
from fourfold.core.errors import Interrupted, UserError
from fourfold.core.run import Run
from fourfold.models.mlp import MLP
from fourfold.models.phm import PHM
from fourfold.models.tabular import Periodic, PiecewiseLinear
from fourfold.testing import _stopping_after

SMALL = {"width": 8, "members": 1, "epochs": 2, "norm": "none", "dropout": 0.0}


def frame(rows: int = 200) -> pl.DataFrame:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, rows))
    town = random.choice(["Bern", "Lyon", "Turin"], rows)
    return pl.DataFrame({"x": x, "y": y, "town": town, "z": x * y + (town == "Bern")})


def fitted(source: Any = None, **options: Any) -> Run:
    given = {"target": "z", **SMALL, **options}
    return fourfold.fit("mlp", frame() if source is None else source, out=False, **given)


def net(run: Run) -> MLP:
    assert isinstance(run.model, MLP)
    return run.model


def test_layers_and_widths() -> None:
    assert [b.linear.out_features for b in net(fitted(layers=3)).blocks] == [8, 8, 8]
    assert [b.linear.out_features for b in net(fitted(width=None, widths="5,7")).blocks] == [5, 7]
    assert not net(fitted(layers=0)).blocks
    for given in ({"widths": "5,7", "width": 3}, {"widths": "5,7", "layers": 1}, {"width": None}):
        with pytest.raises(UserError, match="either widths or layers and width"):
            fourfold.fit("mlp", frame(), out=False, target="z", **given)


def test_widths_alone_clear_layers_and_width() -> None:
    run = fourfold.fit("mlp", frame(), out=False, target="z", widths=(4, 3), epochs=1)
    assert run.system.width is None and run.system.layers is None  # type: ignore[attr-defined]
    assert len(net(run).blocks) == 2


def test_each_option_reaches_its_layer() -> None:
    run = fitted(
        layers=2,
        activation="SiLU",
        norm="layer",
        dropout=0.25,
        activation_noise=0.1,
        weight_noise=0.01,
        input_noise=0.2,
        residual=True,
        initialization="he",
    )
    first, second = net(run).blocks
    assert isinstance(first.activation, torch.nn.SiLU)
    assert isinstance(first.norm, torch.nn.LayerNorm)
    assert first.dropout.p == 0.25 and first.noise.std == 0.1 and first.linear.noise == 0.01
    assert net(run).columns.spread.tolist() == pytest.approx([0.2] * 5)
    assert isinstance(first.skip, torch.nn.Linear) and isinstance(second.skip, torch.nn.Identity)
    assert all(isinstance(b.linear, PHM) for b in net(fitted(phm=2)).blocks)


def test_embeddings_of_numbers() -> None:
    piecewise = net(fitted(**{"numbers": "piecewise", "numbers.bins": 6})).columns
    assert isinstance(piecewise.numbers, PiecewiseLinear) and piecewise.outputs == 5 + 2 * 6
    mixed = net(fitted(**{"numbers.bins": 6, "numbers.outputs": 4})).columns
    assert mixed.outputs == 5 + 2 * 4
    periodic = net(fitted(numbers="periodic", **{"numbers.frequencies": 5})).columns
    assert isinstance(periodic.numbers, Periodic) and periodic.outputs == 5 + 2 * 16
    plain = net(fitted(numbers="plain")).columns
    assert plain.numbers is None and plain.outputs == 5
    with pytest.raises(UserError, match="goes with numbers piecewise only"):
        fitted(numbers="periodic", **{"numbers.bins": 6})


def test_bins_follow_the_training_rows_quantiles() -> None:
    run = fitted(**{"numbers.bins": 4})
    prepared = torch.cat([b["features"] for b in run.data.batches("train")])[:, :2].double()
    edges = torch.quantile(prepared, torch.linspace(0, 1, 5, dtype=torch.float64), dim=0)
    numbers = net(run).columns.numbers
    assert isinstance(numbers, PiecewiseLinear)
    torch.testing.assert_close(numbers.scale.double(), 1 / edges.diff(dim=0).T, rtol=1e-5, atol=0)


def test_categories_of_many_values_are_embedded() -> None:
    random = np.random.default_rng(0)
    user = random.integers(0, 40, 400)
    source = pl.DataFrame({"user": [f"u{i}" for i in user], "x": random.normal(size=400)})
    source = source.with_columns(z=pl.Series(np.sin(user)))
    run = fitted(source, code_width=3, **{"data.embed_above": 10})
    codes = net(run).columns.codes
    assert codes is not None and codes.weight.shape == (41, 3)
    unseen = run.predict(pl.DataFrame({"user": ["nobody"], "x": [0.0]}))
    assert np.isfinite(unseen["prediction"][0])
    one_hot = fitted(source, **{"data.embed_above": 64})
    assert net(one_hot).columns.codes is None and net(one_hot).columns.outputs == 41


def test_choices_by_the_rows_are_said_and_can_be_overridden() -> None:
    said = " ".join(fitted().notes)
    assert "Batches of 32 rows, by the 160 training rows" in said
    assert "Numbers are taken plain, by the 160 training rows" in said
    assert "members" not in said  # they were given
    given = " ".join(fitted(batch=20, numbers="plain").notes)
    assert "Batches" not in given and "Numbers" not in given
    rate = "Learning rate 0.02, weight decay 0.5, by the 160 training rows"
    assert rate in said and "Learning rate" not in " ".join(fitted(lr=1e-3, decay=0.0).notes)
    large = fitted(frame(3000), lr=1e-3)
    assert "Learning rate 0.001, weight decay 0.1, by the 2,400 training" in " ".join(large.notes)
    few = fitted(members=None)
    assert "2 members are averaged, for only 160 training rows" in " ".join(few.notes)
    assert net(few).members is not None and net(fitted(frame(3000), members=None)).members is None
    many = fitted(frame(3000))
    assert "plain and in 16 bins each, by the 2,400 training rows" in " ".join(many.notes)
    assert isinstance(net(many).columns.numbers, PiecewiseLinear)


def test_missing_validation_rows_are_said() -> None:
    run = fitted(split=(0.9, 0.0, 0.1))
    assert any("No validation rows" in note for note in run.notes)
    assert not any("No validation rows" in note for note in fitted().notes)


def test_no_activation_is_warned_about_and_shown_to_be_one_layer() -> None:
    run = fitted(activation="none", layers=3)
    assert any("4 layers of sums" in note for note in run.notes)
    (table,) = [t for t in run.system.tables(run) if "one layer" in t.title]
    network, one = table.rows
    assert network[1:3] == (4, sum(p.numel() for p in net(run).parameters()))
    assert one[1:3] == (1, 6)  # five columns and a bias
    assert 0 < one[3] < 1e-5
    assert not any("one layer" in t.title for t in fitted().system.tables(fitted()))


def test_ties_make_one_parameter_of_several() -> None:
    run = fitted(layers=3, tie="blocks.[12].linear.weight")
    blocks = net(run).blocks
    assert blocks[1].linear.weight is blocks[2].linear.weight
    assert blocks[0].linear.weight is not blocks[1].linear.weight
    rules = net(fitted(layers=3, phm=2, tie="blocks.*.linear.rules")).blocks
    assert len({id(b.linear.rules) for b in rules}) == 1


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("blocks.*.linear.weight", r"blocks.1.linear.weight is \(8, 8\) and .* \(8, 5\)"),
        ("head.weight", "matches head.weight alone"),
        ("block.1.linear", "no parameter of this name; did you mean blocks.1.linear"),
    ],
)
def test_ties_that_cannot_be_are_refused(pattern: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        fitted(layers=3, tie=pattern)


def test_ties_survive_a_run_folder(tmp_path: Path) -> None:
    options = {**SMALL, "layers": 3, "tie": "blocks.[12].linear.weight"}
    run = fourfold.fit("mlp", frame(), out=tmp_path / "run", target="z", **options)
    again = fourfold.open(tmp_path / "run")
    assert net(again).blocks[1].linear.weight is net(again).blocks[2].linear.weight
    assert run.predict(frame()).equals(again.predict(frame()))


def test_frozen_parameters_stay_and_others_move_through_a_resume(tmp_path: Path) -> None:
    options = {**SMALL, "norm": "batch", "layers": 2, "freeze": "blocks.0", "target": "z"}
    torch.manual_seed(0)
    system = fourfold.api.configure("mlp", options)
    run = fourfold.fit(system, frame(), out=tmp_path / "whole")
    torch.manual_seed(run.seed)
    before = system.build(run.data).state_dict()
    moved = {n for n, v in run.model.state_dict().items() if not torch.equal(v, before[n])}
    assert moved and not any(n.startswith("blocks.0.") for n in moved)
    assert {n for n in before if n.startswith(("blocks.1.", "head."))} <= moved
    with pytest.raises(Interrupted), _stopping_after(5):
        fourfold.fit(system, frame(), out=tmp_path / "parts")
    resumed = fourfold.api.resume(tmp_path / "parts", source=frame())
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_freezing_on_old_weights(tmp_path: Path) -> None:
    fourfold.fit("mlp", frame(), out=tmp_path / "old", target="z", **SMALL)
    new = fourfold.fit("mlp", frame(), out=False, from_=tmp_path / "old", freeze="blocks")
    old = fourfold.open(tmp_path / "old").model.state_dict()
    changed = {n for n, v in new.model.state_dict().items() if not torch.equal(v, old[n])}
    assert changed == {"head.weight", "head.bias"}


def test_an_unknown_freeze_pattern_is_refused() -> None:
    with pytest.raises(UserError, match="--freeze blocs.0: no parameter .* blocks.0"):
        fitted(freeze="blocs.0")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"activation": "rellu"}, "did you mean relu"),
        ({"phm": 2, "initialization": "orthogonal"}, "dense layers"),
        ({"dropout": 1.0}, "dropout"),
        ({"class_weights": "balanced"}, "is a number"),
        ({"objective": "cross-entropy"}, "cross-entropy is for"),
        ({"split": (0.8, 0.2)}, "--data.split: expected 3 values, got "),
        ({"width": 1 << 40}, "the model's weights alone take more memory than there is"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        fitted(**options)
