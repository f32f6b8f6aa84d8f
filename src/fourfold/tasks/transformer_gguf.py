"""GGUF files of decoder-only models and runs: what `fourfold export --to gguf|ollama` writes and `fourfold import` reads."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.run import Run
from fourfold.core.state import write_text
from fourfold.data.chat import Chat
from fourfold.data.chat_tokens import special_tokens, stop_token
from fourfold.data.gguf_tokenizer import read_settings, tokenizer_settings
from fourfold.data.templated import Templated, ready
from fourfold.data.text import TextData
from fourfold.models.gguf_families import (
    gguf_architecture,
    load_gguf,
    rounded_copy,
    save_gguf,
)
from fourfold.models.gguf_file import GGUFFile
from fourfold.models.transformer import Transformer
from fourfold.tasks.language import vocabulary_of
from fourfold.tasks.ollama import modelfile
from fourfold.tasks.transformer_folders import further
from fourfold.tasks.transformer_reader import TransformerReader

Quantize = Literal["f16", "q8_0", "q4_0", "bf16", "f32"]
TOLERANCE = 1e-4
"""Largest difference of logits between what was written and the model with the weights that the file rounds to."""
CHECKED = 128
"""Tokens of each row on which logits are compared."""
MEASURED = 8192
"""Held-out tokens on which the cost of rounding is measured."""


def export_gguf(
    run: Run, model: Transformer, path: Path, quantize: Quantize, family: str | None
) -> None:
    """Write a run's model with its tokenizer and chat template; read it back, compare, and say what rounding costs.

    Args:
        run: whose it is.
        model: its plain model, adapters merged.
        path: the file.
        quantize: the type of the matrices.
        family: of Hugging Face models, that it was.

    Raises:
        UserError: GGUF cannot hold the model or the tokenizer, or the disk is full or may not be written.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; --to gguf writes a file, --to ollama a folder")
    architecture = gguf_architecture(model, family)
    chat, vocabulary = chat_of(run), vocabulary_of(run.data)
    stop = stop_token(chat, special_tokens(vocabulary)) if chat else None
    settings: dict[str, Any] = {
        "general.name": run.folder.name if run.folder is not None else run.system.name,
        **tokenizer_settings(
            vocabulary,
            stops=() if stop is None else (stop,),
            template=chat.source if chat else None,
        ),
    }
    other = save_gguf(model, path, architecture, quantize, settings)
    say = run.console.say
    if other:
        say(
            f"{len(other)} matrices are f16, their rows not being whole blocks of 32, as {next(iter(other))}"
        )
    file = GGUFFile(path)
    kinds = ", ".join(f"{count} {kind.lower()}" for kind, count in file.kinds().items())
    say(f"Written as {architecture}, {path.stat().st_size / 2**20:,.1f} MiB: {kinds}")
    again, _, _ = load_gguf(file)
    read_settings(file.settings, str(path), model.vocabulary)
    tokens = _some_tokens(run, model)
    difference = _difference(again, rounded_copy(model, architecture, quantize), tokens)
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"{path}: logits differ by {difference:.2g} from those of what was to be written"
        )
    say(
        f"Read back: logits differ by at most {difference:.2g} from those of the weights in {quantize}"
    )
    say(_cost(run, model, again, tokens, quantize))


def export_ollama(
    run: Run, model: Transformer, folder: Path, quantize: Quantize, family: str | None
) -> None:
    """Write a folder for `ollama create`: the GGUF file and a Modelfile; see `export_gguf`."""
    if folder.is_file():
        raise UserError(f"{folder}: is a file; --to ollama writes a folder")
    name = folder.name or "model"
    export_gguf(run, model, folder / f"{name}.gguf", quantize, family)
    text, said = modelfile(f"{name}.gguf", chat_of(run), model.window)
    write_text(folder / "Modelfile", text)
    if said:
        run.console.say(said)
    run.console.say(
        f"To run it: ollama create {name} -f {folder / 'Modelfile'} ; ollama run {name}"
    )


def chat_of(run: Run) -> Chat | None:
    """A run's chat template: of its data, or the one that its model came with; None where it has none."""
    own = getattr(run.data, "chat", None)
    if isinstance(run.data, Templated) and isinstance(own, Chat):
        return own
    vocabulary = vocabulary_of(run.data)
    if vocabulary.chat_template is None:
        return None
    return ready(vocabulary.chat_template, "of the model", vocabulary, datetime.datetime.now())


def read_gguf(path: Path) -> tuple[dict[str, Any], TextData, Transformer, Sequence[str]]:
    """A file's model: the fields of its system, its vocabulary as data, the model itself, and notes.

    Raises:
        UserError: see `models.gguf_families.load_gguf` and `data.gguf_tokenizer`.
    """
    file = GGUFFile(path)
    model, told, family = load_gguf(file)
    vocabulary, notes = read_settings(file.settings, str(path), model.vocabulary)
    kinds = ", ".join(f"{count} {kind.lower()}" for kind, count in file.kinds().items())
    options, prepared, said = further(told, family, vocabulary, model, path)
    title = f"{file.settings['general.architecture']} from GGUF (tensors: {kinds}), kept in float32: {said}"
    return options, prepared, model, [title, *notes]


# --- private ----------------------------------------------------------------------------------------


def _some_tokens(run: Run, model: Transformer) -> torch.Tensor:
    shape = (2, min(model.window, CHECKED))
    return torch.randint(model.vocabulary, shape, generator=run.generator("export"))


@torch.no_grad()
def _difference(one: Transformer, other: Transformer, tokens: torch.Tensor) -> float:
    made = [m.to("cpu").eval()(tokens).float() for m in (one, other)]
    return float((made[0] - made[1]).abs().max())


@torch.no_grad()
def _cost(run: Run, model: Transformer, again: Transformer, tokens: torch.Tensor, kind: str) -> str:
    """What rounding costs: bits per byte before and after where the run has held-out text, else how logits change."""
    before, after = (m.eval()(tokens.to(m.embedding.weight.device)).cpu().log_softmax(-1) for m in (model, again))  # fmt: skip
    nats = float((before.exp() * (before - after)).sum(-1).mean())
    said = f"{kind} moves log-probabilities by {nats:.2g} nats a token (Kullback-Leibler, random tokens)"
    try:
        data, split, _ = held_out(run)
    except UserError:
        return said
    if not isinstance(data, TextData):
        return said
    held = np.asarray(data.tokens(split)[: MEASURED + 1], np.int64)
    size = len(data.vocabulary.decode(held[1:]).encode())
    if len(held) < 2 or not size:
        return said
    bits = [
        float(TransformerReader(m, data.vocabulary).surprises(held).sum()) / math.log(2) / size
        for m in (model, again)
    ]
    return f"{said}; bits per byte {bits[0]:.4f} before, {bits[1]:.4f} after ({len(held) - 1:,} held-out tokens)"
