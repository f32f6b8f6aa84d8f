"""Adapters as options of a system: what learns, what is kept, how a run goes on, and how it leaves."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import fourfold
from fourfold import api, fitting
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.state import load_state
from fourfold.models.adapters import adapters, merged
from fourfold.models.nf4 import NF4Linear

SUMS = {"text": ["\n".join(f"{a} and {b} make {a + b}." for a in range(40) for b in range(40))]}
OTHER = {"text": ["\n".join(f"{a} less {b} is {a - b}." for a in range(40) for b in range(a))]}
FAST: dict[str, Any] = {"optimizer.algorithm": "adamw", "optimizer.lr": 1e-2, "steps": 8}
LORA: dict[str, Any] = {**FAST, "adapter": "lora", "rank": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "base"
    small = {
        "layers": 2,
        "width": 32,
        "heads": 2,
        "data.unit": "bpe",
        "data.vocabulary": 300,
        "data.window": 32,
    }
    fourfold.fit("gpt", SUMS, out=out, **{**small, **FAST, "steps": 30})
    return out


def tuned(base: Path, out: Path, **options: Any) -> Run:
    return fourfold.fit("gpt", OTHER, from_=base, out=out, **{**LORA, **options})


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "lora"
    tuned(base, out)
    return out


# of transformers and peft about one another
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")
TOKENS = torch.arange(24).view(2, 12) % 17


def test_only_adapters_learn(base: Path, lora: Path) -> None:
    before = fourfold.open(base).model.state_dict()
    run = fourfold.open(lora)
    after = run.model.state_dict()
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    for name, adapter in adapters(run.model).items():
        assert adapter.b.abs().max() > 0, f"{name} did not move"
    assert set(after) - set(before) == {f"{n}.lora.{h}" for n in adapters(run.model) for h in "ab"}
    assert "Adapters of rank 2 on 14 layers" in " ".join(run.notes)


def test_it_learns(base: Path, tmp_path: Path) -> None:
    run = tuned(base, tmp_path / "more", steps=60)
    losses = [line["valid.loss"] for line in run.metrics.lines if "valid.loss" in line]
    assert losses[-1] < 0.8 * losses[0]


def test_a_checkpoint_holds_the_adapters_alone_and_goes_on_exactly(
    base: Path, tmp_path: Path
) -> None:
    options = {
        "optimizer.schedule": "constant",
        "optimizer.evaluate_every": "1",
        "optimizer.ema": 0.5,
    }
    whole = tuned(base, tmp_path / "whole", **options)
    tuned(base, tmp_path / "part", **options, steps=4)
    (file,) = (tmp_path / "part" / "checkpoints").glob("*/state.safetensors")
    assert all(".lora." in name for name in load_state(file)["model"])
    again = api.resume(tmp_path / "part", source=OTHER, steps=8)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    losses = [
        [line["valid.loss"] for line in run.metrics.lines if "valid.loss" in line]
        for run in (whole, again)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 8


def test_generation_says_what_the_adapted_model_says(lora: Path) -> None:
    run = fourfold.open(lora)
    for adapter in adapters(run.model).values():
        torch.nn.init.normal_(adapter.b, 0.0, 0.5)
    model = run.model
    said = []
    for each in (model, merged(model), merged(model, add=False)):
        run.model = each
        said.append("".join(run.generate("3 and", tokens=20, temperature=0)))
    assert said[0] == said[1] != said[2]


def test_a_run_with_adapters_is_begun_from_again(lora: Path, tmp_path: Path) -> None:
    old = fourfold.open(lora)
    wanted = old.model(TOKENS)

    def started(**options: Any) -> Run:
        run = Run(
            api.configure("gpt", {**FAST, **options}, base=old.system), about={"from": str(lora)}
        )
        fitting.begin(run, OTHER, None)
        run.model.eval()
        return run

    same = started()  # the same adapters go on
    assert torch.equal(same.model(TOKENS), wanted)
    other = started(rank=3)  # others begin on the merged weights
    torch.testing.assert_close(other.model(TOKENS), wanted, atol=1e-5, rtol=1e-4)
    assert all(a.rank == 3 and not a.b.any() for a in adapters(other.model).values())
    assert f"The adapters of {lora} are merged into the weights." in other.notes
    everything = started(adapter="none")
    assert not adapters(everything.model)
    assert all(p.requires_grad for p in everything.model.parameters())
    torch.testing.assert_close(everything.model(TOKENS), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("quantize", ["nf4", "nf4-double"])
def test_a_four_bit_base(base: Path, tmp_path: Path, quantize: str) -> None:
    run = tuned(base, tmp_path / "q", quantize=quantize)
    layers = [m for m in run.model.modules() if isinstance(m, NF4Linear)]
    assert len(layers) == 14
    fresh = fourfold.open(base).model
    for name, layer in run.model.named_modules():
        if isinstance(layer, NF4Linear):
            weight = fresh.get_submodule(name).weight
            assert (layer.weight - weight).abs().max() < 0.2 * weight.abs().max()
    said = " ".join(run.notes)
    assert "4 bits: the weights that stay take" in said and "rounding takes the loss from" in said
    with safe_open(tmp_path / "q" / "weights.safetensors", "pt") as file:  # type: ignore[no-untyped-call]
        stored = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert stored["blocks.0.attention.query.packed"] == "U8"
    assert "blocks.0.attention.query.weight" not in stored
    again = fourfold.open(tmp_path / "q")
    torch.testing.assert_close(again.model(TOKENS), run.model(TOKENS))
    (file,) = (tmp_path / "q" / "checkpoints").glob("*/state.safetensors")
    assert all(".lora." in name for name in load_state(file)["model"])
    # and its merged weights are another run's beginning
    full = fourfold.fit(
        "gpt", OTHER, from_=tmp_path / "q", out=False, **FAST, adapter="none", quantize="none"
    )
    assert not any(isinstance(m, NF4Linear) for m in full.model.modules())


def test_exports(lora: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import LlamaForCausalLM

        run = fourfold.open(lora)
        wanted = run.model(TOKENS)
        whole = LlamaForCausalLM.from_pretrained(run.export(to="hf", out=tmp_path / "hf")).eval()
        folder = run.export(to="peft", out=tmp_path / "peft")
        parts = peft.AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(whole(TOKENS).logits, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(parts(TOKENS).logits, wanted, atol=1e-4, rtol=1e-4)
    assert (folder / "adapter_model.safetensors").stat().st_size < (
        tmp_path / "hf" / "model.safetensors"
    ).stat().st_size / 4


def test_what_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--adapter lora: adapters learn beside weights .* --from"):
        fourfold.fit("gpt", SUMS, out=False, **LORA)
    with pytest.raises(
        UserError, match="quantize nf4: weights of 4 bits cannot be learned; --adapter lora"
    ):
        fourfold.fit("gpt", SUMS, out=False, from_=base, quantize="nf4")
    with pytest.raises(UserError, match="rank"):
        tuned(base, tmp_path / "a", rank=0)
    with pytest.raises(UserError, match="--rank 64: .* expected 1 to 32"):
        tuned(base, tmp_path / "a", rank=64)
    with pytest.raises(UserError, match="--adapt atention: .*attention"):
        tuned(base, tmp_path / "a", adapt=("atention",))
    with pytest.raises(UserError, match="adapter"):
        tuned(base, tmp_path / "a", adapter="loar")
    with pytest.raises(UserError, match="--to peft: this run has no adapters"):
        fourfold.open(base).export(to="peft", out=tmp_path / "peft")
    assert not (tmp_path / "a").exists()


def test_peft_s_folder_becomes_a_run(lora: Path, base: Path, tmp_path: Path) -> None:
    old = fourfold.open(lora)
    wanted = old.model(TOKENS)
    folder = old.export(to="peft", out=tmp_path / "peft")
    run = fourfold.import_(folder, out=tmp_path / "run")  # the base is inside
    again = fourfold.open(tmp_path / "run")
    for found in (run, again):
        torch.testing.assert_close(found.model(TOKENS), wanted, atol=1e-5, rtol=1e-4)
    assert again.system.adapter == "lora" and again.system.rank == 2 and again.system.adapt == ()
    assert len(adapters(again.model)) == 14
    # and it can be begun from: its adapters go on
    more = fourfold.fit("gpt", OTHER, from_=tmp_path / "run", out=False, **FAST)
    assert {n for n, p in more.model.named_parameters() if p.requires_grad} == {
        f"{n}.lora.{half}" for n in adapters(again.model) for half in "ab"
    }
    # moved away from its base, it needs to be told where that is
    shutil.rmtree(folder / "base")
    with pytest.raises(UserError, match="adapts .*base, which is no folder here; --base names"):
        fourfold.import_(folder, out=False)
    told = fourfold.import_(folder, base=base, out=False)
    torch.testing.assert_close(told.model(TOKENS), wanted, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="--base .*nowhere: neither a run nor"):
        fourfold.import_(folder, base=tmp_path / "nowhere", out=False)
    small = fourfold.fit(
        "gpt",
        SUMS,
        out=tmp_path / "small",
        layers=1,
        width=32,
        heads=2,
        steps=1,
        **{"data.window": 32},
    )
    assert small.folder is not None
    with pytest.raises(UserError, match="adapts model.layers.1.* which this base does not have"):
        fourfold.import_(folder, base=small.folder, out=False)
    whole = old.export(to="hf", out=tmp_path / "hf")
    with pytest.raises(UserError, match="--base .*: goes with adapters; .* is a whole model"):
        fourfold.import_(whole, base=base, out=False)


def test_an_imported_model_s_adapters_name_its_folder(base: Path, tmp_path: Path) -> None:
    folder = fourfold.open(base).export(to="hf", out=tmp_path / "hf")
    fourfold.import_(folder, out=tmp_path / "imported")
    run = tuned(tmp_path / "imported", tmp_path / "tuned")
    out = run.export(to="peft", out=tmp_path / "peft")
    assert not (out / "base").exists()
    named = json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(named) == folder
    quantized = tuned(tmp_path / "imported", tmp_path / "q", quantize="nf4")
    out = quantized.export(to="peft", out=tmp_path / "peft-q")
    assert (
        out / "base" / "model.safetensors"
    ).exists()  # 4 bits are no longer that folder's weights
    # what stands there now is another model: the one below the adapters is written beside them
    other = fourfold.open(base)
    with torch.no_grad():
        other.model.norm.weight.add_(1.0)  # type: ignore[union-attr,operator]
    other.export(to="hf", out=folder)
    out = run.export(to="peft", out=tmp_path / "peft-moved")
    again = fourfold.import_(out, out=False)
    torch.testing.assert_close(again.model(TOKENS), run.model(TOKENS), atol=1e-5, rtol=1e-4)


def test_options_of_adapters_need_adapters(base: Path) -> None:
    for option, value in {
        "rank": 4,
        "alpha": 8.0,
        "adapt": ("query",),
        "adapter_dropout": 0.1,
    }.items():
        said = f"--{option.replace('_', '-')} .*: without adapters .* --adapter lora"
        with pytest.raises(UserError, match=said):
            fourfold.fit("gpt", OTHER, from_=base, out=False, **{**FAST, option: value})


def test_conversations_tune_adapters_of_a_language_model(base: Path, tmp_path: Path) -> None:
    rows = [{"question": f"{a} and 3?", "answer": f"{a + 3}."} for a in range(40)]
    run = fourfold.fit(
        "sft",
        rows,
        from_=base,
        out=tmp_path / "sft",
        adapter="lora",
        rank=2,
        quantize="nf4",
        steps=3,
    )
    assert sum(p.requires_grad for p in run.model.parameters()) == 28
    assert any(a.b.abs().max() > 0 for a in adapters(run.model).values())
    again = fourfold.open(tmp_path / "sft")
    assert again.system.adapter == "lora"
    whole = fourfold.fit("sft", rows, from_=tmp_path / "sft", out=False, steps=1)
    assert whole.system.adapter == "lora"  # the same system goes on as it was
