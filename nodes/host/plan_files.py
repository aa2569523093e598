"""Blueprints as files where ComfyUI keeps what comes in and what goes out; nothing outside is read or written."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import folder_paths

FOLDER = "blueprints"  # below output: where SaveBlueprint puts files unless told otherwise
_SUFFIX, _IN_OUTPUT, _DEPTH, _MOST_NAMES = ".json", " [output]", 2, 1_000
_MOST_BYTES = 16 * 2**20
_LONGEST_NAME, _LONGEST_PREFIX = 200, 1_000  # bytes; file systems take 255, and a number and the ending are added


def plan_names() -> list[str]:
    """JSON files of the input folder, then those of output/blueprints, marked as the host marks them."""
    own = Path(folder_paths.get_output_directory(), FOLDER)
    saved = (f"{FOLDER}/{name}{_IN_OUTPUT}" for name in _json_files(own))
    return [*_json_files(Path(folder_paths.get_input_directory())), *saved][:_MOST_NAMES]


def _json_files(root: Path) -> list[str]:
    return sorted(_walk(root, root, _DEPTH))


def _walk(root: Path, folder: Path, depth: int) -> Iterator[str]:
    """What may not be read is passed over: the list is asked for while ComfyUI starts."""
    with contextlib.suppress(OSError):
        for entry in sorted(folder.iterdir()):
            if entry.is_dir() and depth and not entry.name.startswith("."):
                yield from _walk(root, entry, depth - 1)
            elif entry.suffix.lower() == _SUFFIX:
                yield entry.relative_to(root).as_posix()


def plan_path(name: str) -> Path:
    """Path of an entry of `plan_names`.

    Raises:
        ValueError: for a name that is not there, or that leads out of the input and output folders.
    """
    inside, chosen = folder_paths.annotated_filepath(name)
    root = os.path.abspath(chosen or folder_paths.get_input_directory())
    path = os.path.abspath(os.path.join(root, inside.strip()))
    if "\0" in inside or not Path(path).is_relative_to(root) or Path(path).suffix.lower() != _SUFFIX:
        place = "output" if name.endswith(_IN_OUTPUT) else "input"
        raise ValueError(
            f"file: expected a {_SUFFIX} file inside of the {place} folder, got {name!r}; choose one from the list"
        )
    if not os.path.isfile(path):
        raise ValueError(f"file: {name!r} is not there (any more); reload the page and choose one from the list")
    return Path(path)


def read_plan_file(name: str) -> str:
    """The text of an entry of `plan_names`.

    Raises:
        ValueError: for a file that is too large, or not text.
    """
    path = plan_path(name)
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"file: {name} is larger than {_MOST_BYTES} bytes; no blueprint is, choose another")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"file: {name} is not UTF-8 text ({error.reason}); save it as UTF-8") from error


def save_plan_file(prefix: str, text: str) -> Path:
    """Write `text` under the output folder as the host's savers name files; no file is ever replaced, or half there.

    Raises:
        ValueError: for a prefix that leads out of the output folder, or is too long for a file.
    """
    root = folder_paths.get_output_directory()
    folder, name, counter, _, _ = folder_paths.get_save_image_path(_checked(prefix, root), root)
    path = _reserve(Path(folder), name, counter)
    draft = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
        if not path.stat().st_size:  # still only the name that was taken
            path.unlink()
    return path


def _checked(prefix: str, root: str) -> str:
    """The host's own check knows neither control characters nor an empty name, and speaks of images."""
    path = Path(os.path.abspath(os.path.join(root, os.path.normpath(prefix))))
    name = os.path.basename(os.path.normpath(prefix))
    if (
        not path.parent.is_relative_to(os.path.abspath(root))
        or not prefix.strip()
        or not prefix.isprintable()
        or name in ("", ".", "..")
    ):
        raise ValueError(
            f"filename_prefix: expected a name such as {FOLDER}/song, inside of the output folder, got {prefix[:100]!r}"
        )
    longest = max(len(part.encode()) for part in re.split(r"[/\\]", prefix))
    if longest > _LONGEST_NAME or len(prefix.encode()) > _LONGEST_PREFIX:
        raise ValueError(
            f"filename_prefix: expected names of at most {_LONGEST_NAME} bytes, {_LONGEST_PREFIX} with their folders, "
            f"got {longest} and {len(prefix.encode())}; shorten {prefix[:40]!r}..."
        )
    return prefix


def _reserve(folder: Path, name: str, counter: int) -> Path:
    """The first free name, taken at once: somebody else may be saving too."""
    while True:
        path = folder / f"{name}_{counter:05}_{_SUFFIX}"
        try:
            path.open("x").close()
        except FileExistsError:
            counter += 1
        else:
            return path


def shown(path: Path) -> str:
    """A file of the output folder as people look for it: "output/blueprints/song_00001_.json"."""
    root = os.path.abspath(folder_paths.get_output_directory())
    return Path(os.path.basename(root), os.path.relpath(path, root)).as_posix()
