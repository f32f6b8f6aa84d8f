"""Checkpoints of which every process writes its part: torch's distributed checkpoint through its safetensors writer.

    checkpoints/<step>/
      state.safetensors    what all processes have alike, and where in it the shared tensors belong
      shard-<n>-model-...  the parts of those tensors that rank n - 1 has

Written by N processes they are read by any number. No pickle: what the parts are stands in the header of each file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save
from torch.distributed.tensor import DTensor

from fourfold.core.errors import UserError
from fourfold.core.ranks import Ranks
from fourfold.core.shares import local
from fourfold.core.state import copied, refused, save_checkpoint, unwritten

MARK = "shard of"
"""Key of what stands in the state where a shared tensor belongs."""


class Shards:
    """A checkpoint that all processes write together; each makes one, with the same tree.

    Args:
        folder: of all checkpoints.
        step: its number.
        state: the tree; what it holds may change as soon as this returns, where there is a group.
        ranks: the processes.
        group: for what they have to say to one another while they write beside the steps; None: they write now.

    Raises:
        UserError: the disk is full or may not be written; earlier checkpoints are intact.
    """

    def __init__(
        self, folder: Path, step: int, state: Any, ranks: Ranks, group: dist.ProcessGroup | None
    ) -> None:
        self.folder, self.step, self.ranks = folder, step, ranks
        shared: dict[str, Tensor] = {}
        self.common = _marked(state, shared, "state")
        self.alias = ranks.tell(_tied(shared))
        shared = {name: tensor for name, tensor in shared.items() if name not in self.alias}
        self.place = folder / f".{step:09d}.shards"
        if ranks.main:
            shutil.rmtree(self.place, ignore_errors=True)
            self._now(lambda: self.place.mkdir(parents=True))
        ranks.gather("made")
        writer = HuggingFaceStorageWriter(str(self.place), save_distributed=True)
        logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)
        self.writing: Future[Any] | None = None
        with warnings.catch_warnings(), ranks.waiting("a checkpoint"):
            warnings.simplefilter("ignore")
            if group is None:
                self._now(lambda: save(shared, storage_writer=writer))
            else:
                self.common = copied(self.common)
                begun = async_save(shared, storage_writer=writer, process_group=group)
                self.writing = cast("Future[Any]", begun)

    def written(self) -> dict[str, str]:
        """This process's files with their digests, once they are written; any thread may wait for them."""
        if self.writing:
            self._now(self.writing.result)
        return {p.name: _digest(p) for p in self.place.glob(f"shard-{self.ranks.rank + 1:05d}-*")}

    def _now(self, write: Callable[[], Any]) -> None:
        """Write; where some process had no room, that is said. Torch's own error is no Exception: others could not be told."""
        try:
            write()
        except OSError as error:
            raise self._said(error, self.ranks.rank) from error
        except CheckpointException as error:
            rank, (found, _) = next(iter(error.failures.items()))
            raise self._said(found, rank) from error

    def _said(self, found: BaseException, rank: int) -> Exception:
        if why := refused(found):
            return unwritten(self.folder, self.step, why)
        return OSError(
            f"rank {rank} could not write its part of {self.folder / f'{self.step:09d}'}: {found!r}"
        )

    def end(self, mine: dict[str, str]) -> None:
        """Make of the files of all processes a checkpoint; all call this."""
        files = {name: digest for told in self.ranks.gather(mine) for name, digest in told.items()}
        if self.ranks.main:
            state = {"files": files, "alias": self.alias, "state": self.common}
            save_checkpoint(self.folder, self.step, state, beside=self.place)
        self.ranks.gather("written")


def load_shards(folder: Path, tree: dict[str, Any]) -> Any:
    """The state of a checkpoint that several processes have written, with whole tensors.

    Args:
        folder: the checkpoint.
        tree: what its state.safetensors holds.

    Raises:
        UserError: a shard is missing or damaged.
    """
    for name, digest in tree["files"].items():
        path = folder / name
        if not path.exists():
            raise UserError(
                f"{path}: missing; this checkpoint was written by {len(tree['files'])} processes and needs all their shards"
            )
        if _digest(path) != digest:
            raise UserError(f"{path}: damaged: its content does not match its checksum")
    places: dict[str, Tensor] = {}
    alias = tree["alias"]
    _walk(
        tree["state"],
        lambda mark: mark[MARK] in alias or places.setdefault(mark[MARK], _empty(mark)),
    )
    logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(places, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return _walk(tree["state"], lambda mark: places[alias.get(mark[MARK], mark[MARK])])


def _tied(shared: dict[str, Tensor]) -> dict[str, str]:
    """Tensors that are others again, as tied weights: names, each with the first name of the same."""
    first: dict[Any, str] = {}
    alias = {}
    for name, tensor in shared.items():
        part = local(tensor)
        key = (part.data_ptr(), tuple(tensor.shape))
        if part.numel() and first.setdefault(key, name) != name:
            alias[name] = first[key]
    return alias


def _marked(tree: Any, shared: dict[str, Tensor], path: str) -> Any:
    """A state with marks in place of the tensors that processes share, which are gathered by path."""
    if isinstance(tree, DTensor):
        shared[path] = tree.detach()
        kind = str(tree.dtype).removeprefix("torch.")
        return {MARK: path, "shape": list(tree.shape), "dtype": kind}
    if isinstance(tree, dict):
        return {key: _marked(value, shared, f"{path}.{key}") for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_marked(value, shared, f"{path}.{i}") for i, value in enumerate(tree))
    return tree


def _walk(tree: Any, found: Callable[[dict[str, Any]], Any]) -> Any:
    if isinstance(tree, dict):
        if MARK in tree:
            return found(tree)
        return {key: _walk(value, found) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_walk(value, found) for value in tree)
    return tree


def _empty(mark: dict[str, Any]) -> Tensor:
    return torch.empty(mark["shape"], dtype=getattr(torch, mark["dtype"]))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest
