"""Learning from a teacher: soft targets, Hinton, Vinyals & Dean 2015; hidden states, Romero et al. 2015 and Jiao et al. 2020
(TinyBERT); what the teacher writes, Kim & Rush 2016.

Shapes: B batch, T time, N = B T positions, V vocabulary, W width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, PrivateAttr, field_validator
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Move
from fourfold.core.run import Run
from fourfold.core.state import weights_digest
from fourfold.objectives.likelihood import NextToken, beside, cross_entropy

LOGITS = 1 << 22
"""Logits of the teacher that are there at a time, in float32."""

Rows = Callable[[slice], Tensor]
"""The teacher's logits (n, V) of some of the N positions."""


class _SoftTargets(Function):
    """Summed T^2 KL(teacher || student) of softened distributions, differentiated while a chunk is at hand."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, teacher: Rows, counts: Tensor, temperature: float
    ) -> Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        grad = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        total = logits.new_zeros((), dtype=wide)
        step = max(1, LOGITS // logits.shape[-1])
        for rows in (slice(i, i + step) for i in range(0, len(logits), step)):
            kept = counts[rows].to(wide).unsqueeze(-1)
            said = (logits[rows].to(wide) / temperature).log_softmax(-1)
            wanted = (teacher(rows).to(wide) / temperature).log_softmax(-1)
            shares = wanted.exp()
            # an entry that the teacher excludes (-inf) contributes nothing
            terms = torch.where(shares > 0, shares * (wanted - said), 0)
            total += temperature**2 * (terms * kept).sum()
            if grad is not None:
                # of T^2 KL with respect to logits that were divided by T
                grad[rows] = (said.exp() - shares).mul_(temperature * kept)
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (kept,) = ctx.saved_tensors
        return kept * grad.to(kept.dtype), None, None, None


def soft_targets(logits: Tensor, teacher: Rows, counts: Tensor, temperature: float) -> Tensor:
    """Summed T^2 KL(softmax(teacher / T) || softmax(logits / T)), in nats.

    The factor keeps the gradient's size as T changes (Hinton et al. 2015, section 2).

    Args:
        logits: (N, V) float, the student's.
        teacher: gives the teacher's logits of a slice of the positions; asked for a chunk at a time.
        counts: (N,) bool, positions that count.
        temperature: T, above 0.

    Returns:
        () float32, or float64 where the logits are.
    """
    return cast(Tensor, _SoftTargets.apply(logits, teacher, counts, temperature))


class Bridge(nn.Module):
    """Learned maps from the student's states to the teacher's width; identities where the widths agree.

    They are trained with the student, of which they are a child, and are no part of its weights: its state has
    none of them, the objective's has.
    """

    def __init__(self, inside: int, outside: int, layers: int) -> None:
        super().__init__()
        self.layers, self.same = layers, inside == outside
        for layer in range(0 if self.same else layers):
            drawn = nn.Linear(inside, outside, bias=False).weight
            self.register_parameter(f"map_{layer}", nn.Parameter(drawn.detach()))

    def forward(self, layer: int, states: Tensor) -> Tensor:
        """A layer's states (..., W) in the teacher's width."""
        return states if self.same else F.linear(states, self.get_parameter(f"map_{layer}"))

    def weights(self) -> dict[str, Tensor]:
        """By name."""
        return {name: p.detach() for name, p in self.named_parameters()}

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing of its own: see the class."""
        return kwargs.get("destination", {}) or {}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is asked of the student's weights."""

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """See `weights`."""
        raise TypeError("a bridge's weights are in the objective's state")


