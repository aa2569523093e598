"""EncodeSong: the way into ComfyUI's own samplers."""

from __future__ import annotations

from typing import Any

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.pipelines.listen import Source
from ..acestep_models.pipelines.reference import Reference
from ..acestep_models.pipelines.task import Work, encode_work, work_frames
from ..acestep_models.tasks import ALL_VARIANTS, TASKS, TRACKS, check_task, instruction, task_named
from ..acestep_models.units import frames_to_seconds
from .host.decoder import conditioning
from .host.latents import empty_latent
from .host.runtime import HostRuntime
from .host.schema import io, out, report, schema, socket
from .sample import task_codes_line, timbre_line
from .types import Source as SourceType
from .widgets import blueprint_input, conditioner_input, one_of, reference_input
from .work import doubt_line, read_tracks, source_line

PLAIN = "text2music"
BASE_ONLY_LINE = (
    "sample this with a base model: sft may try, turbo never learned it. The model of the sampler is not checked: "
    "only SeparateStems, AddTrack and Complete refuse a wrong one"
)
# What writes in spans of the source needs a node that can say which, and that keeps the rest.
CHOICES = (PLAIN, *(name for name, task in TASKS.items() if task.needs == "source" and task.spans != "many"))


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
    def validate_inputs(cls, task: Any = None, tracks: Any = None) -> bool | str:
        """Complain of unknown tasks and tracks before anything runs; what is linked arrives as None."""
        try:
            if task is not None:
                one_of("task", task, CHOICES)
            if tracks is not None:
                read_task_tracks(task, tracks)
        except ValueError as error:
            return str(error)
        return True

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
        named = read_task_tracks(one_of("task", task, CHOICES), tracks)
        if conditioner.variant:
            check_task(task, conditioner.variant)
        work = Work(task, source, named, reference=reference)
        frames = work_frames(blueprint, work)
        batch = encode_work(HostRuntime(), conditioner, blueprint, work, frames).first
        positive, negative = conditioning(batch)
        latent: dict[str, Any] = empty_latent(len(blueprint), frames)
        text = f"{len(blueprint)} song(s) of {frames_to_seconds(frames):g} s, {batch.tokens.shape[1]} tokens"
        told = (*_describe(work), task_codes_line(task, blueprint), timbre_line(reference))
        doubt = doubt_line(task, conditioner.variant, conditioner.config) if conditioner.variant else ""
        return io.NodeOutput(positive, negative, latent, ui=report(text, *told, doubt))


def read_task_tracks(task: str | None, text: str) -> tuple[str, ...]:
    """The tracks that a task is given; a task of None is not known yet.

    Raises:
        ValueError: for unknown tracks, and for more or fewer than the task takes.
    """
    named = read_tracks(text) if text.strip() else ()
    most = len(TRACKS) if task is None else task_named(task).most_tracks
    if most == 1 and len(named) != 1:
        got = repr(text.strip()) if named else "none"
        raise ValueError(f"tracks: {task} takes one track at a time, one of {', '.join(TRACKS)}; got {got}")
    if task is not None:
        instruction(task, named)
    return named


def _work_inputs() -> list[Any]:
    return [
        socket(
            io.Combo,
            "task",
            options=list(CHOICES),
            default=PLAIN,
            optional=True,
            tooltip="text2music: a new song, which follows the blueprint's codes if it has some. The others work on "
            "source and are as long as it is; extract, lego and complete must be sampled with a base model.",
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
    """What is worked on, and by whom it can be done; nothing for a song out of a blueprint alone."""
    if work.source is None:
        return ()
    limits = "" if TASKS[work.task].variants == ALL_VARIANTS else BASE_ONLY_LINE
    return (source_line(work.source), f"instruction: {work.instruction}", limits)
