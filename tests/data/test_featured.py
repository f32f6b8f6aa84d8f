"""A table whose images are told by another run's latents."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

import fourfold
from fourfold.api import resume
from fourfold.core.errors import UserError
from fourfold.core.options import merge
from fourfold.systems.denoising import DenoisingSystem


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty digits of two classes as files, their table, and a run that encodes."""
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("few")
    digits = load_digits(n_class=2)
    (root / "pictures").mkdir()
    names = []
    for number in range(60):
        name = f"pictures/{59 - number}.png"  # not in the order of the rows
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).save(root / name)
        names.append(name)
    pl.DataFrame({"image": names, "digit": [f"d{t}" for t in digits.target[:60]]}).write_csv(
        root / "few.csv"
    )
    toy, _ = DenoisingSystem.toy()
    fourfold.fit(merge(DenoisingSystem, {"optimizer.steps": 60}, base=toy), out=root / "dae")
    return root


def test_few_labels_on_features(folder: Path, tmp_path: Path) -> None:
    dae = str(folder / "dae")
    run = fourfold.fit(
        "softmax", str(folder / "few.csv"), target="digit", features=dae, out=tmp_path / "run"
    )
    alone = fourfold.fit("softmax", str(folder / "few.csv"), features=dae, out=False)
    assert alone.data.target.name == "digit"  # type: ignore[attr-defined]  # nothing else is left
    data: Any = run.data
    assert [c.name for c in data.columns] == ["z_0", "z_1", "z_2", "z_3"]
    frame = data.rows.frame()
    wanted = fourfold.open(folder / "dae").encode(
        [str(folder / "pictures" / f"{59 - i}.png") for i in range(60)]
    )
    assert np.allclose(
        frame.select("^z_.*$").to_numpy(), wanted.select("^z_.*$").to_numpy(), atol=1e-6
    )
    assert run.evaluate()["accuracy"] > 0.6
    again = fourfold.open(tmp_path / "run").predict(str(folder / "few.csv"))
    assert (again["prediction"] == again["digit"]).mean() > 0.7
    assert again.columns == [
        "image",
        "digit",
        "prediction",
        "p(d0)",
        "p(d1)",
    ]  # the user's, not z_0 ...
    assert again["image"].to_list() == [f"pictures/{59 - i}.png" for i in range(60)]


def test_the_other_run_is_found_from_anywhere_and_must_be_as_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "few")
    monkeypatch.chdir(tmp_path / "few")
    fourfold.fit("mlp", "few.csv", features="dae", out="run", steps=5)
    monkeypatch.chdir(tmp_path)
    assert fourfold.open("few/run").predict("few/few.csv").height == 60
    assert resume("few/run", steps=8).folder is not None  # knows its data again
    resume("few/dae", steps=70)
    with pytest.raises(UserError, match="dae: has learned further since this run was fitted"):
        fourfold.open("few/run").predict("few/few.csv")


def test_what_cannot_be_encoded_is_said(folder: Path, tmp_path: Path) -> None:
    dae = str(folder / "dae")

    def fit(table: dict[str, list[Any]], features: str = dae) -> None:
        pl.DataFrame(table).write_csv(tmp_path / "t.csv")
        fourfold.fit("softmax", str(tmp_path / "t.csv"), target="y", features=features, out=False)

    with pytest.raises(UserError, match=r"t\.csv, row 2, column image: no such file as gone\.png"):
        fit({"image": [str(folder / "pictures/1.png"), "gone.png"], "y": ["a", "b"]})
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"row 2, column image: .*empty\.png"):
        fit({"image": [str(folder / "pictures/1.png"), "empty.png"], "y": ["a", "b"]})
    with pytest.raises(UserError, match="--data.features encodes one column.*found none"):
        fit({"x": [1, 2], "y": ["a", "b"]})
    with pytest.raises(UserError, match="no-such-run"):
        fit({"image": ["a.png", "b.png"], "y": ["a", "b"]}, "no-such-run")
