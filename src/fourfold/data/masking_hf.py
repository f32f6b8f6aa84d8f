"""Tokenizers of BERT folders: read with what they call their special tokens, and written for transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.core.errors import UserError
from fourfold.core.state import write_text
from fourfold.data.mask_tokens import NAMES, Specials
from fourfold.data.masking import MaskedData
from fourfold.data.subwords import Subwords

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SETTINGS = ("special_tokens_map.json", "tokenizer_config.json")
"""Files that name special tokens; the later ones win."""


def read_vocabulary(folder: Path, rows: int) -> tuple[Subwords, Specials]:
    """A folder's tokenizer, from tokenizer.json or from a WordPiece's vocab.txt alone.

    Args:
        folder: the model's.
        rows: of its embedding.

    Raises:
        UserError: there is none, it is damaged, it has no mask, or the embedding has fewer rows than it has entries.
    """
    settings: dict[str, Any] = {}
    for name in SETTINGS:
        settings.update(_settings(folder / name))
    if (folder / "tokenizer.json").is_file():
        vocabulary = Subwords.read(folder)
    elif (folder / "vocab.txt").is_file():
        vocabulary = Subwords(_wordpiece(folder / "vocab.txt", settings))
    else:
        raise UserError(f"{folder}: has no tokenizer.json and no vocab.txt, one of which is needed")
    if len(vocabulary) > rows:
        raise UserError(
            f"{folder}: its tokenizer has {len(vocabulary)} entries, its embedding {rows} rows; they are not of one model"
        )
    specials = Specials.of(vocabulary, _names(settings))
    for field, number in specials._asdict().items():
        if number >= len(vocabulary):
            usual = " or ".join(NAMES[field])
            raise UserError(f"{folder}: its tokenizer has no special token {usual}")
    return vocabulary, specials


def save_tokenizer(data: MaskedData, folder: Path, *, window: int) -> None:
    """Write tokenizer.json and tokenizer_config.json, as transformers' AutoTokenizer reads them.

    Args:
        data: with the vocabulary and the special tokens.
        folder: an existing folder.
        window: the longest input of the model, in tokens.

    Raises:
        UserError: the vocabulary has no such form.
    """
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    # a copy: the vocabulary's own must not learn new tokens
    tokenizer = Tokenizer.from_str(data.vocabulary.tokenizer().to_str())
    names = {field: data.token_name(number) for field, number in data.specials._asdict().items()}
    added = sorted((number, names[field]) for field, number in data.specials._asdict().items())
    tokenizer.add_special_tokens([name for _, name in added])
    for number, name in added:
        if tokenizer.token_to_id(name) != number:
            raise RuntimeError(f"{name} became {tokenizer.token_to_id(name)} instead of {number}")
    cls, sep = names["cls"], names["sep"]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, data.specials.cls), (sep, data.specials.sep)],
    )
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{field}_token": name for field, name in names.items()},
        "model_max_length": window,
        "clean_up_tokenization_spaces": False,
    }
    if data.vocabulary.unknown is not None:
        config["unk_token"] = data.token_name(data.vocabulary.unknown)
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    write_text(folder / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False))


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


def _names(settings: Mapping[str, Any]) -> dict[str, str]:
    """What special tokens are called: "[MASK]", or {"content": "[MASK]", ...} as some files have it."""
    names = {}
    for field in NAMES:
        name = settings.get(f"{field}_token")
        if isinstance(name, dict):
            name = name.get("content")
        if isinstance(name, str):
            names[field] = name
    return names


def _wordpiece(path: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """BERT's own tokenizer (Devlin et al. 2018) from its list of pieces, one a line."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    try:
        pieces = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    entries = {piece: number for number, piece in enumerate(pieces)}
    names = {**{field: usual[0] for field, usual in NAMES.items()}, **_names(settings)}
    unknown = str(settings.get("unk_token") or "[UNK]")
    for name in (*names.values(), unknown):
        if name not in entries:
            raise UserError(f"{path}: has no piece {name}, one a line; a BERT's vocabulary does")
    tokenizer = Tokenizer(
        models.WordPiece(entries, unk_token=unknown, max_input_chars_per_word=100)
    )
    lower = bool(settings.get("do_lower_case", True))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lower,
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens([*names.values(), unknown])
    return tokenizer
