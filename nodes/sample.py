"""SamplingOptions and DiTSample: from a blueprint to latents."""

from __future__ import annotations

from typing import Any

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.pipelines.generate import SongMeta, generate
from ..acestep_models.sampling.schedule import DEFAULT_SOLVER, MAX_SHIFT, MAX_STEPS, parse_times
from ..acestep_models.sampling.schedule import SamplingOptions as Options
from ..acestep_models.sampling.solvers import SOLVERS
from ..acestep_models.tasks import Variant
from ..acestep_models.units import frames_to_seconds
from .host.decoder import HostDecoder
from .host.latents import latent
from .host.runtime import HostRuntime
from .host.schema import AUTO, io, out, report, schema, socket
from .types import Sampling
from .widgets import (
    AUTO_NUMBER,
    blueprint_input,
    choice,
    conditioner_input,
    decimal,
    given,
    per_variant,
    seed_input,
)


class SamplingOptions(io.ComfyNode):
    """Node "ACEStepSamplingOptions"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Steps, shift, times, solver."""
        return schema(
            node_id="ACEStepSamplingOptions",
            display_name="ACE-Step 1.5 Sampling Options",
            description="Overrides how DiTSample samples. Leave it out, or leave values on auto, "
            "for what the loaded variant was trained with.",
            search_aliases=["steps", "shift", "scheduler", "sampler settings"],
            inputs=[
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
                choice("solver", SOLVERS, "How a step is taken. auto: euler.", advanced=True),
            ],
            outputs=[out(Sampling, "sampling", "Settings for DiTSample.")],
        )

    @classmethod
    def execute(cls, steps: int, shift: float, times: str, solver: str) -> io.NodeOutput:
        """The options, checked."""
        options = Options(given(steps), given(shift), parse_times(times), given(solver) or DEFAULT_SOLVER)
        values = {"steps": options.steps, "shift": options.shift, "times": times.strip() or None}
        text = ", ".join(f"{name}: {AUTO if value is None else value}" for name, value in values.items())
        return io.NodeOutput(options, ui=report(f"{text}, solver: {options.solver}"))


class DiTSample(io.ComfyNode):
    """Node "ACEStepDiTSample"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Model, conditioner and blueprint in; latents out."""
        return schema(
            node_id="ACEStepDiTSample",
            display_name="ACE-Step 1.5 DiT Sample",
            description="Makes the song that a blueprint describes, as latents for DecodeAudio.",
            search_aliases=["ksampler", "generate music", "text to music", "text to song"],
            inputs=[
                socket(io.Model, "model", tooltip="The decoder, from Load DiT; LoRA and shift nodes may be between."),
                conditioner_input(),
                blueprint_input(),
                seed_input(),
                socket(
                    Sampling,
                    "sampling",
                    optional=True,
                    tooltip="From SamplingOptions. Not connected: the defaults of the loaded variant.",
                ),
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
        sampling: Options | None = None,
    ) -> io.NodeOutput:
        """Encode, sample, and say with what."""
        decoder = HostDecoder(model, seed)
        song = generate(HostRuntime(), decoder, conditioner, blueprint, sampling or Options(), seed)
        text = _describe(song.meta, decoder.variant)
        return io.NodeOutput(latent(song.latents, acestep=song.meta), ui=report(*text))


def _describe(meta: SongMeta, variant: Variant) -> tuple[str, ...]:
    schedule = meta.schedule
    how = "explicit times" if schedule.shift is None else f"shift {schedule.shift:g}"
    unguided = f"made without guidance; this variant is used to {variant.guidance:g}" if variant.guidance > 1 else ""
    return (
        f"{schedule.steps} steps, {how}, {schedule.solver}, guidance 1",
        f"{len(meta.seeds)} song(s) of {frames_to_seconds(meta.frames):g} s",
        f"seed: {', '.join(str(seed) for seed in meta.seeds)}",
        unguided,
        *schedule.notes,
    )
