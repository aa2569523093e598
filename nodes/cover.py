"""Cover: another performance of a song."""

from __future__ import annotations

import math
from typing import Any

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.cover import CoverSettings, cover
from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.pipelines.generate import Take
from ..acestep_models.pipelines.listen import Source
from ..acestep_models.pipelines.reference import Reference
from ..acestep_models.sampling.schedule import SamplingOptions as Options
from ..acestep_models.sampling.schedule import count_steps
from .host.decoder import HostDecoder
from .host.latents import latent
from .host.runtime import HostRuntime
from .host.schema import io, out, report, schema, socket
from .sample import describe_song, timbre_line
from .widgets import (
    blueprint_input,
    conditioner_input,
    decimal,
    model_input,
    reference_input,
    sampling_input,
    seed_input,
    source_input,
)
from .work import source_line

PART = (0.0, 1.0, 0.01)


class Cover(io.ComfyNode):
    """Node "ACEStepCover"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What DiTSample takes, and a song to follow."""
        return schema(
            node_id="ACEStepCover",
            display_name="ACE-Step 1.5 Cover",
            description="Another performance of a song: melody, rhythm and structure of the source, with the style and "
            "the lyrics of the blueprint. As long as the source, in whole latent frames of 40 ms.",
            search_aliases=["remix", "style transfer", "audio to audio", "cover song", "img2img audio"],
            inputs=[
                model_input(),
                conditioner_input(),
                blueprint_input(),
                source_input("The song to follow, from EncodeSource. Its length is the cover's."),
                seed_input(),
                decimal(
                    "strength",
                    1.0,
                    PART,
                    "For how many of the steps that start_noise leaves the source is followed, rounded down; after "
                    "them only the blueprint is. 1: all, 0.5: the first half, 0: none.",
                ),
                decimal(
                    "start_noise",
                    0.0,
                    PART,
                    "How much of the source's own sound is left at the start, moved to the nearest time that a step "
                    "begins at: few steps are coarse (8 with shift 3: 0, 0.05, 0.1, 0.17, 0.25, 0.36, 0.5 or 0.7). "
                    "0: nothing, it starts from noise; 0.3 to 0.5 keeps its sound in parts.",
                ),
                socket(
                    io.Boolean,
                    "faithful",
                    default=False,
                    tooltip="Off: follows the source's audio codes, which hold melody and structure but not the sound. "
                    "On: follows its latents themselves, much closer to the original.",
                ),
                reference_input(),
                sampling_input(),
            ],
            outputs=[out(io.Latent, "latent", "The cover as latents, 25 frames a second, for DecodeAudio.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        conditioner: ConditionerModels,
        blueprint: tuple[Blueprint, ...],
        source: Source,
        seed: int,
        strength: float,
        start_noise: float,
        faithful: bool,
        reference: Reference | None = None,
        sampling: Options | None = None,
    ) -> io.NodeOutput:
        """Follow the source, and say how far."""
        settings = CoverSettings(strength, start_noise, faithful)
        take = Take(blueprint, sampling or Options(), seed, reference=reference)
        song = cover(HostRuntime(), HostDecoder(model, seed), conditioner, take, source, settings)
        told = (source_line(source), *_followed(settings, song.meta.schedule.steps))
        text = (*told, *describe_song(song.meta), timbre_line(reference))
        return io.NodeOutput(latent(song.latents, acestep=song.meta), ui=report(*text))


def _followed(settings: CoverSettings, steps: int) -> tuple[str, str]:
    """How many of the steps follow the source, and a warning if none does."""
    what = "its latents" if settings.faithful else "its audio codes"
    count = int(steps * settings.strength)
    least = math.ceil(100 / steps) / 100
    none = f"warning: no step follows the source; with {count_steps(steps)} strength must be {least:g} or more"
    text = f"follows {what} in {count} of {count_steps(steps)} (strength {settings.strength:g})"
    return text, "" if count else none
