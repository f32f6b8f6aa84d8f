"""Learning from preferences: which of two answers is better, or whether one is good.

Reward model: Bradley and Terry 1952, in the form of Ouyang et al. 2022, https://arxiv.org/abs/2203.02155. DPO: Rafailov
et al. 2023, https://arxiv.org/abs/2305.18290; IPO: Azar et al. 2023, https://arxiv.org/abs/2310.12036, with log-probabilities
averaged over an answer's tokens, as its authors confirmed; KTO: Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306.

A batch holds N sequences, each a prompt and an answer, packed into R rows of T tokens: see `Sequences`. Pair p is the
sequences 2p (chosen) and 2p + 1 (rejected). P pairs, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.run import Run
from fourfold.objectives.reference import reference_model, wide

IGNORE = -100


class Sequences(NamedTuple):
    """What a model makes of the answers of a batch."""

    log_probs: Tensor
    """(N,) sums over each answer's tokens of log p, in nats."""
    lengths: Tensor
    """(N,) tokens of each answer that count."""


def sequence_log_probs(model: nn.Module, batch: Batch, sequences: int) -> Sequences:
    """log p of each answer given its prompt.

    Logits are made at the answers' tokens only.

    Args:
        model: has `states(tokens, segments=)`, (R, T, W), and `head`, (..., W) to (..., V).
        batch: "tokens" and "targets", (R, T) int64, targets -100 where they are no answer's; "segments", (R, T)
            int64, the sequence that a position belongs to; N or more where it is padding.
        sequences: N.
    """
    tokens, targets, owners = batch["tokens"], batch["targets"], batch["segments"]
    counted = targets != IGNORE
    states = model.states(tokens, segments=owners)[counted]  # type: ignore[operator]
    logits = wide(model.head(states))  # type: ignore[operator]
    each = -F.cross_entropy(logits, targets[counted], reduction="none")
    whose = owners[counted]
    zeros = each.new_zeros(sequences)
    return Sequences(
        zeros.index_add(0, whose, each), zeros.index_add(0, whose, torch.ones_like(each))
    )


# --- the formulas -------------------------------------------------------------------------------------


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """-log sigmoid(r_chosen - r_rejected - margin), (P,) in nats, of rewards (P,)."""
    return -F.logsigmoid(chosen - rejected - margin)


def dpo(chosen: Tensor, rejected: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """DPO's loss of each pair, in nats.

    Args:
        chosen: (P,) log p / p_ref of the chosen answers.
        rejected: (P,) of the rejected ones.
        beta: weight of the divergence from the reference.
        smoothing: probability that a preference is the wrong way round (conservative DPO: Mitchell 2023).
    """
    margin = beta * (chosen - rejected)
    return -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)


def ipo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """IPO's squared distance of the margin from 1 / (2 beta); arguments as `dpo`, but means over an answer's tokens."""
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def kto(ratios: Tensor, good: Tensor, baseline: Tensor, beta: float) -> Tensor:
    """KTO's loss of each answer: 1 - sigmoid(beta (log ratio - z)) of a good one, 1 - sigmoid(beta (z - log ratio)) of a bad one.

    Args:
        ratios: (N,) log p / p_ref.
        good: (N,) bool.
        baseline: () z, the divergence from the reference, at least 0; a constant.
        beta: weight of the divergence.
    """
    sign = good.to(ratios.dtype) * 2 - 1
    return 1 - torch.sigmoid(sign * beta * (ratios - baseline))


# --- objectives ---------------------------------------------------------------------------------------


class RewardLoss(Objective):
    """Bradley and Terry's likelihood of the preferred answers, by the rewards at the answers' last tokens.

    The model maps a batch to rewards (N,); "margins", (P,) float, are how much better the chosen answers are
    (Touvron et al. 2023, llama 2), where the data says so.
    """

    kind: Literal["bradley-terry"] = "bradley-terry"
    center: NonNegativeFloat = 0.0
    """Weight of (r_chosen + r_rejected)^2, which keeps rewards around zero (Eisenstein et al. 2023)."""

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"loss": "nats per pair"}

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """One move of the whole model: nats, summed over the pairs."""
        chosen, rejected = wide(model(batch)).view(-1, 2).unbind(1)
        total = bradley_terry(chosen, rejected, batch["margins"]).sum()
        if self.center:
            total = total + self.center * (chosen + rejected).square().sum()
        margin = (chosen - rejected).detach()
        logs = {"accuracy": (margin > 0).double().mean(), "margin": margin.mean()}
        yield Move("model", total, weight=len(chosen), logs=logs)

    def measure(self, model: nn.Module, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor | float | None]]:  # fmt: skip
        """Loss, and the share of pairs in which the chosen answer has the higher reward (a tie is half)."""
        chosen, rejected = wide(model(batch)).view(-1, 2).unbind(1)
        pairs = float(len(chosen))
        right = (chosen > rejected).double() + 0.5 * (chosen == rejected).double()
        return {
            "loss": (bradley_terry(chosen, rejected, batch["margins"]).sum(), pairs),
            "accuracy": (right.sum(), pairs),
        }


