"""The times at which the decoder is asked for a velocity: 1 is pure noise, 0 is music (spec/audio.md §6.1, §6.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..tasks import Variant
from .solvers import SOLVERS

MAX_STEPS = 200
MAX_DISTILLED_STEPS = 20
MAX_SHIFT = 100.0
DEFAULT_SOLVER = "euler"
TRAINED_SHIFTS = (1.0, 2.0, 3.0)


@dataclass(frozen=True)
class SamplingOptions:
    """What the user wants of the sampler; None = as the decoder was trained.

    Attributes:
        steps: 1 to 200 decoder calls.
        shift: above 0; larger spends more steps on coarse structure.
        times: explicit times from noise to music, falling, each in (0, 1], a trailing 0 allowed; instead of steps
            and shift.
        solver: one of SOLVERS.

    Raises:
        ValueError: for a value out of its range, with the value and the range.
    """

    steps: int | None = None
    shift: float | None = None
    times: tuple[float, ...] | None = None
    solver: str = DEFAULT_SOLVER

    def __post_init__(self) -> None:
        if self.steps is not None and not 1 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps: expected 1 to {MAX_STEPS}, or auto; got {self.steps}")
        if self.shift is not None and not 0.0 < self.shift <= MAX_SHIFT:
            raise ValueError(f"shift: expected a number above 0 and at most {MAX_SHIFT:g}, or auto; got {self.shift:g}")
        if self.times is not None:
            object.__setattr__(self, "times", check_times(self.times))
        if self.solver not in SOLVERS:
            raise ValueError(f"solver: expected one of {', '.join(SOLVERS)}, got {self.solver!r}")


@dataclass(frozen=True)
class Schedule:
    """Resolved times.

    Attributes:
        times: steps + 1 times, the last one 0.
        shift: the shift they were made with, None for explicit times.
        notes: what a user should know about how they came to be.
    """

    times: tuple[float, ...]
    shift: float | None
    solver: str = DEFAULT_SOLVER
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Decoder calls."""
        return len(self.times) - 1


def check_times(times: Sequence[float]) -> tuple[float, ...]:
    """`times` without trailing zeros, if there is at least one and they fall within (0, 1].

    Raises:
        ValueError: with the offending value.
    """
    kept = list(times)
    while kept and kept[-1] == 0.0:
        kept.pop()
    if not kept or len(kept) > MAX_STEPS:
        raise ValueError(f"times: expected 1 to {MAX_STEPS} numbers above 0, got {len(kept)}")
    for value in kept:
        if not (math.isfinite(value) and 0.0 < value <= 1.0):
            raise ValueError(f"times: each must be above 0 and at most 1, got {value:g}")
    for before, after in pairwise(kept):
        if after >= before:
            raise ValueError(f"times: each must be smaller than the one before, got {before:g} then {after:g}")
    return tuple(kept)


def parse_times(text: str) -> tuple[float, ...] | None:
    """Times out of "0.97, 0.76, 0.5, 0"; None for an empty text.

    Raises:
        ValueError: for a part that is not a number.
    """
    parts = [part for part in text.replace(",", " ").split() if part]
    try:
        return tuple(float(part) for part in parts) or None
    except ValueError as error:
        raise ValueError(f'times: expected numbers like "0.97, 0.76, 0.5, 0.28", got {text!r}') from error


def flow_times(steps: int, shift: float) -> tuple[float, ...]:
    """`steps` + 1 times from 1 to 0, bent by t -> s·t / (1 + (s - 1)·t)."""
    linear = [1.0 - i / steps for i in range(steps + 1)]
    return tuple(shift * t / (1.0 + (shift - 1.0) * t) for t in linear)


def trained_times() -> tuple[float, ...]:
    """The times that distilled decoders have seen: the eight-step tables of shifts 1, 2 and 3 together, falling."""
    union = {round(t, 9): t for shift in TRAINED_SHIFTS for t in flow_times(8, shift)[:-1]}
    return tuple(sorted(union.values(), reverse=True))


def snap_times(times: Sequence[float]) -> tuple[float, ...]:
    """Each time moved to the nearest trained one, repeats dropped (a step of length zero computes nothing)."""
    snapped = [min(trained_times(), key=lambda trained: abs(trained - t)) for t in times]
    return tuple(dict.fromkeys(snapped))


def resolve(options: SamplingOptions, variant: Variant, shift: float) -> Schedule:
    """The schedule for a decoder of `variant` whose model carries `shift`.

    Raises:
        ValueError: for more than 20 explicit times on a distilled decoder.
    """
    if options.times is not None:
        return _explicit(options.times, variant, options.solver)
    steps = options.steps if options.steps is not None else variant.steps
    shift = options.shift if options.shift is not None else shift
    return Schedule(flow_times(steps, shift), shift, options.solver, _step_notes(steps, variant))


def _explicit(times: tuple[float, ...], variant: Variant, solver: str) -> Schedule:
    if not variant.snaps_times:
        return Schedule((*times, 0.0), None, solver)
    if len(times) > MAX_DISTILLED_STEPS:
        raise ValueError(f"times: a turbo decoder takes at most {MAX_DISTILLED_STEPS}, got {len(times)}")
    snapped = snap_times(times)
    moved = snapped != times
    notes = (f"times moved to the trained ones: {', '.join(f'{t:.3f}' for t in snapped)}",) if moved else ()
    return Schedule((*snapped, 0.0), None, solver, notes)


def _step_notes(steps: int, variant: Variant) -> tuple[str, ...]:
    if variant.distilled and steps > MAX_DISTILLED_STEPS:
        return (f"{steps} steps are more than the {MAX_DISTILLED_STEPS} that a turbo decoder was made for",)
    return ()
