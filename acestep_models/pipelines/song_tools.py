"""Cut, loop and join finished songs, as sound, as latents, or as both in step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from ..audio.arrange import Curve, Fade, Part, arrange, join
from ..audio.stereo import to_rate, to_stereo
from ..spans import Span, merge
from ..units import FRAME_RATE, SAMPLE_RATE, seconds_to_samples

MAX_RESULT_SECONDS = 3_600.0
MIN_TIMES, MAX_TIMES = 2, 64


@dataclass(frozen=True)
class Seam:
    """How two parts meet: a crossfade of `seconds`, of sound along a curve.

    Latents are always joined linearly: weights whose sum is above 1 would be another song in between, not a louder
    one.
    """

    seconds: float = 0.02
    curve: Curve = "linear"

    def __post_init__(self) -> None:
        if not 0.0 <= self.seconds < math.inf:
            raise ValueError(f"crossfade: expected 0 seconds or more, got {self.seconds:g}")

    def fade(self, places_a_second: int) -> Fade:
        """The crossfade in whole samples, or frames of latents."""
        return Fade(math.floor(self.seconds * places_a_second + 0.5), self.curve)

    def made(self, song: Recording) -> float:
        """Seconds that the crossfade takes on the grid of a song; latents have frames of 0.04 s."""
        return self.fade(song.places_a_second).places / song.places_a_second


@dataclass(frozen=True, eq=False)
class Recording:
    """A finished song, as sound, as latents or as both.

    Attributes:
        wave: [B, C, N] at `rate` Hz, or None.
        latents: [B, 64, T] at 25 Hz, or None. With them everything happens on their grid of 40 ms, so that sound
            and latents stay the same song; without, it happens to the sample.

    Raises:
        ValueError: for neither of both, or sound and latents that are not of one length.
    """

    wave: Tensor | None = None
    rate: int = SAMPLE_RATE
    latents: Tensor | None = None

    def __post_init__(self) -> None:
        if self.wave is None and self.latents is None:
            raise ValueError(
                "audio, latent: expected at least one of both; connect the song as sound, as latents or both"
            )
        if self.wave is None or self.latents is None:
            return
        frames, heard = self.latents.shape[-1], self.wave.shape[-1] * FRAME_RATE / self.rate
        if abs(heard - frames) >= 1.0:
            raise ValueError(
                f"latent: {frames} frames are {frames / FRAME_RATE:g} s, the audio has {heard / FRAME_RATE:g} s; "
                "connect a latent and the sound that was decoded of it, or only one of them"
            )

    @property
    def places(self) -> int:
        """Its length in frames of the grid, without latents in samples."""
        if self.wave is None or self.latents is None:
            return _values(self).shape[-1]
        return min(self.latents.shape[-1], self.wave.shape[-1] * FRAME_RATE // self.rate)

    @property
    def places_a_second(self) -> int:
        """How fine it can be cut."""
        return self.rate if self.latents is None else FRAME_RATE

    @property
    def seconds(self) -> float:
        """Its length; of a pair, in whole frames."""
        return self.places / self.places_a_second

    @property
    def tail(self) -> float:
        """Seconds of a pair's sound behind its last place; 0 for sound or latents alone."""
        if self.wave is None or self.latents is None:
            return 0.0
        return (self.wave.shape[-1] - self.samples(self.places)) / self.rate

    def reaches_end(self, span: Span) -> bool:
        """Whether a span takes the last place."""
        return math.floor(span.end * self.places_a_second + 0.5) >= self.places

    def samples(self, place: int) -> int:
        """The sample that a place stands for."""
        return math.floor(place * self.rate / self.places_a_second + 0.5)


def _values(song: Recording) -> Tensor:
    values = song.wave if song.latents is None else song.latents
    assert values is not None  # __post_init__
    return values


def cut(song: Recording, spans: tuple[Span, ...], keep: bool = True, seam: Seam = Seam()) -> Recording:
    """The spans in the order written, or with `keep` False what is left without them; exactly that long.

    Raises:
        ValueError: for no span, one that is not within the song, nothing left, or a result over an hour.
    """
    ordered = spans if keep else merge(spans)
    parts = tuple(_part(song, span) for span in ordered)
    if not parts:
        raise ValueError("spans: expected at least one span")
    return _arranged(song, parts if keep else _rest(parts, song), seam)


def loop(song: Recording, span: Span, times: int, seam: Seam = Seam()) -> Recording:
    """The span `times` times, in time.

    Raises:
        ValueError: for a span that is not within the song, less than 2 or more than 64 times, or over an hour.
    """
    if not MIN_TIMES <= times <= MAX_TIMES:
        raise ValueError(f"times: expected {MIN_TIMES} to {MAX_TIMES}, got {times}")
    return _arranged(song, (_part(song, span),) * times, seam)


