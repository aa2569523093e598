"""EncodeSong: the way into ComfyUI's own samplers."""

from __future__ import annotations

from typing import Any

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.encode import ConditionerModels, encode_songs, song_frames
from ..acestep_models.units import frames_to_seconds
from .host.decoder import conditioning
from .host.latents import empty_latent
from .host.runtime import HostRuntime
from .host.schema import io, out, report, schema
from .plan import codes_line
from .widgets import blueprint_input, conditioner_input


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
            inputs=[conditioner_input(), blueprint_input()],
            outputs=[
                out(io.Conditioning, "positive", "What the song shall be."),
                out(io.Conditioning, "negative", "Nothing in particular: the opposite for guidance (cfg above 1)."),
                out(io.Latent, "latent", "An empty latent of the right length and batch."),
            ],
        )

    @classmethod
    def execute(cls, conditioner: ConditionerModels, blueprint: tuple[Blueprint, ...]) -> io.NodeOutput:
        """Encode every song once."""
        frames = song_frames(blueprint)
        batch = encode_songs(HostRuntime(), conditioner, blueprint, frames)
        positive, negative = conditioning(batch)
        latent: dict[str, Any] = empty_latent(len(blueprint), frames)
        text = f"{len(blueprint)} song(s) of {frames_to_seconds(frames):g} s, {batch.tokens.shape[1]} tokens"
        return io.NodeOutput(positive, negative, latent, ui=report(text, codes_line(blueprint)))
