"""DecodeAudio and Loudness: from latents to sound, and to a level."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..acestep_models.audio.loudness import LEVEL_RANGES, Levels, LevelSettings
from ..acestep_models.audio.splice import Splice
from ..acestep_models.pipelines.decode import check_song, decode
from ..acestep_models.pipelines.level import level
from ..acestep_models.runtime import Handle
from ..acestep_models.units import SAMPLE_RATE
from ..acestep_models.vae.compiled import vae_compiler
from .host.latents import audio, audio_parts, latent_samples
from .host.runtime import HostRuntime
from .host.schema import io, out, report, schema, socket
from .measure import listed
from .types import Splice as SpliceType
from .types import Vae
from .widgets import decimal, wire

UNSURE = "the latent does not say which song it is: the splice was checked by its length alone"


class DecodeAudio(io.ComfyNode):
    """Node "ACEStepDecodeAudio"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """VAE and latents in; sound out."""
        return schema(
            node_id="ACEStepDecodeAudio",
            display_name="ACE-Step 1.5 Decode Audio",
            description="Turns latents into 48 kHz stereo sound, in pieces that join without a seam, so that long "
            "songs need no more memory than short ones. The level is left as it is. With a splice, what was "
            "kept is the source bit for bit.",
            search_aliases=["vae decode audio", "latent to audio"],
            inputs=[
                socket(Vae, "vae", tooltip="From Load DiT."),
                socket(io.Latent, "latent", tooltip="The song as latents, from DiTSample or a KSampler."),
                socket(
                    SpliceType,
                    "splice",
                    optional=True,
                    tooltip="From the node that made the latent, Repaint or Extend: around the new spans the source "
                    "stays bit for bit, and so does its length. Not connected: all of it is decoded.",
                ),
            ],
            outputs=[out(io.Audio, "audio", "48 kHz stereo, exactly as long as the latents, or as the splice.")],
        )

    @classmethod
    def execute(cls, vae: Handle[Any], latent: dict[str, Any], splice: Splice | None = None) -> io.NodeOutput:
        """Decode, keep what a splice keeps, and report the peak."""
        samples = latent_samples(latent)
        sure = True
        if splice is not None:
            splice = wire("splice", splice, Splice, "Repaint or Extend")
            sure = check_song(splice, latent.get("acestep"), samples.shape[-1])
        wave = decode(HostRuntime(), vae, samples, splice)
        text = (*_describe(wave), *_kept(splice), "" if sure else UNSURE, _speed_line(vae))
        return io.NodeOutput(audio(wave), ui=report(*text))


def _speed_line(vae: Handle[Any]) -> str:
    """What is said of a VAE that a node wished compiled, where that did not work."""
    compiler = vae_compiler(vae)
    return f"speed up: the VAE was not compiled: {compiler.failed}" if compiler and compiler.failed else ""


def _kept(splice: Splice | None) -> tuple[str, ...]:
    """What a splice took from the source as it is."""
    if splice is None:
        return ()
    parts = listed(splice.kept, "{:.2f} to {:.2f} s")
    return (f"kept bit for bit: {parts or 'nothing, the spans and their crossfades cover all of it'}",)


def _describe(wave: Tensor) -> tuple[str, ...]:
    peaks = wave.abs().amax(dim=(1, 2)).tolist()
    over = [f"song {i + 1}" for i, peak in enumerate(peaks) if peak > 1.0]
    return (
        f"{wave.shape[0]} song(s) of {wave.shape[-1] / SAMPLE_RATE:g} s, {SAMPLE_RATE} Hz stereo",
        f"peak: {', '.join(decibels(peak) for peak in peaks)} dBFS",
        f"over full scale: {', '.join(over)}; saving would clip it, put a Loudness node behind" if over else "",
    )


def decibels(amplitude: float) -> str:
    """An amplitude in dB, where 1 is full scale."""
    return f"{20 * math.log10(amplitude):.1f}" if amplitude > 0 else "-inf"


class Loudness(io.ComfyNode):
    """Node "ACEStepLoudness"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sound in, sound at a level out."""
        return schema(
            node_id="ACEStepLoudness",
            display_name="ACE-Step 1.5 Loudness",
            description="Brings songs to one loudness as streaming services measure it (LUFS), keeps their peaks below "
            "a ceiling, and fades them in and out.",
            search_aliases=["normalize", "lufs", "limiter", "fade", "volume", "gain"],
            inputs=[
                socket(io.Audio, "audio", tooltip="Songs of any sample rate."),
                decimal(
                    "target",
                    -14.0,
                    (*LEVEL_RANGES["target_lufs"][:2], 0.5),
                    "Integrated loudness in LUFS (ITU-R BS.1770). Streaming services play at about -14.",
                ),
                decimal(
                    "ceiling",
                    -1.0,
                    (*LEVEL_RANGES["ceiling_db"][:2], 0.1),
                    "No true peak above this (dBTP). Loud targets are held back by it.",
                ),
                decimal("fade_in", 0.0, (*LEVEL_RANGES["fade_in"][:2], 0.1), "Seconds of fade at the start."),
                decimal("fade_out", 0.0, (*LEVEL_RANGES["fade_out"][:2], 0.1), "Seconds of fade at the end."),
            ],
            outputs=[out(io.Audio, "audio", "The same songs at the wanted level.")],
        )

    @classmethod
    def execute(
        cls, audio: dict[str, Any], target: float, ceiling: float, fade_in: float, fade_out: float
    ) -> io.NodeOutput:
        """Level, then fade, song by song."""
        wave, rate = audio_parts(audio)
        settings = LevelSettings(target, ceiling, fade_in, fade_out)
        result = level(HostRuntime(), wave, rate, settings)
        text = (_change(i + 1, was, now) for i, (was, now) in enumerate(zip(result.before, result.after, strict=True)))
        return io.NodeOutput({**audio, "waveform": result.wave}, ui=report(*text))


def _change(song: int, was: Levels, now: Levels) -> str:
    return (
        f"song {song}: {was.lufs:.1f} LUFS, peak {was.true_peak:.1f} dBTP -> "
        f"{now.lufs:.1f} LUFS, peak {now.true_peak:.1f} dBTP"
    )
