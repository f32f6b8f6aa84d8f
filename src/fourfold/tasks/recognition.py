"""What systems that tell classes of images share: their parts, their verbs, what the report shows.

Shapes: N images, C classes, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, PositiveInt
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.types import Explanation, Picture, Score, Source, Table
from fourfold.data.labelled_images import LabelledImageData, LabelledImages
from fourfold.objectives.class_distillation import DistilClasses
from fourfold.objectives.classification import CrossEntropy, Focal
from fourfold.objectives.supervised import Supervised
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.image_features import FeatureLearner
from fourfold.tasks.image_features import image_data as plain_images
from fourfold.tasks.looking import Looking
from fourfold.tasks.transfer import fitting, taken_in_words

if TYPE_CHECKING:
    import polars as pl

Loss = Annotated[CrossEntropy | Focal | DistilClasses, Field(discriminator="kind")]
Average = Literal["none", "flip", "shift"]
"""Views of an image over which predictions are averaged: itself; and mirrored; and moved by a pixel four ways."""


class Recognizer(Looking):
    """A network that tells which class an image is of."""

    begins_from: ClassVar[str] = ""
    """Runs whose networks fit this one, in words, for who tries another."""

    data: LabelledImages = LabelledImages()
    objective: Loss = CrossEntropy()
    """cross-entropy (with label_smoothing and class_weights); focal, for rare classes; distil, from a teacher."""
    optimizer: Gradient = Gradient(lr=3e-3, epochs=20, decay=0.05, warmup=0.1)

    def network(self, data: LabelledImageData, outputs: int) -> nn.Module:
        """The model for these images.

        Args:
            data: of the run.
            outputs: numbers that the objective takes of an image.

        Raises:
            ValueError: the images are too small for it, in a sentence.
        """
        raise NotImplementedError

    def build(self, data: Data) -> nn.Module:
        """See `System.build`.

        Raises:
            UserError: the images are smaller than the network's stride, or would be where they grow.
        """
        if not isinstance(data, LabelledImageData):
            raise TypeError(f"{self.name} expects LabelledImageData, got {type(data).__name__}")
        outputs = cast(Supervised, self.objective).chosen(data.target).outputs(data.target)
        try:
            model = self.network(data, outputs)
        except ValueError as error:
            raise UserError(f"{error}; --data.size scales the images") from error
        self._takes_small_ones(model, data)
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def _takes_small_ones(self, model: nn.Module, data: LabelledImageData) -> None:
        """Refuses images that grow where the network does not take those that training would begin with."""
        if (size := data.grown(0.0)) == data.shape[1:]:
            return
        try:
            with torch.no_grad():
                model.eval()(torch.zeros(1, data.shape[0], *size))
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"--data.grow {data.how.grow:g}: training would begin with images of {size[0]} x {size[1]} pixels, "
                f"which this network does not take"
            ) from error
        model.train()

    @classmethod
    def inherits(cls, other: Run) -> dict[str, Any]:
        """The encoder's shape, and the images', of a run that learned this network without labels."""
        if not isinstance(other.system, FeatureLearner) or other.system.prepares != cls.name:
            return {}
        theirs, shape = other.system.encoder_options(), plain_images(other.data).shape
        own = set(cls.model_fields) - {"data", "objective", "optimizer"}
        taken = {name: theirs[name] for name in sorted(own & set(theirs))}
        size = {"size": shape[1]} if shape[1] == shape[2] else {}
        return {**taken, "data": {**size, "channels": "grey" if shape[0] == 1 else "rgb"}}

    def accepts(self, other: Run) -> None:
        """Refuses an encoder of another kind.

        Raises:
            UserError: the other run learned the network of another system.
        """
        super().accepts(other)
        if isinstance(other.system, FeatureLearner) and other.system.prepares != self.name:
            fits = other.system.prepares
            raise UserError(
                f"--from {other.folder}: a run of {other.system.name}, whose encoder is the network of {fits}; "
                f"fit {fits} --from it, or begin {self.name} from a run of {self.begins_from}"
            )

    def take_over(self, model: nn.Module, other: Run) -> None:
        """Weights by name from any run: what has the same name and shape is taken, the rest begins anew."""
        model.load_state_dict(fitting(model, other), strict=False)

    def suited(self, run: Run) -> Self:
        """Names a teacher by its place and the fingerprint of its weights."""
        chosen = super().suited(run)
        if not isinstance(self.objective, DistilClasses):
            return chosen
        objective = self.objective.named()
        run.note(
            f"Learns from {objective.teacher} (fingerprint {str(objective.fingerprint)[:12]}), "
            f"temperature {objective.temperature:g}."
        )
        return chosen.model_copy(update={"objective": objective})

    def begin(self, run: Run) -> None:
        """Says which weights were taken from another run."""
        super().begin(run)
        if origin := run.about.get("from"):
            run.note(taken_in_words(run.model, Run.open(origin)))

    def advance(self, run: Run, progress: float) -> tuple[nn.Parameter, ...]:
        """Tells the data how far the search is, by which images grow."""
        if isinstance(run.data, LabelledImageData):
            run.data.progress = progress
        return ()

    # --- verbs -----------------------------------------------------------------------------------------

    def predict(
        self, run: Run, source: Source, *, top: PositiveInt = 1, average: Average = "none"
    ) -> pl.DataFrame:
        """The likeliest classes of each image, with their probabilities.

        Args:
            source: images: files, globs, folders, archives, lists or arrays.
            top: how many classes of each.
            average: views of each image over which probabilities are averaged: flip, itself and mirrored; shift,
                those moved by a pixel four ways too.
        """
        from fourfold.tasks.recognizing import predicted

        return predicted(run, source, top, average)

    def evaluate(self, run: Run, source: Source = None, *, average: Average = "none") -> Score:
        """The field's measures of classes, on the run's own test split or on other images.

        Args:
            source: images with their classes, as for fit.
            average: views of each image over which probabilities are averaged, as for predict.
        """
        from fourfold.tasks.recognizing import evaluated

        return evaluated(run, source, average)

    def explain(  # type: ignore[override]  # a picture, where other systems explain a batch of anything
        self, run: Run, source: Source = None, *, examples: PositiveInt = 4, top: PositiveInt = 3
    ) -> Explanation:
        """Why images are taken for what they are: Grad-CAM, feature maps layer by layer, filters.

        Args:
            source: images; None takes the run's own held-out ones.
            examples: how many of them at most.
            top: classes whose places are drawn.
        """
        from fourfold.tasks.seeing import explained

        return explained(run, source, examples, top)

    def export(self, run: Run, *, to: Literal["onnx"] = "onnx", out: Path | None = None) -> Path:
        """Write the network with its preprocessing as one ONNX file: bytes of images in, probabilities out.

        Args:
            to: the format.
            out: the file; by default model.onnx in the run's folder.
        """
        from fourfold.tasks.image_export import export

        return export(run, out)

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Predictions of held-out images, those confused, certain and not; what the network sees."""
        from fourfold.tasks.recognized import pictures

        yield from pictures(run)

    def tables(self, run: Run) -> Iterator[Table]:
        """Measures of the held-out images, and of each class."""
        from fourfold.tasks.recognized import tables

        yield from tables(run)


def image_data(run: Run) -> LabelledImageData:
    """The run's data, as what they are."""
    data: Any = run.data
    return cast(LabelledImageData, data)
