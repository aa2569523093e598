"""Sound files as tensors, by PyAV, which ComfyUI brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...audio.stereo import DOWNMIX
from ...blueprint import Blueprint
from ...pipelines.listen import MIN_SOURCE_SECONDS, SILENT
from .clip import Clip
from .wav import promised_bytes

__all__ = ["SUFFIXES", "Heard", "Tick", "clip_sound", "hear", "lengths", "read_sound", "sound_clips"]

SUFFIXES = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a")
Tick = Callable[[], None]
_MOST_SAMPLES = 2**31  # of all channels: 8 GiB of numbers, over two hours of stereo
_FEW, _SHARE = 2, 0.02  # packets without sound that a good file may have
_WHOLE = 0.95  # of the length that a file says, what must be there
_MOST_CHANNELS = max(DOWNMIX)  # 7.1
_LOUDEST = 8.0  # times full scale (+18 dB): beyond it the numbers are most likely no sound of -1 to 1


@dataclass(frozen=True)
class Heard:
    """How long a sound plays, in seconds, and its largest sample; 1.0 is full scale."""

    seconds: float
    peak: float


def read_sound(path: Path, tick: Tick | None = None) -> tuple[Tensor, int]:
    """The sound [C, N] of a file in float32, and its sample rate in Hz, nothing resampled.

    `tick` is called now and then; what it raises ends the reading.

    Raises:
        ValueError: for a file that holds no sound, is broken, has more than 8 channels, or holds numbers that are not
            finite.
    """
    blocks = list(_blocks(path, tick))
    return torch.from_numpy(np.concatenate([block for block, _ in blocks], axis=1)), blocks[0][1]


def hear(path: Path, tick: Tick | None = None) -> Heard:
    """A file decoded whole, but not kept: a broken one is found out.

    Raises:
        ValueError: as `read_sound`.
    """
    heard = [(int(block.shape[1]), float(np.abs(block).max(initial=0)), rate) for block, rate in _blocks(path, tick)]
    return Heard(sum(samples for samples, _, _ in heard) / heard[0][2], max(peak for _, peak, _ in heard))


def clip_sound(clip: Clip, tick: Tick | None = None) -> tuple[Tensor, int]:
    """The sound [C, N] of a clip in float32, and its sample rate in Hz.

    Raises:
        ValueError: for a clip of which there is no sound, or whose file cannot be read.
    """
    if clip.sound is not None:
        return clip.sound
    if clip.path is None:
        raise ValueError(f"{clip.name}: only its tensors are there, and no sound; take the sound file it was made of")
    return read_sound(clip.path, tick)


def _blocks(path: Path, tick: Tick | None) -> Iterator[tuple[np.ndarray[Any, Any], int]]:
    """The sound piece by piece, each [C, n] in float32 with its rate.

    PyAV's errors are of many kinds, some of them the system's own, so that one place gives them their words.
    """
    av = _av()
    heard = 0
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise ValueError("there is no sound in it")
            for block, rate in _decoded(av, container):
                if tick is not None:
                    tick()
                heard += block.size
                _check(block, heard)
                yield block, rate
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path.name}: cannot be read as sound ({reason})") from error
    if not heard:
        raise ValueError(f"{path.name}: cannot be read as sound (there is not one sample in it)")


def _check(block: np.ndarray[Any, Any], heard: int) -> None:
    if not np.isfinite(block).all():
        raise ValueError("it holds numbers that are not finite")
    if heard > _MOST_SAMPLES:
        raise ValueError(f"more than {_MOST_SAMPLES} samples; cut it")


def _decoded(av: Any, container: Any) -> Iterator[tuple[np.ndarray[Any, Any], int]]:
    """Frames [C, n] in float32 of the rate and channels they come with.

    The resampler gives them with their channels side by side: PyAV has room for few planes, and of a sound with 8 and
    more channels it reads memory that is not its own.

    Players pass over a packet that is no sound, and so does this: tags at the end of an MP3, and the second header of
    two that were joined, look like that. Many of them are damage.
    """
    to_float = av.AudioResampler(format="flt")
    stream = container.streams.audio[0]
    packets = lost = samples = 0
    for packet in container.demux(stream):
        packets += 1
        try:
            frames = _mixable(packet.decode())
        except av.error.InvalidDataError:
            lost += 1
            continue
        samples += sum(frame.samples for frame in frames)
        for piece in (piece for frame in frames for piece in to_float.resample(frame)):
            yield _planar(piece), piece.sample_rate
    for piece in to_float.resample(None):
        yield _planar(piece), piece.sample_rate
    if lost > max(_FEW, packets * _SHARE):
        raise ValueError(f"{lost} of its {packets} packets are damaged")
    _check_length(container, stream, samples)


def _mixable(frames: list[Any]) -> list[Any]:
    """The frames, if each has no more channels than can be mixed down."""
    for frame in frames:
        if frame.layout.nb_channels > _MOST_CHANNELS:
            raise ValueError(f"{frame.layout.nb_channels} channels, at most {_MOST_CHANNELS} (7.1); mix it to stereo")
    return frames


def _planar(piece: Any) -> np.ndarray[Any, Any]:
    """A frame of float32, channels side by side, as [C, n]."""
    packed: np.ndarray[Any, Any] = piece.to_ndarray()  # [1, n * C]
    planar: np.ndarray[Any, Any] = packed.reshape(piece.samples, piece.layout.nb_channels).T
    return planar


def _check_length(container: Any, stream: Any, samples: int) -> None:
    """What the file says of its length; of an MP3 that may be a guess from its size."""
    if stream.duration is None or container.format.name == "mp3":
        return
    heard, told = samples / stream.rate, float(stream.duration * stream.time_base)
    if heard < _WHOLE * told:
        raise ValueError(f"{heard:.1f} s can be read of the {told:.1f} s that it says")


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ValueError("sound files are read with PyAV, which is missing here: pip install av") from error
    return av


def lengths(files: Mapping[str, Path], tick: Tick | None = None) -> tuple[dict[str, float], tuple[str, ...]]:
    """Name -> seconds of those files that can be trained on; a note on each other one, and on odd ones."""
    found: dict[str, float] = {}
    notes: list[str] = []
    for name, path in files.items():
        try:
            heard = hear(path, tick)
        except ValueError as error:
            notes.append(f"left out: {name}: {str(error).removeprefix(f'{path.name}: ')}")
            continue
        if useless := _useless(heard):
            notes.append(f"left out: {name}: {useless}")
            continue
        found[name] = heard.seconds
        notes += [f"{name}: {odd}" for odd in (_loud(heard), _cut(path)) if odd]
    return found, tuple(notes)


def _useless(heard: Heard) -> str:
    """Why nothing can be learned of it, "" where it can."""
    if heard.seconds < MIN_SOURCE_SECONDS:
        return f"{heard.seconds:g} s, expected at least {MIN_SOURCE_SECONDS:g} s"
    return f"{heard.seconds:g} s of silence" if heard.peak < SILENT else ""


def _loud(heard: Heard) -> str:
    if heard.peak <= _LOUDEST:
        return ""
    return f"its samples reach {heard.peak:.4g} times full scale; listen to it, and turn it down if it is sound at all"


def _cut(path: Path) -> str:
    told, there = promised_bytes(path)
    if there >= _WHOLE * told:
        return ""
    return f"its header promises {told} bytes of sound, {there} are there; the file may be cut off"


def sound_clips(sounds: Tensor, rate: int, name: str = "sound") -> tuple[tuple[Clip, ...], tuple[str, ...]]:
    """A clip for each sound of a batch [B, C, N] at `rate` Hz that was handed over in memory; and notes, as `lengths`.

    Raises:
        ValueError: for sounds that are too short or have too many channels, and where all of them are silent.
    """
    channels, seconds = sounds.shape[1], sounds.shape[-1] / rate
    if channels > _MOST_CHANNELS:
        raise ValueError(f"audio: expected at most {_MOST_CHANNELS} channels (7.1), got {channels}; mix it to stereo")
    if seconds < MIN_SOURCE_SECONDS:
        raise ValueError(f"audio: expected at least {MIN_SOURCE_SECONDS:g} s, got {seconds:g} s")
    clips, notes = [], []
    for number, sound in enumerate(sounds, 1):
        heard = Heard(seconds, float(sound.abs().max()))
        if useless := _useless(heard):
            notes.append(f"left out: {name} {number}: {useless}")
            continue
        read = ("a sound from the graph",)
        clips.append(Clip(f"{name} {number}", Blueprint(), sound=(sound, rate), seconds=seconds, read=read))
        notes += [f"{name} {number}: {loud}" for loud in (_loud(heard),) if loud]
    if not clips:
        raise ValueError(f"audio: {seconds:g} s of silence; there is nothing to hear in it, connect another sound")
    return tuple(clips), tuple(notes)
