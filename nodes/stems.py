"""SeparateStems: the tracks of a mix, one by one."""

from __future__ import annotations

from typing import Any

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.pipelines.generate import Take
from ..acestep_models.pipelines.listen import Source
from ..acestep_models.pipelines.stems import Stems, separate_stems
from ..acestep_models.runtime import Handle
from ..acestep_models.sampling.schedule import SamplingOptions as Options
from ..acestep_models.tasks import TRACKS
from .decode import decibels
from .host.decoder import HostDecoder
from .host.latents import audio
from .host.runtime import HostRuntime
from .host.schema import io, out, report, schema, socket
from .sample import describe_song
from .types import Vae
from .widgets import (
    base_model_input,
    conditioner_input,
    lazy_blueprint_input,
    sampling_input,
    seed_socket,
    source_input,
)
from .work import ALL, check_model, read_tracks, source_line, still_to_make, tracks_problem

TASK = "extract"


class SeparateStems(io.ComfyNode):
    """Node "ACEStepSeparateStems"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A mix in; its tracks, their names and the rest out."""
        return schema(
            node_id="ACEStepSeparateStems",
            display_name="ACE-Step 1.5 Separate Stems",
            description="Takes the tracks out of a mix, one after another, and says what is left without them. "
            "Needs a base model.",
            search_aliases=["stems", "source separation", "extract vocals", "demix", "instrumental", "karaoke"],
            inputs=[
                base_model_input(),
                conditioner_input(),
                socket(Vae, "vae", tooltip="From Load DiT; it turns each track into sound."),
                source_input("The mix, from EncodeSource.", lazy=True),
                socket(
                    io.String,
                    "tracks",
                    default=ALL,
                    multiline=True,
                    tooltip=f"{ALL}, or some of {', '.join(TRACKS)}; with commas or one a line. Each takes as long as "
                    "a song.",
                ),
                seed_socket(
                    "seed",
                    "All tracks have the same one, so that a track alone comes out as it does among others.",
                ),
                lazy_blueprint_input(
                    "What you know of the song: caption, lyrics, tempo, key. It helps. One song.", True
                ),
                sampling_input(),
            ],
            outputs=[
                out(io.Audio, "stems", "A list of sounds, each exactly as long as the source.", is_list=True),
                out(io.String, "names", "A list with the track of each sound.", is_list=True),
                out(
                    io.Audio,
                    "residual",
                    "The source without all of these stems; together they are the source again.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, tracks: Any = None) -> bool | str:
        """Complain of unknown tracks before anything runs; a linked input is not known yet and arrives as None."""
        return tracks_problem(tracks)

    @classmethod
    def check_lazy_status(cls, **given: Any) -> list[str]:
        """Refuse a model that cannot do it before the source is encoded or a song planned."""
        check_model(TASK, given["model"])
        return _next_to_make(given)

    @classmethod
    def execute(
        cls,
        model: Any,
        conditioner: ConditionerModels,
        vae: Handle[Any],
        source: Source,
        tracks: str,
        seed: int,
        blueprint: tuple[Blueprint, ...] | None = None,
        sampling: Options | None = None,
    ) -> io.NodeOutput:
        """Track after track, and what is left."""
        doubt = check_model(TASK, model)
        names = read_tracks(tracks)
        take = Take(blueprint or (Blueprint(),), sampling or Options(), seed)
        stems = separate_stems(HostRuntime(), HostDecoder(model, seed), conditioner, vae, take, source, names)
        sounds = [audio(wave[None]) for wave in stems.waveforms]
        text = (source_line(source), *describe_song(stems.metas[0]), *_levels(stems), _clipped(stems), doubt)
        return io.NodeOutput(sounds, list(stems.names), audio(stems.residual[None]), ui=report(*text))


def _next_to_make(given: dict[str, Any]) -> list[str]:
    """What the host shall make now: the source only when tracks and blueprint are known to be good.

    Raises:
        ValueError: for unknown tracks, or more than one song.
    """
    if given.get("tracks") is not None:
        read_tracks(given["tracks"])
    songs = given.get("blueprint")
    if isinstance(songs, tuple) and len(songs) != 1:
        raise ValueError(f"blueprint: stems are of one song, got {len(songs)}")
    wanted = still_to_make(given)
    return [name for name in wanted if name != "source"] or wanted


def _peaks(stems: Stems) -> dict[str, float]:
    """The largest amplitude of each track and of what is left."""
    parts = [*zip(stems.names, stems.waveforms, strict=True), ("residual", stems.residual)]
    return {name: float(wave.abs().max()) for name, wave in parts}


def _levels(stems: Stems) -> list[str]:
    """How loud each track is, and what is left."""
    return [f"{name}: peak {decibels(peak)} dBFS" for name, peak in _peaks(stems).items()]


def _clipped(stems: Stems) -> str:
    """What does not fit into a file of whole numbers, and what to do."""
    over = [name for name, peak in _peaks(stems).items() if peak > 1.0]
    advice = "a file of whole numbers (FLAC) clips this; put a Loudness node before it, or save a float file"
    return f"over full scale: {', '.join(over)}; {advice}" if over else ""
