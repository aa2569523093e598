"""Adapters as new files of ComfyUI's `loras` folder; nothing outside is written, nothing there is ever replaced."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable
from filecmp import cmp
from pathlib import Path

import folder_paths

from ...acestep_models.adapters.files import Adapter
from ...acestep_models.adapters.source import SUFFIX
from ...acestep_models.adapters.write import PEFT, write_adapter
from .loras import LORAS

_LONGEST_NAME = 200  # bytes; file systems take 255, and a number and the ending are added
_FORBIDDEN = '<>:"/\\|?*'  # on Windows, where a file made elsewhere may be taken to


def save_lora(adapter: Adapter, name: str, family: str) -> Path:
    """Write `adapter` as `name` with the next free number, whole or not at all.

    Raises:
        ValueError: for a name that is none, a family that cannot hold the adapter, and a folder that takes no file.
    """
    return _new(name, "" if family == PEFT else SUFFIX, lambda draft: _write(adapter, draft, family))


def copy_lora(file: Path, name: str) -> Path:
    """Copy a finished single file as `name` with the next free number; where an equal one is there, that is it.

    Raises:
        ValueError: for a name that is none, and a folder that takes no file.
    """
    plain, root = check_name(name), _root()
    there = root.glob("*" + SUFFIX) if root.is_dir() else ()
    pattern = re.compile(re.escape(plain) + r"_\d{1,9}_" + re.escape(SUFFIX), re.IGNORECASE)
    same = (path for path in sorted(there) if pattern.fullmatch(path.name) and cmp(path, file, shallow=False))
    return next(same, None) or _new(name, SUFFIX, lambda draft: _copy(file, draft))


def _copy(file: Path, draft: Path) -> None:
    shutil.copyfile(file, draft)
    with draft.open("rb+") as copied:
        os.fsync(copied.fileno())


def _new(name: str, suffix: str, write: Callable[[Path], None]) -> Path:
    """What `write` makes of a draft, under `name` and the next free number."""
    name = check_name(name)
    root = _root()
    drafts = root / f".{uuid.uuid4().hex}.tmp"
    try:
        drafts.mkdir(parents=True)
        draft = drafts / f"{name}{suffix}"
        write(draft)
        return _settle(draft, root, name, suffix)
    except OSError as error:
        raise ValueError(
            f"name: {name!r} could not be written to {root} ({error.strerror or error}); make that folder writable, "
            "or make room on its disk"
        ) from error
    finally:
        shutil.rmtree(drafts, ignore_errors=True)


def _write(adapter: Adapter, draft: Path, family: str) -> None:
    """Complaints name the file as the user does: of the draft nobody knows."""
    try:
        write_adapter(adapter, draft, family)
    except ValueError as error:
        raise ValueError(str(error).replace(str(draft), draft.name)) from error


def check_name(name: str) -> str:
    """The name without spaces around it.

    Raises:
        ValueError: for one that is empty, leads into another folder, is too long, or that some system cannot hold.
    """
    plain = name.strip()
    if not plain or not plain.isprintable() or plain.startswith(".") or any(sign in plain for sign in _FORBIDDEN):
        raise ValueError(
            f"name: expected a plain name such as my_style, without folders, {' '.join(_FORBIDDEN)} or a dot in front, "
            f"got {name[:100]!r}; it is put into ComfyUI's {LORAS} folder"
        )
    size = len(plain.encode(errors="replace"))
    if size > _LONGEST_NAME:
        raise ValueError(f"name: expected at most {_LONGEST_NAME} bytes, got {size}; shorten {plain[:40]!r}...")
    return plain


def _root() -> Path:
    """The first of ComfyUI's `loras` folders.

    Raises:
        ValueError: where a host has none.
    """
    folders = folder_paths.get_folder_paths(LORAS)
    if not folders:
        raise ValueError(f"name: this ComfyUI has no {LORAS} folder; name one in extra_model_paths.yaml")
    return Path(folders[0])


def _settle(draft: Path, root: Path, name: str, suffix: str) -> Path:
    """Give a finished draft the first free name: somebody else may be saving too."""
    number = _last_number(root, name) + 1
    while True:
        path = root / f"{name}_{number:05}_{suffix}"
        if _move(draft, path):
            return path
        number += 1


def _last_number(root: Path, name: str) -> int:
    """The highest number that a file or folder of this name has, 0 for none; case is no difference on some systems."""
    pattern = re.compile(re.escape(name) + r"_(\d{1,9})_", re.IGNORECASE)
    found = (pattern.match(entry.name) for entry in root.iterdir())
    return max((int(match[1]) for match in found if match), default=0)


def _move(draft: Path, path: Path) -> bool:
    """Whether `path` was free; then the draft is there.

    A file takes its name first and then its content, because a rename would replace another's file. A folder with
    something in it is never replaced by a rename.
    """
    if draft.is_dir():
        try:
            draft.rename(path)
        except OSError:
            if not path.exists():
                raise
            return False
        return True
    try:
        path.open("x").close()
    except FileExistsError:
        return False
    try:
        draft.replace(path)
    finally:
        if not path.stat().st_size:  # still only the name that was taken
            path.unlink()
    return True


def shown(path: Path) -> str:
    """A saved adapter as people look for it: "loras/my_style_00001_.safetensors"."""
    return f"{path.parent.name}/{path.name}"


def entry_name(path: Path) -> str:
    """A saved adapter as the lists of the nodes name it."""
    return os.path.relpath(path, _root()).replace(os.sep, "/")
