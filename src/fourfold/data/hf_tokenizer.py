"""The tokenizer of a Hugging Face model folder, with what stands beside tokenizer.json.

tokenizer_config.json, config.json and generation_config.json name the special tokens, chat_template.jinja (or
tokenizer_config.json itself) holds the template of its conversations. Formats: transformers 4 and 5.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.core.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = "special.json"
CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
KEPT = (CONFIG, "special_tokens_map.json", "generation_config.json")
"""Files that a run keeps to the letter and its export writes again."""
CONVERT = "transformers' AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes one"


@dataclass(frozen=True)
class Special:
    """What a tokenizer.json alone does not say."""

    end: int
    """Token that ends a document."""
    begin: int | None = None
    """Token that opens a document, where texts of this model begin with one."""
    ends: tuple[int, ...] = ()
    """Every token at which a text that is made ends; `end` is among them."""
    size: int = 0
    """Rows of the embedding, which may be more than there are entries."""

    @classmethod
    def read(cls, folder: Path) -> Special | None:
        """What `save` wrote; None where it did not."""
        path = folder / SPECIAL
        if not path.exists():
            return None
        said = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**said, "ends": tuple(said["ends"])})

    def text(self) -> str:
        """The same as JSON."""
        return json.dumps(asdict(self))


def read_tokenizer(folder: Path) -> tuple[Tokenizer, str]:
    """A folder's tokenizer and its tokenizer.json, made from GPT-2's vocab.json and merges.txt where there is none.

    Raises:
        UserError: there is neither, or it cannot be read.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            return Tokenizer.from_str(text), text
        made = _from_merges(folder)
    except UserError:
        raise
    except Exception as error:  # the tokenizers package raises nothing narrower
        raise UserError(f"{path}: not a tokenizer.json ({error})") from error
    return made, made.to_str(pretty=True)


def special_tokens(folder: Path, tokenizer: Tokenizer, size: int) -> tuple[Special, list[str]]:
    """The special tokens that a folder names, with sentences on what is unusual.

    Args:
        folder: the model's.
        tokenizer: its tokenizer.
        size: rows of the model's embedding.

    Raises:
        UserError: the tokenizer has more entries than the embedding has rows, or names no end.
    """
    entries = max(tokenizer.get_vocab().values()) + 1
    if entries > size:
        raise UserError(
            f"{folder}: its tokenizer has {entries:,} entries and the model's embedding {size:,} rows; "
            "they are of different models"
        )
    notes = []
    if entries < size:
        notes.append(
            f"The embedding has {size:,} rows and the tokenizer {entries:,} entries: "
            f"the other {size - entries:,} are never drawn."
        )
    settings = {**_json(folder / KEPT[1]), **_json(folder / CONFIG)}
    models = [_json(folder / "generation_config.json"), _json(folder / "config.json")]
    named: list[Any] = [_number(tokenizer, settings.get("eos_token"))]
    for said in models:
        value = said.get("eos_token_id")
        named += value if isinstance(value, list) else [value]
    ends = [n for n in dict.fromkeys(named) if isinstance(n, int) and 0 <= n < size]
    if not ends:
        raise UserError(
            f"{folder}: names no end token; expected eos_token in {CONFIG} or eos_token_id in config.json"
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    begin = _begin(tokenizer, settings)
    return Special(ends[0], begin, tuple(ends), size), notes


def chat_template(folder: Path) -> str | None:
    """The template of a folder's conversations: of chat_template.jinja, else the one in tokenizer_config.json.

    Raises:
        UserError: it cannot be read.
    """
    path = folder / TEMPLATE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from error
    found = _json(folder / CONFIG).get("chat_template")
    if isinstance(found, list):  # several by name
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default") or next(iter(named.values()), None)
    return found if isinstance(found, str) else None


def with_template(text: str, template: str | None) -> str:
    """A kept file's text in which the one chat template, if it holds one, is this."""
    said = json.loads(text)
    before = said.get("chat_template")
    if template is None or before == template or not isinstance(before, str):
        return text
    return json.dumps({**said, "chat_template": template}, indent=2, ensure_ascii=False)


def kept_files(folder: Path) -> dict[str, str]:
    """The text of the files beside tokenizer.json that are kept, by name."""
    return {
        name: (folder / name).read_text(encoding="utf-8")
        for name in KEPT
        if (folder / name).is_file() and _json(folder / name)
    }


def _begin(tokenizer: Tokenizer, settings: dict[str, Any]) -> int | None:
    """The token that this tokenizer sets before a text."""
    named = _number(tokenizer, settings.get("bos_token"))
    asked = settings.get("add_bos_token")
    if isinstance(asked, bool):
        return named if asked else None
    with_, without = (tokenizer.encode("a", add_special_tokens=b).ids for b in (True, False))
    added = with_[: len(with_) - len(without)]
    return added[0] if added and with_[len(added) :] == without else None


def _number(tokenizer: Tokenizer, token: Any) -> int | None:
    """Of a special token, which is given as its text or with its settings."""
    text = token.get("content") if isinstance(token, dict) else token
    return tokenizer.token_to_id(text) if isinstance(text, str) else None


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file.

    Raises:
        UserError: it is something else.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _from_merges(folder: Path) -> Tokenizer:
    """GPT-2's tokenizer: byte-level BPE from its table of entries and its list of merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    kind = _json(folder / "config.json").get("model_type")
    if not (vocab.is_file() and merges.is_file()):
        raise UserError(f"{folder}: has no tokenizer.json; {CONVERT}")
    if kind != "gpt2":  # others cut and normalize the text in ways that these files do not say
        raise UserError(
            f"{folder}: has vocab.json and merges.txt of a {kind} model, but no tokenizer.json; {CONVERT}"
        )
    made = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.decoder = decoders.ByteLevel()
    if made.token_to_id("<|endoftext|>") is not None:
        made.add_special_tokens(["<|endoftext|>"])
    return made
