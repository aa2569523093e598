"""The sound that workflows listen to, and the songs that train_lora learns."""

from __future__ import annotations

import array
import math
import wave
from collections.abc import Iterable
from pathlib import Path

SOUND, SECONDS, RATE = "song.wav", 10.1, 48_000
SONGS = {"boats.wav": (3.2, 220.0, 277.2), "river.wav": (4.0, 165.0, 247.5)}  # seconds and two tones each


def write_sound(folder: Path) -> Path:
    """song.wav in a folder, two tones over a slow pulse, and my_songs beside it."""
    _write_tones(folder / SOUND, SECONDS, (220.0, 277.2))
    write_songs(folder / "my_songs")
    return folder / SOUND


def write_songs(folder: Path) -> Path:
    """A folder to train on: two short songs, one with its lyrics beside it."""
    for name, (seconds, *tones) in SONGS.items():
        _write_tones(folder / name, seconds, tones)
    (folder / "boats.lyrics.txt").write_text("[Verse]\nPaper boats along the quay\n", encoding="utf-8")
    (folder / "boats.txt").write_text("slow folk, two flutes", encoding="utf-8")
    return folder


def _write_tones(file: Path, seconds: float, tones: Iterable[float]) -> None:
    """48 kHz stereo, 16 bit, a tone on each side."""
    file.parent.mkdir(parents=True, exist_ok=True)
    samples = array.array("h")
    for number in range(round(seconds * RATE)):
        t = number / RATE
        pulse = 0.3 + 0.2 * math.sin(2 * math.pi * 2 * t)
        samples.extend(round(32767 * pulse * math.sin(2 * math.pi * pitch * t)) for pitch in tones)
    with wave.open(str(file), "wb") as opened:
        opened.setparams((2, 2, RATE, 0, "NONE", ""))
        opened.writeframes(samples.tobytes())
