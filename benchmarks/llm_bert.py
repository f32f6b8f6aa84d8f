"""Masked-token training beside transformers' Trainer: tokens a second and peak memory, same weights, rows and steps.

    python -m benchmarks.llm bert --rounds 3

Both read the same rows of 128 tokens of tiny Shakespeare, hide 15% of them anew in every epoch (ours by `data/masks.py`,
theirs by DataCollatorForLanguageModeling), and take steps of 16 rows with AdamW and clipping. Dropout is 0 in both.
Each measurement is a process of its own.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.side_by_side import data_file
from benchmarks.trainers import apart, by_fastest, clock, in_turn, measured, ours_timed
from fourfold import api, fitting
from fourfold.core.run import Run
from fourfold.models.bert_folder import load_bert, save_bert

TEXT = "tinyshakespeare/input.txt"
SHAPE: dict[str, Any] = {
    "layers": 4, "width": 256, "heads": 4, "data.window": 128, "data.vocabulary": 8000, "data.batch": 16,
}  # fmt: skip
CONTENDERS = (
    "fourfold", "transformers bfloat16", "fourfold float32", "transformers float32",
)  # fmt: skip
"""`fourfold` alone is what it does by itself: bfloat16 products over float32 weights where the machine gains from it."""
WARM = 3
"""Steps that are not timed."""


def begun(**options: Any) -> Run:
    """A run on the text, as `fit` begins it."""
    given = {
        **SHAPE, "optimizer.algorithm": "adamw", "optimizer.lr": 3e-4, "optimizer.steps": 10**6,
        "optimizer.evaluate_every": "100%", "optimizer.checkpoint_every": "1000m", **options,
    }  # fmt: skip
    run = Run(api.configure("bert", given))
    fitting.begin(run, str(data_file(TEXT)), None)
    return run


def prepare(folder: Path) -> dict[str, Any]:
    """The weights to begin from as a Hugging Face folder with its tokenizer, and the rows; what they are, in numbers."""
    run = begun()
    run.system.export(run, out=folder)  # type: ignore[attr-defined]
    save_bert(run.model, folder, pad=run.data.specials.pad, dropout=0.0)  # type: ignore[arg-type,attr-defined]
    rows = [row for row in run.data.texts("train") if len(row) == SHAPE["data.window"]]  # type: ignore[attr-defined]
    np.save(folder / "rows.npy", np.array(rows, np.int64))
    return {
        "weights": sum(p.numel() for p in run.model.parameters()),
        "shape": SHAPE,
        "rows": len(rows),
    }


def ours(folder: Path, contender: str, seconds: float) -> dict[str, float]:
    """Steps of our own loop, timed once the first are done."""
    precision = "float32" if "float32" in contender else "auto"
    run = begun(**{"optimizer.precision": precision})
    run.model.load_state_dict(load_bert(folder)[0].state_dict())
    return ours_timed(run, seconds, WARM, tokens=lambda batch: batch["tokens"].numel())


def theirs(folder: Path, contender: str, seconds: float) -> dict[str, float]:
    """Trainer's own loop."""
    warnings.simplefilter("ignore")
    from transformers import (
        AutoTokenizer,
        BertForMaskedLM,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
    )

    rows = [{"input_ids": row} for row in torch.from_numpy(np.load(folder / "rows.npy"))]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertForMaskedLM.from_pretrained(folder, dtype=torch.float32)
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), per_device_train_batch_size=SHAPE["data.batch"], max_steps=10**6,
        bf16="bfloat16" in contender, use_cpu=True, learning_rate=3e-4, save_strategy="no", report_to="none",
        disable_tqdm=True,
    )  # fmt: skip

    timer = clock(seconds, WARM)
    collator = DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=0.15)
    trainer = Trainer(
        model, args=arguments, train_dataset=rows, data_collator=collator, callbacks=[timer]
    )
    trainer.train()
    read = timer.steps * SHAPE["data.batch"] * SHAPE["data.window"]
    return measured(timer.steps, timer.taken, tokens=read)


def one(folder: Path, contender: str, seconds: float) -> None:
    """Measure in this process and print the numbers."""
    measure = ours if contender.startswith("fourfold") else theirs
    print(json.dumps(measure(folder, contender, seconds)))


def bert(rounds: int, seconds: float, contenders: tuple[str, ...] = CONTENDERS) -> dict[str, Any]:
    """Contenders in turn, round after round."""
    import transformers

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        about = prepare(folder)
        how = "--folder", folder, "--seconds", seconds
        alone = lambda name: apart("benchmarks.llm", "bert-one", "--contender", name, *how)  # noqa: E731
        *_, found = in_turn(contenders, rounds, alone)
    ratios = by_fastest(found, "tokens a second")
    return {"transformers": transformers.__version__, **about, "measured": found, **ratios}
