"""What llama.cpp's library is given back, with a library that only counts; what it computes: tests/systems/test_gguf.py."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fourfold.core.errors import UserError
from fourfold.models import llama_cpp


class Library:
    """Opens models and contexts, and knows which are freed."""

    def __init__(self, *, opens: bool = True, room: bool = True) -> None:
        self.freed: list[str] = []
        for name in ("model", "context"):
            setattr(self, f"llama_{name}_default_params", SimpleNamespace)
        self.llama_model_load_from_file = lambda path, options: "model" if opens else None
        self.llama_init_from_model = lambda model, options: "context" if room else None
        self.llama_batch_init = lambda *sizes: "batch"
        self.llama_get_memory = lambda context: "memory"
        self.llama_batch_free = self.llama_free = self.llama_model_free = self.freed.append

    def end(self) -> None:
        """As when the interpreter ends: what the module named is gone."""
        self.llama_batch_free = self.llama_free = self.llama_model_free = None  # type: ignore[assignment]


def decoder(library: Library, monkeypatch: pytest.MonkeyPatch) -> llama_cpp.LlamaCppDecoder:
    monkeypatch.setattr(llama_cpp, "package", lambda: library)
    return llama_cpp.LlamaCppDecoder(Path("m.gguf"), 2, 16, 5)


@pytest.mark.parametrize("ended", [False, True])
def test_all_is_freed_in_order_also_while_the_interpreter_ends(
    monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    library = Library()
    made = decoder(library, monkeypatch)
    if ended:
        library.end()
    del made  # warnings are errors, also those of what is raised here
    gc.collect()
    assert library.freed == ["batch", "context", "model"]


@pytest.mark.parametrize(
    ("library", "message", "freed"),
    [
        (Library(opens=False), "does not read it", []),
        (Library(room=False), "has no memory for 2 texts of 16 tokens", ["model"]),
    ],
)
def test_what_does_not_open_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, library: Any, message: str, freed: list[str]
) -> None:
    with pytest.raises(UserError, match=message):
        decoder(library, monkeypatch)
    gc.collect()
    assert library.freed == freed
