"""GGUF files that our own import does not read, run by llama.cpp where llama-cpp-python is installed.

https://llama-cpp-python.readthedocs.io/en/latest/api-reference/
"""

from __future__ import annotations

import atexit
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fourfold.core.addresses import Address
from fourfold.core.errors import UserError
from fourfold.tasks.foreign_servers import CONTEXT, Asked, Foreign, Message, sound


class Llama(Foreign):
    """A GGUF file in llama.cpp.

    Raises:
        UserError: llama.cpp does not read it.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._models: dict[str, Any] = {}
        model = self._opened("text", logits_all=False)
        told = [v for n, v in model.metadata.items() if n.endswith(".context_length")]
        self.window = min([int(model.n_ctx()), *(int(v) for v in told if str(v).isdigit())])

    def chat(self, messages: Sequence[Message], asked: Asked) -> Iterator[str]:
        """See `Foreign.chat`."""
        form = {"type": "json_object", "schema": asked.schema} if asked.schema is not None else None
        made = self._opened("text").create_chat_completion(
            list(messages), max_tokens=asked.tokens, stream=True, response_format=form, **_options(asked)
        )  # fmt: skip
        for told in made:
            yield from _piece(told["choices"][0]["delta"].get("content"))

    def complete(self, prompt: str, asked: Asked) -> Iterator[str]:
        """See `Foreign.complete`."""
        grammar = None
        if asked.schema is not None:
            from llama_cpp import LlamaGrammar

            grammar = LlamaGrammar.from_json_schema(json.dumps(asked.schema))
        made = self._opened("text").create_completion(
            prompt, max_tokens=asked.tokens, stream=True, grammar=grammar, **_options(asked)
        )
        for told in made:
            yield from _piece(told["choices"][0].get("text"))

    def probabilities(self, text: str) -> list[tuple[str, float | None]]:
        """See `Foreign.probabilities`: the token that begins a text is given, never predicted."""
        model = self._opened("scores", logits_all=True)
        tokens = model.tokenize(text.encode(), add_bos=True, special=False)
        if len(tokens) > model.n_ctx():
            raise UserError(
                f"text: has {len(tokens):,} tokens, {self.address.name} reads {model.n_ctx():,} at once"
            )
        model.reset()
        model.eval(tokens)
        logits = np.asarray(model.scores[: len(tokens)], np.float64)
        logits -= logits.max(-1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        begun = tokens[:1] == [model.token_bos()]
        found: list[tuple[str, float | None]] = [] if begun else [(self._text(tokens[0]), None)]
        for place, token in enumerate(tokens[1:]):
            found.append((self._text(token), float(logs[place, token])))
        return found

    def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        """See `Foreign.vectors`."""
        found: list[list[float]] = []
        for made in self._opened("vectors", embedding=True).embed(list(texts)):
            # a model that was not made for vectors has one for each token: their mean
            found.append(made if not isinstance(made[0], list) else np.mean(made, 0).tolist())
        return found

    def _text(self, token: int) -> str:
        return self._models["scores"].detokenize([token]).decode("utf-8", "replace")

    def _opened(self, purpose: str, **options: Any) -> Any:
        """The file opened for a purpose: what is kept for each token differs."""
        if purpose not in self._models:
            import llama_cpp

            try:
                made = llama_cpp.Llama(self.address.base, n_ctx=0, verbose=False, **options)
                if made.n_ctx() > CONTEXT:  # all of a long context's cache would be allocated
                    made = llama_cpp.Llama(self.address.base, n_ctx=CONTEXT, verbose=False, **options)  # fmt: skip
            except (ValueError, RuntimeError, OSError) as error:
                raise UserError(
                    f"{self.address.name}: llama.cpp does not read it ({error})"
                ) from error
            atexit.register(made.close)  # at the interpreter's end llama.cpp's functions are gone
            self._models[purpose] = made
        return self._models[purpose]


def _options(asked: Asked) -> dict[str, Any]:
    """Where nothing is said of a filter it filters nothing: llama.cpp's own defaults would."""
    plain = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
    return {**plain, **asked.fields()}


def _piece(text: Any) -> Iterator[str]:
    if isinstance(text, str) and text:
        yield sound(text)
