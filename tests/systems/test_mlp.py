"""Networks on tables end to end: against closed forms, on problems of known answer, and what they save."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import fourfold
from fourfold.core.run import Run
from fourfold.models.mlp import MLP

PLAIN: dict[str, Any] = {"members": 1, "norm": "none", "dropout": 0.0, "numbers": "plain"}


def fitted(source: Any, **options: Any) -> Run:
    return fourfold.fit("mlp", source, out=False, **options)


def table(rows: int = 300) -> pl.DataFrame:
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 3)) @ np.array([[1.0, 0.8, 0.2], [0, 0.6, 0.1], [0, 0, 1]])
    y = x @ [1.0, -2.0, 0.5] + random.normal(size=rows)
    return pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": y})


def prepared(run: Run) -> tuple[np.ndarray, np.ndarray]:
    batches = list(run.data.batches("train"))
    x, y = (torch.cat([b[n] for b in batches]).double() for n in ("features", "targets"))
    return x.numpy(), y.numpy()


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_input_noise_is_a_ridge_penalty(spread: float) -> None:
    """Bishop 1995: the mean loss over noise of variance s^2 is that of ridge with penalty n s^2."""
    run = fitted(
        table(),
        **PLAIN,
        target="y",
        layers=0,
        input_noise=spread,
        split=(1.0, 0.0, 0.0),
        batch=100,
        **{"optimizer.algorithm": "sgd", "lr": 0.05, "epochs": 600, "decay": 0.0},
    )
    x, y = prepared(run)
    centred = x - x.mean(0)
    penalty = len(x) * spread**2
    w = np.linalg.solve(centred.T @ centred + penalty * np.eye(3), centred.T @ (y - y.mean()))
    model = run.model
    assert isinstance(model, MLP)
    found = model.head.weight.detach().numpy()[0]
    # the noise of the last steps; the penalties lie 0.2 to 0.5 apart
    np.testing.assert_allclose(found, w, atol=0.03 if spread else 1e-3)


def test_it_learns_what_no_weighted_sum_tells() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 600))
    side = np.where(x * y > 0, "left", "right")
    source = {"x": x, "y": y, "side": side}
    run = fitted(source, target="side", epochs=40)
    assert run.evaluate()["accuracy"] > 0.9
    linear = fitted(source, target="side", layers=0, epochs=40)
    assert linear.evaluate()["accuracy"] < 0.65


@pytest.mark.parametrize("members", [1, 4])
def test_probabilities_reach_the_entropy_and_not_below(members: int) -> None:
    """Labels that are drawn with p = 0.2 or 0.8 by a column's sign have 0.5004 nats each."""
    random = np.random.default_rng(1)
    x = random.normal(size=4000)
    label = random.random(4000) < np.where(x > 0, 0.8, 0.2)
    source = pl.DataFrame({"x": x, "label": np.where(label, "yes", "no")})
    run = fitted(source, target="label", members=members, epochs=12, width=32)
    found = run.evaluate()["log_loss"]
    entropy = -(0.2 * np.log(0.2) + 0.8 * np.log(0.8))
    assert found == pytest.approx(entropy, abs=0.08)  # 400 test rows: deviation 0.028


def test_a_number_keeps_its_units() -> None:
    source = table().with_columns(y=1000 * pl.col("y") + 5e4)
    run = fitted(source, target="y", epochs=60)
    score = run.evaluate()
    assert 700 < score["rmse"] < 1500  # the noise has deviation 1000
    assert abs(run.predict(source)["prediction"].mean() - source["y"].mean()) < 200  # type: ignore[operator]


def test_weights_of_rows_count() -> None:
    """Rows of weight 0 are as good as absent: their targets are lies."""
    source = table().with_columns(w=pl.Series(np.arange(300) % 2), truth=pl.col("y"))
    source = source.with_columns(y=pl.when(pl.col("w") == 0).then(-pl.col("y")).otherwise("y"))
    run = fitted(source, target="y", weights="w", drop="truth", epochs=60)
    told = run.predict(source)["prediction"].to_numpy()
    assert np.corrcoef(told, source["truth"].to_numpy())[0, 1] > 0.6


