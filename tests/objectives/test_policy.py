"""Policy gradients: TRL's own lines, the papers' formulas in slow loops, exact sums, and closed-form optima."""

from __future__ import annotations

import inspect
import math
import textwrap
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fourfold.objectives import policy
from fourfold.objectives.policy import GRPO, PPO, RLOO, Difference, PolicyGradient, Rollout

EXACT = {"rtol": 1e-10, "atol": 1e-12}


# --- against TRL --------------------------------------------------------------------------------------


def lines(method: Any, first: str, last: str) -> str:
    """TRL's own lines between two of them, both included."""
    source = inspect.getsource(method)
    begin = source.index(first)
    begin = source.rindex("\n", 0, begin) + 1
    return textwrap.dedent(source[begin : source.index("\n", source.index(last, begin))])


@pytest.mark.parametrize("scale", ["group", "none"])
def test_group_advantages_equal_trl(scale: str) -> None:
    pytest.importorskip("trl")
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.utils import nanstd

    torch.manual_seed(0)
    rewards = torch.randn(12, dtype=torch.float64)
    rewards[4:8] = 0.5  # a group whose answers are all alike
    code = lines(
        GRPOTrainer._generate_and_score_completions,
        "if self.multi_objective_aggregation ==", "advantages = torch.nan_to_num(",
    )  # fmt: skip
    names: dict[str, Any] = {
        "self": SimpleNamespace(multi_objective_aggregation="sum_then_normalize", scale_rewards=scale, reward_weights=torch.ones(1)),
        "rewards_per_func": rewards[:, None], "unscorable_mask": torch.zeros(12, dtype=torch.bool), "device": "cpu",
        "num_generations": 4, "torch": torch, "nanstd": nanstd,
    }  # fmt: skip
    exec(code, names)
    roll = Rollout(rewards.view(3, 4), [], [])
    ours = GRPO(scale=scale == "group").worth(roll)
    torch.testing.assert_close(ours.flatten(), names["advantages"], rtol=1e-7, atol=1e-9)
    assert not ours[1].any()


def test_leave_one_out_equals_trl() -> None:
    pytest.importorskip("trl")
    from trl.trainer.rloo_trainer import RLOOTrainer
    from trl.trainer.utils import nanstd

    torch.manual_seed(1)
    rewards = torch.randn(8, dtype=torch.float64)
    own, reference = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]] * 4)
    code = lines(
        RLOOTrainer._generate_and_score_completions,
        "per_token_kl = old_per_token_logps - ref_per_token_logps", "rewards = rewards - self.beta * kl",
    )  # fmt: skip
    code += "\n" + lines(
        RLOOTrainer._generate_and_score_completions,
        "grouped_rewards = rewards.view(-1, num_generations)", "advantages = torch.nan_to_num(",
    )  # fmt: skip
    names: dict[str, Any] = {
        "self": SimpleNamespace(beta=0.3, normalize_advantages=False), "rewards": rewards, "num_generations": 4,
        "old_per_token_logps": own, "ref_per_token_logps": reference, "completion_mask": mask,
        "gather": lambda x: x, "torch": torch, "nanstd": nanstd,
    }  # fmt: skip
    exec(code, names)
    lengths = mask.sum(1).tolist()
    ragged = [[row[:n] for row, n in zip(rows, lengths, strict=True)] for rows in (own, reference)]
    ours = RLOO(beta=0.3).worth(Rollout(rewards.view(2, 4), *ragged))
    torch.testing.assert_close(ours.flatten(), names["advantages"], **EXACT)


