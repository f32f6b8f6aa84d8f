"""Networks that recognize images: what every system keeps, their verbs, transfer, distillation, bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fourfold import api
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.augmentation import Unchanged
from fourfold.data.labelled_images import LabelledImages
from fourfold.look import figures
from fourfold.look.gradcam import grad_cam
from fourfold.optimizers.gradient import Gradient
from fourfold.systems.cnn import ConvolutionalNetwork
from fourfold.systems.resnet import ResidualNetwork
from fourfold.systems.vit import VisionTransformer
from fourfold.tasks import recognized
from fourfold.tasks.recognition import Recognizer
from fourfold.tasks.recognizing import views
from fourfold.testing import check_system


@pytest.mark.parametrize("system", [ConvolutionalNetwork, ResidualNetwork])
def test_the_systems_keep_what_every_system_keeps(system: type[Recognizer]) -> None:
    check_system(system)


def small(**options: Any) -> ConvolutionalNetwork:
    toy, _ = ConvolutionalNetwork.toy()
    return toy.model_copy(update=options)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    longer = small(width=8, dense=32, optimizer=Gradient(lr=1e-2, epochs=6, evaluate_every="50%"))
    return api.fit(longer, None, out=tmp_path_factory.mktemp("runs") / "cnn")


def write(folder: Path, images: np.ndarray) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [folder / f"{i:02}.png" for i in range(len(images))]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image[0]).save(name)
    return [str(name) for name in names]


def test_digits_are_recognized_and_measured(run: Run) -> None:
    score = run.evaluate()
    assert score["accuracy"] > 0.9 and 0 < score["loss"] < 0.4
    averaged = run.evaluate(average="shift")
    assert averaged["accuracy"] > 0.8 and "each averaged over 6 views" in averaged.notes[0]


def test_predictions_name_the_likeliest_classes(run: Run, tmp_path: Path) -> None:
    data = run.examples()
    files = write(tmp_path / "new", data.pixels("test")[:6].numpy())  # type: ignore[attr-defined]
    Path(files[2]).write_bytes(b"")
    frame = run.predict(files, top=3)
    assert frame.columns == [
        "image",
        "prediction",
        "p",
        "prediction_2",
        "p_2",
        "prediction_3",
        "p_3",
    ]
    assert frame["image"].to_list() == [name for i, name in enumerate(files) if i != 2]
    assert (frame["p"] >= frame["p_2"]).all() and (frame["p"] > 0.1).all()
    assert len(run.predict(files, top=99).columns) == 1 + 2 * 10


def test_views_are_the_image_mirrored_and_moved_by_hand() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)
    found = list(views(x, "shift"))
    assert len(found) == 6 and torch.equal(found[1], x.flip(3))
    assert found[2][0, 0].tolist() == [[0, 0, 1], [3, 3, 4], [6, 6, 7]]  # one to the right
    assert found[5][0, 0].tolist() == [[3, 4, 5], [6, 7, 8], [6, 7, 8]]  # one up
    assert len(list(views(x, "none"))) == 1


def test_averaged_probabilities_are_the_mean_over_the_views(run: Run) -> None:
    data = run.examples()
    images = data.pixels("test")[:5]  # type: ignore[attr-defined]
    each = [run.predict(x.numpy(), top=10) for x in (images, images.flip(3))]
    both = run.predict(images.numpy(), top=10, average="flip")

    def by_class(frame: pl.DataFrame, row: int) -> dict[str, float]:
        told = frame.row(row, named=True)
        endings = ["", *[f"_{i}" for i in range(2, 11)]]
        return {told[f"prediction{e}"]: told[f"p{e}"] for e in endings}

    for row in range(5):
        first, second = (by_class(frame, row) for frame in each)
        wanted = {name: (first[name] + second[name]) / 2 for name in first}
        assert by_class(both, row) == pytest.approx(wanted, abs=1e-5)


class Linear(nn.Module):
    """Two maps that are the image and its negative, whose means are weighed by a matrix."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def features(self, images: Tensor) -> Tensor:
        return torch.cat([images, -images], dim=1)

    def classify(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3)) @ self.weights.T


def test_grad_cam_of_a_linear_case_by_hand() -> None:
    """The gradient of class k by a map's place is w_k / (H W): the map of k is relu(sum of w_k times the maps)."""
    weights = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    image = torch.tensor([[0.5, -0.25], [1.0, 0.0]]).view(1, 1, 2, 2)
    both = grad_cam(Linear(weights), image.expand(2, -1, -1, -1), torch.tensor([0, 1]))
    assert both[0].tolist() == [[0.5, 0.0], [1.0, 0.0]]
    assert both[1].tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert not grad_cam(Linear(0 * weights), image, torch.tensor([0])).any()


def test_explanations_hold_one_picture(run: Run) -> None:
    found = run.explain(examples=2, top=2)
    assert len(found.pictures) == 1 and found.pictures[0].png.startswith(b"\x89PNG")
    assert found.tables[0].rows[0] == ("stages.0.0", "8x8x8")
    assert "on its own test split" in found.sentences[-1]


def test_the_report_shows_what_was_confused(run: Run) -> None:
    titles = [picture.title for picture in run.system.pictures(run)]
    for wanted in (
        "Confusion matrix",
        "Least certain images",
        "Grad-CAM",
        "Filters",
        "Feature maps",
    ):
        assert wanted in titles
    names = [table.title for table in run.system.tables(run)]
    assert names[:2] == ["Measures of held-out images", "By class"]


def test_the_worst_confused_are_the_surest_of_the_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    found = np.array([[0.1, 0.9], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8], [0.95, 0.05]])
    true = np.array([0, 1, 1, 0, 1])  # the third is right
    monkeypatch.setattr(recognized, "_shown", lambda *given: given[4].tolist())
    confused: Any = recognized._confused
    assert list(confused(None, "test", found, true)) == [[4, 0, 3, 1]]
    assert not list(confused(None, "test", found, found.argmax(1)))


