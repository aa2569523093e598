"""A source with room for what is new: before it, in it, and behind it (spec/audio.md §5.3)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from ..audio.splice import Splice, blended, ramps
from ..dit.context import FrameSpan
from ..spans import Span, check_reach, merge
from ..units import FRAME_RATE, HOP, MAX_SECONDS, SAMPLE_RATE, frames_to_samples, frames_to_seconds
from .listen import Source

SampleSpan = tuple[int, int]  # the first sample at 48 kHz, and one past the last
# Seconds that were once a product of bars or a decimal may stand a hair before their sample.
_HAIR = 1e-6


@dataclass(frozen=True, eq=False)
class Canvas:
    """A song that is partly there: what is kept of a source, and the spans where something new shall be.

    Attributes:
        source: the source at its place in the result; zeros where it has nothing, which is within the spans.
        spans: [start, end) in latent frames of the result, in order, at least one frame each, none touching another.
        samples: the same spans to the sample.
        total: samples of the result, exactly.
        offset_frames: latent frames before the source, for an intro.
        song: identity of source, spans and length, for the latents and the splice that belong together.
    """

    source: Source
    spans: tuple[FrameSpan, ...]
    samples: tuple[SampleSpan, ...]
    total: int
    offset_frames: int
    song: str

    @property
    def frames(self) -> int:
        """Latent frames of the result."""
        return self.source.latents.shape[-1]

    def splice(self, fade_seconds: float) -> Splice:
        """What puts the kept sound back around decoded latents of this canvas.

        Raises:
            ValueError: for a fade below 0.
        """
        fade = int(fade_seconds * SAMPLE_RATE + _HAIR)
        return Splice(self.source.waveform, self.samples, fade, self.frames, self.song)


def lay_out(source: Source, spans: Sequence[Span]) -> Canvas:
    """Room for `spans` of the source, in seconds; those before 0 make it begin later, those past its end longer.

    An intro is rounded to whole latent frames of 0.04 s, at least one, so that the source's own latents stay as they
    are behind it. What lies past the end is exact to the sample: a result that ends with something new has the latent
    frames for all of it, and decoded sound past its end is cut off. One that ends with the source keeps the source's
    frames; its last samples that fill no frame stay too. A gap of less than a frame before a span at the end is
    closed, for a sound that is called 60 s may have a little less.

    Raises:
        ValueError: for no span, spans that do not touch the source or leave nothing of it, or more than 600 s.
    """
    spans = _closed(spans, source.seconds)
    check_reach(spans, source.seconds)
    offset = _intro_frames(-min(span.start for span in spans))
    left = frames_to_samples(offset)
    places = tuple(_place(span, left) for span in spans)
    total = max(left + source.samples, places[-1][1])
    if total > MAX_SECONDS * SAMPLE_RATE:
        raise ValueError(
            f"spans: the song would be {total / SAMPLE_RATE:g} s long, and {MAX_SECONDS:g} s is the most; "
            "make less of it new, or cut the source"
        )
    stored = offset + source.latents.shape[-1]
    frames = _frames(stored, places, total)
    ends = [last for _, last in places]
    if frames > stored or ends[-1] >= total:
        ends[-1] = frames_to_samples(frames)
    framed = _frame_spans(tuple(zip((first for first, _ in places), ends, strict=True)), frames)
    return Canvas(_padded(source, offset, frames, total), framed, places, total, offset, _hash(source, places, total))


def blend(latents: Tensor, clean: Tensor, spans: Sequence[FrameSpan], frames: int) -> Tensor:
    """latents [B, 64, T] in the spans, clean [1, 64, T] outside of them, `frames` of crossfade there -> [B, 64, T].

    Outside of spans and crossfades it is `clean` bit for bit, without crossfades too, where upstream would leave what
    the decoder made of it (spec/audio.md §5.4): so another repaint of the result keeps the source's own latents.
    """
    return blended(latents, clean.to(latents), ramps(tuple(spans), latents.shape[-1], frames).to(latents))


def _closed(spans: Iterable[Span], seconds: float) -> tuple[Span, ...]:
    near = seconds + frames_to_seconds(1)
    return merge(replace(span, start=min(span.start, seconds)) if span.start < near else span for span in spans)


def _intro_frames(seconds: float) -> int:
    """Frames of that many seconds before the source, rounded to the nearest; none for none."""
    return max(1, math.floor(seconds * FRAME_RATE + 0.5)) if seconds * SAMPLE_RATE >= 1.0 else 0


def _place(span: Span, left: int) -> SampleSpan:
    """Samples of the result; at least one."""
    first, last = (left + math.floor(seconds * SAMPLE_RATE + _HAIR) for seconds in (span.start, span.end))
    first = 0 if span.start < 0 else first
    return first, max(last, first + 1)


def _frames(stored: int, places: Sequence[SampleSpan], total: int) -> int:
    """Frames of the result: those of the source, or all that are begun where its last samples are new."""
    whole = max(stored, total // HOP)
    return max(whole, -(-total // HOP)) if places[-1][1] >= frames_to_samples(whole) else whole


def _frame_spans(places: Sequence[SampleSpan], frames: int) -> tuple[FrameSpan, ...]:
    """Both edges rounded down and clamped (spec/audio.md §5.3); those that meet become one."""
    found: list[FrameSpan] = []
    for first, last in places:
        start = min(first // HOP, frames - 1)
        end = min(max(last // HOP, start + 1), frames)
        if found and start <= found[-1][1]:
            start = found.pop()[0]
        found.append((start, end))
    return tuple(found)


def _padded(source: Source, offset: int, frames: int, total: int) -> Source:
    left = frames_to_samples(offset)
    behind = frames - offset - source.latents.shape[-1]
    return Source(
        F.pad(source.latents, (offset, behind)), F.pad(source.waveform, (left, total - left - source.samples))
    )


def _hash(source: Source, places: Sequence[SampleSpan], total: int) -> str:
    digest = hashlib.sha256(source.waveform.contiguous().numpy().data)
    digest.update(repr((tuple(places), total)).encode())
    return digest.hexdigest()[:16]
