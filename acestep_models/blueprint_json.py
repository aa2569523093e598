"""Blueprints as JSON (spec/planner.md §6.2): a reader that forgives spelling, and a writer that always says the same.

The reader takes what this pack wrote, upstream's examples, and lists of either. What it does not know it keeps, so
that nothing is lost on the way through this pack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from .blueprint import INSTRUMENTAL, Blueprint
from .blueprint_fields import JSON_NAMES, check_codes, check_depth, message_of, shown
from .code_text import CODE_STYLES, codes_text, parse_codes
from .units import MAX_SONGS

__all__ = ["CODE_STYLES", "codes_text", "parse_codes", "read_plan", "write_plan"]

SCHEMA, VERSION = "acestep-blueprint", 1
_MAX_DEPTH = 40  # around unknown keys, which may be 32 levels deep themselves
MAX_JSON_CHARACTERS = 4 * 2**20

# ISO 639 for "undetermined": in a file "unknown" means that nobody has said anything yet, as upstream has it.
_UNKNOWN_LANGUAGE = "und"
_MAX_KEYS = 200
_FACTS = ("bpm", "key", "time_signature", "seconds", "language")
_UNSET_WORDS = ("", "n/a", "na", "none", "null", "unknown", "auto", "-1", "0")
_STRUCTURE = ("schema", "version", "songs", "n_codes")
# JSON name -> field, in the order of the file; what songs share stands once.
_SHARED = {
    "query": "sentence",
    "caption": "caption",
    "caption_user": "user_caption",
    "lyrics": "lyrics",
    "instrumental": "instrumental",
    "bpm": "bpm",
    "keyscale": "key",
    "timesignature": "time_signature",
    "duration": "seconds",
    "vocal_language": "language",
    "genres": "genres",
    "locked": "locked",
    "filled": "filled",
    "lm": "lm",
}
_WRITTEN_NAMES = {field: name for name, field in _SHARED.items()}
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{1,20})?")


def write_plan(blueprints: Sequence[Blueprint]) -> str:
    """JSON of 1 to 8 songs; the same songs give the same text, and `read_plan` gives equal ones back.

    Raises:
        ValueError: for no song, or more than 8.
    """
    _check_count(len(blueprints))
    songs = [_written(blueprint) for blueprint in blueprints]
    first = songs[0]
    shared = {name: value for name, value in first.items() if all(_has(song, name, value) for song in songs)}
    own = [{name: value for name, value in song.items() if name not in shared} for song in songs]
    entries = [_song_entry(blueprint) | rest for blueprint, rest in zip(blueprints, own, strict=True)]
    data = {"schema": SCHEMA, "version": VERSION, **shared, "songs": entries}
    return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _has(song: dict[str, Any], name: str, value: Any) -> bool:
    """Whether the song has just this; `==` alone takes 1 for true."""
    return name in song and json.dumps(song[name]) == json.dumps(value)


def _written(blueprint: Blueprint) -> dict[str, Any]:
    """What songs may share: the fields under their names in a file, then what was kept of other files."""
    data: dict[str, Any] = {name: getattr(blueprint, field, None) for name, field in _SHARED.items()}
    seconds = blueprint.seconds
    data["instrumental"] = blueprint.lyrics == INSTRUMENTAL
    data["duration"] = int(seconds) if seconds is not None and seconds.is_integer() else seconds
    data["vocal_language"] = _UNKNOWN_LANGUAGE if blueprint.language == "unknown" else blueprint.language
    for name in ("locked", "filled"):
        data[name] = sorted(_WRITTEN_NAMES.get(field, field) for field in data[name])
    data["lm"] = dict(blueprint.lm)
    return {**data, **{name: json.loads(text) for name, text in blueprint.extra}}


def _song_entry(blueprint: Blueprint) -> dict[str, Any]:
    """What every song has for itself."""
    codes = blueprint.codes or ()
    return {
        "lm_seed": blueprint.codes_seed,
        "dit_seed": blueprint.seed,
        "audio_codes": codes_text(codes),
        "n_codes": len(codes),
        "score": blueprint.score,
    }


def read_plan(text: str) -> tuple[Blueprint, ...]:
    """The 1 to 8 songs of a JSON text.

    Raises:
        ValueError: for text that is not JSON, of another schema or version, or that says something impossible.
    """
    data = _parse(text)
    objects = data if isinstance(data, list) else [data]
    if not all(isinstance(one, dict) for one in objects):
        kinds = ", ".join(sorted({type(one).__name__ for one in objects if not isinstance(one, dict)}))
        raise ValueError(f"blueprint JSON: expected an object {{...}} or a list of objects, got {kinds}")
    _check_count(len(objects))
    drafts = [draft for one in objects for draft in _drafts(one)]
    _check_count(len(drafts))
    return tuple(_blueprint(index, len(drafts), draft) for index, draft in enumerate(drafts, 1))


def _check_count(songs: int) -> None:
    if not 1 <= songs <= MAX_SONGS:
        raise ValueError(f"songs: expected 1 to {MAX_SONGS} in a blueprint, got {songs}; split it into several")


def _parse(text: str) -> Any:
    if len(text) > MAX_JSON_CHARACTERS:
        raise ValueError(
            f"blueprint JSON: {len(text)} characters, at most {MAX_JSON_CHARACTERS} are read; is this the right file?"
        )
    try:
        data = json.loads(text.removeprefix("\ufeff"), parse_constant=_refuse, parse_float=_float, parse_int=_int)
        check_depth("blueprint JSON", data, _MAX_DEPTH)
    except RecursionError as error:
        raise ValueError("blueprint JSON: nested too deeply; is this the right file?") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"blueprint JSON: this is not JSON ({error}); paste the whole text, braces included"
        ) from error
    return data


def _refuse(number: str) -> NoReturn:
    raise ValueError(f"blueprint JSON: {number[:40]} is no number that JSON knows; write a finite one, or null")


def _float(number: str) -> float:
    value = float(number)
    return value if abs(value) < float("inf") else _refuse(number)


def _int(number: str) -> int:
    return int(number) if len(number) <= 40 else _refuse(number)


@dataclass(frozen=True)
class _Draft:
    """Our fields under our names (None = unset), the file's own key of each, and what we do not know as JSON text."""

    fields: dict[str, Any]
    keys: dict[str, str]
    extra: dict[str, str]

    def over(self, other: _Draft) -> _Draft:
        """Both, where this one has the last word."""
        return _Draft({**other.fields, **self.fields}, {**other.keys, **self.keys}, {**other.extra, **self.extra})


