"""Songs to one loudness, under a ceiling, faded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..audio.fades import fade
from ..audio.loudness import Levels, LevelSettings, levels, normalise
from ..errors import check_finite
from ..runtime import Runtime

STAGES = 3
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Levelled:
    """Waveforms [B, C, N], and what each measured before and after."""

    wave: Tensor
    before: tuple[Levels, ...]
    after: tuple[Levels, ...]


def level(runtime: Runtime, wave: Tensor, sample_rate: int, settings: LevelSettings) -> Levelled:
    """Bring songs [B, C, N] to `settings`, one by one; silence stays silence.

    Raises:
        ACEStepError: for sound with values that are not finite.
    """
    check_finite("Loudness (the sound that came in)", wave)
    songs, before, after = [], [], []
    for index, song in enumerate(wave):
        stages = _Stages(runtime, STAGES * index, STAGES * len(wave))
        before.append(stages.done(levels(song, sample_rate)))
        songs.append(stages.done(_shape(song, sample_rate, settings)))
        after.append(stages.done(levels(songs[-1], sample_rate)))
    return Levelled(check_finite("Loudness", torch.stack(songs)), tuple(before), tuple(after))


class _Stages:
    """Reports each finished stage, and hears the cancel button after it."""

    def __init__(self, runtime: Runtime, finished: int, total: int) -> None:
        self._runtime, self._finished, self._total = runtime, finished, total

    def done(self, result: T) -> T:
        self._finished += 1
        self._runtime.progress(self._finished, self._total)
        self._runtime.check_cancelled()
        return result


def _shape(song: Tensor, sample_rate: int, settings: LevelSettings) -> Tensor:
    loud = normalise(song, sample_rate, settings.target_lufs, settings.ceiling_db)
    return fade(loud, sample_rate, settings.fade_in, settings.fade_out)