def _part(song: Recording, span: Span) -> Part:
    """The places of a span; a place beside the song is forgiven, for rounding."""
    first, last = (_place(song, second) for second in (span.start, span.end))
    where = f"spans: {span.start:g} to {span.end:g} s"
    if first < -1 or last > song.places + 1:
        raise ValueError(
            f'{where} is not within the song, which goes from 0 to {song.seconds:g} s; write "end" for its end'
        )
    part = max(first, 0), min(last, song.places)
    if part[0] >= part[1]:
        least = 1.0 / song.places_a_second
        raise ValueError(f"{where} is shorter than the {least:g} s that can be cut here; make it longer")
    return part


def _place(song: Recording, seconds: float) -> int:
    """The sample that every node takes; of latents the nearest frame, for a bar that begins 30 ms late is heard."""
    if song.latents is None:
        return seconds_to_samples(seconds, song.rate)
    return math.floor(seconds * FRAME_RATE + 0.5)


def _rest(parts: tuple[Part, ...], song: Recording) -> tuple[Part, ...]:
    """What is left of a song without sorted parts."""
    edges = [0, *(place for part in parts for place in part), song.places]
    left = tuple((start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end)
    if not left:
        raise ValueError(f"spans: they cover the whole song of {song.seconds:g} s, so nothing would be left")
    return left


def _arranged(song: Recording, parts: tuple[Part, ...], seam: Seam) -> Recording:
    seconds = sum(end - start for start, end in parts) / song.places_a_second
    if seconds > MAX_RESULT_SECONDS:
        raise ValueError(
            f"spans: the result would have {seconds:g} s, at most {MAX_RESULT_SECONDS:g} s are made; take less of it"
        )
    fade = seam.fade(song.places_a_second)
    sounded = tuple((song.samples(start), song.samples(end)) for start, end in parts)
    wave, latents = song.wave, song.latents
    if wave is not None:
        wave = arrange(wave, sounded, Fade(song.samples(fade.places), fade.curve))
    if latents is not None:  # faded to zeros they would not be silent
        latents = arrange(latents, parts, Fade(fade.places), dip=False)
    return Recording(wave, song.rate, latents)


def join_songs(first: Recording, second: Recording, seam: Seam = Seam()) -> Recording:
    """`second` behind `first`; they overlap for the crossfade, and the result is shorter by it.

    Sound of different rates or channels becomes 48 kHz stereo. One song goes with each of a batch.

    Raises:
        ValueError: when one has what the other lacks, for batches of different sizes, or when crossfade or result are
            too long.
    """
    for name, one, two in (("audio", first.wave, second.wave), ("latent", first.latents, second.latents)):
        _check_both(name, one, two)
    first, second = _alike(_trimmed(first), _trimmed(second))
    if first.seconds + second.seconds > MAX_RESULT_SECONDS + seam.seconds:
        raise ValueError(f"audio_1, audio_2: together over {MAX_RESULT_SECONDS:g} s; cut one of them first")
    fade = seam.fade(first.places_a_second)
    if fade.places > min(first.places, second.places):
        raise ValueError(
            f"crossfade: {seam.seconds:g} s is longer than one of the songs, which have {first.seconds:g} and "
            f"{second.seconds:g} s; make it shorter"
        )
    wave, latents = None, None
    if first.wave is not None and second.wave is not None:
        wave = join(*_batched(first.wave, second.wave), Fade(first.samples(fade.places), fade.curve))
    if first.latents is not None and second.latents is not None:
        latents = join(*_batched(first.latents, second.latents), Fade(fade.places))
    return Recording(wave, first.rate, latents)


def _check_both(name: str, one: Tensor | None, two: Tensor | None) -> None:
    if (one is None) != (two is None):
        there, missing = (1, 2) if two is None else (2, 1)
        raise ValueError(
            f"{name}_{missing}: expected, because {name}_{there} is connected; connect it too, or neither of them"
        )
    if one is not None and two is not None and len(one) != len(two) and 1 not in (len(one), len(two)):
        raise ValueError(
            f"{name}_1, {name}_2: expected batches of one size, or one song; got {len(one)} and {len(two)}"
        )


def _trimmed(song: Recording) -> Recording:
    """The sound of a pair without what no whole frame holds, or what comes behind would be out of step."""
    if song.wave is None or song.latents is None:
        return song
    places = song.places
    return replace(song, wave=song.wave[..., : song.samples(places)], latents=song.latents[..., :places])


def _alike(first: Recording, second: Recording) -> tuple[Recording, Recording]:
    """Both sounds at one rate with the same channels."""
    if first.wave is None or second.wave is None:
        return first, second
    if (first.rate, first.wave.shape[1]) == (second.rate, second.wave.shape[1]):
        return first, second
    return _standard(first, first.wave), _standard(second, second.wave)


def _standard(song: Recording, wave: Tensor) -> Recording:
    """The song with its sound at 48 kHz in stereo; a pair's exactly as long as its latents."""
    made = to_rate(to_stereo(wave), song.rate)
    if song.latents is not None:
        made = made[..., : song.latents.shape[-1] * SAMPLE_RATE // FRAME_RATE]
    return replace(song, wave=made, rate=SAMPLE_RATE)


def _batched(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    songs = max(len(first), len(second))
    return first.expand(songs, -1, -1), second.expand(songs, -1, -1)
