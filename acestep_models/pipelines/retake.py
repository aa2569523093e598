"""The same song once more, a little or entirely different."""

from __future__ import annotations

from dataclasses import replace

from ..runtime import Runtime
from ..sampling.noise import Retake
from .encode import ConditionerModels
from .generate import Decoder, Song, Take, perform
from .task import Work


def retake(runtime: Runtime, decoder: Decoder, conditioner: ConditionerModels, take: Take, other: Retake) -> Song:
    """Text to music whose noise turns from the take's seed towards another one (spec/audio.md §5.7).

    Variance 0 is the song of the take's seed, 1 that of the other one. For other tasks `Take` has a retake.

    Raises:
        ValueError: for blueprints or options that cannot be sampled.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    return perform(runtime, decoder, conditioner, replace(take, retake=other), Work("text2music"))
