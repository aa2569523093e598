"""New spans in a kept sound: outside of them the source stays bit for bit (spec/audio.md §5.4, §7.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..units import AUDIO_CHANNELS, HOP, SAMPLE_RATE, frames_to_samples

Places = tuple[tuple[int, int], ...]


def ramps(spans: Places, total: int, fade: int) -> Tensor:
    """How much of the new there is at each of `total` places (frames or samples), float32 [total].

    1 inside the spans [start, end). The `fade` places before a span rise as linspace(0, 1, f + 2)[1:-1], f being
    the room there is before it, and those behind it fall as the mirror; 0 elsewhere. Where ramps and spans of
    several meet, the larger value holds.

    Raises:
        ValueError: for a span that is empty or not within [0, total].
    """
    mask = torch.zeros(total)
    for start, end in spans:
        if not 0 <= start < end <= total:
            raise ValueError(f"spans: expected places within 0 to {total}, the end after the start; got {start}, {end}")
        before, behind = min(fade, start), min(fade, total - end)
        shape = torch.cat([_rise(before), torch.ones(end - start), _rise(behind).flip(0)])
        part = mask[start - before : end + behind]
        torch.maximum(part, shape, out=part)
    return mask


def _rise(places: int) -> Tensor:
    return torch.linspace(0.0, 1.0, places + 2)[1:-1]


def reaches(spans: Places, total: int, fade: int) -> Places:
    """Where `ramps` is above 0: the spans with their fades, in order; those that overlap or touch as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        start, end = max(0, start - fade), min(end + fade, total)
        if found and start <= found[-1][1]:
            first, last = found.pop()
            start, end = first, max(last, end)
        found.append((start, end))
    return tuple(found)


def blended(new: Tensor, kept: Tensor, mask: Tensor) -> Tensor:
    """`new` where the mask is 1 and `kept` where it is 0, both bit for bit, and their mixture between.

    Never 0 · new + 1 · kept alone: that turns -0.0 into 0.0, and a NaN of one side spoils the other.
    """
    mixed = mask * new + (1.0 - mask) * kept
    return torch.where(mask == 0.0, kept, torch.where(mask == 1.0, new, mixed))


@dataclass(frozen=True, eq=False)
class Splice:
    """What of a decoded song is new, and the sound that stays around it.

    Attributes:
        waveform: [1, 2, M] at 48 kHz, the source at its place in the result, zeros where it has nothing.
        spans: [start, end) in samples of M that are new.
        fade: samples of crossfade outside of each span, fewer where there is less room.
        frames: latent frames of the song that this belongs to.
        song: identity of that song (Canvas.song).

    Raises:
        ValueError: for another shape, or spans where nothing will be decoded. M may be less than 1920 samples
            longer than the frames: the source's tail, which no whole frame holds, is then kept.
    """

    waveform: Tensor
    spans: Places
    fade: int
    frames: int
    song: str

    def __post_init__(self) -> None:
        shape = list(self.waveform.shape)
        if len(shape) != 3 or shape[:2] != [1, AUDIO_CHANNELS]:
            raise ValueError(f"splice: expected a waveform [1, {AUDIO_CHANNELS}, samples], got {shape}")
        if not self.spans or self.fade < 0 or self.frames < 1:
            raise ValueError(
                f"splice: expected spans, a fade from 0 on and frames from 1 on; got {len(self.spans)} spans, "
                f"fade {self.fade}, {self.frames} frames"
            )
        if shape[2] >= frames_to_samples(self.frames + 1):
            raise ValueError(
                f"splice: {self.frames} frames make {frames_to_samples(self.frames)} samples; the sound has {shape[2]}"
            )
        for start, end in self.spans:
            if not 0 <= start < end <= self._decoded:
                raise ValueError(
                    f"splice: expected spans within the {self._decoded} decoded samples; got {start} to {end}"
                )

    @property
    def samples(self) -> int:
        """Samples of the result, per channel."""
        return self.waveform.shape[2]

    @property
    def _decoded(self) -> int:
        """Samples of the result that the decoder makes; the rest is the source's tail."""
        return min(self.samples, frames_to_samples(self.frames))

    @property
    def kept(self) -> tuple[tuple[float, float], ...]:
        """Seconds of the result that are the source bit for bit, as [start, end)."""
        edges = [0, *(edge for reach in self._reaches for edge in reach), self.samples]
        pairs = zip(edges[::2], edges[1::2], strict=True)
        return tuple((start / SAMPLE_RATE, end / SAMPLE_RATE) for start, end in pairs if start < end)

    @property
    def heard_frames(self) -> Places:
        """[start, end) in latent frames whose sound `apply` reads; what is decoded of all others has no effect."""
        return tuple((start // HOP, -(-end // HOP)) for start, end in self._reaches)

    @property
    def _reaches(self) -> Places:
        return reaches(self.spans, self._decoded, self.fade)

    def apply(self, decoded: Tensor) -> Tensor:
        """`decoded` [B, 2, 1920 · frames] in the spans, the source around them: [B, 2, M] float32.

        Only spans and fades are computed with, so that what is new of a long song costs what it is long.

        Raises:
            ValueError: for a sound of other frames or channels than this belongs to.
        """
        expected = (AUDIO_CHANNELS, frames_to_samples(self.frames))
        if decoded.ndim != 3 or tuple(decoded.shape[1:]) != expected:
            raise ValueError(
                f"splice: belongs to a song of {self.frames} latent frames, that is a sound of shape [songs, "
                f"{expected[0]}, {expected[1]}]; got {list(decoded.shape)}. Connect the splice of the node that made "
                "this latent"
            )
        source = self.waveform.to(decoded.device, torch.float32)
        made = source.repeat(len(decoded), 1, 1)
        for first, last in self._reaches:
            inside = tuple((start - first, end - first) for start, end in self.spans if first <= start < last)
            mask = ramps(inside, last - first, self.fade).to(decoded.device)
            made[..., first:last] = blended(decoded[..., first:last].float(), source[..., first:last], mask)
        return made
