"""A song on paper: what the user said, what the planner filled in, and nothing that is not true.

Every set field is checked and normalised when the blueprint is made, so an illegal plan cannot exist;
an unset field (None, or an empty text) is a draft that the planner or the sampler's defaults complete.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from .units import CODEBOOK_SIZE, MAX_SECONDS, MIN_SECONDS, seconds_to_codes, snap_seconds

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
MAX_SEED = 2**64 - 1

_SCHEMA, _VERSION = "acestep-blueprint", 1
_KEY = re.compile(r"^([A-Ga-g])\s*([#b♯♭]?)\s*(.*)$")
_MODES = {"major": "major", "maj": "major", "": "major", "minor": "minor", "min": "minor", "m": "minor"}


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """One song.

    Attributes:
        caption: what it sounds like; "" = unset.
        lyrics: what is sung; "[Instrumental]" = nothing, "" = unset.
        bpm: 30 to 300 beats a minute.
        key: one of KEYS; other spellings ("Am", "C♯ Major") are normalised.
        time_signature: beats in a bar, one of "2", "3", "4", "6"; "4/4" and the like are normalised.
        seconds: 10 to 600, brought to the nearest multiple of 0.2.
        language: of the lyrics, one of LANGUAGES.
        codes: 5 Hz audio codes 0 to 63 999, exactly 5 · seconds of them if seconds are set.
        seed: noise seed of this song; None = the sampler's seed plus the song's place in the batch.
        locked: names of fields that the planner must not touch.

    Raises:
        ValueError, TypeError: for a field out of its range, with the value and the range.
    """

    caption: str = ""
    lyrics: str = ""
    bpm: int | None = None
    key: str | None = None
    time_signature: str | None = None
    seconds: float | None = None
    language: str | None = None
    codes: tuple[int, ...] | None = None
    seed: int | None = None
    locked: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if value is not None or name in _NEVER_NONE:
                object.__setattr__(self, name, check(value))
        if self.codes is None or self.seconds is None:
            return
        expected = seconds_to_codes(self.seconds)
        if len(self.codes) != expected:
            raise ValueError(
                f"codes: a song of {self.seconds:g} s has {expected} codes, got {len(self.codes)}; "
                "write the codes again or change the duration"
            )

    def require_complete(self) -> Blueprint:
        """Self, if it says enough to be sampled.

        Raises:
            ValueError: when caption and lyrics are both empty.
        """
        if not self.caption.strip() and not self.lyrics.strip():
            raise ValueError(
                "caption and lyrics are both empty: write in the caption what the song should sound like, or lyrics"
            )
        return self

    def to_json(self) -> str:
        """The blueprint as JSON with unset fields left out; `from_json` gives an equal one back."""
        data = {name: value for name, value in asdict(self).items() if value not in (None, "", frozenset())}
        if self.locked:
            data["locked"] = sorted(self.locked)
        return json.dumps({"schema": _SCHEMA, "version": _VERSION, **data}, ensure_ascii=False, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Blueprint:
        """The blueprint that `to_json` wrote.

        Raises:
            ValueError: for text that is not JSON, another schema or version, or unknown fields.
        """
        data = _parse_object(text)
        if (data.pop("schema", None), data.pop("version", None)) != (_SCHEMA, _VERSION):
            raise ValueError(f'blueprint: expected "schema": "{_SCHEMA}" and "version": {_VERSION} in the JSON')
        unknown = sorted(set(data) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"blueprint: unknown fields {unknown}; known are {[field.name for field in fields(cls)]}")
        return cls(**data)


def _parse_object(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"blueprint: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"blueprint: expected a JSON object, got {type(data).__name__}")
    return data


def _text(name: str, value: Any, limit: int) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected text, got {type(value).__name__}")
    if len(value) > limit:
        raise ValueError(f"{name}: at most {limit} characters, got {len(value)}; shorten the {name}")
    broken = next((place for place, letter in enumerate(value) if "\ud800" <= letter <= "\udfff"), None)
    if broken is not None:
        raise ValueError(
            f"{name}: half a character (a lone surrogate) at position {broken}, after {value[:broken][-20:]!r}; "
            "delete it and type it again"
        )
    return value


def check_caption(value: Any) -> str:
    """`value` if it is a text of at most MAX_CAPTION_CHARACTERS."""
    return _text("caption", value, MAX_CAPTION_CHARACTERS)


def check_lyrics(value: Any) -> str:
    """`value` if it is a text of at most MAX_LYRIC_CHARACTERS."""
    return _text("lyrics", value, MAX_LYRIC_CHARACTERS)


def _number(name: str, value: Any, low: float, high: float, unit: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name}: expected {low:g} to {high:g} {unit}, or auto; got {value:g}")
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
            f"got {value!r}"
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
        raise ValueError(f"time_signature: expected 2/4, 3/4, 4/4 or 6/8, or auto; got {value!r}")
    return numerator


def check_language(value: Any) -> str:
    """The language code, if the model knows it."""
    code = str(value).strip().lower()
    if code not in LANGUAGES:
        raise ValueError(f"language: expected one of {' '.join(LANGUAGES)}, or auto; got {value!r}")
    return code


def check_codes(value: Any) -> tuple[int, ...]:
    """The codes as a tuple, if there is at least one and all lie in the codebook."""
    codes = tuple(value)
    bad = [code for code in codes if type(code) is not int or not 0 <= code < CODEBOOK_SIZE]
    if bad or not codes:
        raise ValueError(f"codes: expected whole numbers 0 to {CODEBOOK_SIZE - 1}, got {bad[:3] if bad else 'none'}")
    return codes


def check_seed(value: Any) -> int:
    """`value` if it is a whole number that fits into 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"seed: expected a whole number, got {type(value).__name__}")
    if not 0 <= value <= MAX_SEED:
        raise ValueError(f"seed: expected 0 to {MAX_SEED}, got {value}")
    return value


def check_locked(value: Any) -> frozenset[str]:
    """The names as a set, if each names a field."""
    names, known = frozenset(value), set(_CHECKS) - {"locked"}
    if not names <= known:
        raise ValueError(f"locked: unknown fields {sorted(names - known)}; known are {sorted(known)}")
    return names


_NEVER_NONE = ("caption", "lyrics", "locked")
_CHECKS = {
    "caption": check_caption,
    "lyrics": check_lyrics,
    "bpm": check_bpm,
    "key": check_key,
    "time_signature": check_time_signature,
    "seconds": check_seconds,
    "language": check_language,
    "codes": check_codes,
    "seed": check_seed,
    "locked": check_locked,
}
