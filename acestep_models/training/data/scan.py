"""A folder of sound files with what lies beside them as a dataset (spec/lora.md §1.1)."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from .clip import Dataset
from .dataset_json import Samples, is_manifest, read_json, samples_of
from .rows import assigned, csv_rows
from .said import Said, clip_of, said
from .sound import SUFFIXES, Tick, lengths
from .texts import LYRICS_SUFFIX, said_by_text

__all__ = ["MANIFEST", "files_below", "has_sound", "scan"]

MANIFEST = "manifest.json"
MOST_FILES = 20_000

# In this order: ".lyrics.txt" is not the ".txt" of a song that is called "song.lyrics".
_BESIDE = (LYRICS_SUFFIX, ".txt", ".json")
_TABLES = (".csv", ".json")


def scan(folder: Path, tick: Tick | None = None) -> Dataset:
    """The sound files of a folder and all below it, with what is said about each.

    What counts, field by field, the first before the others: NAME.lyrics.txt, NAME.txt, NAME.json beside the sound,
    CSV files and then dataset JSON files in the folder itself. A file that cannot be read as sound is left out and
    noted. `tick` is called now and then; what it raises ends the search.

    Raises:
        ValueError: for a folder without a sound that can be read, a text that is not UTF-8, and where it is not
            clear what a text is about.
    """
    files = files_below(folder)
    songs = {name: path for name, path in files.items() if path.suffix.lower() in SUFFIXES}
    if not songs:
        raise ValueError(f"folder: there is no sound file ({' '.join(SUFFIXES)}) in {folder} or below")
    beside = _beside(files, songs)
    tables, whole, notes = _tables(folder, files, songs, beside)
    seconds, unread = lengths(songs, tick)
    notes += [*unread, *_unused(files, beside)]
    clips = tuple(
        clip_of(name, path, seconds[name], [*_said(beside[name]), *(table[name] for table in tables if name in table)])
        for name, path in songs.items()
        if name in seconds
    )
    if not clips:
        raise ValueError(f"folder: no sound file in {folder} can be read. {' '.join(notes[:5])}")
    if whole is None:
        return Dataset(folder.resolve().name, clips, notes=tuple(notes))
    return Dataset(whole.name, clips, whole.tag, whole.tag_position, whole.genre_ratio, tuple(notes))


def has_sound(folder: Path) -> bool:
    """Whether there is a sound file in a folder or below."""
    return any(path.suffix.lower() in SUFFIXES for _, path in _walk(folder))


def files_below(folder: Path) -> dict[str, Path]:
    """Path below the folder with "/" -> file, sorted; nothing that is hidden.

    Raises:
        ValueError: for so many files that this is the wrong folder.
    """
    files = dict(islice(_walk(folder), MOST_FILES + 1))
    if len(files) > MOST_FILES:
        raise ValueError(f"folder: more than {MOST_FILES} files in {folder} and below; choose the folder of the songs")
    return dict(sorted(files.items()))


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        for name in names:
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(folder).as_posix(), path


def _beside(files: Mapping[str, Path], songs: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """Song -> the files beside it by their endings.

    Raises:
        ValueError: for two songs of one name, which such files would be about.
    """
    lower = {_with_lower_suffix(name): path for name, path in files.items()}
    stems: dict[str, list[str]] = defaultdict(list)
    for name in songs:
        stems[_stem(name)].append(name)
    for stem, same in stems.items():
        if len(same) > 1:
            raise ValueError(
                f"{' and '.join(same)} are two songs of one name: {stem}.txt would be about both, and they may be the "
                "same song twice; rename or remove one of them"
            )
    return {
        name: {suffix: lower[stem + suffix] for suffix in _BESIDE if stem + suffix in lower}
        for stem, (name,) in stems.items()
    }


def _stem(name: str) -> str:
    return name[: name.rindex(".")]


def _with_lower_suffix(name: str) -> str:
    suffix = next((suffix for suffix in _BESIDE if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)] + suffix


def _said(beside: Mapping[str, Path]) -> list[Said]:
    """What the files beside a song say, the first of them before the others."""
    found = said_by_text(beside)
    path = beside.get(".json")
    if path is None:
        return found
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path.name}: expected an object of fields such as caption, got {type(data).__name__}")
    return [*found, said(path.name, data.items())]


def _tables(
    folder: Path, files: Mapping[str, Path], songs: Mapping[str, Path], beside: Mapping[str, Mapping[str, Path]]
) -> tuple[list[dict[str, Said]], Samples | None, list[str]]:
    """What each table in the folder itself says of the songs, the first dataset JSON, and notes."""
    taken = {path for one in beside.values() for path in one.values()}
    found: list[dict[str, Said]] = []
    notes: list[str] = []
    whole = None
    for suffix in _TABLES:
        for path in _in_root(folder, files, suffix):
            if path in taken:
                continue
            if suffix == ".csv":
                rows, told = csv_rows(path)
            else:
                samples, told = _samples(path)
                whole = whole or samples
                rows = list(samples.rows) if samples else []
            table, unused = assigned(rows, list(songs))
            found.append(table)
            notes += [*told, *unused]
    return found, whole, notes


def _in_root(folder: Path, files: Mapping[str, Path], suffix: str) -> list[Path]:
    return [path for path in files.values() if path.parent == folder and path.suffix.lower() == suffix]


def _samples(path: Path) -> tuple[Samples | None, tuple[str, ...]]:
    """A dataset JSON, or a note on what it is instead."""
    data = read_json(path)
    samples = samples_of(path, data)
    if samples is not None:
        return samples, samples.notes
    what = "a list of tensors; give its own path to train on them" if is_manifest(data) else "no dataset of sounds"
    return None, (f"{path.name}: {what}, not used",)


def _unused(files: Mapping[str, Path], beside: Mapping[str, Mapping[str, Path]]) -> Sequence[str]:
    """Notes on texts that are about no song: a slip of the pen in a name is seen here."""
    taken = {path for one in beside.values() for path in one.values()}
    return [
        f"{name}: there is no song of this name, not used"
        for name, path in files.items()
        if path.suffix.lower() == ".txt" and path not in taken
    ]
