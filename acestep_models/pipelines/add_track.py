"""One more instrument for a song that is there already."""

from __future__ import annotations

from ..dit.context import FrameSpan
from ..runtime import Runtime
from ..units import HOP, seconds_to_samples
from .encode import ConditionerModels
from .generate import Decoder, Song, Take, perform
from .listen import Source
from .task import Work


def add_track(
    runtime: Runtime,
    decoder: Decoder,
    conditioner: ConditionerModels,
    take: Take,
    source: Source,
    track: str,
    region: tuple[float, float] | None = None,
) -> Song:
    """`track` alone, made to fit the source: from region[0] to region[1] seconds, or all along.

    Raises:
        ValueError: for an unknown track, a region outside of the source, or a variant that cannot do it.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    spans = () if region is None else (region_frames(source, *region),)
    return perform(runtime, decoder, conditioner, take, Work("lego", source, (track,), spans))


def region_frames(source: Source, start: float, end: float) -> FrameSpan:
    """Latent frames of a part of the source in seconds, first and one past the last; at least one (spec/audio.md §5.3).

    Seconds become samples by `seconds_to_samples`: 4.6 s are frame 115, where upstream's int() makes 114 of them.

    Raises:
        ValueError: for an end that is not behind the start, or a part outside of the source.
    """
    if not 0 <= start < end <= source.seconds:
        raise ValueError(
            f"region: expected a start before its end, both in the source of 0 to {source.seconds:.10g} s, "
            f"got {start:.10g} to {end:.10g} s"
        )
    frames = source.latents.shape[-1]
    first, last = (seconds_to_samples(seconds) // HOP for seconds in (start, end))
    first = min(first, frames - 1)
    return first, min(max(last, first + 1), frames)
