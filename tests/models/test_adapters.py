"""LoRA against PEFT, both ways: forward, gradients, merging, the saved layout; what does not fit is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from fourfold.core.errors import UserError
from fourfold.models.adapter_folder import Settings, StoredAdapter, compact, save_adapter
from fourfold.models.adapters import adapt, adaptable, adapters, give, merged
from fourfold.models.families import save_model
from fourfold.models.family_weights import llama_name
from fourfold.models.nf4 import NF4Linear, with_nf4
from fourfold.models.torch_decoder import TorchDecoder
from fourfold.models.transformer import Transformer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peft = pytest.importorskip("peft")
    from transformers import LlamaForCausalLM

# of transformers and peft about one another
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")


def small(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    sizes = {"vocabulary": 19, "width": 24, "layers": 2, "heads": 4, "kv_heads": 2, "window": 16}
    model = Transformer(**{**sizes, **changes}).eval()
    for parameter in model.parameters():  # norms away from one, logits away from equal
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3)
    return model


def adapted(*patterns: str, **changes: Any) -> Transformer:
    model = small()
    adapt(model, patterns, **{"rank": 3, "alpha": 5.0, **changes})
    for lora in adapters(model).values():
        nn.init.normal_(lora.b, 0.0, 0.3)
    return model


TOKENS = torch.arange(22).view(2, 11) % 19


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("patterns", [(), ("query", "value"), ("blocks.1.feedforward",)])
def test_peft_reads_ours(tmp_path: Path, patterns: tuple[str, ...], rslora: bool) -> None:
    save_model(small(), tmp_path / "base")
    model = adapted(*patterns, rslora=rslora)
    settings = Settings(3, 5.0, rslora=rslora, base=str(tmp_path / "base"))
    save_adapter(model, tmp_path / "adapter", settings, llama_name)
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base").eval()
    plain = base(TOKENS).logits.detach()
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    wanted = theirs(TOKENS).logits
    assert (wanted - plain).abs().max() > 0.1  # the adapter says something
    torch.testing.assert_close(model(TOKENS), wanted, atol=1e-4, rtol=1e-4)
    # merged: the same weights as PEFT's
    whole = dict(theirs.merge_and_unload().named_parameters())
    for name, weight in merged(model).named_parameters():
        torch.testing.assert_close(weight, whole[llama_name(name)], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(merged(model)(TOKENS), wanted, atol=1e-4, rtol=1e-4)


def theirs_trained(tmp_path: Path, **changes: Any) -> Any:
    save_model(small(), tmp_path / "base")
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    config = {
        "r": 2,
        "lora_alpha": 7,
        "target_modules": ["q_proj", "down_proj"],
        "task_type": "CAUSAL_LM",
    }
    theirs = peft.get_peft_model(base, peft.LoraConfig(**{**config, **changes}))
    torch.manual_seed(1)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, 0.0, 0.3)
    theirs.save_pretrained(tmp_path / "adapter")
    return theirs


def test_ours_reads_peft(tmp_path: Path) -> None:
    theirs = theirs_trained(tmp_path)
    stored = StoredAdapter(tmp_path / "adapter")
    assert stored.settings == Settings(2, 7.0, base=str(tmp_path / "base"))
    model = small()
    names = stored.put_on(model, llama_name)
    assert compact(model, names) == ("attention.query", "feedforward.down")
    torch.testing.assert_close(model(TOKENS), theirs.eval()(TOKENS).logits, atol=1e-4, rtol=1e-4)
    # and what is learned next is the same: gradients of every adapter
    theirs.train()
    F.cross_entropy(model(TOKENS).mT, TOKENS).backward()
    F.cross_entropy(theirs(TOKENS).logits.mT, TOKENS).backward()
    wanted = {n: p.grad for n, p in theirs.named_parameters() if p.requires_grad}
    found = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert len(found) == len(wanted) == 8
    for name, lora in adapters(model).items():
        stem = f"base_model.model.{llama_name(f'{name}.weight').removesuffix('.weight')}"
        torch.testing.assert_close(
            lora.a.grad, wanted[f"{stem}.lora_A.default.weight"], atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            lora.b.grad, wanted[f"{stem}.lora_B.default.weight"], atol=1e-5, rtol=1e-4
        )


def test_the_saved_layout_is_peft_s(tmp_path: Path) -> None:
    theirs_trained(tmp_path)
    model = small()
    stored = StoredAdapter(tmp_path / "adapter")
    stored.put_on(model, llama_name)
    save_adapter(model, tmp_path / "ours", stored.settings, llama_name)
    ours, wanted = (
        load_file(tmp_path / f / "adapter_model.safetensors") for f in ("ours", "adapter")
    )
    assert ours.keys() == wanted.keys() and all(torch.equal(ours[n], wanted[n]) for n in ours)
    config, other = (
        json.loads((tmp_path / f / "adapter_config.json").read_text()) for f in ("ours", "adapter")
    )
    assert set(config["target_modules"]) == set(other["target_modules"])
    differing = {n for n in config if config[n] != other.get(n)}
    assert differing <= {"target_modules", "inference_mode"}


def test_an_adapted_model_begins_as_the_model_and_only_adapters_learn() -> None:
    plain, model = small(), small()
    names = adapt(model, rank=2, alpha=4.0)
    assert torch.equal(model(TOKENS), plain(TOKENS)) and len(names) == 14
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        f"{n}.lora.{half}" for n in names for half in "ab"
    }
    before = plain.state_dict()
    assert set(before) == {n for n in model.state_dict() if ".lora." not in n}


def test_merging_leaves_the_adapted_model_as_it_was() -> None:
    model = adapted()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    plain = merged(model)
    assert plain is not model and set(plain.state_dict()) == set(small().state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert merged(plain) is plain
    assert plain.embedding.weight is model.embedding.weight  # not held twice
    assert plain.head.weight is plain.embedding.weight


@pytest.mark.parametrize("quantized", [False, True])
def test_generation_uses_the_adapters(quantized: bool) -> None:
    model = small()
    if quantized:
        weights = model.state_dict()
        with_nf4(model)
        give(model, weights)
    adapt(model, rank=3, alpha=5.0)
    for lora in adapters(model).values():
        nn.init.normal_(lora.b, 0.0, 0.3)
    decoder = TorchDecoder(model, 2, torch.float32)
    torch.testing.assert_close(
        decoder.read([0, 1], TOKENS[:, :5].tolist()),
        model(TOKENS[:, :5])[:, -1],
        atol=1e-4,
        rtol=1e-4,
    )
    for at in (5, 6):
        found = decoder.read([0, 1], TOKENS[:, at : at + 1].tolist())
        torch.testing.assert_close(found, model(TOKENS[:, : at + 1])[:, -1], atol=1e-4, rtol=1e-4)


def test_dropout_only_while_training() -> None:
    model = adapted(dropout=0.5)
    assert torch.equal(model(TOKENS), model(TOKENS))
    model.train()
    assert not torch.equal(model(TOKENS), model(TOKENS))


def test_four_bits_below_adapters() -> None:
    plain = small()
    model = small()
    with_nf4(model)
    adapt(model, rank=3, alpha=6.0)
    give(model, plain.state_dict())
    layers = [m for m in model.modules() if isinstance(m, NF4Linear)]
    assert len(layers) == 14 and isinstance(model.head, nn.Linear)
    wanted = small()
    for name, layer in wanted.named_modules():
        if isinstance(layer, nn.Linear) and name != "head":
            layer.weight.data = model.get_submodule(name).unpacked()
    torch.testing.assert_close(model(TOKENS), wanted(TOKENS))
    torch.testing.assert_close(merged(model)(TOKENS), wanted(TOKENS))
    F.cross_entropy(model(TOKENS).mT, TOKENS).backward()
    moving = {n for n, p in model.named_parameters() if p.grad is not None}
    assert moving == {n for n, _ in model.named_parameters() if ".lora." in n}


@pytest.mark.parametrize(
    "pattern, count",
    [
        ("query", 2),
        ("attention", 8),
        ("blocks.0.*", 7),
        ("*.up", 2),
        ("head", 1),
        ("blocks.1.feedforward.gate", 1),
    ],
)
def test_patterns(pattern: str, count: int) -> None:
    assert len(adaptable(small(tied=False), [pattern])) == count


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match=r"--adapt qurey: no linear layer of this name.*query"):
        adapt(small(), ["qurey"], rank=2, alpha=1.0)
    with pytest.raises(UserError, match="head: shares its weight with embedding"):
        adapt(small(), ["head"], rank=2, alpha=1.0)
    with pytest.raises(UserError, match="--rank 500: .* expected 1 to 24"):
        adapt(small(), rank=500, alpha=1.0)
    model, weights = small(), small().state_dict()
    adapt(model, rank=2, alpha=4.0)
    with pytest.raises(
        UserError, match=r"embedding.weight is \(20, 24\) there and \(19, 24\) here"
    ):
        give(model, small(vocabulary=20).state_dict())
    del weights["norm.weight"]
    with pytest.raises(UserError, match="norm.weight is missing"):
        give(model, weights)


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"layers": 1},
            r"adapts model.layers.1.*, which this base does not have; did you mean model.layers.0",
        ),
        (
            {"width": 32},
            r"another base: model.layers.0.mlp.down_proj, lora_A is \(2, 64\), .* need \(2, 96\)",
        ),
    ],
)
def test_an_adapter_for_another_base_is_refused(tmp_path: Path, changes: Any, words: str) -> None:
    theirs_trained(tmp_path)
    with pytest.raises(UserError, match=words):
        StoredAdapter(tmp_path / "adapter").put_on(small(**changes), llama_name)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"peft_type": "IA3"}, "peft_type: expected 'LORA', got 'IA3'"),
        ({"use_dora": True}, "use_dora: expected False, got True"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "init_lora_weights: expected True, got 'pissa_niter_4'",
        ),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias: expected 'none'"),
        ({"r": 0}, "expected r >= 1"),
    ],
)
def test_other_kinds_of_adapters_are_refused(tmp_path: Path, changes: Any, words: str) -> None:
    theirs_trained(tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=words):
        StoredAdapter(tmp_path / "adapter")


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    theirs_trained(tmp_path)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "base_model.model.lm_head.weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="holds base_model.model.lm_head.weight; only low-rank"):
        StoredAdapter(tmp_path / "adapter")
    path.rename(path.with_name("adapter_model.bin"))
    with pytest.raises(UserError, match="pickled"):
        StoredAdapter(tmp_path / "adapter")
