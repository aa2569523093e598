"""Text files of a dataset: lyrics, captions, and structured ones (spec/lora.md §1.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...blueprint_fields import shown
from .said import Said, field_of, said

__all__ = ["read_text", "said_by_text"]

_MOST_BYTES = 16 * 2**20
LYRICS_SUFFIX = ".lyrics.txt"
_STRANGER = re.compile(r"[A-Za-z][\w ]{0,30}:[ \t]*\S.*")  # such as "artist: somebody"


def read_text(path: Path) -> str:
    """A text file with "\\n" as its line ends and without a mark of its coding.

    Raises:
        ValueError: for one that is too large, or not UTF-8.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path.name}: larger than {_MOST_BYTES} bytes; is this the right file?")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: not UTF-8 text ({error.reason}); save it as UTF-8") from error


def said_by_text(sidecars: Mapping[str, Path]) -> list[Said]:
    """What ".lyrics.txt" and ".txt" beside a song say, by their endings; the first of the list counts more.

    A ".txt" that begins with a line such as "bpm: 120" is structured. Another one is the lyrics, or the caption
    where ".lyrics.txt" has the lyrics.

    Raises:
        ValueError: as `read_text`.
    """
    found = []
    lyrics, other = sidecars.get(LYRICS_SUFFIX), sidecars.get(".txt")
    if lyrics:
        found.append(said(f"{lyrics.name} (lyrics)", [("lyrics", read_text(lyrics).strip())]))
    if other:
        found.append(_said_by_txt(other, "caption" if lyrics else "lyrics"))
    return found


def _said_by_txt(path: Path, plain: str) -> Said:
    """A structured text, or a plain one, which is the field `plain`."""
    text = read_text(path).strip()
    fields, doubts = _structure(text)
    if not fields:
        return said(f"{path.name} ({plain})", [(plain, text)])
    source = f"{path.name} (fields)"
    read = said(source, fields)
    return replace(read, doubts=(*read.doubts, *(f"{source}: {doubt}" for doubt in doubts)))


def _structure(text: str) -> tuple[list[tuple[str, Any]], list[str]]:
    """The fields of a structured text, none for a plain one; and what was guessed or not used.

    All that follows "lyrics:" belongs to it. A caption may go on over lines, up to an empty one or one that begins
    with "["; over empty ones too where "lyrics:" is still to come. Another line that is no field begins the lyrics,
    which then have no heading of their own.
    """
    fields: list[tuple[str, str]] = []
    doubts: list[str] = []
    lines = text.split("\n")
    heading = max((place for place, line in enumerate(lines) if _field(line) == "lyrics"), default=-1)
    for place, line in enumerate(lines):
        last, said_so_far = fields[-1] if fields else ("", "")
        known = _field(line) if last != "lyrics" else None
        if known:
            fields.append((known, line.partition(":")[2].strip()))
        elif last == "lyrics" or (last == "caption" and _goes_on(said_so_far, line, place < heading)):
            fields[-1] = (last, f"{said_so_far}\n{line}")
        elif last and _STRANGER.fullmatch(line):
            doubts.append(f"{line.partition(':')[0]} is no field, not used")
        elif last and line.strip():
            fields.append(("lyrics", line))
            doubts.append(f'lyrics without a line "lyrics:" before them: taken from {shown(line.strip())} on')
        elif line.strip():
            return [], []
    return [(name, value.strip()) for name, value in fields], doubts


def _field(line: str) -> str | None:
    """The field that a line such as "bpm: 120" is of."""
    name, colon, _ = line.partition(":")
    return field_of(name) if colon else None


def _goes_on(caption: str, line: str, headed: bool) -> bool:
    """Whether a line belongs to the caption before it; `headed`: "lyrics:" is still to come."""
    ended = bool(caption.strip()) and not caption.split("\n")[-1].strip()  # by an empty line
    return not line.startswith("[") and (headed or not line.strip() or not ended)
