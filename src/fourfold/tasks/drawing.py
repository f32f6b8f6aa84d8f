"""How the tokens of a text are drawn, from the options of a verb."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fourfold.core.errors import UserError
from fourfold.data.vocabulary import Vocabulary
from fourfold.models.sampling import Sampling
from fourfold.tasks.grammar import Grammar, grammar


def drawing(
    vocabulary: Vocabulary,
    *,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    logit_bias: Sequence[str] = (),
    regex: str | None = None,
    schema: str | None = None,
    ends: tuple[int, ...] | None = None,
) -> tuple[Sampling, Grammar | None]:
    """See `LanguageModel.generate` for the options.

    Args:
        ends: tokens at which a text ends; None takes the vocabulary's.

    Raises:
        UserError: a bias of no single token, a grammar that is none.
    """
    bias = dict(_bias(vocabulary, one) for one in logit_bias) or None
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, bias)
    return sampling, grammar(vocabulary, regex=regex, schema=schema, ends=ends)


def _bias(vocabulary: Vocabulary, text: str) -> tuple[int, float]:
    """A token's number and bias, from "TEXT=BIAS" or "#NUMBER=BIAS"."""
    token, equals, number = text.rpartition("=")
    try:
        bias = float(number)
    except ValueError:
        bias = math.nan
    if not equals or math.isnan(bias):
        raise UserError(
            f'--logit-bias "{text}": expected TEXT=BIAS or #NUMBER=BIAS, as " the=-2.5" or #17=100'
        )
    if token[:1] == "#" and token[1:].isdecimal():
        if int(token[1:]) >= len(vocabulary):
            raise UserError(
                f"--logit-bias {text}: there is no token {token[1:]}; the last one is {len(vocabulary) - 1}"
            )
        return int(token[1:]), bias
    found = vocabulary.encode(token).tolist()
    if len(found) != 1 or found[0] == vocabulary.unknown:
        shown = " ".join(f"#{n}" for n in found[:8]) if len(found) > 1 else "none"
        raise UserError(
            f'--logit-bias "{text}": expected the text of one token, "{token}" is {shown} in this vocabulary'
        )
    return found[0], bias
