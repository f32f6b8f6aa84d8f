"""GGUF files, read and written: one file of settings and tensors, which llama.cpp and ollama run.

Format: ggml's GGUF, version 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), through the package `gguf`,
which packs and unpacks the quantized blocks too. Files are memory mapped and written tensor by tensor, so that no model
is held twice. q8_0: blocks of 32 in a row share a scale, whole numbers of 8 bits; q4_0: of 4 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fourfold.core.errors import UserError, nearest
from fourfold.core.state import atomically

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

MAGIC = b"GGUF"
READABLE = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
)  # fmt: skip
"""Types of tensors that are read."""
WRITABLE = ("f32", "f16", "bf16", "q8_0", "q4_0")
BLOCK = 32
"""Weights of a row that share a scale, in q8_0 and q4_0."""
LARGEST = 65_504.0
"""Of float16."""
Setting = bool | int | float | str | list[str] | list[int]


class GGUFFile:
    """A GGUF file, memory mapped; each tensor is unpacked when it is asked for.

    Args:
        path: the file.

    Raises:
        UserError: the package gguf is missing, there is no such file, it is truncated or damaged, or it holds tensors of
            a type that is not read.
    """

    def __init__(self, path: Path) -> None:
        package = gguf_package()
        self.path = path
        if not is_gguf(path):
            raise UserError(f"{path}: no GGUF file; expected one that begins with the letters GGUF")
        try:
            self._reader = package.GGUFReader(path)
            self.settings = {
                name: field.contents()
                for name, field in self._reader.fields.items()
                if not name.startswith("GGUF.")
            }
        # the package checks no bounds of its own: what it raises depends on where the file ends
        except Exception as error:
            size = path.stat().st_size
            if "version" in str(error):  # one that the package does not read, and says so
                raise UserError(f"{path}: {error}") from error
            raise UserError(
                f"{path}: truncated or damaged: its {size:,} bytes are not all that its header promises"
            ) from error
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        unread = sorted({t.tensor_type.name for t in self._tensors.values()} - {*READABLE})
        if unread:
            raise UserError(
                f"{path}: has tensors quantized as {', '.join(unread)}; supported: {', '.join(READABLE)}"
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def kinds(self) -> dict[str, int]:
        """How many tensors there are of each type."""
        names = [tensor.tensor_type.name for tensor in self._tensors.values()]
        return {name: names.count(name) for name in dict.fromkeys(names)}

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A setting; numbers with a point as the shortest that rounds to what is stored.

        Args:
            key: its name.
            kind: its type.
            default: what is taken where the file does not say it; None demands it.

        Raises:
            UserError: it is missing or of another type.
        """
        if key not in self.settings:
            if default is None:
                raise UserError(f"{self.path}: has no {key}{nearest(key, self.settings)}")
            return default
        value = self.settings[key]
        if not isinstance(value, kind):
            raise UserError(f"{self.path}, {key}: got {type(value).__name__} {value!r:.60}")
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def rows(self, name: str) -> int:
        """First size of a tensor, 0 where there is none of this name."""
        return int(self._tensors[name].shape[-1]) if name in self._tensors else 0

    def read(self, name: str, shape: Iterable[int]) -> Tensor:
        """A tensor in float32.

        Args:
            name: as stored.
            shape: what it must have.

        Raises:
            UserError: there is none of this name, or it has another shape.
        """
        if name not in self._tensors:
            raise UserError(f"{self.path}: has no tensor {name}{nearest(name, self._tensors)}")
        tensor, wanted = self._tensors[name], tuple(shape)
        found = tuple(int(size) for size in reversed(tensor.shape))
        if found != wanted:
            raise UserError(f"{self.path}, {name}: expected shape {wanted}, got {found}")
        return unpacked(tensor.data, tensor.tensor_type, wanted)


def is_gguf(path: Path) -> bool:
    """Whether a path is a file that begins as GGUF files do."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def write_gguf(
    path: Path,
    architecture: str,
    settings: Mapping[str, Setting],
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    kind: Callable[[str, tuple[int, ...]], str],
) -> None:
    """Write a file, whole or not at all.

    Args:
        path: replaced if it is there.
        architecture: the general.architecture.
        settings: by their names; whole numbers become uint32, numbers with a point float32.
        shapes: of the tensors, by their names, in the order in which they are written.
        read: a tensor by its name, asked for one by one.
        kind: one of `WRITABLE` for a name and a shape.

    Raises:
        UserError: the disk is full or may not be written, or a weight is beyond float16.
    """
    package = gguf_package()

    def fill(temporary: Path) -> None:
        writer = package.GGUFWriter(temporary, architecture)
        try:
            for name, value in settings.items():
                _set(writer, name, value)
            kinds = {name: ggml_type(kind(name, shape)) for name, shape in shapes.items()}
            for name, shape in shapes.items():
                stored = package.quant_shape_to_byte_shape(shape, kinds[name])
                writer.add_tensor_info(
                    name, stored, np.dtype(np.uint8), math.prod(stored), raw_dtype=kinds[name]
                )
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name in shapes:
                writer.write_tensor_data(packed(read(name), kinds[name], name))
        finally:
            writer.close()

    atomically(path, fill)


def packed(tensor: Tensor, kind: GGMLQuantizationType, name: str = "") -> np.ndarray:
    """A tensor's bytes in a type, (..., bytes of a row) uint8.

    Raises:
        UserError: a weight is beyond what float16 holds, in which the scales are, too.
    """
    package = gguf_package()
    values = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    if kind.name == "F16" and values.size and not np.abs(values).max() <= LARGEST:
        raise UserError(
            f"{name}: holds {np.abs(values).max():g}, beyond float16's {LARGEST:g}; --quantize bf16 or f32 holds it"
        )
    made: np.ndarray = package.quants.quantize(values, kind)
    return np.ascontiguousarray(made).view(np.uint8)


def unpacked(data: np.ndarray, kind: GGMLQuantizationType, shape: tuple[int, ...]) -> Tensor:
    """The weights of packed blocks, in float32; see `packed`."""
    values = gguf_package().quants.dequantize(data, kind)
    return torch.from_numpy(
        np.array(values, np.float32).reshape(shape)
    )  # a copy: the file is read-only


def rounded(tensor: Tensor, kind: str) -> Tensor:
    """What is left of a tensor that is written in a type and read again."""
    stored = ggml_type(kind)
    return unpacked(packed(tensor, stored), stored, tuple(tensor.shape))


def ggml_type(kind: str) -> Any:
    """The package's number of a type."""
    return gguf_package().GGMLQuantizationType[kind.upper()]


def gguf_package() -> Any:
    """The package that reads and writes the format.

    Raises:
        UserError: it is not installed.
    """
    try:
        import gguf
        import gguf.quants
    except ImportError:
        raise UserError("GGUF files need the package gguf: pip install 'fourfold[llm]'") from None
    return gguf


def _set(writer: Any, name: str, value: Setting) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)
