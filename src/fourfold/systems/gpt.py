"""Generative language model: GPT, Radford et al. 2018 and 2019, in the form of Llama: Touvron et al. 2023.

    fourfold fit gpt
    fourfold fit gpt books/*.txt --minutes 5 --out runs/books
    fourfold fit gpt books/*.txt --teacher runs/books --size tiny
    fourfold generate runs/books "It was the best of" --tokens 100 --seed 1
    fourfold export runs/books --to hf --out books-hf
    fourfold export runs/books --to gguf --quantize q8_0 --out books.gguf
    fourfold import path/to/hf-model --out runs/base
    fourfold fit gpt books/*.txt --from runs/base

Options make it GPT-2, Mistral (Jiang et al. 2023), Qwen2 or Qwen3 (Yang et al. 2024, 2025) as well, and folders of these
families are imported and written (docs/llm.md).

Result: 1.56 nats a character on the last tenth of tiny Shakespeare after one minute of training at 4 layers x 128,
window 128, on 2 cores of an EPYC (nanoGPT as shipped: 2.24): benchmarks/results/gpt_train.json.
"""

from __future__ import annotations

from typing import Any, ClassVar

from fourfold.core.system import system
from fourfold.data.text import Text
from fourfold.objectives.likelihood import NextToken
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.distilling import Distilling, NextTokenOrTeacher
from fourfold.tasks.transformer_language import TransformerLanguage


@system("gpt", reads="text")
class GPT(Distilling, TransformerLanguage):
    """Learn a language from its texts, token after token: a decoder-only Transformer."""

    imports: ClassVar[str] = (
        "Hugging Face folders of Llama, SmolLM, Mistral, Qwen2, Qwen3 and GPT-2 models, in safetensors; PEFT's LoRA adapters; GGUF files"
    )
    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "mini": {"layers": 2, "width": 64, "data.window": 64},
        "tiny": {"layers": 4, "width": 128},
        "demo": {},
        "small": {"layers": 6, "width": 384, "data.window": 256},
        "medium": {"layers": 8, "width": 512, "data.window": 512},
        "base": {"layers": 12, "width": 768, "tied": True, "data.window": 1024},
    }

    data: Text = Text(unit="bpe", window=128, batch=16)
    objective: NextTokenOrTeacher = NextToken()
    optimizer: Gradient = Gradient(
        algorithm="muon",
        lr=0.02,
        minutes=3,
        schedule="wsd",
        warmup=50,
        decay_from=0.4,
        final=0.02,
        clip=1.0,
    )

    @classmethod
    def toy(cls) -> tuple[GPT, Any]:
        """Two narrow layers on sums in words."""
        sums = [f"{a} and {b} make {a + b}." for a in range(40) for b in range(40)]
        small = cls(
            data=Text(unit="character", window=32, batch=32),
            layers=2,
            width=32,
            heads=2,
            kv_heads=1,
            optimizer=Gradient(lr=3e-3, steps=12),
        )
        return small, {"text": ["\n".join(sums)]}