def test_pictures_say_what_stands_for_names_that_no_font_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(figures, "families", lambda: ("DejaVu Sans",))
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    run = api.fit(
        small(optimizer=Gradient(steps=2)), (images, np.array(["猫", "狗"] * 30)), out=False
    )
    key = "No font of this machine has these names: #1 狗, #2 猫."
    named = ("Confusion matrix", "Least certain images", "Most certain images", "Grad-CAM")
    captions = {p.title: p.caption for p in run.system.pictures(run) if p.title in named}
    assert len(captions) == 4 and all(key in caption for caption in captions.values())
    told = run.explain(examples=1).sentences
    assert key in told and "狗 " in told[0]


def test_weights_are_taken_by_name_and_told(run: Run, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    begun = api.fit(
        small(width=8, optimizer=Gradient(lr=1e-9, steps=1)),
        (images, np.array(["even", "odd"] * 30)),
        from_=run.folder,
        out=tmp_path / "from",
    )
    assert begun.data.classes == ("even", "odd")  # type: ignore[attr-defined]
    theirs, ours = run.model.state_dict(), begun.model.state_dict()
    torch.testing.assert_close(
        ours["stages.0.0.weight"], theirs["stages.0.0.weight"], atol=1e-6, rtol=0
    )
    assert ours["head.4.weight"].shape != theirs["head.4.weight"].shape
    with pytest.raises(UserError, match="none of its weights has the name and shape"):
        api.fit(ResidualNetwork.toy()[0], None, from_=run.folder, out=False)


def test_a_student_learns_from_its_teacher(run: Run, tmp_path: Path) -> None:
    longer = small(dense=32, optimizer=Gradient(lr=1e-2, epochs=6, evaluate_every="50%"))
    student = api.configure(longer, {"teacher": str(run.folder), "weight": 1.0})
    assert student.objective.kind == "distil"  # type: ignore[attr-defined]
    taught = api.fit(student, None, out=tmp_path / "student")
    assert taught.system.objective.fingerprint  # type: ignore[attr-defined]
    again = Run.open(tmp_path / "student")
    assert again.evaluate()["accuracy"] > 0.6  # from its teacher alone
    other = (np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8), ["a", "b"] * 30)
    with pytest.raises(UserError, match="tells the classes 0, 1, .*, the student a, b"):
        api.fit(student, other, out=False)


def test_an_exported_network_says_the_same(run: Run, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    path = run.export(out=tmp_path / "digits.onnx")
    data = run.examples()
    images = data.pixels("test")[:7].numpy()  # type: ignore[attr-defined]
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"images": images})
    frame = run.predict(images)
    assert frame["prediction"].to_list() == [str(i) for i in got.argmax(1)]
    np.testing.assert_allclose(frame["p"].to_numpy(), got.max(1), atol=1e-4)


def test_one_class_only_is_refused() -> None:
    images = np.zeros((20, 8, 8), np.uint8)
    with pytest.raises(UserError, match="one class only"):
        api.fit(small(), (images, ["cat"] * 20), out=False)


@pytest.mark.parametrize("system", [small(stages=4), ResidualNetwork(depth=18)])
def test_images_smaller_than_the_stride_are_refused(system: Recognizer) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
    with pytest.raises(UserError, match=r"4 x 4 pixels .*; --data.size scales the images"):
        api.fit(system, (images, ["a", "b"] * 10), out=False)


def test_classes_that_training_did_not_have_cannot_be_measured(run: Run) -> None:
    images = np.zeros((4, 8, 8), np.uint8)
    with pytest.raises(UserError, match="training had no class cat"):
        run.evaluate((images, ["cat"] * 4))
    assert len(run.predict((images, ["cat"] * 4))) == 4


@pytest.mark.parametrize(
    ("system", "grow"), [(small(), 0.25), (VisionTransformer.toy()[0], 0.5)], ids=["cnn", "vit"]
)
def test_networks_that_take_no_smaller_images_refuse_to_let_them_grow(
    system: Recognizer, grow: float
) -> None:
    data = system.data.model_copy(update={"grow": grow})
    with pytest.raises(
        UserError, match=rf"--data.grow {grow}: training would begin with images of"
    ):
        api.fit(system.model_copy(update={"data": data}), None, out=False)


def test_options_that_a_residual_network_would_not_use_are_refused() -> None:
    with pytest.raises(ValueError, match="norm is of residual blocks; wavemix has no such option"):
        ResidualNetwork(block="wavemix", norm="group")
    with pytest.raises(ValueError, match="shortcut is of residual blocks"):
        ResidualNetwork(block="wavemix", shortcut="none")
    with pytest.raises(ValueError, match="width 6: wavemix expects a multiple of 4"):
        ResidualNetwork(block="wavemix", width=6)
    with pytest.raises(ValueError, match=r"depth 9: expected 6n \+ 2 .* or one of 18, 34, 50"):
        ResidualNetwork(depth=9)
    assert ResidualNetwork(block="wavemix", depth=3, width=8).depth == 3


def test_images_grow_with_the_budget(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watching(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(x.shape[2])
            return self.inner(x)  # type: ignore[no-any-return]

    class Watched(ConvolutionalNetwork):
        def build(self, data: Any) -> nn.Module:
            return Watching(super().build(data))

    data = LabelledImages(batch=32, augment=Unchanged(), grow=0.5)
    options = small().model_dump() | {"data": data, "optimizer": Gradient(steps=12)}
    api.fit(Watched(**options), None, out=False)
    assert seen[0] == 4 and seen[-1] == 8 and seen == sorted(seen)
