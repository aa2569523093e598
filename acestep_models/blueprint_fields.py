"""What each field of a blueprint may hold: every check names the value, the range and what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from .units import CODE_RATE, CODEBOOK_SIZE, MAX_SECONDS, MIN_SECONDS, snap_seconds

INSTRUMENTAL = "[Instrumental]"
MIN_BPM, MAX_BPM = 30, 300
TIME_SIGNATURES = ("2", "3", "4", "6")
KEY_NOTES = tuple(letter + accidental for letter in "ABCDEFG" for accidental in ("", "#", "b"))
KEYS = tuple(f"{note} {mode}" for note in KEY_NOTES for mode in ("major", "minor"))
LANGUAGES = tuple(
    (
        "ar az bg bn ca cs da de el en es fa fi fr he hi hr ht hu id is it ja ko la lt ms ne nl no pa pl pt ro ru "
        "sa sk sr sv sw ta te th tl tr uk ur vi yue zh unknown"
    ).split()
)
MAX_LYRIC_CHARACTERS = 16_384
MAX_CAPTION_CHARACTERS = 4_096
MAX_GENRE_CHARACTERS = 1_024
MAX_CODES = round(MAX_SECONDS * CODE_RATE)
MAX_SEED = 2**64 - 1

# The fields that a planner may fill and a user may lock.
PLANNED = ("caption", "lyrics", "bpm", "key", "time_signature", "seconds", "language", "genres", "codes", "seed")

# Every name that a file may use, ours and those of upstream's and of older files -> the field.
JSON_NAMES = {
    **{name: name for name in (*PLANNED, "sentence", "user_caption", "codes_seed", "score", "filled", "locked", "lm")},
    **{"query": "sentence", "description": "sentence", "caption_user": "user_caption"},
    **{"keyscale": "key", "key_scale": "key", "timesignature": "time_signature", "vocal_language": "language"},
    **{"duration": "seconds", "audio_duration": "seconds", "audio_codes": "codes"},
    **{"lm_seed": "codes_seed", "dit_seed": "seed"},
    **{name: name for name in ("schema", "version", "instrumental", "songs", "n_codes")},
}

Fact = str | int | float | bool

_MAX_FACTS = 64
_MAX_EXTRA, _MAX_EXTRA_CHARACTERS = 100, 65_536
_MAX_DEPTH = 32
_KEY = re.compile(r"^([A-Ga-g])\s*([#b♯♭]?)\s*(.*)$")
_MODES = {"major": "major", "maj": "major", "": "major", "minor": "minor", "min": "minor", "m": "minor"}


def check_text(name: str, value: Any, limit: int) -> str:
    """`value`, if it is a text of at most `limit` whole characters; `name` is what an error calls it."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected text, got {shown(value)}")
    if len(value) > limit:
        raise ValueError(f"{name}: at most {limit} characters, got {len(value)}; shorten the {name}")
    broken = next((place for place, letter in enumerate(value) if "\ud800" <= letter <= "\udfff"), None)
    if broken is not None:
        raise ValueError(
            f"{name}: half a character (a lone surrogate) at position {broken}, after {value[:broken][-20:]!r}; "
            "delete it and type it again"
        )
    return value


def shown(value: Any) -> str:
    """`value` for an error message, cut where it is long."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"a whole number of {value.bit_length()} bits"
    text = f"{value:g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def message_of(error: Exception, keys: dict[str, str]) -> str:
    """The message of an error about a field, with the name that the file has for it: "duration (seconds): ..."."""
    field, colon, rest = str(error).partition(":")
    return f"{keys[field]} ({field}){colon}{rest}" if keys.get(field, field) != field else str(error)


def _number(name: str, value: Any, low: float, high: float, unit: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {shown(value)}")
    if not low <= value <= high:  # not a number is not in the range either
        raise ValueError(f"{name}: expected {low:g} to {high:g} {unit}, or auto; got {shown(value)}")
    return value


def check_bpm(value: Any) -> int:
    """The nearest whole number of beats a minute, if it is 30 to 300."""
    return round(_number("bpm", value, MIN_BPM, MAX_BPM, "beats a minute"))


def check_seconds(value: Any) -> float:
    """`value` as the nearest multiple of 0.2 s, if it is 10 to 600."""
    return snap_seconds(_number("seconds", value, MIN_SECONDS, MAX_SECONDS, "seconds"))


def check_key(value: Any) -> str:
    """The key in the spelling that the models read, such as "C# minor"."""
    match = _KEY.match(str(value).strip())
    mode = _MODES.get(_lower_mode(match.group(3))) if match else None
    if match is None or mode is None:
        raise ValueError(
            'key: expected a note A to G, # or b if wanted, and major or minor (like "C# minor"), or auto; '
            f"got {shown(value)}"
        )
    accidental = match.group(2).replace("♯", "#").replace("♭", "b")
    return f"{match.group(1).upper()}{accidental} {mode}"


def _lower_mode(mode: str) -> str:
    """Lower case but for a lone "M", which means major where "m" means minor."""
    return "major" if mode.strip() == "M" else mode.strip().lower()


def check_time_signature(value: Any) -> str:
    """Beats in a bar as the models read them: "4" for "4/4" or 4."""
    text = str(value).strip()
    numerator = {"2/4": "2", "3/4": "3", "4/4": "4", "6/8": "6"}.get(text, text)
    if numerator not in TIME_SIGNATURES:
        raise ValueError(f"time_signature: expected 2/4, 3/4, 4/4 or 6/8, or auto; got {shown(value)}")
    return numerator


def check_language(value: Any) -> str:
    """The language code, if the model knows it."""
    code = str(value).strip().lower()
    if code not in LANGUAGES:
        raise ValueError(f"language: expected one of {' '.join(LANGUAGES)}, or auto; got {shown(value)}")
    return code


def check_codes(value: Any) -> tuple[int, ...]:
    """The codes as a tuple, if there are 1 to MAX_CODES of them and all lie in the codebook."""
    codes = tuple(value)
    if not 1 <= len(codes) <= MAX_CODES:
        raise ValueError(
            f"codes: expected 1 to {MAX_CODES} of them (5 a second, {MAX_SECONDS:g} s at most), got "
            f"{len(codes) or 'none'}"
        )
    for place, code in enumerate(codes, 1):
        if type(code) is not int or not 0 <= code < CODEBOOK_SIZE:
            raise ValueError(
                f"codes: expected whole numbers 0 to {CODEBOOK_SIZE - 1}, got {shown(code)} as number {place} of "
                f"{len(codes)}; correct it or have the codes written again"
            )
    return codes


def _seed(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected a whole number, got {shown(value)}")
    if not 0 <= value <= MAX_SEED:
        raise ValueError(f"{name}: expected 0 to {MAX_SEED}, got {shown(value)}")
    return value


def check_score(value: Any) -> float:
    """`value` if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"score: expected a number, got {shown(value)}")
    if not -1e300 <= value <= 1e300:
        raise ValueError(f"score: expected a finite number, got {shown(value)}")
    return float(value)


