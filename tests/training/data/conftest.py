"""Folders of short sounds with texts beside them."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

SOUND_SECONDS = 1.2
BROKEN = b"RIFF no sound at all"


def write_sound(path: Path, seconds: float = SOUND_SECONDS, rate: int = 8_000) -> Path:
    """A 16 bit mono ramp."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(b"".join((k % 1000).to_bytes(2, "little") for k in range(round(seconds * rate))))
    return path


@pytest.fixture
def make(tmp_path):
    """make({"a.wav": None, "a.txt": "words"}) -> a folder; None is a sound, bytes are written as they are."""

    def build(files, root="set"):
        for name, content in files.items():
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                write_sound(path)
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / root

    return build
