"""Spans of a song on the nodes: the text, its unit, and what a bar is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.blueprint_fields import MAX_BPM, MIN_BPM
from ..acestep_models.spans import UNITS, Meter, Span, Unit, check_spans, meter, parse_spans
from .host.schema import first_few, io, socket
from .plan import TIME_SIGNATURES
from .types import Blueprint as BlueprintType
from .widgets import AUTO_NUMBER, answer, choice, decimal, given, one_of


def listed(places: Iterable[tuple[float, float]], pattern: str = "{:g} to {:g} s") -> str:
    """Parts of a song, from second to second, as a report shows them: the first 8, and how many more there are."""
    return first_few([pattern.format(start, end) for start, end in places])


def spans_inputs(what: str, default: str = "", name: str = "spans") -> list[Any]:
    """The text and its unit; `what` says what happens there."""
    how = 'Seconds: "12-20.5", "1:05-1:20", "45-end". Bars, counted from 1, both ends included: "5-8", "5", "33-end".'
    unit = "Whether spans are seconds or bars. Bars need a tempo and a time signature."
    return [
        socket(io.String, name, default=default, multiline=True, tooltip=f"{what} {how}"),
        unit_input(unit),
    ]


def unit_input(tooltip: str) -> Any:
    """What a number or a text counts."""
    return socket(io.Combo, "unit", options=list(UNITS), default=UNITS[0], tooltip=tooltip)


def meter_inputs() -> list[Any]:
    """Tempo and time signature; on auto they are the blueprint's."""
    tempo = f"Quarter notes a minute, {MIN_BPM} to {MAX_BPM}; only for bars. -1: the blueprint's."
    return [
        decimal("bpm", float(AUTO_NUMBER), (float(AUTO_NUMBER), float(MAX_BPM), 0.01), tempo),
        choice(
            "time_signature",
            TIME_SIGNATURES,
            "Beats in a bar; only for bars. 6/8 is three quarter notes long. auto: the blueprint's.",
        ),
    ]


def meter_blueprint_input() -> Any:
    """Whose tempo and time signature auto takes."""
    return socket(
        BlueprintType,
        "blueprint",
        optional=True,
        tooltip="The song on paper, for its tempo and time signature; only for bars.",
    )


def spans_problem(spans: Any = None, unit: Any = None) -> bool | str:
    """What validation says of a text of spans; a linked input is not known yet and arrives as None."""
    if not isinstance(spans, str) or not isinstance(unit, str):
        return True
    return answer(lambda: check_spans(spans, unit))


def read_spans(
    text: str, unit: str, bar: tuple[float, str], blueprint: Sequence[Blueprint] | None, length: float
) -> tuple[Span, ...]:
    """The spans of a song of `length` seconds; `bar` holds the widgets bpm and time_signature.

    Raises:
        ValueError: for a text that is no span, or bars without tempo or time signature.
    """
    chosen = cast(Unit, one_of("unit", unit, tuple(UNITS)))
    return parse_spans(text, chosen, read_meter(*bar, blueprint) if chosen == "bars" else None, length)


def read_length(value: float, unit: str, bar: tuple[float, str], blueprint: Sequence[Blueprint] | None) -> float:
    """Seconds of so many seconds or bars.

    Raises:
        ValueError: for bars without tempo or time signature.
    """
    bars = one_of("unit", unit, tuple(UNITS)) == "bars"
    return value * read_meter(*bar, blueprint).bar_seconds if bars and value else value


def read_meter(bpm: float, time_signature: str, blueprint: Sequence[Blueprint] | None) -> Meter:
    """What a bar is: the widgets' word, else the blueprint's.

    Raises:
        ValueError: for a tempo out of its range, or where neither says it, or songs of one blueprint differ.
    """
    if given(bpm) is not None and not MIN_BPM <= bpm <= MAX_BPM:
        raise ValueError(f"bpm: expected {MIN_BPM} to {MAX_BPM}, or {AUTO_NUMBER} for the blueprint's; got {bpm:g}")
    meters = {
        (given(bpm) or song.bpm, given(time_signature) or song.time_signature) for song in blueprint or (Blueprint(),)
    }
    if len(meters) > 1:
        raise ValueError(
            f"blueprint: its songs have {len(meters)} different tempos or time signatures; set bpm and "
            "time_signature here, or unit to seconds"
        )
    return meter(*meters.pop())
