"""What nodes say of codes: those that were written, those that were kept, and those that were heard."""

from __future__ import annotations

from collections.abc import Sequence

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.units import CODE_RATE, MIN_SECONDS
from .describe import heading, told_together


def describe_written(before: Sequence[Blueprint], after: Sequence[Blueprint]) -> tuple[str, ...]:
    """How many codes each song has, from which seed or kept, and how long it is and why."""
    groups: dict[tuple[int, bool], list[int]] = {}
    for number, song in enumerate(after, 1):
        groups.setdefault((len(song.codes or ()), _is_kept(song)), []).append(number)
    lines = []
    for (count, kept), numbers in groups.items():
        seeds = ", ".join(str(after[number - 1].codes_seed) for number in numbers)
        start = f"{heading(numbers)} " if len(groups) > 1 else ""
        lines.append(f"{start}{count} codes a song, {'kept, locked' if kept else f'seed {seeds}'}")
    lengths = [f"length: {new.length:g} s{_why(old, new)}" for old, new in zip(before, after, strict=True)]
    return (*lines, *told_together(lengths))


def describe_after(kept: Sequence[int]) -> str:
    """What the planner went on from; "" where it began anew."""
    return f"goes on from {len(kept)} codes, the last {len(kept) / CODE_RATE:g} s of after" if kept else ""


def _is_kept(song: Blueprint) -> bool:
    return "codes" in song.locked


def _why(before: Blueprint, after: Blueprint) -> str:
    """Where the length comes from, if not from the seconds of the song."""
    if "default_seconds" in dict(after.lm):
        return " (auto: neither a plan nor you said how long)"
    if before.length is not None and after.length != before.length:
        return f" (ended by itself, of {before.length:g} s)"
    return " (that of its codes)" if before.seconds is None else ""


def describe_heard(draft: Blueprint, song: Blueprint, codes: Sequence[int]) -> str:
    """Why the codes or the length of a sound did not become those of the song; "" where they did."""
    told = (_codes_note(draft, song, codes), _length_note(draft, song, codes))
    return "; ".join(note for note in told if note)


def _codes_note(draft: Blueprint, song: Blueprint, codes: Sequence[int]) -> str:
    seconds = len(codes) / CODE_RATE
    if draft.codes is not None:
        return "" if draft.codes == tuple(codes) else "codes: the blueprint had others, which stay"
    if song.codes is not None:
        return ""
    if "codes" in draft.locked:
        return "codes: locked, so those of the sound are not kept"
    return f"codes: not kept, for the sound is {seconds:g} s long and the song {song.length:g} s"


def _length_note(draft: Blueprint, song: Blueprint, codes: Sequence[int]) -> str:
    seconds = len(codes) / CODE_RATE
    if song.seconds is not None or song.codes not in (None, tuple(codes)):
        return ""
    if seconds < MIN_SECONDS:
        return f"seconds: unset, for the sound is {seconds:g} s long and a song has {MIN_SECONDS:g} s or more"
    return f"seconds: locked and unset; the sound is {seconds:g} s long" if "seconds" in draft.locked else ""
