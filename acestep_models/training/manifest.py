"""Prepared tensors as a dataset: manifest.json as upstream, FL and we write it (spec/lora.md §1.4)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from ..blueprint import Blueprint
from ..blueprint_fields import shown
from ..units import frames_to_seconds
from .data.clip import MAX_RATIO, MAX_REPEAT, MAX_TAG_CHARACTERS, TAG_POSITIONS, Clip, Dataset
from .examples import Prepared
from .files import write_text
from .tensors import OURS, Stored, read_stored

NAME = "manifest.json"
_FILE_KEYS = ("filename", "path", "file", "tensor_path", "tensor")  # FL writes the first
_FACTS = {
    "caption": "caption",
    "lyrics": "lyrics",
    "bpm": "bpm",
    "keyscale": "key",
    "timesignature": "time_signature",
    "language": "language",
}
_UNSET = ("", None, "N/A", 0)


def read_manifest(path: Path) -> Dataset:
    """The dataset of a manifest.json, or of the one in a folder; each clip's `tensors` is a .pt that can be read.

    An entry is a path or, as FL has it, a dictionary with one. It is looked for beside the manifest, by its relative
    path and then by its name alone, because trainers write paths from where they were started, and Windows' too.
    Files that are missing or damaged are left out, and a note names each.

    Raises:
        ValueError: for a file that is no manifest, or one of which no song can be read.
    """
    path = path / NAME if path.is_dir() else path
    manifest = _json(path)
    metadata = manifest.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    notes: list[str] = []
    clips = tuple(_clips(path, manifest["samples"], notes))
    if not clips:
        raise ValueError(f"{path}: no song of it can be read. {'; '.join(notes) or 'It names none'}")
    return Dataset(
        name=str(metadata.get("name") or path.parent.name or "dataset"),
        clips=clips,
        tag=_tag(metadata.get("custom_tag")),
        tag_position=_one_of(metadata.get("tag_position"), TAG_POSITIONS),
        genre_ratio=_ratio(metadata.get("genre_ratio")),
        notes=tuple(notes),
    )


def write_manifest(folder: Path, dataset: Dataset, files: Sequence[Path], prepared: Prepared) -> Path:
    """manifest.json of `files` in `folder`, whole or not at all: upstream's keys, and ours. Gives its path.

    Raises:
        OSError: of the disk.
    """
    instrumental = all("instrumental" in clip.blueprint.lyrics.lower() for clip in dataset.clips)
    value = {
        "metadata": {
            "name": dataset.name,
            "custom_tag": dataset.tag,
            "tag_position": dataset.tag_position,
            "num_samples": len(files),
            "all_instrumental": instrumental,
            "genre_ratio": dataset.genre_ratio,
        },
        "samples": [file.name for file in files],
        "num_samples": len(files),
        OURS: {"version": 1, "fingerprint": prepared.fingerprint, **prepared.facts},
    }
    path = folder / NAME
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False))
    return path


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as a manifest ({error}); choose a manifest.json") from error
    if not isinstance(value, dict) or not isinstance(value.get("samples"), list):
        raise ValueError(f'{path}: expected a manifest of prepared tensors with a list "samples"; choose another file')
    return value


def _clips(path: Path, entries: Sequence[Any], notes: list[str]) -> Iterator[Clip]:
    seen: set[Path] = set()
    names: set[str] = set()
    for entry in entries:
        try:
            file = _find(path.parent, _written(entry))
            if file in seen:
                raise ValueError(f"{_written(entry)}: named twice, taken once")
            clip = _clip(file, read_stored(file, file.name), names)
        except ValueError as error:
            notes.append(f"left out: {error}")
            continue
        seen.add(file)
        names.add(clip.name)
        yield clip


def _written(entry: Any) -> str:
    """The path in an entry."""
    named = entry
    if isinstance(entry, dict):
        named = next((entry[key] for key in _FILE_KEYS if isinstance(entry.get(key), str)), None)
    if not isinstance(named, str) or not named.strip():
        raise ValueError(f"an entry of the manifest names no file: {shown(entry)}")
    return named


def _find(folder: Path, written: str) -> Path:
    windows = PureWindowsPath(written)  # knows both kinds of separators
    inside = windows.as_posix() if not windows.anchor and ".." not in windows.parts else windows.name
    for name in (inside, windows.name):
        if name and (folder / name).is_file():
            return folder / name
    raise ValueError(f"{written}: is not there; expected {windows.name or 'a .pt file'} beside the manifest")


def _clip(file: Path, stored: Stored, names: set[str]) -> Clip:
    metadata = stored.metadata
    name = metadata.get("filename")
    name = name if isinstance(name, str) and name.strip() and name not in names else file.name
    if name in names:
        name = f"{file.parent.name}/{file.name}"
    genre, repeat = metadata.get("genre"), metadata.get("repeat")
    return Clip(
        name=name,
        blueprint=_blueprint(metadata),
        tensors=file,
        seconds=frames_to_seconds(len(stored.example.latents)),
        genre=genre if isinstance(genre, str) else "",
        repeat=repeat if type(repeat) is int and 1 <= repeat <= MAX_REPEAT else 1,
        labelled=True,
        read=(f"prepared tensors: {file.name}",),
    )


def _blueprint(metadata: Mapping[str, Any]) -> Blueprint:
    """What is said of a song, field by field; it is for people, the words that count are in the tensors."""
    song = Blueprint()
    for key, field in _FACTS.items():
        if metadata.get(key) in _UNSET:
            continue
        try:
            song = song.edit(**{field: metadata[key]})
        except (ValueError, TypeError):  # others write whatever their language model said
            continue
    return song


def _tag(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= MAX_TAG_CHARACTERS else ""


def _one_of(value: Any, options: tuple[str, ...]) -> str:
    return value if value in options else options[0]


def _ratio(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= MAX_RATIO else 0
