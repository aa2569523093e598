"""What nodes say of songs: which fields the planner filled in, and which are the user's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ..acestep_models.blueprint import PLANNED, Blueprint
from ..acestep_models.planner.limits import unreadable
from ..acestep_models.planner.lm import LM
from .host.schema import AUTO
from .plan import METERS

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
    return tuple(line for lines, numbers in groups.items() for line in (heading(numbers), *lines))


def told_together(lines: Sequence[str]) -> tuple[str, ...]:
    """A line of each song, "" for none, as one line for all songs that share it; bare if these are all there are."""
    groups: dict[str, list[int]] = {}
    for number, line in enumerate(lines, 1):
        groups.setdefault(line, []).append(number)
    if len(groups) == 1:
        return tuple(line for line in groups if line)
    return tuple(f"{heading(numbers)} {line}" for line, numbers in groups.items() if line)


def describe_lengths(seconds: Sequence[float | None]) -> str:
    """A warning where songs will not fit into one batch; None is a song whose length nobody said."""
    if len({length for length in seconds if length is not None}) < 2:
        return ""
    told = ", ".join(f"song {k} {length:g} s" for k, length in enumerate(seconds, 1) if length is not None)
    return (
        f"songs of different lengths ({told}) do not fit into one batch: DiTSample takes them one by one "
        "(BlueprintValues takes one song out, its json goes into LoadBlueprint)"
    )


def describe_full(written: Collection[str], locked: Collection[str], what: str) -> str:
    """Why nothing is `written` of a song, and what to do; "" where something is."""
    if written:
        return ""
    if not locked:
        return f"nothing to fill: {what} is set; empty some of it to let the planner write it"
    names = ", ".join(sorted(locked, key=PLANNED.index))
    return f"nothing to fill: {what} is set or locked; unlock {names} to let the planner write them"


def describe_limits(lm: LM, songs: Sequence[Blueprint]) -> tuple[str, ...]:
    """Texts that are longer than the decoder reads, one line each, with the songs that have them."""
    found: dict[str, list[int]] = {}
    for number, song in enumerate(songs, 1):
        for problem in unreadable(lm.tokenizer, song):
            found.setdefault(problem, []).append(number)
    return tuple(f"{heading(numbers)} {problem}" for problem, numbers in found.items())


def describe_old_codes(before: Sequence[Blueprint], after: Sequence[Blueprint]) -> str:
    """Which songs kept their codes although their words changed; "" where none did. `before` has one song, or all."""
    drafts = list(before) * (len(after) // len(before))
    old = [number for number, pair in enumerate(zip(drafts, after, strict=True), 1) if _is_old(*pair)]
    return f"{heading(old)} the codes were written for the words before; run WriteCodes" if old else ""


def _is_old(before: Blueprint, after: Blueprint) -> bool:
    kept = after.codes is not None and after.codes == before.codes
    return kept and any(getattr(before, name) != getattr(after, name) for name in WORDS)


def heading(numbers: Sequence[int]) -> str:
    """Which songs a line is about."""
    return f"{'song' if len(numbers) == 1 else 'songs'} {', '.join(map(str, numbers))}:"


def _fields(song: Blueprint) -> Iterator[str]:
    for name, title in FACTS.items():
        value = getattr(song, name)
        if name != "genres" or value or name in song.locked:
            yield f"{title}: {_shown(name, value)}{_origin(song, name)}"
    for name in TEXTS:
        value = getattr(song, name)
        yield f"{name}{_origin(song, name)}: {value}" if value else f"{name}: none{_origin(song, name)}"
    yield from _cuts(song)


def _cuts(song: Blueprint) -> Iterator[str]:
    """Texts that the planner did not come to the end of."""
    told = dict(song.lm)
    for name in (*TEXTS, "genres"):
        if f"cut_{name}" in told:
            yield f"{name}: cut after {told[f'cut_{name}']}, at the end of a {ENDS[name]}"
    if "kept_lyrics" in told:
        yield f"lyrics: the planner's were cut after {told['kept_lyrics']}, so those before are kept"


def _shown(name: str, value: object) -> str:
    if value in (None, ""):
        return AUTO
    if name == "time_signature":
        return METERS[str(value)]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _origin(song: Blueprint, name: str) -> str:
    locked = ", locked" if name in song.locked else ""
    if not song.is_set(name):
        return locked
    if f"default_{name}" in dict(song.lm):
        return f" (auto{locked})"
    return f" (filled in{locked})" if name in song.filled else f" (yours{locked})"
