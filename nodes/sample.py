"""SamplingOptions and DiTSample: from a blueprint to latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.pipelines.generate import SongMeta, Take, perform
from ..acestep_models.pipelines.held import generate_held
from ..acestep_models.pipelines.reference import Reference
from ..acestep_models.pipelines.task import Work
from ..acestep_models.sampling.dcw import DCW, DCW_MODES
from ..acestep_models.sampling.hold import Held
from ..acestep_models.sampling.schedule import (
    DEFAULT_SOLVER,
    GUIDANCE_CHOICES,
    MAX_CLAMP,
    MAX_SCALE,
    MAX_SHIFT,
    MAX_STEPS,
    parse_times,
)
from ..acestep_models.sampling.schedule import SamplingOptions as Options
from ..acestep_models.sampling.solvers import SOLVERS
from ..acestep_models.tasks import task_named
from ..acestep_models.units import frames_to_seconds
from .host.decoder import HostDecoder
from .host.latents import held_latent
from .host.latents import latent as latent_wire
from .host.runtime import HostRuntime
from .host.schema import AUTO, io, out, report, schema, socket
from .host.speed import speed_line
from .plan import codes_line
from .types import Sampling
from .widgets import (
    AUTO_NUMBER,
    blueprint_input,
    choice,
    conditioner_input,
    decimal,
    describe_schedule,
    given,
    model_input,
    per_variant,
    reference_input,
    sampling_input,
    seed_input,
)

OFF, MOST_EMA = "off", 0.99


class SamplingOptions(io.ComfyNode):
    """Node "ACEStepSamplingOptions"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Times, solver, guidance and two corrections; all may stay as they are."""
        return schema(
            node_id="ACEStepSamplingOptions",
            display_name="ACE-Step 1.5 Sampling Options",
            description="Overrides how DiTSample, Guider and Schedule sample. Leave it out, or leave values on auto, "
            "for what the loaded variant was trained with.",
            search_aliases=["steps", "shift", "scheduler", "sampler settings", "cfg", "guidance", "apg"],
            inputs=[*_times(), *_guidance(), *_corrections()],
            outputs=[out(Sampling, "sampling", "Settings for DiTSample, Guider and Schedule.")],
        )

    @classmethod
    def execute(
        cls,
        steps: int,
        shift: float,
        times: str,
        solver: str,
        guidance: str,
        scale: float,
        interval_start: float,
        interval_end: float,
        clamp: float,
        ema: float,
        dcw: str,
    ) -> io.NodeOutput:
        """The options, checked."""
        options = Options(
            given(steps),
            given(shift),
            parse_times(times),
            given(solver) or DEFAULT_SOLVER,
            guidance,
            given(scale),
            (interval_start, interval_end),
            clamp,
            ema,
            None if dcw == OFF else DCW(dcw),
        )
        return io.NodeOutput(options, ui=report(*_settings(options, times)))


def _settings(options: Options, times: str) -> tuple[str, ...]:
    values = {"steps": options.steps, "shift": options.shift, "times": times.strip() or None}
    text = ", ".join(f"{name}: {AUTO if value is None else value}" for name, value in values.items())
    scale = AUTO if options.scale is None else f"{options.scale:g}"
    return (f"{text}, solver: {options.solver}", f"guidance: {options.guidance}, scale: {scale}")


def _times() -> list[Any]:
    return [
        socket(
            io.Int,
            "steps",
            default=AUTO_NUMBER,
            min=AUTO_NUMBER,
            max=MAX_STEPS,
            tooltip=f"Decoder calls; more take longer. {AUTO_NUMBER} = auto: {per_variant(lambda v: v.steps)}.",
        ),
        decimal(
            "shift",
            float(AUTO_NUMBER),
            (float(AUTO_NUMBER), MAX_SHIFT, 0.1),
            "Above 1: more steps for the structure of the song, fewer for its detail. "
            f"{AUTO_NUMBER} = auto, the model's own: {per_variant(lambda v: v.shift)}.",
        ),
        socket(
            io.String,
            "times",
            default="",
            advanced=True,
            tooltip='Explicit times from noise (1) to music (0), such as "0.97, 0.76, 0.5, 0.28". '
            "They replace steps and shift. Empty = auto.",
        ),
        choice(
            "solver",
            SOLVERS,
            "How a step is taken in DiTSample. auto: euler. heun calls the decoder twice a step and is more exact; "
            "sde adds fresh noise at every step.",
            advanced=True,
        ),
    ]


def _guidance() -> list[Any]:
    return [
        socket(
            io.Combo,
            "guidance",
            options=list(GUIDANCE_CHOICES),
            default=AUTO,
            tooltip="How the song is pushed away from nothing in particular. auto: apg where the scale is above 1. "
            "apg keeps the sound clean at high scales, cfg is the plain one, adg works with angles. "
            "turbo variants are always run without.",
        ),
        decimal(
            "scale",
            float(AUTO_NUMBER),
            (float(AUTO_NUMBER), MAX_SCALE, 0.1),
            "How closely the song follows the text; above 1 each step takes twice the time. "
            f"{AUTO_NUMBER} = auto: {per_variant(lambda v: v.guidance)}.",
        ),
        decimal(
            "interval_start",
            0.0,
            (0.0, 1.0, 0.01),
            "Guidance acts from this time upwards; 0 is music. Times below it take half the time.",
            advanced=True,
        ),
        decimal(
            "interval_end",
            1.0,
            (0.0, 1.0, 0.01),
            "Guidance acts up to this time; 1 is noise. Times above it take half the time.",
            advanced=True,
        ),
    ]


def _corrections() -> list[Any]:
    return [
        decimal(
            "clamp",
            0.0,
            (0.0, MAX_CLAMP, 0.1),
            "Holds each step below so many times the size of the latents; 1.5 to 3 is usual. 0 = off.",
            advanced=True,
        ),
        decimal(
            "ema",
            0.0,
            (0.0, MOST_EMA, 0.01),
            "Part of the step before that is mixed into each step; 0.05 to 0.2 is usual. 0 = off.",
            advanced=True,
        ),
        socket(
            io.Combo,
            "dcw",
            options=[OFF, *DCW_MODES],
            default=OFF,
            advanced=True,
            tooltip="Wavelet correction after each step, in DiTSample: of the slow part of the latents (low), the fast "
            "one (high), both (double), or without wavelets (pix).",
        ),
    ]


class DiTSample(io.ComfyNode):
    """Node "ACEStepDiTSample"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Model, conditioner and blueprint in; latents out."""
        return schema(
            node_id="ACEStepDiTSample",
            display_name="ACE-Step 1.5 DiT Sample",
            description="Makes the song that a blueprint describes, as latents for DecodeAudio. Codes in the blueprint "
            "are followed: they hold melody and structure.",
            search_aliases=["ksampler", "generate music", "text to music", "text to song"],
            inputs=[
                model_input(),
                conditioner_input(),
                blueprint_input(),
                seed_input(),
                reference_input(),
                socket(
                    io.Latent,
                    "latent",
                    optional=True,
                    tooltip="A song with the mask of SpanMask: only what the mask opens is made, the rest stays. "
                    "Not connected: all of the song is made.",
                ),
                sampling_input(),
            ],
            outputs=[out(io.Latent, "latent", "The song as latents, 25 frames a second, for DecodeAudio.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        conditioner: ConditionerModels,
        blueprint: tuple[Blueprint, ...],
        seed: int,
        reference: Reference | None = None,
        latent: dict[str, Any] | None = None,
        sampling: Options | None = None,
    ) -> io.NodeOutput:
        """Encode, sample, and say with what."""
        decoder, take = HostDecoder(model, seed), Take(blueprint, sampling or Options(), seed, reference=reference)
        if latent is None:
            song, kept = perform(HostRuntime(), decoder, conditioner, take, Work("text2music")), ""
        else:
            held = held_latent(latent)
            song, kept = generate_held(HostRuntime(), decoder, conditioner, take, held), open_line(held)
        text = (*describe_song(song.meta), kept, timbre_line(reference), speed_line(model))
        return io.NodeOutput(latent_wire(song.latents, acestep=song.meta), ui=report(*text))


def open_line(held: Held) -> str:
    """How much of a song its mask opens; a mask that opens none or all of it is told apart."""
    anew = int((held.mask > 0).any(0).sum())
    share = f"{frames_to_seconds(anew):g} of {frames_to_seconds(held.frames):g} s"
    return f"mask: {share} made anew{'' if 0 < anew < held.frames else ' (look at SpanMask)'}"


def timbre_line(reference: Reference | None) -> str:
    """Whose sound the songs have; nothing where no reference is connected."""
    return f"timbre: of {len(reference.latents)} recording(s)" if reference else ""


def task_codes_line(task: str, blueprints: Sequence[Blueprint]) -> str:
    """Which songs follow the codes of their blueprints, or that a task follows its source instead."""
    row = task_named(task)
    if row.needs != "source":
        return codes_line(blueprints)
    instead = ": the source's are" if row.hints else ""
    return f"the codes of the blueprint are not used{instead}" if any(song.codes for song in blueprints) else ""


def describe_song(meta: SongMeta) -> tuple[str, ...]:
    """How latents came to be."""
    return (
        *describe_schedule(meta.schedule),
        f"{len(meta.seeds)} song(s) of {frames_to_seconds(meta.frames):g} s",
        task_codes_line(meta.task, meta.blueprints),
        f"seed: {', '.join(str(seed) for seed in meta.seeds)}",
        *meta.schedule.notes,
    )
