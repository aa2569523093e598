"""What of a sound is heard beside a new part: the seconds next to it, and their codes."""

from __future__ import annotations

from typing import Literal, get_args

from ..runtime import Runtime
from ..units import FRAMES_PER_CODE, HOP, MAX_SECONDS, seconds_to_codes
from .encode import ConditionerModels
from .listen import Source, source_codes

Where = Literal["end", "start"]  # of the source: where the new part is
WHERE: tuple[Where, ...] = get_args(Where)
CONTEXT_SECONDS = 60.0
LEAST_CONTEXT = 2.0


def check_context(context: float) -> None:
    """Whether so many seconds of a source can be heard.

    Raises:
        ValueError: for less than 2 s or more than 600.
    """
    if not LEAST_CONTEXT <= context <= MAX_SECONDS:
        raise ValueError(
            f"context: expected {LEAST_CONTEXT:g} to {MAX_SECONDS:g} s of the source to be heard, got {context:g}"
        )


def heard_codes(source: Source, context: float) -> int:
    """How many codes of a source are heard in `context` seconds: whole ones, and no more than it has.

    Raises:
        ValueError: for less than 2 s or more than 600.
    """
    check_context(context)
    return min(seconds_to_codes(context), whole_frames(source) // FRAMES_PER_CODE)


def whole_frames(source: Source) -> int:
    """Latent frames of a source that its samples fill; latents that were sampled may have one more."""
    return min(source.latents.shape[-1], source.samples // HOP)


def heard(source: Source, context: float, where: Where = "end") -> Source:
    """The `context` seconds of a source next to its end, or to its start, or all of it, as whole codes.

    They are counted from the frame where the new part begins or ends: a code is five frames and is made of nothing
    else, so which frames are taken together decides what the codes are.
    """
    count = FRAMES_PER_CODE * heard_codes(source, context)
    last = whole_frames(source) if where == "end" else count
    first = last - count
    return Source(source.latents[..., first:last], source.waveform[..., first * HOP : last * HOP])


def kept_codes(
    runtime: Runtime,
    conditioner: ConditionerModels,
    source: Source,
    context: float = CONTEXT_SECONDS,
    where: Where = "end",
) -> tuple[int, ...]:
    """The codes of the last (or first) `context` seconds of a source: what a planner and a decoder go on from.

    Raises:
        ValueError: for a context of less than 2 s or more than 600.
        ACEStepError: when the tokenizer answers with numbers that are not finite.
    """
    return source_codes(runtime, conditioner, heard(source, context, where))
