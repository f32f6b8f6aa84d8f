"""Generation at batch 1, greedy, with a cache: ours beside transformers' `generate` on the same weights.

python -m benchmarks.gpt_generate
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.side_by_side import alternate, keep, medians, ratio
from fourfold.models.families import save_model
from fourfold.models.generation import generate
from fourfold.models.sampling import Sampling
from fourfold.models.transformer import Transformer

SHAPES = {"6x384": (6, 384, 6, 32000), "12x768": (12, 768, 12, 32000)}
"""layers, width, heads, vocabulary"""


def measure(shape: str, tokens: int = 200, rounds: int = 5) -> dict[str, Any]:
    """Tokens a second of each engine."""
    from transformers import LlamaForCausalLM

    layers, width, heads, vocabulary = SHAPES[shape]
    torch.manual_seed(0)
    model = Transformer(vocabulary, width, layers, heads, window=512).eval()
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder))
        peers = {
            "transformers float32": LlamaForCausalLM.from_pretrained(
                folder, dtype=torch.float32
            ).eval(),
            "transformers bfloat16": LlamaForCausalLM.from_pretrained(
                folder, dtype=torch.bfloat16
            ).eval(),
        }
    prompt = torch.randint(vocabulary, (1, 16))

    def ours() -> float:
        began = time.perf_counter()
        count = sum(
            1 for _ in generate(model, [prompt[0].tolist()], tokens=tokens, sampling=Sampling(0.0))
        )
        return count / (time.perf_counter() - began)

    def peer(name: str) -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            out = peers[name].generate(
                prompt,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return (out.shape[1] - prompt.shape[1]) / (time.perf_counter() - began)

    contenders = {"fourfold": ours, **{name: (lambda name=name: peer(name)) for name in peers}}
    for call in contenders.values():
        call()
    values = alternate(contenders, rounds)
    return {
        **{k: round(v, 1) for k, v in medians(values).items()},
        "times float32": round(ratio(values, "fourfold", "transformers float32"), 2),
        "times bfloat16": round(ratio(values, "fourfold", "transformers bfloat16"), 2),
    }


def main() -> None:
    result = {f"tokens a second, {shape}, batch 1": measure(shape) for shape in SHAPES}
    print(result)
    keep("gpt_generate", result)


if __name__ == "__main__":
    main()
