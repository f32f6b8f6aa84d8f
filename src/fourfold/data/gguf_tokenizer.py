"""Byte-level BPE as the settings of a GGUF file, both ways: entries, merges, special tokens, chat template.

Format: llama.cpp's tokenizer.ggml.*, model "gpt2", whose "pre" names how a text is cut before the merges. The package
tokenizers does the same cuts by regular expressions; those that both have are in `CUTS`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from fourfold.core.errors import UserError
from fourfold.data.hf_tokenizer import CONFIG, Special
from fourfold.data.subwords import Subwords
from fourfold.data.vocabulary import Vocabulary, byte_level_alphabet

NORMAL, CONTROL, DEFINED, UNUSED = 1, 3, 4, 5
"""Kinds of entries: of texts, special, whole words that a text may spell, numbers that no entry has."""
NO_MERGE = "<|end|> <|end|>"
"""Written where there are no merges, which the format must have: no symbol of a text is ever an end token."""


def _split(pattern: str) -> list[dict[str, Any]]:
    return [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
    ]


_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CUTS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTES],
    "llama-bpe": _split(_WORDS + r"\p{N}{1,3}" + _REST),
    "qwen2": _split(_WORDS + r"\p{N}" + _REST),
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTES],
}
"""Pre-tokenizers by their names in llama.cpp."""
ALIASES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}
WHOLE = ("llama-bpe",)
"""Those under which a word that is an entry is taken whole, whatever the merges."""
COMPOSED = ("qwen2",)
"""Those that read a text in composed characters (NFC)."""


def tokenizer_settings(
    vocabulary: Vocabulary, *, stops: tuple[int, ...] = (), template: str | None = None
) -> dict[str, Any]:
    """A vocabulary as settings.

    Args:
        vocabulary: bytes, or byte-level BPE.
        stops: further tokens that end an answer.
        template: Jinja of conversations.

    Raises:
        UserError: it is of another kind, or cuts texts in a way that llama.cpp has no name for.
    """
    if vocabulary.unit not in ("byte", "bpe"):
        raise UserError(
            f"--to gguf: the tokenizer of a GGUF file is byte-level BPE, this run's unit is {vocabulary.unit}; "
            "--data.unit bpe or byte at the fit makes a run that can be written, --to hf writes this one"
        )
    tokenizer = vocabulary.tokenizer()
    said = json.loads(tokenizer.to_str())
    pre, model = _cut(said), said["model"]
    size, added = len(vocabulary), tokenizer.get_added_tokens_decoder()
    tokens, kinds = [f"[PAD{n}]" for n in range(size)], [UNUSED] * size
    for entry, number in tokenizer.get_vocab().items():
        tokens[number], kinds[number] = entry, NORMAL
    for number, token in added.items():
        tokens[number] = token.content
        kinds[number] = CONTROL if token.special else DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    begin, end = vocabulary.begin, vocabulary.end
    found: dict[str, Any] = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": kinds,
        "merges": merges or [NO_MERGE],
        "bos_token_id": end if begin is None else begin,
        "eos_token_id": end,
        "add_bos_token": begin is not None,
    }
    others = [n for n in dict.fromkeys((*stops, *vocabulary.ends)) if n != end]
    found |= dict(zip(("eot_token_id", "eom_token_id"), others, strict=False))
    if vocabulary.unknown is not None:
        found["unknown_token_id"] = vocabulary.unknown
    made = {f"tokenizer.ggml.{name}": value for name, value in found.items()}
    if template is not None:
        made["tokenizer.chat_template"] = plain_template(template)
    return made


def plain_template(template: str) -> str:
    """A template without the marks of what the assistant says, which only Hugging Face's Jinja knows.

    A comment stands in their place, which trims the white space around it as they did.
    """
    return re.sub(r"\{%(-?)\s*(?:end)?generation\s*(-?)%\}", r"{#\1 \2#}", template)


def read_settings(settings: Mapping[str, Any], where: str, size: int) -> tuple[Subwords, list[str]]:
    """The vocabulary that settings describe, and sentences on what is unusual.

    Args:
        settings: of a file, by their names.
        where: its name, for errors.
        size: rows of the model's embedding.

    Raises:
        UserError: there is none, or it is of a kind that is not read.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    given = {n.removeprefix("tokenizer.ggml."): v for n, v in settings.items()}
    kind, pre = given.get("model"), given.get("pre", "gpt-2")
    if kind != "gpt2":
        raise UserError(
            f"{where}, tokenizer.ggml.model: expected gpt2 (byte-level BPE), got {kind}"
        )
    pre = ALIASES.get(pre, pre)
    if pre not in CUTS:
        raise UserError(f"{where}, tokenizer.ggml.pre: {pre}; supported: {', '.join(CUTS)}")
    tokens, end = given.get("tokens"), given.get("eos_token_id")
    if not isinstance(tokens, list) or len(tokens) > size or not isinstance(end, int):
        raise UserError(
            f"{where}: expected tokenizer.ggml.tokens, at most {size:,} as the embedding has rows, and eos_token_id"
        )
    kinds = given.get("token_type") or [NORMAL] * len(tokens)
    used = [(n, t, k) for n, (t, k) in enumerate(zip(tokens, kinds, strict=True)) if k != UNUSED]
    entries = {token: number for number, token, _ in used}
    if missing := [c for c in byte_level_alphabet().values() if c not in entries]:
        raise UserError(f"{where}: its entries lack {len(missing)} of the 256 bytes")
    try:
        model = models.BPE(entries, _merges(given, entries), ignore_merges=pre in WHOLE)
        tokenizer = Tokenizer(model)
        tokenizer.add_special_tokens(
            [AddedToken(t, special=True, normalized=False) for _, t, k in used if k == CONTROL]
        )
        tokenizer.add_tokens(
            [AddedToken(t, special=False, normalized=False) for _, t, k in used if k == DEFINED]
        )
    except Exception as error:  # the tokenizers package raises nothing narrower
        raise UserError(f"{where}: its tokenizer cannot be made ({error})") from error
    tokenizer.pre_tokenizer = _pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    if pre in COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    begin = given.get("bos_token_id") if given.get("add_bos_token") else None
    more = (given.get("eot_token_id"), given.get("eom_token_id"))
    ends = tuple(dict.fromkeys(n for n in (end, *more) if isinstance(n, int) and 0 <= n < size))
    made = Subwords(tokenizer, None, Special(end, begin, ends, size))
    template = settings.get("tokenizer.chat_template")
    made.chat_template = template if isinstance(template, str) else None
    made._kept[CONFIG] = json.dumps(
        _config(tokens, end, given.get("bos_token_id"), begin), indent=2
    )
    notes = []
    if "pre" not in given:
        notes.append(
            "The file does not say how texts are cut (tokenizer.ggml.pre); GPT-2's way is taken."
        )
    if len(used) < size:
        notes.append(
            f"The embedding has {size:,} rows and the tokenizer {len(used):,} entries: the others are never drawn."
        )
    return made, notes


