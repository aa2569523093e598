"""Retake and AdjustLatent: a song a little different, before it is sampled and after."""

from __future__ import annotations

from typing import Any

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.adjust import MAX_ADJUST_SHIFT, MAX_RESCALE, adjust
from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.pipelines.generate import Take
from ..acestep_models.pipelines.reference import Reference
from ..acestep_models.pipelines.retake import retake
from ..acestep_models.sampling.noise import Retake as Other
from ..acestep_models.sampling.schedule import SamplingOptions as Options
from .host.decoder import HostDecoder
from .host.latents import latent as latent_wire
from .host.latents import latent_samples
from .host.runtime import HostRuntime
from .host.schema import io, out, report, schema, socket
from .sample import describe_song, timbre_line
from .widgets import (
    blueprint_input,
    conditioner_input,
    decimal,
    model_input,
    reference_input,
    sampling_input,
    seed_socket,
)


class Retake(io.ComfyNode):
    """Node "ACEStepRetake"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What DiTSample takes, and another seed."""
        return schema(
            node_id="ACEStepRetake",
            display_name="ACE-Step 1.5 Retake",
            description="A variation of a song that you like: the same blueprint, with noise between that of two "
            "seeds.",
            search_aliases=["variation", "subseed", "variation seed", "another take"],
            inputs=[
                model_input(),
                conditioner_input(),
                blueprint_input(),
                seed_socket("seed", "The seed of the song that you like."),
                seed_socket(
                    "retake_seed",
                    "Another number, another variation; that of seed changes nothing. Song 2 of a batch takes "
                    "retake_seed + 1, and so on.",
                    after=True,
                    default=1,
                ),
                decimal(
                    "variance",
                    0.2,
                    (0.0, 1.0, 0.01),
                    "How far from the song. 0: the song itself, 1: the one of retake_seed; 0.1 to 0.4 is usual.",
                ),
                reference_input(),
                sampling_input(),
            ],
            outputs=[out(io.Latent, "latent", "The variation as latents, for DecodeAudio.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        conditioner: ConditionerModels,
        blueprint: tuple[Blueprint, ...],
        seed: int,
        retake_seed: int,
        variance: float,
        reference: Reference | None = None,
        sampling: Options | None = None,
    ) -> io.NodeOutput:
        """Turn the noise, sample, and say with what."""
        take, other = Take(blueprint, sampling or Options(), seed, reference=reference), Other(retake_seed, variance)
        song = retake(HostRuntime(), HostDecoder(model, seed), conditioner, take, other)
        turned = f"retake: variance {variance:g} towards seed {retake_seed}"
        text = (*describe_song(song.meta), turned, unchanged(song.meta.seeds, other), timbre_line(reference))
        return io.NodeOutput(latent_wire(song.latents, acestep=song.meta), ui=report(*text))


def unchanged(seeds: tuple[int, ...], other: Other) -> str:
    """Which songs of these seeds a retake leaves as they are, and why; nothing where all are turned."""
    if other.variance == 0.0:
        return "variance is 0: nothing changes"
    pairs = enumerate(zip(seeds, other.seeds(len(seeds)), strict=True), start=1)
    same = [f"song {i}" for i, (seed, to) in pairs if seed == to]
    where = f"{', '.join(same)}: " if len(same) < len(seeds) else ""
    return f"{where}retake_seed is the seed: nothing changes" if same else ""


class AdjustLatent(io.ComfyNode):
    """Node "ACEStepAdjustLatent"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Latents in, latents out."""
        return schema(
            node_id="ACEStepAdjustLatent",
            display_name="ACE-Step 1.5 Adjust Latent",
            description="Shifts and scales latents before they are decoded. Small changes alter colour and level; "
            "large ones destroy the sound.",
            search_aliases=["latent shift", "latent rescale", "latent multiply"],
            inputs=[
                socket(io.Latent, "latent", tooltip="The song as latents, from DiTSample or another sampler."),
                decimal(
                    "shift",
                    0.0,
                    (-MAX_ADJUST_SHIFT, MAX_ADJUST_SHIFT, 0.01),
                    "Added to every value, after rescale. 0 changes nothing.",
                ),
                decimal(
                    "rescale",
                    1.0,
                    (0.01, MAX_RESCALE, 0.01),
                    "Every value times this. 1 changes nothing; 0.9 to 1.1 is usual.",
                ),
            ],
            outputs=[out(io.Latent, "latent", "The changed latents, for DecodeAudio.")],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], shift: float, rescale: float) -> io.NodeOutput:
        """Every value times `rescale`, plus `shift`."""
        samples = latent_samples(latent)
        changed = adjust(samples, shift, rescale)
        text = f"latents x {rescale:g} + {shift:g}: spread {float(samples.std()):.3f} -> {float(changed.std()):.3f}"
        return io.NodeOutput({**latent, "samples": changed}, ui=report(text))
