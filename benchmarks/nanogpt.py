"""The peer of gpt_train.py: a plain module of nanoGPT's shape and a plain loop, in nanoGPT's defaults.

LayerNorm, learned positions, GELU with 4 widths, tied embeddings, scaled_dot_product_attention,
AdamW (betas 0.9, 0.95 / 0.99, decay 0.1), clip 1.0, warm-up and cosine to a tenth: what
https://github.com/karpathy/nanoGPT trains; written anew for this comparison.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.c_fc = nn.Linear(width, 4 * width, bias=False)
        self.mlp_proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, W = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).split(W, dim=2)
        q, k, v = (t.view(B, T, self.heads, W // self.heads).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).contiguous().view(B, T, W))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x))))


class NanoGPT(nn.Module):
    """Logits (B, T, V) of tokens (B, T)."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, window: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(window, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width, bias=False)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.wte.weight = self.lm_head.weight
        for name, p in self.named_parameters():
            if p.ndim == 2:
                scale = 1 / math.sqrt(2 * layers) if name.endswith("_proj.weight") else 1.0
                nn.init.normal_(p, 0.0, 0.02 * scale)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def context(bf16: bool) -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext()


def train(
    tokens: Tensor, model: NanoGPT, *, window: int, batch: int, lr: float, seconds: float, bf16: bool,
    steps: int | None = None, warmup: int = 100, beta2: float = 0.99,
    watch: Callable[[float, int], None] | None = None,
) -> int:  # fmt: skip
    """The plain loop: random windows, AdamW, cosine over the time; returns the steps made."""
    decay = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, beta2),
    )
    model.train()
    began, step = time.perf_counter(), 0
    while True:
        progress = (time.perf_counter() - began) / seconds if steps is None else step / steps
        if progress >= 1:
            return step
        rate = (
            lr
            * min(1.0, (step + 1) / warmup)
            * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(tokens) - window, (batch,))
        x = torch.stack([tokens[i : i + window] for i in starts])
        y = torch.stack([tokens[i + 1 : i + 1 + window] for i in starts])
        with context(bf16):
            logits = model(x)
            loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if watch:
            watch(time.perf_counter() - began, step)


@torch.no_grad()
def whole_loss(forward: Callable[[Tensor], Tensor], tokens: Tensor, window: int) -> float:
    """Nats per token over a whole split, every token once, in windows that do not overlap; float32 logits."""
    total, count = 0.0, 0
    span = (len(tokens) - 1) // window * window
    x, y = tokens[:span].view(-1, window), tokens[1 : span + 1].view(-1, window)
    pieces = [*zip(x.split(64), y.split(64), strict=True)]
    if span < len(tokens) - 1:
        pieces.append((tokens[span:-1][None], tokens[span + 1 :][None]))
    for a, b in pieces:
        logits = forward(a).float()
        total += F.cross_entropy(logits.flatten(0, 1), b.flatten(), reduction="sum").double().item()
        count += b.numel()
    return total / count
