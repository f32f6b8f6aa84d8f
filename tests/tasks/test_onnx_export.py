"""The exported file, run by onnxruntime on raw columns, answers what the run answers."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from fourfold import api
from fourfold.core.errors import UserError
from fourfold.core.parts import Data
from fourfold.core.registry import index, load_system
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.data.table import TableData, Tabular
from fourfold.objectives.automatic import Automatic
from fourfold.objectives.regression import Poisson, Quantile
from fourfold.objectives.supervised import Supervised
from fourfold.optimizers.gradient import Gradient
from fourfold.systems.linear import LinearRegression
from fourfold.tasks import onnx_export
from fourfold.tasks.gathering import gather
from fourfold.tasks.onnx_export import export, export_onnx
from fourfold.tasks.onnx_graph import Graph, calendar
from fourfold.tasks.onnx_rows import every_case
from fourfold.tasks.prediction import Predictor

COUNT = 160


class Mixed(nn.Module):
    """Embeds the columns that hold codes, and takes the others as they are."""

    def __init__(self, sizes: list[int], outputs: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.embeddings = nn.ModuleList(nn.Embedding(n, 3) for n in sizes if n)
        inner = sum(3 if n else 1 for n in sizes)
        self.layers = nn.Sequential(
            nn.Linear(inner, 8),
            nn.BatchNorm1d(8),
            nn.SiLU(),
            nn.Dropout(0.2),
            nn.Linear(8, outputs),
        )

    def forward(self, features: Tensor) -> Tensor:
        if not len(self.embeddings):
            return self.layers(features)
        parts, embeddings = [], iter(self.embeddings)
        for i, size in enumerate(self.sizes):
            column = features[:, i]
            parts.append(next(embeddings)(column.long()) if size else column[:, None])
        return self.layers(torch.cat(parts, 1))


@system("mixed", reads="table")
class MixedSystem(Predictor):
    """A small network for any target."""

    data: Tabular = Tabular()
    objective: Any = Automatic()
    optimizer: Gradient = Gradient(lr=0.01, steps=12, precision="float32")

    def build(self, data: Data) -> nn.Module:
        table = cast(TableData, data)
        outputs = self.objective.chosen(table.target).outputs(table.target)
        return Mixed([c.size for c in table.columns], outputs).to(getattr(torch, self.data.dtype))


def columns() -> dict[str, Any]:
    """Every kind of column, with gaps."""
    random = np.random.default_rng(0)
    age = random.normal(40, 10, COUNT)
    age[::9] = np.nan
    town = random.choice(["Bern", "Lyon", "São Paulo", "東京"], COUNT).astype(object)
    town[::11] = None
    side = random.choice([-1.0, 1.0], COUNT)
    side[::13] = np.nan
    years = random.integers(1990, 2024, COUNT)
    constant = np.full(COUNT, 3.0)
    constant[::7] = np.nan
    return {
        "age": age,
        "town": town.tolist(),
        "zip code": random.choice([1000, 2000, 8001, 9999, 31337], COUNT),
        "member": random.random(COUNT) < 0.5,
        "side": side,
        "constant": constant,
        "seconds": 1.7e9 + random.random(COUNT) * 1e6,  # float32 has steps of 128 there
        "since": [f"{random.integers(1, 28)}.{random.integers(1, 13)}.{y}" for y in years],
        "pet": [random.choice(["yes", "no"]) if i % 8 else None for i in range(COUNT)],
        "share": [f"{x:.1f} %" for x in random.random(COUNT) * 100],
        "note": [f"row {i}" for i in range(COUNT)],
        "rent": np.nan_to_num(age, nan=40) * 12 + random.normal(0, 30, COUNT),
        "class": random.choice(["low", "middle", "high"], COUNT),
        "yes": random.choice(["no", "yes"], COUNT),
        "tag_a": random.integers(0, 2, COUNT),
        "tag_b": random.integers(0, 2, COUNT),
    }


TARGETS = ("rent", "class", "yes", "tag_a", "tag_b")


def fitted(target: str, *, objective: Any = None, **options: Any) -> Run:
    held = [name for name in TARGETS if not name.startswith(target.rstrip("*"))]
    data = Tabular(target=target, drop=tuple(held), batch=200, **options)
    chosen = {} if objective is None else {"objective": objective}
    return api.fit(MixedSystem(data=data, **chosen), columns(), out=False)


def answers(path: Path, frame: pl.DataFrame) -> dict[str, np.ndarray]:
    """What onnxruntime gives for a frame whose columns are filled in by hand: NaN and "" are missing."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {}
    for given in session.get_inputs():
        series = frame[given.name]
        if given.name == "since":
            days = series.str.to_date("%d.%m.%Y").cast(pl.Int32).cast(pl.Float64)
            values = (days * 86_400).fill_null(np.nan).to_numpy()
        elif given.name == "share":
            values = series.str.strip_suffix(" %").cast(pl.Float64).to_numpy()
        elif given.type == "tensor(double)":
            values = series.cast(pl.Float64).fill_null(np.nan).to_numpy()
        else:
            assert given.type == "tensor(string)"
            values = series.cast(pl.String).fill_null("").to_numpy().astype(object)
        feeds[given.name] = values[:, None]
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def raw() -> pl.DataFrame:
    """Rows that the fit has not seen: other numbers, an unseen town and code, gaps in other places."""
    frame = pl.DataFrame(columns(), strict=False)[:7]
    town = pl.Series("town", ["Bern", None, "Ulm", "東京", "", "Lyon", "São Paulo"])
    zip_code = pl.Series("zip code", [1000, 31337, 4, 9999, 8001, 2000, 1000])
    age = pl.Series("age", [None, 17.5, -3.0, 1e4, 40.0, None, 22.0])
    member = pl.Series("member", [True, False, None, True, True, False, False])
    since = pl.Series(
        "since", ["29.2.2000", "1.3.1900", "31.12.1999", "1.1.2024", "5.5.2005", None, "1.3.2100"]
    )
    pet = pl.Series("pet", ["Yes", "NO", None, "ja", "false", "1", "maybe"])
    return frame.with_columns(town, zip_code, age, member, since, pet)


