"""Bounds against the likelihood itself, by enumeration; KL against torch; free bits; diversity against sacrebleu."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from fourfold.models.sentence_latents import GaussianSentences, SentenceWriter
from fourfold.objectives.diversity import self_bleu
from fourfold.objectives.posterior import active_units, gaussian_kl
from fourfold.objectives.sentences import SentenceELBO, importance_bound

END = 0


def model(latent: int = 1) -> GaussianSentences:
    torch.manual_seed(0)
    made = GaussianSentences(3, 6, latent, end=END, blank=END, drop=0.0).eval()
    with torch.no_grad():
        made.writer.begin.weight.mul_(4)
        made.writer.head.weight.mul_(4)
    return made


def batch_of(sentences: list[tuple[int, ...]]) -> dict[str, Tensor]:
    longest = max(map(len, sentences)) + 1
    tokens = torch.full((len(sentences), longest), END)
    for row, one in zip(tokens, sentences, strict=True):
        row[: len(one)] = torch.tensor(one, dtype=torch.int64)
    return {"tokens": tokens, "lengths": torch.tensor([len(one) + 1 for one in sentences])}


def exact(made: GaussianSentences, batch: dict[str, Tensor]) -> Tensor:
    """-log p(x) by a fine grid over the one latent number."""
    grid = torch.linspace(-6, 6, 2001)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(grid) + math.log(12 / 2000)
    found = []
    with torch.no_grad():
        for row, length in zip(batch["tokens"], batch["lengths"], strict=True):
            many = row[None].expand(len(grid), -1)
            nats = made.writer.nats(many, length.expand(len(grid)), grid[:, None])
            found.append(-(prior - nats).logsumexp(0))
    return torch.stack(found)


def test_sentences_given_a_latent_have_probabilities_that_sum_to_one() -> None:
    """All sentences of up to 3 words, and what is left to longer ones."""
    made = model()
    sentences = [s for n in range(4) for s in itertools.product((1, 2), repeat=n)]
    batch, latent = batch_of(sentences), torch.full((len(sentences), 1), 0.7)
    with torch.no_grad():
        total = (-made.writer.nats(batch["tokens"], batch["lengths"], latent)).exp().sum()
        longer = torch.zeros(())
        for words in itertools.product((1, 2), repeat=4):  # the first 4 words, whatever follows
            tokens = torch.tensor([[*words]])
            longer += (-made.writer.nats(tokens, torch.tensor([4]), latent[:1])).exp().sum()
    torch.testing.assert_close(total + longer, torch.tensor(1.0))


def test_the_bounds_hold_and_close() -> None:
    made = model()
    batch = batch_of([(1,), (1, 2), (2, 2, 1), ()])
    truth = exact(made, batch)
    torch.manual_seed(0)
    with torch.no_grad():
        totals = [SentenceELBO().measure(made, batch)["bound"] for _ in range(300)]
    elbo = sum(float(t) / float(n) for t, n in totals) / 300  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    two = sum(float(importance_bound(made, batch, 2, generator).mean()) for _ in range(300)) / 300
    assert float(truth.mean()) < two < elbo
    many = importance_bound(made, batch, 4000, generator)
    torch.testing.assert_close(many, truth, rtol=0, atol=0.03)


def test_kl_is_that_of_torch() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    first = torch.distributions.Normal(mean, (log_variance / 2).exp())
    oracle = torch.distributions.kl_divergence(first, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_kl(mean, log_variance), oracle)


def test_free_bits_press_no_number_below_them() -> None:
    made = model(latent=3)
    batch = batch_of([(1,), (1, 2)])
    free, held = SentenceELBO(free_bits=1e6), SentenceELBO(free_bits=0.0)
    for objective, moved in ((free, False), (held, True)):
        made.zero_grad()
        torch.manual_seed(0)
        move = next(iter(objective.losses(made, batch)))
        torch.manual_seed(0)
        plain = next(iter(SentenceELBO(beta=0.0).losses(made, batch)))
        difference = torch.autograd.grad(move.loss - plain.loss, made.reader.out.weight)[0]
        assert bool(difference.abs().max() > 1e-6) is moved


def test_free_bits_are_of_the_mean_over_the_batch() -> None:
    """Of a number that tells much of one sentence and little of the other, the mean counts."""
    made = model(latent=3)
    batch = batch_of([(1,), (2, 2, 2, 1)])
    with torch.no_grad():
        made.reader.out.weight.mul_(6)
        kl = gaussian_kl(*made.posterior(batch["tokens"], batch["lengths"]))
        level = float(kl.mean())
        assert ((kl < level) != (kl.mean(0) < level)).any()
        losses = []
        for bits in (0.0, level):
            torch.manual_seed(0)
            losses.append(float(next(iter(SentenceELBO(free_bits=bits).losses(made, batch))).loss))
    given = 2 * (level - kl.mean(0)).clamp_min(0).sum()
    assert losses[1] - losses[0] == pytest.approx(float(given), rel=1e-4)


def test_a_sentence_is_read_alike_beside_a_longer_one() -> None:
    torch.manual_seed(0)
    made = model(latent=3)
    sentences = [(1,), (2, 1), (1, 2, 2, 1, 2)]
    with torch.no_grad():
        made.reader.embedding.weight[END] *= 10  # what padding is read as would show
        together = made.reader(*batch_of(sentences).values())
        alone = torch.cat([made.reader(*batch_of([one]).values()) for one in sentences])
    torch.testing.assert_close(together, alone)


def test_active_units_are_those_that_vary() -> None:
    means = torch.stack([torch.randn(100), torch.full((100,), 3.0), 0.05 * torch.randn(100)], 1)
    assert active_units(means).tolist() == [True, False, False]


def test_what_is_written_is_the_likeliest() -> None:
    torch.manual_seed(0)
    writer = SentenceWriter(5, 6, 2, end=END, blank=4, drop=0.5).eval()
    latent = 3 * torch.randn(4, 2)
    said = writer.write(latent, 6)
    for row, z in zip(said, latent, strict=True):
        tokens: list[int] = []
        while len(tokens) < 6 and (not tokens or tokens[-1] != END):
            logits = writer(torch.tensor([[*tokens, 0]]), z[None])[0, -1].detach()
            logits[4] = -torch.inf
            tokens.append(int(logits.argmax()))
        assert row[: len(tokens)].tolist() == tokens
    drawn = [
        writer.write(latent, 6, temperature=1.0, generator=torch.Generator().manual_seed(2))
        for _ in range(2)
    ]
    assert torch.equal(*drawn) and not (drawn[0] == 4).any()


def test_self_bleu_is_that_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    texts = [
        "the food was good here",
        "the food was bad here today",
        "we liked the food",
        "a film about the sea and us",
    ]
    metric = sacrebleu.metrics.BLEU(smooth_method="exp", tokenize="none", effective_order=True)
    expected = [
        metric.sentence_score(text, texts[:n] + texts[n + 1 :]).score / 100
        for n, text in enumerate(texts)
    ]
    found = self_bleu([text.split() for text in texts])
    assert found == pytest.approx(sum(expected) / len(expected), rel=1e-6)
    assert self_bleu([["a", "b", "c", "d"]] * 3) == pytest.approx(1.0)
    assert self_bleu([["a"]]) == 0.0
