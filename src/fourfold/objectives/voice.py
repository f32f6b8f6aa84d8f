"""What a voice model wants: the clip again, its speaker heard, and other voices that say the same.

Contrast among speakers: van den Oord et al. 2018, https://arxiv.org/abs/1807.03748; cycles: Kaneko and Kameoka 2017,
https://arxiv.org/abs/1711.11293. Shapes: B batch, M mel bands, T frames, t frames of the content, D features, S speakers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.shares import drawn


class VoiceApart(Objective):
    """Absolute error of the mel, commitment, contrast among speakers, and content that survives another voice.

    In the mean over frames: |x - x'| + commitment |z - e|^2 + contrast (H(speaker | clip) + H(other | converted clip))
    + cycle |z(converted) - e|^2, with z the content's vectors, e their codes, H the cross-entropy of who is heard.
    """

    commitment: NonNegativeFloat = 0.25
    """Weight of the distance between content and its code."""
    contrast: NonNegativeFloat = 0.2
    """Weight of who is heard, in a clip and in its conversion to a speaker drawn by lot."""
    cycle: NonNegativeFloat = 0.5
    """Weight of how far the content of a conversion is from the clip's codes."""

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        voice: Any = model
        mel, lengths, speaker = batch["mel"], batch["lengths"], batch["speaker"]
        made = voice(mel, lengths, speaker)
        error, inside = _error(made.mel, mel, lengths), _inside(made.content.codes, lengths)
        commitment = (made.content.commitment * inside).sum() * 2 / made.content.values.shape[-1]
        heard = _said(voice.heard(mel, lengths), speaker, lengths)
        loss = error + self.commitment * commitment + self.contrast * heard
        count = lengths.sum()
        logs = {"mel_error": error.detach() / count, "speaker_nats": heard.detach() / count}
        if (self.contrast or self.cycle) and voice.speakers.num_embeddings > 1:
            more, told = self._other_voice(voice, made.content, lengths, speaker)
            loss, logs = loss + more, {**logs, **{n: v / count for n, v in told.items()}}
        yield Move("model", loss, count, logs)

    def _other_voice(
        self, voice: Any, content: Any, lengths: Tensor, speaker: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the same content in another voice is worth."""
        speakers = voice.speakers.num_embeddings
        further = drawn(
            len(speaker), lambda n: torch.randint(1, speakers, (n,), device=speaker.device)
        )
        other = (speaker + further) % speakers
        mel = voice.spoken(content.values, other, lengths)
        # the listener learns from recordings alone: it must not learn to be pleased by conversions
        still = {name: p.detach() for name, p in voice.listener.named_parameters()}
        heard = _said(voice.heard(mel, lengths, still), other, lengths)
        again = voice.encoder(mel, lengths)
        most = again.shape[
            1
        ]  # of rows that are a part of a batch, none may be as long as the batch
        apart = (again - content.values[:, :most].detach()).square().mean(-1)
        cycle = 2 * (apart * _inside(content.codes[:, :most], lengths)).sum()
        told = {"other_nats": heard.detach(), "cycle": cycle.detach()}
        return self.contrast * heard + self.cycle * cycle, told

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float | None]]:
        """Error of the mel first; how often the speaker is heard, and the other one in a conversion to the next."""
        voice: Any = model
        mel, lengths, speaker = batch["mel"], batch["lengths"], batch["speaker"]
        made = voice(mel, lengths, speaker)
        other = (speaker + 1) % voice.speakers.num_embeddings
        converted = voice.spoken(made.content.values, other, lengths)
        right = voice.heard(mel, lengths).argmax(1) == speaker
        changed = voice.heard(converted, lengths).argmax(1) == other
        return {
            "mel_error": (_error(made.mel, mel, lengths), lengths.sum()),
            "speaker_heard": (right.sum(), len(speaker)),
            "other_heard": (changed.sum(), len(speaker)),
        }

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"mel_error": "deviations", "speaker_heard": "share", "other_heard": "share"}


def _error(made: Tensor, mel: Tensor, lengths: Tensor) -> Tensor:
    """Absolute error, mean over bands and sum over frames."""
    inside = torch.arange(mel.shape[-1], device=mel.device) < lengths[:, None]
    return ((made.float() - mel).abs().mean(1) * inside).sum()


def _inside(codes: Tensor, lengths: Tensor) -> Tensor:
    """(B, t) which codes belong to each clip."""
    return torch.arange(codes.shape[1], device=codes.device) < ((lengths + 1) // 2)[:, None]


def _said(logits: Tensor, speaker: Tensor, lengths: Tensor) -> Tensor:
    """Cross-entropy of each clip, counted once for each of its frames."""
    return (F.cross_entropy(logits.float(), speaker, reduction="none") * lengths).sum()
