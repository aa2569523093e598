"""Morph: a song turned into what another text describes."""

from __future__ import annotations

from typing import Any

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.pipelines.generate import Take
from ..acestep_models.pipelines.listen import Source
from ..acestep_models.pipelines.morph import MAX_AVERAGING, STRUCTURES, MorphSettings, check_options, morph
from ..acestep_models.pipelines.reference import Reference
from ..acestep_models.sampling.schedule import SamplingOptions as Options
from .host.decoder import HostDecoder
from .host.latents import latent
from .host.runtime import HostRuntime
from .host.schema import io, out, report, schema, socket
from .sample import describe_song, timbre_line
from .types import Blueprint as BlueprintType
from .widgets import (
    answer,
    conditioner_input,
    decimal,
    model_input,
    or_else,
    reference_input,
    sampling_input,
    seed_input,
    source_input,
)
from .work import source_line

PART = (0.0, 1.0, 0.01)


class Morph(io.ComfyNode):
    """Node "ACEStepMorph"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A song, what it is, and what it shall be."""
        return schema(
            node_id="ACEStepMorph",
            display_name="ACE-Step 1.5 Morph",
            description="Turns a song into what another text describes, along the difference of both texts: what they "
            "share stays. As long as the source, in whole latent frames of 40 ms.",
            search_aliases=["flow edit", "flowedit", "edit", "change lyrics", "change style"],
            inputs=[
                model_input(),
                conditioner_input(),
                socket(
                    BlueprintType,
                    "blueprint",
                    tooltip="What it shall be. Where it says the same as source_blueprint, the song stays.",
                ),
                source_input(
                    "The song to turn, from EncodeSource, or from LatentSource for one that was just made. Its length "
                    "is the result's."
                ),
                socket(
                    BlueprintType,
                    "source_blueprint",
                    tooltip="What the source is now: its caption and lyrics. EditBlueprint makes the other one of it.",
                ),
                seed_input(),
                *_knobs(),
                reference_input(),
                sampling_input(),
            ],
            outputs=[out(io.Latent, "latent", "The turned song as latents, 25 frames a second, for DecodeAudio.")],
        )

    @classmethod
    def validate_inputs(
        cls, structure: Any = None, window_start: Any = None, window_end: Any = None, averaging: Any = None
    ) -> bool | str:
        """Complain of values out of range before anything runs; what is linked arrives as None."""
        values = (or_else(structure, "text"), or_else(window_start, 0.0), or_else(window_end, 1.0))
        return answer(lambda: MorphSettings(*values, or_else(averaging, 1)))

    @classmethod
    def execute(
        cls,
        model: Any,
        conditioner: ConditionerModels,
        blueprint: tuple[Blueprint, ...],
        source: Source,
        source_blueprint: tuple[Blueprint, ...],
        seed: int,
        structure: str,
        window_start: float,
        window_end: float,
        averaging: int,
        reference: Reference | None = None,
        sampling: Options | None = None,
    ) -> io.NodeOutput:
        """Turn the song, and say how far."""
        settings, options = MorphSettings(structure, window_start, window_end, averaging), sampling or Options()
        check_options(options)
        take = Take(blueprint, options, seed, reference=reference)
        song = morph(HostRuntime(), HostDecoder(model, seed), conditioner, take, source, source_blueprint, settings)
        codes = any(paper.codes for paper in (*source_blueprint, *blueprint))
        unread = "the codes of the blueprints are not used" if codes else ""
        told = (source_line(source), _asked(settings), unread)
        text = (*told, *describe_song(song.meta), timbre_line(reference))
        return io.NodeOutput(latent(song.latents, acestep=song.meta), ui=report(*text))


def _asked(settings: MorphSettings) -> str:
    """What is turned, and which part of the steps; the schedule says how many these are."""
    draws = f", mean of {settings.averaging} draws" if settings.averaging > 1 else ""
    return f"structure: {settings.structure}, window {settings.window_start:g} to {settings.window_end:g}{draws}"


def _knobs() -> list[Any]:
    return [
        socket(
            io.Combo,
            "structure",
            options=list(STRUCTURES),
            default=next(iter(STRUCTURES)),
            tooltip="What both texts are read with. text: nothing else. codes: melody and structure of the source. "
            "faithful: the source's latents themselves, closest to the original.",
        ),
        decimal(
            "window_start",
            0.0,
            PART,
            "From which part of the steps on the song is turned; earlier ones are left out. 0: all, the most change; "
            "0.2 to 0.5 keeps more of the song.",
        ),
        decimal(
            "window_end",
            1.0,
            PART,
            "Up to which part of the steps it is turned. 1: all. Below 1 the last steps follow blueprint alone, which "
            "sounds cleaner and keeps less.",
        ),
        socket(
            io.Int,
            "averaging",
            default=1,
            min=1,
            max=MAX_AVERAGING,
            advanced=True,
            tooltip="Draws of noise a step, whose mean is taken: steadier, and so many times slower. 1 is usual.",
        ),
    ]