def _merges(given: Mapping[str, Any], entries: Mapping[str, int]) -> list[tuple[str, str]]:
    pairs = [str(m) for m in given.get("merges") or [] if m != NO_MERGE]
    # a space parts the two; it is never one's first character, bytes having printable names
    split = [(m[: m.index(" ", 1)], m[m.index(" ", 1) + 1 :]) for m in pairs if " " in m[1:]]
    return [pair for pair in split if "".join(pair) in entries]


def _config(tokens: list[str], end: int, bos: Any, begin: int | None) -> dict[str, Any]:
    """A tokenizer_config.json, which exported folders have."""
    first = bos if isinstance(bos, int) and 0 <= bos < len(tokens) else end
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[first],
        "eos_token": tokens[end],
        "add_bos_token": begin is not None,
        "clean_up_tokenization_spaces": False,
    }


def _cut(said: Mapping[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer.json cuts texts."""
    decoder = said["decoder"] or {}
    if said["model"]["type"] != "BPE" or decoder.get("type") != "ByteLevel":
        raise UserError(
            "--to gguf: the tokenizer of a GGUF file is byte-level BPE, this one is "
            f"{said['model']['type']}{'' if decoder.get('type') == 'ByteLevel' else ', not of bytes'}; --to hf writes it"
        )
    steps = said["pre_tokenizer"] or {}
    steps = [_plain(step) for step in steps.get("pretokenizers", [steps])]
    normalizer = (said["normalizer"] or {}).get("type")
    for name, cut in CUTS.items():
        if steps == [_plain(step) for step in cut] and normalizer in (None, "NFC"):
            return name
    raise UserError(
        f"--to gguf: this tokenizer cuts texts in a way that is not known there; known: {', '.join(CUTS)}; --to hf writes it"
    )


def _plain(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step without what does not change the tokens; a pattern's line ends may be written out."""
    kept = {k: v for k, v in step.items() if k not in ("trim_offsets", "invert")}
    if isinstance(pattern := kept.get("pattern"), dict):
        kept["pattern"] = {
            k: str(v).replace("\r", r"\r").replace("\n", r"\n") for k, v in pattern.items()
        }
    return kept


def _pre_tokenizer(name: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    made: list[Any] = []
    for step in CUTS[name]:
        if step["type"] == "Split":
            made.append(pre_tokenizers.Split(Regex(step["pattern"]["Regex"]), "isolated"))
        elif step["type"] == "Digits":
            made.append(pre_tokenizers.Digits(individual_digits=True))
        else:
            made.append(
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=step["use_regex"])
            )
    return made[0] if len(made) == 1 else pre_tokenizers.Sequence(made)
