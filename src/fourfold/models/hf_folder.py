"""Hugging Face folders, read and written safely: config.json beside safetensors, in one file or several.

Format: huggingface/safetensors, and transformers' `model.safetensors.index.json`, whose "weight_map" names each tensor's
file. Weights are read tensor by tensor, so that no model is held twice. Pickled weights are refused: opening
one would execute code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fourfold.core.device import available_memory
from fourfold.core.errors import UserError, nearest
from fourfold.core.state import atomically, write_text

SHARD = 5 << 30
"""Bytes of a file of weights, at most; more go into several."""
PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
CONVERT = (
    "to convert them, where you trust them: "
    "transformers' AutoModelForCausalLM (AutoModelForMaskedLM, ...).from_pretrained(FOLDER).save_pretrained(NEW_FOLDER) "
    "writes safetensors"
)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model's folder.

    Raises:
        UserError: there is no such file, or it is something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file; expected a Hugging Face model folder") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def read_config(folder: Path, needed: Iterable[str] = ()) -> dict[str, Any]:
    """A folder's config.json.

    Args:
        folder: the model's.
        needed: fields that it must have.

    Raises:
        UserError: it is missing, damaged, or lacks one of the fields.
    """
    path = folder / "config.json"
    config = read_json(path)
    if missing := [name for name in needed if config.get(name) in (None, [], "")]:
        raise UserError(f"{path}: has no {', '.join(missing)}")
    return config


class StoredTensors:
    """The tensors of a folder, by name; each is read when it is asked for.

    Args:
        folder: with `<stem>.safetensors`, or `<stem>.safetensors.index.json` and the files that it names.
        stem: "model", or "adapter_model" for adapters in PEFT's layout.

    Raises:
        UserError: a file is missing or damaged, or the weights are pickled.
    """

    def __init__(self, folder: Path, stem: str = "model") -> None:
        self.folder = folder
        self._files = _files(folder, stem)
        self._opened: tuple[Path, Any] | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __len__(self) -> int:
        return len(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, without reading it.

        Raises:
            UserError: there is none of this name, or its file is damaged.
        """
        return self._ask(name, lambda file: tuple(file.get_slice(name).get_shape()))

    def read(self, name: str, shape: Iterable[int] | None = None) -> Tensor:
        """A tensor on the CPU; numbers with a point become float32.

        Args:
            name: as stored.
            shape: what it must have; None takes any.

        Raises:
            UserError: there is none of this name, it has another shape, or its file is damaged.
        """
        value: Tensor = self._ask(name, lambda file: file.get_tensor(name))
        if shape is not None and value.shape != torch.Size(shape):
            raise UserError(
                f"{self._files[name]}, {name}: expected shape {tuple(shape)}, got {tuple(value.shape)}"
            )
        return value.float() if value.is_floating_point() else value

    def _ask(self, name: str, question: Callable[[Any], Any]) -> Any:
        path = self._files.get(name)
        if path is None:
            raise UserError(f"{self.folder}: its weights have no {name}{nearest(name, self)}")
        if self._opened is None or self._opened[0] != path:
            self._opened = (path, _open(path))
        try:
            return question(self._opened[1])
        except (SafetensorError, RuntimeError) as error:
            raise UserError(f"{path}: damaged: {name} cannot be read ({error})") from error


def fill(model: nn.Module, read: Callable[[str, torch.Size], Tensor]) -> None:
    """Give a model on the meta device its weights, one after the other; what is tied stays tied.

    Args:
        model: made under `torch.device("meta")`; its buffers are left to the caller.
        read: the value of a parameter by its name here and its shape; of a tied one, by its first name.

    Raises:
        UserError: they take more memory than is free, or what `read` raises.
    """
    parameters = dict(model.named_parameters())
    needed = sum(4 * p.numel() for p in parameters.values())
    free = available_memory(torch.device("cpu"))
    if needed > free:
        raise UserError(
            f"the weights take {needed / 2**30:.1f} GiB in float32 and {free / 2**30:.1f} GiB is free"
        )
    made = {id(p): nn.Parameter(read(name, p.shape)) for name, p in parameters.items()}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            setattr(module, name, made[id(parameter)])


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    stem: str = "model",
    settings: str = "config.json",
    shard: int = SHARD,
) -> None:
    """Write a folder that transformers (or PEFT) opens.

    Args:
        folder: made if it is not there; files of these names are replaced.
        config: what its JSON says.
        tensors: the weights by their names there; asked for one by one, as many are held as one file takes.
        stem: of the weights' files: "model", or "adapter_model" in PEFT's layout.
        settings: the JSON's name: "config.json", or "adapter_config.json".
        shard: bytes of a file of weights, at most.

    Raises:
        UserError: the disk is full or may not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot make this folder ({error.strerror})") from error
    written: list[list[str]] = []
    total, held = 0, dict[str, Tensor]()

    def flush() -> None:
        written.append(list(held))
        path = folder / _shard(stem, len(written), 0)
        atomically(path, lambda temporary: save_file(held, temporary, {"format": "pt"}))
        held.clear()

    for name, tensor in tensors:
        tensor = tensor.detach().to("cpu").contiguous()
        if held and sum(t.nbytes for t in held.values()) + tensor.nbytes > shard:
            flush()
        held[name] = tensor
        total += tensor.nbytes
    flush()
    _name_shards(folder, stem, written, total)
    write_json(folder / settings, config)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, as Hugging Face's own files look."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _shard(stem: str, number: int, of: int) -> str:
    return f"{stem}-{number:05d}-of-{of:05d}.safetensors"


def _name_shards(folder: Path, stem: str, written: list[list[str]], total: int) -> None:
    """Give the files their names, which say how many there are; write the index; remove what stood there before."""
    single, index = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    places: dict[str, str] = {}
    for number, names in enumerate(written, 1):
        final = single if len(written) == 1 else _shard(stem, number, len(written))
        (folder / _shard(stem, number, 0)).replace(folder / final)
        places.update(dict.fromkeys(names, final))
    if len(written) > 1:
        write_json(folder / index, {"metadata": {"total_size": total}, "weight_map": places})
    kept = {*places.values(), *([index] if len(written) > 1 else [])}
    for pattern in (single, index, f"{stem}-*-of-*.safetensors"):
        for stale in folder.glob(pattern):
            if stale.name not in kept:
                stale.unlink()


def _files(folder: Path, stem: str) -> dict[str, Path]:
    """The file of each stored tensor."""
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if index.exists():
        return _indexed(index)
    if single.exists():
        return dict.fromkeys(_open(single).keys(), single)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a Hugging Face model folder")
    if pickled := sorted(p.name for pattern in PICKLED for p in folder.glob(pattern)):
        raise UserError(
            f"{folder / pickled[0]}: pickled weights are not opened, they may execute code; {CONVERT}"
        )
    raise UserError(f"{folder}: has no {single.name}")


def _indexed(index: Path) -> dict[str, Path]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise UserError(f"{index}: has no weight_map that names each tensor's file")
    files = sorted(set(places.values()))
    for file in files:
        # a shard stands beside its index; a path that leads elsewhere is not followed
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise UserError(f"{index}: names {file}; expected .safetensors files beside it")
    missing = [file for file in files if not (index.parent / file).exists()]
    if missing:
        named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UserError(
            f"{index.parent}: {len(missing)} of the {len(files)} files that {index.name} names are missing: {named}"
        )
    return {name: index.parent / file for name, file in places.items()}


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")  # type: ignore[no-untyped-call]
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or not safetensors ({error})") from error
