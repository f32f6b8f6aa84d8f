"""What decoder-only Transformers share: their fields, the model, how they read and continue a text, export, and what a
later stage inherits from an earlier one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.signatures import extends
from fourfold.core.system import batchable
from fourfold.core.types import Document, Picture
from fourfold.data.text import TextData
from fourfold.models.adapter_folder import StoredAdapter, is_adapter, save_adapter
from fourfold.models.adapters import merged
from fourfold.models.families import load_model, save_model, suited_family
from fourfold.models.family_weights import llama_name
from fourfold.models.gguf_file import is_gguf
from fourfold.models.transformer import Transformer
from fourfold.tasks.adapting import adapter_fields, base_of
from fourfold.tasks.decoder_only import DecoderOnly
from fourfold.tasks.drafting import guesser_of
from fourfold.tasks.embedding_texts import to_embed, vector_table
from fourfold.tasks.engines import EngineName, Precision, chosen
from fourfold.tasks.language import LanguageModel, continued, vocabulary_of
from fourfold.tasks.reader import Reader
from fourfold.tasks.transformer_folders import looks_like_language_model, read_folder
from fourfold.tasks.transformer_gguf import Quantize, export_gguf, export_ollama, read_gguf
from fourfold.tasks.transformer_reader import TransformerReader, loss_by_position, mean_states

if TYPE_CHECKING:
    import polars as pl

TOLERANCE = 1e-4
"""Largest difference of logits between a model and its export."""
CHECKED = 128
"""Tokens of each row on which an export is compared."""
LOOK = 2048
"""Tokens before each that scoring a text reads at most, where the model was trained on shorter windows."""


class TransformerLanguage(DecoderOnly, LanguageModel):
    """A language model that is a decoder-only Transformer."""

    masks_documents: ClassVar[bool] = True

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """Whether it is a GGUF file, or a folder with a Hugging Face model of the next token or PEFT's adapters of one."""
        named = path.suffix == ".gguf" and path.is_file()
        return named or is_gguf(path) or is_adapter(path) or looks_like_language_model(path)

    @classmethod
    def imported(
        cls, path: Path, base: Path | None = None
    ) -> tuple[TransformerLanguage, Data, nn.Module, Sequence[str]]:
        """A Hugging Face folder's or GGUF file's model, tokenizer, special tokens and chat template; or adapters on one.

        Args:
            path: the folder or file.
            base: with adapters, the folder or the run of the model that they stand beside; None takes what they name.
        """
        if not is_adapter(path):
            if base is not None:
                raise UserError(f"--base {base}: goes with adapters; {path} is a whole model")
            read = read_gguf if path.is_file() else read_folder
            options, prepared, whole, said = read(path)
            return cls(**options), prepared, whole, said
        stored = StoredAdapter(path)
        place = stored.base(base)
        found: tuple[TransformerLanguage, Data, Transformer, Sequence[str]] = cls._below(place)
        system, data, below, notes = found
        if suited_family(below, system.family).conv1d:
            raise UserError(
                f"{path}: adapts {place}, a gpt2, which keeps queries, keys and values in one matrix; its adapters are not read"
            )
        names = stored.put_on(below, llama_name)
        system = system.model_copy(update=adapter_fields(stored.settings, below, names))
        return system, data, below, [*notes, f"Adapters of rank {system.rank} on {place}."]

    @classmethod
    def _below(cls, place: Path) -> tuple[TransformerLanguage, Data, Transformer, Sequence[str]]:
        """The model that adapters stand beside: a run's, or a Hugging Face folder's."""
        if not (place / "system.toml").is_file():
            options, data, model, notes = read_folder(place)
            return cls(**options), data, model, notes
        run = Run.open(place)
        if not isinstance(run.system, TransformerLanguage):
            raise UserError(f"{place}: is a run of {run.system.name}; expected a Transformer's")
        return run.system, run.data, merged(transformer(run)), []

    def accepts(self, other: Run) -> None:
        """Refuse what is no language model; see `DecoderOnly.accepts`."""
        if not isinstance(other.system, TransformerLanguage):
            raise UserError(
                f"--from {other.folder}: is a run of {other.system.name}, whose weights are no {self.name}'s"
            )
        super().accepts(other)

    @batchable("prompt", when=lambda _, given: given.get("count", 1) == 1)
    @extends(LanguageModel.generate)
    def generate(
        self,
        run: Run,
        prompt: str | list[str] = "",
        *,
        engine: EngineName = "auto",
        precision: Precision = "auto",
        draft: str | None = None,
        **given: Any,
    ) -> Iterator[str]:
        """Continue a prompt. A single continuation comes in pieces, as it is made.

        Several (more prompts, or a count) come whole, in order, each ended by a newline. What one
        prompt is answered does not depend on the others. The unknown token is never drawn. Of a prompt
        longer than the window only the end is read, which is said; a continuation longer than the
        window goes on from the last half of it.

        Args:
            engine: torch, compiled (models of Llama's form, on a CPU), or llama.cpp where llama-cpp-python is installed; auto takes
                the faster one of the first two for what is asked.
            precision: auto takes float32 where the most likely token must win (temperature 0), otherwise what is faster
                here; int8 is the compiled engine's, and what it costs is measured and said.
            draft: a smaller run of the same vocabulary that guesses a few tokens ahead, or the word prompt, which looks them
                up in the text so far; what is said stays the model's, sooner where guesses are often right.
        """
        model = transformer(run)
        tokens, temperature = given["tokens"], given["temperature"]
        taken = chosen(run, model, engine, precision, tokens=tokens, temperature=temperature)
        reader = TransformerReader(
            model,
            vocabulary_of(run.data),
            apart=_apart(run),
            say=run.console.say,
            make=taken.make,
            guesser=guesser_of(run, draft, taken.name) if draft else None,
        )
        yield from continued(run, reader, prompt, **given)

    def embed(
        self, run: Run, texts: Document | list[Document], *, lines: bool = False
    ) -> pl.DataFrame:
        """A vector for each text: the mean of its tokens' states before the output, of length 1.

        The states were learned to tell what comes next, not which texts are alike: vectors of an `embedder` tell more of that.

        Args:
            texts: one or several; of what is longer than the model reads the beginning is taken, which is said.
            lines: whether each line is a text of its own; empty ones are none.
        """
        given, model = to_embed(texts, lines), transformer(run)
        vectors, cut = mean_states(model, vocabulary_of(run.data), given)
        if cut:
            run.console.say(
                f"{cut} of {len(given)} texts were cut to the {model.window - 1} tokens that the model reads"
            )
        return vector_table(given, vectors)

    def reader(self, run: Run) -> Reader:
        """See `LanguageModel.reader`; it looks back as far as training did, and `LOOK` tokens where the model can."""
        model = transformer(run)
        window = min(model.window, max(LOOK, getattr(run.data, "window", LOOK)))
        return TransformerReader(model, vocabulary_of(run.data), window=window, apart=_apart(run))

    def export(
        self,
        run: Run,
        *,
        to: Literal["hf", "peft", "gguf", "ollama"] = "hf",
        quantize: Quantize | None = None,
        out: Path | None = None,
    ) -> Path:
        """Write the model in another library's format; what was written is read back and compared.

        Args:
            to: hf is a Hugging Face folder of the run's family (Llama by default), adapters merged into its weights; peft
                is the adapters alone as PEFT stores them, with the model below them in base/ unless it was imported
                from a folder that is still there; gguf is the file that llama.cpp runs; ollama is a folder with that
                file and a Modelfile.
            quantize: of gguf and ollama, the type of the matrices: f16 unless said otherwise; q8_0 and q4_0 are a half and
                a quarter of its size, at a cost in quality that is measured and said.
            out: the file or folder; None takes the run's name with -hf, -peft, .gguf or -ollama.
        """
        model = transformer(run)
        if out is None and run.folder is None:
            raise UserError("out: expected a folder to write to; this run is in memory only")
        end = ".gguf" if to == "gguf" else f"-{to}"
        place = Path(out) if out is not None else run.folder.with_name(run.folder.name + end)  # type: ignore[union-attr]
        if to in ("gguf", "ollama"):
            write = export_gguf if to == "gguf" else export_ollama
            write(run, merged(model), place, quantize or "f16", self.family)
            return place
        if quantize is not None:
            raise UserError(f"--quantize {quantize}: goes with --to gguf or ollama, not {to}")
        return self._export_folder(run, to, place)

    def _export_folder(self, run: Run, to: str, folder: Path) -> Path:
        """Hugging Face's and PEFT's folders, read back and compared."""
        model = transformer(run)
        if to == "peft":
            again = self._write_adapter(run, model, folder)
        else:
            self._write(run, merged(model), folder)
            again, _ = load_model(folder)
        tokens = torch.randint(
            len(vocabulary_of(run.data)),
            (2, min(model.window, CHECKED)),
            generator=run.generator("export"),
        ).to(run.device)
        with torch.no_grad():
            difference = float((again.to(run.device).eval()(tokens) - model(tokens)).abs().max())
        if not difference <= TOLERANCE:
            raise RuntimeError(f"{folder}: logits differ by {difference:.2g} from the run's")
        run.console.say(f"Read back: logits differ by at most {difference:.2g}")
        return folder

    def _write(self, run: Run, model: Transformer, folder: Path) -> None:
        """A plain model with its tokenizer as a Hugging Face folder."""
        words = vocabulary_of(run.data)
        chosen = save_model(
            model, folder, family=self.family, begin=words.begin, end=words.end, ends=words.ends
        )
        run.console.say(f"Written as {chosen.architecture}")
        try:
            words.save_hf(folder, window=model.window)
        except UserError as error:
            run.console.say(f"Without a tokenizer: {error}")

    def _write_adapter(self, run: Run, model: Transformer, folder: Path) -> Transformer:
        """The adapters alone, and the model below them where no folder has it; read back."""
        if self.adapter == "none":
            raise UserError(
                "--to peft: this run has no adapters, all its weights learned; --to hf writes them"
            )
        plain = merged(model, add=False)
        if suited_family(plain, self.family).conv1d:
            raise UserError(
                "--to peft: gpt2 keeps queries, keys and values in one matrix, which adapters of each do not fit; "
                "--to hf writes the merged model"
            )
        base = base_of(run)
        again = _same(Path(base), plain) if base else None
        if base and again is None:
            run.console.say(
                f"{base} no longer holds the model below the adapters: written to base/."
            )
        if again is None:
            base = str((folder / "base").resolve())
            self._write(run, plain, folder / "base")
            again, _ = load_model(Path(base))
        save_adapter(model, folder, self.adapter_settings(base), llama_name)
        StoredAdapter(folder).put_on(again, llama_name)
        return again

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Loss by position in the window, then what every language model shows."""
        with contextlib.suppress(UserError):  # nothing is held out, as of an imported run
            data, split, _ = held_out(run)
            if isinstance(data, TextData):
                tokens = data.tokens(split)[: 64 * data.window + 1].astype("int64")
                if len(tokens) > data.window:
                    end = data.vocabulary.end if _apart(run) else None
                    yield loss_by_position(
                        transformer(run), torch.from_numpy(tokens), data.window, end
                    )
        yield from super().pictures(run)


def transformer(run: Run) -> Transformer:
    """A run's model.

    Raises:
        TypeError: it is another one.
    """
    if not isinstance(run.model, Transformer):
        raise TypeError(f"{run.system.name} expects a Transformer, got {type(run.model).__name__}")
    return run.model


# --- private ----------------------------------------------------------------------------------------


def _same(folder: Path, plain: Transformer) -> Transformer | None:
    """A folder's model, if it has the weights of this one."""
    try:
        found, _ = load_model(folder)
    except UserError:
        return None
    theirs, ours = found.state_dict(), plain.state_dict()
    if theirs.keys() != ours.keys():
        return None
    return found if all(torch.equal(theirs[n], ours[n].cpu()) for n in ours) else None


def _apart(run: Run) -> bool:
    """Whether the run's documents do not see one another."""
    return bool(getattr(run.system.data, "document_mask", False))
