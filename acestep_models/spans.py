"""Parts of a song as a user writes them, in seconds or in bars.

Bars are counted from 1 and both ends belong to a span, as musicians say it: bars 5-8 are four bars.
Bar 0 is the one before the song. Seconds may lie before 0 (an intro) and past the end (more song).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

from .units import SAMPLE_RATE

Unit = Literal["seconds", "bars"]
UNITS: tuple[Unit, ...] = ("seconds", "bars")
END = "end"
EXAMPLES = {"seconds": '"12-20.5", "1:05-1:20" or "45-end"', "bars": '"5-8", "5" or "33-end"'}

# Quarter notes in a bar; the tempo counts quarter notes, as a DAW does, so a bar of 6/8 has three.
_QUARTERS = {"2": 2.0, "3": 3.0, "4": 4.0, "6": 3.0, "2/4": 2.0, "3/4": 3.0, "4/4": 4.0, "6/8": 3.0}
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—―−", "-"))
_SECONDS = r"-?(?:\d{1,4}:\d{1,2}(?:\.\d+)?|\d{1,7}(?:\.\d+)?|\.\d+)(?:\s*s)?"
_BARS = r"-?\d{1,7}"
_BETWEEN = r"\s*(?:-|\bto\b|\.\.)\s*"
_RANGES = {
    unit: re.compile(rf"\s*(?P<start>{place}){_BETWEEN}(?P<end>{place}|{END})\s*", re.IGNORECASE)
    for unit, place in (("seconds", _SECONDS), ("bars", _BARS))
}
_ONE_BAR = re.compile(rf"\s*(?P<bar>{_BARS})\s*")
_ONE_SECOND = re.compile(rf"\s*{_SECONDS}\s*", re.IGNORECASE)
_COMMA_NUMBER = re.compile(r"\d,\d")
# Two places closer than this are one: no sample lies between them.
_TOUCH = 0.5 / SAMPLE_RATE


@dataclass(frozen=True)
class Meter:
    """How long a bar is.

    Attributes:
        bpm: quarter notes a minute.
        beats: quarter notes in a bar.

    Raises:
        ValueError: for a number that is not above 0.
    """

    bpm: float
    beats: float

    def __post_init__(self) -> None:
        for name, value in (("bpm", self.bpm), ("beats", self.beats)):
            if not 0.0 < value < math.inf:
                raise ValueError(f"{name}: expected a number above 0, got {value:g}")

    @property
    def bar_seconds(self) -> float:
        """Length of a bar."""
        return self.beats * 60.0 / self.bpm


def meter(bpm: float | None, time_signature: str | None) -> Meter:
    """The meter of a song, from what its blueprint holds; "4" and "4/4" are the same signature.

    Raises:
        ValueError: when one is unset or unknown, with what to do.
    """
    if bpm is None:
        raise ValueError("bpm: bars need the song's tempo, and it is on auto; set bpm, or unit to seconds")
    if time_signature is None:
        raise ValueError(
            "time_signature: bars need the song's meter, and it is on auto; set time_signature (4 for 4/4), "
            "or unit to seconds"
        )
    if str(time_signature) not in _QUARTERS:
        raise ValueError(f"time_signature: expected one of {', '.join(_QUARTERS)}; got {time_signature!r}")
    return Meter(float(bpm), _QUARTERS[str(time_signature)])


@dataclass(frozen=True)
class Span:
    """A part of a song in seconds; it may begin before the song and end behind it.

    Raises:
        ValueError: when it does not end after its start, or is without end.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        if not -math.inf < self.start < self.end < math.inf:
            raise ValueError(f"spans: the end must lie after the start; got {self.start:g} to {self.end:g} s")


def parse_spans(
    text: str | None, unit: Unit, meter: Meter | None = None, length: float | None = None
) -> tuple[Span, ...]:
    """Spans in the order written, separated by comma, semicolon or line end.

    Seconds: "12-20.5", "1:05-1:20", "-5 to 3", "20..30". Bars: "5-8" is from the start of bar 5 to the end
    of bar 8, "5" that bar alone, "-3-0" the four bars before the song. "end" is the song's end.

    Args:
        text: the spans; None, which a prompt of the API may hold, is refused as no text.
        meter: what a bar is; only for bars.
        length: the song's seconds. None before it is known: a span up to "end" is then read but left out.

    Raises:
        ValueError: for a text that is no span, an empty one, an end before its start, or bars without a meter.
    """
    pieces = [piece.strip() for piece in re.split(r"[,;\n]", (text or "").translate(_DASHES)) if piece.strip()]
    if unit not in UNITS:
        raise ValueError(f"unit: expected one of {', '.join(UNITS)}; got {unit!r}")
    if not pieces:
        got = "there is no text" if text is None else "the text is empty"
        raise ValueError(f"spans: expected at least one span in {unit}, like {EXAMPLES[unit]}; {got}")
    if unit == "bars" and meter is None:
        raise ValueError("spans: bars need a tempo and a time signature; set both, or unit to seconds")
    if unit == "seconds":
        _check_ends(pieces, text or "")
    spans = (_parse(piece, unit, meter, length) for piece in pieces)
    return tuple(span for span in spans if span is not None)


