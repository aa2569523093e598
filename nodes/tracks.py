"""AddTrack and Complete: what is missing beside a source."""

from __future__ import annotations

from typing import Any

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.add_track import add_track
from ..acestep_models.pipelines.complete import COMPLETE_PRESETS, complete
from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.pipelines.generate import Take
from ..acestep_models.pipelines.listen import Source
from ..acestep_models.pipelines.reference import Reference
from ..acestep_models.sampling.schedule import SamplingOptions as Options
from ..acestep_models.tasks import TRACKS
from ..acestep_models.units import MAX_SECONDS
from .host.decoder import HostDecoder
from .host.latents import latent
from .host.runtime import HostRuntime
from .host.schema import io, out, report, schema, socket
from .sample import describe_song, timbre_line
from .widgets import (
    AUTO_NUMBER,
    answer,
    base_model_input,
    conditioner_input,
    decimal,
    lazy_blueprint_input,
    one_of,
    reference_input,
    sampling_input,
    seed_input,
    source_input,
)
from .work import ALL, check_model, check_region, read_tracks, source_line, still_to_make, tracks_problem

LEGO, COMPLETE = "lego", "complete"
CHOSEN = "Chosen classes"
PRESETS = (*COMPLETE_PRESETS, CHOSEN)
PLACE = (float(AUTO_NUMBER), MAX_SECONDS, 0.2)


class AddTrack(io.ComfyNode):
    """Node "ACEStepAddTrack"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What Cover takes, and the track to play."""
        return schema(
            node_id="ACEStepAddTrack",
            display_name="ACE-Step 1.5 Add Track",
            description="Plays one more track to a source, all along or in a part of it: a bass to drums, strings to a "
            "song. Needs a base model.",
            search_aliases=["lego", "add instrument", "layer", "overdub"],
            inputs=[
                base_model_input(),
                conditioner_input(),
                lazy_blueprint_input("How the new track shall sound. Its length is the source's."),
                source_input("What is there already, from EncodeSource.", lazy=True),
                socket(io.Combo, "track", options=list(TRACKS), default="drums", tooltip="Which track is played."),
                decimal("start", PLACE[0], PLACE, "From which second on. -1: from the beginning."),
                decimal("end", PLACE[0], PLACE, "Up to which second. -1: to the end of the source."),
                seed_input(),
                reference_input(lazy=True),
                sampling_input(),
            ],
            outputs=[out(io.Latent, "latent", "The new track as latents, in whole frames of 0.04 s, for DecodeAudio.")],
        )

    @classmethod
    def validate_inputs(cls, track: Any = None) -> bool | str:
        """Complain of an unknown track before anything runs; a linked input is not known yet and arrives as None."""
        return tracks_problem(track)

    @classmethod
    def check_lazy_status(cls, **given: Any) -> list[str]:
        """Refuse a model that cannot do it before the source is encoded or a song planned."""
        check_model(LEGO, given["model"])
        check_region(given.get("start"), given.get("end"))
        return still_to_make(given)

    @classmethod
    def execute(
        cls,
        model: Any,
        conditioner: ConditionerModels,
        blueprint: tuple[Blueprint, ...],
        source: Source,
        track: str,
        start: float,
        end: float,
        seed: int,
        reference: Reference | None = None,
        sampling: Options | None = None,
    ) -> io.NodeOutput:
        """Play the track where it is wanted."""
        doubt = check_model(LEGO, model)
        region = read_region(start, end, source)
        take = Take(blueprint, sampling or Options(), seed, reference=reference)
        decoder = HostDecoder(model, seed)
        song = add_track(HostRuntime(), decoder, conditioner, take, source, one_of("track", track, TRACKS), region)
        where = f"from {region[0]:g} to {region[1]:g} s" if region else "all along"
        text = (source_line(source), f"{track} {where}", *describe_song(song.meta), timbre_line(reference), doubt)
        return io.NodeOutput(latent(song.latents, acestep=song.meta), ui=report(*text))


