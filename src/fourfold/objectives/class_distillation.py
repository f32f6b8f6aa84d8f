"""Classes as a teacher tells them apart: Hinton, Vinyals and Dean 2015, https://arxiv.org/abs/1503.02531.

Shapes: B rows, C classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from annotated_types import Ge, Le
from pydantic import PositiveFloat, PrivateAttr, field_validator
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Move
from fourfold.core.run import Run
from fourfold.objectives.classification import CrossEntropy, log_probabilities
from fourfold.objectives.distillation import named_teacher, opened_teacher, soft_targets


class DistilClasses(CrossEntropy):
    """(1 - weight) cross-entropy + weight T^2 KL(teacher || student), both softened by the temperature T.

    The teacher is a run that tells the same classes of the same kind of examples. Its weights are neither trained
    nor kept by the student's run. Measured is the cross-entropy, as without a teacher.
    """

    kind: Literal["distil"] = "distil"  # type: ignore[assignment]
    chosen_by: ClassVar[frozenset[str]] = frozenset({"teacher"})
    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = (("teacher", "fingerprint"),)

    teacher: str | None = None
    """Run to learn from. Given alone it chooses this objective."""
    fingerprint: str | None = None
    """SHA-256 of the teacher's weights, noted by the fit: going on with another teacher is refused."""
    temperature: PositiveFloat = 4.0
    """Softens both distributions before they are compared."""
    weight: Annotated[float, Ge(0), Le(1)] = 0.7
    """Share of the soft targets in the loss; the rest is cross-entropy."""
    _teacher: Any = PrivateAttr(None)  # the teacher's run

    @field_validator("teacher", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    def named(self) -> Self:
        """With the teacher's absolute path and fingerprint, as a run keeps it.

        Raises:
            UserError: there is no such run, it has no weights, or they are others than were asked for.
        """
        return self.model_copy(update=named_teacher(self.teacher, self.fingerprint))

    def _open(self, device: str | None) -> Run:
        return opened_teacher(self.teacher, device)

    def prepare(self, run: Run) -> Self:
        """Opens the teacher; see `Objective.prepare`.

        Raises:
            UserError: no such run, its weights have changed, or it does not tell the student's classes.
        """
        fresh = super().prepare(run)
        fresh._teacher = None
        if self.weight == 0:
            return fresh
        self.named()
        teacher = self._open(str(run.device))
        ours, theirs = (getattr(r.data, "target", None) for r in (run, teacher))
        if theirs is None or ours is None or theirs.classes != ours.classes:
            said = "no classes" if theirs is None else f"the classes {', '.join(theirs.classes)}"
            raise UserError(
                f"--teacher {self.teacher}: tells {said}, the student {', '.join(ours.classes if ours else ())}"
            )
        shapes = [getattr(r.data, "shape", None) for r in (run, teacher)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"--teacher {self.teacher}: reads images {shapes[1]}, the student {shapes[0]}; "
                "--data.size and --data.channels make them alike"
            )
        teacher.model.requires_grad_(False).eval()
        fresh._teacher = teacher
        return fresh

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """One move of the whole model: the mixture, summed over the rows that count."""
        outputs = self._given(model, batch)
        move = self._move(outputs, batch)
        if self._teacher is None:
            if self.weight > 0:
                raise ValueError("DistilClasses asks its teacher once it is prepared")
            yield move
            return
        with torch.no_grad():
            told = _logits(self._teacher.model(batch["features"]).float())
        counts = torch.ones(len(told), dtype=torch.bool, device=told.device)
        soft = soft_targets(_logits(outputs), lambda rows: told[rows], counts, self.temperature)
        # the mean over the rows, whatever the hard targets' weights are
        scaled = soft * (torch.as_tensor(move.weight) / len(told))
        total = (1 - self.weight) * move.loss + self.weight * scaled
        logs = {
            "cross_entropy": move.loss.detach() / torch.as_tensor(move.weight).clamp(min=1e-9),
            "soft": soft.detach() / len(told),
        }
        yield Move("model", total, move.weight, logs)


def _logits(outputs: Tensor) -> Tensor:
    """One logit for each class; of two classes the outputs are the log-odds of the second."""
    return log_probabilities(outputs) if outputs.shape[1] == 1 else outputs
