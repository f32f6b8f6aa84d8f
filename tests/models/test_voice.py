"""The voice model: padding says nothing, content does not hold what is constant, speakers change the decoder alone."""

from __future__ import annotations

import torch

from fourfold.models.voice import VoiceModel, instance_norm
from fourfold.objectives.voice import VoiceApart


def model(levels: int = 1) -> VoiceModel:
    torch.manual_seed(0)
    return VoiceModel(6, 3, width=8, features=4, codes=16, speaker=5, blocks=2, levels=levels)


def test_levels_of_codes_are_all_heard_in_a_conversion() -> None:
    voice = model(levels=2)
    mel, lengths, speaker = torch.randn(2, 6, 10), torch.tensor([10, 7]), torch.tensor([0, 2])
    made = voice(mel, lengths, speaker)  # the codebook begins with these vectors
    voice.eval()
    codes = voice.codes(mel, lengths)
    assert codes.shape == (2, 5, 2) and made.content.codes.shape == codes.shape
    content = sum(voice.quantizer.codebook[n][codes[..., n]] for n in range(2))
    wanted = voice.decoder(content, voice.speakers(speaker), lengths)
    torch.testing.assert_close(voice.converted(mel, lengths, speaker), wanted)


def test_instance_norm_is_that_of_each_clip_alone() -> None:
    torch.manual_seed(0)
    x, lengths = torch.randn(2, 3, 9), (9, 5)
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    found = instance_norm(x, mask)
    for row, length in enumerate(lengths):
        oracle = torch.nn.functional.instance_norm(x[row : row + 1, :, :length])
        torch.testing.assert_close(found[row, :, :length], oracle[0], rtol=1e-4, atol=1e-5)
        assert (found[row, :, length:] == 0).all()


def test_what_stands_behind_a_clip_changes_nothing() -> None:
    voice = model().eval()
    short = torch.randn(1, 6, 11)
    lengths, speaker = torch.tensor([11, 16]), torch.tensor([1, 2])
    both = torch.randn(2, 6, 16)
    both[0, :, :11] = short[0]
    alone, among = voice.codes(short, lengths[:1]), voice.codes(both, lengths)
    assert torch.equal(alone[0], among[0, :6])
    made = voice(short, lengths[:1], speaker[:1]).mel
    torch.testing.assert_close(
        voice(both, lengths, speaker).mel[0, :, :11], made[0], rtol=1e-4, atol=1e-5
    )
    heard = voice.heard(short, lengths[:1])
    torch.testing.assert_close(voice.heard(both, lengths)[0], heard[0], rtol=1e-4, atol=1e-5)


def test_content_does_not_hold_what_is_constant() -> None:
    """A filter that stays the same over a clip, as a microphone's, adds a constant to each log-mel band."""
    voice = model().eval()
    mel = torch.randn(1, 6, 30)
    lengths = torch.tensor([30])
    louder = voice.encoder(mel + 2.0, lengths)
    interior = slice(4, -4)  # zeros beyond the edges are no part of the clip
    torch.testing.assert_close(
        louder[:, interior], voice.encoder(mel, lengths)[:, interior], rtol=0, atol=0.5
    )
    apart = (louder - voice.encoder(mel, lengths))[:, interior].abs().mean()
    assert apart < 0.2 * voice.encoder(mel, lengths).abs().mean()


def test_a_speaker_changes_the_voice_and_not_the_codes() -> None:
    voice = model().eval()
    mel, lengths = torch.randn(1, 6, 13), torch.tensor([13])
    first, second = (voice.converted(mel, lengths, torch.tensor([s])) for s in (0, 2))
    assert first.shape == mel.shape and not torch.equal(first, second)
    torch.testing.assert_close(voice(mel, lengths, torch.tensor([2])).mel, second)


def test_the_listener_does_not_learn_from_conversions() -> None:
    """Of the loss's terms on conversions, no gradient reaches the listener or the table it is compared with."""
    voice = model()
    batch = {
        "mel": torch.randn(4, 6, 12),
        "lengths": torch.tensor([12, 10, 12, 7]),
        "speaker": torch.tensor([0, 1, 2, 0]),
    }
    found = []
    for contrast_only in (False, True):
        torch.manual_seed(1)
        voice.zero_grad()
        objective = VoiceApart(cycle=0.0)
        if contrast_only:  # the first term alone
            objective.__dict__["_other_voice"] = lambda *_: (torch.zeros(()), {})
        next(iter(objective.losses(voice, batch))).loss.backward()
        found.append([p.grad.clone() for p in voice.listener.parameters() if p.grad is not None])
    assert found[0] and len(found[0]) == len(found[1])
    for with_, without in zip(*found, strict=True):
        torch.testing.assert_close(with_, without)


def test_losses_are_sums_over_frames() -> None:
    voice = model().eval()
    batch = {
        "mel": torch.randn(2, 6, 12),
        "lengths": torch.tensor([12, 8]),
        "speaker": torch.tensor([0, 1]),
    }
    move = next(iter(VoiceApart(contrast=0.0, cycle=0.0, commitment=0.0).losses(voice, batch)))
    made = voice(batch["mel"], batch["lengths"], batch["speaker"]).mel
    error = (made - batch["mel"]).abs().mean(1)
    torch.testing.assert_close(move.loss, error[0].sum() + error[1, :8].sum())
    assert float(move.weight) == 20
