"""Extend: more of a song, behind its end or before its start."""

from __future__ import annotations

from typing import Any

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.pipelines.extend import CONSERVATIVE, NEW_SECONDS, Extended, ExtendSettings, extend
from ..acestep_models.pipelines.generate import Take
from ..acestep_models.pipelines.kept import CONTEXT_SECONDS, WHERE, Where
from ..acestep_models.pipelines.listen import Source
from ..acestep_models.pipelines.reference import Reference
from ..acestep_models.sampling.schedule import SamplingOptions as Options
from ..acestep_models.units import CODE_RATE, MAX_SECONDS, SAMPLE_RATE
from .describe import told_together
from .host.decoder import HostDecoder
from .host.latents import latent
from .host.runtime import HostRuntime
from .host.schema import io, out, report, schema, socket
from .sample import describe_song, timbre_line
from .types import Blueprint as BlueprintType
from .types import Splice
from .widgets import (
    AUTO_NUMBER,
    answer,
    conditioner_input,
    context_input,
    decimal,
    given,
    model_input,
    one_of,
    or_else,
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
    def validate_inputs(
        cls, seconds: Any = None, where: Any = None, context: Any = None, crossfade: Any = None
    ) -> bool | str:
        """Complain of values out of range before anything runs; what is linked arrives as None."""
        place, heard = or_else(where, WHERE[0]), or_else(context, CONTEXT_SECONDS)
        fade = or_else(crossfade, CONSERVATIVE.crossfade)
        return answer(lambda: read_settings(or_else(seconds, AUTO_NUMBER), place, heard, fade))

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
        settings = read_settings(seconds, where, context, crossfade)
        take = Take(blueprint, sampling or Options(), seed, reference=reference)
        made = extend(HostRuntime(), HostDecoder(model, seed), conditioner, take, source, settings)
        text = (source_line(source), *_describe(made, settings), *describe_song(made.song.meta))
        return io.NodeOutput(
            latent(made.song.latents, acestep=made.song.meta),
            made.splice,
            ui=report(*text, timbre_line(reference)),
        )


def read_settings(seconds: float, where: str, context: float, crossfade: float) -> ExtendSettings:
    """What the widgets say.

    Raises:
        ValueError: for a number out of its range, or an unknown place.
    """
    place: Where = "start" if one_of("where", where, WHERE) == "start" else "end"
    if not 0.0 <= crossfade <= MOST_CROSSFADE:
        raise ValueError(f"crossfade: expected 0 to {MOST_CROSSFADE:g} s, got {crossfade:g}")
    return ExtendSettings(given(seconds), place, context, crossfade)


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
        context_input(
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


def _describe(made: Extended, settings: ExtendSettings) -> tuple[str, ...]:
    """What is new, what was heard, and whose codes were followed."""
    (start, end), total = made.splice.spans[0], made.splice.samples
    asked = settings.seconds
    rounded = asked is not None and abs(asked - made.seconds) > 1e-9
    edge = "last" if settings.where == "end" else "first"
    codes = [len(song.codes or ()) for song in made.song.meta.blueprints]
    follows = f"follows {codes[0]} codes beside {made.heard} of the source" if any(codes) else "without codes"
    doubts = [codes_doubt(song, settings.where, made.heard) for song in made.song.meta.blueprints]
    return (
        f"new: {start / SAMPLE_RATE:g} to {end / SAMPLE_RATE:g} s, {total / SAMPLE_RATE:g} s in all",
        f"asked for {asked:g} s, made {made.seconds:g} s: lengths are in steps of {1 / CODE_RATE:g} s"
        if rounded
        else "",
        f"hears the {edge} {made.heard / CODE_RATE:g} s of the source",
        follows,
        *told_together(doubts),
    )


def codes_doubt(song: Blueprint, where: Where, heard: int) -> str:
    """Why a song's codes may not fit the part of the source that is heard, `heard` codes; "" where they do."""
    after = dict(song.lm).get("codes_after")
    if not song.codes or after == (heard if where == "end" else None):
        return ""
    if after is None:
        return "codes: not written to go on from the source; connect it to after of WriteCodes"
    if where == "start":
        return f"codes: written to go on from {after} of a source, but this is an intro; leave after of WriteCodes out"
    return f"codes: written after {after} of a source, {heard} are heard here; take source and context of WriteCodes"
