"""Content and speaker of a recording, apart: what is said as codes, who says it as a vector.

Instance normalization takes the speaker out of the content (Chou, Yeh and Lee 2019, https://arxiv.org/abs/1904.05742),
quantization what is left of it (Wu, Chen and Lee 2020, https://arxiv.org/abs/2006.04154); the decoder is told the
speaker by a scale and a shift of its features (Perez et al. 2018). Shapes: B batch, M mel bands, T frames, t frames of
the content (T / 2), W features inside, D of a code, E of a speaker, S speakers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.models.quantizer import Quantized, Quantizer

TEMPERATURE = 0.1
"""Of the cosines between what is heard and the speakers."""
EPS = 1e-5


def frames(lengths: Tensor, most: int) -> Tensor:
    """(B, most) bool: which frames belong to each clip."""
    return torch.arange(most, device=lengths.device) < lengths[:, None]


def halved(lengths: Tensor) -> Tensor:
    """Frames of the content."""
    return (lengths + 1) // 2


def instance_norm(x: Tensor, mask: Tensor) -> Tensor:
    """Each clip's features at mean 0 and deviation 1 over its own frames: x (B, W, T), mask (B, T) bool."""
    inside = mask[:, None].to(x.dtype)
    count = inside.sum(-1, keepdim=True).clamp_min(1)
    mean = (x * inside).sum(-1, keepdim=True) / count
    variance = ((x - mean).square() * inside).sum(-1, keepdim=True) / count
    return (x - mean) * (variance + EPS).rsqrt() * inside


def _convolution(into: int, out: int) -> nn.Conv1d:
    return nn.Conv1d(into, out, 5, padding=2)


class ContentEncoder(nn.Module):
    """Mel to content vectors, at half the frames, without what is constant over a clip."""

    def __init__(self, mels: int, width: int, features: int, blocks: int) -> None:
        super().__init__()
        self.into = _convolution(mels, width)
        self.blocks = nn.ModuleList(_convolution(width, width) for _ in range(blocks))
        self.out = nn.Conv1d(2 * width, features, 1)

    def forward(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """(B, M, T) and (B,) to (B, t, D)."""
        mask = frames(lengths, mel.shape[-1])
        x = self.into(mel * mask[:, None])
        for block in self.blocks:
            x = x + block(F.gelu(instance_norm(x, mask)))
        x = instance_norm(x, mask)
        x = F.pad(x, (0, x.shape[-1] % 2))
        pairs = torch.cat([x[..., ::2], x[..., 1::2]], 1)  # (B, 2 W, t)
        return self.out(pairs).transpose(1, 2)


class Listener(nn.Module):
    """Mel to a vector of who speaks: means and deviations over time."""

    def __init__(self, mels: int, width: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_convolution(mels, width), _convolution(width, width)])
        self.out = nn.Linear(2 * width, out)

    def forward(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """(B, M, T) and (B,) to (B, E)."""
        inside = frames(lengths, mel.shape[-1])[:, None].to(mel.dtype)
        x = mel * inside
        for layer in self.layers:
            x = F.gelu(layer(x)) * inside
        count = inside.sum(-1).clamp_min(1)
        mean = x.sum(-1) / count
        variance = ((x - mean[..., None]).square() * inside).sum(-1) / count
        return self.out(torch.cat([mean, (variance + EPS).sqrt()], 1))


class VoiceDecoder(nn.Module):
    """Content and speaker to mel."""

    def __init__(self, mels: int, width: int, features: int, speaker: int, blocks: int) -> None:
        super().__init__()
        self.into = nn.Conv1d(features, 2 * width, 3, padding=1)
        self.blocks = nn.ModuleList(_convolution(width, width) for _ in range(blocks))
        self.told = nn.ModuleList(nn.Linear(speaker, 2 * width) for _ in range(blocks))
        self.out = _convolution(width, mels)

    def forward(self, content: Tensor, speaker: Tensor, lengths: Tensor) -> Tensor:
        """(B, t, D), (B, E) and (B,) frames to (B, M, T), T the most frames."""
        mask = frames(lengths, int(lengths.max()))
        inside = mask[:, None].to(content.dtype)
        both = self.into(
            (content * frames(halved(lengths), content.shape[1])[..., None]).transpose(1, 2)
        )
        first, second = both.chunk(2, 1)
        x = torch.stack([first, second], -1).flatten(2)[..., : inside.shape[-1]]  # (B, W, T)
        for block, told in zip(self.blocks, self.told, strict=True):
            scale, shift = told(speaker)[..., None].chunk(2, 1)
            x = x + block(F.gelu(instance_norm(x, mask) * (1 + scale) + shift) * inside)
        return self.out(F.gelu(x) * inside)


class Voiced(NamedTuple):
    """What the model makes of clips."""

    mel: Tensor
    """(B, M, T)."""
    content: Quantized
    """(B, t, D)."""


class VoiceModel(nn.Module):
    """Recordings as codes and speakers.

    Args:
        mels: M.
        speakers: S.
        width: W.
        features: D.
        codes: of a level of the codebook.
        levels: of codes, each of which quantizes what the ones before left over.
        speaker: E.
        blocks: of the encoder and the decoder.
    """

    def __init__(
        self, mels: int, speakers: int, *, width: int, features: int, codes: int, speaker: int, blocks: int,
        levels: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = ContentEncoder(mels, width, features, blocks)
        self.quantizer = Quantizer(features, codes, levels)
        self.speakers = nn.Embedding(speakers, speaker)
        self.listener = Listener(mels, width, speaker)
        self.decoder = VoiceDecoder(mels, width, features, speaker, blocks)

    def forward(self, mel: Tensor, lengths: Tensor, speaker: Tensor) -> Voiced:
        """The same clips again: mel (B, M, T), lengths (B,), speaker (B,) int64."""
        content = self.quantizer(self.encoder(mel, lengths))
        made = self.spoken(content.values, speaker, lengths)
        # of rows that are a part of a batch, none may be as long as the batch
        return Voiced(F.pad(made, (0, mel.shape[-1] - made.shape[-1])), content)

    def codes(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """(B, t, levels) int64; the codebook stays as it is."""
        return self.quantizer.encode(self.encoder(mel, lengths))

    def spoken(self, content: Tensor, speaker: Tensor, lengths: Tensor) -> Tensor:
        """Content (B, t, D) in the voices of speakers (B,) int64: mel (B, M, T)."""
        return self.decoder(content, self.speakers(speaker), lengths)

    def converted(self, mel: Tensor, lengths: Tensor, speaker: Tensor) -> Tensor:
        """Clips in other voices, (B, M, T)."""
        codes = self.codes(mel, lengths)
        return self.spoken(self.quantizer.values(codes), speaker, lengths)

    def heard(
        self, mel: Tensor, lengths: Tensor, parameters: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Logits of who speaks, (B, S): cosines to the speakers' vectors.

        Args:
            mel, lengths: clips.
            parameters: of the listener, instead of its own.
        """
        found = (
            self.listener(mel, lengths)
            if parameters is None
            else torch.func.functional_call(self.listener, dict(parameters), (mel, lengths))
        )
        table = self.speakers.weight if parameters is None else self.speakers.weight.detach()
        return F.normalize(found, dim=1) @ F.normalize(table, dim=1).T / TEMPERATURE
