"""Tuning on conversations beside TRL's SFTTrainer: tokens a second and peak memory, from the same weights and tokens.

Both get the conversations tokenized by our reader, learn the assistant's tokens with AdamW, and take as many tokens a
step. Each measurement is a process of its own. TRL's gradient checkpointing is off, which makes it faster; the rest
are its defaults. On a CPU its packing (padding-free) masks all rows of a step against one another.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.side_by_side import data_file, ratio
from fourfold import api
from fourfold.core.run import Run
from fourfold.models.adapters import give
from fourfold.models.families import load_model, save_model
from fourfold.optimizers.search import Search

ROOT = Path(__file__).parents[1]
CONVERSATIONS = "instruction-preference-demo/alpaca_en_demo.json.gz"
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
    api._begin(run, str(data_file(CONVERSATIONS)), None)
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
    run.model.train()
    search = Search(run.system.optimizer, run.objective, run.model, run.data, run)  # type: ignore[arg-type]
    batches = search._batches()
    for _ in range(3):
        search.step(next(batches))
    began, said, read, steps = time.perf_counter(), 0, 0, 0
    while time.perf_counter() - began < seconds:
        step = next(batches)
        search.step(step)
        said += sum(int((b["targets"] >= 0).sum()) for b in step)
        read += sum(int((b["segments"] > 0).sum()) for b in step)
        steps += 1
    return _measured(said, read, steps, time.perf_counter() - began)


def theirs(folder: Path, contender: str, seconds: float) -> dict[str, float]:
    """SFTTrainer's own loop; what a step holds is counted where its batch is made."""
    warnings.simplefilter("ignore")
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoTokenizer, LlamaForCausalLM, TrainerCallback
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

    class Clock(TrainerCallback):  # type: ignore[misc]
        began, steps = 0.0, 0

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> Any:
            if state.global_step == 3:
                self.began = time.perf_counter()
            elif state.global_step > 3:
                self.steps, self.taken = state.global_step - 3, time.perf_counter() - self.began
                control.should_training_stop = self.taken > seconds
            return control

    clock = Clock()
    trainer.data_collator = counting
    trainer.add_callback(clock)
    trainer.train()
    counted = made[3 : 3 + clock.steps]
    return _measured(
        sum(c[0] for c in counted), sum(c[1] for c in counted), clock.steps, clock.taken
    )


def _measured(said: int, read: int, steps: int, seconds: float) -> dict[str, float]:
    return {
        "assistant tokens a second": said / seconds,
        "tokens a second": read / seconds,
        "tokens a step": read / steps,
        "steps": steps,
        "peak memory (MiB)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def apart(folder: Path, contender: str, seconds: float) -> dict[str, float]:
    """One measurement in a process of its own, as its user runs it."""
    command = [sys.executable, "-m", "benchmarks.llm", "sft-one", "--contender", contender]
    command += ["--folder", str(folder), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{contender}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def one(folder: Path, contender: str, seconds: float) -> None:
    """Measure in this process and print the numbers."""
    measure = ours if contender.startswith("fourfold") else theirs
    print(json.dumps(measure(folder, contender, seconds)))


def sft(
    rounds: int, seconds: float, contenders: tuple[str, ...] = CONTENDERS
) -> Iterator[dict[str, Any]]:
    """Contenders in turn; the result so far after each round."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        about = prepare(folder)
        for _ in range(rounds):
            for name in contenders:
                found[name].append(apart(folder, name, seconds))
                print(name, {k: round(v, 1) for k, v in found[name][-1].items()}, flush=True)
            yield {"TRL": version("trl"), **about, **_ratios(found), "measured": found}


def _ratios(found: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Each of ours by its fastest peer, of neighbours in time."""
    result = {}
    key = "tokens a second"
    rates = {name: [m[key] for m in each] for name, each in found.items()}
    for name, peers in _pairs(found).items():
        fastest = max(peers, key=lambda p: statistics.median(rates[p]))
        result[f"{name}, times {fastest}"] = round(ratio(rates, name, fastest), 2)
        print(f"{name}: {result[f'{name}, times {fastest}']} x {fastest}", flush=True)
    return result


def _pairs(contenders: Iterable[str]) -> dict[str, list[str]]:
    """What each of ours is measured against: the fastest of these."""
    theirs = [name for name in contenders if name.startswith("TRL")]
    found = {}
    for name in contenders:
        if name.startswith("fourfold"):
            alike = [t for t in theirs if ("LoRA" in t) == ("LoRA" in name)]
            if "float32" in name:
                alike = [t for t in alike if "float32" in t]
            found[name] = alike
    return {name: peers for name, peers in found.items() if peers}
