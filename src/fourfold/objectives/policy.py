"""Policy gradients for models that answer, and are rewarded for the whole of an answer.

PPO: Schulman et al. 2017, https://arxiv.org/abs/1707.06347, with generalised advantages: Schulman et al. 2016,
https://arxiv.org/abs/1506.02438, and the divergence from a reference in the reward: Ziegler et al. 2019,
https://arxiv.org/abs/1909.08593. GRPO: Shao et al. 2024, https://arxiv.org/abs/2402.03300. RLOO: Ahmadian et al. 2024,
https://arxiv.org/abs/2402.14740. Estimators of the divergence: Schulman 2020, http://joschu.net/blog/kl-approx.html.

N answers, packed into R rows of T positions; what belongs to an answer's token stands at the position that predicts
it, and is 0 elsewhere. G groups of answers to one prompt, n each; M tokens of answers in a batch.

Where the divergence from the reference stands decides what is minimized. As a term of the loss, k2 has the gradient
of KL(p | reference), k3 in expectation that of KL(reference | p), and k1 none at all; so k2 is the default here, where
GRPO's paper has k3. In the reward, k1 is right, and PPO and RLOO have it there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.run import Run
from fourfold.objectives.reference import reference_model, wide

IGNORE = -100
Estimator = Literal["k1", "k2", "k3"]
ROWS = 16
"""Rows of a roll-out that are looked at at once."""
HORIZON, MOST = 0.1, 0.2
"""How fast an adaptive weight follows: by this share of the relative error, which counts up to MOST (Ziegler et al. 2019)."""


# --- the formulas -------------------------------------------------------------------------------------


def surrogate(log_probs: Tensor, before: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """PPO's clipped surrogate as a loss: -min(ratio A, clamp(ratio, 1 - clip, 1 + clip) A), ratio = p / p_before.

    Args:
        log_probs: (M,) of the tokens now, in nats.
        before: (M,) when they were drawn.
        advantages: (M,).
        clip: how far from 1 a ratio still pays.
    """
    ratio = (log_probs - before).exp()
    return -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def value_loss(values: Tensor, before: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error of values, (M,); the worse of it and of that with the value held near what it was."""
    near = before + (values - before).clamp(-clip, clip)
    return 0.5 * torch.max((values - returns) ** 2, (near - returns) ** 2)


def divergence(log_probs: Tensor, reference: Tensor, estimator: Estimator = "k2") -> Tensor:  # fmt: skip
    """Estimates of KL(p | reference) from tokens drawn from p: means of these, (M,) in nats.

    k1 is unbiased and may be negative; k2 has a bias and little variance; k3 is unbiased and never negative.
    """
    difference = reference - log_probs
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return 0.5 * difference**2
    return torch.expm1(difference) - difference


def generalised_advantages(rewards: Tensor, values: Tensor, gamma: float, gae_lambda: float) -> Tensor:  # fmt: skip
    """A_t = sum_l (gamma lambda)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t, of one answer.

    Args:
        rewards: (L,) after each token.
        values: (L,) before each token; after the last there is nothing to come.
    """
    following = torch.cat([values[1:], values.new_zeros(1)])
    deltas = (rewards + gamma * following - values).tolist()
    found, running = [0.0] * len(deltas), 0.0
    for t in range(len(deltas) - 1, -1, -1):
        running = deltas[t] + gamma * gae_lambda * running
        found[t] = running
    return values.new_tensor(found)


def group_advantages(rewards: Tensor, scale: bool = True, eps: float = 1e-4) -> Tensor:
    """GRPO: rewards less their group's mean, over its standard deviation, (G, n) from (G, n).

    Args:
        rewards: of the answers to each prompt.
        scale: whether to divide; without it prompts on which answers differ more count more (Liu et al. 2025).
        eps: added to the standard deviation (that of a sample, n - 1).
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    if rewards.shape[1] < 2:  # one answer alone is as good as the group
        return centred
    return centred / (rewards.std(1, keepdim=True) + eps) if scale else centred


def leave_one_out(rewards: Tensor) -> Tensor:
    """RLOO: rewards less the mean of the other answers' to the same prompt, (G, n) from (G, n); 0 where there is no other."""
    n = rewards.shape[1]
    if n < 2:
        return torch.zeros_like(rewards)
    return (rewards - rewards.mean(1, keepdim=True)) * (n / (n - 1))


def whitened(values: Tensor, shift: bool = True, eps: float = 1e-8) -> Tensor:
    """Values with variance 1 and, unless `shift` is off, mean 0."""
    mean, variance = values.mean(), values.var(unbiased=False)
    scaled = (values - mean) * (variance + eps).rsqrt()
    return scaled if shift else scaled + mean


# --- objectives ---------------------------------------------------------------------------------------


class Rollout(NamedTuple):
    """Answers that were drawn and scored; answer i belongs to prompt i // n. Floats, in nats where logarithms."""

    rewards: Tensor
    """(G, n)."""
    before: list[Tensor]
    """Of each answer (L,), log p of its tokens when drawn."""
    reference: list[Tensor]
    """Of each answer (L,), log p of its tokens under the reference."""
    values: list[Tensor] | None = None
    """Of each answer (L,), what the value head expected before each token."""
    others: Tensor | None = None
    """(G, m), rewards of the reference's own answers."""

    def divergence(self) -> float:
        """Mean over answers of log p / p_ref, in nats."""
        sums = [(a - b).sum() for a, b in zip(self.before, self.reference, strict=True)]
        return float(torch.stack(sums).mean())


class _Live:
    """What an objective holds while a run learns."""

    def __init__(self, weight: float, model: nn.Module | None) -> None:
        self.weight, self.model = weight, model
        self.roll = -1
        self.kept: dict[str, Tensor] = {}
        """Of all tokens of the roll-out, answer after answer, by name."""
        self.lengths: list[int] = []
        self.facts: dict[str, float] = {}


