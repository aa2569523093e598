"""One more instrument for a song that is there already."""

from __future__ import annotations

from ..runtime import Runtime
from .encode import ConditionerModels
from .generate import Decoder, Song, Take, perform
from .listen import Source
from .task import Work


def add_track(
    runtime: Runtime,
    decoder: Decoder,
    conditioner: ConditionerModels,
    take: Take,
    source: Source,
    track: str,
    region: tuple[float, float] | None = None,
) -> Song:
    """`track` alone, made to fit the source: from region[0] to region[1] seconds, or all along.

    Raises:
        ValueError: for an unknown track, a region outside of the source, or a variant that cannot do it.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    return perform(runtime, decoder, conditioner, take, Work("lego", source, (track,), region))
