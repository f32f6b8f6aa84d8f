"""States as files: nested states and weights in safetensors, no pickle, each write atomic and checked.

One file holds the tensors and, in its header, a JSON tree of everything else with the SHA-256 of
both, so that a flipped byte is found and a file is either whole or not there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fourfold.core.errors import UserError


def _encode(tree: Any, tensors: dict[str, Tensor], path: str) -> Any:
    if isinstance(tree, Tensor):
        tensors[path] = tree.detach().to("cpu").contiguous()
        return {"~tensor": path}
    if isinstance(tree, dict):
        return {
            "~dict": [
                [key, _encode(value, tensors, f"{path}.{key}")] for key, value in tree.items()
            ]
        }
    if isinstance(tree, (list, tuple)):
        kind = "~tuple" if isinstance(tree, tuple) else "~list"
        return {kind: [_encode(value, tensors, f"{path}.{i}") for i, value in enumerate(tree)]}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise TypeError(
        f"a state holds tensors, numbers, strings, lists and dicts; {path} is {type(tree).__name__}"
    )


def copied(state: Any) -> Any:
    """A nested state with copies of its tensors, on the CPU, which later steps do not change."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(copied(value) for value in state)
    return state


def bytes_of(state: Any) -> int:
    """Bytes of all tensors in a nested state; of one that processes share, those of all of them."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(map(bytes_of, state.values()))
    return sum(map(bytes_of, state)) if isinstance(state, (list, tuple)) else 0


def _decode(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "~tensor":
        return tensors[value]
    if kind == "~dict":
        return {key: _decode(item, tensors) for key, item in value}
    items = [_decode(item, tensors) for item in value]
    return tuple(items) if kind == "~tuple" else items


def _digest(tree: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def full_disk(error: BaseException) -> bool:
    """Whether an error says that no more can be written: disk, quota or file-size limit."""
    return _is_one_of(error, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def refused(error: BaseException | None) -> str | None:
    """Why the system did not let something be written, in words; None for any other error."""
    if error is not None and full_disk(error):
        return "no space left"
    if error is not None and _is_one_of(error, errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission"
    return None


def _is_one_of(error: BaseException, *codes: int) -> bool:
    if isinstance(error, OSError):
        return error.errno in codes
    return isinstance(error, SafetensorError) and any(
        f"(os error {code})" in str(error) for code in codes
    )


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it, then rename it into its name.

    Raises:
        UserError: the disk is full or may not be written; what stood at `path` is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.chmod(0o666 & ~_umask())  # safetensors makes files for their owner alone
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass
        if why := refused(error):
            raise UserError(
                f"{path}: {why} to write it; what was there before is intact"
            ) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def save_state(path: Path, state: Any) -> None:
    """Write a nested state (dicts, lists, tensors, numbers, strings) atomically to one file.

    Raises:
        TypeError: something else is in the state.
        UserError: the disk is full or may not be written.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_encode(state, tensors, "state"))
    # storages shared between tensors are stored once per tensor here: states do not share
    metadata = {"tree": tree, "sha256": _digest(tree, tensors)}
    unique = {name: t.clone() if t.numel() == 0 else t for name, t in tensors.items()}
    atomically(path, lambda temporary: _save_file(unique, temporary, metadata))