class PolicyGradient(Objective):
    """Base of the objectives of answers that the model itself has given, and that were scored.

    At the first batch of a roll-out the probabilities of all its answers are taken, of the model before it moves and
    of the frozen reference, and each token is credited; the batches of the roll-out then go by these. A batch and the
    roll-out that goes with it: `fourfold.data.experience.ExperienceData`. A batch that holds "before", "reference"
    and "advantages" itself, (R, T) float (PPO: "values" and "returns" too), is taken as it is.
    """

    higher: ClassVar[frozenset[str]] = frozenset({"reward", "judge"})
    rewarded: ClassVar[bool] = False
    """Whether the divergence is part of the reward, and not of the loss."""
    compares: ClassVar[bool] = False
    """Whether the reference's own answers are asked for."""

    clip: PositiveFloat = 0.2
    """How far from 1 the ratio of probabilities still pays."""
    beta: NonNegativeFloat = 0.05
    """Weight of the divergence from the reference."""
    target: PositiveFloat | None = None
    """Divergence, in nats an answer, towards which beta is moved after each roll-out; None leaves beta as it is."""
    estimator: Estimator = "k2"
    """Which estimate of the divergence is part of the loss, where it is."""
    per: Literal["token", "answer"] = "token"
    """Whether each token counts alike, or each answer (short answers' tokens then weigh more)."""
    entropy: NonNegativeFloat = 0.0
    """Weight of a bonus for the entropy of the next token."""
    reference: str | None = None
    """Run of the reference; None takes the run that is begun from."""

    def prepare(self, run: Run) -> Objective:
        """See `Objective.prepare`: opens the reference."""
        return self.with_reference(reference_model(run, self.reference))

    def with_reference(self, model: nn.Module | None) -> Objective:
        """A fresh one, with a reference that is opened already."""
        fresh = self.model_copy()
        object.__setattr__(fresh, "_live", _Live(self.beta, model))
        return fresh

    @property
    def weight(self) -> float:
        """The weight of the divergence now."""
        return self._state.weight

    @property
    def _state(self) -> _Live:
        live: _Live | None = getattr(self, "_live", None)
        return live if live is not None else _Live(self.beta, None)

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"divergence": "nats per answer", "length": "tokens"}

    def state_dict(self) -> dict[str, Any]:
        """See `Objective.state_dict`: in the middle of a roll-out what its tokens are credited with is kept."""
        live = self._state
        return {"weight": live.weight, "roll": live.roll, "kept": dict(live.kept), "lengths": list(live.lengths), "facts": dict(live.facts)}  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Objective.load_state_dict`."""
        live = self._state
        live.weight, live.roll = state["weight"], state["roll"]
        live.kept, live.lengths = dict(state["kept"]), list(state["lengths"])
        live.facts = dict(state["facts"])

    def credit(self, roll: Rollout) -> dict[str, list[Tensor]]:
        """What each token of each answer (L,) is credited with, by name: "advantages", and what else a batch needs."""
        worth = self.worth(roll).flatten().tolist()
        found = [torch.full_like(b, w) for b, w in zip(roll.before, worth, strict=True)]
        return {"advantages": found}

    def worth(self, roll: Rollout) -> Tensor:
        """The advantage of each answer, (G, n)."""
        raise NotImplementedError

    def adapt(self, roll: Rollout) -> None:
        """After a roll-out: move the weight of the divergence towards its target."""
        if self.target is not None:
            error = max(-MOST, min(MOST, roll.divergence() / self.target - 1))
            self._state.weight *= 1 + HORIZON * error

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """One move of the whole model: the surrogate and what stands beside it, over tokens or answers."""
        counted = batch["targets"] != IGNORE
        if "before" not in batch:
            batch = self._credited(model, batch, counted)
        seen = _seen(model, batch, counted)
        before, gains = batch["before"][counted], batch["advantages"][counted]
        apart = divergence(seen["log_probs"], batch["reference"][counted], self.estimator)
        each = self.surrogates(seen["log_probs"], before, gains, batch, counted)
        if not self.rewarded:
            each = each + self.weight * apart
        if self.entropy:
            each = each - self.entropy * seen["entropy"]
        each = each + self.beside(seen, batch, counted)
        total, weight = each.sum(), batch["answers"] if self.per == "answer" else len(each)
        if self.per == "answer":
            total = (each / _lengths(batch, counted)).sum()
        gone = (seen["log_probs"] - batch["reference"][counted]).detach().sum() / batch["answers"]
        yield Move("model", total, weight=weight, logs=self._logs(seen, before, gains, gone))

    def measure(self, model: nn.Module, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor | float | None]]:  # fmt: skip
        """Mean reward of the answers, what a judge says of them, how far they are from the reference, their length."""
        rewards, answers = batch["rewards"], float(batch["rewards"].numel())
        own, lengths = self._taken(model, batch)
        found = {"reward": (rewards.sum(), answers)}
        if "judged" in batch:
            found["judge"] = (batch["judged"].sum(), answers)
        if self._state.model is not None:
            reference, _ = self._taken(self._state.model, batch)
            found["divergence"] = ((own["log_probs"] - reference["log_probs"]).sum(), answers)
        found["length"] = (own["log_probs"].new_tensor(float(sum(lengths))), answers)
        return found  # type: ignore[return-value]

    def _credited(self, model: nn.Module, batch: Batch, counted: Tensor) -> Batch:
        """The batch with what its tokens are credited with, taken at the first batch of a roll-out."""
        live = self._state
        if live.roll != int(batch["roll"]):
            self._begin(model, batch)
        owners = batch["segments"][counted]
        which = batch["which"].tolist()
        place = torch.argsort(owners, stable=True)
        found = {}
        for name, joined in live.kept.items():
            parts = joined.to(owners.device).split(live.lengths)
            flat = joined.new_empty(len(owners), device=owners.device)
            flat[place] = torch.cat([parts[answer] for answer in which])
            found[name] = flat.new_zeros(counted.shape)
            found[name][counted] = flat
        return {**batch, **found}

    @torch.no_grad()
    def _begin(self, model: nn.Module, batch: Batch) -> None:
        """A new roll-out: the probabilities of its answers, what they are credited with, what there is to say."""
        live = self._state
        if live.model is None:
            raise ValueError("this objective has no reference: prepare(run) opens it")
        own, lengths = self._taken(model, batch)
        reference, _ = self._taken(live.model, batch)
        values = list(own["values"].split(lengths)) if "values" in own else None
        before, apart = (list(x["log_probs"].split(lengths)) for x in (own, reference))
        rewards = batch["rewards"].float()
        others = batch["others"].float() if "others" in batch else None
        roll = Rollout(rewards, before, apart, values, others)
        credit = self.credit(roll)
        live.kept = {"before": own["log_probs"], "reference": reference["log_probs"]}
        if values is not None:
            live.kept["values"] = own["values"]
        live.kept |= {name: torch.cat(parts) for name, parts in credit.items()}
        live.roll, live.lengths = int(batch["roll"]), lengths
        alike = (rewards == rewards[:, :1]).all(1).double().mean() if rewards.shape[1] > 1 else None
        live.facts = {
            "reward": float(rewards.mean()), "length": sum(lengths) / len(lengths),
            **({} if alike is None else {"groups_alike": float(alike)}), **self.facts(roll, credit),
        }  # fmt: skip
        self.adapt(roll)

    def facts(self, roll: Rollout, credit: Mapping[str, list[Tensor]]) -> dict[str, float]:
        """What else there is to say of a roll-out."""
        return {}

    @torch.no_grad()
    def _taken(self, model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], list[int]]:
        """What a model makes of all tokens of a roll-out, answer after answer, and the answers' lengths."""
        training = model.training
        model.eval()
        try:
            found: dict[str, list[Tensor]] = {}
            names = ("tokens", "targets", "segments")
            for rows in zip(*(batch[f"roll_{n}"].split(ROWS) for n in names), strict=True):
                some = dict(zip(names, rows, strict=True))
                for name, value in _seen(model, some, some["targets"] != IGNORE).items():
                    found.setdefault(name, []).append(value)
        finally:
            model.train(training)
        owners = batch["roll_segments"][batch["roll_targets"] != IGNORE]
        place = torch.argsort(owners, stable=True)
        lengths = torch.bincount(owners, minlength=batch["rewards"].numel()).tolist()
        return {name: torch.cat(parts)[place] for name, parts in found.items()}, lengths

    def surrogates(
        self, log_probs: Tensor, before: Tensor, gains: Tensor, batch: Batch, counted: Tensor
    ) -> Tensor:
        """The clipped surrogate of each token, (M,)."""
        return surrogate(log_probs, before, gains, self.clip)

    def beside(self, seen: Mapping[str, Tensor], batch: Batch, counted: Tensor) -> Tensor | float:
        """What else is to be minimized at each token, (M,); nothing by default."""
        return 0.0

    def _logs(self, seen: Mapping[str, Tensor], before: Tensor, gains: Tensor, gone: Tensor) -> dict[str, Tensor]:  # fmt: skip
        """What a step tells; `gone` is () log p / p_ref of an answer, the mean."""
        with torch.no_grad():
            ratio = (seen["log_probs"] - before).exp()
            over, under = ratio > 1 + self.clip, ratio < 1 - self.clip
            clipped = (over & (gains > 0)) | (under & (gains < 0))
            return {
                "divergence": gone,
                "entropy": seen["entropy"].mean(),
                "clipped": clipped.double().mean(),
                "beta": gone.new_tensor(self.weight),
                **{name: gone.new_tensor(value) for name, value in self._state.facts.items()},
            }


class GRPO(PolicyGradient):
    """Group-relative policy optimization: an answer is as good as it is better than the others to its prompt."""

    kind: Literal["grpo"] = "grpo"
    scale: bool = True
    """Whether advantages are divided by the group's standard deviation."""
    per: Literal["token", "answer"] = "answer"

    def worth(self, roll: Rollout) -> Tensor:
        """See `PolicyGradient.worth`: 0 where all of a group are alike."""
        alike = (roll.rewards == roll.rewards[:, :1]).all(1, keepdim=True)
        return group_advantages(roll.rewards, self.scale).masked_fill(alike, 0.0)


class Difference(PolicyGradient):
    """The plainest signal: the reference answers the same prompts, and the rewards' differences drive the update."""

    compares: ClassVar[bool] = True
    kind: Literal["difference"] = "difference"

    def worth(self, roll: Rollout) -> Tensor:
        """See `PolicyGradient.worth`.

        Raises:
            ValueError: the reference's answers are missing.
        """
        if roll.others is None:
            raise ValueError("Difference expects rewards of the reference's own answers")
        return roll.rewards - roll.others.mean(1, keepdim=True)


class RLOO(PolicyGradient):
    """REINFORCE with the other answers' mean reward as the baseline; an answer is one action, its ratio the product."""

    rewarded: ClassVar[bool] = True
    kind: Literal["rloo"] = "rloo"
    per: Literal["answer"] = "answer"

    def worth(self, roll: Rollout) -> Tensor:
        """See `PolicyGradient.worth`; the divergence is part of the reward."""
        sums = [(a - b).sum() for a, b in zip(roll.before, roll.reference, strict=True)]
        apart = torch.stack(sums).view_as(roll.rewards)
        return leave_one_out(roll.rewards - self.weight * apart)

    def surrogates(
        self, log_probs: Tensor, before: Tensor, gains: Tensor, batch: Batch, counted: Tensor
    ) -> Tensor:
        """The clipped surrogate of each answer, at each of its tokens (M,): its mean over them is the answer's."""
        owners = batch["segments"][counted]
        sums = log_probs.new_zeros(int(batch["answers"])).index_add(0, owners, log_probs - before)
        return surrogate(sums[owners], torch.zeros_like(before), gains, self.clip)


class PPO(PolicyGradient):
    """Proximal policy optimization: a value head expects what is to come, and the divergence is part of the reward.

    A batch also holds "values" and "returns", (R, T) float. The model has a child `value`, (..., W) to (..., 1).
    """

    rewarded: ClassVar[bool] = True
    kind: Literal["ppo"] = "ppo"
    gamma: PositiveFloat = 1.0
    """Discount of later rewards."""
    gae_lambda: NonNegativeFloat = 0.95
    """How far advantages look beyond the value's next prediction."""
    value: PositiveFloat = 0.1
    """Weight of the value's loss."""
    value_clip: PositiveFloat = 0.2
    """How far from its old prediction the value's error still pays."""
    whiten: bool = True
    """Whether advantages have mean 0 and variance 1 over a roll-out."""
    whiten_rewards: bool = False
    """Whether the tokens' rewards, the divergence in them, are scaled to variance 1 over a roll-out, their mean kept
    (Ziegler et al. 2019)."""

    def credit(self, roll: Rollout) -> dict[str, list[Tensor]]:
        """See `PolicyGradient.credit`: "advantages" and the value's "returns".

        Raises:
            ValueError: there are no values.
        """
        if roll.values is None:
            raise ValueError("PPO expects the value head's predictions")
        lengths = [len(own) for own in roll.before]
        rewards = [-self.weight * (a - b) for a, b in zip(roll.before, roll.reference, strict=True)]
        for each, reward in zip(rewards, roll.rewards.flatten().tolist(), strict=True):
            each[-1] += reward
        if self.whiten_rewards:
            rewards = list(whitened(torch.cat(rewards), shift=False).split(lengths))
        found, returns = [], []
        for each, values in zip(rewards, roll.values, strict=True):
            found.append(generalised_advantages(each, values, self.gamma, self.gae_lambda))
            returns.append(found[-1] + values)
        if self.whiten:
            found = list(whitened(torch.cat(found)).split(lengths))
        return {"advantages": found, "returns": returns}

    def facts(self, roll: Rollout, credit: Mapping[str, list[Tensor]]) -> dict[str, float]:
        """How much of the returns' variance the values explain."""
        assert roll.values is not None  # noqa: S101
        wanted, values = torch.cat(credit["returns"]), torch.cat(roll.values)
        spread = float(wanted.var(unbiased=False))
        left = float((wanted - values).var(unbiased=False))
        return {"explained_variance": 1 - left / spread if spread > 0 else 0.0}

    def beside(self, seen: Mapping[str, Tensor], batch: Batch, counted: Tensor) -> Tensor | float:
        """The value's loss."""
        old, wanted = batch["values"][counted], batch["returns"][counted]
        return self.value * value_loss(seen["values"], old, wanted, self.value_clip)


def _lengths(batch: Batch, counted: Tensor) -> Tensor:
    """Tokens of the answer that each token belongs to, (M,)."""
    owners = batch["segments"][counted]
    ones = torch.ones_like(owners)
    return ones.new_zeros(int(batch["answers"])).index_add(0, owners, ones)[owners]


def _seen(model: nn.Module, batch: Batch, counted: Tensor) -> dict[str, Tensor]:
    """What the model makes of the answers' tokens, (M,) each: log-probabilities, entropies and, if it has them, values."""
    states: Any = model.states(batch["tokens"], segments=batch["segments"])[counted]  # type: ignore[operator]
    logs = F.log_softmax(wide(model.head(states)), -1)  # type: ignore[operator]
    found = {
        "log_probs": logs.gather(-1, batch["targets"][counted][:, None])[:, 0],
        "entropy": -(logs.exp() * logs).sum(-1),
    }
    if hasattr(model, "value"):
        found["values"] = wide(model.value(states))[:, 0]  # type: ignore[operator]
    return found
