"""Sentences through a latent: Bowman et al. 2016, https://arxiv.org/abs/1511.06349, and the same through codes.

A recurrent layer reads a sentence to a latent; another, told the latent at its start and at every word, says it again.
Words that it reads are dropped while training, so that it has to listen to the latent. The codes are those of
`models/quantizer.py` (van den Oord et al. 2017), some for each sentence, under a prior of their own.
Shapes: B batch, T tokens, W width, Z numbers of the latent, P codes of a sentence, D features of a code, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.models.quantizer import Quantized, Quantizer
from fourfold.models.recurrent import GRU
from fourfold.models.vqvae import CodePrior


class SentenceReader(nn.Module):
    """Tokens to one vector: the state at the end, and the largest value of each feature on the way."""

    def __init__(self, vocabulary: int, width: int, out: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layer = GRU(width, width)
        self.out = nn.Linear(2 * width, out)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(B, T) and (B,) to (B, out)."""
        states, _ = self.layer(self.embedding(tokens))
        last = states[torch.arange(len(tokens), device=tokens.device), lengths - 1]
        beyond = torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]
        most = states.masked_fill(beyond[..., None], -1.0).amax(1)  # a GRU's states lie in (-1, 1)
        return self.out(torch.cat([last, most], 1))


class SentenceWriter(nn.Module):
    """A latent to a sentence, word by word.

    Args:
        vocabulary: V.
        width: W.
        latent: Z.
        end: the token that ends a sentence, and that is read before its first.
        blank: what dropped words are read as.
        drop: share of words that are dropped while training.
    """

    def __init__(
        self, vocabulary: int, width: int, latent: int, *, end: int, blank: int, drop: float
    ) -> None:
        super().__init__()
        self.end, self.blank, self.drop = end, blank, drop
        self.embedding = nn.Embedding(vocabulary, width)
        self.begin = nn.Linear(latent, width)
        self.layer = GRU(width + latent, width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor, latent: Tensor) -> Tensor:
        """Logits (B, T, V) of each token of (B, T), given those before it and (B, Z)."""
        before = F.pad(tokens[:, :-1], (1, 0), value=self.end)
        if self.training and self.drop:
            dropped = torch.rand(before.shape, device=before.device) < self.drop
            before = before.masked_fill(dropped, self.blank)
        told = latent[:, None].expand(-1, before.shape[1], -1)
        x = torch.cat([self.embedding(before), told], -1)
        states, _ = self.layer(x, (torch.tanh(self.begin(latent)),))
        return self.head(states)

    def nats(self, tokens: Tensor, lengths: Tensor, latent: Tensor) -> Tensor:
        """What each sentence costs given its latent, (B,)."""
        logits = self(tokens, latent).float()
        costs = F.cross_entropy(logits.movedim(-1, 1), tokens, reduction="none")
        inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        return (costs * inside).sum(1)

    @torch.no_grad()
    def write(
        self,
        latent: Tensor,
        longest: int,
        *,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Sentences (B, up to longest) of latents (B, Z), the end token behind each.

        Args:
            latent: what they are told.
            longest: tokens at most.
            temperature: of the draw; 0 takes the likeliest word.
            generator: on the CPU.
        """
        state = (torch.tanh(self.begin(latent)),)
        last = torch.full((len(latent),), self.end, device=latent.device)
        ended = torch.zeros_like(last, dtype=torch.bool)
        said = []
        for _ in range(longest):
            x = torch.cat([self.embedding(last), latent], 1)[:, None]
            states, state = self.layer(x, state)
            logits = self.head(states[:, 0]).float()
            logits[:, self.blank] = -torch.inf if self.blank != self.end else logits[:, self.blank]
            if temperature:
                shares = (logits / temperature).softmax(-1).cpu()
                last = torch.multinomial(shares, 1, generator=generator)[:, 0].to(latent.device)
            else:
                last = logits.argmax(-1)
            last = last.masked_fill(ended, self.end)
            ended = ended | (last == self.end)
            said.append(last)
            if bool(ended.all()):
                break
        return torch.stack(said, 1)


class GaussianSentences(nn.Module):
    """Sentences through a normal latent."""

    def __init__(
        self, vocabulary: int, width: int, latent: int, *, end: int, blank: int, drop: float
    ) -> None:
        super().__init__()
        self.latent = latent
        self.reader = SentenceReader(vocabulary, width, 2 * latent)
        self.writer = SentenceWriter(vocabulary, width, latent, end=end, blank=blank, drop=drop)

    def posterior(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, (B, Z) each."""
        mean, log_variance = self.reader(tokens, lengths).float().chunk(2, 1)
        return mean, log_variance.clamp(-12, 8)


class SentenceCodec(nn.Module):
    """Sentences to P codes and back."""

    def __init__(
        self, vocabulary: int, width: int, places: int, features: int, codes: int, *, end: int, blank: int, drop: float
    ) -> None:  # fmt: skip
        super().__init__()
        self.places, self.features = places, features
        self.reader = SentenceReader(vocabulary, width, places * features)
        self.quantizer = Quantizer(features, codes)
        self.writer = SentenceWriter(
            vocabulary, width, places * features, end=end, blank=blank, drop=drop
        )

    def read(self, tokens: Tensor, lengths: Tensor) -> Quantized:
        """Codes of sentences, (B, P, ...); while training the codebook follows."""
        return self.quantizer(
            self.reader(tokens, lengths).unflatten(1, (self.places, self.features))
        )

    def codes(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(B, P) int64."""
        vectors = self.reader(tokens, lengths).unflatten(1, (self.places, self.features))
        return self.quantizer.encode(vectors)[..., 0]

    def latent(self, codes: Tensor) -> Tensor:
        """What the writer is told of codes (B, P): (B, P D)."""
        return self.quantizer.values(codes[..., None]).flatten(1)


class CodedSentences(nn.Module):
    """The players: `codec` learns codes of sentences, `prior` how likely they are."""

    players = ("codec", "prior")

    def __init__(self, codec: SentenceCodec, prior: CodePrior) -> None:
        super().__init__()
        self.codec, self.prior = codec, prior

    def prior_nats(self, codes: Tensor) -> Tensor:
        """What codes (B, P) cost, (B,)."""
        return self.prior(codes[:, None, :, None])
