"""Language models beside the trainers of the field, alternating in one run on this machine.

    python -m benchmarks.llm sft --rounds 2
    python -m benchmarks.llm sft --contenders "fourfold float32" "TRL float32"

sft: tuning on conversations, beside TRL's SFTTrainer (`benchmarks/llm_sft.py`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import llm_sft
from benchmarks.side_by_side import keep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["sft", "sft-one"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement")
    parser.add_argument("--contenders", nargs="+", default=llm_sft.CONTENDERS)
    parser.add_argument("--contender", default="fourfold")
    parser.add_argument("--folder", type=Path, default=Path())
    given = parser.parse_args()
    if given.what == "sft-one":
        llm_sft.one(given.folder, given.contender, given.seconds)
    else:
        found = llm_sft.sft(given.rounds, given.seconds, tuple(given.contenders))
        keep("llm", {f"sft, {', '.join(given.contenders)}": found})


if __name__ == "__main__":
    main()
