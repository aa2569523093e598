"""A song on paper: what the user said, what the planner filled in, and nothing that is not true.

Every set field is checked and normalised when the blueprint is made, so an illegal plan cannot exist;
an unset field (None, or an empty text) is a draft that the planner or the sampler's defaults complete.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from .blueprint_fields import (
    CHECKS,
    INSTRUMENTAL,
    KEY_NOTES,
    KEYS,
    LANGUAGES,
    MAX_BPM,
    MAX_CAPTION_CHARACTERS,
    MAX_LYRIC_CHARACTERS,
    MAX_SEED,
    MIN_BPM,
    NEVER_NONE,
    PLANNED,
    TIME_SIGNATURES,
    Fact,
    check_names,
)
from .units import CODE_RATE, seconds_to_codes

__all__ = [
    "INSTRUMENTAL",
    "KEYS",
    "KEY_NOTES",
    "LANGUAGES",
    "MAX_BPM",
    "MAX_CAPTION_CHARACTERS",
    "MAX_LYRIC_CHARACTERS",
    "MAX_SEED",
    "MIN_BPM",
    "PLANNED",
    "TIME_SIGNATURES",
    "Blueprint",
    "Fact",
]

# What says how the song sounds; when the user changes any of it, the score of a take is not true any more.
_SOUND = ("caption", "lyrics", "bpm", "key", "time_signature", "seconds", "language", "codes")
# What facts about the planner may say of one field, as in "cut_lyrics"; they go with its value.
_FIELD_FACTS = ("cut", "kept", "default")


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
        language: of the lyrics, one of LANGUAGES; "unknown" is an answer, None is none.
        codes: 5 Hz audio codes 0 to 63 999, at most 3000, exactly 5 · seconds of them if seconds are set.
        seed: noise seed of this song; None = the sampler's seed plus the song's place in the batch.
        locked: names out of PLANNED that the planner must not touch.
        sentence: what the plan was made from in simple mode.
        genres: what the planner calls it; the decoder does not read it.
        user_caption: the user's own words, where `caption` is a rewriting of them.
        codes_seed: the seed that the codes were drawn with.
        score: how well the codes fit the words, as far as somebody measured it.
        filled: names out of PLANNED that the language model filled.
        lm: how the planner was set, (name, value) pairs.
        extra: what a loaded file held beside all this, (name, JSON text) pairs.

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
    sentence: str = ""
    genres: str = ""
    user_caption: str = ""
    codes_seed: int | None = None
    score: float | None = None
    filled: frozenset[str] = frozenset()
    lm: tuple[tuple[str, Fact], ...] = ()
    extra: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name, check in CHECKS.items():
            value = getattr(self, name)
            if value is not None or name in NEVER_NONE:
                object.__setattr__(self, name, check(value))
        if self.codes is None or self.seconds is None:
            return
        expected = seconds_to_codes(self.seconds)
        if len(self.codes) != expected:
            raise ValueError(
                f"codes: a song of {self.seconds:g} s has {expected} codes, got {len(self.codes)}; "
                "write the codes again or change the duration"
            )

    @property
    def length(self) -> float | None:
        """Seconds of the song: those that are set, else those of its codes (which may be fewer than 10)."""
        if self.seconds is None and self.codes is not None:
            return len(self.codes) / CODE_RATE
        return self.seconds

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

    def is_set(self, name: str) -> bool:
        """Whether the field says anything; blank text does not.

        Raises:
            ValueError: for a field that does not exist.
        """
        return _says(getattr(self, _known(name)))

    def fill(self, **values: Any) -> Blueprint:
        """With those of `values` that are neither set nor locked here, and their names in `filled`.

        Codes fix the length: next to them `seconds` stay as they are.
        """
        free = {name: value for name, value in values.items() if _says(value) and self._is_free(name)}
        marks: dict[str, Any] = {"filled": self.filled | (free.keys() & set(PLANNED))}
        return replace(self, **{"lm": self._facts_without(free), **free, **marks})

    def _facts_without(self, names: Iterable[str]) -> tuple[tuple[str, Fact], ...]:
        gone = {f"{what}_{name}" for what in _FIELD_FACTS for name in names}
        return tuple(fact for fact in self.lm if fact[0] not in gone)

    def _is_free(self, name: str) -> bool:
        fixed = name in self.locked or (name == "seconds" and self.codes is not None)
        return not fixed and not self.is_set(name)

    def edit(self, **values: Any) -> Blueprint:
        """With `values` as the user's own, whatever was there or locked; None or "" unsets a field.

        What is no longer true goes: another length drops the codes, another caption the words it was a rewriting of,
        other codes their seed, any change of the sound the score.
        """
        for name in values:
            _known(name)
        new: dict[str, Any] = {name: self._empty(name) if value is None else value for name, value in values.items()}
        changed = replace(self, **{"filled": self.filled - new.keys(), **new, "codes": None})
        codes: Any = new.get("codes", self.codes if self._keeps_length(changed) else None)
        changed = replace(changed, codes=codes)
        stale: dict[str, Any] = {"lm": self._facts_without(new)}
        if changed.caption != self.caption:
            stale["user_caption"] = ""
        if changed.codes != self.codes:
            stale["codes_seed"] = None
            stale["filled"] = changed.filled - {"codes"}
        if any(getattr(changed, name) != getattr(self, name) for name in _SOUND):
            stale["score"] = None
        return replace(changed, **{name: value for name, value in stale.items() if name not in new})

    def _empty(self, name: str) -> Any:
        return type(getattr(self, name))() if name in NEVER_NONE else None

    def _keeps_length(self, other: Blueprint) -> bool:
        if self.codes is None or other.seconds is None:
            return other.seconds == self.seconds
        return seconds_to_codes(other.seconds) == len(self.codes)

    def lock(self, names: Iterable[str]) -> Blueprint:
        """With these fields locked as well.

        Raises:
            ValueError: for a name that is not in PLANNED.
        """
        return replace(self, locked=self.locked | check_names("locked", names))

    def unlock(self, names: Iterable[str]) -> Blueprint:
        """With these fields free for the planner.

        Raises:
            ValueError: for a name that is not in PLANNED.
        """
        return replace(self, locked=self.locked - check_names("locked", names))


def _says(value: Any) -> bool:
    """False for what stands for "unset"."""
    return bool(value.strip()) if isinstance(value, str) else value is not None and value not in ((), frozenset())


def _known(name: str) -> str:
    names = [field.name for field in fields(Blueprint)]
    if name not in names:
        raise ValueError(f"blueprint: there is no field {name!r}; fields are {', '.join(names)}")
    return name