class Against(Objective):
    """Base of the objectives that compare a policy with a frozen reference."""

    beta: PositiveFloat = 0.1
    """Weight of the divergence from the reference: the smaller, the further the policy may go."""
    reference: str | None = None
    """Run of the reference; None takes the run that is begun from."""

    def prepare(self, run: Run) -> Objective:
        """See `Objective.prepare`: opens the reference."""
        fresh = self.model_copy()
        object.__setattr__(fresh, "_model", reference_model(run, self.reference))
        return fresh

    def ratios(self, model: nn.Module, batch: Batch, sequences: int) -> tuple[Tensor, Tensor]:
        """log p / p_ref of each answer, (N,), and their lengths."""
        own = sequence_log_probs(model, batch, sequences)
        with torch.no_grad():
            before = sequence_log_probs(self._model, batch, sequences)  # type: ignore[attr-defined]
        return own.log_probs - before.log_probs, own.lengths

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """One move of the whole model."""
        loss, chosen, rejected = self.compared(model, batch)
        margin = (chosen - rejected).detach()  # in nats, as `measure` has it
        logs = {
            "accuracy": (margin > 0).double().mean(), "margin": margin.mean(),
            "chosen": self.beta * chosen.detach().mean(), "rejected": self.beta * rejected.detach().mean(),
        }  # fmt: skip
        yield Move("model", loss.sum(), weight=len(loss), logs=logs)

    def measure(self, model: nn.Module, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor | float | None]]:  # fmt: skip
        """Loss, the share of pairs whose chosen answer gained more on the reference, and by how much, in nats."""
        loss, chosen, rejected = self.compared(model, batch)
        pairs, margin = float(len(chosen)), chosen - rejected
        right = (margin > 0).double() + 0.5 * (margin == 0).double()
        return {
            "loss": (loss.sum(), float(len(loss))),
            "accuracy": (right.sum(), pairs),
            "margin": (margin.sum(), pairs),
        }

    @abstractmethod
    def compared(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The losses, (P,) or (N,), and log p / p_ref of the chosen and of the rejected answers, (P,) each."""


class DPO(Against):
    """Direct preference optimization: the policy is its own reward model, beta log p / p_ref."""

    kind: Literal["dpo"] = "dpo"
    smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    """Probability that a preference in the data is the wrong way round."""

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"loss": "nats per pair", "margin": "nats"}

    def compared(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """See `Against.compared`."""
        ratios, _ = self.ratios(model, batch, 2 * len(batch["margins"]))
        chosen, rejected = ratios.view(-1, 2).unbind(1)
        return dpo(chosen, rejected, self.beta, self.smoothing), chosen, rejected


class IPO(Against):
    """Identity preference optimization: the margin is drawn to 1 / (2 beta), so that sure preferences do not run away."""

    kind: Literal["ipo"] = "ipo"

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"loss": "squared nats per pair", "margin": "nats a token"}

    def compared(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """See `Against.compared`; means over an answer's tokens."""
        ratios, lengths = self.ratios(model, batch, 2 * len(batch["margins"]))
        chosen, rejected = (ratios / lengths).view(-1, 2).unbind(1)
        return ipo(chosen, rejected, self.beta), chosen, rejected


class KTO(Against):
    """Kahneman-Tversky optimization: answers are good or bad by themselves, against what the policy has moved on average.

    A batch also holds prompts with answers to others, P sequences packed as "other_tokens", "other_targets" and
    "other_segments": their mean log p / p_ref, at least 0 and without gradient, is the baseline z. It is taken over
    the batch: smaller batches make it noisier.
    """

    kind: Literal["kto"] = "kto"
    good: PositiveFloat = 1.0
    """Weight of good answers."""
    bad: PositiveFloat = 1.0
    """Weight of bad answers."""

    def compared(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """See `Against.compared`; one loss an answer."""
        pairs = len(batch["margins"])
        if "other_tokens" not in batch:
            raise ValueError("KTO expects prompts with the answers to others in the batch")
        others = {name: batch[f"other_{name}"] for name in ("tokens", "targets", "segments")}
        with torch.no_grad():
            baseline = self.ratios(model, others, pairs)[0].mean().clamp(min=0)
        mine, _ = self.ratios(model, batch, 2 * pairs)
        good = torch.arange(2 * pairs, device=mine.device) % 2 == 0
        weight = torch.where(good, self.good, self.bad)
        chosen, rejected = mine.view(-1, 2).unbind(1)
        return weight * kto(mine, good, baseline, self.beta), chosen, rejected
