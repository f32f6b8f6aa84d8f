"""The encoder equals transformers' BertForMaskedLM, folders go both ways, and every fast form equals the plain one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fourfold.core.errors import UserError
from fourfold.models.bert import Bert
from fourfold.models.bert_folder import load_bert, save_bert

transformers = pytest.importorskip("transformers")


def peer(**options: Any) -> nn.Module:
    settings = {
        "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 24, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, **options,
    }  # fmt: skip
    torch.manual_seed(1)
    model = transformers.BertForMaskedLM(transformers.BertConfig(**settings)).eval()
    with torch.no_grad():  # fresh biases and norms are 0 and 1: they would hide a mistake
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.2)
    return model


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(61, (3, 20), generator=generator)
    lengths = torch.tensor([20, 11, 1])
    return {
        "tokens": tokens,
        "keep": torch.arange(20) < lengths[:, None],
        "types": (torch.arange(20) > 7).long().repeat(3, 1),
    }


def theirs(model: nn.Module, given: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(
            input_ids=given["tokens"],
            attention_mask=given["keep"].long(),
            token_type_ids=given["types"],
        ).logits


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh"])
def test_logits_equal_transformers(tmp_path: Path, activation: str) -> None:
    model = peer(hidden_act=activation)
    model.save_pretrained(tmp_path)
    ours, config = load_bert(tmp_path)
    given = inputs()
    with torch.no_grad():
        logits = ours.eval()(given["tokens"], keep=given["keep"], types=given["types"])
    difference = (logits - theirs(model, given))[given["keep"]].abs().max()
    assert difference < 2e-5 and config["hidden_act"] == activation


def test_the_way_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = Bert(61, 32, 2, 4, hidden=40, window=20, types=3, eps=1e-9).eval()
    with torch.no_grad():
        for weight in ours.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    save_bert(ours, tmp_path, pad=5)
    model = transformers.BertForMaskedLM.from_pretrained(tmp_path).eval()
    given = inputs()
    with torch.no_grad():
        logits = ours(given["tokens"], keep=given["keep"], types=given["types"])
    assert (logits - theirs(model, given))[given["keep"]].abs().max() < 2e-5
    assert model.config.pad_token_id == 5 and model.config.layer_norm_eps == 1e-9
    again, _ = load_bert(tmp_path)
    state = again.state_dict()
    assert all(torch.equal(v, state[n]) for n, v in ours.state_dict().items())
    assert again.decoder.weight is again.embedding.weight


def test_a_folder_of_both_pretraining_tasks_and_old_names_of_norms(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=24,
    )  # fmt: skip
    torch.manual_seed(2)
    model = transformers.BertForPreTraining(config).eval()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    renamed = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): v
        for n, v in weights.items()
    }
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    ours, _ = load_bert(tmp_path)
    given = inputs()
    with torch.no_grad():
        logits = ours.eval()(given["tokens"], keep=given["keep"], types=given["types"])
        wanted = model(
            input_ids=given["tokens"],
            attention_mask=given["keep"].long(),
            token_type_ids=given["types"],
        ).prediction_logits
    assert (logits - wanted)[given["keep"]].abs().max() < 2e-5


def fresh() -> Bert:
    torch.manual_seed(3)
    return Bert(40, 16, 3, 2, window=16).double()


def test_only_some_places_equal_all_of_them() -> None:
    model = fresh()
    tokens = torch.randint(40, (4, 12))
    places = torch.tensor([[0, 5, 11], [1, 2, 3], [4, 4, 0], [11, 10, 9]])
    segments = torch.tensor([0] * 5 + [1] * 4 + [2] * 3).repeat(4, 1)
    keep = torch.arange(12) < torch.tensor([12, 10, 12, 12])[:, None]
    for given in ({}, {"segments": segments}, {"keep": keep}, {"segments": segments, "keep": keep}):
        results = []
        for some in (None, places):
            model.zero_grad()
            logits = model(tokens, places=some, **given)
            if some is None:
                logits = logits.gather(1, places[..., None].expand(-1, -1, 40))
            real = (keep.gather(1, places) | ("keep" not in given))[..., None]
            (logits * real).square().sum().backward()
            results.append(
                [(logits * real).detach(), *(p.grad.clone() for p in model.parameters())]
            )
        for plain, fast in zip(*results, strict=True):
            torch.testing.assert_close(plain, fast, rtol=1e-9, atol=1e-10)


def test_texts_in_one_row_do_not_see_one_another() -> None:
    model = fresh()
    tokens = torch.randint(40, (1, 12))
    segments = torch.tensor([[0] * 5 + [1] * 4 + [2] * 3])
    packed = model.states(tokens, segments=segments)
    alone = [model.states(tokens[:, a:b]) for a, b in ((0, 5), (5, 9), (9, 12))]
    torch.testing.assert_close(packed, torch.cat(alone, 1), rtol=1e-10, atol=1e-10)


def test_padding_is_not_seen_and_both_sides_are() -> None:
    model = fresh()
    tokens = torch.randint(40, (1, 12))
    keep = torch.arange(12)[None] < 7
    other = tokens.clone()
    other[:, 7:] = 1
    a, b = (model.states(t, keep=keep)[:, :7] for t in (tokens, other))
    assert torch.equal(a, b)
    torch.testing.assert_close(a, model.states(tokens[:, :7]), rtol=1e-10, atol=1e-10)
    for place in (0, 11):  # each position depends on the first and on the last
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % 40
        moved = (model.states(changed) - model.states(tokens)).abs().amax(-1)[0]
        assert (moved > 1e-6).all()


@pytest.mark.parametrize(
    "change, said",
    [
        (
            {"architectures": ["RobertaForMaskedLM"]},
            "RobertaForMaskedLM.*supported: BertForMaskedLM",
        ),
        ({"architectures": ["BertModel"]}, "architecture BertModel"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type: expected absolute"),
        ({"is_decoder": True}, "is_decoder: expected False"),
        ({"hidden_act": "relu"}, "hidden_act: expected gelu"),
        ({"num_attention_heads": 5}, "width divisible by heads"),
        ({"intermediate_size": 47}, "expected shape"),
        ({"num_hidden_layers": 4}, "have no bert.encoder.layer.3"),
        ({"max_position_embeddings": None}, "has no max_position_embeddings"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    peer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=said):
        load_bert(tmp_path)


def test_output_weights_of_their_own_are_refused(tmp_path: Path) -> None:
    peer().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["cls.predictions.decoder.weight"] = torch.zeros(61, 32)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="two are tied"):
        load_bert(tmp_path)


def test_wrong_calls() -> None:
    with pytest.raises(ValueError, match="divisible by heads"):
        Bert(10, 10, 1, 3)
    with pytest.raises(ValueError, match="an activation of gelu"):
        Bert(10, 8, 1, 2, activation="silu")
    with pytest.raises(ValueError, match=r"T <= 16"):
        fresh()(torch.zeros(1, 17, dtype=torch.long))
