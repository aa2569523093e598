"""Spans of a song as a mask over its latent frames."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..audio.splice import ramps
from ..spans import Span, check_reach, merge
from ..units import FRAME_RATE, HOP, frames_to_seconds, seconds_to_samples

MAX_FEATHER = 10.0


def span_mask(spans: Sequence[Span], frames: int, feather: float = 0.0) -> Tensor:
    """1 inside the spans, 0 outside, float32 [1, 1, frames]; `feather` seconds before and after a span lie between.

    A span reaches from the frame that its start lies in up to, not including, the one that its end lies in, and has
    one frame at least (spec/audio.md §5.3).

    Raises:
        ValueError: for spans that are not within the song or leave nothing of it, or a feather out of its range.
    """
    seconds = frames_to_seconds(frames)
    if not 0.0 <= feather <= MAX_FEATHER:
        raise ValueError(f"feather: expected 0 to {MAX_FEATHER:g} seconds, got {feather:g}")
    merged = merge(spans)
    for span in merged:
        if seconds_to_samples(span.start) < 0 or seconds_to_samples(span.end) > frames * HOP:
            raise ValueError(
                f"spans: {span.start:g} to {span.end:g} s is not within the latent's 0 to {seconds:g} s, and a mask "
                'cannot make it longer; write "end" for its end, or use Repaint or Extend'
            )
    check_reach(merged, seconds)
    places = tuple(_places(span, frames) for span in merged)
    return ramps(places, frames, round(feather * FRAME_RATE))[None, None]  # [1, 1, T]


def opened(spans: Sequence[Span], frames: int) -> tuple[Span, ...]:
    """When the mask is 1, in order: the spans of `span_mask` as the frames that they become."""
    places = (_places(span, frames) for span in merge(spans))
    return merge(Span(frames_to_seconds(start), frames_to_seconds(end)) for start, end in places)


def _places(span: Span, frames: int) -> tuple[int, int]:
    start = min(seconds_to_samples(span.start) // HOP, frames - 1)
    return start, min(max(seconds_to_samples(span.end) // HOP, start + 1), frames)