def _check_ends(pieces: Iterable[str], text: str) -> None:
    """Refuse a second alone: half of a number with a comma in it, or a bar."""
    for piece in pieces:
        if not _ONE_SECOND.fullmatch(piece):
            continue
        if _COMMA_NUMBER.search(text):
            raise ValueError(
                f"spans: {piece!r} is no span in seconds; commas stand between spans, so write decimals with a point: "
                '"1.5-2.5", not "1,5-2,5"'
            )
        bar = f"; for bar {piece} set unit to bars" if _ONE_BAR.fullmatch(piece) else ""
        raise ValueError(f'spans: {piece!r} is no span in seconds; in seconds write start-end, like "12-20.5"{bar}')


def check_spans(text: str, unit: str) -> None:
    """As `parse_spans` before tempo and length are known: only what can be said of the text.

    Raises:
        ValueError: as `parse_spans`.
    """
    parse_spans(text, cast(Unit, unit), Meter(120.0, 4.0))


def _parse(piece: str, unit: Unit, meter: Meter | None, length: float | None) -> Span | None:
    """One span; None when it goes to an end that is not known yet."""
    start, end = _places(piece, unit)
    if meter is not None and unit == "bars":
        first, last = int(start), None if end is None else int(end)
        begin = (first - 1) * meter.bar_seconds
        stop = length if last is None else last * meter.bar_seconds
    else:
        begin, stop = _clock(start), length if end is None else _clock(end)
    if stop is None:
        return None
    if stop <= begin and end is None:
        place = f"bar {start} begins at {begin:g} s," if unit == "bars" else f"{begin:g} s is"
        where = "at" if stop == begin else "behind"
        raise ValueError(f"spans: {piece!r} has nothing in it: {place} {where} the end of the song at {stop:g} s")
    if stop <= begin:
        raise ValueError(f"spans: {piece!r} ends at or before its start; write the smaller number first")
    return Span(begin, stop)


def _places(piece: str, unit: Unit) -> tuple[str, str | None]:
    """Start and end as written, None for the song's end; one bar is both."""
    bar = _ONE_BAR.fullmatch(piece) if unit == "bars" else None
    if bar is not None:
        return bar["bar"], bar["bar"]
    match = _RANGES[unit].fullmatch(piece)
    if match is None:
        whole = "whole bars, counted from 1" if unit == "bars" else "seconds, or minutes:seconds"
        raise ValueError(
            f"spans: {piece[:60]!r} is no span in {unit}; expected {whole}, like {EXAMPLES[unit]}; "
            "several with commas or one a line"
        )
    return match["start"], None if match["end"].lower() == END else match["end"]


def _clock(place: str) -> float:
    """Seconds of "65", "65 s", "1:05" or "-1:05"."""
    text = place.lower().rstrip("s ").lstrip("-")
    minutes, _, seconds = text.rpartition(":")
    value = 60.0 * int(minutes or 0) + float(seconds)
    return -value if place.startswith("-") else value


def merge(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same time as spans in order that neither overlap nor touch."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        if merged and span.start <= merged[-1].end + _TOUCH:
            span = Span(merged[-1].start, max(merged.pop().end, span.end))
        merged.append(span)
    return tuple(merged)


def check_reach(spans: Iterable[Span], seconds: float) -> None:
    """Whether `spans` can be made anew in a song of `seconds`: each touches it, and some of it stays.

    Raises:
        ValueError: for no span, one that would leave a hole before or behind the song, or all of the song.
    """
    merged = merge(spans)
    if not merged:
        raise ValueError("spans: expected at least one span")
    for span in merged:
        where = f"spans: {span.start:g} to {span.end:g} s"
        if span.start > seconds + _TOUCH or span.end < -_TOUCH:
            raise ValueError(
                f"{where} lies outside of the song, which goes from 0 to {seconds:g} s, and does not touch it; "
                "between them would be nothing"
            )
        if span.start <= _TOUCH and span.end >= seconds - _TOUCH:
            raise ValueError(
                f"{where} covers the whole song of {seconds:g} s, so nothing would be kept; DiTSample makes a "
                "new song, Cover another performance of this one"
            )
