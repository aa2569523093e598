"""Files and folders that are there whole or not at all (a temporary name, fsync, rename), and whose they are."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

_BLOCK = 1 << 22
_DRAFT = re.compile(r"\.(.+)\.[0-9a-f]{32}\.(tmp|old)")  # ours and no others
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

    The block makes the folder itself and syncs its files; after an error nothing of it stays. A kill between the two
    renames leaves what was there under a name that `remove_drafts` gives its own name again.
    """
    draft = path.with_name(_draft_name(path))
    try:
        yield draft
        sync_folder(draft)
        if path.exists():
            aside = path.with_name(_draft_name(path, "old"))
            path.rename(aside)
            draft.rename(path)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            draft.rename(path)
        sync_folder(path.parent)
    finally:
        if draft.exists():
            shutil.rmtree(draft, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Take a folder away under a temporary name: a kill in the middle leaves nothing half there that has its name."""
    aside = path.with_name(_draft_name(path))
    with suppress(OSError):  # one that cannot be moved stays, whole
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def remove_drafts(folder: Path) -> None:
    """Remove what a killed process of ours left under temporary names; a folder that was only put aside comes back."""
    for path, name, kind in drafts(folder):
        if kind == "old" and not (folder / name).exists():
            path.rename(folder / name)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def drafts(folder: Path) -> list[tuple[Path, str, str]]:
    """Our temporary names in a folder, each with the name that it was for, and "tmp", or "old" for what was there."""
    found = [(path, _DRAFT.fullmatch(path.name)) for path in folder.iterdir()]
    return [(path, match[1], match[2]) for path, match in found if match]


def listed(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """Size and hash of files below a folder, by name."""
    return {name: {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names}


def what_differs(folder: Path, files: Mapping[str, Any], hashes: bool = True) -> str | None:
    """In what the files below a folder are no longer those that were `listed`; None where they are.

    Args:
        hashes: False looks at sizes only.

    Raises:
        OSError, KeyError, TypeError: for a file that is gone, or a list that is none.
    """
    for name, said in files.items():
        if (folder / name).stat().st_size != said["size"]:
            return f"{name} has another size than it was written with"
        if hashes and sha256(folder / name) != said["sha256"]:
            return f"{name} has changed"
    return None


def files_in(folder: Path) -> list[str]:
    """The names of all files and links below a folder, sorted, with "/"."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    )


def carry_over(old: Path, new: Path, names: Iterable[str]) -> None:
    """Copy files of one folder to where they are not in another."""
    for name in names:
        if not (new / name).exists():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(old / name, new / name, follow_symlinks=False)


def check_folder(path: Path) -> None:
    """Pass if a folder is there, or can be.

    Raises:
        ValueError: if something else is.
    """
    there = next((place for place in (path, *path.parents) if place.exists() or place.is_symlink()), path)
    if (there.exists() or there.is_symlink()) and not there.is_dir():
        raise ValueError(
            f"{there}: is a file, but a folder is needed there. Move it away, or choose another name or output folder"
        )


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


def _draft_name(path: Path, kind: str = "tmp") -> str:
    return f".{path.name}.{uuid.uuid4().hex}.{kind}"
