"""Repaint: parts of a song again."""

from __future__ import annotations

from typing import Any

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.canvas import Canvas, lay_out
from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.pipelines.generate import Take
from ..acestep_models.pipelines.listen import Source
from ..acestep_models.pipelines.reference import Reference
from ..acestep_models.pipelines.repaint import (
    MAX_CROSSFADE_FRAMES,
    MAX_CROSSFADE_SECONDS,
    MODES,
    RepaintSettings,
    repaint,
    repaint_settings,
)
from ..acestep_models.sampling.keep import injected_steps
from ..acestep_models.sampling.schedule import SamplingOptions as Options
from ..acestep_models.sampling.schedule import count_steps
from ..acestep_models.spans import Span
from ..acestep_models.units import SAMPLE_RATE, frames_to_seconds
from .host.decoder import HostDecoder
from .host.latents import latent
from .host.runtime import HostRuntime
from .host.schema import io, out, report, schema, socket
from .measure import listed, meter_inputs, read_spans, spans_inputs, spans_problem
from .sample import describe_song, timbre_line
from .types import Splice
from .widgets import (
    AUTO_NUMBER,
    answer,
    blueprint_input,
    conditioner_input,
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

LEAST = float(AUTO_NUMBER)
BALANCED, HALF = next(iter(MODES)), 0.5  # as they come
BEYOND = "They may begin before 0 (an intro) and go past the end."


class Repaint(io.ComfyNode):
    """Node "ACEStepRepaint"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What Cover takes, where to write, and how tightly it is held to the rest."""
        return schema(
            node_id="ACEStepRepaint",
            display_name="ACE-Step 1.5 Repaint",
            description="Makes parts of a song again, in it, before it or behind it, as the blueprint says. With the "
            "splice on Decode Audio everything else stays bit for bit.",
            search_aliases=["inpaint audio", "outpaint", "edit song", "replace section", "fix lyrics"],
            inputs=[
                model_input(),
                conditioner_input(),
                blueprint_input(),
                source_input("The song, from EncodeSource, or from LatentSource for one that was just made."),
                *spans_inputs(f"What is made again, one or several spans. {BEYOND}", "10-20"),
                *meter_inputs(),
                *_hold(),
                seed_input(),
                *_knobs(),
                reference_input(),
                sampling_input(),
            ],
            outputs=[
                out(io.Latent, "latent", "The song as latents, for DecodeAudio or LatentSource."),
                out(Splice, "splice", "The source's own sound around the spans, for DecodeAudio."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        spans: Any = None,
        unit: Any = None,
        mode: Any = None,
        strength: Any = None,
        injection: Any = None,
        latent_crossfade: Any = None,
        crossfade: Any = None,
    ) -> bool | str:
        """Complain of spans and values that cannot be used before anything runs; what is linked arrives as None."""
        readable = spans_problem(spans, unit)
        if readable is not True:
            return readable
        knobs = (or_else(injection, LEAST), or_else(latent_crossfade, AUTO_NUMBER), or_else(crossfade, LEAST))
        return answer(lambda: read_settings(or_else(mode, BALANCED), or_else(strength, HALF), knobs))

    @classmethod
    def execute(
        cls,
        model: Any,
        conditioner: ConditionerModels,
        blueprint: tuple[Blueprint, ...],
        source: Source,
        spans: str,
        unit: str,
        bpm: float,
        time_signature: str,
        mode: str,
        strength: float,
        seed: int,
        injection: float,
        latent_crossfade: int,
        crossfade: float,
        reference: Reference | None = None,
        sampling: Options | None = None,
    ) -> io.NodeOutput:
        """Make the spans again, and say what was kept."""
        settings = read_settings(mode, strength, (injection, latent_crossfade, crossfade))
        places = read_spans(spans, unit, (bpm, time_signature), blueprint, source.seconds)
        canvas = lay_out(source, places)
        splice = canvas.splice(settings.crossfade)
        take, decoder = Take(blueprint, sampling or Options(), seed, reference=reference), HostDecoder(model, seed)
        song = repaint(HostRuntime(), decoder, conditioner, take, canvas, settings)
        steps = song.meta.schedule.steps
        told = held_line(settings, injected_steps(settings.injection, steps, decoder.variant.distilled), steps)
        where = (source_line(source), *canvas_lines(canvas, places), f"mode {mode}: {told}")
        text = (*where, *describe_song(song.meta), timbre_line(reference))
        return io.NodeOutput(latent(song.latents, acestep=song.meta), splice, ui=report(*text))


def read_settings(mode: str, strength: float, knobs: tuple[float, int, float]) -> RepaintSettings:
    """The values of a mode, but for the knobs (injection, latent_crossfade, crossfade) that are not on auto.

    Raises:
        ValueError: for an unknown mode or a number out of its range.
    """
    auto = repaint_settings(one_of("mode", mode, tuple(MODES)), strength)
    values = (auto.injection, auto.latent_crossfade, auto.crossfade)
    injection, frames, seconds = (own if given(knob) is None else knob for knob, own in zip(knobs, values, strict=True))
    return RepaintSettings(injection, int(frames), seconds)


def canvas_lines(canvas: Canvas, places: tuple[Span, ...]) -> tuple[str, ...]:
    """Where something new is in the result, how long that is, and what was rounded."""
    spans = listed((start / SAMPLE_RATE, end / SAMPLE_RATE) for start, end in canvas.samples)
    asked, intro = -min(span.start for span in places), frames_to_seconds(canvas.offset_frames)
    rounded = f", asked for {asked:g} s: an intro is whole latent frames of 0.04 s" if abs(asked - intro) > 1e-9 else ""
    return (
        f"new: {spans} of {canvas.total / SAMPLE_RATE:g} s, {canvas.total} samples",
        f"the source begins at {intro:g} s{rounded}" if canvas.offset_frames else "",
    )


def held_line(settings: RepaintSettings, injected: int, steps: int) -> str:
    """The values that were used."""
    return (
        f"kept part put back after {injected} of {count_steps(steps)}, latent crossfade "
        f"{settings.latent_crossfade} frames, crossfade {settings.crossfade:g} s"
    )


def _hold() -> list[Any]:
    return [
        socket(
            io.Combo,
            "mode",
            options=list(MODES),
            default=BALANCED,
            tooltip="How tightly the new part is held to the rest. conservative: at every step, smoothest joins. "
            "aggressive: not at all, freest music. balanced: between, as strength says.",
        ),
        decimal(
            "strength",
            HALF,
            (0.0, 1.0, 0.01),
            "Only for mode balanced. 0: as held as conservative, 1: as free as aggressive.",
        ),
    ]


def _knobs() -> list[Any]:
    return [
        decimal(
            "injection",
            LEAST,
            (LEAST, 1.0, 0.01),
            "After which share of the steps the kept part is put back for the next one. -1: as the mode says.",
            advanced=True,
        ),
        socket(
            io.Int,
            "latent_crossfade",
            default=AUTO_NUMBER,
            min=AUTO_NUMBER,
            max=MAX_CROSSFADE_FRAMES,
            advanced=True,
            tooltip="Frames of 0.04 s on the kept side of each edge in which the latents mix. -1: as the mode says.",
        ),
        decimal(
            "crossfade",
            LEAST,
            (LEAST, MAX_CROSSFADE_SECONDS, 0.001),
            "Seconds on the kept side of each edge in which the sound mixes; 0 cuts hard and may click. -1: as the "
            "mode says.",
            advanced=True,
        ),
    ]
