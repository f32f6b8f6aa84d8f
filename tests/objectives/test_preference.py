"""The losses of preferences against TRL's own, against closed forms, and against slow loops."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fourfold.objectives import preference
from fourfold.objectives.preference import DPO, IPO, KTO, RewardLoss, bradley_terry, dpo, ipo, kto

EXACT = {"rtol": 1e-10, "atol": 1e-12}


class Tiny(nn.Module):
    """A model of the next token by the last one alone, so that packing can change nothing."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.head = nn.Linear(width, vocabulary)

    def states(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        return torch.tanh(self.embedding(tokens))


def packed(sequences: list[tuple[list[int], list[int]]], width: int) -> dict[str, Tensor]:
    """Prompts with answers, one after the other in rows; a sequence never crosses a row."""
    rows: list[tuple[list[int], list[int], list[int]]] = [([], [], [])]
    for number, (prompt, answer) in enumerate(sequences):
        whole = [*prompt, *answer]
        inputs, targets = whole[:-1], [-100] * (len(prompt) - 1) + answer
        if len(rows[-1][0]) + len(inputs) > width:
            rows.append(([], [], []))
        for column, values in zip(rows[-1], (inputs, targets, [number] * len(inputs)), strict=True):
            column.extend(values)
    empty = (0, -100, len(sequences))
    filled = [
        [column + [blank] * (width - len(column)) for column, blank in zip(row, empty, strict=True)]
        for row in rows
    ]
    names = ("tokens", "targets", "segments")
    return {name: torch.tensor([row[i] for row in filled]) for i, name in enumerate(names)}


def plain(model: Tiny, prompt: list[int], answer: list[int]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    whole = [*prompt, *answer]
    for i, token in enumerate(answer, len(prompt)):
        states = model.states(torch.tensor([[whole[i - 1]]]))
        total = total + model.head(states)[0, 0].log_softmax(-1)[token]
    return total


some = st.lists(st.integers(0, 6), min_size=1, max_size=5)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(some, some), min_size=1, max_size=6), st.integers(0, 99))
def test_packed_answers_have_the_log_probabilities_of_a_loop(
    sequences: list[tuple[list[int], list[int]]], seed: int
) -> None:
    torch.manual_seed(seed)
    model = Tiny(7, 4).double()
    found = preference.sequence_log_probs(model, packed(sequences, 12), len(sequences))
    expected = torch.stack([plain(model, *each) for each in sequences])
    torch.testing.assert_close(found.log_probs.double(), expected, rtol=1e-6, atol=1e-6)
    assert found.lengths.tolist() == [len(answer) for _, answer in sequences]


# --- against TRL --------------------------------------------------------------------------------------


class Stub(SimpleNamespace):
    """What TRL's trainers ask of themselves while they compute a loss: their formulas run as they are."""

    def __getattr__(self, name: str) -> Any:
        return None


def trainer(**fields: Any) -> Stub:
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x
    )
    metrics: Any = {"train": defaultdict(list), "eval": defaultdict(list)}
    return Stub(accelerator=accelerator, model=SimpleNamespace(training=True), _metrics=metrics, _total_train_tokens=0, _tp_size=1, **fields)  # fmt: skip


def outputs(log_probs: Tensor) -> SimpleNamespace:
    none = torch.zeros_like(log_probs)
    return SimpleNamespace(log_probs=log_probs, entropy=none, mean_logits=none, is_top1=none.bool())


@pytest.mark.parametrize("kind", ["sigmoid", "robust", "ipo"])
def test_pairs_equal_trl(kind: str) -> None:
    pytest.importorskip("trl")
    from trl.trainer.dpo_trainer import DPOTrainer

    torch.manual_seed(0)
    mask = torch.tensor(
        [[0, 1, 1, 0], [0, 1, 1, 1], [0, 1, 0, 0], [0, 1, 1, 1]]
    )  # 2 chosen, 2 rejected
    own, before = (-torch.rand(4, 3, dtype=torch.float64) * mask[:, 1:] for _ in range(2))
    own.requires_grad_()
    beta, smoothing = 0.3, 0.1 if kind == "robust" else 0.0
    them = trainer(
        beta=beta, loss_types=[kind], loss_weights=[1.0], label_smoothing=smoothing,
        f_divergence_type="reverse_kl", precompute_ref_logps=True, use_weighting=False, aux_loss_enabled=False,
    )  # fmt: skip
    ratios = before.sum(1)
    inputs = {
        "input_ids": torch.ones(4, 4, dtype=torch.long), "attention_mask": torch.ones(4, 4), "completion_mask": mask,
        "ref_chosen_logps": ratios[:2], "ref_rejected_logps": ratios[2:],
    }  # fmt: skip
    theirs = DPOTrainer._compute_loss(them, lambda **_: outputs(own), inputs, False)
    gained = own.sum(1) - before.sum(1)
    if kind == "ipo":
        means = gained / mask.sum(1)
        ours = ipo(means[:2], means[2:], beta).mean()
    elif kind == "robust":  # another estimator from the same two terms
        clean, flipped = (
            dpo(a, b, beta) for a, b in ((gained[:2], gained[2:]), (gained[2:], gained[:2]))
        )
        ours = (((1 - smoothing) * clean - smoothing * flipped) / (1 - 2 * smoothing)).mean()
    else:
        ours = dpo(gained[:2], gained[2:], beta).mean()
    torch.testing.assert_close(ours, theirs, **EXACT)
    (mine,), (true,) = (torch.autograd.grad(v, own, retain_graph=True) for v in (ours, theirs))
    torch.testing.assert_close(mine, true, **EXACT)


