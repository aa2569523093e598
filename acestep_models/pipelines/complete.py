"""A whole song around one part of it: an accompaniment for a voice, voices for an instrumental."""

from __future__ import annotations

from ..runtime import Runtime
from ..tasks import TRACKS
from .encode import ConditionerModels
from .generate import Decoder, Song, Take, perform
from .listen import Source
from .task import Work

VOICES = ("backing_vocals", "vocals")
# What is put beside the source; () leaves the choice to the decoder.
COMPLETE_PRESETS: dict[str, tuple[str, ...]] = {
    "Vocal to song": tuple(track for track in TRACKS if track not in VOICES),
    "Vocals for an instrumental": VOICES,
    "Anything": (),
}


def complete(
    runtime: Runtime,
    decoder: Decoder,
    conditioner: ConditionerModels,
    take: Take,
    source: Source,
    tracks: tuple[str, ...] = (),
) -> Song:
    """The song that `source` is a part of, with these tracks beside it, or those of a row of COMPLETE_PRESETS.

    Raises:
        ValueError: for an unknown track or a variant that cannot do it.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    return perform(runtime, decoder, conditioner, take, Work("complete", source, tracks))
