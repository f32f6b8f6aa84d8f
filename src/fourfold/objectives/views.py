"""Two views of each example are told apart from those of others: SimCLR, Chen et al. 2020,
https://arxiv.org/abs/2002.05709; with classes: Khosla et al. 2020, https://arxiv.org/abs/2004.11362.

The model maps images to embeddings (2 B, D), of which only the directions are compared. Both views pass through it at
once, so that batch normalization sees them together, as the paper has it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Move, Objective
from fourfold.objectives.contrastive import nt_xent, supervised_contrastive

if TYPE_CHECKING:
    from fourfold.core.run import Run


class Views(Objective):
    """A loss of batch["image"] and batch["second"], (B, C, H, W), views of the same examples."""

    compares: ClassVar[bool] = True

    temperature: PositiveFloat = 0.5
    """Of the cosines: the lower, the more the likest of the others count."""

    higher: ClassVar[frozenset[str]] = frozenset({"told"})

    def prepare(self, run: Run) -> Self:
        """See `Objective.prepare`.

        Raises:
            UserError: batches, or the validation split, hold one image, which has no other to be told from.
        """
        data: Any = run.data
        if data.size("train") and data.batch < 2:
            raise UserError(
                "--data.batch 1: views are told from those of other images; expected at least 2"
            )
        if data.size("valid") == 1:
            raise UserError(
                "the validation split holds 1 image, which has no other to be told from: expected none or at least 2; "
                "--data.split 0.8,0.2,0 makes it larger"
            )
        return self.model_copy()

    @abstractmethod
    def of(self, first: Tensor, second: Tensor, batch: Batch) -> tuple[Tensor, Tensor | float]:
        """The sum over the views that count, and how many do.

        Args:
            first, second: (B, D) embeddings of the views.
            batch: whose they are.
        """

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        yield Move("model", *self.of(*_embeddings(model, batch), batch))

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float | None]]:
        """See `Objective.measure`; `told` is the share of views whose nearest other view is their twin."""
        first, second = _embeddings(model, batch)
        both = F.normalize(torch.cat([first, second]).float(), dim=1)
        likeness = both @ both.T
        likeness.fill_diagonal_(-torch.inf)
        twins = torch.arange(len(both), device=both.device).roll(len(first))
        told = (likeness.argmax(1) == twins).sum()
        if len(first) < 2:  # the last batch of a split: it measures nothing
            return {"loss": (told * 0.0, 0.0), "told": (told * 0.0, 0.0)}
        return {"loss": self.of(first, second, batch), "told": (told, len(both))}

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"loss": "nats"}


class TwinViews(Views):
    """NT-Xent: each of 2 B views has to tell its twin from the other 2 B - 2; needs no labels."""

    kind: Literal["nt-xent"] = "nt-xent"

    def of(self, first: Tensor, second: Tensor, batch: Batch) -> tuple[Tensor, Tensor | float]:
        """See `Views.of`: all 2 B views count."""
        if (
            len(first) < 2
        ):  # one alone has nothing to be told from: nothing to learn, as the formula says
            return (first + second).float().sum() * 0.0, 2.0 * len(first)
        return nt_xent(first, second, self.temperature), 2.0 * len(first)


class ClassViews(Views):
    """Supervised contrastive: each view has to tell those of its class, its twin among them, from all others."""

    kind: Literal["supervised"] = "supervised"
    temperature: PositiveFloat = 0.1
    """Of the cosines: the lower, the more the likest of the others count."""

    def prepare(self, run: Run) -> Self:
        """See `Objective.prepare`.

        Raises:
            UserError: the images have no classes.
        """
        if run.data.size("train") and not getattr(run.data, "labelled", False):
            raise UserError(
                "--objective supervised needs a class of each image, and these have none; "
                "--objective nt-xent does without"
            )
        return super().prepare(run)

    def of(self, first: Tensor, second: Tensor, batch: Batch) -> tuple[Tensor, Tensor | float]:
        """See `Views.of`: all 2 B views count, as each has its twin."""
        labels = batch["label"].repeat(2)
        return supervised_contrastive(torch.cat([first, second]), labels, self.temperature)


def _embeddings(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    both = model(torch.cat([batch["image"], batch["second"]]))
    first, second = both.chunk(2)
    return first, second
