"""The dataset JSON that ACE-Step's own trainer, FL's nodes and Side-Step share (spec/lora.md §1.1)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...blueprint import INSTRUMENTAL
from ...blueprint_fields import shown
from ..files import write_text
from .clip import MAX_RATIO, TAG_POSITIONS, Clip, Dataset
from .rows import Row, tails
from .said import clip_of, said
from .sound import Tick, lengths
from .texts import read_text

__all__ = ["Samples", "is_manifest", "named_files", "read_dataset", "read_json", "samples_of", "write_dataset"]

_PATHS = ("audio_path", "filename", "file", "path")


@dataclass(frozen=True)
class Samples:
    """A dataset JSON: what it says of all songs, a row for each, and what was not understood."""

    tag: str
    tag_position: str
    genre_ratio: int
    name: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def read_dataset(path: Path, tick: Tick | None = None) -> Dataset:
    """The dataset of a JSON file: an object with "samples", or a bare list of them.

    Paths in it count from its own folder; of those of another system or place, the longest end that is there is
    taken. A sound that is not there or cannot be read is left out and noted.

    Raises:
        ValueError: for a file that is no such JSON, two samples of one song, and where no sound file can be read.
    """
    samples = samples_of(path, read_json(path))
    if samples is None:
        raise ValueError(f'{path.name}: expected a dataset, an object with "samples" that name sound files')
    files, gone = _found(path.parent, samples.rows)
    names = _names(path.parent, [file for _, file in files])
    seconds, unread = lengths(dict(zip(names, (file for _, file in files), strict=True)), tick)
    clips = tuple(
        clip_of(name, file, seconds[name], [row.said])
        for name, (row, file) in zip(names, files, strict=True)
        if name in seconds
    )
    notes = (*samples.notes, *gone, *unread)
    if not clips:
        raise ValueError(f"{path.name}: no sound file of it can be read. {' '.join(notes[:5])}".strip())
    return Dataset(samples.name, clips, samples.tag, samples.tag_position, samples.genre_ratio, notes)


def named_files(path: Path) -> list[Path]:
    """The sound files of a dataset JSON that are there; none of another JSON.

    Raises:
        ValueError: as `read_dataset`.
    """
    samples = samples_of(path, read_json(path))
    return [file for _, file in _found(path.parent, samples.rows)[0]] if samples else []


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        ValueError: for a file that is no text, or no JSON.
    """
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path.name}: this is not JSON ({error})") from error


def is_manifest(data: Any) -> bool:
    """Whether JSON is the list of tensors that preprocessing writes (spec/lora.md §1.4), no dataset of sounds."""
    samples = data.get("samples") if isinstance(data, dict) else None
    if not isinstance(samples, list) or not samples:
        return False
    first = samples[0]
    texts = first.values() if isinstance(first, dict) else [first]
    return any(isinstance(text, str) and text.lower().endswith(".pt") for text in texts)


def samples_of(path: Path, data: Any) -> Samples | None:
    """The dataset in what `read_json` gave; None where it is something else.

    Raises:
        ValueError: for a dataset with a sample that is no object, or names no file.
    """
    samples = data.get("samples") if isinstance(data, dict) else data
    if not isinstance(samples, list) or is_manifest(data):
        return None
    if isinstance(data, list) and not any(isinstance(one, dict) and _file(one) for one in data):
        return None
    about = data.get("metadata") if isinstance(data, dict) else None
    about = about if isinstance(about, dict) else {}
    notes: list[str] = []
    tag = str(about.get("custom_tag") or "")
    return Samples(
        tag,
        _position(path, about, notes),
        _ratio(path, about, notes),
        str(about.get("name") or path.stem),
        tuple(_row(f"{path.name} sample {number}", one, tag) for number, one in enumerate(samples, 1)),
        tuple(notes),
    )


def _position(path: Path, about: Mapping[str, Any], notes: list[str]) -> str:
    position = about.get("tag_position") or TAG_POSITIONS[0]
    if position not in TAG_POSITIONS:
        notes.append(f"{path.name}: tag_position {shown(position)} is not known, {TAG_POSITIONS[0]} is taken")
        return TAG_POSITIONS[0]
    return str(position)


def _ratio(path: Path, about: Mapping[str, Any], notes: list[str]) -> int:
    ratio = about.get("genre_ratio") or 0
    if not isinstance(ratio, (int, float)) or not 0 <= ratio <= MAX_RATIO:
        notes.append(f"{path.name}: genre_ratio {shown(ratio)} is not 0 to {MAX_RATIO}, 0 is taken")
        return 0
    return int(ratio)