def expected(run: Run, frame: pl.DataFrame) -> Any:
    data = cast(TableData, run.data).reopen(frame, whole=True, targets=False)
    return gather(run, data, "test")


def test_a_number(tmp_path: Path) -> None:
    run, path = fitted("rent", unseen="other", dtype="float64"), tmp_path / "model.onnx"
    told = export_onnx(run, path)
    assert "made rows within" in told and f"{COUNT} rows of the table within" in told
    found = answers(path, raw())
    assert list(found) == ["prediction"] and found["prediction"].shape == (7,)
    np.testing.assert_allclose(found["prediction"], expected(run, raw()).values, rtol=1e-7)


def test_classes(tmp_path: Path) -> None:
    target = "yes"
    run, path = fitted(target), tmp_path / "model.onnx"
    export_onnx(run, path)
    found, true = answers(path, raw()), expected(run, raw()).values
    np.testing.assert_allclose(found["probabilities"], true, atol=1e-5)
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, atol=1e-12)
    classes = cast(TableData, run.data).target.classes
    assert found["prediction"].tolist() == [classes[i] for i in true.argmax(1)]
    facts = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert facts["target"] == target and facts["classes"] == str(list(classes)).replace("'", '"')


def test_labels(tmp_path: Path) -> None:
    """And rows that have no answer: of labels the decision is -1 then."""
    run, path = fitted("tag_*", missing="drop", kinds={"constant": "drop"}), tmp_path / "m.onnx"
    export_onnx(run, path)
    found, true = answers(path, raw()), expected(run, raw()).values
    assert found["probabilities"].shape == (7, 2)
    kept = np.isfinite(found["probabilities"]).all(1)
    assert 0 < kept.sum() < 7
    np.testing.assert_allclose(found["probabilities"][kept], true, atol=1e-5)
    np.testing.assert_array_equal(found["prediction"][kept], true > 0.5)
    assert (found["prediction"][~kept] == -1).all()


def test_codes_to_be_embedded(tmp_path: Path) -> None:
    run, path = fitted("class", embed_above=3), tmp_path / "model.onnx"
    sizes = {c.name: c.size for c in cast(TableData, run.data).columns if c.size}
    assert sizes == {"town": 5, "zip code": 6}
    export_onnx(run, path)
    true = expected(run, raw()).values
    np.testing.assert_allclose(answers(path, raw())["probabilities"], true, atol=1e-5)