class Told(nn.Module):
    """A model that says what it is told: log-probabilities over two tokens with the given one of the target, 0."""

    def __init__(self, log_probs: Tensor) -> None:
        super().__init__()
        self.log_probs = nn.Parameter(log_probs)
        self.head = nn.Identity()

    def states(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        return torch.stack([self.log_probs, torch.log1p(-self.log_probs.exp())], -1)


LENGTHS = [3, 1, 2, 3]


def drawn(seed: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """A batch of four answers, one a row, what the policy says now, and the mask of tokens."""
    torch.manual_seed(seed)
    mask = torch.arange(3)[None, :] < torch.tensor(LENGTHS)[:, None]
    before, reference, now = (-0.1 - torch.rand(4, 3) for _ in range(3))
    gains = torch.randn(4, 1).expand(4, 3)
    batch = {
        "tokens": torch.zeros(4, 3, dtype=torch.int64), "targets": torch.where(mask, 0, -100),
        "segments": torch.where(mask, torch.arange(4)[:, None], 4), "before": before * mask,
        "reference": reference * mask, "advantages": gains * mask, "answers": torch.tensor(4),
    }  # fmt: skip
    return batch, now, mask


class Stub(SimpleNamespace):
    def __getattr__(self, name: str) -> Any:
        return None


def theirs(cls: Any, batch: dict[str, Tensor], now: Tensor, mask: Tensor, **fields: Any) -> Tensor:
    from collections import defaultdict

    accelerator = SimpleNamespace(
        gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x
    )
    metrics: Any = {"train": defaultdict(list)}
    them = Stub(
        accelerator=accelerator, model=SimpleNamespace(training=True), _metrics=metrics, epsilon_low=0.2, epsilon_high=0.2,
        _get_per_token_logps_and_entropies=lambda *_, **__: (now, torch.zeros_like(now), None), top_entropy_quantile=1.0,
        current_gradient_accumulation_steps=1, aux_loss_enabled=False, use_vllm=False, importance_sampling_level="token",
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False), _entropy_bonus_enabled=False, **fields,
    )  # fmt: skip
    empty = torch.zeros(4, 0, dtype=torch.int64)
    inputs = {
        "prompt_ids": empty, "prompt_mask": empty, "completion_ids": batch["tokens"], "completion_mask": mask.long(),
        "advantages": batch["advantages"][:, 0], "old_per_token_logps": batch["before"],
        "ref_per_token_logps": batch["reference"], "old_logps": batch["before"].sum(1),
    }  # fmt: skip
    return cls._compute_loss(them, None, inputs)


@pytest.mark.parametrize("kind", ["grpo", "bnpo", "rloo"])
def test_losses_equal_trl(kind: str) -> None:
    pytest.importorskip("trl")
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_trainer import RLOOTrainer

    batch, now, mask = drawn(2)
    per = "token" if kind == "bnpo" else "answer"
    objective = RLOO() if kind == "rloo" else GRPO(beta=0.2, estimator="k3", per=per)
    model, cls = Told(now), RLOOTrainer if kind == "rloo" else GRPOTrainer
    expected = theirs(cls, batch, model.log_probs, mask, beta=0.2, loss_type=kind)
    (move,) = objective.losses(model, batch)
    torch.testing.assert_close(move.loss / float(move.weight), expected)
    (mine,), (true,) = (
        torch.autograd.grad(v, model.log_probs, retain_graph=True)
        for v in (move.loss / float(move.weight), expected)
    )
    torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("per", ["token", "answer"])
def test_losses_and_weights_of_a_loop(per: Any) -> None:
    """Each token counts alike, or each answer: sums and what they are divided by, number by number."""
    batch, now, mask = drawn(4)
    (move,) = GRPO(beta=0.2, per=per).losses(Told(now), batch)
    total = 0.0
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            ratio = math.exp(float(now[row, t] - batch["before"][row, t]))
            gain = float(batch["advantages"][row, t])
            loss = -min(ratio * gain, min(max(ratio, 0.8), 1.2) * gain)
            loss += 0.2 * 0.5 * float(batch["reference"][row, t] - now[row, t]) ** 2
            total += loss / (length if per == "answer" else 1)
    assert move.loss.item() == pytest.approx(total, rel=1e-5)
    assert float(move.weight) == (len(LENGTHS) if per == "answer" else int(mask.sum()))


# --- the papers' formulas -----------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=8),
    st.floats(0.1, 1), st.floats(0, 1),
)  # fmt: skip
def test_generalised_advantages_equal_the_sum_of_all_pairs(
    steps: list[tuple[float, float]], gamma: float, gae_lambda: float
) -> None:
    rewards, values = (torch.tensor(c, dtype=torch.float64) for c in zip(*steps, strict=True))
    found = policy.generalised_advantages(rewards, values, gamma, gae_lambda)
    after = [*values[1:].tolist(), 0.0]
    for t in range(len(steps)):
        total = sum(
            (gamma * gae_lambda) ** (u - t) * (float(rewards[u]) + gamma * after[u] - float(values[u]))
            for u in range(t, len(steps))
        )  # fmt: skip
        assert float(found[t]) == pytest.approx(total, rel=1e-9, abs=1e-9)


