"""What the user wants of the sampler, and what it does for a given decoder.

The times are those at which the decoder is asked: 1 is pure noise, 0 is music (spec/audio.md §6.1, §6.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ..tasks import Variant
from .dcw import DCW
from .guidance import DEFAULT_GUIDANCE, GUIDANCE, NO_GUIDANCE, Guide
from .solvers import SOLVERS

MAX_STEPS = 200
MAX_DISTILLED_STEPS = 20
FEW_STEPS = 20
MAX_SHIFT = 100.0
MAX_SCALE = 100.0
MAX_CLAMP = 100.0
AUTO = "auto"
GUIDANCE_CHOICES = (AUTO, NO_GUIDANCE, *GUIDANCE)
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
        guidance: one of GUIDANCE_CHOICES.
        scale: 1 (no guidance) to 100; a distilled decoder has its guidance built in and always gets 1.
        interval: guided where start <= t <= end, 0 to 1.
        clamp: longest velocity as a multiple of the latents, 1.5 to 3 do something; 0 = any.
        ema: share of the previous velocity in the next, 0 to below 1.
        dcw: wavelet correction after each step.

    Raises:
        ValueError: for a value out of its range, with the value and the range.
    """

    steps: int | None = None
    shift: float | None = None
    times: tuple[float, ...] | None = None
    solver: str = DEFAULT_SOLVER
    guidance: str = AUTO
    scale: float | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    clamp: float = 0.0
    ema: float = 0.0
    dcw: DCW | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and not 1 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps: expected 1 to {MAX_STEPS}, or auto; got {self.steps}")
        if self.shift is not None and not 0.0 < self.shift <= MAX_SHIFT:
            raise ValueError(f"shift: expected a number above 0 and at most {MAX_SHIFT:g}, or auto; got {self.shift:g}")
        if self.times is not None:
            object.__setattr__(self, "times", check_times(self.times))
        if self.solver not in SOLVERS:
            raise ValueError(f"solver: expected one of {', '.join(SOLVERS)}, got {self.solver!r}")
        self._check_guidance()

    def _check_guidance(self) -> None:
        if self.guidance not in GUIDANCE_CHOICES:
            raise ValueError(f"guidance: expected one of {', '.join(GUIDANCE_CHOICES)}, got {self.guidance!r}")
        if self.scale is not None and not 1.0 <= self.scale <= MAX_SCALE:
            raise ValueError(f"scale: expected 1 (no guidance) to {MAX_SCALE:g}, or auto; got {self.scale:g}")
        start, end = self.interval
        if not 0.0 <= start <= end <= 1.0:
            raise ValueError(f"interval: expected 0 <= start <= end <= 1, got {start:g} to {end:g}")
        if not 0.0 <= self.clamp <= MAX_CLAMP:
            raise ValueError(f"clamp: expected 0 (off) to {MAX_CLAMP:g}, got {self.clamp:g}")
        if not 0.0 <= self.ema < 1.0:
            raise ValueError(f"ema: expected 0 (off) to below 1, got {self.ema:g}")


@dataclass(frozen=True)
class Schedule:
    """What the sampler does: nothing in it is left on auto.

    Attributes:
        times: steps + 1 times, the last one 0.
        shift: the shift they were made with, None for explicit times.
        notes: what a user should know about how they came to be.
        guidance: "none" or a name in GUIDANCE.
        scale: above 1, or exactly 1 for no guidance.
        interval, clamp, ema, dcw: as in SamplingOptions.
    """

    times: tuple[float, ...]
    shift: float | None
    solver: str = DEFAULT_SOLVER
    notes: tuple[str, ...] = ()
    guidance: str = NO_GUIDANCE
    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    clamp: float = 0.0
    ema: float = 0.0
    dcw: DCW | None = None

    @property
    def steps(self) -> int:
        """Steps from noise to music."""
        return len(self.times) - 1

    @property
    def guided(self) -> bool:
        """Whether the decoder is asked without condition too, at some times or all."""
        return self.guidance != NO_GUIDANCE

    def starting(self, level: float) -> Schedule:
        """This schedule from its time nearest to `level` on, the first of two equally near (spec/audio.md §5.6).

        Only times that a step begins at count: at level 0 the last step is left.
        """
        first = min(range(self.steps), key=lambda index: abs(self.times[index] - level))
        return replace(self, times=self.times[first:])

    def guide(self) -> Guide:
        """A fresh guide, for one sampling run."""
        return Guide(self.guidance, self.scale, self.interval, self.clamp, self.ema)