def test_further_numbers_are_further_outputs(tmp_path: Path) -> None:
    run, path = fitted("rent", objective=Quantile(levels=(0.1, 0.5, 0.9))), tmp_path / "model.onnx"
    export_onnx(run, path)
    found, true = answers(path, raw()), expected(run, raw())
    assert list(found) == ["prediction", "quantile_0.1", "quantile_0.5", "quantile_0.9"]
    np.testing.assert_allclose(found["prediction"], true.values, rtol=1e-4)
    for name, values in true.further.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4)
    # seconds since 1970 differ by less than float32 tells apart; the inputs are float64
    frame = pl.concat([raw()[:1]] * 2)
    frame = frame.with_columns(pl.Series("seconds", [1.7e9 + 10.0, 1.7e9 + 60.0]))
    first, second = answers(path, frame)["prediction"]
    assert first != second
    np.testing.assert_allclose([first, second], expected(run, frame).values, rtol=1e-4)


def test_a_loss_with_an_output_of_its_own(tmp_path: Path) -> None:
    run, path = fitted("tag_a", objective=Poisson(), target_kind="number"), tmp_path / "m.onnx"
    export_onnx(run, path)
    true = expected(run, raw()).values
    assert (true >= 0).all()
    np.testing.assert_allclose(answers(path, raw())["prediction"], true, rtol=1e-4, atol=1e-6)


def test_rows_that_are_left_out_have_no_answer(tmp_path: Path) -> None:
    for target, nothing in (("rent", None), ("class", "")):
        run, path = fitted(target, missing="drop", kinds={"constant": "drop"}), tmp_path / "m.onnx"
        export_onnx(run, path)
        found = answers(path, raw())
        values = found["prediction"] if target == "rent" else found["probabilities"]
        left_out = np.array([True, True, True, False, True, True, False])  # age, town or member
        left_out |= raw()["side"].is_nan().to_numpy()
        assert 0 < (~left_out).sum() <= 2
        assert np.isnan(values[left_out]).all() and np.isfinite(values[~left_out]).all()
        true = expected(run, raw()).values
        np.testing.assert_allclose(values[~left_out], true, rtol=1e-4, atol=1e-5)
        if nothing is not None:
            assert (found["prediction"][left_out] == nothing).all()


def test_linear_regression_by_its_verb(tmp_path: Path) -> None:
    toy, source = LinearRegression.toy()
    api.fit(toy, source, out=tmp_path / "run")
    run = Run.open(tmp_path / "run")  # whose rows, given in memory, are gone
    said: list[str] = []
    run.console.say = said.append  # type: ignore[method-assign]
    path = export(run)
    assert path == tmp_path / "run" / "model.onnx"
    assert "made rows within" in said[0] and "rows of the table" not in said[0]
    frame = pl.DataFrame(source)[:20]
    found = answers(path, frame)["prediction"]
    np.testing.assert_allclose(found, run.predict(frame)["prediction"].to_numpy(), rtol=1e-10)
    with pytest.raises(UserError, match="in memory only"):
        export(api.fit(toy, source, out=False))


def test_every_system_that_predicts_a_table(tmp_path: Path) -> None:
    names = [name for name, entry in index().items() if entry.reads == "table"]
    tried = []
    for name in names:
        toy, source = load_system(name).toy()
        run = api.fit(toy, source, out=False)
        if isinstance(run.objective, Supervised):
            export_onnx(run, tmp_path / f"{name}.onnx")
            tried.append(name)
    assert "linear" in tried


def test_the_made_rows_hold_every_case() -> None:
    frame = every_case(cast(TableData, fitted("class", embed_above=3).data))
    assert set(frame["town"]) == {"Bern", "Lyon", "São Paulo", "東京", "unseen", None}
    assert set(frame["zip code"]) == {1000, 2000, 8001, 9999, 31337, 31338, None}
    assert set(frame["member"]) == {"false", "true", "unseen", None}
    assert frame["age"].null_count() and frame["constant"].null_count()
    assert "note" not in frame.columns


def test_dates_percentages_and_words_are_what_the_fit_took_them_for() -> None:
    kinds = {
        e.name: (e.kind, e.form) for e in cast(TableData, fitted("rent").data).schema.encodings
    }
    assert kinds["since"][0] == "date" and kinds["share"][1].percent
    assert kinds["pet"][0] == "binary" and sorted(kinds["pet"][1].words) == ["no", "yes"]