def test_members_learn_and_are_averaged() -> None:
    run = fitted(table(), target="y", members=4, epochs=5, **{"norm": "none", "dropout": 0.0})
    model = run.model
    assert isinstance(model, MLP)
    batch = next(iter(run.data.batches("train")))
    with torch.no_grad():
        each = model.train()(batch["features"])
        model.eval()
        torch.testing.assert_close(model(batch["features"]), each.mean(1))
    assert each.shape[1] == 4 and float(each.std(1).mean()) > 0.01
    (move,) = run.objective.losses(model.train(), batch)
    errors = each[..., 0] - batch["targets"][:, None]
    torch.testing.assert_close(move.loss.detach(), errors.square().mean(1).sum())


def test_a_run_folder_predicts_the_same(tmp_path: Path) -> None:
    source = table(400).with_columns(
        town=pl.Series(np.random.default_rng(2).choice([f"t{i}" for i in range(40)], 400))
    )
    run = fourfold.fit(
        "mlp",
        source,
        out=tmp_path / "run",
        target="y",
        epochs=3,
        **{"numbers.bins": 8, "data.embed_above": 10},
    )
    again = fourfold.open(tmp_path / "run")
    assert run.predict(source).equals(again.predict(source))
    assert (tmp_path / "run" / "report.html").exists()


def test_several_labels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 500))
    source = pl.DataFrame(
        {"x": x, "y": y, "tag_a": (x > 0).astype(int), "tag_b": (x * y > 0).astype(int)}
    )
    for options in ({}, {"objective": "margin"}):
        run = fourfold.fit(
            "multilabel", source, out=False, target="tag_*", epochs=40, numbers="plain", **options
        )
        assert any("margin ranks" in note for note in run.notes) == bool(options)
        said = "Objective: binary cross-entropy, one sigmoid output for each of 2 labels."
        assert (said in run.notes) != bool(options)
        told = run.predict(source)
        names = [c for c in told.columns if c not in source.columns]
        word = "p" if not options else "score"
        assert names == [
            "prediction(tag_a)",
            "prediction(tag_b)",
            f"{word}(tag_a)",
            f"{word}(tag_b)",
        ]
        if not options:
            assert run.evaluate()["hamming"] < 0.1
        else:  # only the order of a row's labels is learned
            apart = source["tag_a"] != source["tag_b"]
            ahead = told[f"{word}(tag_a)"] > told[f"{word}(tag_b)"]
            right = (ahead == (source["tag_a"] == 1)).filter(apart)
            assert right.mean() > 0.9  # type: ignore[operator]


def test_a_target_that_is_no_set_of_labels_is_refused() -> None:
    with pytest.raises(fourfold.UserError, match="set of labels"):
        fourfold.fit("multilabel", table(), out=False, target="y")


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_inspect_finds_units_that_are_dead_in_all_members(norm: str) -> None:
    """Hidden layers are shared: a unit is dead if it is 0 for every row of every member, and alive in one."""
    random = np.random.default_rng(0)
    source = {"x": random.normal(size=300), "y": random.normal(size=300)}
    source["z"] = source["x"] * source["y"]
    options: dict[str, Any] = {"norm": norm, "dropout": 0.0, "numbers": "plain"}
    run = fitted(source, target="z", members=8, width=16, epochs=1, **options)
    model = run.model
    assert isinstance(model, MLP) and model.members is not None

    def verdict() -> str:
        return next(s for s in run.inspect().sentences if s.startswith(("Dead", "Rectifiers")))

    told = re.fullmatch(r"Rectifiers: (\d+) of 32 units .*", verdict())
    assert told and int(told[1]) <= 6  # without normalization a few rest from the start
    block = model.blocks[1]
    before = block.linear if norm == "none" else block.norm
    bias = before.bias.detach().clone()
    with torch.no_grad():
        before.bias[:6] = -1e3
    told = re.match(r"Dead: .* (\d+) of 16 in blocks\.1\.activation;", verdict())
    assert told and 6 <= int(told[1]) <= 12
    with torch.no_grad():  # units that rest for one member are alive in the others
        before.bias.copy_(bias)
        model.members.scale.view(8, -1)[3] = 0.0
    assert verdict().startswith("Rectifiers: ")