def _row(where: str, sample: Any, tag: str) -> Row:
    """One sample. Where it repeats the dataset's tag it has none of its own: another tag shall replace both."""
    if not isinstance(sample, dict) or not _file(sample):
        raise ValueError(f"{where}: expected an object with an audio_path, got {shown(sample)}")
    own = sample.get("custom_tag")
    pairs = [(key, value) for key, value in sample.items() if key != "custom_tag" or own != tag]
    return Row(where, _file(sample), said(where, pairs))


def _file(sample: Mapping[str, Any]) -> str:
    """The path that a sample names, "" for none."""
    named = (sample.get(key) for key in _PATHS)
    return next((path for path in named if isinstance(path, str) and path.strip("/\\ ")), "")


def _found(root: Path, rows: Sequence[Row]) -> tuple[list[tuple[Row, Path]], list[str]]:
    """Each row with its file, and notes on files that are not there."""
    found: list[tuple[Row, Path]] = []
    notes = []
    places: dict[Path, Row] = {}
    for row in rows:
        path = _locate(root, row.file)
        if path is None:
            notes.append(f"left out: {row.where}: there is no {row.file}")
            continue
        first = places.setdefault(path.resolve(), row)
        if first is not row:
            raise ValueError(
                f"{first.where} and {row.where} are the same song, {path.name}; remove one, or give it a repeat"
            )
        found.append((row, path))
    return found, notes


def _locate(root: Path, file: str) -> Path | None:
    there = [Path(file)] if Path(file).is_absolute() else []
    candidates = (*there, root / file, *(root / tail for tail in tails(file)))
    return next((path for path in candidates if _is_file(path)), None)


def _is_file(path: Path) -> bool:
    """False too for what no file can be called, such as a name with a zero in it."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _names(root: Path, files: Sequence[Path]) -> list[str]:
    """Paths below the JSON's folder; below the folder that all share where some lie elsewhere."""
    resolved, root = [file.resolve() for file in files], root.resolve()
    if not all(file.is_relative_to(root) for file in resolved):
        try:
            root = Path(os.path.commonpath([file.parent for file in resolved]))
        except ValueError:  # several drives have no folder in common
            return [file.as_posix() for file in resolved]
    return [file.relative_to(root).as_posix() for file in resolved]


def write_dataset(dataset: Dataset, path: Path) -> None:
    """Write the JSON, whole or not at all; sound files in its folder are named from there.

    Raises:
        ValueError: for a clip that lies in no sound file.
        OSError: where it cannot be written.
    """
    about = {
        "name": dataset.name,
        "custom_tag": dataset.tag,
        "tag_position": dataset.tag_position,
        "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "num_samples": len(dataset.clips),
        "all_instrumental": all(clip.blueprint.lyrics == INSTRUMENTAL for clip in dataset.clips),
        "genre_ratio": dataset.genre_ratio,
    }
    data = {"metadata": about, "samples": [_sample(dataset, clip, path.parent) for clip in dataset.clips]}
    write_text(path, json.dumps(data, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


def _sample(dataset: Dataset, clip: Clip, root: Path) -> dict[str, Any]:
    """A clip under the names that all readers know; `no_tag` and `language_said` are our own."""
    if clip.path is None:
        raise ValueError(f"{clip.name}: it lies in no sound file, which a dataset JSON needs; save its sound first")
    song, place = clip.blueprint, clip.path.resolve()
    near = place.is_relative_to(root.resolve())
    return {
        "id": hashlib.sha256(clip.name.encode()).hexdigest()[:8],
        "audio_path": (place.relative_to(root.resolve()) if near else place).as_posix(),
        "filename": place.name,
        "caption": song.caption,
        "genre": clip.genre,
        "lyrics": song.lyrics,
        "raw_lyrics": "" if song.lyrics == INSTRUMENTAL else song.lyrics,
        "formatted_lyrics": "",
        "bpm": song.bpm,
        "keyscale": song.key or "",
        "timesignature": song.time_signature or "",
        "duration": int(clip.seconds),
        "language": song.language or "unknown",
        "is_instrumental": song.lyrics == INSTRUMENTAL,
        "custom_tag": dataset.tag if clip.tag is None else clip.tag,
        "labeled": clip.labelled,
        "prompt_override": clip.prompt_override or None,
        "repeat": clip.repeat,
        **({"no_tag": True} if clip.tag == "" else {}),
        **({"language_said": True} if song.language == "unknown" else {}),
    }
