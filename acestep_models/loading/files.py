"""From a path to the headers behind it: one file, the shards of an index, or a folder with a config beside.

Nothing here knows what the tensors are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .gguf_header import is_gguf, read_gguf
from .header import CONFIG_KEY as CONFIG_KEY
from .header import Header, Shape, read_header

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
# A config.json belongs to a file only under these names; elsewhere it may be a neighbour's.
WEIGHT_NAMES = ("model", "diffusion_pytorch_model")


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies; `start` is its first byte in a GGUF file."""

    path: Path
    key: str
    shape: Shape
    dtype: str
    start: int | None = None


@dataclass(frozen=True, eq=False)
class Files:
    """The tensors of one model under the names of its file or files, and its raw config (may be empty).

    Attributes:
        prefix: of one section of a file that holds several models; tensors and metadata of others are not seen, and
            names are without it.
    """

    path: Path
    headers: tuple[Header, ...]
    given: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""

    @property
    def entries(self) -> dict[str, Entry]:
        """Every tensor of every file."""
        return {
            key.removeprefix(self.prefix): Entry(h.path, key, h.shapes[key], h.dtypes[key], h.starts.get(key))
            for h in self.headers
            for key in h.shapes
            if key.startswith(self.prefix)
        }

    @property
    def metadata(self) -> dict[str, str]:
        """The free metadata of all files."""
        whole = {key: value for header in self.headers for key, value in header.metadata.items()}
        return {key.removeprefix(self.prefix): value for key, value in whole.items() if key.startswith(self.prefix)}

    def section(self, prefix: str) -> Files:
        """Those tensors that begin with `prefix`, with the config that the file's metadata has for them."""
        section = replace(self, prefix=self.prefix + prefix, given={})
        own = section.metadata.get(CONFIG_KEY)
        return replace(section, given=_parse(own, self.path) if own else {})


def read_files(path: Path) -> Files:
    """Headers and config of a .safetensors or .gguf file, an index of shards, or a folder that holds one of them.

    Raises:
        ValueError: if there is nothing to read, or a file is damaged.
    """
    path = _weights(path) if path.is_dir() else path
    headers = tuple(_header(shard) for shard in _shards(path))
    metadata = headers[0].metadata.get(CONFIG_KEY)
    given = _parse(metadata, path) if metadata else _config_beside(path)
    return Files(path, headers, given)


def _header(path: Path) -> Header:
    return read_gguf(path) if is_gguf(path) else read_header(path)


def is_standard_name(path: Path) -> bool:
    """Whether the file is named as in a model folder, so that its neighbours belong to it."""
    return path.name.startswith(WEIGHT_NAMES)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ValueError: if it is not one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the config is no text ({error.reason}). Fetch the file again.") from error
    return _parse(text, path)


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets in thousands of brackets
        raise ValueError(f"{path}: the config is not JSON ({error}). Fetch the file again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: the config is no JSON object but {type(value).__name__}. Fetch the file again.")
    return value


def _weights(folder: Path) -> Path:
    """The index of shards or the one weight file of a folder."""
    for pattern in (f"*{INDEX_SUFFIX}", *(f"{name}{SUFFIX}" for name in WEIGHT_NAMES), f"*{SUFFIX}"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{folder}: holds {len(found)} models ({_some(found)}): choose one file.")
    raise ValueError(f"{folder}: no {SUFFIX} file in this folder. Choose the folder or file of a model.")


def _shards(path: Path) -> Iterator[Path]:
    if not path.name.endswith(INDEX_SUFFIX):
        yield path
        return
    names = sorted(set(read_json(path).get("weight_map", {}).values()))
    if not names:
        raise ValueError(f"{path}: the index names no files. Fetch it again.")
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise ValueError(f"{path}: the index names a file outside of its folder ({outside[0]!r}). Fetch it again.")
    missing = [path.parent / name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise ValueError(f"{path}: {len(missing)} of {len(names)} parts are missing ({_some(missing)}): fetch them.")
    yield from (path.parent / name for name in names)


def _config_beside(path: Path) -> dict[str, Any]:
    config = path.parent / "config.json"
    return read_json(config) if is_standard_name(path) and config.is_file() else {}


def _some(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:5])
