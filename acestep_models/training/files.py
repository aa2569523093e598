"""Files and folders that are there whole or not at all: a temporary name, fsync, rename."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BLOCK = 1 << 22


def write_text(path: Path, text: str) -> None:
    """Write a text file in place of what is there."""
    draft = path.with_name(_draft_name(path))
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary name for a folder that stands at `path`, in place of what is there, once the block has ended well.

    The block makes the folder itself and syncs its files; after an error nothing of it stays.
    """
    draft = path.with_name(_draft_name(path))
    try:
        yield draft
        sync_folder(draft)
        if path.exists():
            aside = path.with_name(_draft_name(path))
            path.rename(aside)
            draft.rename(path)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            draft.rename(path)
        sync_folder(path.parent)
    finally:
        if draft.exists():
            shutil.rmtree(draft, ignore_errors=True)


def remove_drafts(folder: Path) -> None:
    """Remove what a killed process left under temporary names."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """What was written to a file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """The names in a folder are on the disk; where the system cannot do that (Windows), nothing."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _draft_name(path: Path) -> str:
    return f".{path.name}.{uuid.uuid4().hex}.tmp"
