"""A song again in another sound: its melody and structure stay, caption and lyrics are new."""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime import Runtime
from .encode import ConditionerModels
from .generate import Decoder, Song, Take, perform
from .listen import Source
from .task import Work


@dataclass(frozen=True)
class CoverSettings:
    """How closely a cover follows its source.

    Attributes:
        strength: share of the steps that hear the source, 0 to 1; the rest are text to music (spec/audio.md §5.5).
        start_noise: how much of the source the start holds, 0 (none of it) to 1 (spec/audio.md §5.6).
        faithful: hear the source itself instead of what its codes sound like.

    Raises:
        ValueError: for a number out of its range.
    """

    strength: float = 1.0
    start_noise: float = 0.0
    faithful: bool = False

    def __post_init__(self) -> None:
        for name, value in (("strength", self.strength), ("start_noise", self.start_noise)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name}: expected 0 to 1, got {value:g}")


def cover(
    runtime: Runtime,
    decoder: Decoder,
    conditioner: ConditionerModels,
    take: Take,
    source: Source,
    settings: CoverSettings = CoverSettings(),
) -> Song:
    """Songs as long as `source` that follow it.

    Raises:
        ValueError: for a take that cannot be sampled.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    return perform(runtime, decoder, conditioner, take, cover_work(source, settings))


def cover_work(source: Source, settings: CoverSettings) -> Work:
    """The row of TASKS for a cover, and its values."""
    task = "cover-faithful" if settings.faithful else "cover"
    return Work(task, source, strength=settings.strength, start_noise=settings.start_noise)
