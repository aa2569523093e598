"""Files and folders that are there whole or not at all (a temporary name, fsync, rename), and whose they are."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_BLOCK = 1 << 22
LOCK = ".lock"
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # as the systems say that somebody else has it


def write_text(path: Path, text: str) -> None:
    """Write a text file in place of what is there."""
    with atomic(path) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` when everything is on the disk, and goes where not."""
    draft = path.with_name(_draft_name(path))
    try:
        yield draft
        sync_file(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder belongs to this process until the block ends, or the process dies, however that happens.

    A file system that knows no locks is taken as it is.

    Raises:
        ValueError: if another process has it.
        OSError: if no file can be made there.
    """
    with (folder / LOCK).open("ab+") as file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno in _TAKEN:
                raise ValueError(
                    f"{folder}: another run is writing there just now. Wait for it or stop it, or choose another name"
                ) from error
        yield


def _lock(file: IO[bytes]) -> None:
    """The system's own lock, which goes with the open file."""
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


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
