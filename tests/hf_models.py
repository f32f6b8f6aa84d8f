"""Tiny random models of every supported family as transformers makes and saves them, with tokenizers."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gpt2")
CLASSES = {
    "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "gpt2": "GPT2",
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 500.0,
}
TEXT = (
    "the cat sat on the mat. the dog sat on the log. “naïve café” 猫坐在垫子上，狗坐在木头上。 3.14 is about pi.\n"
    * 8
)


def drawn_config(family: str, seed: int, **changes: Any) -> Any:
    """A random tiny configuration: grouped heads, odd sizes, tied or not."""
    draw = random.Random(f"{family} {seed}")
    heads, kv_heads = draw.choice([(4, 2), (4, 1), (3, 3), (6, 2)])
    head_dim = draw.choice([4, 6, 8])
    tied = draw.random() < 0.5
    cls = getattr(transformers, f"{CLASSES[family]}Config")
    common = {"vocab_size": draw.randint(20, 40), "tie_word_embeddings": tied}
    if family == "gpt2":
        told = {
            "n_embd": heads * head_dim, "n_head": heads, "n_layer": draw.randint(1, 3), "n_positions": 32,
            "n_inner": draw.choice([None, 20]), "tie_word_embeddings": True,
            "activation_function": draw.choice(["gelu_new", "gelu", "relu"]),
        }  # fmt: skip
        return cls(**{**common, **told, **changes})
    told = {
        "hidden_size": heads * head_dim, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "head_dim": head_dim, "num_hidden_layers": draw.randint(2, 3), "intermediate_size": draw.randint(10, 40),
        "max_position_embeddings": 32, "rms_norm_eps": draw.choice([1e-5, 1e-6]),
        "rope_parameters": draw.choice([{"rope_type": "default", "rope_theta": 1e4}, LLAMA3]),
    }  # fmt: skip
    if family in ("llama", "qwen3"):
        told["attention_bias"] = draw.random() < 0.5
    if family == "mistral":
        told["sliding_window"] = draw.choice([5, None])
    if family == "qwen3":
        told["head_dim"] = 10
    if family in ("qwen2", "qwen3") and draw.random() < 0.5:
        told |= {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
    return cls(**{**common, **told, **changes})


def model_of(config: Any, seed: int = 0) -> Any:
    """A model with weights far from zero, norms and biases too."""
    torch.manual_seed(seed)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(1.0 if weight.ndim == 1 else 0.0, 0.3)
    return model


def tokenizer_of(*, size: int = 300, begin: bool = False, chat: str | None = None) -> Any:
    """A byte-level BPE with special tokens as these families have them.

    Args:
        size: entries.
        begin: whether a text begins with a token of its own.
        chat: a template of conversations.
    """
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|stop|>", "<|turn|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator([TEXT], trainer)
    if begin:
        made.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
        )
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|stop|>", bos_token="<|begin|>" if begin else None
    )
    wrapped.chat_template = chat
    return wrapped


def saved(folder: Path, family: str, seed: int = 0, **changes: Any) -> Any:
    """A whole model folder with its tokenizer; the model that was saved."""
    options = {k: changes.pop(k) for k in ("begin", "chat") if k in changes}
    tokenizer = tokenizer_of(**options)
    told = {
        "vocab_size": len(tokenizer),
        "bos_token_id": 0 if options.get("begin") else None,
        "eos_token_id": 1,
    }
    model = model_of(drawn_config(family, seed, **{**told, **changes}), seed)
    model.generation_config.eos_token_id = [1, 2]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model
