"""What nodes say of songs: which fields the planner filled in, and which are the user's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.planner.limits import unreadable
from ..acestep_models.planner.lm import LM
from .host.schema import AUTO

# Field -> its name on the nodes, in the order in which it is told.
FACTS = {
    "bpm": "bpm",
    "key": "key",
    "time_signature": "time signature",
    "seconds": "seconds",
    "language": "language",
    "genres": "genres",
}
TEXTS = ("caption", "lyrics")
WORDS = (*TEXTS, "bpm", "key", "time_signature")  # what codes are written for
ENDS = {"caption": "sentence or a word", "lyrics": "line", "genres": "word"}


def describe_songs(songs: Sequence[Blueprint]) -> tuple[str, ...]:
    """Every song once; those that are alike but for codes and seeds are told together."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, song in enumerate(songs, 1):
        groups.setdefault(tuple(_fields(song)), []).append(number)
    if len(groups) == 1:
        return next(iter(groups))
    return tuple(line for lines, numbers in groups.items() for line in (_heading(numbers), *lines))


def describe_codes(songs: Sequence[Blueprint]) -> str:
    """How many codes each song has, and from which seed."""
    counts = " or ".join(dict.fromkeys(str(len(song.codes or ())) for song in songs))
    seeds = [str(song.codes_seed) for song in songs if song.codes_seed is not None]
    return f"{counts} codes a song" + (f", seed {', '.join(seeds)}" if seeds else "")


def describe_limits(lm: LM, songs: Sequence[Blueprint]) -> tuple[str, ...]:
    """Texts that are longer than the decoder reads, one line each, with the songs that have them."""
    found: dict[str, list[int]] = {}
    for number, song in enumerate(songs, 1):
        for problem in unreadable(lm.tokenizer, song):
            found.setdefault(problem, []).append(number)
    return tuple(f"{_heading(numbers)} {problem}" for problem, numbers in found.items())


def describe_old_codes(before: Sequence[Blueprint], after: Sequence[Blueprint]) -> str:
    """Which songs kept their codes although their words changed; "" where none did. `before` has one song, or all."""
    drafts = list(before) * (len(after) // len(before))
    old = [number for number, pair in enumerate(zip(drafts, after, strict=True), 1) if _is_old(*pair)]
    return f"{_heading(old)} the codes were written for the words before; run WriteCodes" if old else ""


def _is_old(before: Blueprint, after: Blueprint) -> bool:
    kept = after.codes is not None and after.codes == before.codes
    return kept and any(getattr(before, name) != getattr(after, name) for name in WORDS)


def _heading(numbers: list[int]) -> str:
    return f"{'song' if len(numbers) == 1 else 'songs'} {', '.join(map(str, numbers))}:"


def _fields(song: Blueprint) -> Iterator[str]:
    for name, title in FACTS.items():
        value = getattr(song, name)
        if name != "genres" or value:
            yield f"{title}: {_shown(value)}{_origin(song, name)}"
    for name in TEXTS:
        value = getattr(song, name)
        yield f"{name}{_origin(song, name)}: {value}" if value else f"{name}: none"
    yield from _cuts(song)


def _cuts(song: Blueprint) -> Iterator[str]:
    """Texts that the planner did not come to the end of."""
    told = dict(song.lm)
    for name in (*TEXTS, "genres"):
        if f"cut_{name}" in told:
            yield f"{name}: cut after {told[f'cut_{name}']}, at the end of a {ENDS[name]}"
    if "kept_lyrics" in told:
        yield f"lyrics: the planner's were cut after {told['kept_lyrics']}, so those before are kept"


def _shown(value: object) -> str:
    if value in (None, ""):
        return AUTO
    return f"{value:g}" if isinstance(value, float) else str(value)


def _origin(song: Blueprint, name: str) -> str:
    if not song.is_set(name):
        return ""
    if f"default_{name}" in dict(song.lm):
        return " (auto)"
    if name in song.filled:
        return " (filled in)"
    return " (yours, locked)" if name in song.locked else " (yours)"
