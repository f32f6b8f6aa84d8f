"""Tuning on conversations beside TRL's SFTTrainer: tokens a second and peak memory, from the same weights and tokens.

Both get the conversations tokenized by our reader, learn the assistant's tokens with AdamW, and take as many tokens a
step. Each measurement is a process of its own. TRL's gradient checkpointing is off, which makes it faster; the rest
are its defaults. On a CPU its packing (padding-free) masks all rows of a step against one another.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.side_by_side import data_file
from benchmarks.trainers import apart, by_fastest, clock, in_turn, measured, ours_timed
from fourfold import api, fitting
from fourfold.core.run import Run
from fourfold.models.adapters import give
from fourfold.models.families import load_model, save_model

CONVERSATIONS = "instruction-preference-demo/alpaca_en_demo.json.gz"
WARM = 3
"""Steps that are not timed."""
ROWS = 8
"""Rows of a step where conversations are packed."""
SHAPE: dict[str, Any] = {
    "layers": 4, "width": 256, "heads": 4, "data.window": 512, "data.vocabulary": 8192, "data.batch": ROWS,
}  # fmt: skip
CONTENDERS = (
    "fourfold float32", "TRL float32", "fourfold", "TRL bfloat16", "TRL float32 packed", "TRL bfloat16 packed",
)  # fmt: skip
"""`fourfold` alone is what it does by itself: bfloat16 products over float32 weights where the machine gains from it."""
LORA = {"adapter": "lora", "rank": 16, "alpha": 32.0}


def begun(**options: Any) -> Run:
    """A run on the conversations, as `fit` begins it."""
    given = {
        **SHAPE, "optimizer.algorithm": "adamw", "optimizer.epochs": None, "optimizer.steps": 10**6,
        "optimizer.evaluate_every": "100%", "optimizer.checkpoint_every": "1000m", **options,
    }  # fmt: skip
    run = Run(api.configure("sft", {k: v for k, v in given.items() if v is not None}))
    fitting.begin(run, str(data_file(CONVERSATIONS)), None)
    return run


def prepare(folder: Path) -> dict[str, Any]:
    """The weights to begin from as a Hugging Face folder, and the tokens; what they are, in numbers."""
    run = begun()
    run.model.initialize()  # type: ignore[operator]
    save_model(run.model, folder, end=run.data.vocabulary.end)  # type: ignore[arg-type,attr-defined]
    run.data.vocabulary.save_hf(folder, window=run.data.window)  # type: ignore[attr-defined]
    examples = run.data.examples("train")  # type: ignore[attr-defined]
    rows = [{"tokens": e.tokens.tolist(), "said": e.said.tolist()} for e in examples]
    batch = round(len(examples) / run.data.size("train") * ROWS)
    (folder / "examples.json").write_text(json.dumps({"rows": rows, "batch": batch}))
    lengths = [len(e.tokens) for e in examples]
    return {
        "weights": sum(p.numel() for p in run.model.parameters()),
        "shape": SHAPE,
        "conversations": len(examples),
        "tokens of a conversation": {"mean": statistics.mean(lengths), "most": max(lengths)},
        "share of the tokens that the assistant says": sum(int(e.said.sum()) for e in examples)
        / sum(lengths),
        "conversations a step": batch,
    }


def ours(folder: Path, contender: str, seconds: float) -> dict[str, float]:
    """Steps of our own loop, timed once the first are done."""
    precision = "float32" if "float32" in contender else "auto"
    run = begun(**{"optimizer.precision": precision})
    if "LoRA" in contender:
        run.system = run.system.model_copy(update=LORA)
        run.model = run.system.build(run.data)
    give(run.model, load_model(folder)[0].state_dict())
    return ours_timed(
        run, seconds, WARM,
        assistant_tokens=lambda batch: int((batch["targets"] >= 0).sum()),
        tokens=lambda batch: int((batch["segments"] > 0).sum()),
    )  # fmt: skip


def theirs(folder: Path, contender: str, seconds: float) -> dict[str, float]:
    """SFTTrainer's own loop; what a step holds is counted where its batch is made."""
    warnings.simplefilter("ignore")
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoTokenizer, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    stored = json.loads((folder / "examples.json").read_text())
    rows = Dataset.from_list(
        [
            {"input_ids": r["tokens"], "assistant_masks": [int(s) for s in r["said"]]}
            for r in stored["rows"]
        ]
    )
    packed = "packed" in contender
    peft = None
    if "LoRA" in contender:
        from peft import LoraConfig

        peft = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    arguments = SFTConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=ROWS if packed else stored["batch"],
        max_steps=10**6, max_length=SHAPE["data.window"], packing=packed, bf16="bfloat16" in contender,
        gradient_checkpointing=False, use_cpu=True, learning_rate=3e-4, save_strategy="no", report_to="none",
        disable_tqdm=True,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    trainer = SFTTrainer(
        model, args=arguments, train_dataset=rows, processing_class=tokenizer, peft_config=peft
    )
    made: list[tuple[int, int]] = []
    collate = trainer.data_collator

    def counting(examples: Any) -> Any:
        batch = collate(examples)
        said = int((batch["labels"][:, 1:] != -100).sum())
        made.append((said, sum(len(e["input_ids"]) for e in examples)))
        return batch

    timer = clock(seconds, WARM)
    trainer.data_collator = counting
    trainer.add_callback(timer)
    trainer.train()
    said, read = map(sum, zip(*made[WARM : WARM + timer.steps], strict=True))
    return measured(timer.steps, timer.taken, assistant_tokens=said, tokens=read)


def one(folder: Path, contender: str, seconds: float) -> None:
    """Measure in this process and print the numbers."""
    measure = ours if contender.startswith("fourfold") else theirs
    print(json.dumps(measure(folder, contender, seconds)))


def sft(
    rounds: int, seconds: float, contenders: tuple[str, ...] = CONTENDERS
) -> Iterator[dict[str, Any]]:
    """Contenders in turn; the result so far after each round."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        about = prepare(folder)
        how = "--folder", folder, "--seconds", seconds
        alone = lambda name: apart("benchmarks.llm", "sft-one", "--contender", name, *how)  # noqa: E731
        for found in in_turn(contenders, rounds, alone):
            ratios = by_fastest(found, "tokens a second", _same_adapter)
            yield {"TRL": version("trl"), **about, **ratios, "measured": found}


def _same_adapter(ours: str, peer: str) -> bool:
    return ("LoRA" in ours) == ("LoRA" in peer)
