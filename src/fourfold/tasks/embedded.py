"""Word vectors of language models that embed words: those that are read, and the rows of the output layer."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.models.output import FullOutput
from fourfold.tasks.language import vocabulary_of
from fourfold.tasks.vectors import HasVectors, Which


class EmbedsWords(HasVectors):
    """A language model whose model has an `embedding` and an output layer `head`."""

    def word_vectors(self, run: Run, which: Which = "input") -> tuple[list[str], np.ndarray]:
        """See `HasVectors.word_vectors`; the end token, the unknown token, <join> and white space are no words.

        Output vectors are the rows of the output layer, of which there is one for each word where it is full.
        """
        vocabulary, model = vocabulary_of(run.data), cast(Any, run.model)
        special = {vocabulary.end, vocabulary.unknown, getattr(vocabulary, "join", None)}
        order = np.argsort(-np.asarray(vocabulary.counts), kind="stable").tolist()
        kept = [n for n in order if n not in special and not vocabulary.token(n).isspace()]
        matrices = {"input": model.embedding.weight}
        if isinstance(model.head, FullOutput):
            matrices["output"] = model.head.weight
        elif which != "input":
            raise UserError(
                f"--vectors {which}: this run's output layer has no row for each word; --vectors input"
            )
        if matrices.get("output") is model.embedding.weight and which == "joined":
            raise UserError(
                f"--vectors joined: this {self.name} has one set of vectors for both; --vectors input"
            )
        chosen = list(matrices.values()) if which == "joined" else [matrices[which]]
        vectors = torch.cat([matrix.detach().float().cpu() for matrix in chosen], 1).numpy()[kept]
        return [vocabulary.token(number) for number in kept], vectors