class _Opened:
    """The teacher of one run, what was seen of hidden states, and the bridge; shared by copies of the objective."""

    def __init__(self, teacher: nn.Module, student: nn.Module | None) -> None:
        self.teacher = teacher
        self.bridge: Bridge | None = None
        self.seen: dict[str, dict[int, Tensor]] = {"student": {}, "teacher": {}}
        self.pairs: list[tuple[int, int]] = []
        if student is not None:
            self._join(student)

    def __deepcopy__(self, memo: Any) -> _Opened:
        return self

    def _join(self, student: nn.Module) -> None:
        """Listen to the layers: the student's i-th of n answers to the teacher's at i / n of its depth."""
        ours, theirs = _blocks(student), _blocks(self.teacher)
        count = len(ours)
        self.pairs = [(i, -(-(i + 1) * len(theirs) // count) - 1) for i in range(count)]
        for name, blocks, some in (
            ("student", ours, [s for s, _ in self.pairs]),
            ("teacher", theirs, [t for _, t in self.pairs]),
        ):
            for i in dict.fromkeys(some):
                blocks[i].register_forward_hook(self._listener(name, i))
        widths = [int(m.width) for m in (student, self.teacher)]  # type: ignore[arg-type]
        self.bridge = Bridge(widths[0], widths[1], count).to(next(student.parameters()))
        student.add_module("bridge", self.bridge)

    def _listener(self, name: str, layer: int) -> Any:
        seen = self.seen[name]

        def listen(module: nn.Module, given: Any, said: Tensor) -> None:
            seen[layer] = said

        return listen

    def distance(self, counts: Tensor) -> Tensor:
        """Summed over positions: mean square difference of states of length one a feature, mean over the layers."""
        assert self.bridge is not None  # noqa: S101
        if len(self.seen["student"]) < len(self.pairs):
            raise ValueError(
                "the student's layers were not heard: its forward must call its blocks"
            )
        total: Any = 0.0
        for layer, (ours, theirs) in enumerate(self.pairs):
            said = self.bridge(layer, _unit(self.seen["student"][ours]))
            wanted = _unit(self.seen["teacher"][theirs].detach())
            each = (said.to(wanted.dtype) - wanted).square().mean(-1)
            total = total + (each * counts.view(each.shape)).sum()
        self.seen["student"].clear()
        self.seen["teacher"].clear()
        return cast(Tensor, total / len(self.pairs))


def _blocks(model: nn.Module) -> nn.ModuleList:
    found = getattr(model, "blocks", None)
    if not isinstance(found, nn.ModuleList) or not hasattr(model, "width"):
        raise UserError(
            f"--objective.how hidden: {type(model).__name__} has no row of layers to compare; take how soft"
        )
    return found


def _unit(states: Tensor) -> Tensor:
    """States (..., W) scaled to mean square 1: only directions are compared, as depths differ in size."""
    wide = states.to(torch.promote_types(states.dtype, torch.float32))
    return F.rms_norm(wide, wide.shape[-1:])


def opened_teacher(teacher: str | None, device: str | None) -> Run:
    """The run to learn from.

    Raises:
        UserError: none is named, or there is no such run.
    """
    if teacher is None:
        raise UserError("--objective distil: expected a run to learn from; --teacher names it")
    return Run.open(teacher, device=device)


def named_teacher(teacher: str | None, fingerprint: str | None) -> dict[str, str]:
    """Where a teacher is, and the digest of its weights: what an objective keeps of it.

    Raises:
        UserError: there is no such run, it has no weights, or they are others than `fingerprint`.
    """
    folder = opened_teacher(teacher, None).folder
    assert folder is not None  # noqa: S101
    digest = weights_digest(folder / "weights.safetensors")
    if fingerprint not in (None, digest):
        raise UserError(
            f"--teacher {teacher}: its weights are not those that were asked for "
            f"(fingerprint {digest[:12]}, expected {str(fingerprint)[:12]})"
        )
    return {"teacher": str(Path(folder).resolve()), "fingerprint": digest}


class Distil(NextToken):
    """The next token as a teacher expects it, beside the one that came.

    soft: (1 - weight) cross-entropy + weight T^2 KL(teacher || student), both softened by the temperature T.
    hidden: beside it the mean square difference of hidden states, through a learned map where the widths differ.
    sequence: cross-entropy alone, on texts that the teacher wrote before the training.

    The teacher is a run with the same vocabulary, whose model maps tokens (B, T) to logits (B, T, V). Its weights
    are neither trained nor kept by the student's run. Measured is the cross-entropy, as without a teacher.
    """

    kind: Literal["distil"] = "distil"  # type: ignore[assignment]
    chosen_by: ClassVar[frozenset[str]] = frozenset({"teacher"})
    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = (("teacher", "fingerprint"),)

    teacher: str | None = None
    """Run to learn from; its vocabulary is taken over. Given alone it chooses this objective."""
    fingerprint: str | None = None
    """SHA-256 of the teacher's weights, noted by the fit: going on with another teacher is refused."""
    how: Literal["soft", "hidden", "sequence"] = "soft"
    """What is learned from the teacher: its distributions, its hidden states beside them, or what it writes."""
    temperature: PositiveFloat = 2.0
    """Softens both distributions before they are compared."""
    weight: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of the soft targets in the loss; the rest is cross-entropy. 0 with soft is training without a teacher."""
    hidden_weight: NonNegativeFloat = 1.0
    """Of how hidden: weight of the difference of hidden states."""
    sequences: PositiveInt = 1000
    """Of how sequence: texts that the teacher writes, each of a window's length."""
    _opened: Any = PrivateAttr(None)

    @field_validator("teacher", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    def named(self) -> Self:
        """With the teacher's absolute path and fingerprint, as a run keeps it.

        Raises:
            UserError: there is no such run, or it has no weights.
        """
        return self.model_copy(update=named_teacher(self.teacher, self.fingerprint))

    def _run(self, device: str | None) -> Run:
        return opened_teacher(self.teacher, device)

    def prepare(self, run: Run) -> Self:
        """Opens the teacher; see `Objective.prepare`.

        Raises:
            UserError: no such run, its weights have changed, or it does not read the student's tokens.
        """
        fresh = cast(Self, super().prepare(run))
        fresh._opened = None
        if not self._listens:
            return fresh
        self.named()
        teacher = self._run(str(run.device))
        _check_vocabulary(teacher, run)
        model = teacher.model.requires_grad_(False)
        most, needed = getattr(model, "window", None), getattr(run.model, "window", 0)
        if most is not None and most < needed:
            raise UserError(
                f"--teacher {teacher.folder}: reads {most} tokens at once, the student {needed}; --data.window {most} or less fits"
            )
        _check_logits(model, teacher, run.device)
        fresh._opened = _Opened(model, run.model if self._matches else None)
        return fresh

    @property
    def _listens(self) -> bool:
        """Whether the teacher is asked while training."""
        return self.how != "sequence" and (self.weight > 0 or self._matches)

    @property
    def _matches(self) -> bool:
        return self.how == "hidden" and self.hidden_weight > 0

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"loss": "nats per token", "divergence": "nats per token"}

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """One move of the whole model: the mixture, summed over the tokens that count."""
        if not self._listens:
            yield from super().losses(model, batch)
            return
        logits, targets = self.logits(model, batch)
        counts = targets != self.ignore
        hard = cross_entropy(logits, targets, self.ignore)
        weight = counts.sum()
        some = weight.clamp(min=1)  # a step of weight 0 is refused by the loop, in a sentence
        total, logs = (1 - self.weight) * hard, {"cross_entropy": hard.detach() / some}
        teacher = self._asked(batch)
        if self.weight > 0:
            soft = soft_targets(logits, teacher, counts, self.temperature)
            total = total + self.weight * soft
            logs["soft"] = soft.detach() / some
        if self._matches:
            apart = self._opened.distance(counts)
            total = total + self.hidden_weight * apart
            logs["hidden"] = apart.detach() / some
        yield Move("model", total, weight, logs)

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float | None]]:
        """Cross-entropy, and KL(teacher || student) of the distributions as they are."""
        logits, targets = self.logits(model, batch)
        counts = targets != self.ignore
        weight = counts.sum()
        found: dict[str, tuple[Tensor, Tensor | float | None]] = {
            "loss": (cross_entropy(logits, targets, self.ignore), weight)
        }
        if self._listens:
            found["divergence"] = soft_targets(logits, self._asked(batch), counts, 1.0), weight
        return found

    def _asked(self, batch: Batch) -> Rows:
        """The teacher's logits of this batch, a chunk of positions at a time; its states are there whole."""
        if self._opened is None:
            raise ValueError("Distil asks its teacher once it is prepared: objective.prepare(run)")
        model, given = self._opened.teacher, beside(batch)
        with torch.no_grad():
            if hasattr(model, "states") and hasattr(model, "head"):
                states = model.states(batch["tokens"], **given).flatten(0, 1)  # (N, W)
                return lambda rows: model.head(states[rows])
            logits = model(batch["tokens"], **given).flatten(0, 1)
        return lambda rows: logits[rows]

    def state_dict(self) -> dict[str, Any]:
        """The bridge between hidden states; nothing of the teacher."""
        bridge = self._opened.bridge if self._opened is not None else None
        return {} if bridge is None else {"bridge": bridge.weights()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Objective.load_state_dict`."""
        with torch.no_grad():
            for name, weight in state.get("bridge", {}).items():
                self._opened.bridge.get_parameter(name).copy_(weight)


def _check_vocabulary(teacher: Run, run: Run) -> None:
    theirs = getattr(teacher.data, "vocabulary", None)
    ours = getattr(run.data, "vocabulary", None)
    if theirs is None:
        raise UserError(
            f"--teacher {teacher.folder}: a run of {teacher.system.name} has no vocabulary"
        )
    if ours is None or theirs.digest != ours.digest:
        said = "none" if ours is None else f"{len(ours):,} entries (unit {ours.unit})"
        raise UserError(
            f"--teacher {teacher.folder}: its vocabulary has {len(theirs):,} entries (unit {theirs.unit}), the student's "
            f"{said}, and they are not the same; a student reads its teacher's tokens: leave out the options of the "
            "vocabulary, and --from with a run of another one"
        )


def _check_logits(model: nn.Module, teacher: Run, device: torch.device) -> None:
    """Refuse what says no logits of every position."""
    vocabulary = len(teacher.data.vocabulary)  # type: ignore[attr-defined]
    try:
        with torch.no_grad():
            said = model(torch.zeros(1, 2, dtype=torch.int64, device=device))
    except (TypeError, ValueError, RuntimeError):
        said = None
    if not isinstance(said, Tensor) or said.shape != (1, 2, vocabulary):
        raise UserError(
            f"--teacher {teacher.folder}: a run of {teacher.system.name} does not say logits of every token; runs of gpt do"
        )
