"""Special tokens and templates as model folders name them, in the forms of several versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from fourfold.core.errors import UserError
from fourfold.data.subwords import Subwords
from fourfold.data.text import Text, TextData

SPECIALS = ["<s>", "</s>", "<|im_end|>"]
SIZE = 256 + len(SPECIALS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A byte tokenizer whose special tokens nothing names yet."""
    letters = {c: n for n, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(letters, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(SPECIALS)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def write(folder: Path, name: str, **content: Any) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def special(folder: Path) -> tuple[int, int | None, tuple[int, ...]]:
    found, _ = Subwords.imported(folder, SIZE)
    return found.end, found.begin, found.ends


def test_ends_are_named_in_several_places(folder: Path) -> None:
    with pytest.raises(
        UserError, match="names no end token; expected eos_token in tokenizer_config.json"
    ):
        Subwords.imported(folder, SIZE)
    write(folder, "config.json", eos_token_id=257)
    assert special(folder) == (257, None, (257,))
    write(folder, "generation_config.json", eos_token_id=[258, 257])
    assert special(folder) == (258, None, (258, 257))
    write(folder, "special_tokens_map.json", eos_token="</s>")
    assert special(folder) == (257, None, (257, 258))
    write(folder, "tokenizer_config.json", eos_token={"content": "<|im_end|>", "lstrip": False})
    assert special(folder) == (258, None, (258, 257))


def test_a_begin_token_is_set_where_the_tokenizer_does(folder: Path) -> None:
    write(folder, "tokenizer_config.json", eos_token="</s>", bos_token="<s>")
    assert special(folder)[1] is None  # named, not set
    write(folder, "tokenizer_config.json", eos_token="</s>", bos_token="<s>", add_bos_token=True)
    assert special(folder)[1] == 256
    found, _ = Subwords.imported(folder, SIZE)
    assert (found.opening, found.end) == (256, 257)


def test_templates_in_every_form(folder: Path) -> None:
    write(folder, "tokenizer_config.json", eos_token="</s>")
    assert Subwords.imported(folder, SIZE)[0].chat_template is None
    write(folder, "tokenizer_config.json", eos_token="</s>", chat_template="old")
    assert Subwords.imported(folder, SIZE)[0].chat_template == "old"
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    write(folder, "tokenizer_config.json", eos_token="</s>", chat_template=named)
    assert Subwords.imported(folder, SIZE)[0].chat_template == "d"
    (folder / "chat_template.jinja").write_text("file")
    assert Subwords.imported(folder, SIZE)[0].chat_template == "file"


def test_a_template_of_one_s_own_is_what_is_written(folder: Path, tmp_path: Path) -> None:
    write(folder, "tokenizer_config.json", eos_token="</s>", chat_template="old")
    found, _ = Subwords.imported(folder, SIZE)
    found.chat_template = "new"
    (tmp_path / "out").mkdir()
    found.save_hf(tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "new"
    assert (
        json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["chat_template"]
        == "new"
    )


def test_what_is_saved_is_read_again(folder: Path, tmp_path: Path) -> None:
    write(
        folder,
        "tokenizer_config.json",
        eos_token="</s>",
        bos_token="<s>",
        add_bos_token=True,
        chat_template="t",
    )
    found, notes = Subwords.imported(folder, SIZE + 5)
    assert len(found) == SIZE + 5 and "the other 5 are never drawn" in notes[0]
    TextData.of_vocabulary(Text(unit="bpe"), found, "m").save(tmp_path / "data")
    again = Text(unit="bpe").restore(tmp_path / "data").vocabulary
    assert (again.digest, again.begin, again.ends, again.never, again.chat_template) == (
        found.digest, found.begin, found.ends, tuple(range(SIZE, SIZE + 5)), "t",
    )  # fmt: skip
    assert again.token(SIZE + 1) == f"<{SIZE + 1}>" and again.decode([SIZE + 1]) == ""
    plain, _ = Subwords.imported(folder, SIZE)
    assert plain.digest != found.digest


def test_documents_begin_and_end_as_the_family_expects(folder: Path) -> None:
    write(folder, "tokenizer_config.json", eos_token="</s>", bos_token="<s>", add_bos_token=True)
    found, _ = Subwords.imported(folder, SIZE)
    data = TextData.of_vocabulary(Text(unit="bpe", window=4, batch=1, split=(1, 0, 0)), found, "m")
    data = data.reopen({"text": ["ab", "c", "猫"]})
    a, b, c = (int(found.encode(x)[0]) for x in "abc")
    cat = found.encode("猫").tolist()
    assert data.tokens("train").tolist() == [256, a, b, 257, 256, c, 257, 256, *cat, 257, 256]
    targets = [t for batch in data.batches("train") for t in batch["targets"].flatten().tolist()]
    assert targets[:10] == [a, b, 257, -100, c, 257, -100, *cat] and 256 not in targets


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("tokenizer_config.json", "{", "tokenizer_config.json: cannot be read"),
        ("tokenizer_config.json", "[1]", "expected a JSON object, got list"),
        ("tokenizer.json", "{}", "not a tokenizer.json"),
    ],
)
def test_damaged_files(folder: Path, name: str, content: str, words: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=words):
        Subwords.imported(folder, SIZE)


def test_no_tokenizer_at_all(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer.json; transformers' AutoTokenizer"):
        Subwords.imported(folder, SIZE)
    write(folder, "vocab.json", a=0)
    (folder / "merges.txt").write_text("")
    write(folder, "config.json", model_type="qwen2")
    with pytest.raises(
        UserError, match="vocab.json and merges.txt of a qwen2 model, but no tokenizer.json"
    ):
        Subwords.imported(folder, SIZE)
