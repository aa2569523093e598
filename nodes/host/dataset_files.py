"""Datasets in the host's folders: found below its input folder, saved as a new folder below its output folder."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import folder_paths

from . import save_lora
from .loras import LORAS

FOLDER = "acestep_datasets"  # below output


def dataset_path(folder: str) -> Path:
    """A path as the user writes it: an absolute one, or one below ComfyUI's input folder.

    Raises:
        ValueError: for one that is empty, not there, or leads out of the input folder.
    """
    given = folder.strip().strip('"')
    root = os.path.abspath(folder_paths.get_input_directory())
    if not given or not given.isprintable():
        raise ValueError(
            f"folder: expected a folder of sound files, a path of its own or one below {root}; got {given!r}"
        )
    path = os.path.abspath(os.path.join(root, os.path.expanduser(given)))
    if not os.path.isabs(os.path.expanduser(given)) and not Path(path).is_relative_to(root):
        raise ValueError(f"folder: {given!r} leads out of {root}; write the whole path")
    if not os.path.exists(path):
        raise ValueError(f"folder: there is no {path}; write a whole path, or put the folder into {root}")
    return Path(path)


def save_dataset(name: str, write: Callable[[Path], None]) -> Path:
    """A new folder output/acestep_datasets/NAME_00001 with what `write` puts into it, whole or not at all.

    Raises:
        ValueError: for a name that is none, and a disk that takes no more.
    """
    plain = check_name(name)
    root = Path(folder_paths.get_output_directory(), FOLDER)
    draft = root / f".{uuid.uuid4().hex}.tmp"
    try:
        draft.mkdir(parents=True)
        write(draft)
        return _settle(draft, root, plain)
    except OSError as error:
        raise ValueError(
            f"name: {plain!r} could not be written to {root} ({error.strerror or error}); make that folder writable, "
            "or make room on its disk"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_name(name: str) -> str:
    """The name without spaces around it: what an adapter may be called a dataset may be called too.

    Raises:
        ValueError: for one that is empty, leads into another folder, is too long, or that some system cannot hold.
    """
    try:
        return save_lora.check_name(name)
    except ValueError as error:
        raise ValueError(str(error).replace(f"ComfyUI's {LORAS} folder", f"output/{FOLDER}")) from error


def _settle(draft: Path, root: Path, name: str) -> Path:
    """Give a finished draft the first free name; a folder with something in it is never replaced by a rename."""
    number = 1
    while True:
        path = root / f"{name}_{number:05}"
        if not path.exists():
            try:
                draft.rename(path)
            except OSError:
                if not path.exists():
                    raise
            else:
                return path
        number += 1


def shown(path: Path) -> str:
    """A path of the output folder as people look for it: "output/acestep_datasets/my_songs_00001"."""
    root = os.path.abspath(folder_paths.get_output_directory())
    return Path(os.path.basename(root), os.path.relpath(path, root)).as_posix()
