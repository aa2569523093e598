"""What a safetensors file says about itself: names, shapes and dtypes, without reading a weight."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Shape = tuple[int, ...]

MAX_HEADER_BYTES = 100_000_000  # the limit of the format itself
LENGTH_BYTES = 8
# Our own keys in the metadata of a file: its config JSON, and the job of a Qwen3 whose sizes do not tell it.
CONFIG_KEY, ROLE_KEY = "acestep_config", "acestep_role"

# First bytes of what people rename to .safetensors, or get in place of one.
SIGNATURES: dict[bytes, str] = {
    b"version https://git-lfs": "it is a Git LFS pointer, a text that stands for the real file: run `git lfs pull`",
    b"<!": "it is a web page, probably an error or login page of the download site",
    b"<html": "it is a web page, probably an error or login page of the download site",
    b"PK\x03\x04": "it is a PyTorch pickle (.ckpt, .pt); those can run code and are not read",
    b"\x80": "it is a Python pickle (.ckpt, .pt); those can run code and are not read",
    b"GGUF": "it is a GGUF file; those are read as models only",
}


@dataclass(frozen=True, eq=False)
class Header:
    """Names, shapes, dtypes (as safetensors and ggml spell them: F32, BF16, Q8_0 …) and free metadata of one file.

    `starts` is at which byte each tensor of a GGUF file begins; other files have none.
    """

    path: Path
    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    metadata: dict[str, str]
    starts: Mapping[str, int] = field(default_factory=dict)


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file and nothing more.

    Raises:
        ValueError: if there is no such file, it is empty, cut off, or something else under this name.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file. Was it moved or renamed? Refresh the list and choose again.")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(32)
        length = _header_length(path, size, start)
        file.seek(LENGTH_BYTES)
        header = _parse(path, file.read(length))
    metadata = header.pop("__metadata__", {})
    _check_length(path, size, LENGTH_BYTES + length, header)
    shapes = {key: tuple(entry["shape"]) for key, entry in header.items()}
    return Header(path, shapes, {key: str(entry["dtype"]) for key, entry in header.items()}, metadata)


def _header_length(path: Path, size: int, start: bytes) -> int:
    if size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes). The download did not start: fetch it again.")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if start[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{" or length > MAX_HEADER_BYTES:
        what = (text for signature, text in SIGNATURES.items() if start.startswith(signature))
        raise ValueError(_not_safetensors(path, next(what, f"it begins with {start[:16]!r}")))
    if length > size - LENGTH_BYTES:
        raise ValueError(
            f"{path}: the file is cut off inside its header: it has {size:,} bytes, the header alone needs "
            f"{LENGTH_BYTES + length:,}. The download was interrupted: fetch it again."
        )
    return length


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw)
    except ValueError as error:  # covers bytes that are not UTF-8 as well
        raise ValueError(_not_safetensors(path, f"its header is not JSON ({error})")) from error
    if not isinstance(header, dict) or not all(_is_entry(key, entry) for key, entry in header.items()):
        raise ValueError(_not_safetensors(path, "its header is JSON of another kind"))
    return header


def _is_entry(key: str, entry: Any) -> bool:
    return isinstance(entry, dict) and (key == "__metadata__" or {"dtype", "shape", "data_offsets"} <= entry.keys())


def _not_safetensors(path: Path, why: str) -> str:
    if path.suffix.lower() == ".gguf":
        return f"{path}: not a GGUF file, nor one of safetensors: {why}. Fetch it again."
    return f"{path}: not a safetensors file: {why}. Fetch it again, or choose the .safetensors version of the model."


def _check_length(path: Path, size: int, data_start: int, header: dict[str, Any]) -> None:
    expected = data_start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size < expected:
        raise ValueError(
            f"{path}: the file is cut off: it has {size:,} bytes, its header promises {expected:,}. "
            "The download was interrupted: fetch it again."
        )
    if size > expected:
        raise ValueError(
            f"{path}: the file is longer than it should be: it has {size:,} bytes, its header promises {expected:,}. "
            "It is damaged: fetch it again."
        )
