"""Tables that speak of many songs, CSV and dataset JSON: which row is about which sound file."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .said import Said, said
from .texts import read_text

__all__ = ["Row", "assigned", "csv_rows", "tails"]

_FILE_NAMES = ("file", "filename", "file_name", "audio_path", "path")
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class Row:
    """What a table says of one song: where it stands ("data.csv line 3"), how it names the file, and the rest."""

    where: str
    file: str
    said: Said


def csv_rows(path: Path) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of a CSV file with a File column, and notes; no row without such a column.

    Raises:
        ValueError: for a file that is no text, or no CSV.
    """
    text = read_text(path)
    for delimiter in _DELIMITERS:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            names = [name.strip().lower() for name in next(lines, [])]
            file = next((names.index(name) for name in _FILE_NAMES if name in names), None)
            if file is not None:
                return [row for cells in lines if (row := _csv_row(path, lines.line_num, names, cells, file))], ()
        except csv.Error as error:
            raise ValueError(f"{path.name} line {lines.line_num}: not CSV ({error})") from error
    return [], (f"{path.name}: its first line has no column File, not used",)


def _csv_row(path: Path, line: int, names: Sequence[str], cells: Sequence[str], file: int) -> Row | None:
    """One line; None for an empty one. A caption marks the song as labelled (spec/lora.md §1.1)."""
    cells = [cell.strip() for cell in cells]
    if not any(cells):
        return None
    where = f"{path.name} line {line}"
    if len(cells) > len(names):
        raise ValueError(f"{where}: {len(cells)} values under {len(names)} columns; put text with commas into quotes")
    if len(cells) <= file or not cells[file]:
        raise ValueError(f"{where}: no file is named; write one, or remove the line")
    pairs = dict(zip(names, cells, strict=False))
    pairs = {name: value for name, value in pairs.items() if value}
    if pairs.get("caption"):
        pairs.setdefault("labeled", "true")
    return Row(where, cells[file], said(where, pairs.items()))


def tails(file: str) -> Iterator[str]:
    """A path of any system with "/", then the same without its first folder, and so on to the bare name."""
    parts = [part for part in _plain(file).replace("\\", "/").split("/") if part not in ("", ".")]
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _plain(text: str) -> str:
    """Letters with marks in one spelling: some systems keep "é" as two characters."""
    return unicodedata.normalize("NFC", text)


def assigned(rows: Sequence[Row], songs: Sequence[str]) -> tuple[dict[str, Said], tuple[str, ...]]:
    """Song -> what its row says, for songs named by their paths below a root; and notes on rows about no song.

    Raises:
        ValueError: for a row that fits two songs, and two rows about one.
    """
    found: dict[str, Row] = {}
    notes = []
    for row in rows:
        fits = _fitting(row.file, songs)
        if len(fits) > 1:
            raise ValueError(
                f"{row.where}: {row.file} fits {' and '.join(fits)}; write the path below the folder, such as {fits[0]}"
            )
        if not fits:
            notes.append(f"{row.where}: there is no {row.file}, not used")
        elif fits[0] in found:
            raise ValueError(f"{found[fits[0]].where} and {row.where} are both about {fits[0]}; remove one of them")
        else:
            found[fits[0]] = row
    return {song: row.said for song, row in found.items()}, tuple(notes)


def _fitting(file: str, songs: Sequence[str]) -> list[str]:
    """The songs that share the longest end with a path; those of another ending where none has this one."""
    for tail in tails(file):
        if exact := [song for song in songs if _plain(song) == tail]:
            return exact
        if fits := [song for song in songs if f"/{_plain(song)}".endswith(f"/{tail}")]:
            return fits
    stems = [(song, PurePosixPath(_plain(song)).with_suffix("").as_posix()) for song in songs]
    bare = list(tails(file))[-1:]
    return [song for song, stem in stems if f"/{stem}".endswith(f"/{bare[0]}")] if bare else []