def _save_file(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """A safetensors file whose bytes follow from its content: the library's own order of the metadata is random."""
    save_file(_unshared(tensors), path, metadata)
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(8)
        file.write(text.ljust(size))


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        key = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if key in seen else tensor
        seen.add(key)
    return result


def load_state(path: Path) -> Any:
    """Read what `save_state` wrote.

    Raises:
        UserError: the file is missing, truncated, or a byte of it changed.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tree = metadata["tree"]
        if len(metadata) != 2 or metadata["sha256"] != _digest(tree, tensors):
            raise UserError(f"{path}: damaged: its content does not match its checksum")
        return _decode(json.loads(tree), tensors)
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: damaged or not a fourfold state ({error})") from error


def save_weights(path: Path, model: nn.Module, replacing: dict[str, Tensor] | None = None) -> None:
    """Write a model's weights; tensors that share memory are stored once.

    Args:
        path: usually `weights.safetensors`.
        model: whose state_dict is written.
        replacing: tensors by name that stand in for the model's own (an average of weights).
    """
    tensors: dict[str, Tensor] = {}
    alias: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, tensor in model.state_dict().items():
        part = getattr(tensor, "_local_tensor", tensor)  # of one that processes share
        key = (part.data_ptr(), tuple(tensor.shape), part.stride())
        if part.numel() and key in first:
            alias[name] = first[key]
            continue
        first[key] = name
        value = (replacing or {}).get(name, tensor)
        tensors[name] = value.detach().to("cpu").contiguous()
    tree = json.dumps(alias)
    metadata = {"format": "pt", "alias": tree, "sha256": _digest(tree, tensors)}
    atomically(path, lambda temporary: _save_file(tensors, temporary, metadata))


def weights_digest(path: Path) -> str:
    """The SHA-256 that `save_weights` wrote beside a model's weights; they are not read.

    Raises:
        UserError: missing, or not weights of a run.
    """
    if not path.exists():
        raise UserError(
            f"{path}: no weights there yet (was the fit stopped before its first evaluation?)"
        )
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            return str((file.metadata() or {})["sha256"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error})") from error


def load_weights(path: Path, model: nn.Module) -> None:
    """Read weights into a model of the same shape.

    Raises:
        UserError: missing, damaged, or of another shape.
    """
    if not path.exists():
        raise UserError(
            f"{path}: no weights there yet (was the fit stopped before its first evaluation?)"
        )
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tree = metadata.get("alias", "{}")
        whole = metadata.keys() == {"format", "alias", "sha256"} and metadata["format"] == "pt"
        if not whole or metadata["sha256"] != _digest(tree, tensors):
            raise UserError(f"{path}: damaged: its content does not match its checksum")
        for name, source in json.loads(tree).items():
            tensors[name] = tensors[source]
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error})") from error
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"{path}: these weights do not fit this model: {_misfit(tensors, model)}"
        ) from error


def _misfit(tensors: dict[str, Tensor], model: nn.Module) -> str:
    """How stored weights differ from a model's, in a few words."""
    expected = model.state_dict()
    for name, tensor in tensors.items():
        if name in expected and tensor.shape != expected[name].shape:
            return f"{name} is {tuple(tensor.shape)} there and {tuple(expected[name].shape)} here"
    words = []
    for names, what in (
        ([n for n in expected if n not in tensors], "is missing there"),
        ([n for n in tensors if n not in expected], "has no place here"),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            words.append(f"{names[0]}{more} {what}")
    return ", ".join(words)


class TakesShape:
    """Mixin for modules whose buffers get their size from the search: load whatever shape was saved.

    Such a module registers empty buffers; loading replaces them by tensors of the stored shape.
    """

    def _load_from_state_dict(
        self, state: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name, buffer in self._buffers.items():  # type: ignore[attr-defined]
            stored = state.get(prefix + name)
            if buffer is not None and stored is not None and buffer.shape != stored.shape:
                self._buffers[name] = torch.empty_like(stored, device=buffer.device)  # type: ignore[attr-defined]
        super()._load_from_state_dict(state, prefix, *args, **kwargs)  # type: ignore[misc]


def save_checkpoint(folder: Path, step: int, state: Any, beside: Path | None = None) -> None:
    """Write `folder/<step>/` through a temporary folder and a rename, then remove the older ones.

    Args:
        folder: of all checkpoints.
        step: its number.
        state: see `save_state`.
        beside: a folder with files that belong to it, which becomes the checkpoint's.

    Raises:
        UserError: the disk is full or may not be written; earlier checkpoints are intact.
    """
    temporary, final = folder / f".{step:09d}.tmp", folder / f"{step:09d}"
    try:
        for stale in folder.glob(".*.tmp"):
            shutil.rmtree(stale, ignore_errors=True)  # of a killed process
        if beside is not None:
            save_state(beside / "state.safetensors", state)
            _sync(beside)
            if final.exists():
                os.replace(final, temporary)
            os.replace(beside, final)
            _sync(folder)
            shutil.rmtree(temporary, ignore_errors=True)
        elif final.exists():
            # the same step again: its one file is replaced, so that there is a checkpoint at any instant
            save_state(final / "state.safetensors", state)
        else:
            temporary.mkdir(parents=True)
            save_state(temporary / "state.safetensors", state)
            _sync(temporary)
            os.replace(temporary, final)
            _sync(folder)
    except (UserError, OSError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        why = refused(error.__cause__ if isinstance(error, UserError) else error)
        if why is None:
            raise
        raise unwritten(folder, step, why) from error
    for other in checkpoints(folder):
        if other != final:
            shutil.rmtree(other, ignore_errors=True)


def unwritten(folder: Path, step: int, why: str) -> UserError:
    """The error of a checkpoint that could not be written: which one is there instead."""
    last = latest_checkpoint(folder)
    kept = f"the checkpoint of step {int(last.name)} is intact" if last else "none was there before"
    return UserError(f"{folder / f'{step:09d}'}: {why} to write this checkpoint; {kept}")


def remove_leftovers(folder: Path) -> None:
    """Remove what a process killed while writing to a run's folder has left there: files, and parts of checkpoints."""
    for pattern in (".*.tmp", ".tmp*"):  # ours and safetensors' own
        for stale in folder.glob(pattern):
            stale.unlink(missing_ok=True)
    for pattern in (".*.tmp", ".*.shards"):
        for stale in (folder / "checkpoints").glob(pattern):
            shutil.rmtree(stale, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and p.name.isdigit())


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, if there is one."""
    found = checkpoints(folder)
    return found[-1] if found else None