def test_with_lambda_one_advantages_are_returns_less_values() -> None:
    rewards, values = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, 0.25, -1.0])
    found = policy.generalised_advantages(rewards, values, 1.0, 1.0)
    assert found.tolist() == pytest.approx([2.5, 2.75, 3.0])


def test_the_surrogate_and_the_values_loss_are_the_papers() -> None:
    """Schulman et al. 2017, equation 7, number by number; beyond the clip there is no gradient."""
    now = torch.tensor([0.5, 0.9, 0.1], dtype=torch.float64).log().requires_grad_()
    before = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64).log()
    for sign, expected, slopes in (
        (1.0, [-1.0, -1.2, -0.2], [-1.0, 0.0, -0.2]),
        (-1.0, [1.0, 1.8, 0.8], [1.0, 1.8, 0.0]),
    ):
        loss = policy.surrogate(now, before, torch.full((3,), sign, dtype=torch.float64), 0.2)
        assert loss.tolist() == pytest.approx(expected)
        (slope,) = torch.autograd.grad(loss.sum(), now)
        assert slope.tolist() == pytest.approx(slopes)
    old, new, wanted = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.1]), torch.tensor([2.0, 0.0])
    assert policy.value_loss(new, old, wanted, 0.2).tolist() == pytest.approx([0.5 * 1.8**2, 0.005])


def test_gradients_are_those_of_the_losses() -> None:
    torch.manual_seed(3)
    a, b, c = (0.1 * torch.randn(6, dtype=torch.float64) for _ in range(3))
    a.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: policy.surrogate(x, b, c, 0.4), (a,))
    assert torch.autograd.gradcheck(lambda x: policy.value_loss(x, b, c, 0.7), (a,))
    for estimator in ("k1", "k2", "k3"):
        assert torch.autograd.gradcheck(lambda x: policy.divergence(x, b, estimator), (a,))  # noqa: B023


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 999))
def test_estimates_of_the_divergence_against_the_exact_sum(words: int, seed: int) -> None:
    """k1 and k3 have its value in expectation over the words; k2 has its gradient; k3 has that of the other one."""
    generator = torch.Generator().manual_seed(seed)
    scores, other = (torch.randn(words, dtype=torch.float64, generator=generator) for _ in range(2))
    scores.requires_grad_()
    logs, reference = scores.log_softmax(0), other.log_softmax(0)
    exact = (logs.exp() * (logs - reference)).sum()
    chances = logs.exp().detach()  # words are drawn; gradients go through the estimates only
    means = {
        kind: (chances * policy.divergence(logs, reference, kind)).sum()
        for kind in ("k1", "k2", "k3")
    }
    for kind in ("k1", "k3"):
        torch.testing.assert_close(means[kind], exact, **EXACT)
    assert bool((policy.divergence(logs, reference, "k3") >= 0).all())
    (slope,) = torch.autograd.grad(means["k2"], scores, retain_graph=True)
    (true,) = torch.autograd.grad(exact, scores, retain_graph=True)
    torch.testing.assert_close(slope, true, **EXACT)
    (slope,) = torch.autograd.grad(means["k3"], scores, retain_graph=True)
    (other_way,) = torch.autograd.grad(
        (reference.exp() * (reference - logs)).sum(), scores, retain_graph=True
    )
    torch.testing.assert_close(slope, other_way, **EXACT)
    (nothing,) = torch.autograd.grad(means["k1"], scores)
    torch.testing.assert_close(nothing, torch.zeros_like(nothing), **EXACT)


def test_whitened() -> None:
    values = torch.tensor([1.0, 2.0, 6.0])
    found = policy.whitened(values)
    assert float(found.mean()) == pytest.approx(0, abs=1e-6)
    assert float(found.var(unbiased=False)) == pytest.approx(1, abs=1e-6)
    assert float(policy.whitened(values, shift=False).mean()) == pytest.approx(3.0)


