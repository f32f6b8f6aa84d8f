"""An index of passages, made by counting their terms; and documents brought into its store first."""

from __future__ import annotations

import time
from typing import Any, Literal

from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Data, Objective, Optimizer
from fourfold.core.run import Run
from fourfold.core.sources import stored

KEPT = 10
"""States of a knowledge base that can be gone back to."""


class Indexing(Optimizer):
    """One pass over the documents that are new or changed, then one over all passages.

    What readers see changes at one instant, when the weights are renamed into place: they name the passages that
    they are an index of, and the version of the store.
    """

    kind: Literal["indexing"] = "indexing"

    def minimize(self, objective: Objective, model: nn.Module, data: Data, run: Run) -> None:
        """Index.

        Raises:
            UserError: none of the documents can be read, another process is indexing, or the disk is full.
        """
        began = time.perf_counter()
        index, documents, system = _parts(model, data, run)
        if run.folder is None:
            if system.embedder is not None:
                raise UserError(
                    "--embedder: vectors are kept in a folder; give the knowledge base one (out)"
                )
            found = documents.passages
            index.take(found.texts(), found.digest, [])
            run.keep_weights()
            return
        encode, width = system.encoder(run)
        with documents.alone(run.folder):
            store = documents.store(width)
            found = documents.gather(store, encode, run.console)
            store.tidy()
            self.commit(run, found, [*index.versions.tolist(), store.version])
        for sentence in documents.summary()["notes"]:
            run.note(sentence)
        step, seconds = len(run.metrics.lines) + 1, time.perf_counter() - began
        run.metrics.log(step=step, passages=len(found), seconds=seconds)
        run.metrics.close()

    def undo(self, run: Run) -> None:
        """Go back to the state before the last change, and to the sources that it was made of.

        Raises:
            UserError: there is none, or another process is indexing.
        """
        index, documents, system = _parts(run.model, run.data, run)
        versions = index.versions.tolist()
        if len(versions) < 2:
            raise UserError(f"{run.folder}: there is no state before this one")
        with documents.alone(run.folder):
            store = documents.store(system.encoder(run)[1])
            store.restore(versions[-2])
            run.sources = documents.sources().get(str(versions[-2]), run.sources)
            found = documents.gathered(store)
            self.commit(run, found, [*versions[:-2], store.version])

    def commit(self, run: Run, found: Any, versions: list[int]) -> None:
        """Make what is in the store what readers see."""
        index, documents, _ = _parts(run.model, run.data, run)
        assert run.folder is not None  # noqa: S101
        states = list(dict.fromkeys(versions))[-KEPT:]
        index.take(found.texts(), found.digest, states)
        documents.save(run.folder / "data")
        documents.keep_sources(states[-1], stored(run.sources))
        run.keep_weights()
        documents.forget(found.digest)


def _parts(model: nn.Module, data: Data, run: Run) -> tuple[Any, Any, Any]:
    return model, data, run.system
