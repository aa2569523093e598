"""EncodeSong: the way into ComfyUI's own samplers."""

from __future__ import annotations

from typing import Any

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.pipelines.listen import Source
from ..acestep_models.pipelines.reference import Reference
from ..acestep_models.pipelines.task import Work, encode_work, work_frames
from ..acestep_models.tasks import ALL_VARIANTS, TASKS, TRACKS
from ..acestep_models.units import frames_to_seconds
from .host.decoder import conditioning
from .host.latents import empty_latent
from .host.runtime import HostRuntime
from .host.schema import io, out, report, schema, socket
from .plan import codes_line
from .sample import timbre_line
from .types import Source as SourceType
from .widgets import blueprint_input, conditioner_input, one_of, reference_input
from .work import read_tracks, source_line, tracks_problem

PLAIN = "text2music"
CHOICES = (PLAIN, *(name for name, task in TASKS.items() if task.needs == "source"))


class EncodeSong(io.ComfyNode):
    """Node "ACEStepEncodeSong"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Conditioner and blueprint in; what a host sampler needs out."""
        return schema(
            node_id="ACEStepEncodeSong",
            display_name="ACE-Step 1.5 Encode Song",
            description="Reads a blueprint for ComfyUI's own samplers (KSampler, SamplerCustomAdvanced). "
            "For the song that DiTSample makes: euler, simple, cfg 1, the same seed and steps that divide 1000 "
            "(8, 20, 50); with others simple rounds the times. Of a batch only the first song agrees, because "
            "ComfyUI draws the noise of a batch in one go.",
            search_aliases=["text encode", "conditioning", "empty latent audio"],
            inputs=[conditioner_input(), blueprint_input(), *_work_inputs()],
            outputs=[
                out(io.Conditioning, "positive", "What the song shall be."),
                out(io.Conditioning, "negative", "Nothing in particular: the opposite for guidance (cfg above 1)."),
                out(io.Latent, "latent", "An empty latent of the right length and batch."),
            ],
        )

    @classmethod
    def validate_inputs(cls, tracks: Any = None) -> bool | str:
        """Complain of unknown tracks before anything runs; a linked input is not known yet and arrives as None."""
        return tracks_problem(tracks or None)

    @classmethod
    def execute(
        cls,
        conditioner: ConditionerModels,
        blueprint: tuple[Blueprint, ...],
        task: str = PLAIN,
        tracks: str = "",
        reference: Reference | None = None,
        source: Source | None = None,
    ) -> io.NodeOutput:
        """Encode every song once."""
        named = read_tracks(tracks) if tracks.strip() else ()
        work = Work(one_of("task", task, CHOICES), source, named, reference=reference)
        frames = work_frames(blueprint, work)
        batch = encode_work(HostRuntime(), conditioner, blueprint, work, frames).first
        positive, negative = conditioning(batch)
        latent: dict[str, Any] = empty_latent(len(blueprint), frames)
        text = f"{len(blueprint)} song(s) of {frames_to_seconds(frames):g} s, {batch.tokens.shape[1]} tokens"
        told = _describe(work) if work.source else (codes_line(blueprint),)
        return io.NodeOutput(positive, negative, latent, ui=report(text, *told, timbre_line(reference)))


def _work_inputs() -> list[Any]:
    return [
        socket(
            io.Combo,
            "task",
            options=list(CHOICES),
            default=PLAIN,
            optional=True,
            tooltip="text2music: a new song, which follows the blueprint's codes if it has some. The others work on "
            "source and are as long as it is; extract, lego and complete need a base model.",
        ),
        socket(
            io.String,
            "tracks",
            default="",
            optional=True,
            tooltip=f"For extract and lego one, for complete some of {', '.join(TRACKS)}.",
        ),
        reference_input(),
        socket(SourceType, "source", optional=True, tooltip="From EncodeSource: the sound that task works on."),
    ]


def _describe(work: Work) -> tuple[str, ...]:
    """What is worked on, and by whom it can be done."""
    trained = TASKS[work.task].variants
    limits = "" if trained == ALL_VARIANTS else f"only for {', '.join(sorted(trained))} models"
    return (source_line(work.source) if work.source else "", f"instruction: {work.instruction}", limits)