def test_the_weight_follows_its_target() -> None:
    """Ziegler et al. 2019: beta (1 + K clip(KL / target - 1)); kept in the state."""
    objective = PPO(beta=0.1, target=2.0).with_reference(None)
    assert isinstance(objective, PPO)
    roll = Rollout(torch.zeros(1, 1), [torch.tensor([-1.0])], [torch.tensor([-9.0])])
    objective.adapt(roll)  # a divergence of 8 nats: far above
    assert objective.weight == pytest.approx(0.1 * 1.02)
    near = Rollout(torch.zeros(1, 1), [torch.tensor([-1.0])], [torch.tensor([-2.9])])
    objective.adapt(near)  # 1.9 nats: 5% below
    assert objective.weight == pytest.approx(0.1 * 1.02 * 0.995)
    again = PPO(beta=0.1, target=2.0).with_reference(None)
    again.load_state_dict(objective.state_dict())
    assert again.weight == objective.weight  # type: ignore[attr-defined]


def test_ppo_credits_the_last_token_with_the_reward() -> None:
    own, reference = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    roll = Rollout(torch.tensor([[3.0]]), [own], [reference], [torch.zeros(2)])
    found = PPO(beta=0.2, gae_lambda=1.0, whiten=False).credit(roll)
    # rewards: -0.2 * 0.5, then -0.2 * -1 + 3
    assert found["advantages"][0].tolist() == pytest.approx([3.1, 3.2])
    assert found["returns"][0].tolist() == pytest.approx([3.1, 3.2])


def test_scaled_rewards_of_ppo_have_variance_one_and_their_mean() -> None:
    """Ziegler et al. 2019: the tokens' rewards, the divergence in them; with lambda 0 and no values they are the advantages."""
    own, reference = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    roll = Rollout(torch.tensor([[3.0]]), [own], [reference], [torch.zeros(2)])
    found = PPO(beta=0.2, gae_lambda=0.0, whiten=False, whiten_rewards=True).credit(roll)
    # rewards -0.1 and 3.2: mean 1.55, standard deviation 1.65
    assert found["advantages"][0].tolist() == pytest.approx([1.55 - 1, 1.55 + 1])