def _drafts(data: dict[str, Any]) -> list[_Draft]:
    """Every song of one object."""
    _check_schema(data)
    songs = data.get("songs") or [{}]
    if not isinstance(songs, list) or not all(isinstance(song, dict) for song in songs):
        raise ValueError(f"songs: expected a list of objects, one a song, got {shown(songs)}")
    shared = _canonical(data)
    return [_canonical(song).over(shared) for song in songs[: MAX_SONGS + 1]]


def _check_schema(data: dict[str, Any]) -> None:
    schema, version = data.get("schema", SCHEMA), data.get("version", VERSION)
    if schema != SCHEMA:
        raise ValueError(f'blueprint JSON: expected "schema": "{SCHEMA}", got {shown(schema)}; this is another format')
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f'blueprint JSON: expected "version": {VERSION}, got {shown(version)}; update this node pack, or save the '
            "file again with this one"
        )


def _canonical(data: dict[str, Any]) -> _Draft:
    """What one object says."""
    draft = _Draft({}, {}, {})
    fields, sources = draft.fields, draft.keys
    if len(data) > _MAX_KEYS:
        raise ValueError(f"blueprint JSON: {len(data)} keys in an object, at most {_MAX_KEYS}; is this the right file?")
    for key, value in data.items():
        field = JSON_NAMES.get(key)
        if field is None:
            draft.extra[key] = json.dumps(value, ensure_ascii=False)
        elif field not in _STRUCTURE:
            read = _read(field, value, key)
            if fields.get(field) is not None and read is not None and fields[field] != read:
                raise ValueError(f"{sources[field]} and {key} say different things about one field; remove one of them")
            if fields.get(field) is None:
                fields[field], sources[field] = read, key
    return draft


