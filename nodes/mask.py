"""SpanMask: which parts of a song a sampler makes anew."""

from __future__ import annotations

from typing import Any

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.mask import MAX_FEATHER, opened, span_mask
from ..acestep_models.pipelines.told import told
from ..acestep_models.units import frames_to_seconds
from .host.latents import latent_samples
from .host.schema import io, out, report, schema, socket
from .measure import listed, meter_blueprint_input, meter_inputs, read_spans, spans_inputs, spans_problem
from .widgets import decimal


class SpanMask(io.ComfyNode):
    """Node "ACEStepSpanMask"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Latents in; the same latents with a mask out."""
        return schema(
            node_id="ACEStepSpanMask",
            display_name="ACE-Step 1.5 Span Mask",
            description="Says which parts of a song are made anew, for DiTSample, KSampler and SamplerCustomAdvanced; "
            "the rest stays. ComfyUI's own Set Latent Noise Mask makes masks for pictures, which do not fit a song.",
            search_aliases=["noise mask", "set latent noise mask", "inpaint", "region"],
            inputs=[
                socket(io.Latent, "latent", tooltip="The song as latents, from DiTSample or another sampler."),
                *spans_inputs("The parts to make anew.", "2-6"),
                decimal(
                    "feather",
                    0.0,
                    (0.0, MAX_FEATHER, 0.04),
                    "Seconds before and after each span in which old and new mix. 0: a sharp edge.",
                ),
                *meter_inputs(),
                meter_blueprint_input(),
            ],
            outputs=[out(io.Latent, "latent", "The same latents with the mask, for a sampler.")],
        )

    @classmethod
    def validate_inputs(cls, spans: Any = None, unit: Any = None) -> bool | str:
        """Complain of a text that is no span before anything runs."""
        return spans_problem(spans, unit)

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        spans: str,
        unit: str,
        feather: float,
        bpm: float,
        time_signature: str,
        blueprint: tuple[Blueprint, ...] | None = None,
    ) -> io.NodeOutput:
        """The mask, one row a song, and where it is open."""
        samples = latent_samples(latent)
        frames = samples.shape[-1]
        songs = blueprint or told_songs(latent, frames)
        wanted = read_spans(spans, unit, (bpm, time_signature), songs, frames_to_seconds(frames))
        mask = span_mask(wanted, frames, feather).repeat(len(samples), 1, 1).to(samples.device)  # [B, 1, T]
        places = listed((span.start, span.end) for span in opened(wanted, frames))
        soft = f"feather: {feather:g} s" if feather else ""
        return io.NodeOutput({**latent, "noise_mask": mask}, ui=report(f"made anew: {places}", soft))


def told_songs(latent: dict[str, Any], frames: int) -> tuple[Blueprint, ...]:
    """The blueprints that latents of `frames` frames were made of; none where they say nothing that is true."""
    meta = told(latent.get("acestep"), frames)
    return meta.blueprints if meta else ()
