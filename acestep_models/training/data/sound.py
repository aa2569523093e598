"""Sound files as tensors, by PyAV, which ComfyUI brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...blueprint import Blueprint
from ...pipelines.listen import MIN_SOURCE_SECONDS
from .clip import Clip

__all__ = ["SUFFIXES", "Tick", "clip_sound", "length_of", "lengths", "read_sound", "sound_clips"]

SUFFIXES = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a")
Tick = Callable[[], None]
_MOST_SAMPLES = 2**31  # of all channels: 8 GiB of numbers, over two hours of stereo
_FEW, _SHARE = 2, 0.02  # packets without sound that a good file may have
_WHOLE = 0.95  # of the length that a file says, what must be there


def read_sound(path: Path, tick: Tick | None = None) -> tuple[Tensor, int]:
    """The sound [C, N] of a file in float32, and its sample rate in Hz, nothing resampled.

    `tick` is called now and then; what it raises ends the reading.

    Raises:
        ValueError: for a file that holds no sound, is broken, or holds numbers that are not finite.
    """
    blocks = list(_blocks(path, tick))
    return torch.from_numpy(np.concatenate([block for block, _ in blocks], axis=1)), blocks[0][1]


def length_of(path: Path, tick: Tick | None = None) -> float:
    """Seconds of a file, decoded whole but not kept: a broken one is found out.

    Raises:
        ValueError: as `read_sound`.
    """
    heard = [(int(block.shape[1]), rate) for block, rate in _blocks(path, tick)]
    return sum(samples for samples, _ in heard) / heard[0][1]


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
    """Frames as planar float32 of the rate and channels they come with.

    Players pass over a packet that is no sound, and so does this: tags at the end of an MP3, and the second header of
    two that were joined, look like that. Many of them are damage.
    """
    to_float = av.AudioResampler(format="fltp")
    stream = container.streams.audio[0]
    packets = lost = samples = 0
    for packet in container.demux(stream):
        packets += 1
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            lost += 1
            continue
        samples += sum(frame.samples for frame in frames)
        for piece in (piece for frame in frames for piece in to_float.resample(frame)):
            yield piece.to_ndarray(), piece.sample_rate
    for piece in to_float.resample(None):
        yield piece.to_ndarray(), piece.sample_rate
    if lost > max(_FEW, packets * _SHARE):
        raise ValueError(f"{lost} of its {packets} packets are damaged")
    _check_length(container, stream, samples)


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
    """Name -> seconds of those files that can be read and are long enough; and a note on each other one."""
    found: dict[str, float] = {}
    notes = []
    for name, path in files.items():
        try:
            seconds = length_of(path, tick)
        except ValueError as error:
            notes.append(f"left out: {name}: {str(error).removeprefix(f'{path.name}: ')}")
            continue
        if seconds < MIN_SOURCE_SECONDS:
            notes.append(f"left out: {name}: {seconds:g} s, expected at least {MIN_SOURCE_SECONDS:g} s")
        else:
            found[name] = seconds
    return found, tuple(notes)


def sound_clips(sounds: Tensor, rate: int, name: str = "sound") -> tuple[Clip, ...]:
    """A clip for each sound of a batch [B, C, N] at `rate` Hz that was handed over in memory.

    Raises:
        ValueError: for sounds that are too short.
    """
    seconds = sounds.shape[-1] / rate
    if seconds < MIN_SOURCE_SECONDS:
        raise ValueError(f"audio: expected at least {MIN_SOURCE_SECONDS:g} s, got {seconds:g} s")
    return tuple(
        Clip(f"{name} {number}", Blueprint(), sound=(sound, rate), seconds=seconds, read=("a sound from the graph",))
        for number, sound in enumerate(sounds, 1)
    )