class Said:
    """As `Told`, of tensors that are no parameters, and with values where there are some."""

    def __init__(self, log_probs: Tensor, values: Tensor | None = None) -> None:
        self.parts = [log_probs, torch.log1p(-log_probs.exp())]
        if values is not None:
            self.parts.append(values)
            self.value = lambda states: states[..., 2:]

    def states(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        return torch.stack(self.parts, -1)

    def head(self, states: Tensor) -> Tensor:
        return states[..., :2]


OBJECTIVES = (
    GRPO(beta=0.3), GRPO(beta=0.3, estimator="k3", per="token", entropy=0.2), RLOO(beta=0.3), Difference(beta=0.3),
    PPO(beta=0.3, entropy=0.1, value=0.7), PPO(per="answer"),
)  # fmt: skip


def valued(objective: Any) -> bool:
    return bool(objective.kind == "ppo")


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{o.kind}-{o.per}")
def test_the_gradient_of_every_objective_is_that_of_its_loss(objective: PolicyGradient) -> None:
    """In float64 through the whole batch, against differences."""
    batch, now, mask = drawn(6)
    batch = {n: t.double() if t.is_floating_point() else t for n, t in batch.items()}
    batch |= {n: torch.randn(4, 3, dtype=torch.float64) * mask for n in ("values", "returns")}
    inputs = [now.double(), torch.randn(4, 3, dtype=torch.float64)][: 1 + valued(objective)]

    def loss(*tensors: Tensor) -> Tensor:
        (move,) = objective.losses(Said(*tensors), batch)  # type: ignore[arg-type]
        return move.loss

    assert loss(*inputs).dtype == torch.float64
    assert torch.autograd.gradcheck(loss, [t.requires_grad_() for t in inputs])


def test_the_divergence_that_is_told_is_nats_an_answer() -> None:
    batch, now, mask = drawn(7)
    expected = float(((now - batch["reference"]) * mask).sum() / 4)
    for objective in (GRPO(), RLOO(), Difference()):
        (move,) = objective.losses(Told(now), batch)
        assert float(move.logs["divergence"]) == pytest.approx(expected, rel=1e-5)


def test_halves_sum_to_the_whole() -> None:
    batch, now, mask = drawn(5)
    batch |= {n: torch.randn(4, 3) * mask for n in ("values", "returns")}
    expected = torch.randn(4, 3)
    for objective in OBJECTIVES:
        told: Any = (now, expected)[: 1 + valued(objective)]
        (whole,) = objective.losses(Said(*told), batch)  # type: ignore[arg-type]
        moves = []
        for rows in (slice(0, 2), slice(2, 4)):
            half = {name: value[rows] for name, value in batch.items() if name != "answers"}
            half["segments"] = torch.where(half["targets"] == 0, half["segments"] - rows.start, 2)
            half["answers"] = torch.tensor(2)
            moves += objective.losses(Said(*(t[rows] for t in told)), half)  # type: ignore[arg-type]
        torch.testing.assert_close(whole.loss, moves[0].loss + moves[1].loss)
        assert float(whole.weight) == float(moves[0].weight) + float(moves[1].weight)


# --- the closed-form optimum --------------------------------------------------------------------------


class Bandit(nn.Module):
    """One step, four actions."""

    def __init__(self, valued: bool) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([0.4, 0.3, 0.2, 0.1]).log())
        self.head = nn.Identity()
        self.estimate = nn.Parameter(torch.zeros(()))
        if valued:
            self.value = lambda states: self.estimate.expand(*states.shape[:-1], 1)

    def states(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        return self.scores.expand(*tokens.shape, 4)


@pytest.mark.parametrize(
    "objective",
    [PPO(beta=0.6, whiten=False, value=1.0, value_clip=10.0), GRPO(beta=0.6, scale=False), RLOO(beta=0.6), Difference(beta=0.6)],
    ids=lambda o: o.kind,
)  # fmt: skip
def test_a_bandit_ends_at_the_closed_form(objective: PolicyGradient) -> None:
    """The best policy under KL regularisation is proportional to pi_ref exp(r / beta)."""
    torch.manual_seed(0)
    rewards = torch.tensor([1.0, 0.0, -0.5, 0.7])
    reference = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    learner: Any = objective.with_reference(None)
    model, groups, n = Bandit(objective.kind == "ppo"), 128, 4  # type: ignore[attr-defined]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    mean: list[Tensor] = []
    for step in range(240):
        with torch.no_grad():
            logs = model.scores.log_softmax(0)
            actions = torch.multinomial(logs.exp(), groups * n, replacement=True)
            others = torch.multinomial(reference.exp(), groups * n, replacement=True)
            roll = Rollout(
                rewards[actions].view(groups, n), list(logs[actions][:, None]), list(reference[actions][:, None]),
                list(model.estimate.expand(groups * n, 1)), rewards[others].view(groups, n),
            )  # fmt: skip
        credits = {name: torch.stack(c) for name, c in learner.credit(roll).items()}
        batch = {
            "tokens": torch.zeros(groups * n, 1, dtype=torch.int64), "targets": actions[:, None],
            "segments": torch.arange(groups * n)[:, None], "answers": torch.tensor(groups * n),
            "before": logs[actions][:, None], "reference": reference[actions][:, None],
            "values": model.estimate.detach().expand(groups * n, 1), **credits,
        }  # fmt: skip
        for _ in range(2):  # epochs of a roll-out
            (move,) = learner.losses(model, batch)
            optimizer.zero_grad()
            (move.loss / float(move.weight)).backward()
            optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 240)
        if step >= 200:
            mean.append(model.scores.detach().softmax(0))
    # a group's mean holds the answer itself, so GRPO sees (n - 1) / n of every difference of rewards
    seen = (n - 1) / n if objective.kind == "grpo" else 1.0  # type: ignore[attr-defined]
    best = (reference + seen * rewards / 0.6).softmax(0)
    found = torch.stack(mean).mean(0)
    assert float((found - best).abs().max()) < 0.02, (found.tolist(), best.tolist())
    assert float((found * (found / best).log()).sum()) < 2e-3
    assert math.isclose(float(found.sum()), 1, abs_tol=1e-5)