def read_region(start: float, end: float, source: Source) -> tuple[float, float] | None:
    """Seconds of two widgets, where -1 is the beginning and the end of the source; None for all of it.

    Raises:
        ValueError: for an end that is not behind the start, or a part outside of the source.
    """
    first = 0.0 if start < 0 else start
    last = source.seconds if end < 0 else end
    if not first < last <= source.seconds:
        raise ValueError(
            f"start, end: expected a part of the source's {source.seconds:g} s, got {first:g} to {last:g} s"
        )
    return None if (first, last) == (0.0, source.seconds) else (first, last)


def read_classes(preset: str, classes: str) -> tuple[str, ...]:
    """The tracks of a preset, or for "Chosen classes" those of the text.

    Raises:
        ValueError: for an unknown preset or track, none where some are to be chosen, or a text that nobody reads.
    """
    if one_of("preset", preset, PRESETS) == CHOSEN:
        return read_tracks(classes)
    if classes.strip():
        raise ValueError(f"classes: only read with preset {CHOSEN}; empty it or choose that preset")
    return COMPLETE_PRESETS[preset]


class Complete(io.ComfyNode):
    """Node "ACEStepComplete"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What Cover takes, and what is missing."""
        return schema(
            node_id="ACEStepComplete",
            display_name="ACE-Step 1.5 Complete (Vocal to Song)",
            description="Plays what is missing beside a source: accompaniment for a vocal, vocals for an instrumental, "
            "or tracks of your choice. Needs a base model.",
            search_aliases=["vocal to song", "vocal2bgm", "accompaniment", "backing track", "add vocals", "sing"],
            inputs=[
                base_model_input(),
                conditioner_input(),
                lazy_blueprint_input("How the whole song shall sound, and the lyrics. Its length is the source's."),
                source_input("What is there already, from EncodeSource.", lazy=True),
                socket(
                    io.Combo,
                    "preset",
                    options=list(PRESETS),
                    default=PRESETS[0],
                    tooltip="Vocal to song: all tracks that are no voices. Vocals for an instrumental: the voices. "
                    f"Anything: what the model thinks fits. {CHOSEN}: what stands in classes.",
                ),
                socket(
                    io.String,
                    "classes",
                    default="",
                    multiline=True,
                    tooltip=f"Only for {CHOSEN}: {ALL}, or some of {', '.join(TRACKS)}; with commas or one a line. "
                    "Empty with the other presets.",
                ),
                seed_input(),
                reference_input(lazy=True),
                sampling_input(),
            ],
            outputs=[out(io.Latent, "latent", "The song as latents, as long as the source, for DecodeAudio.")],
        )

    @classmethod
    def validate_inputs(cls, preset: Any = None, classes: Any = None) -> bool | str:
        """Complain of what cannot be read before anything runs; a linked input is not known yet, arrives as None."""
        if preset is None:
            return True
        return answer(lambda: read_classes(preset, classes if classes is not None else ALL if preset == CHOSEN else ""))

    @classmethod
    def check_lazy_status(cls, **given: Any) -> list[str]:
        """Refuse a model that cannot do it before the source is encoded or a song planned."""
        check_model(COMPLETE, given["model"])
        return still_to_make(given)

    @classmethod
    def execute(
        cls,
        model: Any,
        conditioner: ConditionerModels,
        blueprint: tuple[Blueprint, ...],
        source: Source,
        preset: str,
        classes: str,
        seed: int,
        reference: Reference | None = None,
        sampling: Options | None = None,
    ) -> io.NodeOutput:
        """Play what is missing."""
        doubt, tracks = check_model(COMPLETE, model), read_classes(preset, classes)
        take = Take(blueprint, sampling or Options(), seed, reference=reference)
        song = complete(HostRuntime(), HostDecoder(model, seed), conditioner, take, source, tracks)
        asked = f"plays: {', '.join(tracks) or 'what fits'}"
        text = (source_line(source), asked, *describe_song(song.meta), timbre_line(reference), doubt)
        return io.NodeOutput(latent(song.latents, acestep=song.meta), ui=report(*text))
