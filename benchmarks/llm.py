"""Language models beside the trainers of the field, alternating in one run on this machine.

    python -m benchmarks.llm sft --rounds 2
    python -m benchmarks.llm sft --contenders "fourfold float32" "TRL float32"
    python -m benchmarks.llm bert --rounds 3

sft: tuning on conversations, beside TRL's SFTTrainer (`benchmarks/llm_sft.py`).
bert: masked tokens, beside transformers' Trainer (`benchmarks/llm_bert.py`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import llm_bert, llm_sft
from benchmarks.side_by_side import keep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["sft", "bert", "sft-one", "bert-one"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement")
    parser.add_argument("--contenders", nargs="+")
    parser.add_argument("--contender", default="fourfold")
    parser.add_argument("--folder", type=Path, default=Path())
    given = parser.parse_args()
    if given.what.endswith("-one"):
        one = llm_bert.one if given.what == "bert-one" else llm_sft.one
        one(given.folder, given.contender, given.seconds)
    elif given.what == "bert":
        contenders = tuple(given.contenders or llm_bert.CONTENDERS)
        speed = llm_bert.bert(given.rounds, given.seconds, contenders)
        keep("llm_bert", {"speed": speed}, module="llm")
    else:
        contenders = tuple(given.contenders or llm_sft.CONTENDERS)
        for found in llm_sft.sft(given.rounds, given.seconds, contenders):
            keep("llm_sft", {", ".join(contenders): found}, module="llm")


if __name__ == "__main__":
    main()
