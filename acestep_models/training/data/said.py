"""What one source says of a song, and what several of them say together (spec/lora.md §1.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...blueprint import INSTRUMENTAL, Blueprint
from ...blueprint_fields import CHECKS, shown
from .clip import CAPTION, GENRE, MAX_REPEAT, Clip

__all__ = ["ALIASES", "Said", "clip_of", "said"]

# Every name that a file may use -> the field; spaces, "_" and case make no difference (spec/lora.md §1.1).
ALIASES = {
    **{name: name for name in ("caption", "lyrics", "bpm", "key", "language", "genre", "instrumental", "repeat")},
    **{"tempo": "bpm", "keyscale": "key", "scale": "key", "lang": "language", "vocallanguage": "language"},
    **{"timesignature": "time_signature", "signature": "time_signature", "sig": "time_signature"},
    **{"customtag": "tag", "trigger": "tag", "tags": "tag", "tag": "tag", "isinstrumental": "instrumental"},
    **{"promptoverride": "prompt_override", "rawlyrics": "raw_lyrics", "labeled": "labelled", "labelled": "labelled"},
    **{"languagesaid": "language_said", "notag": "no_tag", "genres": "genre", "duration": "duration"},
}
_FACTS = ("bpm", "key", "time_signature", "language")
_WORDS = (*_FACTS, "caption", "lyrics")
_UNSET = ("", "n/a", "na", "none", "null", "unknown", "auto", "-1", "0")
_FLAGGED = ("instrumental", "labelled", "language_said", "no_tag")
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": False}


@dataclass(frozen=True)
class Said:
    """What one source says.

    Attributes:
        source: a file as the report names it, such as "song.txt".
        values: field -> what it says, in the blueprint's own spelling; only what is said at all.
        doubts: what was not understood, one line each.
    """

    source: str
    values: Mapping[str, Any]
    doubts: tuple[str, ...] = ()


def field_of(name: str) -> str | None:
    """The field that a file calls `name`; None for one that nobody knows."""
    return ALIASES.get(name.strip().lower().replace("_", "").replace(" ", ""))


def said(source: str, pairs: Iterable[tuple[str, Any]]) -> Said:
    """Fields under any of their names, read; what says nothing is left out, and what is not understood is told."""
    raw: dict[str, Any] = {}
    for name, value in pairs:
        field = field_of(name)
        if field and value is not None:
            raw.setdefault(field, value)
    values: dict[str, Any] = {}
    doubts = [f"{source}: {doubt}; left unset" for doubt in _unclear_flags(raw)]
    for field, read in _READERS.items():
        try:
            value = read(raw)
        except (ValueError, TypeError, OverflowError) as error:
            doubts.append(f"{source}: {error}; left unset")
        else:
            values.update({} if value is None else {field: value})
    if values.get("lyrics") and values["lyrics"] != INSTRUMENTAL and _flag(raw, "instrumental"):
        doubts.append(f"{source}: says instrumental, but has lyrics; the lyrics count")
    return Said(source, values, tuple(doubts))


def _unclear_flags(raw: dict[str, Any]) -> Iterator[str]:
    """What is wrong with each flag that is neither true nor false; it is taken out of `raw`, as if nobody said it."""
    for field in _FLAGGED:
        try:
            _flag(raw, field)
        except ValueError as error:
            del raw[field]
            yield str(error)


def _fact(field: str) -> Callable[[Mapping[str, Any]], Any]:
    def read(raw: Mapping[str, Any]) -> Any:
        value = raw.get(field)
        if field == "language" and _flag(raw, "language_said"):
            return "unknown"
        if value is None or str(value).strip().lower() in _UNSET:
            return None
        return CHECKS[field](int(_number(field, value)) if field == "bpm" else value)

    return read


def _number(field: str, value: Any) -> float:
    try:
        number = float(value)
    except (ValueError, TypeError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{field}: expected a number, got {shown(value)}")
    return number


def _text(field: str) -> Callable[[Mapping[str, Any]], str | None]:
    def read(raw: Mapping[str, Any]) -> str | None:
        value = raw.get(field, "")
        if not isinstance(value, str):
            raise TypeError(f"{field}: expected text, got {shown(value)}")
        return value if value.strip() else None

    return read


def _lyrics(raw: Mapping[str, Any]) -> str | None:
    """Words before marks: upstream's "lyrics" may say "[Instrumental]" where "raw_lyrics" has what is sung."""
    given = [text for field in ("lyrics", "raw_lyrics") if (text := _text(field)(raw))]
    words = [text for text in given if text.strip().lower() != INSTRUMENTAL.lower()]
    return words[0] if words else INSTRUMENTAL if given or _flag(raw, "instrumental") else None


def _flag(raw: Mapping[str, Any], field: str) -> bool:
    value = raw.get(field, False)
    flag = _FLAGS.get(str(value).strip().lower())
    if flag is None:
        raise ValueError(f"{field}: expected true or false, got {shown(value)}")
    return flag


def _tag(raw: Mapping[str, Any]) -> str | None:
    """An empty tag is the dataset's: files of others have empty ones where nobody thought of any."""
    return "" if _flag(raw, "no_tag") else _text("tag")(raw)


def _override(raw: Mapping[str, Any]) -> str | None:
    value = str(raw.get("prompt_override", "")).strip().lower()
    if value in (CAPTION, GENRE):
        return value
    if value in _UNSET:
        return None
    raise ValueError(f"prompt_override: expected caption or genre, got {shown(value)}")


def _repeat(raw: Mapping[str, Any]) -> int | None:
    value = raw.get("repeat")
    if value is None or value == "":
        return None
    times = int(_number("repeat", value))
    if not 1 <= times <= MAX_REPEAT:
        raise ValueError(f"repeat: expected 1 to {MAX_REPEAT}, got {shown(value)}")
    return times


def _labelled(raw: Mapping[str, Any]) -> bool | None:
    return _flag(raw, "labelled") or None


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "caption": _text("caption"),
    "lyrics": _lyrics,
    **{field: _fact(field) for field in _FACTS},
    "genre": _text("genre"),
    "tag": _tag,
    "prompt_override": _override,
    "repeat": _repeat,
    "labelled": _labelled,
}


def clip_of(name: str, path: Path, seconds: float, sources: Sequence[Said]) -> Clip:
    """A clip of what its sources say, the first of them before the others, field by field.

    Raises:
        ValueError: for a text that is longer than a blueprint holds; it names the source.
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    read = []
    for source in sources:
        for field, value in source.values.items():
            if field not in values:
                values[field], origin[field] = value, source.source
                read.append(f"{field}: {source.source}")
            elif values[field] != value:
                read.append(f"{field}: what {source.source} says is not used")
        read += source.doubts
    words = {field: values.pop(field) for field in _WORDS if field in values}
    try:
        return Clip(name, Blueprint(**words), path=path, seconds=seconds, **values, read=tuple(read))
    except (ValueError, TypeError) as error:
        place = origin.get(str(error).partition(":")[0])
        raise ValueError(f"{name}: {place}: {error}" if place else f"{name}: {error}") from error
