"""A dataset by its path, whatever kind it is."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..manifest import read_manifest
from .clip import Dataset
from .dataset_json import is_manifest, named_files, read_dataset, read_json
from .scan import MANIFEST, files_below, has_sound, scan
from .sound import Tick

__all__ = ["open_dataset", "stamp"]


def open_dataset(path: Path, tick: Tick | None = None) -> Dataset:
    """The dataset of a folder, of a dataset JSON, or of a manifest of prepared tensors, which a folder may hold too.

    Raises:
        ValueError: for a path that is none of these, and as `scan`, `read_dataset` and `read_manifest` do.
    """
    if path.is_dir():
        manifest = path / MANIFEST
        return read_manifest(manifest) if manifest.is_file() and _is_tensors(manifest) else scan(path, tick)
    if not path.is_file():
        raise ValueError(f"folder: {path} is not there; give a folder of sound files, a dataset .json or {MANIFEST}")
    if path.suffix.lower() != ".json":
        raise ValueError(f"folder: {path.name} is no folder and no .json; give the folder that it lies in")
    return read_manifest(path) if is_manifest(read_json(path)) else read_dataset(path, tick)


def _is_tensors(manifest: Path) -> bool:
    """Whether the folder is one of tensors only: sounds beside a manifest come first."""
    return is_manifest(read_json(manifest)) and not has_sound(manifest.parent)


def stamp(path: Path) -> str:
    """Changes when any file does that `open_dataset` looks at.

    Raises:
        ValueError: for a JSON that cannot be read.
        OSError: for a file that may not be looked at.
    """
    digest = hashlib.sha256()
    for file in _watched(path):
        facts = file.stat()
        digest.update(f"{file}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _watched(path: Path) -> list[Path]:
    if path.is_dir():
        return list(files_below(path).values())
    tensors = path.parent.glob("*.pt") if is_manifest(read_json(path)) else ()
    return [path, *named_files(path), *sorted(tensors)]