def test_single_answers_equal_trl() -> None:
    pytest.importorskip("trl")
    from trl.trainer.kto_trainer import KTOTrainer

    torch.manual_seed(1)
    mask = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 1], [0, 1, 0, 0], [0, 1, 1, 1]])
    own, before, others, others_before = (
        -torch.rand(4, 3, dtype=torch.float64) * mask[:, 1:] for _ in range(4)
    )
    own.requires_grad_()
    others = others * 0.1  # the policy gained on the reference: z is above 0
    labels, beta = torch.tensor([True, False, True, False]), 0.4
    them = trainer(
        beta=beta, loss_type="kto", desirable_weight=1.3, undesirable_weight=0.7, calculate_KL=True, precompute_ref_logps=True,
        _compute_kl_logps=lambda model, batch: others.sum(1), aux_loss_enabled=False,
    )  # fmt: skip
    inputs = {
        "input_ids": torch.ones(4, 4, dtype=torch.long), "attention_mask": torch.ones(4, 4), "completion_mask": mask,
        "label": labels, "ref_logps": before.sum(1), "ref_KL_logps": others_before.sum(1),
    }  # fmt: skip
    theirs = KTOTrainer._compute_loss(them, lambda **_: outputs(own), inputs, False)
    z = (others.sum(1) - others_before.sum(1)).mean().clamp(min=0)
    assert z > 0
    weight = 0.7 + 0.6 * labels.double()
    ours = (weight * kto(own.sum(1) - before.sum(1), labels, z, beta)).mean()
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_rewards_equal_trl() -> None:
    pytest.importorskip("trl")
    from trl.trainer.reward_trainer import RewardTrainer

    torch.manual_seed(2)
    rewards, margin = torch.randn(6, 1, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    them = trainer(args=SimpleNamespace(center_rewards_coefficient=0.05))
    inputs = {"attention_mask": torch.ones(6, 2), "margin": margin}
    theirs = RewardTrainer.compute_loss(them, lambda **_: SimpleNamespace(logits=rewards), inputs)
    interleaved = torch.stack([rewards[:3, 0], rewards[3:, 0]], 1).flatten()

    class Told(nn.Module):
        def forward(self, batch: Any) -> Tensor:
            return interleaved

    (move,) = RewardLoss(center=0.05).losses(Told(), {"margins": margin})
    torch.testing.assert_close(move.loss.double() / move.weight, theirs, rtol=1e-6, atol=1e-7)
    assert move.weight == 3


# --- by themselves ------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_losses() -> None:
    torch.manual_seed(3)
    a, b = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    good = torch.tensor([True, False, True, True, False])
    for loss in (
        lambda a, b: bradley_terry(a, b, 0.5),
        lambda a, b: dpo(a, b, 0.3, 0.2),
        lambda a, b: ipo(a, b, 0.3),
        lambda a, b: kto(a - b, good, torch.tensor(0.7, dtype=torch.float64), 0.5),
    ):
        assert torch.autograd.gradcheck(loss, (a, b))


def known(objective: Any, reference: nn.Module) -> Any:
    fresh = objective.model_copy()
    object.__setattr__(fresh, "_model", reference)
    return fresh


PAIRS = [([1, 2], [3]), ([1, 2], [4, 5, 1]), ([6], [2, 2]), ([6], [0])]


@pytest.mark.parametrize("objective", [DPO(beta=0.5), IPO(beta=0.5), KTO(beta=0.5)], ids=lambda o: o.kind)  # fmt: skip
def test_an_unmoved_policy_has_the_known_loss(objective: Any) -> None:
    """Where policy and reference are one, every ratio is 0: log 2, 1 / (4 beta^2), 1 / 2."""
    torch.manual_seed(4)
    model = Tiny(7, 4)
    batch = {**packed(PAIRS, 8), "margins": torch.zeros(2)}
    batch |= others(slice(0, 2))
    (move,) = known(objective, model).losses(model, batch)
    expected = {"dpo": math.log(2), "ipo": 1.0, "kto": 0.5}[objective.kind]
    assert move.loss.item() / float(move.weight) == pytest.approx(expected, abs=1e-6)
    assert float(move.weight) == (4 if objective.kind == "kto" else 2)
    found = known(objective, model).measure(model, batch)
    assert float(found["accuracy"][0]) == 1.0 and found["accuracy"][1] == 2  # two ties


EVERY = [DPO(beta=0.5, smoothing=0.1), IPO(beta=0.5), KTO(beta=0.5), KTO(beta=0.5, bad=2.0)]


def others(which: slice) -> dict[str, Tensor]:
    """Prompts with the answers to others, as KTO's baseline needs."""
    found = packed([([1, 2], [2, 2]), ([6], [3])][which], 8)
    return {f"other_{name}": value for name, value in found.items()}


@pytest.mark.parametrize("objective", EVERY, ids=lambda o: o.kind)
def test_the_gradient_of_every_objective_is_that_of_its_loss(objective: Any) -> None:
    """In float64 through the model and the packed rows, against differences; KTO's baseline is a constant."""
    torch.manual_seed(6)
    model, reference = Tiny(7, 4).double(), Tiny(7, 4).double()
    learner = known(objective, reference)
    if objective.kind == "kto":  # a baseline that does not move with the model: 0
        flat = {f"other_{n}": v for n, v in packed([([1], [2])] * 2, 8).items()}
        flat["other_targets"] = torch.full_like(flat["other_targets"], -100)
    else:
        flat = {}
    batch = {**packed(PAIRS, 8), **flat, "margins": torch.zeros(2)}

    def loss(weight: Tensor) -> Tensor:
        class Now:
            states = model.states

            @staticmethod
            def head(states: Tensor) -> Tensor:
                return states @ weight.T

        (move,) = learner.losses(Now(), batch)
        return move.loss

    start = model.head.weight.detach().clone().requires_grad_()
    assert loss(start).dtype == torch.float64 and torch.autograd.gradcheck(loss, (start,))


def test_the_gradient_of_the_reward_loss() -> None:
    rewards = torch.randn(6, dtype=torch.float64, requires_grad=True)
    batch = {"margins": torch.rand(3, dtype=torch.float64)}

    def loss(rewards: Tensor) -> Tensor:
        (move,) = RewardLoss(center=0.1).losses(lambda batch: rewards, batch)  # type: ignore[arg-type]
        return move.loss

    assert torch.autograd.gradcheck(loss, (rewards,))
    parts = [
        next(RewardLoss(center=0.1).losses(lambda b: rewards[2 * i : 2 * i + 2], {"margins": batch["margins"][i : i + 1]}))  # type: ignore[arg-type]  # noqa: B023
        for i in range(3)
    ]  # fmt: skip
    torch.testing.assert_close(loss(rewards), sum(move.loss for move in parts))


@pytest.mark.parametrize("objective", EVERY, ids=lambda o: o.kind)
def test_batches_of_one_pair_sum_to_the_whole(objective: Any) -> None:
    """KTO too, where all have the same baseline: here it is clamped to 0 in each part and in the whole."""
    torch.manual_seed(5)
    model, reference = Tiny(7, 4), Tiny(7, 4)
    if (
        objective.kind == "kto"
    ):  # a reference that finds the others' answers likelier than the model does
        reference.head.bias.data[[2, 3]] += 5
    learner = known(objective, reference)
    (whole,) = learner.losses(model, {**packed(PAIRS, 8), **others(slice(0, 2)), "margins": torch.zeros(2)})  # fmt: skip
    parts = [
        next(learner.losses(model, {**packed(PAIRS[2 * i : 2 * i + 2], 8), **others(slice(i, i + 1)), "margins": torch.zeros(1)}))
        for i in (0, 1)
    ]  # fmt: skip
    torch.testing.assert_close(whole.loss, parts[0].loss + parts[1].loss)
    assert whole.weight == parts[0].weight + parts[1].weight


def test_dpo_reaches_the_closed_form() -> None:
    """On one step with known rewards, pi is proportional to pi_ref exp(r / beta): Rafailov et al. 2023, equation 4.

    The preferences are the Bradley-Terry probabilities of the rewards, of every pair, in both directions.
    """
    rewards = torch.tensor([1.0, 0.0, -0.5, 0.7], dtype=torch.float64)
    reference = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()
    beta, logits = 0.6, torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        gained = logits.log_softmax(0) - reference
        total = torch.zeros((), dtype=torch.float64)
        for i in range(4):
            for j in range(4):
                preferred = torch.sigmoid(rewards[i] - rewards[j])
                total = total + preferred * dpo(gained[i : i + 1], gained[j : j + 1], beta)[0]
        total.backward()
        return total

    optimizer.step(loss)
    best = (reference + rewards / beta).softmax(0)
    torch.testing.assert_close(logits.softmax(0), best, rtol=1e-4, atol=1e-5)


def test_a_margin_is_nats_in_the_log_and_in_a_measurement() -> None:
    torch.manual_seed(7)
    model, reference = Tiny(7, 4), Tiny(7, 4)
    batch = {**packed(PAIRS, 8), "margins": torch.zeros(2)}
    for objective in (DPO(beta=0.1), IPO(beta=0.1)):
        learner = known(objective, reference)
        (move,) = learner.losses(model, batch)
        total, weight = learner.measure(model, batch)["margin"]
        assert float(move.logs["margin"]) == pytest.approx(total.item() / weight) != 0


def test_without_others_kto_says_so() -> None:
    model = Tiny(7, 4)
    batch = {**packed(PAIRS, 8), "margins": torch.zeros(2)}
    with pytest.raises(ValueError, match="answers to others"):
        next(known(KTO(), model).losses(model, batch))