def test_the_calendar_is_pythons() -> None:
    """Twenty centuries at random, and the days around the ends of months and leap days."""
    random = np.random.default_rng(0)
    first, last = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (1000, 2999))
    seconds = [*random.uniform(first, last, 3000).round(3), 0.0, -1.0, 86_399.0, 86_400.0]
    for year in (1600, 1900, 1999, 2000, 2023, 2024, 2100):
        for month, day in ((1, 1), (2, 28), (3, 1), (12, 31)):
            moment = datetime(year, month, day, 23, 59, tzinfo=UTC)
            seconds += [moment.timestamp() + step for step in (0, 60, 86_400)]
    graph = Graph(["seconds"])
    names = calendar(graph, "seconds")
    double = onnx.TensorProto.DOUBLE
    body = onnx.helper.make_graph(
        graph.nodes,
        "calendar",
        [onnx.helper.make_tensor_value_info("seconds", double, ["rows"])],
        [onnx.helper.make_tensor_value_info(name, double, ["rows"]) for name in names.values()],
        graph.initializers,
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(body, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = dict(zip(names, session.run(None, {"seconds": np.array(seconds)}), strict=True))
    moments = [datetime(1970, 1, 1) + timedelta(seconds=s) for s in seconds]
    assert found["year"].tolist() == [m.year for m in moments]
    assert found["month"].tolist() == [m.month for m in moments]
    assert found["weekday"].tolist() == [m.isoweekday() for m in moments]
    hours = [m.hour + m.minute / 60 for m in moments]
    np.testing.assert_allclose(found["hour"], hours, rtol=1e-12)
    np.testing.assert_allclose(found["days"], np.array(seconds) / 86_400, rtol=1e-15)


def test_names_that_meet(tmp_path: Path) -> None:
    """A column called as an output, or as the file's inner names are."""
    given = columns()
    frame = {"prediction": given["age"], "/model/val_0": given["seconds"], "y": given["rent"]}
    run = api.fit(MixedSystem(data=Tabular(target="y", batch=32)), frame, out=False)
    export_onnx(run, tmp_path / "m.onnx")
    table = pl.DataFrame(frame)
    found = answers(tmp_path / "m.onnx", table)
    assert list(found) == ["y_prediction"]
    np.testing.assert_allclose(found["y_prediction"], expected(run, table).values, rtol=1e-4)


def test_the_file_says_nothing_of_the_machine_that_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(fitted("class"), path)
    content = path.read_bytes()
    for leak in (str(Path(onnx_export.__file__).parent), str(Path.home()), ".py", "line "):
        assert leak.encode() not in content, leak
    assert {p.key for p in onnx.load(path).metadata_props} == {"system", "target", "classes"}


def test_a_file_that_answers_otherwise_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, path = fitted("rent"), tmp_path / "m.onnx"
    made = onnx_export._made

    def spoiled(*given: Any) -> onnx.ModelProto:
        model = made(*given)
        for tensor in model.graph.initializer:
            if tensor.name.endswith("/mean"):
                value = onnx.numpy_helper.to_array(tensor) * 1.01
                tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
        return model

    monkeypatch.setattr(onnx_export, "_made", spoiled)
    with pytest.raises(RuntimeError, match="differs from the run by"):
        export_onnx(run, path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    class Decides(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.inner = model

        def forward(self, features: Tensor) -> Tensor:
            found = self.inner(features)
            return found if float(features.sum()) > 0 else -found

    run = fitted("rent")
    run.model = Decides(run.model)
    with pytest.raises(UserError, match="torch cannot export Decides: "):
        export_onnx(run, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_onnx(fitted("rent"), tmp_path / "file" / "m.onnx")


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    """In a process of its own, in which onnxruntime cannot be imported."""
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from pathlib import Path\n"
        "from fourfold import api\n"
        "from fourfold.core.errors import UserError\n"
        "from fourfold.systems.linear import LinearRegression\n"
        "from fourfold.tasks.onnx_export import export\n"
        "toy, source = LinearRegression.toy()\n"
        "try:\n"
        "    export(api.fit(toy, source, out=False), Path('m.onnx'))\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == '--to onnx needs onnxruntime: pip install "fourfold[export]"\n'
