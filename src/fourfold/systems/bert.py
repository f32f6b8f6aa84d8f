"""Masked language model: BERT, Devlin et al. 2018; whole words hidden for Chinese: Cui et al. 2019.

    fourfold fit bert books/*.txt --minutes 5 --out runs/books
    fourfold fill runs/books "It was the [MASK] of times."
    fourfold embed runs/books "a sentence" "another one" --out vectors.npy
    fourfold import path/to/bert-base-uncased --out runs/base

It is a denoising autoencoder (Vincent et al. 2008): the noise hides tokens behind [MASK], the encoder is the body,
which sees both sides of every token, and the decoder is the head, which says what was hidden.

Result: 1.80 nats a hidden character, 48% of them guessed, on tiny Shakespeare's validation split after 1,000 steps of
4 layers x 128 (--data.unit character --width 128 --steps 1000: 0.3 M hidden characters). It trains on 2.8 times as many
tokens a second as transformers' Trainer on the same model (4 layers x 256, window 128, batch 16, 8,000 tokens; 2 cores
of an EPYC), in 0.74 GB beside 0.96: benchmarks/results/llm_bert.json. Logits equal BertForMaskedLM's to 2e-5.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from fourfold.core.errors import UserError
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.data.masking import SHORTEST, MaskedData, MaskedText
from fourfold.data.masking_hf import read_vocabulary, save_tokenizer
from fourfold.models.bert import Bert as Encoder
from fourfold.models.bert_folder import is_bert, load_bert, save_bert
from fourfold.objectives.masked import MaskedTokens
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.encoder_shape import EncoderShape
from fourfold.tasks.masked_language import MaskedLanguage, masked_data, parts

TOLERANCE = 1e-4  # largest difference of logits between a model and its export
SHAPING = ("layers", "width", "heads", "hidden", "types", "activation", "eps")
"""Fields that weights were made with."""


@system("bert", reads="text")
class Bert(EncoderShape, MaskedLanguage):
    """Learn a language from what stands on both sides of hidden tokens: a Transformer encoder."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"layers": 2, "width": 128},
        "demo": {},
        "small": {"layers": 6, "width": 384, "data.window": 256},
        "medium": {"layers": 8, "width": 512, "data.window": 512},
        "base": {"layers": 12, "width": 768, "data.window": 512},
    }
    imports: ClassVar[str] = "Hugging Face BERT folders (BertForMaskedLM, BertForPreTraining)"

    data: MaskedText = MaskedText(unit="bpe", window=128, batch=16)
    objective: MaskedTokens = MaskedTokens()
    optimizer: Gradient = Gradient(
        algorithm="muon",
        lr=0.02,
        minutes=3,
        schedule="wsd",
        warmup=100,
        decay_from=0.4,
        final=0.02,
        clip=1.0,
    )

    def suited(self, run: Run) -> Bert:
        """What was left to the data, written down: a run that begins from this one may see less of a text."""
        data = masked_data(run.data)
        return self.model_copy(
            update={
                "positions": self.positions or data.window,
                "entries": self.entries or data.entries,
            }
        )

    def build(self, data: Data) -> Encoder:
        """An encoder for this vocabulary and window.

        Raises:
            UserError: width and heads do not divide, or there are more tokens or positions than the model has.
        """
        found = masked_data(data)
        return self.body_of_size(found.window, self.positions or found.window, found.entries)

    def accepts(self, other: Run) -> None:
        """Refuse what is no BERT, and options under which its weights would not fit or mean something else."""
        super().accepts(other)
        if not isinstance(other.system, Bert):
            raise UserError(
                f"--from {other.folder}: is a run of {other.system.name}, whose weights are no {self.name}'s"
            )
        self.same_shape(other, SHAPING)

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """Whether it is a folder whose config.json names one of BERT's architectures."""
        return path.is_dir() and is_bert(path)

    @classmethod
    def imported(cls, path: Path) -> tuple[Bert, Data, Encoder, Sequence[str]]:
        """See `System.imported`."""
        model, config = load_bert(path)
        vocabulary, specials = read_vocabulary(path, model.vocabulary)
        if model.window < SHORTEST:
            raise UserError(f"{path}: sees {model.window} positions, expected {SHORTEST} or more")
        made = cls(
            data=MaskedText(unit="bpe", window=model.window, batch=16, tokenizer=str(path)),
            layers=len(model.blocks),
            width=model.width,
            heads=model.heads,
            hidden=model.hidden,
            positions=model.window,
            entries=model.vocabulary,
            types=model.types,
            activation=model.activation,  # type: ignore[arg-type]  # checked when it was read
            eps=model.eps,
            dropout=config.get("hidden_dropout_prob", 0.1),
        )
        data = MaskedData.prepared(made.data, vocabulary, specials, source=str(path))
        notes = [
            f"Read {sum(p.numel() for p in model.parameters()):,} parameters from {path}; what BERT has beside the "
            "masked language model (pooler, next sentence) was left out."
        ]
        if unused := model.vocabulary - data.entries:
            notes.append(f"{unused} of the embedding's {model.vocabulary} rows have no token.")
        if config.get("attention_probs_dropout_prob"):
            notes.append(
                "In further training no attention weights are left out (attention_probs_dropout_prob)."
            )
        return made, data, model, notes

    def export(self, run: Run, *, to: Literal["hf"] = "hf", out: Path | None = None) -> Path:
        """Write the model in another library's format; what was written is read back and compared.

        Args:
            to: hf is a Hugging Face folder (BertForMaskedLM, tokenizer.json).
            out: the folder; None takes the run's name with -hf.
        """
        data, model = parts(run)
        if out is None and run.folder is None:
            raise UserError("out: expected a folder to write to; this run is in memory only")
        folder = Path(out) if out is not None else run.folder.with_name(f"{run.folder.name}-{to}")  # type: ignore[union-attr]
        save_bert(model, folder, pad=data.specials.pad, dropout=self.dropout)
        try:
            save_tokenizer(data, folder, window=model.window)
        except UserError as error:
            run.console.say(f"Without a tokenizer: {error}")
        tokens = torch.randint(
            model.vocabulary, (4, model.window), generator=run.generator("export")
        ).to(run.device)
        again = load_bert(folder)[0].to(run.device).eval()
        with torch.no_grad():
            difference = float((again(tokens) - model(tokens)).abs().max())
        if not difference <= TOLERANCE:
            raise RuntimeError(f"{folder}: logits differ by {difference:.2g} from the run's")
        run.console.say(f"Read back: logits differ by at most {difference:.2g}")
        return folder

    @classmethod
    def toy(cls) -> tuple[Bert, Any]:
        """Two narrow layers on sums in words."""
        sums = [f"{a} and {b} make {a + b}." for a in range(40) for b in range(40)]
        small = cls(
            data=MaskedText(unit="character", window=32, batch=32),
            layers=2,
            width=32,
            heads=2,
            optimizer=Gradient(lr=3e-3, steps=12),
        )
        return small, {"text": ["\n".join(sums)]}
