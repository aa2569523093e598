"""The sound that the workflow understand_audio listens to."""

from __future__ import annotations

import array
import math
import wave
from pathlib import Path

SOUND, SECONDS, RATE = "song.wav", 10.1, 48_000


def write_sound(folder: Path) -> Path:
    """song.wav in a folder: two tones over a slow pulse, 48 kHz stereo, 16 bit."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = array.array("h")
    for number in range(round(SECONDS * RATE)):
        t = number / RATE
        pulse = 0.3 + 0.2 * math.sin(2 * math.pi * 2 * t)
        samples.extend(round(32767 * pulse * math.sin(2 * math.pi * pitch * t)) for pitch in (220.0, 277.2))
    with wave.open(str(folder / SOUND), "wb") as file:
        file.setparams((2, 2, RATE, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    return folder / SOUND
