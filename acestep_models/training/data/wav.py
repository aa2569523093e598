"""Sounds of the graph as files: WAV of float32, which holds them bit by bit."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from .clip import Clip, Dataset

__all__ = ["promised_bytes", "sound_name", "with_files", "write_wav"]

_FLOAT, _HEADER = 3, 58  # WAVE_FORMAT_IEEE_FLOAT, and the bytes before its samples
_MOST_BYTES = 2**32 - _HEADER
_UNKNOWN = (0, 2**32 - 1)  # sizes of one who wrote without knowing the end


def write_wav(path: Path, sound: Tensor, rate: int) -> None:
    """Write a sound [C, N] in float32 at `rate` Hz to a new file.

    Raises:
        ValueError: for more than 4 GiB, which no WAV holds.
        OSError: where it cannot be written.
    """
    channels, samples = sound.shape
    size = 4 * channels * samples
    if size > _MOST_BYTES:
        raise ValueError(f"{path.name}: {size} bytes of sound, a WAV holds {_MOST_BYTES}; cut it")
    kind = struct.pack("<HHIIHHH", _FLOAT, channels, rate, 4 * channels * rate, 4 * channels, 32, 0)
    head = b"WAVE" + _chunk(b"fmt ", kind) + _chunk(b"fact", struct.pack("<I", samples))
    head += b"data" + struct.pack("<I", size)
    with path.open("xb") as file:
        file.write(b"RIFF" + struct.pack("<I", len(head) + size) + head)
        file.write(sound.float().cpu().T.contiguous().numpy().astype("<f4", copy=False).tobytes())
        file.flush()
        os.fsync(file.fileno())


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def with_files(dataset: Dataset, folder: Path) -> Dataset:
    """The dataset where each sound that was handed over in memory lies in a WAV file of a folder, which is made.

    Raises:
        ValueError, OSError: as `write_wav`.
    """
    clips = tuple(_with_file(clip, folder, number) for number, clip in enumerate(dataset.clips, 1))
    return replace(dataset, clips=clips)


def _with_file(clip: Clip, folder: Path, number: int) -> Clip:
    if clip.path is not None or clip.sound is None:
        return clip
    folder.mkdir(exist_ok=True)
    path = folder / sound_name(number)
    write_wav(path, *clip.sound)
    return replace(clip, path=path, sound=None)


def sound_name(place: int) -> str:
    """The file of the clip at a place of its dataset, from 1."""
    return f"sound_{place:05}.wav"


def promised_bytes(path: Path) -> tuple[int, int]:
    """How many bytes of sound the header of a WAV file promises, and how many the file has room for.

    (0, 0) for a file of another kind, one without such a header, and one whose writer did not know.

    Raises:
        OSError: where it cannot be read.
    """
    end = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return 0, 0
        while len(chunk := file.read(8)) == 8:
            size = int(struct.unpack("<I", chunk[4:])[0])
            if chunk[:4] == b"data":
                return (0, 0) if size in _UNKNOWN else (size, min(size, end - file.tell()))
            file.seek(size + size % 2, os.SEEK_CUR)
    return 0, 0
