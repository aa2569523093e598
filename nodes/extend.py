"""Extend: more of a song, behind its end or before its start."""

from __future__ import annotations

from typing import Any

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.pipelines.extend import CONSERVATIVE, NEW_SECONDS, Extended, ExtendSettings, extend
from ..acestep_models.pipelines.generate import Take
from ..acestep_models.pipelines.kept import CONTEXT_SECONDS, LEAST_CONTEXT, WHERE, Where
from ..acestep_models.pipelines.listen import Source
from ..acestep_models.pipelines.reference import Reference
from ..acestep_models.sampling.schedule import SamplingOptions as Options
from ..acestep_models.units import CODE_RATE, MAX_SECONDS, SAMPLE_RATE
from .host.decoder import HostDecoder
from .host.latents import latent
from .host.runtime import HostRuntime
from .host.schema import io, out, report, schema, socket
from .sample import describe_song, timbre_line
from .types import Blueprint as BlueprintType
from .types import Splice
from .widgets import (
    AUTO_NUMBER,
    conditioner_input,
    decimal,
    given,
    model_input,
    one_of,
    reference_input,
    sampling_input,
    seed_input,
    source_input,
)
from .work import source_line

MOST_CROSSFADE = 2.0


class Extend(io.ComfyNode):
    """Node "ACEStepExtend"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What Cover takes, and how much more there shall be."""
        return schema(
            node_id="ACEStepExtend",
            display_name="ACE-Step 1.5 Extend",
            description="Makes a song longer: more of it behind its end, or an intro before its start, with caption "
            "and lyrics of their own. What is there already stays bit for bit; the result can be extended again.",
            search_aliases=["outpaint", "continue", "continuation", "longer", "intro", "outro"],
            inputs=[
                model_input(),
                conditioner_input(),
                _blueprint_input(),
                source_input("The song to make longer, from EncodeSource, or from LatentSource to extend once more."),
                *_place_inputs(),
                seed_input(),
                reference_input(),
                sampling_input(),
            ],
            outputs=[
                out(io.Latent, "latent", "The whole longer song as latents, for DecodeAudio."),
                out(Splice, "splice", "Connect it to DecodeAudio too: it keeps the sound of the source bit for bit."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        conditioner: ConditionerModels,
        blueprint: tuple[Blueprint, ...],
        source: Source,
        seconds: float,
        where: str,
        context: float,
        crossfade: float,
        seed: int,
        reference: Reference | None = None,
        sampling: Options | None = None,
    ) -> io.NodeOutput:
        """Extend, and say from when to when it is new."""
        place: Where = "start" if one_of("where", where, WHERE) == "start" else "end"
        settings = ExtendSettings(given(seconds), place, context, crossfade)
        take = Take(blueprint, sampling or Options(), seed, reference=reference)
        made = extend(HostRuntime(), HostDecoder(model, seed), conditioner, take, source, settings)
        text = (source_line(source), *_describe(made, settings), *describe_song(made.song.meta))
        return io.NodeOutput(
            latent(made.song.latents, acestep=made.song.meta),
            made.splice,
            ui=report(*text, timbre_line(reference)),
        )


def _blueprint_input() -> Any:
    return socket(
        BlueprintType,
        "blueprint",
        tooltip="The new part on paper: its caption, its lyrics, its length. Codes in it (from WriteCodes, with the "
        "same source on after) are followed. Several make a batch.",
    )


def _place_inputs() -> list[Any]:
    return [
        decimal(
            "seconds",
            float(AUTO_NUMBER),
            (float(AUTO_NUMBER), MAX_SECONDS, 0.2),
            f"How long the new part is. {AUTO_NUMBER} = auto: the blueprint's seconds, else {NEW_SECONDS:g}.",
        ),
        socket(
            io.Combo,
            "where",
            options=list(WHERE),
            default=WHERE[0],
            tooltip="end: the song goes on. start: an intro before it.",
        ),
        decimal(
            "context",
            CONTEXT_SECONDS,
            (LEAST_CONTEXT, MAX_SECONDS, 0.2),
            "How many seconds of the source next to the new part the model hears. Less is faster and drifts further "
            "away; as in WriteCodes, if codes are used.",
        ),
        decimal(
            "crossfade",
            CONSERVATIVE.crossfade,
            (0.0, MOST_CROSSFADE, 0.01),
            "Seconds of the source next to the new part that are mixed with it. All before them stays bit for bit.",
            advanced=True,
        ),
    ]


def _describe(made: Extended, settings: ExtendSettings) -> tuple[str, str, str]:
    """What is new, what was heard, and whose codes were followed."""
    (start, end), total = made.splice.spans[0], made.splice.samples
    edge = "last" if settings.where == "end" else "first"
    codes = [len(song.codes or ()) for song in made.song.meta.blueprints]
    follows = f"follows {codes[0]} codes beside {made.heard} of the source" if any(codes) else "without codes"
    return (
        f"new: {start / SAMPLE_RATE:g} to {end / SAMPLE_RATE:g} s, {total / SAMPLE_RATE:g} s in all",
        f"hears the {edge} {made.heard / CODE_RATE:g} s of the source",
        follows,
    )
