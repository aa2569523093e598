"""Tensors as they lie in files: mapped into memory, and not yet read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from .blocks import BLOCKS
from .files import Entry
from .header import Shape

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_tensor(entry: Entry) -> Tensor:
    """One tensor; see `read_tensors`."""
    return read_tensors({entry.key: entry})[entry.key]


def read_tensors(entries: Mapping[str, Entry]) -> dict[str, Tensor]:
    """Name -> tensor; each file is opened once.

    A tensor in blocks is uint8 [rows, bytes of a row], all its sides but the last being rows.
    """
    by_file: defaultdict[Path, dict[str, Entry]] = defaultdict(dict)
    for key, entry in entries.items():
        by_file[entry.path][key] = entry
    tensors: dict[str, Tensor] = {}
    for path, found in by_file.items():
        in_gguf = any(entry.start is not None for entry in found.values())
        tensors |= _gguf(path, found) if in_gguf else _safetensors(path, found)
    return tensors


def _safetensors(path: Path, entries: Mapping[str, Entry]) -> dict[str, Tensor]:
    with safe_open(path, framework="pt", device="cpu") as file:
        return {key: file.get_tensor(entry.key) for key, entry in entries.items()}


def _gguf(path: Path, entries: Mapping[str, Entry]) -> dict[str, Tensor]:
    """Every tensor has a storage of its own within the mapped file, as safetensors makes them: one can be copied,
    pinned or saved without the rest."""
    size = path.stat().st_size
    if any((entry.start or 0) + prod(_stored(entry)) * _dtype(entry).itemsize > size for entry in entries.values()):
        raise ValueError(f"{path}: the file became shorter since its header was read. Is it being fetched? Load again.")
    mapped = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size)
    return {key: _placed(mapped, entry) for key, entry in entries.items()}


def _dtype(entry: Entry) -> torch.dtype:
    return torch.uint8 if entry.dtype in BLOCKS else PLAIN[entry.dtype]


def _stored(entry: Entry) -> Shape:
    """The shape in elements of its dtype; blocks are rows of bytes."""
    block, shape = BLOCKS.get(entry.dtype), entry.shape
    return (prod(shape[:-1]), block.row_bytes(shape[-1])) if block else shape


def _placed(mapped: Any, entry: Entry) -> Tensor:
    start, shape, dtype = entry.start or 0, _stored(entry), _dtype(entry)
    size = prod(shape) * dtype.itemsize
    return torch.empty(0, dtype=dtype).set_(mapped[start : start + size], 0, shape)  # type: ignore[call-overload,no-any-return]