def count_steps(steps: int) -> str:
    """ "1 step", "8 steps"."""
    return f"{steps} step{'' if steps == 1 else 's'}"


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
        ValueError: for more than 20 explicit times on a decoder that moves them to its trained ones.
    """
    times, bent, time_notes = _resolve_times(options, variant, shift)
    guidance, scale, guidance_notes = _resolve_guidance(options, variant)
    return Schedule(
        times,
        bent,
        options.solver,
        (*time_notes, *_step_notes(len(times) - 1, variant), *guidance_notes),
        guidance,
        scale,
        options.interval,
        options.clamp,
        options.ema,
        options.dcw,
    )


def _resolve_times(
    options: SamplingOptions, variant: Variant, shift: float
) -> tuple[tuple[float, ...], float | None, tuple[str, ...]]:
    """(times, the shift that made them, notes)."""
    if options.times is not None:
        times, notes = _explicit(options.times, variant)
        return times, None, notes
    steps = options.steps if options.steps is not None else variant.steps
    shift = options.shift if options.shift is not None else shift
    return flow_times(steps, shift), shift, _shift_notes(shift, variant)


def _explicit(times: tuple[float, ...], variant: Variant) -> tuple[tuple[float, ...], tuple[str, ...]]:
    if not variant.snaps_times:
        return (*times, 0.0), ()
    if len(times) > MAX_DISTILLED_STEPS:
        raise ValueError(f"times: a turbo decoder takes at most {MAX_DISTILLED_STEPS}, got {len(times)}")
    snapped = snap_times(times)
    moved = snapped != times
    notes = (f"times moved to the trained ones: {', '.join(f'{t:.3f}' for t in snapped)}",) if moved else ()
    return (*snapped, 0.0), notes


def _resolve_guidance(options: SamplingOptions, variant: Variant) -> tuple[str, float, tuple[str, ...]]:
    """(kind, scale, notes)."""
    if variant.distilled:
        asked = options.guidance in GUIDANCE or (options.scale or 1.0) > 1.0
        note = "guidance is not used: a turbo decoder has it built in (if this is a merge with base, load it as base)"
        return NO_GUIDANCE, 1.0, (note,) if asked else ()
    scale = options.scale if options.scale is not None else variant.guidance
    if options.guidance == NO_GUIDANCE or scale <= 1.0:
        return NO_GUIDANCE, 1.0, (f"made without guidance; this variant is used to {variant.guidance:g}",)
    return DEFAULT_GUIDANCE if options.guidance == AUTO else options.guidance, scale, ()


def _step_notes(steps: int, variant: Variant) -> tuple[str, ...]:
    if variant.distilled and steps > MAX_DISTILLED_STEPS:
        return (f"{steps} steps are more than the {MAX_DISTILLED_STEPS} that a turbo decoder was made for",)
    if not variant.distilled and steps < FEW_STEPS:
        return (f"{count_steps(steps)} {'is' if steps == 1 else 'are'} few; this variant is used to {variant.steps}",)
    return ()


def _shift_notes(shift: float, variant: Variant) -> tuple[str, ...]:
    least, most = variant.shifts
    # A shift that comes out of a MODEL may have been through float32.
    if least - 1e-6 <= shift <= most + 1e-6:
        return ()
    made_for = f"{least:g}" if least == most else f"{least:g} to {most:g}"
    return (f"shift {shift:g}; this variant was made for {made_for}",)