def _read(field: str, value: Any, key: str) -> Any:
    """A value as the blueprint takes it; None for the many ways of saying nothing."""
    try:
        return None if value is None else _read_value(field, value)
    except ValueError as error:
        raise ValueError(message_of(error, {field: key})) from error


def _read_value(field: str, value: Any) -> Any:
    if field in _FACTS:
        return _read_fact(field, value)
    if field in ("seed", "codes_seed", "score"):
        number = _read_number(value)
        return None if number == "" or (field != "score" and number == -1) else number
    reader = _READERS.get(field)
    return value if reader is None else reader(value)


def _read_fact(field: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{field}: expected text or a number, got {shown(value)}")
    if (value.strip().lower() in _UNSET_WORDS) if isinstance(value, str) else value in (-1, 0):
        return None
    if field == "language" and value == _UNKNOWN_LANGUAGE:
        return "unknown"
    return _read_number(value) if field in ("bpm", "seconds") else value


def _read_number(value: Any) -> Any:
    """A number that was written as text; anything else as it is."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value.strip()):
        return value.strip() if isinstance(value, str) else value
    return float(value) if "." in value else int(value)


def _read_codes(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, str):
        return parse_codes(value) or None
    if not isinstance(value, list):
        raise ValueError(f"codes: expected a list, or text, got {shown(value)}")
    return check_codes(value) if value else None


def _read_names(value: Any) -> frozenset[str]:
    """Names of fields; those of a file are understood as well as ours."""
    names = [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"locked, filled: expected a list of field names, got {shown(value)}")
    return frozenset(JSON_NAMES.get(name) or name for name in names)


def _read_flag(value: Any) -> bool:
    flag = {"true": True, "false": False, "": False}.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(flag, bool):
        raise ValueError(f"instrumental: expected true or false, got {shown(value)}")
    return flag


def _read_lm(value: Any) -> tuple[tuple[str, Any], ...]:
    if not isinstance(value, dict):
        raise ValueError(f"lm: expected an object of settings, got {shown(value)}")
    return tuple((name, fact) for name, fact in value.items() if fact is not None)


_READERS: dict[str, Callable[[Any], Any]] = {
    "codes": _read_codes,
    "locked": _read_names,
    "filled": _read_names,
    "instrumental": _read_flag,
    "lm": _read_lm,
}


def _blueprint(index: int, count: int, draft: _Draft) -> Blueprint:
    instrumental = draft.fields.pop("instrumental", None)
    given = {name: value for name, value in draft.fields.items() if value is not None}
    try:
        if instrumental:
            given["lyrics"] = _unsung(given.get("lyrics", ""))
        return Blueprint(**given, extra=tuple(draft.extra.items()))
    except (ValueError, TypeError) as error:
        message = message_of(error, draft.keys)
        raise ValueError(f"song {index}: {message}" if count > 1 else message) from error


def _unsung(lyrics: Any) -> Any:
    """Lyrics of an instrumental: marks of its parts, or the mark for nothing at all."""
    if not isinstance(lyrics, str):
        return lyrics
    if not lyrics.strip():
        return INSTRUMENTAL
    if re.sub(r"\[[^\]]*\]", "", lyrics).strip():
        raise ValueError(
            "instrumental is true, but the lyrics have words outside of [brackets]; set instrumental to false, or "
            "remove the words"
        )
    return lyrics
