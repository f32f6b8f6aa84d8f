"""Tuning on preferences and on rewards beside TRL, alternating in one run on this machine: DPO pairs and GRPO answers a second.

    python -m benchmarks.preference dpo --rounds 2
    python -m benchmarks.preference grpo --rounds 2

Both begin from the same weights of a small Llama and take the same tokens: pairs of the preference set, prompts of the
instructions. TRL's gradient checkpointing is off, which makes it faster; the rest are its defaults. In GRPO every answer is
64 tokens long at most, eight a prompt, one update for each roll-out, with a reference; the reward is a function.
Each measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.side_by_side import data_file, keep
from benchmarks.trainers import apart, by_fastest, clock, in_turn, measured, ours_timed
from fourfold import api, fitting
from fourfold.core.run import Run
from fourfold.models.families import save_model

WARM = 2
"""Steps that are not timed."""
UNITS = {"dpo": "pairs", "grpo": "answers"}
PAIRS = "instruction-preference-demo/dpo_en_demo.json.gz"
INSTRUCTIONS = "instruction-preference-demo/alpaca_en_demo.json.gz"
SHAPE: dict[str, Any] = {
    "layers": 4, "width": 256, "heads": 4, "data.window": 512, "data.vocabulary": 8192, "data.batch": 8,
}  # fmt: skip
BATCH = 8
"""Pairs of a step."""
PROMPTS, ANSWERS, TOKENS, ASKED = 8, 8, 64, 96
"""Of a roll-out: prompts, answers to each, tokens of an answer at most; and tokens of a prompt at most."""
CONTENDERS = ("fourfold float32", "TRL float32", "fourfold", "TRL bfloat16")


def prepare(folder: Path) -> dict[str, Any]:
    """Weights to begin from, as a run and as a Hugging Face folder; pairs and prompts as tokens and texts."""
    run = api.fit(
        "sft", str(data_file(INSTRUCTIONS)), out=folder / "base", steps=1, lr=1e-30, **SHAPE,
    )  # fmt: skip
    run.model.initialize()  # type: ignore[operator]
    from fourfold.core.state import save_weights

    save_weights(folder / "base" / "weights.safetensors", run.model)
    vocabulary = run.data.vocabulary  # type: ignore[attr-defined]
    save_model(run.model, folder / "hf", end=vocabulary.end)  # type: ignore[arg-type]
    vocabulary.save_hf(folder / "hf", window=run.data.window)  # type: ignore[attr-defined]
    rows = []
    for each in begun(folder, "dpo", PAIRS).data.compared("train"):  # type: ignore[attr-defined]
        first = int(each.chosen.said.argmax()), int(each.rejected.said.argmax())
        rows.append({
            "prompt_ids": each.chosen.tokens[: first[0]].tolist(), "chosen_ids": each.chosen.tokens[first[0] :].tolist(),
            "rejected_ids": each.rejected.tokens[first[1] :].tolist(),
        })  # fmt: skip
    prompts = begun(folder, "rlhf", INSTRUCTIONS, **ROLLED).data.prompts("train")  # type: ignore[attr-defined]
    texts = [vocabulary.decode(p.tokens) for p in prompts if len(p.tokens) <= ASKED]
    (folder / "rows.json").write_text(json.dumps({"pairs": rows, "prompts": texts}))
    return {
        "weights": sum(p.numel() for p in run.model.parameters()), "shape": SHAPE, "pairs": len(rows),
        "tokens of a pair": statistics.mean(sum(map(len, r.values())) + len(r["prompt_ids"]) for r in rows),
        "prompts": len(texts),
    }  # fmt: skip


ROLLED: dict[str, Any] = {
    "reward": "length", "data.prompts": PROMPTS, "data.answers": ANSWERS, "data.tokens": TOKENS, "data.passes": 1,
    "data.batch": PROMPTS * ANSWERS, "data.window": ASKED + TOKENS,
}  # fmt: skip


def begun(folder: Path, system: str, source: str, **options: Any) -> Run:
    """A run on the pairs or prompts, as `fit --from` begins it."""
    given = {
        "optimizer.algorithm": "adamw", "optimizer.epochs": None, "optimizer.steps": 10**6,
        "optimizer.evaluate_every": "100%", "data.split": (1, 0, 0), **options,
    }  # fmt: skip
    other = Run.open(folder / "base")
    cls = api.load_system(system)
    kept = {k: v for k, v in given.items() if v is not None}
    run = Run(api.configure(cls, kept, None, fitting.base_of(cls, other)))
    run.about["from"] = str(folder / "base")
    fitting.begin(run, str(data_file(source)), None)
    return run


def ours(folder: Path, what: str, contender: str, seconds: float) -> dict[str, float]:
    """Steps of our own loop, timed once the first are done."""
    precision = {"optimizer.precision": "float32" if "float32" in contender else "auto"}
    if what == "dpo":
        run = begun(folder, "dpo", PAIRS, **{"data.batch": BATCH}, **precision)
    else:
        run = begun(folder, "rlhf", INSTRUCTIONS, **ROLLED, **precision)
    return ours_timed(
        run, seconds, WARM,
        **{UNITS[what]: lambda b: len(b["margins"]) if what == "dpo" else int(b["answers"])},
    )  # fmt: skip


def theirs(folder: Path, what: str, contender: str, seconds: float) -> dict[str, float]:
    """TRL's own loop."""
    warnings.simplefilter("ignore")
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoTokenizer, LlamaForCausalLM
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

    disable_progress_bars()
    stored = json.loads((folder / "rows.json").read_text())

    common: dict[str, Any] = {
        "output_dir": str(folder / "trl"), "max_steps": 10**6, "bf16": "bfloat16" in contender, "use_cpu": True,
        "gradient_checkpointing": False, "learning_rate": 1e-5, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(folder / "hf")
    tokenizer.pad_token = tokenizer.eos_token
    model = LlamaForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
    timer = clock(seconds, WARM)
    trainer: Any
    if what == "dpo":
        DPOTrainer._prepare_dataset = lambda self, dataset, *_: dataset
        arguments = DPOConfig(
            per_device_train_batch_size=BATCH, max_length=SHAPE["data.window"], **common
        )
        trainer = DPOTrainer(
            model,
            args=arguments,
            train_dataset=Dataset.from_list(stored["pairs"]),
            processing_class=tokenizer,
        )
        units = BATCH
    else:
        units = PROMPTS * ANSWERS
        arguments = GRPOConfig(
            per_device_train_batch_size=units,
            num_generations=ANSWERS,
            max_completion_length=TOKENS,
            beta=0.05,
            **common,
        )
        rows = [{"prompt": text} for text in stored["prompts"]]
        trainer = GRPOTrainer(
            model, reward_funcs=lambda completions, **_: [len(c) / 100 for c in completions], args=arguments,
            train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        )  # fmt: skip
    trainer.add_callback(timer)
    trainer.train()
    return measured(timer.steps, timer.taken, **{UNITS[what]: units * timer.steps})


def alternated(
    what: str, rounds: int, seconds: float, contenders: tuple[str, ...]
) -> dict[str, Any]:
    """Contenders in turn, round after round, each in a process of its own."""
    import trl

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        about = prepare(folder)
        how = "--folder", folder, "--seconds", seconds
        alone = lambda name: apart("benchmarks.preference", what, "--one", name, *how)  # noqa: E731
        *_, found = in_turn(contenders, rounds, alone)
    ratios = by_fastest(found, f"{UNITS[what]} a second")
    return {"TRL": trl.__version__, **about, "measured": found, **ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["dpo", "grpo"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement")
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS)
    parser.add_argument("--one")
    parser.add_argument("--folder", type=Path, default=Path())
    given = parser.parse_args()
    if given.one:
        measure = ours if given.one.startswith("fourfold") else theirs
        print(json.dumps(measure(given.folder, given.what, given.one, given.seconds)))
    else:
        found = alternated(given.what, given.rounds, given.seconds, tuple(given.contenders))
        keep("preference", {f"{given.what}, {', '.join(given.contenders)}": found})


if __name__ == "__main__":
    main()