def check_names(field: str, value: Iterable[str]) -> frozenset[str]:
    """The names as a set, if each is in PLANNED."""
    if isinstance(value, str):
        raise TypeError(f"{field}: expected a list of field names, got the text {shown(value)}")
    names = frozenset(value)
    unknown = sorted(shown(name) for name in names - set(PLANNED))
    if unknown:
        raise ValueError(f"{field}: unknown fields {', '.join(unknown[:5])}; known are {', '.join(PLANNED)}")
    return names


def check_lm(value: Any) -> tuple[tuple[str, Fact], ...]:
    """How the planner was set, as (name, value) pairs sorted by name; values are text, numbers or booleans."""
    facts = dict(value)
    if len(facts) > _MAX_FACTS:
        raise ValueError(f"lm: at most {_MAX_FACTS} facts, got {len(facts)}; remove some")
    return tuple(sorted((check_text("lm", name, 100), _fact(name, fact)) for name, fact in facts.items()))


def _fact(name: str, value: Any) -> Fact:
    if isinstance(value, str):
        return check_text(f"lm {name}", value, MAX_CAPTION_CHARACTERS)
    if not isinstance(value, (bool, int, float)):
        raise TypeError(f"lm {name}: expected text, a number, true or false, got {type(value).__name__}")
    if not -(2**64) <= value <= 2**64:
        raise ValueError(f"lm {name}: expected a number within 64 bits, got {shown(value)}")
    return value


def check_extra(value: Any) -> tuple[tuple[str, str], ...]:
    """What a file held beside the known fields: (name, JSON text) pairs sorted by name, the text as we write it."""
    known = sorted(dict(value).keys() & JSON_NAMES.keys())
    if known:
        raise ValueError(f"extra: {', '.join(known)} are fields of their own in a file; set them in the blueprint")
    if len(dict(value)) > _MAX_EXTRA:
        raise ValueError(f"extra: {len(dict(value))} unknown keys, at most {_MAX_EXTRA} are kept; remove some")
    extra = tuple(
        sorted((check_text("extra", name, 200), plain_json(name, text)) for name, text in dict(value).items())
    )
    length = sum(len(name) + len(text) for name, text in extra)
    if length > _MAX_EXTRA_CHARACTERS:
        raise ValueError(f"extra: unknown keys hold {length} characters, at most {_MAX_EXTRA_CHARACTERS} are kept")
    return extra


def plain_json(name: str, text: Any) -> str:
    """JSON text in the one spelling that we write.

    Raises:
        ValueError: for text that is no JSON, nested deeper than 32 levels, or with numbers that are not finite.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name}: expected JSON text, got {type(text).__name__}")
    try:
        value = json.loads(text)
        check_depth(name, value)
        return check_text(name, json.dumps(value, ensure_ascii=False, allow_nan=False), _MAX_EXTRA_CHARACTERS)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not JSON that can be kept ({str(error)[:200]})") from error


def check_depth(name: str, value: Any, levels: int = _MAX_DEPTH) -> None:
    """Raises a ValueError for lists and objects nested deeper than `levels`."""
    level = [value]
    for _ in range(levels):
        lists = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list)))
        level = [inner for one in lists for inner in one]
    if any(isinstance(one, (dict, list)) for one in level):
        raise ValueError(f"{name}: nested deeper than {levels} levels")


NEVER_NONE = ("caption", "lyrics", "sentence", "genres", "user_caption", "locked", "filled", "lm", "extra")
CHECKS: dict[str, Callable[[Any], Any]] = {
    "caption": partial(check_text, "caption", limit=MAX_CAPTION_CHARACTERS),
    "lyrics": partial(check_text, "lyrics", limit=MAX_LYRIC_CHARACTERS),
    "bpm": check_bpm,
    "key": check_key,
    "time_signature": check_time_signature,
    "seconds": check_seconds,
    "language": check_language,
    "codes": check_codes,
    "seed": partial(_seed, "seed"),
    "locked": partial(check_names, "locked"),
    "sentence": partial(check_text, "sentence", limit=MAX_CAPTION_CHARACTERS),
    "genres": partial(check_text, "genres", limit=MAX_GENRE_CHARACTERS),
    "user_caption": partial(check_text, "user_caption", limit=MAX_CAPTION_CHARACTERS),
    "codes_seed": partial(_seed, "codes_seed"),
    "score": check_score,
    "filled": partial(check_names, "filled"),
    "lm": check_lm,
    "extra": check_extra,
}
