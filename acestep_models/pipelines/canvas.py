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
from ..units import FRAME_RATE, HOP, MAX_SECONDS, SAMPLE_RATE, frames_to_samples, frames_to_seconds, seconds_to_samples
from .listen import Source

SampleSpan = tuple[int, int]  # the first sample at 48 kHz, and one past the last


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
            ValueError: for a fade below 0, or one that takes all that the spans leave of the source.
        """
        splice = Splice(self.source.waveform, self.samples, seconds_to_samples(fade_seconds), self.frames, self.song)
        heard = frames_to_seconds(self.frames)  # samples behind it are less than a frame: nothing to call kept
        if not any(start < heard for start, _ in splice.kept):
            left = (self.total - sum(last - first for first, last in self.samples)) / SAMPLE_RATE
            raise ValueError(
                f"crossfade: what is new leaves {left:g} s of the source, and {fade_seconds:g} s of crossfade at each "
                "edge mix all of it, so 0 s would be kept; make crossfade shorter, or less of it new"
            )
        return splice


def lay_out(source: Source, spans: Sequence[Span]) -> Canvas:
    """Room for `spans` of the source, in seconds; those before 0 make it begin later, those past its end longer.

    An intro is rounded to whole latent frames of 0.04 s, at least one, so that the source's own latents stay as they
    are behind it. What lies past the end is exact to the sample: a result that ends with something new has the latent
    frames for all of it, and decoded sound past its end is cut off. One that ends with the source keeps the source's
    frames; its last samples that fill no frame stay too. A gap of less than a frame before a span at the end is
    closed, for a sound that is called 60 s may have a little less.

    Other than spec/audio.md §5.3: what is padded are the latents (with zeros, in the spans) and not the sound before it
    is encoded; the intro is whole frames; seconds become samples by `seconds_to_samples` and not by int(); a last frame
    that is only begun is there, where §5.3 has whole ones; and a span without length or place is an error, where
    upstream makes everything anew.

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
    """Samples of the result; at least one, and those of an intro up to the source without a hole."""
    first, last = (left + seconds_to_samples(seconds) for seconds in (span.start, span.end))
    if span.start < 0:
        first, last = 0, max(last, left)
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
    return Source(_pad(source.latents, offset, behind), _pad(source.waveform, left, total - left - source.samples))


def _pad(values: Tensor, before: int, behind: int) -> Tensor:
    """Zeros around the last dimension; the same tensor, not a copy, where there are none."""
    return F.pad(values, (before, behind)) if before or behind else values


def _hash(source: Source, places: Sequence[SampleSpan], total: int) -> str:
    digest = hashlib.sha256(source.waveform.contiguous().numpy().data)
    digest.update(repr((tuple(places), total)).encode())
    return digest.hexdigest()[:16]
